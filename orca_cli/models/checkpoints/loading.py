"""What a checkpoint's config.json may say, and the transformers model of a checkpoint's folder, whole or its architecture."""

import inspect
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from orca_cli.exceptions import ConfigError, DataError, UnsafeError, process_error
from orca_cli.models.checkpoints.resolution import CONFIG, KEY, PACKAGED, resolve

_LARGEST_FILE = 2**24  # bytes
_LARGEST_NUMBER = 2**20  # in a config.json whose weights are elsewhere
_DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "depths")
_architecture_on: ContextVar[str | None] = ContextVar("architecture_on", default=None)


def read_config(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """Return the content of one of a checkpoint's JSON files; DataError where it is unreadable, too large, or no object."""
    try:
        if (folder / name).stat().st_size > _LARGEST_FILE:
            raise ValueError("too large")
        return dict(json.loads((folder / name).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{name} is unreadable", where=str(folder)) from error


def shareable_config(folder: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's config.json without the folder that its maker loaded it from."""
    return {key: value for key, value in read_config(folder).items() if key != "_name_or_path"}


def check_family(folder: Path, families: tuple[str, ...]) -> str:
    """Return the family that a checkpoint's config.json names, after checking that it asks for no code.

    Raises:
        ConfigError, DataError: the body's code does not know the family, or the file is unreadable.
        UnsafeError: its model needs code from the repository, a quantiser, or a kernel on the hub.
    """
    content = read_config(folder)
    code = [key for key in ("auto_map", "quantization_config") if content.get(key)]
    code += [
        key
        for key in ("attn_implementation", "_attn_implementation")
        if "/" in str(content.get(key))
    ]
    if code:
        what = f"config.json asks for third-party code ('{code[0]}'), which is never run"
        raise UnsafeError(
            what, where=f"{KEY}={folder}", hint="choose one of transformers' own families"
        )
    if (family := content.get("model_type")) not in families:
        what = f"'{folder}' is of family '{family}', but this body takes {' or '.join(families)}"
        raise ConfigError(what, where=KEY, hint="choose a body of that family (orca list bodies)")
    return str(family)


def check_modest(folder: Path) -> int:
    """Return how many layers a config.json asks for; a stranger's could ask for days of work in a few bytes.

    Raises:
        DataError: the file is unreadable.
        UnsafeError: it holds a number that no model has.
    """
    numbers: list[tuple[str, int]] = []
    waiting: list[tuple[str, Any]] = [("", read_config(folder))]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]
        elif isinstance(value, int) and not isinstance(value, bool):
            numbers.append((key, value))
    # rope_theta is a wavelength, in the millions for long texts; nothing grows with it.
    largest = max((abs(number) for key, number in numbers if key != "rope_theta"), default=0)
    if largest > _LARGEST_NUMBER:
        raise UnsafeError(
            f"holds the number {largest}", where=str(folder / CONFIG), hint="no model has that size"
        )
    return sum(
        number for key, number in numbers if key in _DEPTHS
    )  # of models within it too, as SigLIP's two towers


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


def family(checkpoint: str, families: tuple[str, ...]) -> str:
    """Return the family that a checkpoint's config.json names, one of `families`; raises as `check_family`."""
    return check_family(_folder_of(checkpoint), families)


def _folder_of(checkpoint: str) -> Path:
    """Return the folder of `resolve`; inside `architecture_only` the folder that is named, which has no weights."""
    return resolve(checkpoint) if _architecture_on.get() is None else Path(checkpoint)


def load_model(classes: Mapping[str, str], checkpoint: str, **settings: Any) -> tuple[Any, Path]:
    """Return a transformers model without pooler in float32 on the CPU, and the folder that it was read from.

    Silences transformers for the rest of the process. Inside `architecture_only` only config.json is read.

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

    device, folder, packaged = (
        _architecture_on.get(),
        _folder_of(checkpoint),
        PACKAGED.get(checkpoint),
    )
    kind = getattr(transformers, classes[check_family(folder, tuple(classes))])
    settings |= {"dtype": torch.float32, **without_pooler(kind)}
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    is_pickle = packaged is not None and packaged.weights.endswith(".bin")
    if device is not None or is_pickle:
        check_modest(folder)
        with _blamed_on(str(folder / CONFIG), "describes no model"), torch.device(device or "cpu"):
            config = kind.config_class.from_pretrained(folder, local_files_only=True)
            model = kind._from_config(config, **settings).eval()
        if device is None and packaged is not None:
            # Its SHA-256 is the recorded one; torch's own reader of plain tensors (`weights_only=True`), which builds
            # nothing else, is a second barrier. Every tensor is required, and no others than those in `left_out` may be extra.
            file = folder / packaged.weights
            with _blamed_on(str(file), "does not hold the model's weights"):
                stored = torch.load(file, map_location="cpu", weights_only=True)
                used = [name for name in stored if not name.startswith(packaged.left_out)]
                model.load_state_dict(
                    {name.removeprefix(packaged.prefix): stored[name] for name in used}
                )
        return model, folder
    settings |= {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
    with _blamed_on(str(folder), "the checkpoint cannot be read"):
        model, report = kind.from_pretrained(folder, output_loading_info=True, **settings)
    # transformers draws missing weights at random, and only logs it.
    wrong = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
    if wrong:
        what = f"{len(wrong)} of the model's weights are missing or have the wrong shape, such as '{wrong[0]}'"
        raise DataError(
            what, where=str(folder), hint="give the folder of a complete saved checkpoint"
        )
    # Heads and other towers are rightly left out, but not a layer behind the model's last.
    stacks = {
        name: len(part)
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.ModuleList)
    }
    for key in sorted(report["unexpected_keys"]):
        match = re.match(r"(.+?)\.(\d+)\.", key.removeprefix(f"{model.base_model_prefix}."))
        if match and int(match[2]) >= stacks.get(match[1], math.inf):
            what = f"holds weights of more layers than {CONFIG} names, such as '{key}'"
            raise DataError(
                what, where=str(folder), hint=f"give the {CONFIG} that belongs to the weights"
            )
    return model, folder


@contextmanager
def _blamed_on(where: str, what: str) -> Iterator[None]:
    """Turn whatever transformers, safetensors or torch raise for a file into a DataError, unless the machine is at fault."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - each library raises its own types
        if (
            isinstance(error, MemoryError)
            or "allocate memory" in str(error)
            or process_error(error)
        ):
            raise
        raise DataError(f"{what}: {' '.join(str(error).split())[:300]}", where=where) from error


def without_pooler(kind: type) -> dict[str, bool]:
    """Return the argument that leaves out a model's pooling layer, for classes that take it."""
    return (
        {"add_pooling_layer": False}
        if "add_pooling_layer" in inspect.signature(kind).parameters
        else {}
    )
