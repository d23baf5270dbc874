"""The weights that a member of stage 3 starts from, where it is not the first: an embedder and a predictor of its own draw.

Models that differ in their random features err on different samples, so that the mean of their outputs errs on fewer than
one model does, and on fewer than models that differ in the order of training alone (docs/defaults.md).
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from orca_cli.progress import Silent
from orca_cli.ranges import LARGEST_SEED
from orca_cli.runs.directory import RunDirectory
from orca_cli.stages.align import trained
from orca_cli.stages.build import Built, make_model, source_seed
from orca_cli.training.engine import Engine


def drawn_again(built: Built, engine: Engine, run: RunDirectory, *, seed: int, steps: int) -> dict[str, Tensor]:
    """Return what stage 3 trains of a model that is drawn with another seed, aligned with the same source examples.

    Args:
        built: the run's own model and data; it stays as it is.
        engine: where to compute.
        run: where the alignment leaves what it needs to resume, apart from the run's own.
        seed: of embedder, predictor and alignment.
        steps: of alignment, as the run chose for its own embedder; 0: none.

    Raises:
        NonFiniteError, MemoryExhaustedError: as `align.align`.
    """
    align = replace(built.config.align, source_seed=source_seed(built.config))
    own = seed % (LARGEST_SEED + 1)  # one that a run can have, which then starts from the same weights
    config = replace(built.config, seed=own, align=align)
    model, mode = make_model(config, built.task)
    if steps:
        _, trajectory, _ = trained(config, replace(built, config=config, model=model), engine, run, Silent())
        model.embedder.load_state_dict(trajectory.weights)
    return mode.trainable_state(model)
