"""The emulated device keeps apart what CUDA keeps apart, computes what the CPU computes, and counts what a host waits for."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.device.emulated import DEVICE, counted

X = torch.arange(6.0).view(2, 3)
TWO = torch.tensor(2.0)


@pytest.fixture
def x(device):
    return X.to(device)


def test_tensors_of_two_devices_do_not_meet(x):
    for meet in (
        lambda: x + X,
        lambda: torch.where(x > 0, x, X),
        lambda: torch.cat([x, X]),
        lambda: torch.stack([x.sum(), X.sum()]),
        lambda: nn.functional.cross_entropy(x, torch.tensor([0, 1])),
        lambda: X[x > 0],
        lambda: x.gather(1, torch.tensor([[0]])),
        lambda: x.index_put_((torch.tensor([0]),), X[0]),
        lambda: X.sum().add_(x.sum()),
        lambda: torch.add(x, x, out=X.clone()),
        lambda: nn.LayerNorm(3)(x),
    ):
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            meet()
    for refused in (x.numpy, lambda: np.asarray(x)):
        with pytest.raises(TypeError, match="numpy"):
            refused()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, generator=torch.Generator(), device=DEVICE)


def test_what_cuda_allows_gives_what_the_cpu_gives(x):
    for compute in (
        lambda x: TWO - x * TWO,
        lambda x: torch.where(x > 2, x, TWO),
        lambda x: x[torch.tensor([1, 0])],
        lambda x: x.masked_fill(x > 2, TWO).T.contiguous().view(-1),
        lambda x: torch.zeros_like(x).index_put_((torch.tensor([1]),), TWO),
        lambda x: x.new_tensor([1.0, 2.0]) + torch.ones(2, device=x.device) + torch.arange(2, device=x.device),
        lambda x: torch.linalg.eigh(x.T @ x)[0],
        lambda x: torch.split(x, 1)[1],
    ):
        result = compute(x)
        assert result.device == DEVICE
        assert torch.equal(result.cpu(), compute(X))


def test_what_the_host_waits_for_is_counted(x):
    reads = [
        lambda: x.sum().item(), lambda: bool((x > 0).all()), lambda: x.tolist(), lambda: x.cpu(), lambda: x[x > 0],
        lambda: torch.unique(x), lambda: torch.equal(x, x), lambda: torch.zeros(2, 3).copy_(x),
    ]  # fmt: skip
    writes = [lambda: X.to(DEVICE), lambda: torch.tensor([1.0], device=DEVICE), lambda: x[torch.tensor([0])]]
    neither = [
        lambda: (x * 2).sum().exp(),
        lambda: X.to(DEVICE, non_blocking=True),
        lambda: torch.zeros(3, device=DEVICE),
    ]
    for calls, expected in ((reads, (1, 0)), (writes, (0, 1)), (neither, (0, 0))):
        for call in calls:
            with counted() as transfers:
                call()
            assert (sum(transfers.reads.values()), sum(transfers.writes.values())) == expected
