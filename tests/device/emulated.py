"""A second device without hardware: its tensors compute on the CPU, and keep apart what CUDA keeps apart.

A tensor of the device wraps one of the CPU and reports `DEVICE`. What CUDA refuses raises here as well, and what makes the
host wait for a GPU is counted, so that a tensor that was left on the wrong side is found on any machine.

What is refused: an operation on tensors of both sides, unless that on the CPU is a single number in an element-wise
operation, an index, or the other end of a copy; writing to the CPU from the device; the CPU's generator; `numpy()`.

Torch's own device type "lazy" serves as the name: it is in every build, without a backend behind it. Autocast does not know
it, so that it computes in full precision.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import return_and_correct_aliasing

DEVICE = torch.device("lazy")
_aten = torch.ops.aten
_CPU = torch.device("cpu")
_COPIES = (_aten._to_copy.default, _aten.copy_.default)
_INDEXING = {_aten.index.Tensor, _aten._unsafe_index.Tensor}
_INDEXED_WRITES = {
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}
# Besides element-wise operations these take a single number from the CPU.
_TAKE_NUMBERS = {
    _aten.fill_.Tensor,
    _aten.fill.Tensor,
    _aten.masked_fill.Tensor,
    _aten.masked_fill_.Tensor,
}
# The shape of what they return, or whether they fail, is in the data, so the host waits for it.
_READ_BY_NAME = {
    "_local_scalar_dense", "bincount", "equal", "is_nonzero", "linalg_eigh", "linalg_svd", "masked_select", "nonzero",
    "repeat_interleave", "_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "_unique2", "unique_consecutive",
    "unique_dim",
}  # fmt: skip


class Transfers(NamedTuple):
    """What made the host wait, by the place in the program that asked for it: values read, blocking copies written."""

    reads: Counter[str]
    writes: Counter[str]


_counts: list[Transfers] = []


@contextmanager
def counted() -> Iterator[Transfers]:
    _counts.append(Transfers(Counter(), Counter()))
    try:
        yield _counts[-1]
    finally:
        _counts.pop()


def _note(kind: str, func: Any) -> None:
    frame = sys._getframe(2)
    while frame is not None and "orca_cli" not in frame.f_code.co_filename:
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None:
        place = f"outside the program, {func}"
    else:
        code = frame.f_code
        place = f"{code.co_filename.rpartition('orca_cli/')[2]}:{frame.f_lineno} {code.co_name}"
    for counts in _counts:
        getattr(counts, kind)[place] += 1


class DeviceTensor(torch.Tensor):
    """A tensor of the device; `held` has its values."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> DeviceTensor:
        assert type(held) is torch.Tensor, type(held)
        form = {
            "strides": held.stride(),
            "storage_offset": held.storage_offset(),
            "dtype": held.dtype,
        }
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), **form, layout=held.layout, device=DEVICE
        )
        tensor.held = held.detach()
        return tensor

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(
                f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() first."
            )
        return self.cpu().numpy()

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        raise NotImplementedError("the emulated device does not replace a tensor's memory")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is _aten._fused_sdp_choice.default:
            return 0  # composed of basic operations: the fused kernels are other devices'
        _check(func, args, kwargs)
        target = _target(func, args, kwargs)
        inner = {name: _held(value) for name, value in kwargs.items() if name != "pin_memory"}
        if inner.get("device") is not None:
            inner["device"] = _CPU
        result = func(*map(_held, args), **inner)
        if func is _aten.copy_.default:
            return args[0]
        if target.type != DEVICE.type:
            return result
        result = _wrapped(result)
        return (
            return_and_correct_aliasing(func, args, kwargs, result)
            if _facts(func).aliases
            else result
        )


class _Facts(NamedTuple):
    aliases: bool  # some result shares memory with an argument
    written: list[tuple[int, str]]  # places and names of the arguments that it writes to
    takes_numbers: bool  # single numbers may come from the CPU
    refused: bool


