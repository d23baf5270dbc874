"""Generated data sets, and arrays of maps that lie in a file each: made once, kept in the cache.

Checksums are kept with them, and compared whenever they are read.

Shapes: n samples, B of a batch, C channels, H x W positions of a map.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli import signals, storage
from orca_cli.data.untrusted.memory import release_pages
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Batch, Reporter

# Of what `MapSamples` writes; a change makes every cached copy a miss.
_MAPS_VERSION = 1


def folder_of(
    cache_folder: Path,
    name: str,
    parameters: dict[str, int | float | str],
    make: Callable[[Path], None],
    reporter: Reporter,
) -> Path:
    """Return a folder with the data of a task that `parameters` determine.

    `make` fills it where it is missing or damaged. It is cache_folder/generated/NAME-HASH; one
    process makes it while others wait. Where writing fails or a signal asks to stop, nothing
    half-made remains.

    Args:
        parameters: all that the data depend on, with the version of the generator; they are written
            to parameters.json in it.
        make: called with an empty folder, whose content appears under the final name when it
            returns.
    """
    # Sorted, so that the order of the parameters does not change the folder's name.
    parameters_json = json.dumps(parameters, sort_keys=True)
    digest = hashlib.sha256(parameters_json.encode()).hexdigest()
    folder_name = f"{name}-{digest[:12]}"
    folder = cache_folder / "generated" / folder_name
    with storage.cached(
        folder, waiting_for=f"generates {name}", say=reporter.say, check=signals.check
    ) as is_whole:
        if is_whole:
            return folder
        reporter.say(f"generating {name} once into {folder}")
        with storage.commit_folder(folder) as temporary:
            make(temporary)
            storage.write_json(temporary / "parameters.json", parameters)
    return folder


class MapSamples(ABC):
    """Samples (see interfaces) that are read one by one, and their targets in the cache.

    Targets are [n, 1, H, W] float32, a memory map. A subclass says how a target and an input are
    read. Reading targets holds one at a time, so memory does not grow with the split; the cache
    takes 4 H W bytes a sample.

    Args:
        cache_folder, name, reporter: the name is that of the task and split, such as
            "psicov-train".
        count, shape: n; (C, H, W) of an input.
        files: all that is read; their names, sizes and times of change identify the targets in the
            cache. DataError where one is missing.
        settings: all else that the targets and their records depend on.
        facts: all besides the records that the samples depend on, as JSON, for the digest.
    """

    masked = False  # whether batches have a mask

    def __init__(
        self,
        cache_folder: Path,
        name: str,
        reporter: Reporter,
        *,
        count: int,
        shape: tuple[int, int, int],
        files: Sequence[Path],
        settings: dict[str, int | float | str],
        facts: dict[str, Any],
    ) -> None:
        parameters = {
            "version": _MAPS_VERSION,
            "count": count,
            "files": _state_of(files),
            **settings,
        }

        def make(folder: Path) -> None:
            records = []
            with (
                open(folder / "targets.npy", "wb") as file,
                reporter.track(f"reading {name}", count) as advance,
            ):
                # A header, then map after map, so that one is held at a time.
                targets_shape = (count, 1, *shape[1:])
                header = {"descr": "<f4", "fortran_order": False, "shape": targets_shape}
                np.lib.format.write_array_header_1_0(file, header)
                for index in range(count):
                    signals.check()
                    target, record = self.read_target(index)
                    # Little-endian on every machine, as the header says.
                    file.write(target.astype("<f4").tobytes())
                    records.append(record)
                    advance()
            storage.write_json(folder / "records.json", records)

        folder = folder_of(cache_folder, name, parameters=parameters, make=make, reporter=reporter)
        # Mapped, so that memory does not grow with the split.
        self._maps = np.load(folder / "targets.npy", mmap_mode="r", allow_pickle=False)
        self.records = json.loads((folder / "records.json").read_text(encoding="utf-8"))
        self._shape = shape
        self._facts = facts

    @abstractmethod
    def read_target(self, index: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the target [H, W] of a sample, and its record: what else is known, as JSON."""

    @abstractmethod
    def read(
        self, index: int, augment: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray | bool, np.ndarray | None]:
        """Return an input [C, H, W], its mask [H, W] and its target.

        A mask of True is one for all of the input; a target of None is that in the cache.
        """

    def __len__(self) -> int:
        return len(self.records)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return x [B, C, H, W], y [B, 1, H, W] and, where `masked`, the mask [B, H, W].

        `augment` is passed to `read`.
        """
        # Left uninitialised: `read` fills the input and the mask of every sample.
        batch_size = len(indices)
        channels, height, width = self._shape
        inputs = np.empty((batch_size, channels, height, width), np.float32)
        valid = np.empty((batch_size, height, width), bool)
        # A copy: rows may be replaced, and the pages of the map are released below.
        targets = np.array(self._maps[indices])
        for row, index in enumerate(indices):
            inputs[row], valid[row], target = self.read(int(index), augment)
            if target is not None:
                targets[row, 0] = target
        release_pages(self._maps)
        return Batch.from_arrays(inputs, targets, valid if self.masked else None)

    def targets(self) -> np.ndarray:
        """Return [n, 1, H, W] float32, NaN where nothing is known; a memory map."""
        return self._maps

    def groups(self) -> np.ndarray | None:
        """Return None: samples stand alone."""
        return None

    def digest(self) -> str:
        """Return a SHA-256 over facts and records: what the files held when targets were read."""
        facts_json = json.dumps(self._facts | {"records": self.records}, sort_keys=True)
        return hashlib.sha256(facts_json.encode()).hexdigest()


def _state_of(files: Sequence[Path]) -> str:
    """Return a SHA-256 over names, sizes and times of change of files.

    DataError where one is missing. Their content is not read: gigabytes at every start would take
    minutes.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
        # Another size or time is taken for another content.
        line = f"{path} {stat.st_size} {stat.st_mtime_ns}\n"
        digest.update(line.encode())
    return digest.hexdigest()
