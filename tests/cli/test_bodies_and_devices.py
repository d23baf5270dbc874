"""Whole runs on audio bodies, on a GPU, and long ones, in which the generated tasks are learned."""

import numpy as np
import pytest
import torch

from tests.checkpoints import save_tiny, save_tiny_bert
from tests.cli.conftest import results

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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_on_a_gpu_agrees_with_the_one_on_the_cpu(orca, environment, small, precision):
    assert orca("run", *small, "device=cpu")[0] == 0
    code, _, err = orca("run", *small, "device=cuda", f"precision={precision}", "--force")
    assert code == 0, err
    cpu, gpu = results(environment)
    assert gpu["metric_value"]["before"] == pytest.approx(cpu["metric_value"]["before"], rel=1e-2)
    assert abs(gpu["error"]["value"] - cpu["error"]["value"]) < 0.2


LONG = ["align.epochs=5", "align.source_points=500", "train.lr=2e-3"]


@pytest.mark.slow
def test_darcy_is_learned(run, orca, tiny):
    sizes = ["task.num_train=150", "task.nodes=61", "source=digits", "train.epochs=20", *LONG]
    result = run("task=darcy", f"body.checkpoint={tiny['swin']}", *sizes).result
    assert result["synthetic"]
    assert result["error"]["value"] < 0.75 * result["trivial_error"]
    assert "synthetic" in orca("report")[1]


@pytest.mark.slow
def test_listops_is_learned(run, tmp_path):
    body = save_tiny_bert(tmp_path / "body", max_position_embeddings=512)
    sizes = ["task.num_train=1500", "task.max_length=60", "source.size=400", "train.epochs=12", *LONG]
    result = run("task=listops", f"body.checkpoint={body}", *sizes).result
    assert result["error"]["value"] < 0.9 * result["trivial_error"]
