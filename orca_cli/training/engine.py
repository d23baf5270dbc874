"""The device and the precision of a run, through accelerate; the only place that moves tensors."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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
# float16 reaches to 65504: a gradient that overflows at this scale is above 6e8.
_LEAST_SCALE = 1e-4
# Parameters and tokens of the largest model that gets one thread: its operations are so short that,
# on cores shared with other processes, threads wait for one another longer than they work
# (docs/decisions/0022-waiting-threads.md).
_SMALL_PARAMETERS = 50_000_000
_SMALL_TOKENS = 128


def choose_device(setting: str) -> torch.device:
    """Return the device that a run asks for; "auto" takes CUDA, else the CPU.

    Apple's MPS must be requested: it has no float64, which alignment and targets far from zero
    need, and no measurement was made on it.

    Raises:
        ConfigError: the kind of device is unknown.
        UnavailableError: the device was requested by name and is absent. There is no silent
            fallback.
    """
    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, gpu_number = setting.partition(":")
    # torch has more kinds of devices, but this program was not tried on them.
    is_allowed_kind = kind in ("cpu", "cuda", "mps")
    is_numbered_gpu = kind == "cuda" and gpu_number.isdigit()
    if not is_allowed_kind or (gpu_number and not is_numbered_gpu):
        raise ConfigError(
            f"unknown device '{setting}'",
            where="device",
            hint="allowed: auto, cpu, cuda, cuda:N, mps",
        )
    # A GPU number that does not exist is noticed here: torch would fail only at the first use,
    # after the model has been built.
    device_count = _device_count(kind)
    if int(gpu_number or 0) >= device_count:
        plural = "" if device_count == 1 else "s"
        raise UnavailableError(
            f"'{setting}' is not on this machine ({device_count} {kind} device{plural} found)",
            where="device",
            hint="use device=cpu or device=auto",
        )
    return torch.device(setting)


def _device_count(kind: str) -> int:
    """Return how many devices of a kind this machine has."""
    if kind == "cuda":
        return torch.cuda.device_count()
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return 1


def check_precision(device: torch.device, precision: str) -> None:
    """Raise ConfigError for fp16 on the CPU."""
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError(
            "fp16 needs a GPU", where="precision", hint="use precision=fp32 or precision=bf16"
        )


def choose_precision(setting: str, device: torch.device, width: int) -> str:
    """Return the precision that a run asks for; "auto" takes bf16 if it is faster.

    Facts of the machine alone decide that: a measured time could differ between two runs of one
    command, and with it their bits (docs/decisions/0015-precision.md has the measurements).

    Args:
        setting: auto, fp32, bf16 or fp16.
        device: device of the run.
        width: D, the width of the body's tokens.
    """
    if setting != "auto":
        return setting
    has_bf16 = False
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu" and width >= _BF16_WIDTH:
        has_bf16 = _has_bf16_processor()
    return "bf16" if has_bf16 else "fp32"


def _has_bf16_processor() -> bool:
    """Return whether the processor has instructions for bf16, and torch a library for them."""
    if not torch.backends.mkldnn.is_available():
        return False
    for function_name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        # A release of torch may lack either, since their names are private.
        reports_support = getattr(torch.cpu, function_name, None)
        if reports_support is not None and reports_support():
            return True
    return False


def limit_threads(parameters: int, tokens: int) -> None:
    """Give this process one thread for a small model, unless OMP_NUM_THREADS is set.

    Args:
        parameters: number of parameters of the model.
        tokens: number of tokens of a sample.
    """
    is_small = parameters <= _SMALL_PARAMETERS and tokens <= _SMALL_TOKENS
    if is_small and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


@contextmanager
def same_threads_after() -> Iterator[None]:
    """Give the process at the end of a block the number of threads that it had before."""
    # A process may do several runs: a small model must not limit the threads of the next.
    threads_before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)


def checkpoint_layers(body: nn.Module) -> None:
    """Let the layers of a body keep only their inputs for the backward pass.

    The backward pass computes all other values again, with the same dropout, so that all bits stay
    the same. A step takes one more forward pass (Chen et al. 2016).

    Raises:
        ConfigError: transformers marks no layers of the family.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    def marked_layers(module: nn.Module) -> list[Any]:
        return [
            layer for layer in module.modules() if isinstance(layer, GradientCheckpointingLayer)
        ]

    # A marked layer may contain other marked layers.
    innermost_layers = [layer for layer in marked_layers(body) if marked_layers(layer) == [layer]]
    if not innermost_layers:
        raise ConfigError(
            "is not supported for this body: the transformers library marks none of the body's "
            "layers for it",
            where="train.gradient_checkpointing",
            hint="remove this setting, or use another body",
        )
    for layer in innermost_layers:
        layer.gradient_checkpointing = True
        # The reentrant form gives no gradient unless an input of the layer requires one.
        layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)


