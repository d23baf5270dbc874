"""What `precision=auto` resolves to, and what half precision is used for."""

from types import SimpleNamespace

import pytest
import torch

from orca_cli.exceptions import UnavailableError
from orca_cli.models.assembly import build_model
from orca_cli.models.bodies import text
from orca_cli.stages import align
from orca_cli.training import engine as engines
from orca_cli.training.engine import Engine, choose_device, choose_precision
from tests.checkpoints import save_tiny_bert

CPU = torch.device("cpu")


def test_auto_is_bf16_where_the_device_has_it_and_on_a_processor_where_the_body_is_wide(monkeypatch):
    for has in (True, False):
        monkeypatch.setattr(engines, "_cpu_computes_bf16", lambda has=has: has)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        best = "bf16" if has else "fp32"
        assert [choose_precision("auto", CPU, width) for width in (384, 32)] == [best, "fp32"]
        assert choose_precision("auto", torch.device("cuda"), 32) == best
        assert [choose_precision(typed, CPU, 32) for typed in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert choose_precision("auto", torch.device("mps"), 768) == "fp32"


def test_half_precision_is_for_the_body_alone(tmp_path):
    body = text.load(str(save_tiny_bert(tmp_path)))
    model = build_model(body=body, kind="dense", input_shape=(1, 12), num_outputs=2, seed=0).eval()
    seen = {}

    def note(name):
        return lambda module, inputs, result: seen.update({name: getattr(result, "x", result).dtype})

    model.embedder.register_forward_hook(note("embedder"))
    model.predictor.register_forward_hook(note("predictor"))
    (linear,) = (body.get_submodule(name) for name in body.linear_names("query")[:1])
    linear.register_forward_hook(note("body"))
    x = torch.linspace(1000, 1001, 36).reshape(3, 1, 12)  # one number in bfloat16
    full = model(x)
    assert set(seen.values()) == {torch.float32}
    with Engine(CPU, "bf16").autocast():
        half = model(x)
    assert seen == {"embedder": torch.float32, "body": torch.bfloat16, "predictor": torch.float32}
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.02)
    assert (half != half.bfloat16()).float().mean() > 0.9


def test_mps_is_for_those_who_type_it_and_aligns_nothing(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [choose_device(device).type for device in ("auto", "mps")] == ["cpu", "mps"]
    engine = SimpleNamespace(device=torch.device("mps"))
    with pytest.raises(UnavailableError, match="mps has no float64; use device=cpu, or metric=none"):
        align.trained(None, engine, None, None)
