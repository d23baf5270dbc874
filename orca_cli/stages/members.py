"""The models that one run fine-tunes in stage 3: one, one for each fold, or several that are drawn apart.

Models that differ in their random features err on different samples, so that the mean of their outputs errs on fewer than one
model does, and on fewer than models that differ in the order of training alone (docs/evidence/defaults.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from orca_cli import seeding
from orca_cli.config.ranges import LARGEST_SEED
from orca_cli.config.schema import Config
from orca_cli.interfaces import Samples
from orca_cli.progress import Silent
from orca_cli.runs.directory import RunDirectory
from orca_cli.stages import selection
from orca_cli.stages.align import trained
from orca_cli.stages.build import Built, has_alignment, make_model, source_seed
from orca_cli.tasks.shared.contents import joined
from orca_cli.tasks.shared.fraction import Part
from orca_cli.tasks.shared.samples import contents
from orca_cli.tasks.shared.splits import folds
from orca_cli.terminal import log
from orca_cli.training.engine import Engine


@dataclass(frozen=True)
class Member:
    """One fine-tuning: what it learns from, and what it is validated on.

    Args:
        folder: where its weights are, below 3_finetune; empty for the only one of a run, whose weights are best/ and last/.
        seed: of its order, dropout and augmentation; of members beside the first, of their embedder and predictor as well.
        samples: what it trains on.
        held_out: what it is validated on after every epoch; None where nothing is left.
        rows: those of `held_out` among the run's training samples, [m]; None where it is none of them.
    """

    folder: str
    seed: int
    samples: Samples
    held_out: Samples | None
    rows: np.ndarray | None = None


def members_of(config: Config, built: Built) -> list[Member]:
    """Return the members of a run.

    Raises:
        DataError: there are fewer samples than folds.
    """
    train, learned = config.train, built.learned
    if train.folds:
        return [_fold(config, learned, fold, rows) for fold, rows in enumerate(_held_out(config, built))]
    held_out = None if train.refit is True else built.task.validation
    count = selection.count_members(config)
    if count == 1:
        return [Member("", config.seed, learned, held_out)]
    return [
        Member(f"member-{i}", seeding.derive(config.seed, "finetune", "member", i), learned, held_out)
        for i in range(count)
    ]


def _held_out(config: Config, built: Built) -> list[np.ndarray]:
    """Return the rows of each fold: drawn as splits are, every class in proportion, groups and identical inputs together."""
    samples, count = built.learned, config.train.folds
    classes = np.asarray(samples.targets()) if built.task.kind == "classes" else None
    seed = config.task.get("split_seed", 0)
    groups, note = joined(samples.groups(), contents(samples, built.task.input_shape))
    if note:
        log.info(f"folds: {note.replace('split', 'fold')}")
    fold = folds(len(samples), count, seed=seed, classes=classes, groups=groups)
    return [np.flatnonzero(fold == i) for i in range(count)]


def _fold(config: Config, learned: Samples, fold: int, rows: np.ndarray) -> Member:
    others = np.setdiff1d(np.arange(len(learned)), rows)
    seed = seeding.derive(config.seed, "finetune", "fold", fold)
    return Member(f"fold-{fold}", seed, Part(learned, others), Part(learned, rows), rows)


def drawn_again(built: Built, engine: Engine, run: RunDirectory, *, seed: int) -> dict[str, Tensor]:
    """Return what stage 3 trains of a model that is drawn with another seed, aligned with the same source examples.

    Args:
        built: the run's own model and data; it stays as it is.
        engine: where to compute.
        run: where the alignment leaves what it needs to resume, apart from the run's own.
        seed: of embedder, predictor and alignment.

    Raises:
        NonFiniteError, MemoryExhaustedError: as `align.align`.
    """
    align = replace(built.config.align, source_seed=source_seed(built.config))
    run_seed = seed % (LARGEST_SEED + 1)  # one that a run can have, which then starts from the same weights
    config = replace(built.config, seed=run_seed, align=align)
    model, mode = make_model(config, built.task)
    if has_alignment(config):
        _, trajectory, _ = trained(config, replace(built, config=config, model=model), engine, run, Silent())
        model.embedder.load_state_dict(trajectory.weights)
    return mode.trainable_state(model)
