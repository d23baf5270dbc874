"""The cache of generated data sets, and of targets that are maps with a separate file each.

Cached data are made once. Their checksums are saved with them, and compared at every read.

Shapes: n samples, B samples of a batch, C channels, H x W positions of a map.
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

# Version of the files that `MapSamples` writes; after a change, no cached copy is used any more.
_MAPS_VERSION = 1


def folder_of(
    cache_folder: Path,
    name: str,
    parameters: dict[str, int | float | str],
    make: Callable[[Path], None],
    reporter: Reporter,
) -> Path:
    """Return the folder of the data that `parameters` determine, cache_folder/generated/NAME-HASH.

    If the folder is missing or damaged, `make` fills it; other processes wait meanwhile. If writing
    fails or a signal asks to stop, no incomplete folder remains.

    Args:
        cache_folder: folder of the cache.
        name: NAME above.
        parameters: everything that the data depend on, including the version of the generator; also
            written to parameters.json in the folder.
        make: called with an empty temporary folder, which is renamed to the final name when `make`
            returns.
        reporter: reports that the data are being generated or waited for.
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
    """Samples (see interfaces) that are read one by one, with targets that are kept in the cache.

    Targets are a memory map [n, 1, H, W] float32. A subclass reads a target (`read_target`) and an
    input (`read`). Targets are read one at a time, so memory does not grow with the split. The
    cache needs 4 H W bytes per sample.

    Args:
        cache_folder: folder of the cache.
        name: name of the task and split, such as "psicov-train".
        reporter: shows progress.
        count: n.
        shape: shape of an input, (C, H, W).
        files: all files that are read; their names, sizes and modification times identify the
            targets in the cache. DataError if a file is missing.
        settings: everything else that the targets and their records depend on.
        facts: everything, apart from the records, that the samples depend on; written as JSON for
            the digest.
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
                # A header, then one map after the other, so that only one map is in memory.
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
        """Return the target [H, W] of a sample, and its record: further facts on it, as JSON."""

    @abstractmethod
    def read(
        self, index: int, augment: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray | bool, np.ndarray | None]:
        """Return an input [C, H, W], its mask [H, W] and its target [H, W].

        A mask may be just True, which means True everywhere. A target of None means the target in
        the cache.
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
        # A copy, since rows may be replaced and the pages of the map are released below.
        targets = np.array(self._maps[indices])
        for row, index in enumerate(indices):
            inputs[row], valid[row], target = self.read(int(index), augment)
            if target is not None:
                targets[row, 0] = target
        release_pages(self._maps)
        return Batch.from_arrays(inputs, targets, valid if self.masked else None)

    def targets(self) -> np.ndarray:
        """Return the targets [n, 1, H, W] float32 as a memory map; unknown targets are NaN."""
        return self._maps

    def groups(self) -> np.ndarray | None:
        """Return None: the samples are independent."""
        return None

    def digest(self) -> str:
        """Return a SHA-256 over the facts and records of the files when their targets were read."""
        facts_json = json.dumps(self._facts | {"records": self.records}, sort_keys=True)
        return hashlib.sha256(facts_json.encode()).hexdigest()


def _state_of(files: Sequence[Path]) -> str:
    """Return a SHA-256 over names, sizes and modification times of files.

    DataError if a file is missing. The content of the files is not read: reading gigabytes at every
    start would take minutes.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
        # A different size or time is assumed to mean different content.
        line = f"{path} {stat.st_size} {stat.st_mtime_ns}\n"
        digest.update(line.encode())
    return digest.hexdigest()