@functools.cache
def _facts(func) -> _Facts:
    schema = func._schema
    infos = [(place, one.name, one.alias_info) for place, one in enumerate(schema.arguments)]
    return _Facts(
        aliases=any(value.alias_info is not None for value in (*schema.arguments, *schema.returns)),
        written=[
            (place, name) for place, name, alias in infos if alias is not None and alias.is_write
        ],
        takes_numbers=torch.Tag.pointwise in func.tags or func in _TAKE_NUMBERS | _INDEXED_WRITES,
        refused=torch.Tag.inplace_view in func.tags
        or schema.name in ("aten::set_", "aten::resize_"),
    )


def _held(value: Any) -> Any:
    if isinstance(value, DeviceTensor):
        return value.held
    return [_held(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _wrapped(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return DeviceTensor(value)
    return type(value)(map(_wrapped, value)) if type(value) in (list, tuple) else value


def _tensors(*values: Any) -> list[torch.Tensor]:
    tensors = []
    for value in values:
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        elif isinstance(value, (list, tuple)):
            tensors += _tensors(*value)
    return tensors


def _on_device(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, DeviceTensor)


def _target(func, args, kwargs) -> torch.device:
    """Return where a result lies, and count what the host waits for."""
    device = kwargs.get("device")
    name = func._schema.name.removeprefix("aten::")
    if func is _aten.copy_.default:
        to, source = (_on_device(tensor) for tensor in args[:2])
        is_blocking = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        if source != to and (source or is_blocking):
            _note("reads" if source else "writes", func)
        return DEVICE if to else _CPU
    is_copied = func is _aten._to_copy.default and device is not None and device.type != DEVICE.type
    indices = _tensors(args[1]) if func in _INDEXING | _INDEXED_WRITES else []
    if (
        is_copied
        or name in _READ_BY_NAME
        or any(index.dtype in (torch.bool, torch.uint8) for index in indices)
    ):
        _note("reads", func)
    elif not all(map(_on_device, indices)):
        _note("writes", func)
    return DEVICE if device is None else device


def _check(func, args, kwargs) -> None:
    """Raise where CUDA would, for tensors that do not lie together."""
    facts = _facts(func)
    if facts.refused:
        raise NotImplementedError(
            f"the emulated device does not follow {func}, which changes a tensor in place"
        )
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type == "cpu":
        raise RuntimeError(
            f"expected a generator of the device '{DEVICE}' but found one of the cpu, in {func}"
        )
    apart = [tensor for tensor in _tensors(*args, *kwargs.values()) if not _on_device(tensor)]
    if func in _COPIES or not apart:
        return
    written = [
        args[place] if place < len(args) else kwargs.get(name) for place, name in facts.written
    ]
    if all(map(_on_device, _tensors(*written))):
        if func in _INDEXING and _on_device(args[0]):
            return
        if func in _INDEXED_WRITES:
            apart = [tensor for tensor in (args[0], args[2]) if not _on_device(tensor)]
        if not apart or (facts.takes_numbers and all(tensor.dim() == 0 for tensor in apart)):
            return
    shapes = ", ".join(f"{list(tensor.shape)} {tensor.dtype}" for tensor in apart)
    raise RuntimeError(
        f"expected all tensors to be on the same device, but found at least two, {DEVICE} and cpu: "
        f"{func} was given {shapes} on the cpu"
    )


def _empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return DeviceTensor(
        torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format)
    )


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    return DeviceTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source, destination, non_blocking=False):
    """Fill a tensor that torch makes from Python's numbers, `torch.tensor(..., device=...)`."""
    if not non_blocking:
        _note("writes", "torch.tensor")
    destination.held.copy_(source)
    return destination


@contextmanager
def emulated() -> Iterator[torch.device]:
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _empty, "Lazy")
    library.impl("empty_strided", _empty_strided, "Lazy")
    library.impl("_copy_from", _copy_from, "Lazy")
    # Parameters stay the same objects when a module moves, as they do with CUDA.
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    enabled = torch.is_autocast_enabled
    torch.is_autocast_enabled = lambda *device: device != (DEVICE.type,) and enabled(*device)
    try:
        yield DEVICE
    finally:
        torch.is_autocast_enabled = enabled
        torch.__future__.set_swap_module_params_on_conversion(before)
        library._destroy()
