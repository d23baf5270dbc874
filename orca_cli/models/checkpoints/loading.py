"""A transformers model from a checkpoint's folder, whole or, for callers who have the weights, its architecture alone."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli.exceptions import DataError, process_error
from orca_cli.models.checkpoints.config_file import CONFIG, check_family, check_modest
from orca_cli.models.checkpoints.packages import PACKAGED, Packaged
from orca_cli.models.checkpoints.resolution import resolve

if TYPE_CHECKING:  # commands that only look at checkpoints import no torch
    from torch import Tensor, nn

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
        _fill(model, folder / packaged.weights, packaged)
        return model, folder
    with _blamed_on(str(folder), "the checkpoint cannot be read"):
        model, report = kind.from_pretrained(folder, output_loading_info=True, **without_pooler(kind), **settings)
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
    options = {} if attention is None else {"attn_implementation": attention}
    with _blamed_on(str(folder / CONFIG), "describes no model"), torch.device(device):
        config = kind.config_class.from_pretrained(folder, local_files_only=True)
        model = kind._from_config(config, dtype=torch.float32, **without_pooler(kind), **options)
    return model.eval()


@contextmanager
def _blamed_on(where: str, what: str) -> Iterator[None]:
    """Turn whatever transformers, safetensors or torch raise for a file into a DataError, unless the machine is at fault."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - each library raises its own types
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or process_error(error):
            raise
        raise DataError(f"{what}: {' '.join(str(error).split())[:300]}", where=where) from error


def without_pooler(kind: type) -> dict[str, bool]:
    """Return the argument that leaves out a model's pooling layer, for classes that take it."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}


def folder_of(checkpoint: str) -> Path:
    """Return the folder of `resolve`; inside `architecture_only` the folder that is named, which has no weights."""
    return resolve(checkpoint) if _architecture_on.get() is None else Path(checkpoint)


def family(checkpoint: str, families: tuple[str, ...]) -> str:
    """Return the family that a checkpoint's config.json names, one of `families`; raises as `check_family`."""
    return check_family(folder_of(checkpoint), families)


def _fill(model: nn.Module, file: Path, packaged: Packaged) -> None:
    """Load a torch file into a model: every tensor is required, and no others than those in `left_out` may be extra.

    Such a file is a pickle. Its SHA-256 was compared with the recorded one before; torch's own reader of plain tensors
    (`weights_only=True`), which builds nothing else, is a second barrier.

    Raises:
        DataError: the file cannot be read, lacks a tensor, has one more, or one of another shape.
    """
    import torch

    with _blamed_on(str(file), "does not hold the model's weights"):
        stored: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        used = [name for name in stored if not name.startswith(packaged.left_out)]
        model.load_state_dict({name.removeprefix(packaged.prefix): stored[name] for name in used})