class Engine:
    """Device, mixed precision, backward pass and clipping of one run.

    A process uses the engine that it made last. From its first engine on, torch uses deterministic
    algorithms wherever it has them.

    Attributes:
        rank: number of this process among those of the run; 0 without a `team`.
        processes: number of processes of the run; 1 without a `team`.
    """

    def __init__(self, device: torch.device, precision: str, team: Team | None = None) -> None:
        """Start accelerate on a device, for one process or several; raises as `check_precision`.

        The precision is fp32, bf16 or fp16.
        """
        check_precision(device, precision)
        # accelerate keeps its first choice for the life of the process; the runs of a sweep may
        # differ.
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()
        # Otherwise accelerate would choose a device itself.
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
        mixed_precision = "no" if precision == "fp32" else precision
        self._accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=mixed_precision)
        self.device = device
        self.precision = precision
        self.team = team
        self.rank = 0
        self.processes = 1
        if team is not None:
            self.rank = team.rank.number
            self.processes = team.rank.size
        # The state before any step: `prepare` starts every optimizer from it.
        self._first_scale = self.scaler_state()
        # A warning only: some operations of a GPU have no deterministic form.
        torch.use_deterministic_algorithms(True, warn_only=True)

    def prepare(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Return an optimizer that steps at the chosen precision; the previous one is released.

        The gradient scale is reset, so that the previous optimizer does not influence the steps.
        """
        # Without a scaler, accelerate's wrapper would only search for packages at every step.
        if self._accelerator.scaler is None:
            return optimizer
        self._accelerator.free_memory()
        self.restore_scaler(self._first_scale)
        return self._accelerator.prepare_optimizer(optimizer)

    @property
    def skips_overflow(self) -> bool:
        """Return whether a step whose gradient is not finite is left out and the scale lowered.

        fp16 needs that, until the scale is so small that a float16 cannot overflow: such a gradient
        then has another cause.
        """
        scaler = self._accelerator.scaler
        return scaler is not None and scaler.get_scale() > _LEAST_SCALE

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of fp16's gradient scaler, JSON-able: scale and growth tracker.

        It is empty without a scaler.
        """
        scaler = self._accelerator.scaler
        return {} if scaler is None else scaler.state_dict()

    def restore_scaler(self, state: dict[str, Any]) -> None:
        """Give the gradient scaler, if there is one, the state that `scaler_state` returned.

        Raises CheckpointError if the state is empty.
        """
        scaler = self._accelerator.scaler
        if scaler is None:
            return
        # Such a checkpoint was written at another precision.
        if not state:
            raise CheckpointError(
                "the checkpoint has no gradient scale, since another precision was used before",
                where="precision=fp16",
                hint="use --force to restart the run",
            )
        scaler.load_state_dict(state)

    def autocast(self) -> AbstractContextManager:
        """Return the context in which forward passes run at the chosen precision."""
        return self._accelerator.autocast()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss."""
        self._accelerator.backward(loss)

    def clip(self, parameters: list[nn.Parameter], norm: float | None) -> Tensor:
        """Scale the gradient down to `norm` if its norm is larger; None does not clip.

        Returns:
            the norm before clipping, on the device.
        """
        if norm is not None:
            return torch.as_tensor(self._accelerator.clip_grad_norm_(parameters, norm))
        # At fp16 gradients are scaled up. clip_grad_norm_ undoes that; without it we have to.
        self._accelerator.unscale_gradients()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        return nn.utils.get_total_norm(gradients)

    def gathered(self, work: Callable[[], Mapping[int, float]], count: int) -> list[float]:
        """Return `count` numbers, each computed by one of the processes; see `Team.gathered`."""
        if self.team is not None:
            return self.team.gathered(work, count)
        # All numbers come from this process, so there is nothing to exchange.
        numbers_by_index = work()
        return [numbers_by_index[index] for index in range(count)]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes; see `Team.add_up`."""
        if self.team is not None:
            self.team.add_up(tensors)

    def pin(self, batch: Batch) -> Batch:
        """Return the batch in pinned memory for a GPU, so that copies do not block the CPU.

        For any other device, return the batch itself.
        """
        if self.device.type != "cuda":
            return batch
        return batch.mapped(lambda tensor: tensor.pin_memory())

    def move(self, batch: Batch) -> Batch:
        """Return a batch on the device; copying a pinned one does not block the CPU."""
        is_gpu = self.device.type == "cuda"
        return batch.mapped(
            # A copy from memory that is not pinned blocks anyway.
            lambda tensor: tensor.to(self.device, non_blocking=is_gpu and tensor.is_pinned())
        )
