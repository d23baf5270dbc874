"""Cosmic: where cosmic rays hit exposures of Hubble's ACS/WFC camera; deepCR's stamps (Zhang & Bloom 2020).

Restricted to one filter, as NAS-Bench-360 (Tu et al. 2022) does. A dense task with one label, hit or not. The files lie in
npy_train/ and npy_test/, below each <filter>/<proposal>/<visit>/ with stamps <exposure>_....npy and sky.npy.

Shapes: n stamps, S pixels per side.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from orca_cli import signals
from orca_cli.config.ranges import Count, CountOrZero, Fraction, Seed
from orca_cli.data.generated import MapSamples
from orca_cli.data.published import AGAIN, check_array, fault, find, refuse
from orca_cli.data.untrusted import arrays
from orca_cli.data.untrusted.pickle import unpickle
from orca_cli.exceptions import DataError, UnsafeError
from orca_cli.interfaces import Reporter, TaskData
from orca_cli.seeding import numpy_generator

_SKY = "sky.npy"
_FOLDERS = {"train": "npy_train", "test": "npy_test"}
_DEPTH = 5  # npy_train, filter, proposal, visit, file
_MOST_BYTES = 64 * 2**20  # of a list of files
_SAMPLED = 256  # stamps used for the statistics
_NORMAL = 1.4826  # deviation of a normal distribution in units of its median absolute deviation


@dataclass(frozen=True)
class Form:
    """How a stamp becomes a sample: a crop of `size` x `size` pixels from row and column `start` on, with some sky added.

    Sky is drawn anew in optimizer steps; with `sky_at_test` elsewhere too, by one draw for each file. All fields are in the
    digest of a split.
    """

    start: int
    size: int
    sky_at_test: bool
    sky_low: float = (
        -0.9
    )  # the share of the sky's level that is added to an image is drawn from here
    sky_high: float = 3.0
    ignored: str = "missing"  # the target where the mask is not known
    centre: float = 0.0  # subtracted from the counts, which `spread` then divides
    spread: float = 1.0


class Stamps(MapSamples):
    """Samples (see interfaces) over n stamps of a part, train, validation or test; `stamps` are paths relative to `root`.

    The groups are the visits, numbered within the split. A record has the level of the sky, the SHA-256 of the crop, and the
    number of pixels that are not finite.
    """

    def __init__(
        self,
        root: Path,
        part: str,
        stamps: Sequence[PurePosixPath],
        form: Form,
        cache: Path,
        reporter: Reporter,
    ):
        self._root, self.stamps, self._form = root, tuple(stamps), form
        skies = sorted({(root / stamp).with_name(_SKY) for stamp in stamps})
        super().__init__(
            cache,
            f"cosmic-{part}",
            reporter,
            count=len(stamps),
            shape=(1, form.size, form.size),
            files=[*(root / stamp for stamp in stamps), *(sky for sky in skies if sky.is_file())],
            settings={"start": form.start, "size": form.size, "ignored": form.ignored},
            facts={"stamps": [str(stamp) for stamp in stamps], "form": asdict(form)},
        )

    def read_target(self, index: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the target [S, S], 1 where a ray hit, 0 elsewhere, NaN where that is not known, and the record."""
        path = self._root / self.stamps[index]
        image, mask, ignored = read_stamp(path, self._form)
        content = hashlib.sha256(image.tobytes() + mask.tobytes() + ignored.tobytes()).hexdigest()
        broken = int((~np.isfinite(image)).sum())
        return np.where(ignored, np.nan, mask), {
            "sha256": content,
            "sky": read_sky(path),
            "broken": broken,
        }

    def read(
        self, index: int, augment: np.random.Generator | None
    ) -> tuple[np.ndarray, bool, None]:
        """Return the image [1, S, S], scaled, 0 at pixels that are not finite; with `augment`, a part of the sky is added."""
        image, _, _ = read_stamp(self._root / self.stamps[index], self._form)
        share = 0.0
        if augment is not None or self._form.sky_at_test:
            generator = augment or numpy_generator(0, "cosmic", "sky", str(self.stamps[index]))
            share = float(generator.uniform(self._form.sky_low, self._form.sky_high))
        # float64: the sky is large beside what remains after the centre is gone.
        counts = image.astype(np.float64) + self.records[index]["sky"] * share
        return (
            np.where(np.isfinite(image), (counts - self._form.centre) / self._form.spread, 0.0)[
                None
            ],
            True,
            None,
        )

    def groups(self) -> np.ndarray:
        """Return the visit of each stamp, [n] int64."""
        return np.unique(
            ["_".join(stamp.parts[2:4]) for stamp in self.stamps], return_inverse=True
        )[1].astype(np.int64)


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    path: str | None = None,
    filter: str = "f435w",
    crop_start: CountOrZero = 64,
    crop_size: Count = 128,
    sky_at_test: bool = False,
    normalize: bool = True,
    validation_fraction: Fraction = 0.1,
    validation_unit: Literal["visit", "exposure"] = "visit",
    split_seed: Seed = 0,
    train_on_validation: bool = False,
) -> TaskData:
    """Return x [n, 1, S, S], an image, and y [n, 1, S, S], 1 where a cosmic ray hit, NaN where that is not known.

    The official test stamps are the test split. The masks take 4 S^2 bytes a stamp in the cache. Whole visits keep a field
    of the sky in one split.
    """
    form = Form(crop_start, crop_size, sky_at_test)
    root = find(data_folder, "cosmic", list(_FOLDERS.values()), path)[0].parent
    stamps, test_stamps = (list_stamps(root, part, filter) for part in _FOLDERS)
    held_out = _held_out(stamps, validation_fraction, validation_unit, split_seed)
    learned = stamps if train_on_validation else [s for s in stamps if s not in held_out]
    form = _scaled(form, root, learned) if normalize else form
    return TaskData(
        kind="dense",
        input_shape=(1, crop_size, crop_size),
        num_outputs=1,
        train=Stamps(root, "train", learned, form, cache_folder, reporter),
        validation=Stamps(root, "validation", sorted(held_out), form, cache_folder, reporter),
        open_test=lambda: Stamps(root, "test", test_stamps, form, cache_folder, reporter),
        class_names=("cosmic ray",),
    )


