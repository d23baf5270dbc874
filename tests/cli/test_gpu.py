"""A whole run on a GPU agrees with the one on the CPU as far as rounding lets it."""

import json

import pytest
import torch

from tests.cli.conftest import results
from tests.scaled import break_loss

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_on_a_gpu(orca, environment, small, precision):
    assert orca("run", *small, "device=cpu")[0] == 0
    code, _, err = orca("run", *small, "device=cuda", f"precision={precision}", "--force")
    assert code == 0, err
    cpu, gpu = results(environment)
    assert gpu["metric_value"]["before"] == pytest.approx(cpu["metric_value"]["before"], rel=1e-2)
    assert abs(gpu["error"]["value"] - cpu["error"]["value"]) < 0.2


def test_the_scale_of_gradients_is_gone_on_from(orca, environment, small, monkeypatch):
    """fp16: checkpoints hold the gradient scaler's state, and a resumed run loads it."""
    words = ["run", *small, "metric=none", "device=cuda", "precision=fp16", "train.checkpoint_s=0"]
    loaded = []
    with monkeypatch.context() as patch:
        break_loss(patch, 6)
        assert orca(*words)[0] == 32
    (saved,) = environment.glob("*/*/3_finetune/checkpoints/step-00000005/trainer.json")
    scaler = json.loads(saved.read_text())["scaler"]
    assert scaler["scale"] > 0
    load = torch.amp.GradScaler.load_state_dict
    monkeypatch.setattr(
        torch.amp.GradScaler, "load_state_dict", lambda self, state: (loaded.append(state), load(self, state))[1]
    )
    code, _, err = orca(*words)
    assert code == 0, err
    assert loaded[-1] == scaler
