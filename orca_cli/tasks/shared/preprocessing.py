"""Preprocessing as a record and back: nested dataclasses as plain values, the arrays in them by dotted names."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch

from orca_cli.interfaces import PreprocessingRecord

_T = TypeVar("_T")


def record_of(preprocessing: object) -> PreprocessingRecord:
    """Return a record of a dataclass whose fields are plain values, arrays, tuples and dataclasses of these."""
    arrays: dict[str, np.ndarray] = {}
    values = _plain(preprocessing, arrays, "")
    kind = type(preprocessing)
    return PreprocessingRecord(f"{kind.__module__}.{kind.__qualname__}", values, arrays)


def rebuilt(kind: type[_T], record: PreprocessingRecord) -> _T:
    """Return the dataclass that a record was made of.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: the record is of another class.
    """
    return cast(_T, _typed(kind, record.values, record.arrays, ""))


def _plain(value: Any, arrays: dict[str, np.ndarray], name: str) -> Any:
    if is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name), arrays, f"{name}.{field.name}") for field in fields(value)
        }
    if isinstance(value, (np.ndarray, torch.Tensor)):
        arrays[name.removeprefix(".")] = np.asarray(value)
        return None
    return [_plain(item, arrays, name) for item in value] if isinstance(value, (list, tuple)) else value


def _typed(hint: Any, value: Any, arrays: Mapping[str, np.ndarray], name: str) -> Any:
    """Return a plain value as what a field's annotation says."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        kinds = [member for member in members if is_dataclass(member)]
        # Alternatives are told apart by the names of their fields.
        hint = next((kind for kind in kinds if {field.name for field in fields(kind)} == set(value)), members[0])
        return _typed(hint, value, arrays, name)
    if isinstance(hint, type) and is_dataclass(hint):
        # `interfaces` imports torch for type checkers only.
        hints = typing.get_type_hints(hint, localns={"Tensor": torch.Tensor})
        return hint(**{key: _typed(hints[key], item, arrays, f"{name}.{key}") for key, item in value.items()})
    if hint is np.ndarray:
        return arrays[name.removeprefix(".")]
    if hint is torch.Tensor:
        return torch.from_numpy(arrays[name.removeprefix(".")])
    return tuple(_typed(members[0], item, arrays, name) for item in value) if origin is tuple else value
