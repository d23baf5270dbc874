"""How well a score before fine-tuning predicted the errors after it: rank correlation over bodies, per task and over tasks.

Kendall's tau-b and Spearman's rho, both with ties. Over tasks: the mean of tau, with the BCa bootstrap interval over tasks,
and p by shuffling the bodies within every task. Reads no file and imports neither torch nor scipy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True)
class Correlation:
    """A score against errors on one task.

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
        bodies: of all of these tasks together.
        tau: mean over tasks.
        interval: 95 % BCa bootstrap interval over tasks; None for fewer than LEAST_TASKS.
        p: one-sided, how often shuffled bodies give as high a mean.
    """

    tasks: int
    bodies: int
    tau: float
    interval: tuple[float, float] | None
    p: float


def correlation(scores: Sequence[float], errors: Sequence[float]) -> Correlation | None:
    """Return how a score, lower for what is to be better, orders errors; None for fewer than LEAST, and where all are equal."""
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


def pooled(tasks: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Pooled | None:
    """Return the agreement over tasks.

    Args:
        tasks: scores and errors of each; those without a correlation are left out.
    """
    kept = [(scores, errors) for scores, errors in tasks if correlation(scores, errors) is not None]
    taus = [tau for scores, errors in kept if (tau := kendall(scores, errors)) is not None]
    if not taus:
        return None
    mean = math.fsum(taus) / len(taus)
    between = interval(taus) if len(taus) >= LEAST_TASKS else None
    return Pooled(len(taus), sum(len(scores) for scores, _ in kept), mean, between, _shuffled_p(kept, mean))


def _shuffled_p(tasks: Sequence[tuple[Sequence[float], Sequence[float]]], mean: float) -> float:
    """Return the share of shuffles, the true order counted as one, whose mean tau is at least as high."""
    import numpy as np

    generator = seeding.numpy_generator(0, "body_ranking", "shuffles")
    total = np.zeros(_SHUFFLES)
    for scores, errors in tasks:
        first, second = (
            np.sign(np.subtract.outer(values, values)) for values in (np.asarray(scores), np.asarray(errors))
        )
        norm = math.sqrt(np.abs(first).sum() * np.abs(second).sum())
        orders = generator.permuted(np.tile(np.arange(len(scores)), (_SHUFFLES, 1)), axis=1)
        parts = np.array_split(orders, 1 + orders.size * len(scores) // _CELLS)
        sums = [(first * second[part[:, :, None], part[:, None, :]]).sum((1, 2)) for part in parts]
        total += np.concatenate(sums) / norm
    hits = int((total / len(tasks) >= mean - 1e-9).sum())
    return (hits + 1) / (_SHUFFLES + 1)


def paired(
    bodies: Sequence[Mapping[str, Any]], errors: Mapping[str, float], score: str
) -> tuple[list[float], list[float]]:
    """Return a score, signed so that lower is better, and the errors, of the bodies that have both.

    Args:
        bodies: records with "label" and scores.
        errors: label -> mean test error.
        score: one of SCORES.
    """
    sign = 1 if SCORES[score] else -1
    kept = [body for body in bodies if body.get(score) is not None and body["label"] in errors]
    return [sign * body[score] for body in kept], [errors[body["label"]] for body in kept]


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _pearson(a: Sequence[float], b: Sequence[float]) -> float:
    means = [math.fsum(values) / len(values) for values in (a, b)]
    first, second = ([value - mean for value in values] for values, mean in zip((a, b), means, strict=True))
    squares = math.fsum(x * x for x in first) * math.fsum(y * y for y in second)
    return math.fsum(x * y for x, y in zip(first, second, strict=True)) / math.sqrt(squares)
