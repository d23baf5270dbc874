"""Whole runs on audio bodies: aligned with generated sounds and with recordings of one's own."""

import numpy as np
import pytest

from tests.checkpoints import save_tiny

BRIEF = ["task=digits", "task.train_size=40", "task.validation_size=40", "task.test_size=40", "source.size=40"]
BRIEF += ["align.epochs=2", "align.source_points=200", "train.epochs=1", "train.warmup_epochs=0"]


@pytest.mark.parametrize(("body", "layout"), [("wav2vec2", "sequence"), ("ast", "image")])
def test_a_run_is_aligned_with_generated_sounds(run, tmp_path, body, layout):
    words = [*BRIEF, f"body={body}", f"body.checkpoint={save_tiny(body, tmp_path / body)}", f"task.layout={layout}"]
    result = run(*words, "source.seconds=0.2").result
    assert (result["body"], result["source"], result["state"]) == (body, "tones", "completed")
    assert result["metric_value"]["before"] != result["metric_value"]["after"]
    assert result["error"]["n"] == 40


def test_recordings_of_ones_own(run, refused, tmp_path):
    """The family from the checkpoint; a file that would execute code is refused."""
    words = [*BRIEF, "body=auto", f"body.checkpoint={save_tiny('hubert', tmp_path / 'hubert')}", "source=recordings"]
    words += [f"source.path={tmp_path / 'own.npz'}", "source.rate=8000"]
    x, y = np.array([{}] * 40, dtype=object), np.array(["owl", "cat"] * 20)
    np.savez(tmp_path / "own.npz", x=x, y=y)
    refused(12, ["run", *words], "own.npz[x]: an array of Python objects")
    x = np.random.default_rng(0).integers(-(2**15), 2**15, (40, 800), dtype=np.int16)
    np.savez(tmp_path / "own.npz", x=x, y=y)
    assert run(*words).result["state"] == "completed"
