"""How own data become a task: the one way for arrays, tables, images and the hub.

A reader opens the files and says which samples there are, in which splits. Splits that the data do not give are drawn from
the training samples (`splits.draw`). The reader's `fit` learns from the training samples alone how all become inputs and
targets: that is the task's preprocessing, kept beside the weights, and new data pass through it as the splits do. Train and
validation are opened at once, test at the end of a run.

`kind` is classes, one of K a sample; labels, K times 0 or 1; values, K real numbers; or dense, a map or sequence of the
inputs' extent. Relative names are looked for in the working folder, then in data_folder. Data are refused with fewer than 10
training samples, infinity in inputs, one class only, or targets in another split that the training split does not have.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from orca_cli.data.splits import draw
from orca_cli.data.targets import TargetForm
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Kind, Preprocessing, Reporter, Samples, TaskData

_MIN_SAMPLES = 10


class Learned(Preprocessing, Protocol):
    """The preprocessing of own data."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return (C, *E)."""

    @property
    def targets(self) -> TargetForm:
        """Return the form of the targets."""


@dataclass(frozen=True)
class Pool:
    """The samples of a reader's training data, of which a part is for training, and what the draw of splits depends on."""

    unit: str  # what samples are called in the note
    where: str
    rows: dict[str, np.ndarray]  # of train and of other splits that the training data mark
    supplied: Iterable[str]  # splits with data of their own
    classes: np.ndarray | None  # [N] to stratify by
    groups: np.ndarray | None  # [N] of samples that stay together
    contents: Callable[[np.ndarray], np.ndarray | None]  # returns a hash of the inputs of rows, [n]; None of too many


@dataclass(frozen=True)
class Fitted:
    """What a reader learned from the training samples."""

    preprocessing: Learned
    samples: Callable[[str], Samples]  # opens a split by its name, and reports what does not fit the training samples
    notes: Sequence[str]  # to which opening train and validation may add


def assemble(
    name: str,
    reporter: Reporter,
    kind: Kind,
    pool: Pool,
    fractions: tuple[float, float],
    split_seed: int,
    fit: Callable[[dict[str, np.ndarray]], Fitted],
) -> TaskData:
    """Return the task over a reader's samples, and report what was read after the reader's name.

    `fractions` of the training samples are drawn for validation and for test, where the data do not give these; `fit` is called
    with the samples of each split that the training data hold.
    """
    rows, shares = pool.rows["train"], dict(zip(("validation", "test"), fractions, strict=True))
    if len(rows) < _MIN_SAMPLES:
        hint = f"provide {_MIN_SAMPLES} or more for training"
        raise DataError(f"too few {pool.unit}: {len(rows)}", where=pool.where, hint=hint)
    classes, groups = (None if one is None else one[rows] for one in (pool.classes, pool.groups))
    supplied = {*pool.rows, *pool.supplied}
    drawn, drawn_notes = draw(len(rows), supplied, shares, split_seed, classes, groups, partial(pool.contents, rows))
    fitted = fit(pool.rows | {part: rows[chosen] for part, chosen in drawn.items()})
    train, validation, targets = fitted.samples("train"), fitted.samples("validation"), fitted.preprocessing.targets
    note = "; ".join([*drawn_notes, *fitted.notes, *targets.warnings(train.targets())])
    reporter.say(f"{name}: {len(train)} training and {len(validation)} validation {pool.unit}; {note}")
    return TaskData(
        kind=kind,
        input_shape=fitted.preprocessing.input_shape,
        num_outputs=targets.num_outputs,
        train=train,
        validation=validation,
        open_test=lambda: fitted.samples("test"),
        target_scale=targets.scale,
        class_names=targets.names,
        note=note,
        preprocessing=fitted.preprocessing,
        validation_drawn="validation" in drawn,
    )
