"""How own data become a task: the one way for arrays, tables and images.

A reader opens the files and says which samples there are, in which splits. Splits that the data do not give are drawn from
the training samples (`draw`). The reader's `fit` learns from the training samples alone how all become inputs and
targets: that is the task's preprocessing, kept beside the weights, and new data pass through it as the splits do. Train and
validation are opened at once, test at the end of a run.

`kind` is classes, one of K a sample; labels, K times 0 or 1; values, K real numbers; or dense, a map or sequence of the
inputs' extent. Relative names are looked for in the working folder, then in data_folder. Data are refused with fewer than 10
training samples, infinity in inputs, one class only, or targets in another split that the training split does not have.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from orca_cli.data.contents import joined
from orca_cli.data.own_data import refuse_if
from orca_cli.data.splits import merged, split
from orca_cli.data.targets import TargetForm
from orca_cli.interfaces import Kind, Preprocessing, Reporter, Samples, TaskData

_MIN_SAMPLES = 10


@dataclass(frozen=True)
class Pool:
    """The training data of a reader, N samples, from which `assemble` draws the splits that the data do not give."""

    unit: str  # what samples are called in the note
    where: str
    rows: dict[str, np.ndarray]  # of train and of other splits that the training data mark
    supplied: Iterable[str]  # splits with data of their own
    classes: np.ndarray | None  # [N] to stratify by
    groups: np.ndarray | None  # [N] of samples that stay together
    contents: Callable[
        [np.ndarray], np.ndarray | None
    ]  # returns a hash of the inputs of rows, [n]; None of too many


@dataclass(frozen=True)
class Fitted:
    """What a reader's `fit` learned from the training samples, of which `assemble` makes the task."""

    preprocessing: Preprocessing
    input_shape: tuple[int, ...]  # (C, *E)
    targets: TargetForm
    samples: Callable[
        [str], Samples
    ]  # opens a split by its name, and reports what does not fit the training samples
    notes: Sequence[str]  # to which opening train and validation may add


Fit = Callable[[dict[str, np.ndarray]], Fitted]


def assemble(
    name: str,
    reporter: Reporter,
    kind: Kind,
    pool: Pool,
    fractions: tuple[float, float],
    split_seed: int,
    fit: Fit,
) -> TaskData:
    """Return the task over a reader's samples, and report what was read after the reader's name.

    `fractions` of the training samples, or of their groups, are drawn for validation and for test, where the data do not give
    these. `fit` is called once, with the samples of each split that the training data hold, drawn ones included. DataError for
    fewer than 10 training samples before the draw.
    """
    count, hint = len(pool.rows["train"]), f"provide {_MIN_SAMPLES} or more for training"
    refuse_if(count < _MIN_SAMPLES, f"too few {pool.unit}: {count}", pool.where, hint)
    drawn, drawn_notes = draw(pool, fractions, split_seed)
    fitted = fit(pool.rows | drawn)
    train, validation, targets = (
        fitted.samples("train"),
        fitted.samples("validation"),
        fitted.targets,
    )
    note = "; ".join([*drawn_notes, *fitted.notes, *targets.warnings(train.targets())])
    reporter.say(
        f"{name}: {len(train)} training and {len(validation)} validation {pool.unit}; {note}"
    )
    return TaskData(
        kind=kind,
        input_shape=fitted.input_shape,
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


def draw(
    pool: Pool, fractions: tuple[float, float], seed: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the rows of the training data that train and the splits that are drawn from it take, and notes on these.

    Both are empty where the data give every split. `fractions` are those of validation and test, of the groups where there are
    any. Draws are stratified by class, a group by its most frequent one. Rows of one group, and identical inputs, stay
    together; see `contents.joined`.
    """
    train, shares = pool.rows["train"], dict(zip(("validation", "test"), fractions, strict=True))
    missing = [part for part in shares if part not in {*pool.rows, *pool.supplied}]
    if not missing:
        return {}, []
    classes, groups = (None if one is None else one[train] for one in (pool.classes, pool.groups))
    keys = ([] if groups is None else ["task.group"]) + [
        "task.validation_fraction",
        "task.test_fraction",
    ]
    joint, identical = joined(groups, pool.contents(train))
    place, units, classes = merged(len(train), classes, joint)
    validation, test = (float(shares[part]) if part in missing else 0.0 for part in shares)
    parts = split(units, validation=validation, test=test, seed=seed, classes=classes, keys=keys)
    how = [] if classes is None else ["stratified"]
    how += [f"{units} groups kept together"] if groups is not None and units < len(train) else []
    notes = [
        f"{' and '.join(missing)} drawn from the training data ({', '.join([*how, f'split_seed={seed}'])})"
    ]
    rows = {part: train[np.isin(place, getattr(parts, part))] for part in ("train", *missing)}
    return rows, [*notes, identical] if identical else notes
