"""Generated data sets, and target maps stored one per file, as one array: made once, kept in the cache folder with checksums,
verified whenever they are read.

Shapes: n samples, H x W positions of a map.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli import signals, storage
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Reporter

_MAPS_VERSION = 1


def folder_of(
    cache_folder: Path,
    name: str,
    parameters: dict[str, int | float | str],
    make: Callable[[Path], None],
    reporter: Reporter,
) -> Path:
    """Return a folder with the data of a task that `parameters` determine; `make` fills it where it is missing or damaged.

    `parameters` are all that the data depend on, with the version of the generator. Where writing fails or a signal asks to
    stop, nothing half-made remains.
    """
    text = json.dumps(parameters, sort_keys=True)
    path = cache_folder / "generated" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    with storage.cached(path, waiting_for=f"generates {name}", say=reporter.say, check=signals.check) as is_whole:
        if not is_whole:
            reporter.say(f"generating {name} once into {path}")
            with storage.commit_folder(path) as temporary:
                make(temporary)
                storage.write_json(temporary / "parameters.json", parameters)
    return path


@dataclass(frozen=True)
class TargetMaps:
    """The targets of one split, [n, 1, H, W] float32 mapped read-only, and what the reader of a sample noted beside each."""

    maps: np.ndarray
    records: list[dict[str, Any]]


def target_maps(
    cache_folder: Path,
    name: str,
    settings: dict[str, int | float | str],
    files: Sequence[Path],
    extent: tuple[int, int],
    read: Callable[[int], tuple[np.ndarray, dict[str, Any]]],
    count: int,
    reporter: Reporter,
) -> TargetMaps:
    """Return the targets of `count` samples; they are read where the cache lacks them.

    One sample is held at a time, so memory does not grow with the split; the cache takes 4 H W bytes a sample.

    Args:
        name: of the task and split, such as "psicov-train".
        settings: all besides the files that the maps and the records depend on.
        files: all that `read` reads; their names, sizes and times of change identify the array in the cache. DataError
            where one is missing.
        extent, read: (H, W); and what gives the map [H, W] and the record of a sample by its number.
    """
    state = hashlib.sha256()  # of names, sizes and times of change: reading gigabytes at every start would take minutes
    for path in files:
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
        state.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    parameters = {"version": _MAPS_VERSION, "count": count, "files": state.hexdigest(), **settings}

    def make(folder: Path) -> None:
        records = []
        with open(folder / "targets.npy", "wb") as file, reporter.track(f"reading {name}", count) as advance:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, 1, *extent)}
            np.lib.format.write_array_header_1_0(file, header)
            for index in range(count):
                signals.check()
                values, record = read(index)
                if values.shape != extent:
                    raise ValueError(f"a map of {values.shape}, not {extent}")
                file.write(np.ascontiguousarray(values, dtype="<f4").tobytes())
                records.append(record)
                advance()
        storage.write_json(folder / "records.json", records)

    folder = folder_of(cache_folder, name, parameters, make, reporter)
    maps = np.load(folder / "targets.npy", mmap_mode="r", allow_pickle=False)
    return TargetMaps(maps, json.loads((folder / "records.json").read_text(encoding="utf-8")))
