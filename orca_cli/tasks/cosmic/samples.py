"""Stamps as samples: images read batch by batch, masks mapped from the cache.

Shapes: n stamps, S pixels per side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from orca_cli.interfaces import Batch, Reporter
from orca_cli.seeding import numpy_generator
from orca_cli.tasks.cosmic.files import SKY, read_sky, read_stamp, visit_key
from orca_cli.tasks.shared.target_maps import target_maps
from orca_cli.untrusted.memory import release_pages


@dataclass(frozen=True)
class Form:
    """How a stamp becomes a sample.

    Args:
        start: first row and column.
        size: S.
        sky_low: least multiple of the sky that is added.
        sky_high: largest multiple.
        sky_at_test: whether it is also added where nothing is augmented.
        ignored: "missing" or "zero".
        centre: subtracted from the counts.
        spread: the counts are divided by it.
    """

    start: int
    size: int
    sky_low: float
    sky_high: float
    sky_at_test: bool
    ignored: str
    centre: float = 0.0
    spread: float = 1.0


class Stamps:
    """Samples (see interfaces) over stamps in files; images are read batch by batch."""

    def __init__(
        self, root: Path, part: str, stamps: Sequence[PurePosixPath], form: Form, cache: Path, reporter: Reporter
    ):
        """Read all masks, unless the folder `cache` has them; `stamps` are n files, relative to `root`."""
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

    def num_visits(self) -> int:
        """Return the number of visits."""
        return len(np.unique(self.groups()))

    def num_broken(self) -> int:
        """Return how many pixels are not finite."""
        return sum(record["broken"] for record in self._targets.records)

    def _amount(self, index: int, augment: np.random.Generator | None) -> float:
        if augment is not None:
            return float(augment.uniform(self._form.sky_low, self._form.sky_high))
        if self._form.sky_at_test:
            generator = numpy_generator(0, "cosmic", "sky", str(self.stamps[index]))
            return float(generator.uniform(self._form.sky_low, self._form.sky_high))
        return 0.0

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
