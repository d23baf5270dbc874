"""Where the stamps of deepCR's ACS/WFC training set lie, and what one of them holds.

Layout: npy_train/ and npy_test/, below each <filter>/<proposal>/<visit>/ with stamps <exposure>_....npy and sky.npy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from orca_cli.data.untrusted import arrays
from orca_cli.data.untrusted.first_bytes import read_text
from orca_cli.exceptions import ConfigError, DataError, UnsafeError

SKY = "sky.npy"
FOLDERS = {"train": "npy_train", "test": "npy_test"}
_DEPTH = 5  # npy_train, filter, proposal, visit, file
_MOST_BYTES = 64 * 2**20  # of a list of files


@dataclass(frozen=True)
class Stamp:
    """A cut-out of one exposure, [H, W] each."""

    image: np.ndarray  # float32, counts
    mask: np.ndarray  # float32, 1 where a cosmic ray hit
    ignored: np.ndarray  # bool, where the mask is not known


def list_stamps(root: Path, part: str, band: str, keys: frozenset[str] | None) -> list[PurePosixPath]:
    """Return the stamps of a part ("train" or "test") in sorted order, relative to `root`.

    These are the ones listed in `<part>_dirs.npy` if that file exists and no keys are given, else all in the folder; always
    of one filter, the `band`, and only of the visits (proposal_visit) in `keys`, where these are given.

    Raises:
        DataError: there are no stamps, or the list names files of the other part or missing files.
        UnsafeError: the list leads out of the folder.
    """
    folder = FOLDERS[part]
    listed = root / f"{part}_dirs.npy"
    if keys is None and listed.is_file():
        stamps = _listed(listed, folder)
        if missing := [stamp for stamp in stamps if not (root / stamp).is_file()]:
            what = f"names {len(missing)} missing files, the first is '{missing[0]}'"
            raise DataError(what, where=str(listed), hint="remove the list to use what the folder holds")
    else:
        paths = (root / folder / band).glob("*/*/*.npy")
        stamps = [PurePosixPath(path.relative_to(root).as_posix()) for path in paths if path.name != SKY]
    chosen = [stamp for stamp in stamps if stamp.parts[1] == band and (keys is None or visit_key(stamp) in keys)]
    if not chosen:
        there = sorted(path.name for path in (root / folder).iterdir() if path.is_dir())
        what = f"no stamp of filter {band}" + ("" if keys is None else " and of the visits in task.keys")
        raise DataError(what, where=str(root / folder), hint=f"filters there: {', '.join(there[:10]) or 'none'}")
    return sorted(chosen)


def visit_key(stamp: PurePosixPath) -> str:
    """Return proposal_visit of a stamp."""
    return f"{stamp.parts[2]}_{stamp.parts[3]}"


def read_keys(path: str, field: str | None, root: Path) -> frozenset[str]:
    """Return the visits named in a text file, one per line: proposal_visit, and after a space its field type.

    Args:
        path: of the file, from the working folder or else from `root`, the task's folder.
        field: use only lines with this field type; None uses all.

    Raises:
        ConfigError: no such file.
        DataError: no line of this field type.
    """
    requested = Path(path).expanduser()
    place = next((place for place in (requested, root / requested) if place.is_file()), None)
    if place is None:
        raise ConfigError(f"no file '{requested}'", where="task.keys", hint="a text file, one proposal_visit per line")
    lines = [line.split() for line in read_text(place, _MOST_BYTES).splitlines() if line.strip()]
    keys = frozenset(words[0] for words in lines if field is None or field in words[1:])
    if not keys:
        what = "names no visit" + (f" with field type {field}" if field else "")
        raise DataError(what, where=str(place), hint="one per line: 12345_01 GAL")
    return keys


def read_stamp(path: Path, start: int, size: int) -> Stamp:
    """Return rows and columns start..start+size-1 of a stamp; pixels that are not finite are ignored.

    The file holds [3, H, W] = image, mask, ignore; or [2, H, W] = image, mask.

    Raises:
        DataError: another shape, or a mask of other values than 0 and 1.
    """
    stored = arrays.open_arrays(path, str(path))[""]
    shape = stored.shape
    if len(shape) != 3 or shape[0] not in (2, 3) or stored.dtype.kind not in "fiub":
        raise DataError(f"{stored.dtype} {shape}, expected numbers (2 or 3, H, W)", where=str(path))
    if min(shape[1:]) < start + size:
        what = f"{shape[1]} x {shape[2]} pixels, too few for {start}..{start + size - 1}"
        raise DataError(what, where=str(path), hint="lower task.crop_start or task.crop_size")
    inside = slice(start, start + size)
    planes = np.array(stored.read()[:, inside, inside], dtype=np.float32)
    for name, plane in zip(("mask", "ignore mask"), planes[1:], strict=False):
        if not ((plane == 0) | (plane == 1)).all():
            raise DataError(f"the {name} has other values than 0 and 1", where=str(path))
    ignored = planes[2] == 1 if len(planes) == 3 else np.zeros(planes.shape[1:], bool)
    return Stamp(planes[0], planes[1], ignored | ~np.isfinite(planes[0]))


def read_sky(path: Path) -> float:
    """Return the sky level of the exposure that a stamp is cut from, in counts; 0 where the visit has no sky.npy.

    Raises:
        DataError: the stamp's name does not begin with the exposure's number, or sky.npy has no finite level for it.
    """
    file = path.with_name(SKY)
    if not file.is_file():
        return 0.0
    stored = arrays.open_arrays(file, str(file))[""]
    if stored.dtype.kind not in "fiu":
        raise DataError(f"holds {stored.dtype}, expected one sky level per exposure", where=str(file))
    levels = np.asarray(stored.read(), dtype=np.float64).reshape(-1)
    number = re.match(r"\d+(?=_)", path.name)
    exposure = int(number.group()) if number else 0
    if not 1 <= exposure <= len(levels) or not np.isfinite(levels[exposure - 1]):
        what = f"has no level for '{path.name}': {len(levels)} exposures, numbered from 1"
        raise DataError(what, where=str(file), hint="names of stamps begin with the number of the exposure and _")
    return float(levels[exposure - 1])


def _listed(path: Path, folder: str) -> list[PurePosixPath]:
    """Return the paths in a list from `folder` on: what comes before is specific to the machine that wrote the list."""
    stamps = []
    for name in np.asarray(arrays.load_object(path, max_bytes=_MOST_BYTES)).reshape(-1):
        parts = PurePosixPath(str(name).replace("\\", "/")).parts
        if ".." in parts:
            raise UnsafeError(f"'{name}' leads out of the folder", where=str(path), hint="remove the list")
        tail = parts[-_DEPTH:]
        if len(tail) < _DEPTH or tail[0] != folder or not tail[-1].endswith(".npy"):
            what = f"'{name}' is not {folder}/filter/proposal/visit/file.npy"
            raise DataError(what, where=str(path), hint="remove the list")
        stamps.append(PurePosixPath(*tail))
    return list(dict.fromkeys(stamps))
