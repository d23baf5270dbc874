"""FSD50K's manifests: which chunks belong to which clip, and its labels. Sounds are read when they are asked for.

A manifest (chunks/tr.csv, val.csv, eval.csv) has the columns files, labels (with commas between names) and ext, the clip.
Its paths begin with a folder of the machine that wrote it. What counts is their end, below the folder of the data.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from orca_cli import signals
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Reporter
from orca_cli.tasks.fsd50k import log_mel, wav
from orca_cli.tasks.shared.published import read_text

_MAX_TABLE_BYTES = 2**29
_MAX_LABELS = 10_000
_SAMPLED_FILES = 64  # whose content enters the digest of a split
HINT = "unpack the archive there again"


@dataclass(frozen=True)
class Table:
    """The chunks of a split, clip by clip.

    Args:
        folder: that the files lie below.
        files: paths of the chunks, relative to it, clip by clip.
        clips: [chunks] int64, ascending, the clip of each chunk.
        labels: [clips, K] uint8 of 0 and 1.
    """

    folder: Path
    files: Sequence[str]
    clips: np.ndarray
    labels: np.ndarray

    def sounds(self, rows: Sequence[int]) -> np.ndarray:
        """Return the chunks of these rows, [B, 22050]; shorter ones are repeated, longer ones cut."""
        return np.stack([wav.read(self.folder / self.files[row], log_mel.RATE, log_mel.RATE) for row in rows])

    def digest(self, form: str) -> str:
        """Return a SHA-256 over paths, clips, labels, and the bytes of some files, evenly spread; not of all 24 GB."""
        digest = hashlib.sha256(f"fsd50k {form} {self.labels.shape}".encode())
        for file in self.files:
            digest.update(f"{file}\n".encode())
        digest.update(self.clips.tobytes())
        digest.update(self.labels.tobytes())
        for row in np.unique(np.linspace(0, len(self.files) - 1, _SAMPLED_FILES).astype(int)):
            place = self.folder / self.files[row]
            try:
                with open(place, "rb") as sound:
                    digest.update(hashlib.file_digest(sound, "sha256").digest())
            except OSError as error:
                raise DataError(f"cannot be read ({error.strerror})", where=str(place), hint=HINT) from error
        return digest.hexdigest()


def read_table(folder: Path, place: Path, names: Sequence[str], reporter: Reporter) -> Table:
    """Read a manifest; clips keep the order of their first rows.

    Args:
        folder: that the files lie below.
        place: the manifest.
        names: the labels by number.
        reporter: shows progress.

    Raises:
        DataError: columns are missing, a label is unknown, or chunks of a clip have different labels.
    """
    numbers = {name: k for k, name in enumerate(names)}
    clips: dict[str, tuple[str, list[str]]] = {}  # clip -> labels as written, its files
    reader = csv.DictReader(io.StringIO(read_text(place, _MAX_TABLE_BYTES, HINT)))
    if not {"files", "labels", "ext"} <= set(reader.fieldnames or ()):
        raise DataError("the columns files, labels and ext are needed", where=str(place), hint=HINT)
    tail: int | None = None
    try:
        with reporter.track(f"reading {place.name}", 1) as advance:
            for count, row in enumerate(reader):
                if count % 10_000 == 0:
                    signals.check()
                file, labels, clip = (row[name] or "" for name in ("files", "labels", "ext"))
                if not file or not clip:
                    raise DataError("a field is empty", where=f"{place}, line {reader.line_num}", hint=HINT)
                parts = _parts(file, f"{place}, line {reader.line_num}")
                tail = _tail(folder, parts, place) if tail is None else tail
                if clips.setdefault(clip, (labels, []))[0] != labels:
                    what = f"clip '{clip}' has other labels than in the rows before"
                    raise DataError(what, where=f"{place}, line {reader.line_num}", hint=HINT)
                clips[clip][1].append("/".join(parts[-tail:]))
            advance()
    except csv.Error as error:
        raise DataError(f"is not a table ({error})", where=f"{place}, line {reader.line_num}", hint=HINT) from error
    if not clips:
        raise DataError("has no rows", where=str(place), hint=HINT)
    found = np.zeros((len(clips), len(names)), np.uint8)
    for index, (clip, (labels, _)) in enumerate(clips.items()):
        for label in labels.split(","):
            if label.strip() not in numbers:
                what = f"clip '{clip}' has the label '{label.strip()[:40]}', which the map of labels does not have"
                raise DataError(what, where=str(place), hint=HINT)
            found[index, numbers[label.strip()]] = 1
    sizes = [len(files) for _, files in clips.values()]
    return Table(
        folder, [file for _, files in clips.values() for file in files], np.repeat(np.arange(len(sizes)), sizes), found
    )


def _parts(file: str, where: str) -> tuple[str, ...]:
    """Return the parts of a path without its root."""
    parts = tuple(part for part in PurePosixPath(file.replace("\\", "/")).parts if part not in ("/", "."))
    if ".." in parts or not parts:
        raise DataError(f"'{file[:60]}' leaves the folder of the data", where=where, hint=HINT)
    return parts


def _tail(folder: Path, parts: tuple[str, ...], place: Path) -> int:
    """Return how many of a path's last parts lead from the folder to a file: the most that do."""
    for size in range(len(parts), 0, -1):
        if folder.joinpath(*parts[-size:]).is_file():
            return size
    what = f"no end of '{'/'.join(parts)}', the first path, leads to a file below {folder}"
    raise DataError(what, where=str(place), hint=HINT)


def label_names(place: Path) -> tuple[str, ...]:
    """Return the names of the labels by number, from a JSON map of names to numbers.

    Raises:
        DataError: not such a map, or the numbers are not 0..K-1.
    """
    try:
        numbers = json.loads(read_text(place, _MAX_TABLE_BYTES, HINT))
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON ({error})", where=str(place), hint=HINT) from error
    if not isinstance(numbers, dict) or not 0 < len(numbers) <= _MAX_LABELS:
        raise DataError("is not a map from names of labels to numbers", where=str(place), hint=HINT)
    plain = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers.values())
    if not plain or sorted(numbers.values()) != list(range(len(numbers))):
        raise DataError(f"the numbers of the labels are not 0..{len(numbers) - 1}", where=str(place), hint=HINT)
    return tuple(sorted(numbers, key=numbers.__getitem__))
