"""Whole runs with a tracker: its curves, the same bits as without, faults, secrets."""

import errno
import importlib.util
import json
import signal

import pytest

from orca_cli import storage
from orca_cli.runs.tracking.services import Curves
from tests.cli.conftest import results, run_folders, wait_for

SAME = ("weights_sha256", "error", "validation_error", "metric_value", "identity")
needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="the extra tensorboard is not installed"
)
QUICK = ["metric=none", "train.epochs=2"]


def read(run):
    """Return TensorBoard's own reader of a run, after a check that it has the numbers of both curves at their epochs."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tracker"), size_guidance={"scalars": 0})
    events.Reload()
    for stage, folder in (("align", "2_align"), ("finetune", "3_finetune")):
        lines = storage.read_json_lines(run / folder / "metrics.jsonl")
        assert lines
        for name in {name for line in lines for name in line} - {"epoch", "seconds"}:
            points = {event.step: event.value for event in events.Scalars(f"{stage}/{name}")}
            known = {line["epoch"]: line[name] for line in lines if line.get(name) is not None}
            assert points == pytest.approx(known, rel=1e-6)
    return events


@needs_tensorboard
def test_tensorboard_has_both_curves_and_the_result_and_changes_no_bit(orca, completed, environment, small):
    code, _, err = orca("run", *small, "tracker=tensorboard")
    assert (code, "already completed" in err) == (0, True)  # a tracker does not make another run
    code, _, err = orca("run", *small, "tracker=tensorboard", "--force")
    assert code == 0, err
    assert "tracker" not in err
    first, second = results(environment)
    assert {key: first[key] for key in SAME} == {key: second[key] for key in SAME}
    assert second["variant"] == first["variant"]
    run = run_folders(environment)[-1]
    (error,) = read(run).Scalars("final/test_error")
    assert error.value == pytest.approx(second["error"]["value"])
    assert not [name for name in json.loads((run / "MANIFEST.json").read_text())["files"] if "tracker" in name]
    next((run / "tracker").iterdir()).write_bytes(b"")
    assert orca("doctor", str(run))[0] == 0  # it is not the run's truth


@needs_tensorboard
def test_a_killed_run_goes_on_in_the_same_curves(orca, fork, environment, small, tmp_path):
    words = ["train.checkpoint_s=0", "train.epochs=4", "tracker=tensorboard", f"paths.cache={tmp_path / 'cold'}"]
    process = fork("run", *small, *words)
    wait_for(environment, "digits/*/3_finetune/checkpoints/step-00000009", process)
    process.send(signal.SIGKILL)
    process.wait()
    code, _, err = orca("run", *small, *words)
    assert code == 0, err
    assert "resumed at step" in err
    (run,) = run_folders(environment)
    read(run)


def fails_at(place, monkeypatch):
    """Make a tracker fail as on a full disk, or not be there."""
    if place == "import":
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *more: None if name == "tensorboard" else find(name)
        )
        return "pip install 'orca-transfer[tensorboard]'"

    def broken(*arguments, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Curves, place, broken)
    return "No space left on device"


@needs_tensorboard
def test_a_failing_tracker_is_one_warning_and_the_same_bits(orca, environment, small, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    code, _, err = orca("run", *small, *QUICK)
    assert code == 0, err
    for place in ("import", "record", "ended"):
        with pytest.MonkeyPatch.context() as patch:
            what = fails_at(place, patch)
            code, _, err = orca("run", *small, *QUICK, "tracker=tensorboard", "--force")
        assert code == 0, err
        (warning,) = [line for line in err.splitlines() if "tracker tensorboard" in line]
        assert what in warning
        assert "the run goes on without it" in warning
        assert "Traceback" not in err
    first, *others = results(environment)
    assert len(others) == 3
    for other in others:
        assert {key: first[key] for key in SAME} == {key: other[key] for key in SAME}
    files = [file for file in environment.rglob("*") if file.is_file()]
    assert not [file for file in files if b"k" * 40 in file.read_bytes()]


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["tracker=wandb", "tracker.api_key=hunter2"], "tracker.api_key"),
        (["tracker=wandb", "+tracker.api_key=hunter2"], "tracker.api_key"),
        (["tracker=mlflow", "tracker.uri='https://me:hunter2@host'"], "tracker.uri"),
        (["+tracker.inner={MY_TOKEN: hunter2}"], "tracker.inner.MY_TOKEN"),
        (["+tracker.list=[hf_hunter2aaaaaaaaaaaaaaaa]"], "tracker.list.0"),
    ],
)
def test_a_secret_in_the_settings_is_refused_before_anything_is_written(orca, environment, small, words, where):
    code, out, err = orca("run", *small, *words)
    assert code == 10
    assert f"orca: error: {where}: " in err
    assert "environment variable" in err
    assert "hunter2" not in out + err
    assert not environment.exists() or not list(environment.rglob("*.yaml"))
