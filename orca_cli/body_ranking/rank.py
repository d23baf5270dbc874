"""Bodies ranked for a task before any fine-tuning: what `orca select` computes, as a function (paper 4.2.2, Table 4, and 5).

The distance between the embedded target, after stage 2, and the body's source, in a unit that bodies share; beside it LogME and
a linear probe on the frozen body. Only training and validation data are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from orca_cli import parts
from orca_cli.body_ranking.intervals import Distance, distance
from orca_cli.body_ranking.measure import Measured, measure
from orca_cli.exceptions import ConfigError, InterruptionError, LockedError, OrcaError, StorageError
from orca_cli.interfaces import Reporter
from orca_cli.runs.directory import RunName

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.compose import Composed


@dataclass(frozen=True)
class Candidate:
    """One body with its seeds.

    Args:
        label: what it is called.
        jobs: composed, one for each seed.
        names: of the runs that they would be.
    """

    label: str
    jobs: Sequence[Composed]
    names: Sequence[RunName]


@dataclass(frozen=True)
class Ranked:
    """What was found about one body.

    Args:
        label: what it is called.
        settings: hash of all its settings but the seed; runs with the same are what the ranking predicts.
        seeds: what each seed says; empty where the body cannot take the task.
        distance: over all seeds; None likewise.
        reason: why there is none, or why there is no LogME or probe.
    """

    label: str
    settings: str
    seeds: Sequence[Measured]
    distance: Distance | None
    reason: str = ""

    def mean(self, name: str) -> float | None:
        """Return the mean of a number of `Measured` over seeds; None where a seed has none."""
        values = [getattr(one, name) for one in self.seeds]
        return math.fsum(values) / len(values) if values and None not in values else None

    def record(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        found = self.distance
        return {
            "label": self.label,
            "settings": self.settings,
            "distance": found and found.mean,
            "interval": found and list(found.interval),
            "interval_of": found and found.of,
            "scale": self.seeds[0].scale if self.seeds else None,
            **{name: self.mean(name) for name in ("before", "logme", "probe")},
            "reason": self.reason,
            "seeds": [asdict(one) for one in self.seeds],
        }


def check(job: Composed) -> None:
    """Refuse settings with which there is nothing to rank by, or that would open the test split.

    Raises:
        ConfigError: see above.
    """
    config = job.config
    if config.metric.get(parts.TARGET) is None or config.align.epochs == 0:
        what = "bodies are ranked by the distance after alignment, which these settings leave out"
        raise ConfigError(what, where="metric, align.epochs", hint="use metric=otdd and align.epochs=60")
    if config.align.method != "orca":
        what = "descends no distance to rank bodies by"
        raise ConfigError(what, where=f"align.method={config.align.method}", hint="use align.method=orca")
    if config.train.validate_on == "test":
        what = "would open the test split before a body is chosen"
        raise ConfigError(what, where="train.validate_on=test", hint="use protocol=clean")


def rank(candidates: Sequence[Candidate], reporter: Reporter) -> list[Ranked]:
    """Return the bodies, nearest first, and after them those that cannot take the task, with the reason.

    What was computed before, by this or by a run with the same alignment, is read from the cache.

    Raises:
        OrcaError: no body can take the task: why the first one cannot; or the disk refuses.
        InterruptionError: a signal asked to stop; what is finished is in the cache.
    """
    for candidate in candidates:
        for job in candidate.jobs:
            check(job)
    found = []
    failures: list[OrcaError] = []
    for place, candidate in enumerate(candidates):
        seeds: list[Measured] = []
        reason = ""
        for number, (job, name) in enumerate(zip(candidate.jobs, candidate.names, strict=True)):
            of = f"{place * len(candidate.jobs) + number + 1} of {len(candidates) * len(candidate.jobs)}"
            reporter.say(f"select: {candidate.label}, seed {job.config.seed} ({of})")
            try:
                seeds.append(measure(job, name, reporter))
            except (InterruptionError, StorageError, LockedError):
                raise
            except OrcaError as error:
                reporter.say(f"select: {candidate.label} is left out: {error}")
                failures.append(error)
                seeds, reason = [], str(error)
                break
        reason = reason or next((one.reason for one in seeds if one.reason), "")
        found.append(
            Ranked(candidate.label, candidate.names[0].settings, seeds, distance(seeds) if seeds else None, reason)
        )
    if failures and not any(one.seeds for one in found):
        raise failures[0]
    return sorted(found, key=lambda one: math.inf if one.distance is None else one.distance.mean)
