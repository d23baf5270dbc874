"""The loss of stage 3: every loss that may be named suits some targets; others are refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from orca_cli.config import parts
from orca_cli.config.schema import Config
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.stages.task_loss import make_loss

# Kind -> targets of four samples with two outputs.
TARGETS = {
    "classes": np.array([0, 1, 1, 0]),
    "labels": np.array([[0, 1], [1, 1], [0, 0], [1, 0]], np.float32),
    "values": np.array([[0.5, -1], [2, 1], [0, 3], [1, 1]], np.float32),
    "dense": np.ones((4, 2, 5), np.float32),
    "dense classes": np.array([[0, 1, 0, 0, 1]] * 4),
}


def made(kind, node, num_outputs=2):
    """Return the loss of a task with targets of a kind."""
    samples = SimpleNamespace(targets=lambda: TARGETS[kind])
    task = SimpleNamespace(kind=kind.split()[0], train=samples, num_outputs=num_outputs)
    return make_loss(Config(task={"loss": node}), task)


def suits(kind, target):
    """Return whether a loss takes targets of a kind, and is a finite number for outputs of 0.5."""
    try:
        loss = made(kind, {"_target_": target})
    except (ConfigError, DataError):
        return False
    y = torch.from_numpy(TARGETS[kind])
    extent = y.shape[2:] if y.is_floating_point() else y.shape[1:]
    value = loss(torch.full((4, 2, *extent), 0.5), y)
    return value.shape == () and bool(value.isfinite())


@pytest.mark.parametrize("target", sorted(parts.admitted("task.loss")))
def test_every_loss_that_may_be_named_suits_some_targets(target):
    assert any(suits(kind, target) for kind in TARGETS)


def test_a_loss_that_would_broadcast_is_refused_for_one_output():
    """Torch only warns: outputs (B, 1) against classes (B,) would be B x B differences."""
    assert not suits("classes", "torch.nn.MSELoss")
    with pytest.raises(ConfigError, match="MSELoss does not accept .* target size"):
        made("classes", {"_target_": "torch.nn.MSELoss"}, num_outputs=1)


@pytest.mark.parametrize(
    ("kind", "target", "settings", "message"),
    [
        ("classes", "torch.nn.CrossEntropyLoss", {"reduction": "none"}, "one number with a gradient"),
        ("classes", "torch.nn.CrossEntropyLoss", {"reduction": "all"}, "is not a valid value"),
        ("classes", "torch.nn.MSELoss", {}, "MSELoss does not accept this task's outputs"),
        ("values", "torch.nn.NLLLoss", {}, "NLLLoss does not accept this task's outputs"),
    ],
)  # fmt: skip
def test_a_loss_that_does_not_suit_is_refused(kind, target, settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        made(kind, {"_target_": target, **settings})
    assert caught.value.hint


@pytest.mark.parametrize(
    "value", ["None", "outputs.sum().detach()", "(outputs - 1).mean(0)", "1.0"]
)
def test_a_function_of_the_users_own_has_to_return_a_loss(value, tmp_path, monkeypatch):
    name = f"loss_of_a_user_{abs(hash(value))}"
    (tmp_path / f"{name}.py").write_text(
        f"def make():\n    return lambda outputs, targets: {value}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    parts.allow_module(name)
    with pytest.raises(ConfigError, match="function does not return one number with a gradient"):
        made("values", {"_target_": f"{name}.make"})
