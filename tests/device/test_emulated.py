"""The emulated device keeps apart what CUDA keeps apart, computes what the CPU computes, and counts what a host waits for."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.device.emulated import DEVICE, counted

X = torch.arange(6.0).view(2, 3)
TOGETHER = "expected all tensors to be on the same device"


@pytest.fixture
def x(device):
    return X.to(device)


@pytest.mark.parametrize(
    "meet",
    [
        lambda x: x + X,
        lambda x: X - x,
        lambda x: torch.where(x > 0, x, X),
        lambda x: torch.cat([x, X]),
        lambda x: torch.stack([x.sum(), X.sum()]),
        lambda x: x @ X.T,
        lambda x: nn.functional.linear(x, X),
        lambda x: nn.functional.cross_entropy(x, torch.tensor([0, 1])),
        lambda x: X[x > 0],
        lambda x: X[x.long()[0, :1]],
        lambda x: x.index_select(0, torch.tensor([0])),
        lambda x: x.gather(1, torch.tensor([[0]])),
        lambda x: x.index_put_((torch.tensor([0]),), X[0]),
        lambda x: X.sum().add_(x.sum()),
        lambda x: torch.add(x, x, out=X.clone()),
        lambda x: x.scatter_(1, torch.tensor([[0], [0]]), 1.0),
        lambda x: nn.LayerNorm(3)(x),
    ],
)
def test_tensors_of_two_devices_do_not_meet(x, meet):
    with pytest.raises(RuntimeError, match=TOGETHER):
        meet(x)


def test_what_cuda_allows_gives_what_the_cpu_gives(x):
    two = torch.tensor(2.0)
    for compute in (
        lambda x: x * two,
        lambda x: two - x,
        lambda x: torch.where(x > 2, x, two),
        lambda x: x[torch.tensor([1, 0])],
        lambda x: x[X[:, 0] > 0],
        lambda x: x.masked_fill(x > 2, two),
        lambda x: x.T.contiguous().view(-1),
        lambda x: torch.zeros_like(x).index_put_((torch.tensor([1]),), two),
        lambda x: x.new_tensor([1.0, 2.0]) + torch.ones(2, device=x.device) + torch.arange(2, device=x.device),
        lambda x: torch.tensor([[1.0]], device=x.device) * x,
        lambda x: torch.linalg.eigh(x.T @ x)[0],
        lambda x: torch.split(x, 1)[1],
    ):
        result = compute(x)
        assert result.device == DEVICE
        assert torch.equal(result.cpu(), compute(X))


def test_what_only_the_cpu_has_is_refused(x):
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(x)
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, generator=torch.Generator(), device=DEVICE)
    with pytest.raises(NotImplementedError, match="memory"):
        x.data = X.to(DEVICE)


def test_what_the_host_waits_for_is_counted(x):
    reads = [
        lambda: x.sum().item(), lambda: float(x[0, 0]), lambda: bool((x > 0).all()), lambda: x.tolist(), lambda: x.cpu(),
        lambda: x[x > 0], lambda: x.nonzero(), lambda: torch.unique(x), lambda: torch.equal(x, x),
        lambda: torch.zeros(2, 3).copy_(x), lambda: torch.bincount(x.long().view(-1)), lambda: x.to("cpu", torch.float64),
    ]  # fmt: skip
    for read in reads:
        with counted() as transfers:
            read()
        assert (sum(transfers.reads.values()), sum(transfers.writes.values())) == (1, 0)
    for write in (lambda: X.to(DEVICE), lambda: torch.tensor([1.0], device=DEVICE), lambda: x[torch.tensor([0])]):
        with counted() as transfers:
            write()
        assert (sum(transfers.reads.values()), sum(transfers.writes.values())) == (0, 1)
    with counted() as transfers:
        (x * 2).sum().add(1).exp()
        X.to(DEVICE, non_blocking=True)
        torch.zeros(3, device=DEVICE)
    assert not transfers.reads
    assert not transfers.writes


def test_the_device_is_gone_afterwards():
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.zeros(3, device=DEVICE)
