"""Whole runs on audio bodies: aligned with generated sounds and with recordings of one's own."""

import json

import numpy as np
import pytest

from tests.checkpoints import save_tiny

BRIEF = ["task=digits", "task.train_size=40", "task.validation_size=40", "task.test_size=40", "source.size=40"]
BRIEF += ["align.epochs=2", "align.select=last", "align.source_points=200", "train.epochs=1", "train.warmup_epochs=0"]


@pytest.mark.parametrize(("body", "layout"), [("wav2vec2", "sequence"), ("ast", "image")])
def test_a_run_is_aligned_with_generated_sounds(orca, environment, tmp_path, body, layout):
    words = [*BRIEF, f"body={body}", f"body.checkpoint={save_tiny(body, tmp_path / body)}", f"task.layout={layout}"]
    code, _, error = orca("run", *words, "source.seconds=0.2")
    assert code == 0, error
    result = json.loads(next(environment.rglob("result.json")).read_text())
    assert (result["body"], result["source"], result["state"]) == (body, "tones", "completed")
    assert result["metric_value"]["before"] != result["metric_value"]["after"]
    assert result["error"]["n"] == 40


def test_recordings_of_ones_own_and_what_does_not_fit(orca, environment, tmp_path):
    """The family from the checkpoint; a source of texts, and a file that would execute code, are refused in a line."""
    words = [*BRIEF, "body=auto", f"body.checkpoint={save_tiny('hubert', tmp_path / 'hubert')}"]
    code, _, error = orca("run", *words)
    assert code == 10
    assert "made of texts and the body takes sounds" in error
    assert "tones for audio bodies" in error
    sounds = np.random.default_rng(0).integers(-(2**15), 2**15, (40, 800), dtype=np.int16)
    y = np.array(["owl", "cat"] * 20)
    np.savez(tmp_path / "bad.npz", x=np.array([{}] * 40, dtype=object), y=y)
    code, _, error = orca("run", *words, "source=recordings", f"source.path={tmp_path / 'bad.npz'}")
    assert code == 12
    assert "bad.npz[x]: an array of Python objects" in error
    assert "Traceback" not in error
    np.savez(tmp_path / "own.npz", x=sounds, y=y)
    code, _, error = orca("run", *words, "source=recordings", f"source.path={tmp_path / 'own.npz'}", "source.rate=8000")
    assert code == 0, error
    assert [path for path in environment.rglob("result.json") if json.loads(path.read_text())["state"] == "completed"]
