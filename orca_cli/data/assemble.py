"""How a user's own data become a task, in the same way for arrays, tables and images.

A reader opens the files and lists their samples by split. Splits that the data do not contain are
drawn from the training samples (`draw`). The reader's `fit` learns the task's preprocessing, which
turns every sample into inputs and targets, from the training samples alone. The preprocessing is
saved with the weights, and is applied to the splits and to new data in the same way. The training
and validation splits are opened at once, the test split at the end of a run.

`kind` is classes (one of K classes for each sample), labels (K times 0 or 1), values (K real
numbers) or dense (a map or sequence with the extent of the inputs). Relative paths are looked up in
the working folder, then in data_folder. Data are refused if they have fewer than 10 training
samples, infinite inputs, a single class, or a class in another split that training does not have.
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
# Name of a split -> its rows in the training data.
SplitRows = dict[str, np.ndarray]


@dataclass(frozen=True)
class Pool:
    """A reader's N training samples, from which splits that the data do not contain are drawn."""

    unit: str  # plural noun for the samples in the note
    where: str
    rows: SplitRows  # rows of train, and of other splits that the training data mark
    supplied: Iterable[str]  # names of the splits that have separate data
    classes: np.ndarray | None  # [N] class of each sample, by which draws are stratified
    groups: np.ndarray | None  # [N] group of each sample; a group stays in one split
    # Returns a hash of the inputs of each given row, [n]; None if there are too many to hash.
    contents: Callable[[np.ndarray], np.ndarray | None]


@dataclass(frozen=True)
class Fitted:
    """The outcome of a reader's `fit` on the training samples; `assemble` turns it into a task."""

    preprocessing: Preprocessing
    input_shape: tuple[int, ...]  # (C, *E)
    targets: TargetForm
    # Opens a split by its name, and reports the samples that had to be changed to fit.
    samples: Callable[[str], Samples]
    notes: Sequence[str]  # opening train and validation may add notes


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
    """Return the task over a reader's samples, and report a note on them after the reader's name.

    If the data contain no validation or test split, it is drawn: `fractions` are the shares of the
    training samples, or of their groups, for validation and test. `fit` is called once, with the
    rows of each split in the training data, including the drawn splits. DataError for fewer than 10
    training samples before the draw.
    """
    num_samples = len(pool.rows["train"])
    if num_samples < _MIN_SAMPLES:
        raise DataError(
            f"needs at least {_MIN_SAMPLES} {pool.unit} for training, has {num_samples}",
            where=pool.where,
            hint="add training samples",
        )
    # The draw comes first because `fit` may learn from the training samples only.
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

    Both are empty if the data contain every split. `fractions` are the shares of validation and
    test, of the groups if the data have groups, else of the samples. Draws are stratified by class;
    a group counts as its most frequent class. Rows of one group, and rows with identical inputs,
    stay together; see `contents.joined`.
    """
    shares = dict(zip(("validation", "test"), fractions, strict=True))
    # Splits that are marked or have separate data are not drawn.
    for split_name in {*pool.rows, *pool.supplied}:
        shares.pop(split_name, None)
    if not shares:
        return {}, []
    training_rows = pool.rows["train"]
    # Splits are drawn from training rows only, so marked splits keep their rows.
    classes = None if pool.classes is None else pool.classes[training_rows]
    groups = None if pool.groups is None else pool.groups[training_rows]
    joint_groups, note_on_identical = joined(groups, pool.contents(training_rows))
    # Complete units are drawn, so that no group is divided between two splits.
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
    # If every unit is a single sample, the groups did not affect the draw.
    if groups is not None and units.count < len(training_rows):
        details.append(f"{units.count} groups kept together")
    details.append(f"split_seed={seed}")
    notes = [f"{' and '.join(shares)} samples drawn from training data ({', '.join(details)})"]
    if note_on_identical:
        notes.append(note_on_identical)
    return drawn_rows, notes