def list_stamps(root: Path, part: str, band: str) -> list[PurePosixPath]:
    """Return the stamps of a part, train or test, and of a filter, sorted, as paths relative to `root`.

    They are those listed in `<part>_dirs.npy` in `root`, or all where there is no list. Only the last five parts of a listed
    path count, `npy_<part>/filter/proposal/visit/file`; what stands before them is of the machine that wrote the list.
    DataError where a listed file is not there, or no stamp has this filter; UnsafeError where a path leads out of the folder.
    """
    folder, listed = _FOLDERS[part], root / f"{part}_dirs.npy"
    if listed.is_file():
        stamps = []
        for name in np.asarray(unpickle(listed, max_bytes=_MOST_BYTES)).reshape(-1):
            parts = PurePosixPath(str(name)).parts[-_DEPTH:]
            if ".." in parts:
                raise UnsafeError(
                    f"'{name}' leads out of the folder", where=str(listed), hint="remove the list"
                )
            if len(parts) < _DEPTH or parts[0] != folder or not root.joinpath(*parts).is_file():
                what = (
                    f"'{name}' is not a file {folder}/filter/proposal/visit/file.npy that is there"
                )
                raise DataError(
                    what, where=str(listed), hint="remove the list to use what the folder holds"
                )
            stamps.append(PurePosixPath(*parts))
    else:
        paths = (root / folder / band).glob("*/*/*.npy")
        stamps = [
            PurePosixPath(path.relative_to(root).as_posix()) for path in paths if path.name != _SKY
        ]
    chosen = sorted({stamp for stamp in stamps if stamp.parts[1] == band})
    if not chosen:
        hint = f"task.filter is one of the folders in {folder}"
        raise DataError(f"no stamp of filter {band}", where=str(root / folder), hint=hint)
    return chosen


