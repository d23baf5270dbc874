"""How own data become a task: the one way for arrays, tables and images.

A reader opens the files and says which samples there are, in which splits. Splits that the data do
not give are drawn from the training samples (`draw`). The reader's `fit` learns from the training
samples alone how all become inputs and targets: that is the task's preprocessing, kept beside the
weights, and new data pass through it as the splits do. Train and validation are opened at once,
test at the end of a run.

`kind` is classes, one of K a sample; labels, K times 0 or 1; values, K real numbers; or dense, a
map or sequence of the inputs' extent. Relative names are looked for in the working folder, then in
data_folder. Data are refused with fewer than 10 training samples, infinity in inputs, one class
only, or targets in another split that the training split does not have.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from orca_cli.data.contents import joined
from orca_cli.data.splits import merged, split
from orca_cli.data.targets import TargetForm
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Kind, Preprocessing, Reporter, Samples, TaskData

_MIN_SAMPLES = 10
# The rows of splits in the training data, by the splits' names.
SplitRows = dict[str, np.ndarray]


@dataclass(frozen=True)
class Pool:
    """A reader's training data, N samples; splits that the data do not give are drawn from them."""

    unit: str  # what samples are called in the note
    where: str
    rows: SplitRows  # of train and of other splits that the training data mark
    supplied: Iterable[str]  # splits with data of their own
    classes: np.ndarray | None  # [N] to stratify by
    groups: np.ndarray | None  # [N] of samples that stay together
    # Returns a hash of the inputs of rows, [n]; None of too many.
    contents: Callable[[np.ndarray], np.ndarray | None]


@dataclass(frozen=True)
class Fitted:
    """What a reader's `fit` learned from the training samples; `assemble` makes it a task."""

    preprocessing: Preprocessing
    input_shape: tuple[int, ...]  # (C, *E)
    targets: TargetForm
    # Opens a split by its name, and reports what does not fit the training samples.
    samples: Callable[[str], Samples]
    notes: Sequence[str]  # opening train and validation may add some


Fit = Callable[[SplitRows], Fitted]


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

    `fractions` of the training samples, or of their groups, are drawn for validation and for test,
    where the data do not give these. `fit` is called once, with the samples of each split that the
    training data hold, drawn ones included. DataError for fewer than 10 training samples before the
    draw.
    """
    num_samples = len(pool.rows["train"])
    if num_samples < _MIN_SAMPLES:
        raise DataError(
            f"too few {pool.unit}: {num_samples}",
            where=pool.where,
            hint=f"provide {_MIN_SAMPLES} or more for training",
        )
    # The draw comes first: `fit` may learn from the training samples only.
    drawn, notes_on_draw = draw(pool, fractions, split_seed)
    fitted = fit(pool.rows | drawn)
    targets = fitted.targets
    # The test split stays closed until `open_test` below is called.
    training_samples = fitted.samples("train")
    validation_samples = fitted.samples("validation")
    warnings = targets.warnings(training_samples.targets())
    # Joined only now, since opening a split may add to the notes of `fit`.
    note = "; ".join([*notes_on_draw, *fitted.notes, *warnings])
    sizes = f"{len(training_samples)} training and {len(validation_samples)} validation {pool.unit}"
    reporter.say(f"{name}: {sizes}; {note}")
    return TaskData(
        kind=kind,
        input_shape=fitted.input_shape,
        num_outputs=targets.num_outputs,
        train=training_samples,
        validation=validation_samples,
        open_test=lambda: fitted.samples("test"),
        target_scale=targets.scale,
        class_names=targets.names,
        note=note,
        preprocessing=fitted.preprocessing,
        validation_drawn="validation" in drawn,
    )


def draw(pool: Pool, fractions: tuple[float, float], seed: int) -> tuple[SplitRows, list[str]]:
    """Return the rows of train and of the splits that are drawn from it, and notes on the draw.

    Both are empty where the data give every split. `fractions` are those of validation and test, of
    the groups where there are any. Draws are stratified by class, a group by its most frequent one.
    Rows of one group, and identical inputs, stay together; see `contents.joined`.
    """
    shares = dict(zip(("validation", "test"), fractions, strict=True))
    # Splits that are marked or have data of their own are not drawn.
    for split_name in {*pool.rows, *pool.supplied}:
        shares.pop(split_name, None)
    if not shares:
        return {}, []
    training_rows = pool.rows["train"]
    # Splits are drawn from training rows only, so marked splits keep theirs.
    classes = None if pool.classes is None else pool.classes[training_rows]
    groups = None if pool.groups is None else pool.groups[training_rows]
    joint_groups, note_on_identical = joined(groups, pool.contents(training_rows))
    # Whole units are drawn, so that no group is divided between two splits.
    units = merged(len(training_rows), classes, joint_groups)
    # The settings that an error about the sizes names.
    settings = ["task.validation_fraction", "task.test_fraction"]
    if groups is not None:
        settings.insert(0, "task.group")
    drawn = split(
        units.count,
        validation=shares.get("validation", 0.0),
        test=shares.get("test", 0.0),
        seed=seed,
        classes=units.classes,
        keys=settings,
    )
    # From the drawn units back to the rows of the training data.
    drawn_rows: SplitRows = {}
    for split_name in ("train", *shares):
        is_drawn = np.isin(units.numbers, getattr(drawn, split_name))
        drawn_rows[split_name] = training_rows[is_drawn]
    details = []
    if classes is not None:
        details.append("stratified")
    # Where every unit is a single sample, groups changed nothing.
    if groups is not None and units.count < len(training_rows):
        details.append(f"{units.count} groups kept together")
    details.append(f"split_seed={seed}")
    notes = [f"{' and '.join(shares)} drawn from the training data ({', '.join(details)})"]
    if note_on_identical:
        notes.append(note_on_identical)
    return drawn_rows, notes
