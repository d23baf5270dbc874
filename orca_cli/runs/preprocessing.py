"""Store fitted preprocessing with the weights, without pickle, and load it.

Plain values are stored as JSON with a checksum, arrays in safetensors under dotted names.
"""

import hashlib
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from orca_cli import storage
from orca_cli.config import parts
from orca_cli.exceptions import ChecksumError, DataError
from orca_cli.interfaces import Preprocessing
from orca_cli.runs.directory import STAGE_FOLDERS, keeps_weights

FILE = "preprocessing.json"
ARRAYS_FILE = "preprocessing.safetensors"
# A copy of the config.json of the body's checkpoint: a run with all weights then does not need the
# checkpoint.
BODY_CONFIG = Path("body", "config.json")
_SCHEMA = 1
_HINT = "use the version of orca that trained this run"


def can_predict(run: Path) -> bool:
    """Return whether a completed run has its weights and its preprocessing."""
    preprocessing = run / STAGE_FOLDERS["build"] / FILE
    return keeps_weights(run) and preprocessing.exists()


def write_preprocessing(folder: Path, preprocessing: Preprocessing) -> None:
    """Write a task's preprocessing as preprocessing.json and preprocessing.safetensors.

    Raises:
        StorageError: the files cannot be written.
    """
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {}
    values = _plain(preprocessing, arrays, "")
    owner = type(preprocessing)
    # Serialised in memory, since the record has the checksum of these bytes.
    content = save(arrays)
    digest = hashlib.sha256(content).hexdigest()
    record = {
        "schema": _SCHEMA,
        "target": f"{owner.__module__}.{owner.__qualname__}",
        "values": values,
        "arrays_sha256": digest,
    }
    # The record is written last, so that its existence means that both files exist.
    storage.write_bytes(folder / ARRAYS_FILE, content)
    storage.write_checked_json(folder / FILE, record)


def load_preprocessing(folder: Path) -> Preprocessing:
    """Return a run's preprocessing, rebuilt from its files alone.

    Raises:
        ChecksumError: a file is missing, or has changed since it was written.
        ConfigError, UnsafeError: the record does not name a class of preprocessing
            (`parts.admitted`).
        DataError: a later version of the program wrote the record, or the class does not accept the
            record's values.
        StorageError: a file cannot be read.
    """
    path = folder / FILE
    arrays_path = folder / ARRAYS_FILE
    record = storage.read_checked_json(path)
    # Checked before all other fields, which a later program may have renamed.
    schema = record.get("schema")
    if schema != _SCHEMA:
        raise DataError(f"has schema {schema}, expected {_SCHEMA}", where=str(path), hint=_HINT)
    # The record, which has its own checksum, contains the checksum of the arrays.
    if not arrays_path.is_file() or storage.sha256_file(arrays_path) != record["arrays_sha256"]:
        raise ChecksumError(
            f"is missing, or its checksum differs from the checksum in {FILE}",
            where=str(arrays_path),
            hint="get the folder again, from a source that you trust, or rerun the run's command",
        )
    arrays = storage.read_arrays(arrays_path)
    # Only classes of preprocessing are admitted, since an export may be untrusted.
    owner = parts.resolve({parts.TARGET: record["target"]}, str(path), place=parts.PREPROCESSING)
    try:
        if not (is_dataclass(owner) and hasattr(owner, "inputs")):
            raise TypeError("the record does not name a preprocessing class")
        return cast(Preprocessing, _typed(owner, record["values"], arrays, ""))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"'{record['target']}' does not accept this record: {error}",
            where=str(path),
            hint=_HINT,
        ) from error


def _plain(value: Any, arrays: dict[str, np.ndarray], name: str) -> Any:
    """Return a value in a form that JSON can write.

    Arrays are put into `arrays` under their dotted names and replaced by None.
    """
    if is_dataclass(value):
        record = {}
        for field in fields(value):
            full_name = f"{name}.{field.name}"
            record[field.name] = _plain(getattr(value, field.name), arrays, full_name)
        return record
    if isinstance(value, np.ndarray):
        arrays[name.removeprefix(".")] = np.ascontiguousarray(value)
        return None
    if isinstance(value, (list, tuple)):
        return [_plain(entry, arrays, name) for entry in value]
    return value


def _typed(annotation: Any, value: Any, arrays: Mapping[str, np.ndarray], name: str) -> Any:
    """Return a plain value, made by `_plain`, in the type of a field's annotation."""
    # JSON has no tuples, no dataclasses and no arrays: the annotation decides.
    origin = typing.get_origin(annotation)
    members = typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _typed(_alternative(members, value), value, arrays, name)
    if isinstance(annotation, type) and is_dataclass(annotation):
        annotations = typing.get_type_hints(annotation)
        arguments = {}
        for field_name, entry in value.items():
            full_name = f"{name}.{field_name}"
            arguments[field_name] = _typed(annotations[field_name], entry, arrays, full_name)
        return annotation(**arguments)
    if annotation is np.ndarray:
        return arrays[name.removeprefix(".")]
    # Tuples in preprocessing have any length and entries of a single type.
    if origin is tuple:
        return tuple(_typed(members[0], entry, arrays, name) for entry in value)
    return value


def _alternative(members: tuple[Any, ...], value: Any) -> Any:
    """Return the member of a union to which a plain value belongs.

    Dataclasses are distinguished by the names of their fields.
    """
    for member in members:
        if is_dataclass(member):
            field_names = {field.name for field in fields(member)}
            if field_names == set(value):
                return member
    return members[0]