def read_stamp(path: Path, form: Form) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the crop of a stamp, [S, S] each: counts, float32; 1 where a ray hit, float32; whether that is not known, bool.

    The file holds [3, H, W] = image, mask, ignore; or [2, H, W] = image, mask. Pixels that are not finite are ignored.
    DataError for another form, a file that the crop does not fit into, and masks with other values than 0 and 1.
    """
    end = form.start + form.size
    stored = arrays.open_arrays(path, str(path), AGAIN)[""]
    shape = stored.shape
    if (
        len(shape) != 3
        or shape[0] not in (2, 3)
        or stored.dtype.kind not in "fiub"
        or min(shape[1:]) < end
    ):
        what = f"{stored.dtype} {shape}, expected numbers (2 or 3, H, W) with H, W of {end} or more"
        raise DataError(what, where=str(path), hint="lower task.crop_start or task.crop_size")
    image, *masks = np.array(stored.read()[:, form.start : end, form.start : end], dtype=np.float32)
    for mask in masks:
        check_array(mask, mask.shape, str(path), "a mask", holds="binary")
    return image, masks[0], ~np.isfinite(image) | (masks[-1] == 1 if len(masks) == 2 else False)


def read_sky(path: Path) -> float:
    """Return the sky level of the exposure that a stamp is cut from, in counts; 0 where the visit has no sky.npy.

    That file has one level for each exposure of the visit, and the name of a stamp begins with the number of its exposure,
    from 1. DataError where there is no finite level for it.
    """
    file = path.with_name(_SKY)
    if not file.is_file():
        return 0.0
    levels = arrays.open_arrays(file, str(file), AGAIN)[""].read().reshape(-1)
    number = path.name.partition("_")[0]
    exposure = int(number) if number.isdecimal() else 0  # before the _
    if (
        levels.dtype.kind not in "fiu"
        or not 1 <= exposure <= len(levels)
        or not np.isfinite(levels[exposure - 1])
    ):
        raise fault(
            f"has no level for '{path.name}': {levels.dtype} of {len(levels)} exposures, numbered from 1",
            file,
        )
    return float(levels[exposure - 1])


def _held_out(
    stamps: list[PurePosixPath], fraction: float, unit: str, seed: int
) -> set[PurePosixPath]:
    """Return the validation stamps: units in a seeded order until the fraction is best met, at least one."""
    units: dict[str, list[PurePosixPath]] = {}
    for stamp in stamps:
        units.setdefault("_".join(stamp.parts[2:4]) if unit == "visit" else str(stamp), []).append(
            stamp
        )
    if len(units) < 2:
        what = f"{len(units)} {unit} cannot be split into training and validation"
        raise DataError(
            what, where="task.validation_unit", hint="use exposure, or give more stamps"
        )
    names = sorted(units)
    target_count, chosen = fraction * len(stamps), set[PurePosixPath]()
    for place in numpy_generator(seed, "cosmic", "validation").permutation(len(names))[:-1]:
        members = units[names[place]]
        if chosen and abs(len(chosen) + len(members) - target_count) >= abs(
            len(chosen) - target_count
        ):
            break
        chosen.update(members)
    return chosen


def _scaled(form: Form, root: Path, stamps: Sequence[PurePosixPath]) -> Form:
    """Return the form with median and scaled median absolute deviation of the training pixels that are not ignored.

    Stars and hits are outliers and hardly move these.
    """
    values = []
    for index in np.sort(
        numpy_generator(0, "cosmic", "statistics").permutation(len(stamps))[:_SAMPLED]
    ):
        signals.check()
        image, _, ignored = read_stamp(root / stamps[index], form)
        values.append(image[~ignored])
    pixels = np.concatenate(values).astype(np.float64)
    refuse(not len(pixels), "every pixel of the training stamps is ignored", root)
    centre = float(np.median(pixels))
    spread = _NORMAL * float(np.median(np.abs(pixels - centre))) or float(pixels.std()) or 1.0
    return replace(form, centre=centre, spread=spread)
