"""One body with one seed: stages 1 and 2 of the run that would have these settings, and what they say about the body.

Nothing of stage 3 happens, and the test split stays closed. The alignment's trajectory is the run's own, and in the cache for
it (docs/decisions/0012-what-runs-share.md); the numbers of this module are in the cache too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from orca_cli import signals, storage
from orca_cli.body_ranking.frozen import judge
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Reporter
from orca_cli.runs import claim
from orca_cli.runs.directory import RunName
from orca_cli.stages.align import is_left_out, trained
from orca_cli.stages.build import Built, build
from orca_cli.stages.compared import FLOOR_DRAWS, Compared, why_no_floor
from orca_cli.training.cache import Entry, cached
from orca_cli.training.engine import Engine, choose_device, choose_precision
from orca_cli.training.numerics import numerics_key

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.compose import Composed

FOLDER, UNFINISHED = "body_scores", "body_alignments"  # of the cache
DRAWS = 8  # of target points
_VERSION = 2  # of what is stored
_LEAST_FLOOR = 3.0  # deviations


@dataclass(frozen=True)
class Measured:
    """What one seed says about a body. Distances are in units of `scale`.

    Args:
        seed: of the embedder's first weights and of all draws.
        before: distance before the first step of stage 2, mean over draws of target points.
        after: the same after the last step; as `before` where `align.select=auto` leaves alignment out.
        deviation: of `after` between draws.
        scale: "floor", what as many fresh source points score; or "variance", for an unbiased metric, whose floor is 0: the
            distance is then twice the metric over the variance of the source's points.
        unit: the scale's value in the metric's units.
        unit_error: its relative standard error; the same draws of source points serve all seeds.
        steps: of stage 2, 0 where that is left out.
        logme, probe, reason: as in `frozen.Frozen`.
        error: the task's own, of which `probe` is one.
        percent: whether it is a fraction, shown times 100.
        seconds: that it took, the first time.
    """

    seed: int
    before: float
    after: float
    deviation: float
    scale: str
    unit: float
    unit_error: float
    steps: int
    logme: float | None
    probe: float | None
    reason: str
    error: str
    percent: bool
    seconds: float


def measure(job: Composed, name: RunName, reporter: Reporter) -> Measured:
    """Return what a job's body scores, from the cache where it is there.

    An interrupted alignment resumes where it was.

    Args:
        job: of a run; of its settings, stage 3's have no effect on the numbers.
        name: of that run.
        reporter: progress.

    Raises:
        OrcaError: body, task, source and settings do not fit together, or anything else that a run refuses before stage 3.
    """
    cache = Path(job.config.paths.cache or "")
    device = choose_device(job.config.device)
    key = hashlib.sha256(
        "\n".join(map(str, (_VERSION, job.identity.run, job.config.precision, numerics_key(device)))).encode()
    ).hexdigest()

    def compute() -> Entry:
        return Entry({}, _compute(job, name, device, cache / UNFINISHED, key, reporter))

    return Measured(**cached(cache / FOLDER / key[:32], compute).record)


def _compute(
    job: Composed, name: RunName, device: torch.device, unfinished: Path, key: str, reporter: Reporter
) -> dict[str, Any]:
    start = time.monotonic()
    name = dataclasses.replace(name, identity=key)  # with other threads or packages it is another alignment
    with claim.claim(unfinished, name) as folder:
        with signals.immediate():
            built = build(job.config, reporter)
        config = built.config
        engine = Engine(device, choose_precision(config.precision, device, built.model.body.width))
        compared, trajectory, _ = trained(config, built, engine, folder, reporter)
        unit, unit_error, scale = _unit(compared)
        factor = 2.0 if scale == "variance" else 1.0
        found = {}
        last = 0 if is_left_out(config, compared, trajectory.before) else trajectory.steps
        for step in (0, last):
            built.model.embedder.load_state_dict(trajectory.candidates[step].weights)
            found[step] = factor * np.array(_draws(built, compared, engine)) / unit
        frozen = judge(built, engine)
        path = folder.path
    storage.remove(path)
    after = found[last]
    return dataclasses.asdict(
        Measured(
            seed=config.seed,
            before=float(found[0].mean()),
            after=float(after.mean()),
            deviation=float(after.std(ddof=1)),
            scale=scale,
            unit=unit,
            unit_error=unit_error,
            steps=last,
            logme=frozen.logme,
            probe=frozen.probe,
            reason=frozen.reason,
            error=built.error.name,
            percent=built.error.percent,
            seconds=round(time.monotonic() - start, 2),
        )
    )


def _unit(compared: Compared) -> tuple[float, float, str]:
    """Return what distances are divided by, its relative standard error, and the scale's name."""
    problem = compared.problem
    if getattr(problem.metric, "half_squared", False):
        return compared.source_variance, 0.0, "variance"
    floor = compared.floor
    if floor is None:
        what, hint = why_no_floor(problem.metric)
        raise ConfigError(what, where="metric", hint=hint)
    shares = [sum(map(problem.train.share, group)) for group in problem.groups(problem.train, "floor")]
    # The floor's deviation is that of the weighted sum over problems; its mean is one over draws of a single problem.
    of_a_problem = floor.deviation / float(np.sqrt(np.square(shares).sum()))
    if floor.mean <= _LEAST_FLOOR * of_a_problem:
        what = f"fresh source points score {floor.mean:.3g} ± {of_a_problem:.2g}, too near 0 for a scale"
        raise ConfigError(what, where="metric", hint="use metric=otdd or metric=minibatch_ot")
    return floor.mean, of_a_problem / FLOOR_DRAWS**0.5 / floor.mean, "floor"


@torch.no_grad()
def _draws(built: Built, compared: Compared, engine: Engine) -> list[float]:
    """Return the metric on some draws of training points."""
    problem = compared.problem
    built.model.eval()
    values = []
    for draw in range(DRAWS):
        parts = problem.parts(built.model, engine, problem.train, "body_ranking", draw)
        values.append(sum(weight * float(distance.value) for some in parts for weight, distance in some))
    return values
