"""Fitted preprocessing beside the weights: plain values as checked JSON, numbers as safetensors; never a pickle."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from orca_cli import parts, storage
from orca_cli.exceptions import ChecksumError, DataError
from orca_cli.interfaces import Preprocessing, PreprocessingRecord

FILE, ARRAYS_FILE = "preprocessing.json", "preprocessing.safetensors"
_SCHEMA = 1


def write_preprocessing(folder: Path, preprocessing: Preprocessing) -> None:
    """Write the record of a task's preprocessing as preprocessing.json and preprocessing.safetensors.

    Raises:
        StorageError: the disk is full, read-only or failing.
    """
    from safetensors.numpy import save

    record = preprocessing.record()
    content = save({name: np.ascontiguousarray(array) for name, array in record.arrays.items()})
    storage.write_bytes(folder / ARRAYS_FILE, content)
    storage.write_checked_json(
        folder / FILE,
        {
            "schema": _SCHEMA,
            "target": record.target,
            "values": dict(record.values),
            "arrays_sha256": hashlib.sha256(content).hexdigest(),
        },
    )


def read_preprocessing(folder: Path) -> PreprocessingRecord:
    """Return what `write_preprocessing` wrote; no code is named or run.

    Raises:
        ChecksumError: a file is missing, or has changed since it was written.
        DataError: a later version of the program wrote it.
        StorageError: a file cannot be read.
    """
    path, arrays_path = folder / FILE, folder / ARRAYS_FILE
    written = storage.read_checked_json(path)
    if written.get("schema") != _SCHEMA:
        hint = "use the version of orca that trained this run"
        raise DataError(f"has schema {written.get('schema')}, expected {_SCHEMA}", where=str(path), hint=hint)
    if not arrays_path.is_file():
        raise ChecksumError("is missing", where=str(arrays_path))
    if storage.sha256_file(arrays_path) != written["arrays_sha256"]:
        raise ChecksumError(f"is damaged: its checksum differs from the one in {FILE}", where=str(arrays_path))
    arrays = {name: tensor.numpy() for name, tensor in storage.read_tensors(arrays_path).items()}
    return PreprocessingRecord(written["target"], written["values"], arrays)


def load_preprocessing(folder: Path) -> Preprocessing:
    """Return a run's preprocessing, rebuilt from its files alone.

    Raises:
        ConfigError, UnsafeError: the record names a class that does not exist, or lies outside the allowed modules.
        ChecksumError, DataError, StorageError: as `read_preprocessing`, or values that its class does not accept.
    """
    record = read_preprocessing(folder)
    path = str(folder / FILE)
    owner = parts.resolve({parts.TARGET: record.target}, path)
    try:
        preprocessing: Preprocessing = owner.from_record(record)  # type: ignore[attr-defined]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        hint = "use the version of orca that trained this run"
        raise DataError(f"'{record.target}' does not accept this record: {error}", where=path, hint=hint) from error
    return preprocessing
