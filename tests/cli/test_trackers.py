"""Whole runs with a tracker: its curves, the same bits as without, secrets. Faults of trackers are in tests/tracking."""

import importlib.util
import json

import pytest

from tests.cli.conftest import curve, results, run_folders

SAME = ("weights_sha256", "error", "validation_error", "metric_value", "identity")


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="the extra tensorboard is not installed")
def test_tensorboard_has_both_curves_and_the_result_and_changes_no_bit(orca, completed, environment, small):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code, _, err = orca("run", *small, "tracker=tensorboard")
    assert (code, "already completed" in err) == (0, True)  # a tracker does not make another run
    code, _, err = orca("run", *small, "tracker=tensorboard", "--force")
    assert code == 0, err
    assert "tracker" not in err
    first, second = results(environment)
    assert {key: first[key] for key in SAME} == {key: second[key] for key in SAME}
    assert second["variant"] == first["variant"]
    run = run_folders(environment)[-1]
    events = EventAccumulator(str(run / "tracker"), size_guidance={"scalars": 0})
    events.Reload()
    for stage, folder in (("align", "2_align"), ("finetune", "3_finetune")):
        lines = curve(run, folder)
        for name in {name for line in lines for name in line} - {"epoch", "seconds"}:
            points = {event.step: event.value for event in events.Scalars(f"{stage}/{name}")}
            known = {line["epoch"]: line[name] for line in lines if line.get(name) is not None}
            assert points == pytest.approx(known, rel=1e-6)
    (error,) = events.Scalars("final/test_error")
    assert error.value == pytest.approx(second["error"]["value"])
    assert not [name for name in json.loads((run / "MANIFEST.json").read_text())["files"] if "tracker" in name]
    next((run / "tracker").iterdir()).write_bytes(b"")
    assert orca("doctor", str(run))[0] == 0  # it is not the run's truth


def test_a_secret_in_the_settings_is_refused_before_anything_is_written(orca, environment, small):
    for words, where in {
        "tracker=wandb tracker.api_key=hunter2": "tracker.api_key",
        "tracker=mlflow tracker.uri='https://me:hunter2@host'": "tracker.uri",
        "+tracker.inner={MY_TOKEN:hunter2}": "tracker.inner.MY_TOKEN",
        "+tracker.list=[hf_hunter2aaaaaaaaaaaaaaaa]": "tracker.list.0",
    }.items():
        code, out, err = orca("run", *small, *words.split())
        assert code == 10
        assert f"orca: error: {where}: " in err
        assert "environment variable" in err
        assert "hunter2" not in out + err
    assert not environment.exists() or not list(environment.rglob("*.yaml"))
