"""W&B without a connection and MLflow in a local database, where the packages are installed."""

import importlib.util
import json
import struct

import pytest
from accelerate import PartialState

SECRET = "k" * 40
LINES = [{"epoch": epoch, "train_loss": 1 / epoch} for epoch in range(1, 5)]
SETTINGS = {"train": {"lr": 0.5, "clip": None}, "seed": 3}
RESULT = {"error": {"value": 0.25, "others": {"F1 (macro)": 0.5}}}


def needs(package):
    absent = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(absent, reason=f"the extra {package} is not installed")


def killed_and_resumed(make):
    """Send four lines in two attempts, of which the first had three and its checkpoint two."""
    first = make()
    first.rewind("align", [{"epoch": 0, "loss": 2.0}])
    for line in LINES[:3]:
        first.record("finetune", line)
    first.ended("interrupted", {})
    second = make()
    second.rewind("align", [{"epoch": 0, "loss": 2.0}])
    second.rewind("finetune", LINES[:3])
    second.rewind("finetune", LINES[:2])
    for line in LINES[2:]:
        second.record("finetune", line)
    second.ended("completed", RESULT)


@needs("mlflow")
def test_mlflow_goes_on_in_the_same_run_without_a_step_twice(tmp_path, monkeypatch):
    from orca_cli.tracking.mlflow import MLflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "tracker").mkdir()
    PartialState(cpu=True)
    killed_and_resumed(lambda: MLflow("a-run", tmp_path / "tracker", tmp_path, SETTINGS))
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("orca").experiment_id])
    assert (run.info.run_name, run.info.status) == ("a-run", "FINISHED")
    assert run.data.params == {"train.lr": "0.5", "train.clip": "null", "seed": "3"}
    history = client.get_metric_history(run.info.run_id, "finetune/train_loss")
    assert [(point.step, point.value) for point in history] == [(line["epoch"], line["train_loss"]) for line in LINES]
    assert run.data.metrics["final/test_error"] == 0.25


def records(file):
    """Return the records of a .wandb file: LevelDB's log format behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


@needs("wandb")
def test_wandb_offline_has_one_id_no_step_twice_and_no_key(tmp_path, monkeypatch):
    from orca_cli.tracking.wandb import WeightsAndBiases

    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    (tmp_path / "tracker").mkdir()
    PartialState(cpu=True)
    killed_and_resumed(lambda: WeightsAndBiases("a-run", tmp_path / "tracker", SETTINGS))
    files = sorted(tmp_path.rglob("*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    assert len({file.name for file in files}) == 1  # the id of the run
    points, config = [], {}
    for record in (record for file in files for record in records(file)):
        values = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        if "finetune/train_loss" in values:
            points.append((values["finetune/epoch"], values["finetune/train_loss"]))
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        config |= {item.key: json.loads(item.value_json) for item in record.config.update}
    assert points == [(line["epoch"], line["train_loss"]) for line in LINES]
    assert config["train.lr"] == 0.5
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]


@needs("wandb")
def test_wandb_online_without_a_key_is_refused_and_does_not_ask(tmp_path, monkeypatch):
    from orca_cli.exceptions import UnavailableError
    from orca_cli.tracking.wandb import WeightsAndBiases

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UnavailableError, match="tracker.mode: online needs .* WANDB_API_KEY"):
        WeightsAndBiases("a-run", tmp_path, SETTINGS, mode="online")
