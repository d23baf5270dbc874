"""Cosmic: where cosmic rays hit exposures of Hubble's ACS/WFC camera; deepCR's stamps (Zhang & Bloom 2020).

Restricted to one filter, as NAS-Bench-360 (Tu et al. 2022) does. A dense task with one label, hit or not.

Shapes: n stamps, S pixels per side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch

from orca_cli import signals
from orca_cli.benchmarks.cosmic.files import FOLDERS, SKY, list_stamps, read_keys, read_sky, read_stamp, visit_key
from orca_cli.config.ranges import Count, CountOrZero, Fraction, Seed
from orca_cli.data.generated import target_maps
from orca_cli.data.published import find, note, overlap_warning
from orca_cli.data.settings import check_rules
from orca_cli.data.untrusted.memory import release_pages
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Batch, Reporter, TaskData
from orca_cli.seeding import numpy_generator

_SAMPLED = 256  # stamps used for the statistics
_NORMAL = 1.4826  # deviation of a normal distribution in units of its median absolute deviation


@dataclass(frozen=True)
class Form:
    """How a stamp becomes a sample: settings of `load`, and what is subtracted from the counts, which `spread` then divides."""

    start: int
    size: int
    sky_low: float
    sky_high: float
    sky_at_test: bool
    ignored: str
    centre: float = 0.0
    spread: float = 1.0


class Stamps:
    """Samples (see interfaces) over n stamps relative to `root`: images read batch by batch, masks mapped from the cache."""

    def __init__(
        self, root: Path, part: str, stamps: Sequence[PurePosixPath], form: Form, cache: Path, reporter: Reporter
    ):
        self._root, self.stamps, self._form = root, tuple(stamps), form
        skies = sorted({(root / stamp).with_name(SKY) for stamp in stamps})
        self._targets = target_maps(
            cache,
            f"cosmic-{part}",
            {"start": form.start, "size": form.size, "ignored": form.ignored},
            [*(root / stamp for stamp in stamps), *(sky for sky in skies if sky.is_file())],
            (form.size, form.size),
            self._read,
            len(self.stamps),
            reporter,
        )

    def __len__(self) -> int:
        return len(self.stamps)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return x [B, 1, S, S] and y [B, 1, S, S]; with `augment`, a part of the sky is added to the image."""
        indices = np.asarray(indices, dtype=np.int64)
        form = self._form
        x = np.empty((len(indices), 1, form.size, form.size), np.float32)
        for row, index in enumerate(indices):
            stamp = read_stamp(self._root / self.stamps[index], form.start, form.size)
            sky = self._targets.records[index]["sky"] * self._amount(int(index), augment)
            # float64: the sky is large beside what remains after the centre is gone.
            normalised = (stamp.image.astype(np.float64) + sky - form.centre) / form.spread
            x[row, 0] = np.where(np.isfinite(stamp.image), normalised, 0.0)
        y = np.array(self._targets.maps[indices])
        release_pages(self._targets.maps)
        return Batch(torch.from_numpy(x), torch.from_numpy(y))

    def targets(self) -> np.ndarray:
        """Return [n, 1, S, S] float32 of 0 and 1, NaN where ignored; a memory map."""
        return self._targets.maps

    def groups(self) -> np.ndarray:
        """Return the visit of each stamp, [n] int64."""
        return np.unique([visit_key(stamp) for stamp in self.stamps], return_inverse=True)[1].astype(np.int64)

    def digest(self) -> str:
        """Return a SHA-256 over names, form, and the content of the crops and skies as it was when the masks were read."""
        what = {"stamps": [str(s) for s in self.stamps], "form": asdict(self._form), "records": self._targets.records}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def num_broken(self) -> int:
        """Return how many pixels are not finite."""
        return sum(record["broken"] for record in self._targets.records)

    def _amount(self, index: int, augment: np.random.Generator | None) -> float:
        if augment is None and not self._form.sky_at_test:
            return 0.0
        generator = augment or numpy_generator(0, "cosmic", "sky", str(self.stamps[index]))
        return float(generator.uniform(self._form.sky_low, self._form.sky_high))

    def _read(self, index: int) -> tuple[np.ndarray, dict[str, Any]]:
        path = self._root / self.stamps[index]
        stamp = read_stamp(path, self._form.start, self._form.size)
        broken = ~np.isfinite(stamp.image)
        target = np.where(stamp.ignored, np.nan if self._form.ignored == "missing" else 0.0, stamp.mask)
        target[broken] = np.nan
        digest = hashlib.sha256()
        for plane in (stamp.image, stamp.mask, stamp.ignored):
            digest.update(plane.tobytes())
        return target, {"sha256": digest.hexdigest(), "sky": read_sky(path), "broken": int(broken.sum())}


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    kind: Literal["dense"] = "dense",
    path: str | None = None,
    filter: str = "f435w",
    keys: str | None = None,
    field: str | None = None,
    crop_start: CountOrZero = 64,
    crop_size: Count = 128,
    sky_low: float = -0.9,
    sky_high: float = 3.0,
    sky_at_test: bool = False,
    ignored: Literal["missing", "zero"] = "missing",
    normalize: bool = True,
    validation_fraction: Fraction = 0.1,
    validation_unit: Literal["visit", "exposure"] = "visit",
    split_seed: Seed = 0,
    train_on_validation: bool = False,
) -> TaskData:
    """Return x [n, 1, S, S], an image, and y [n, 1, S, S], 1 where a cosmic ray hit, NaN where that is not known.

    The official test stamps are the test split. The stamps are those listed in train_dirs.npy and test_dirs.npy, if these
    exist and no `keys` are given; otherwise all of the filter in npy_train/ and npy_test/.

    conf/task/cosmic.yaml explains the settings. The masks take 4 S^2 bytes a stamp in the cache. Median and deviation are of
    256 seeded stamps, or of all; stars and hits are outliers and hardly move these. Whole visits keep a field of the sky in
    one split. Units are drawn until `validation_fraction` of the training stamps is met as closely as possible.
    """
    form = Form(crop_start, crop_size, sky_low, sky_high, sky_at_test, ignored)
    root = find(data_folder, "cosmic", list(FOLDERS.values()), path)[0].parent
    taken = None if keys is None else read_keys(keys, field, root)
    stamps, test_stamps = (list_stamps(root, part, filter, taken) for part in FOLDERS)
    held_out = _held_out(stamps, validation_fraction, validation_unit, split_seed)
    learned = stamps if train_on_validation else [s for s in stamps if s not in held_out]
    form = _scaled(form, root, learned) if normalize else form
    train = Stamps(root, "train", learned, form, cache_folder, reporter)
    validation = Stamps(root, "validation", sorted(held_out), form, cache_folder, reporter)
    broken = train.num_broken() + validation.num_broken()
    visits = [len(np.unique(samples.groups())) for samples in (train, validation)]
    return TaskData(
        kind="dense",
        input_shape=(1, crop_size, crop_size),
        num_outputs=1,
        train=train,
        validation=validation,
        open_test=lambda: Stamps(root, "test", test_stamps, form, cache_folder, reporter),
        class_names=("cosmic ray",),
        note=note(
            f"{len(train)} training stamps of {visits[0]} visits, {len(validation)} validation stamps of {visits[1]}, "
            f"{len(test_stamps)} test stamps; filter {filter}, those {_choice(root, taken)}",
            f"{broken} pixels are not finite and count nowhere" if broken else "",
            overlap_warning(train_on_validation, "validation stamps"),
        ),
    )


