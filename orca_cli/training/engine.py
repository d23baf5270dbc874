"""The device and the precision of a run, through accelerate; the only place that moves tensors."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from orca_cli.exceptions import CheckpointError, ConfigError, UnavailableError
from orca_cli.interfaces import Batch
from orca_cli.training.team import Team

_BF16_WIDTH = 64  # bodies narrower than this gain nothing on a CPU
_LEAST_SCALE = (
    1e-4  # float16 reaches to 65504: a gradient that overflows at this scale is above 6e8
)


def choose_device(setting: str) -> torch.device:
    """Return the device that a run asks for; "auto" takes CUDA, else the CPU.

    Apple's MPS has to be typed: it has no float64, which alignment and targets far from zero need, and nothing was measured on
    it.

    Raises:
        ConfigError: no such kind of device.
        UnavailableError: it was requested by name and is absent. It never falls back silently.
    """
    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = setting.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdigit())):
        raise ConfigError(
            f"'{setting}' is not a device",
            where="device",
            hint="allowed: auto, cpu, cuda, cuda:N, mps",
        )
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }[kind]
    if int(index or 0) >= present:
        what = f"'{setting}' is not on this machine ({present} {kind} device{'s' * (present != 1)} found)"
        raise UnavailableError(what, where="device", hint="use device=cpu or device=auto")
    return torch.device(setting)


def check_precision(device: torch.device, precision: str) -> None:
    """Raise ConfigError for fp16 on the CPU."""
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError(
            "fp16 needs a GPU", where="precision", hint="use precision=fp32 or precision=bf16"
        )


def choose_precision(setting: str, device: torch.device, width: int) -> str:
    """Return the precision that a run asks for; "auto" takes bf16 where it is faster, by facts of the machine alone.

    A measured time would differ between two runs of one command, and with it their bits. What was measured, and where:
    docs/decisions/0015-precision.md. `width` is D, of the body's tokens.
    """
    if setting != "auto":
        return setting
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    # The processor needs instructions for it, and torch the library that uses them.
    if device.type == "cpu" and width >= _BF16_WIDTH and torch.backends.mkldnn.is_available():
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        has_bf16 = any(getattr(torch.cpu, name, lambda: False)() for name in names)
    return "bf16" if has_bf16 else "fp32"


# Parameters and tokens of the largest model that gets one thread: its operations are so short that, on cores shared with
# other processes, threads wait for one another longer than they work (docs/decisions/0022-waiting-threads.md).
_SMALL_PARAMETERS, _SMALL_TOKENS = 50_000_000, 128


def limit_threads(parameters: int, tokens: int) -> None:
    """Give this process one thread for a small model, unless the environment says how many there are (OMP_NUM_THREADS)."""
    if (
        "OMP_NUM_THREADS" not in os.environ
        and parameters <= _SMALL_PARAMETERS
        and tokens <= _SMALL_TOKENS
    ):
        torch.set_num_threads(1)


@contextmanager
def same_threads_after() -> Iterator[None]:
    """Give the process at the end of a block the number of threads that it had before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def checkpoint_layers(body: nn.Module) -> None:
    """Let the layers of a body keep only their inputs for the backward pass, and compute the rest once more in it.

    The draws of dropout are repeated, and so are all bits; a step takes one more forward pass (Chen et al. 2016).

    Raises:
        ConfigError: transformers marks no layers of the family.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    def marked(module: nn.Module) -> list[Any]:
        return [part for part in module.modules() if isinstance(part, GradientCheckpointingLayer)]

    innermost = [module for module in marked(body) if marked(module) == [module]]
    if not innermost:
        what = "transformers does not mark the layers of this body"
        raise ConfigError(
            what, where="train.gradient_checkpointing", hint="leave it out, or use another body"
        )
    for layer in innermost:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)


class Engine:
    """Device, mixed precision, backward pass and clipping of one run; a process uses the one that it made last.

    Once there is one, torch uses deterministic algorithms wherever it has them.

    Attributes:
        rank, processes: number of this process among those of the run, and how many there are; 0 and 1 without a `team`.
    """

    def __init__(self, device: torch.device, precision: str, team: Team | None = None) -> None:
        """Start accelerate on a device, with fp32, bf16 or fp16, for one process or several; raises as `check_precision`."""
        check_precision(device, precision)
        # accelerate keeps its first choice for the life of the process; the runs of a sweep may differ.
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
        mixed = {"fp32": "no"}.get(precision, precision)
        self._accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=mixed)
        self.device, self.precision = device, precision
        self.team = team
        self.rank, self.processes = (0, 1) if team is None else (team.rank.number, team.rank.size)
        self._first_scale = self.scaler_state()
        torch.use_deterministic_algorithms(True, warn_only=True)

    def prepare(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Return an optimizer that takes steps at the chosen precision; the previous one is released.

        The gradient scale is reset: an earlier optimizer of this process must not influence this one's steps.
        """
        if self._accelerator.scaler is None:
            return optimizer  # accelerate's wrapper would only search for packages at every step
        self._accelerator.free_memory()
        self.restore_scaler(self._first_scale)
        return self._accelerator.prepare_optimizer(optimizer)

    @property
    def skips_overflow(self) -> bool:
        """Return whether a step whose gradient is not finite is left out and the scale lowered, as fp16 needs it.

        At a scale that no float16 can overflow with, such a gradient has another cause.
        """
        scaler = self._accelerator.scaler
        return scaler is not None and scaler.get_scale() > _LEAST_SCALE

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of fp16's gradient scaler, JSON-able: scale, growth tracker; empty if there is none."""
        scaler = self._accelerator.scaler
        return {} if scaler is None else scaler.state_dict()

    def restore_scaler(self, state: dict[str, Any]) -> None:
        """Give the gradient scaler, where there is one, the state that `scaler_state` returned; CheckpointError without it."""
        scaler = self._accelerator.scaler
        if scaler is None:
            return
        if not state:
            what = "the checkpoint has no gradient scale"
            raise CheckpointError(
                what, where="precision=fp16", hint="use --force to restart the run"
            )
        scaler.load_state_dict(state)

    def autocast(self) -> AbstractContextManager:
        """Return the context in which forward passes run at the chosen precision."""
        return self._accelerator.autocast()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss."""
        self._accelerator.backward(loss)

    def clip(self, parameters: list[nn.Parameter], norm: float | None) -> Tensor:
        """Scale the gradient down to `norm` where it is larger; returns the norm that it had, on the device."""
        if norm is not None:
            return torch.as_tensor(self._accelerator.clip_grad_norm_(parameters, norm))
        self._accelerator.unscale_gradients()
        return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def gathered(self, work: Callable[[], Mapping[int, float]], count: int) -> list[float]:
        """Return numbers of which each process computes some; see `Team.gathered`."""
        if self.team is not None:
            return self.team.gathered(work, count)
        values = work()
        return [values[place] for place in range(count)]

    def pin(self, batch: Batch) -> Batch:
        """Return the batch in pinned memory for a GPU, so that copies do not block the CPU; else the batch itself."""
        return (
            batch.mapped(lambda value: value.pin_memory()) if self.device.type == "cuda" else batch
        )

    def move(self, batch: Batch) -> Batch:
        """Return a batch on the device; copying a pinned one does not block the CPU."""
        is_gpu = self.device.type == "cuda"
        return batch.mapped(
            lambda value: value.to(self.device, non_blocking=is_gpu and value.is_pinned())
        )
