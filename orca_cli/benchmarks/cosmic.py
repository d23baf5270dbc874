"""Cosmic: the pixels that cosmic rays hit in exposures of Hubble's ACS/WFC camera.

The data are the stamps of deepCR (Zhang & Bloom 2020), restricted to one filter as in NAS-Bench-360
(Tu et al. 2022). The task is dense with one label, hit or not. The folders npy_train/ and npy_test/
contain folders <filter>/<proposal>/<visit>/ with stamps <exposure>_....npy and a file sky.npy.

Shapes: n stamps, H x W pixels of a file, S pixels per side of the crop.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from orca_cli import signals
from orca_cli.config.ranges import Count, CountOrZero, Fraction, Seed
from orca_cli.data.generated import MapSamples
from orca_cli.data.published import AGAIN, check_array, fault, find
from orca_cli.data.untrusted import arrays
from orca_cli.data.untrusted.pickle import unpickle
from orca_cli.exceptions import DataError, UnsafeError
from orca_cli.interfaces import Reporter, TaskData
from orca_cli.seeding import numpy_generator

_SKY = "sky.npy"
_FOLDERS = {"train": "npy_train", "test": "npy_test"}
_DEPTH = 5  # npy_train, filter, proposal, visit, file
_MAX_LIST_BYTES = 2**26  # 64 MiB
_SAMPLED = 256  # number of stamps that the statistics use
# Standard deviation of a normal distribution, divided by its median absolute deviation.
_NORMAL = 1.4826


@dataclass(frozen=True)
class Form:
    """The way from a stamp to a sample.

    A sample is a crop of `size` x `size` pixels that begins at row and column `start`. In each
    optimizer step, the level of the sky times a random factor is added. With `sky_at_test`, such a
    product is also added outside of optimizer steps, with one factor for each file. All fields are
    in the digest of a split.
    """

    start: int
    size: int
    sky_at_test: bool
    # The range of the random factor on the sky's level.
    sky_low: float = -0.9
    sky_high: float = 3.0
    ignored: str = "missing"  # kind of target at pixels whose mask is not known
    centre: float = 0.0  # subtracted from the counts, which are then divided by `spread`
    spread: float = 1.0


class Stamp(NamedTuple):
    """The crop of a stamp; all arrays are [S, S]."""

    image: np.ndarray  # float32, counts
    mask: np.ndarray  # float32, 1 at pixels that a ray hit
    is_ignored: np.ndarray  # bool, True at pixels whose mask is not known


class Stamps(MapSamples):
    """Samples (see interfaces) over the n stamps of a split: train, validation or test.

    `stamps` are paths relative to `root`. The groups are the visits, numbered within the split. The
    record of a stamp has the level of the sky, the SHA-256 of the crop, and the number of pixels
    that are not finite.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        stamps: Sequence[PurePosixPath],
        form: Form,
        cache: Path,
        reporter: Reporter,
    ):
        self._root = root
        self._form = form
        self.stamps = tuple(stamps)
        paths = [root / stamp for stamp in stamps]
        # Several stamps share the sky file of their visit, and some visits have no such file.
        sky_files = sorted({path.with_name(_SKY) for path in paths})
        sky_files = [file for file in sky_files if file.is_file()]
        super().__init__(
            cache,
            f"cosmic-{split}",
            reporter,
            count=len(paths),
            shape=(1, form.size, form.size),
            files=[*paths, *sky_files],
            # The cached masks depend only on these settings; sky and scale are applied when an
            # image is read.
            settings={"start": form.start, "size": form.size, "ignored": form.ignored},
            facts={"stamps": [str(stamp) for stamp in stamps], "form": asdict(form)},
        )

    def read_target(self, index: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the target [S, S] and the record.

        The target is 1 at pixels that a ray hit, 0 at other pixels, and NaN if this is not known.
        """
        path = self._root / self.stamps[index]
        stamp = read_stamp(path, self._form)
        # Part of the record, so that the digest of a split covers the content of the files.
        content = hashlib.sha256()
        for array in stamp:
            content.update(array.tobytes())
        num_broken = np.count_nonzero(~np.isfinite(stamp.image))
        record = {
            "sha256": content.hexdigest(),
            "sky": read_sky(path),
            "broken": int(num_broken),
        }
        return np.where(stamp.is_ignored, np.nan, stamp.mask), record

    def read(
        self, index: int, augment: np.random.Generator | None
    ) -> tuple[np.ndarray, bool, None]:
        """Return the scaled image [1, S, S], with 0 at pixels that are not finite.

        With `augment`, the level of the sky times a random factor is added.
        """
        form = self._form
        stamp = self.stamps[index]
        image = read_stamp(self._root / stamp, form).image
        sky_share = 0.0
        if augment is not None or form.sky_at_test:
            # Outside of optimizer steps, a stamp always gets the same factor.
            generator = augment or numpy_generator(0, "cosmic", "sky", str(stamp))
            sky_share = float(generator.uniform(form.sky_low, form.sky_high))
        added_sky = self.records[index]["sky"] * sky_share
        # In float64, since sky and centre nearly cancel and are much larger than their difference.
        counts = image.astype(np.float64) + added_sky
        scaled = (counts - form.centre) / form.spread
        finite = np.where(np.isfinite(image), scaled, 0.0)
        # [1, S, S]: one channel.
        return finite[None], True, None

    def groups(self) -> np.ndarray:
        """Return the visit of each stamp, [n] int64."""
        visits = [_visit(stamp) for stamp in self.stamps]
        _, visit_numbers = np.unique(visits, return_inverse=True)
        return visit_numbers.astype(np.int64)


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    path: Annotated[
        str | None,
        "folder that contains the folders npy_train and npy_test; "
        "null: folder cosmic of the data folder (paths.data)",
    ] = None,
    filter: Annotated[
        str, "filter of the camera: the name of a folder in npy_train and npy_test"
    ] = "f435w",
    crop_start: Annotated[CountOrZero, "first row and column of the crop: 0 or more"] = 64,
    crop_size: Annotated[Count, "number of rows and columns of the crop: 1 or more"] = 128,
    sky_at_test: Annotated[
        bool,
        "true: in stage 2, validation and test, a random multiple of the sky's level is added to "
        "each image, drawn once per file; false: nothing is added there. In optimizer steps, such "
        "a multiple is always added, drawn again in each step",
    ] = False,
    normalize: Annotated[
        bool,
        "true: scale by the median and median absolute deviation of training pixels; "
        "false: raw counts",
    ] = True,
    validation_fraction: Annotated[
        Fraction, "fraction of the training stamps for validation: above 0 and below 1"
    ] = 0.1,
    validation_unit: Annotated[
        Literal["visit", "exposure"],
        "choice of the validation stamps. visit: whole visits are drawn; "
        "exposure: single stamps are drawn",
    ] = "visit",
    split_seed: Annotated[
        Seed, "seed of the draw of validation stamps, 0..2147483647; not the seed of the run"
    ] = 0,
    train_on_validation: Annotated[
        bool, "true: train on the validation stamps as well; if so, also set train.select=last"
    ] = False,
) -> TaskData:
    """Return images x [n, 1, S, S] and masks y [n, 1, S, S].

    y is 1 at pixels that a cosmic ray hit, and NaN if this is not known. The official test stamps
    are the test split. The masks take 4 S^2 bytes per stamp in the cache. If whole visits are
    drawn, all stamps of a field of the sky are in the same split.
    """
    train_folder, _ = find(data_folder, "cosmic", list(_FOLDERS.values()), path)
    root = train_folder.parent
    stamps = list_stamps(root, "train", filter)
    test_stamps = list_stamps(root, "test", filter)
    # The data have no validation split.
    held_out = _held_out(stamps, validation_fraction, validation_unit, split_seed)
    learned = stamps
    if not train_on_validation:
        learned = [stamp for stamp in stamps if stamp not in held_out]
    form = Form(start=crop_start, size=crop_size, sky_at_test=sky_at_test)
    if normalize:
        form = _scaled(form, root, learned)
    samples = partial(Stamps, root, form=form, cache=cache_folder, reporter=reporter)
    return TaskData(
        kind="dense",
        input_shape=(1, crop_size, crop_size),
        num_outputs=1,
        train=samples("train", learned),
        # Sorted, since a set has no fixed order.
        validation=samples("validation", sorted(held_out)),
        open_test=lambda: samples("test", test_stamps),
        class_names=("cosmic ray",),
    )


def list_stamps(root: Path, split: str, band: str) -> list[PurePosixPath]:
    """Return the stamps of a split, train or test, with one filter (`band`), sorted.

    The stamps are paths relative to `root`. If `root` has a list `<split>_dirs.npy`, only the
    stamps in the list are used. Raises DataError if a listed file does not exist or no stamp has
    this filter, and UnsafeError if a path leads out of the folder.
    """
    folder = _FOLDERS[split]
    list_file = root / f"{split}_dirs.npy"
    if list_file.is_file():
        stamps = _listed_stamps(list_file, folder)
    else:
        stamps = []
        for path in (root / folder / band).glob("*/*/*.npy"):
            if path.name != _SKY:
                relative = path.relative_to(root)
                stamps.append(PurePosixPath(relative.as_posix()))
    # A set, since a list may name a stamp twice.
    stamps_of_band = {stamp for stamp in stamps if stamp.parts[1] == band}
    if not stamps_of_band:
        raise DataError(
            f"has no stamps of filter '{band}'",
            where=str(root / folder),
            hint=f"set task.filter to the name of a folder in {folder}",
        )
    return sorted(stamps_of_band)


def _listed_stamps(list_file: Path, folder: str) -> list[PurePosixPath]:
    """Return the stamps of a list, as paths relative to its folder.

    Only the end of a path is used, `npy_<split>/filter/proposal/visit/file`. The folders before it
    are folders of the machine that wrote the list.
    """
    old_paths = np.asarray(unpickle(list_file, max_bytes=_MAX_LIST_BYTES))
    stamps = []
    for old_path in old_paths.reshape(-1):
        path_end = PurePosixPath(str(old_path)).parts[-_DEPTH:]
        # Checked first, since a path outside of the folder must not even be looked up.
        if ".." in path_end:
            raise UnsafeError(
                f"contains '{old_path}', which leads out of the folder",
                where=str(list_file),
                hint="remove the list",
            )
        stamp = PurePosixPath(*path_end)
        is_deep = len(path_end) == _DEPTH and path_end[0] == folder
        if not is_deep or not (list_file.parent / stamp).is_file():
            raise DataError(
                f"contains '{old_path}', which does not end in the path of an existing file "
                f"{folder}/FILTER/PROPOSAL/VISIT/FILE.npy",
                where=str(list_file),
                hint="remove the list to use all files of the folder",
            )
        stamps.append(stamp)
    return stamps


def _visit(stamp: PurePosixPath) -> str:
    """Return the name of a stamp's visit: proposal and number of the visit within the proposal."""
    # parts: npy_train, filter, proposal, visit, file.
    return "_".join(stamp.parts[2:4])


def read_stamp(path: Path, form: Form) -> Stamp:
    """Return the crop of a stamp.

    The file contains [3, H, W] = image, mask, ignore; or [2, H, W] = image, mask. Pixels that are
    not finite are ignored. Raises DataError for another form, for a file that is smaller than the
    crop, and for masks with values other than 0 and 1.
    """
    end = form.start + form.size
    # This call reads only the header, since a file may be larger than the crop.
    stored = arrays.open_arrays(path, str(path), AGAIN)[""]
    shape = stored.shape
    has_planes = len(shape) == 3 and shape[0] in (2, 3)
    if not has_planes or stored.dtype.kind not in "fiub" or min(shape[1:]) < end:
        raise DataError(
            f"is {stored.dtype} {shape}, expected numbers (2 or 3, H, W) with H and W at least "
            f"{end}",
            where=str(path),
            hint="lower task.crop_start or task.crop_size",
        )
    crop = slice(form.start, end)
    planes = np.array(stored.read()[:, crop, crop], dtype=np.float32)  # [2 or 3, S, S]
    for mask in planes[1:]:
        check_array(mask, mask.shape, str(path), "a mask", holds="binary")
    is_ignored = ~np.isfinite(planes[0])
    if len(planes) == 3:  # the last plane marks the pixels to ignore
        is_ignored |= planes[2] == 1
    return Stamp(image=planes[0], mask=planes[1], is_ignored=is_ignored)


def read_sky(path: Path) -> float:
    """Return the sky level, in counts, of the exposure from which a stamp is cut.

    The file sky.npy has one level for each exposure of the visit, and the name of a stamp begins
    with the number of its exposure, counted from 1. The level is 0 if the visit has no such file.
    Raises DataError if the exposure has no finite level.
    """
    file = path.with_name(_SKY)
    if not file.is_file():
        return 0.0
    stored = arrays.open_arrays(file, str(file), AGAIN)[""]
    levels = stored.read().reshape(-1)
    exposure_text, _, _ = path.name.partition("_")
    exposure = 0  # if the name does not begin with a number
    if exposure_text.isdecimal():
        exposure = int(exposure_text)
    has_level = levels.dtype.kind in "fiu" and 1 <= exposure <= len(levels)
    if not has_level or not np.isfinite(levels[exposure - 1]):
        raise fault(
            f"has no finite sky level for the exposure of '{path.name}'; the array has type "
            f"{levels.dtype} and levels for exposures 1 to {len(levels)}",
            file,
        )
    return float(levels[exposure - 1])


def _held_out(
    stamps: Sequence[PurePosixPath], fraction: float, unit: str, seed: int
) -> set[PurePosixPath]:
    """Return the validation stamps, which come from at least one unit (visit or exposure).

    Whole units are added in a seeded random order, as long as each brings the number of stamps
    closer to the fraction.
    """
    units: dict[str, list[PurePosixPath]] = {}
    for stamp in stamps:
        unit_name = _visit(stamp) if unit == "visit" else str(stamp)
        units.setdefault(unit_name, []).append(stamp)
    if len(units) < 2:
        raise DataError(
            f"the data have {len(units)} {unit}, too few for training and validation",
            where="task.validation_unit",
            hint="set task.validation_unit=exposure, or add stamps",
        )
    # Sorted, so that the draw does not depend on the order of the files.
    unit_names = sorted(units)
    order = numpy_generator(seed, "cosmic", "validation").permutation(len(unit_names))
    # Counted in stamps, since visits differ in size.
    target_count = fraction * len(stamps)
    held_out: set[PurePosixPath] = set()
    # The last unit always stays in training.
    for unit_number in order[:-1]:
        unit_stamps = units[unit_names[unit_number]]
        distance = abs(len(held_out) - target_count)
        distance_with_unit = abs(len(held_out) + len(unit_stamps) - target_count)
        if held_out and distance_with_unit >= distance:
            break
        held_out.update(unit_stamps)
    return held_out


def _scaled(form: Form, root: Path, stamps: Sequence[PurePosixPath]) -> Form:
    """Return the form with centre and spread of the training pixels that are not ignored.

    They are the median and the scaled median absolute deviation, since outliers (stars and hits)
    have little influence on these.
    """
    order = numpy_generator(0, "cosmic", "statistics").permutation(len(stamps))
    known_pixels = []
    # A random sample of 256 stamps, which are read in the order of their names.
    for row in np.sort(order[:_SAMPLED]):
        signals.check()
        stamp = read_stamp(root / stamps[row], form)
        known_pixels.append(stamp.image[~stamp.is_ignored])
    pixels = np.concatenate(known_pixels).astype(np.float64)
    if not len(pixels):
        raise fault("all pixels of the sampled training stamps are masked or not finite", root)
    centre = float(np.median(pixels))
    deviations = np.abs(pixels - centre)
    spread = _NORMAL * float(np.median(deviations))
    # The median deviation is 0 if half of the pixels are equal, the standard deviation only if all
    # pixels are equal.
    spread = spread or float(pixels.std()) or 1.0
    return replace(form, centre=centre, spread=spread)
