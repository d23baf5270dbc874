"""What a checkpoint's config.json may say: a family that the code knows, sizes that a model has, and no code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orca_cli.exceptions import ConfigError, DataError, UnsafeError

KEY = "body.checkpoint"
CONFIG = "config.json"
_LARGEST_FILE = 2**24  # bytes
_LARGEST_NUMBER = 2**20  # in a config.json whose weights are elsewhere
_DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "depths")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's config.json; DataError where it is unreadable, too large, or no object."""
    try:
        if (folder / CONFIG).stat().st_size > _LARGEST_FILE:
            raise ValueError("too large")
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{CONFIG} is unreadable", where=str(folder)) from error
    if not isinstance(content, dict):
        raise DataError(f"{CONFIG} holds no settings", where=str(folder))
    return content


def check_family(folder: Path, families: tuple[str, ...]) -> str:
    """Return the family that a checkpoint's config.json names, after checking that it asks for no code.

    Raises:
        ConfigError, DataError: the body's code does not know the family, or the file is unreadable.
        UnsafeError: its model needs code from the repository, a quantiser, or a kernel on the hub.
    """
    content = read_config(folder)
    if "model_type" not in content:
        raise DataError(f"{CONFIG} names no model_type", where=str(folder))
    code = [key for key in ("auto_map", "quantization_config") if content.get(key)]
    code += [key for key in ("attn_implementation", "_attn_implementation") if "/" in str(content.get(key))]
    if code:
        what = f"config.json asks for third-party code ('{code[0]}'), which is never run"
        hint = "choose a checkpoint of one of transformers' own families"
        raise UnsafeError(what, where=f"{KEY}={folder}", hint=hint)
    if (family := content["model_type"]) not in families:
        what = f"'{folder}' is of family '{family}', but this body takes {' or '.join(families)}"
        raise ConfigError(what, where=KEY, hint="choose a body of that family (orca list bodies)")
    return str(family)


def check_modest(folder: Path) -> int:
    """Return how many layers a config.json asks for; a stranger's could ask for days of work in a few bytes.

    Raises:
        DataError: the file is unreadable.
        UnsafeError: it holds a number that no model has.
    """
    try:
        numbers = list(_numbers(read_config(folder)))
    except RecursionError as error:
        raise DataError(f"{CONFIG} is unreadable", where=str(folder)) from error
    # rope_theta is a wavelength, in the millions for long texts; nothing grows with it.
    largest = max((abs(number) for key, number in numbers if key != "rope_theta"), default=0)
    if largest > _LARGEST_NUMBER:
        raise UnsafeError(f"holds the number {largest}", where=str(folder / CONFIG), hint="no model has that size")
    return sum(number for key, number in numbers if key in _DEPTHS)  # of models within it too, as SigLIP's two towers


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Yield every whole number with the key that it stands under."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield key, value
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(item, name)


def shareable_config(folder: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's config.json without the folder that its maker loaded it from."""
    return {key: value for key, value in read_config(folder).items() if key != "_name_or_path"}
