"""How well a score before fine-tuning predicted the errors after it: rank correlation over bodies, per task and over tasks.

Kendall's tau-b and Spearman's rho, both with ties. Over tasks: the mean of tau, with the BCa bootstrap interval over tasks,
and p by shuffling the bodies within every task. Several selections of one task, such as by other metrics, are about the same
bodies and data: their mean is the task's. Reads no file and imports neither torch nor scipy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orca_cli import seeding
from orca_cli.report.statistics.differences import interval

LEAST = 3  # bodies: of two, every correlation is 1 or -1
LEAST_TASKS = 4  # of an interval over tasks: of two it would be their range
_SHUFFLES = 20_000
_CELLS = 2**24  # pairs of bodies in shuffles that are looked at together
# Of a stored body, what predicts its error; True where lower is better. Before: the distance without stage 2.
SCORES = {"distance": True, "before": True, "logme": False, "probe": True}

Pairs = Mapping[str, tuple[float, float]]  # body -> its score, lower for what is to be better, and its error


@dataclass(frozen=True)
class Correlation:
    """A score against errors of one selection.

    Args:
        n: bodies that have both.
        tau: Kendall's, 1 where the score orders all bodies as their errors do.
        rho: Spearman's.
        regret: how much higher the error of the body with the best score is than the lowest error.
    """

    n: int
    tau: float
    rho: float
    regret: float


@dataclass(frozen=True)
class Pooled:
    """A score against errors over several tasks.

    Args:
        tasks: that have a correlation.
        bodies: of all of these tasks together, each once a task.
        tau: mean over tasks, of each the mean over its selections.
        interval: 95 % BCa bootstrap interval over tasks; None for fewer than LEAST_TASKS.
        p: one-sided, how often shuffled bodies give as high a mean.
    """

    tasks: int
    bodies: int
    tau: float
    interval: tuple[float, float] | None
    p: float


def correlation(pairs: Pairs) -> Correlation | None:
    """Return how a score orders errors; None for fewer than LEAST bodies, and where all are equal."""
    scores, errors = ([pair[side] for pair in pairs.values()] for side in (0, 1))
    tau = kendall(scores, errors)
    if len(scores) < LEAST or tau is None:
        return None
    rho = _pearson(ranks(scores), ranks(errors))
    chosen = min(range(len(scores)), key=lambda place: scores[place])
    return Correlation(len(scores), tau, rho, errors[chosen] - min(errors))


def kendall(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return Kendall's tau-b; None where one of both is constant."""
    pairs = [(i, j) for j in range(len(a)) for i in range(j)]
    signs = [(_sign(a[i] - a[j]), _sign(b[i] - b[j])) for i, j in pairs]
    sizes = [sum(pair[side] != 0 for pair in signs) for side in (0, 1)]
    if not all(sizes):
        return None
    return sum(one * other for one, other in signs) / math.sqrt(sizes[0] * sizes[1])


def ranks(values: Sequence[float]) -> list[float]:
    """Return ranks from 1; ties share the mean of theirs."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def pooled(tasks: Iterable[Iterable[Pairs]]) -> Pooled | None:
    """Return the agreement over tasks; None where there is no correlation.

    Args:
        tasks: the selections of each; those without a correlation are left out.
    """
    correlated = ([pairs for pairs in selections if correlation(pairs) is not None] for selections in tasks)
    kept = [selections for selections in correlated if selections]
    if not kept:
        return None
    taus = [_mean([one.tau for pairs in selections if (one := correlation(pairs))]) for selections in kept]
    between = interval(taus) if len(taus) >= LEAST_TASKS else None
    names = [list(dict.fromkeys(body for pairs in selections for body in pairs)) for selections in kept]
    p = _shuffled_p(kept, names, _mean(taus))
    return Pooled(len(kept), sum(map(len, names)), _mean(taus), between, p)


def _shuffled_p(tasks: Sequence[Sequence[Pairs]], bodies: Sequence[Sequence[str]], mean: float) -> float:
    """Return the share of shuffles, the true order counted as one, whose mean tau is at least as high.

    All selections of a task are shuffled alike: one that agrees with another by chance is no further evidence.
    """
    import numpy as np

    generator = seeding.numpy_generator(0, "body_ranking", "shuffles")
    total = np.zeros(_SHUFFLES)
    for selections, names in zip(tasks, bodies, strict=True):
        shuffled = generator.permuted(np.tile(np.arange(len(names)), (_SHUFFLES, 1)), axis=1)
        for pairs in selections:
            own = np.array([name in pairs for name in names])
            orders = (np.cumsum(own) - 1)[shuffled[own[shuffled]]].reshape(_SHUFFLES, -1)  # of its own bodies
            values = np.array([pairs[name] for name in names if name in pairs])
            first, second = (np.sign(np.subtract.outer(side, side)) for side in values.T)
            norm = math.sqrt(np.abs(first).sum() * np.abs(second).sum())
            parts = np.array_split(orders, 1 + orders.size * len(values) // _CELLS)
            sums = [(first * second[part[:, :, None], part[:, None, :]]).sum((1, 2)) for part in parts]
            total += np.concatenate(sums) / norm / len(selections)
    hits = int((total / len(tasks) >= mean - 1e-9).sum())
    return (hits + 1) / (_SHUFFLES + 1)


def paired(bodies: Iterable[Mapping[str, Any]], errors: Mapping[str, float], score: str) -> Pairs:
    """Return a score and the error of the bodies that have both.

    Args:
        bodies: records with "label" and scores.
        errors: label -> mean test error.
        score: one of SCORES.
    """
    sign = 1 if SCORES[score] else -1
    kept = (body for body in bodies if body.get(score) is not None and body["label"] in errors)
    return {body["label"]: (sign * body[score], errors[body["label"]]) for body in kept}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _pearson(a: Sequence[float], b: Sequence[float]) -> float:
    means = [math.fsum(values) / len(values) for values in (a, b)]
    first, second = ([value - mean for value in values] for values, mean in zip((a, b), means, strict=True))
    squares = math.fsum(x * x for x in first) * math.fsum(y * y for y in second)
    return math.fsum(x * y for x, y in zip(first, second, strict=True)) / math.sqrt(squares)
