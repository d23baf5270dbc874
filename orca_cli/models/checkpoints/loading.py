"""A transformers model from a checkpoint's folder, whole or, for callers who have the weights, its architecture alone."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli.exceptions import DataError, process_error
from orca_cli.models.checkpoints.config_file import CONFIG, check_family, check_modest
from orca_cli.models.checkpoints.packages import PACKAGED
from orca_cli.models.checkpoints.resolution import resolve

if TYPE_CHECKING:  # commands that only look at checkpoints import no torch
    from torch import Tensor, nn

_SHOWN = 3
_architecture_on: ContextVar[str | None] = ContextVar("architecture_on", default=None)


@contextmanager
def architecture_only(device: str = "meta") -> Iterator[None]:
    """Let bodies inside the block be made from a folder's config.json alone, by a caller who has all their weights.

    Args:
        device: where they are made; on "meta" they have shapes, and neither memory nor values.
    """
    token = _architecture_on.set(device)
    try:
        yield
    finally:
        _architecture_on.reset(token)


def load_model(classes: Mapping[str, str], checkpoint: str, **settings: Any) -> tuple[Any, Path]:
    """Return a transformers model without pooler in float32, and the folder that it was read from.

    Args:
        classes: the model types that the body's code knows, each with the name of its class in transformers.
        checkpoint: as in `resolve`.
        settings: more for `from_pretrained`.

    Raises:
        ConfigError, DataError, UnsafeError, ChecksumError, NetworkError: as `resolve` and `check_family` say; DataError also
            where weights are damaged or missing.
    """
    import torch
    import transformers

    device, folder = _architecture_on.get(), folder_of(checkpoint)
    kind = getattr(transformers, classes[check_family(folder, tuple(classes))])
    settings |= {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True, "dtype": torch.float32}
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if device is not None:
        return _architecture(kind, folder, device, settings.get("attn_implementation")), folder
    packaged = PACKAGED.get(checkpoint)
    if packaged is not None and packaged.weights.endswith(".bin"):
        model = _architecture(kind, folder, "cpu", settings.get("attn_implementation"))
        _fill(model, folder / packaged.weights, packaged.prefix, packaged.left_out)
        return model.eval(), folder
    try:
        model, report = kind.from_pretrained(folder, output_loading_info=True, **without_pooler(kind), **settings)
    except Exception as error:  # noqa: BLE001 - both libraries raise their own types
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or process_error(error):
            raise  # not the checkpoint's fault
        raise DataError(f"the checkpoint cannot be read: {error}", where=str(folder)) from error
    # transformers draws missing weights at random, and only logs it.
    wrong = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
    if wrong:
        what = f"{len(wrong)} of the model's weights are missing or have the wrong shape, such as '{wrong[0]}'"
        raise DataError(what, where=str(folder), hint="give the folder of a complete saved checkpoint")
    if more := _surplus_layer(model, report["unexpected_keys"]):
        what = f"holds weights of more layers than {CONFIG} names, such as '{more}'"
        raise DataError(what, where=str(folder), hint=f"give the {CONFIG} that belongs to the weights")
    return model, folder


def _surplus_layer(model: Any, unknown: Iterable[str]) -> str | None:
    """Return a weight of a layer behind the model's last, or None; heads and other towers are rightly left out."""
    stacks = {name: len(part) for name, part in model.named_modules() if type(part).__name__ == "ModuleList"}
    for key in sorted(unknown):
        match = re.match(r"(.+?)\.(\d+)\.", key.removeprefix(f"{model.base_model_prefix}."))
        if match and int(match[2]) >= stacks.get(match[1], int(match[2]) + 1):
            return key
    return None


def _architecture(kind: Any, folder: Path, device: str, attention: str | None) -> Any:
    """Return a model of a folder's config.json with random weights, or with none on the device "meta"."""
    import torch

    check_modest(folder)
    try:
        config = kind.config_class.from_pretrained(folder, local_files_only=True)
        options = {} if attention is None else {"attn_implementation": attention}
        with torch.device(device):
            return kind._from_config(config, dtype=torch.float32, **without_pooler(kind), **options)
    except Exception as error:  # noqa: BLE001 - transformers raises many types for invalid settings
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or process_error(error):
            raise
        raise DataError(f"describes no model: {error}", where=str(folder / CONFIG)) from error


def without_pooler(kind: type) -> dict[str, bool]:
    """Return the argument that leaves out a model's pooling layer, for classes that take it."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}


def folder_of(checkpoint: str) -> Path:
    """Return the folder of `resolve`; inside `architecture_only` the folder that is named, which has no weights."""
    return resolve(checkpoint) if _architecture_on.get() is None else Path(checkpoint)


def family(checkpoint: str, families: tuple[str, ...]) -> str:
    """Return the family that a checkpoint's config.json names, one of `families`; raises as `check_family`."""
    return check_family(folder_of(checkpoint), families)


def _fill(model: nn.Module, file: Path, prefix: str, left_out: Sequence[str]) -> None:
    """Load a torch file into a model: every tensor of the model is required, and only those named in `left_out` may be extra.

    Args:
        model: a transformers model without pooler.
        file: a state dict of plain tensors.
        prefix: of the model's tensors in the file, such as "bert.".
        left_out: beginnings of the names, in the file, of tensors that the model has no use for, such as heads.

    Raises:
        DataError: the file cannot be read, lacks a tensor, has one more, or one of another shape.
    """
    stored = _pickled(file)
    expected = model.state_dict()
    used = {name: value for name, value in stored.items() if not name.startswith(tuple(left_out))}
    tensors = {name.removeprefix(prefix): value for name, value in used.items() if name.startswith(prefix)}
    extra = sorted(name for name in used if not name.startswith(prefix) or name.removeprefix(prefix) not in expected)
    missing = sorted(f"{prefix}{name}" for name in expected if name not in tensors)
    wrong = sorted(
        f"{prefix}{name}" for name in tensors.keys() & expected.keys() if tensors[name].shape != expected[name].shape
    )
    for what, names in (("lacks", missing), ("also holds", extra), ("has another shape of", wrong)):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            hint = "install the version of the package that the extra names"
            raise DataError(f"{what} {', '.join(names[:_SHOWN])}{more}", where=str(file), hint=hint)
    model.load_state_dict(tensors)


def _pickled(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a torch file by their names; anything else in it is refused.

    Such a file is a pickle. Its SHA-256 was compared with the recorded one before; torch's own reader of plain tensors
    (`weights_only=True`), which builds nothing else, is a second barrier.
    """
    import torch

    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        reason = str(error).partition("\n")[0][:100]
        raise DataError(f"is not a file of plain tensors ({reason})", where=str(file)) from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise DataError("is not a dict of tensors", where=str(file))
    return {str(name): value for name, value in content.items()}