def _choice(root: Path, taken: Collection[str] | None) -> str:
    """Return which stamps of the filter are used, for the note."""
    if taken is not None:
        return f"of the {len(taken)} visits in task.keys"
    is_listed = all((root / f"{part}_dirs.npy").is_file() for part in FOLDERS)
    return "listed in train_dirs.npy and test_dirs.npy" if is_listed else "in the folder, of all field types"


def _held_out(stamps: list[PurePosixPath], fraction: float, unit: str, seed: int) -> set[PurePosixPath]:
    """Return the validation stamps: units in a seeded order until the fraction is best met, at least one."""
    units: dict[str, list[PurePosixPath]] = {}
    for stamp in stamps:
        units.setdefault(visit_key(stamp) if unit == "visit" else str(stamp), []).append(stamp)
    if len(units) < 2:
        raise DataError(
            f"{len(units)} {unit} cannot be split into training and validation",
            where="task.validation_unit",
            hint="use task.validation_unit=exposure" if unit == "visit" and len(stamps) > 1 else "give more stamps",
        )
    names = sorted(units)
    target_count, chosen = fraction * len(stamps), set[PurePosixPath]()
    for place in numpy_generator(seed, "cosmic", "validation").permutation(len(names))[:-1]:
        members = units[names[place]]
        if chosen and abs(len(chosen) + len(members) - target_count) >= abs(len(chosen) - target_count):
            break
        chosen.update(members)
    return chosen


def _scaled(form: Form, root: Path, stamps: Sequence[PurePosixPath]) -> Form:
    """Return the form with median and scaled median absolute deviation of the training pixels that are not ignored."""
    order = numpy_generator(0, "cosmic", "statistics").permutation(len(stamps))[:_SAMPLED]
    values = []
    for index in np.sort(order):
        signals.check()
        stamp = read_stamp(root / stamps[index], form.start, form.size)
        values.append(stamp.image[~stamp.ignored])
    pixels = np.concatenate(values).astype(np.float64)
    if not len(pixels):
        raise DataError("every pixel of the training stamps is ignored", where=str(root))
    centre = float(np.median(pixels))
    spread = _NORMAL * float(np.median(np.abs(pixels - centre))) or float(pixels.std()) or 1.0
    return replace(form, centre=centre, spread=spread)


def check_settings(keys: str | None, field: str | None, sky_low: float, sky_high: float) -> None:
    """Refuse contradictory settings before anything is read; arguments as those of `load`."""
    hint = "give task.keys=FILE with lines such as: 12345_01 GAL"
    check_rules(
        (sky_low > sky_high, "sky_high", f"{sky_high} is below task.sky_low={sky_low}", "swap them"),
        (keys is None and field is not None, "field", "field types come from a file of visits", hint),
    )
