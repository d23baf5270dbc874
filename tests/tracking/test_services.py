"""The lines, settings and errors that trackers get.

W&B without a connection, and MLflow in a local database, where they are installed.
"""

import importlib.util
from types import SimpleNamespace

import pytest
from accelerate import PartialState

from orca_cli.runs.directory import RunDirectory
from orca_cli.runs.tracking import services

SECRET = "k" * 40
LINES = [
    {"epoch": epoch, "train_loss": 1 / epoch, "validation_error": None} for epoch in range(1, 5)
]
# A resumed run passes all lines again.
POINTS = [(epoch, 1 / epoch) for epoch in (1, 2, 3, 1, 2, 3, 3, 4)]
SETTINGS = {
    "train.lr": 0.5,
    "train.clip": None,
    "seed": 3,
    "task.text": "x" * 600,
    "paths.runs": "/home/me",
}
RESULT = {
    "error": {"value": 0.25, "others": {"F1 (macro)": 0.5, "undefined": None}},
    "validation_error": None,
    "metric_value": {"before": 2.0, "after": 1.0},
}


def needs(package):
    absent = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(absent, reason=f"the extra {package} is not installed")


@pytest.fixture(autouse=True)
def folder(tmp_path):
    PartialState(cpu=True)
    path = tmp_path / "a-run" / "tracker"
    path.mkdir(parents=True)
    return path


def killed_and_resumed(make, path):
    """Pass four lines in two attempts: the first got to three, and its checkpoint had two."""
    align = [{"epoch": 0, "loss": 2.0}]
    run = RunDirectory(path, None)
    run.trackers.append(make())
    run.rewind("align", [])
    run.rewind("finetune", [])
    run.rewind("align", align)
    for line in LINES[:3]:
        run.record("finetune", line)
    run.ended("interrupted", {})
    again = RunDirectory(path, None)
    again.trackers.append(make())
    again.show("align", align)
    again.show("finetune", LINES[:3])
    again.rewind("align", align)
    again.rewind("finetune", LINES[:2])
    for line in LINES[2:]:
        again.record("finetune", line)
    again.ended("completed", RESULT)


def test_lines_and_the_result_become_numbers():
    """The names have only characters that all services accept."""
    calls = []
    ends = []
    # In place of one of accelerate's trackers.
    noted = SimpleNamespace(log=lambda numbers, step=None: calls.append((numbers, step)))
    curves = services.Curves(noted, ends.append)
    curves.record("finetune", {"epoch": 1, "member": 1, "lr": 0.1})
    curves.record(
        "finetune", {"epoch": 3, "step": 12, "validation_error": None, "note": "x", "done": True}
    )
    curves.ended("completed", RESULT)
    services.Curves(noted, ends.append, has_steps=False).record("align", {"epoch": 2, "loss": 1.5})
    errors = {"final/test_error": 0.25, "final/test_F1 _macro_": 0.5}
    distances = {"final/distance_before": 2.0, "final/distance_after": 1.0}
    assert calls == [
        ({"finetune/member_1/lr": 0.1}, 1),
        ({"finetune/step": 12}, 3),
        (errors | distances, None),
        ({"align/loss": 1.5, "align/epoch": 2}, None),
    ]
    assert ends == ["completed"]


@needs("mlflow")
def test_mlflow_goes_on_in_the_same_run(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    killed_and_resumed(lambda: services.mlflow("a-run", tmp_path, SETTINGS), tmp_path / "a-run")
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("orca").experiment_id])
    assert (run.info.run_name, run.info.status) == ("a-run", "FINISHED")
    assert run.data.params == {
        "train.lr": "0.5",
        "train.clip": "None",
        "seed": "3",
        "task.text": "x" * 500,
    }
    history = client.get_metric_history(run.info.run_id, "finetune/train_loss")
    assert [(point.step, point.value) for point in history] == POINTS
    assert run.data.metrics["final/test_error"] == 0.25


@needs("wandb")
def test_wandb_offline_has_one_id_and_no_key(folder, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    killed_and_resumed(lambda: services.wandb("a-run", folder, SETTINGS), folder.parent)
    files = list(folder.rglob("*.wandb"))
    assert len({file.name for file in files}) == 1  # the id of the run
    content = b"".join(file.read_bytes() for file in files)
    names = (b"finetune/train_loss", b"finetune/epoch", b"final/test_error", b"train.lr")
    assert all(name in content for name in names)
    assert b"/home/me" not in content
    assert not [
        file
        for file in folder.rglob("*")
        if file.is_file() and SECRET.encode() in file.read_bytes()
    ]
