"""The distance between two labelled data sets outside a run: what `orca distance` computes, as a function."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from orca_cli import seeding
from orca_cli.config import configuration, parts
from orca_cli.data.untrusted.arrays import read_arrays
from orca_cli.exceptions import ConfigError, DataError, suggest
from orca_cli.interfaces import Distance, Features, Metric
from orca_cli.stages.problem import measure


@dataclass(frozen=True)
class Measured:
    """What one metric measured."""

    metric: str
    convention: str  # whether the value is squared, its costs halved, and the like; empty if the metric does not say
    value: float  # distance of B (as target) to A (as source)
    self_a: float  # distance of A to itself
    self_b: float
    diagnostics: dict[str, float]  # the solver's, for the value
    seconds: float  # for the value


@torch.no_grad()
def distance(
    a: Path, b: Path, metrics: Sequence[str] = ("otdd",), *, points: int | None = 1000, seed: int = 0
) -> tuple[list[Features], list[Measured]]:
    """Return the points that were compared of each data set, and what each metric measured.

    Args:
        a, b: source and target: .npz files with x [n, ...], whose further axes are flattened, and the classes y [n].
        metrics: files of conf/metric, with the parameters that are there.
        points: upper bound on the points of each side, drawn without replacement; None takes all.
        seed: of all draws.

    Raises:
        ConfigError: an unknown metric.
        DataError: missing arrays, other shapes than above, different widths, too few classes for a metric.
        UnsafeError: an array holds Python objects.
        NonFiniteError: a distance overflows.
    """
    if points is not None and points < 2:
        raise ConfigError(f"{points} is out of range", where="--points", hint="allowed: 2 or more")
    nodes = {name: configuration.content(path) for name, path in configuration.choices("metric").items()}
    nodes = {name: node for name, node in nodes.items() if node[parts.TARGET] is not None}
    if unknown := set(metrics) - nodes.keys():
        raise ConfigError(f"no such metric: '{min(unknown)}'", where="metric", hint=suggest(min(unknown), nodes))
    first, second = sides = [_read(path, points, seed) for path in (a, b)]
    if first.x.shape[1] != second.x.shape[1]:
        what = f"A has points of width {first.x.shape[1]} and B of width {second.x.shape[1]}"
        raise DataError(what, where="A, B", hint="use data of equal width")
    measured = []
    for name in metrics:
        metric: Metric = parts.build(nodes[name], "metric")
        least = int(getattr(metric, "least_classes", 1))
        if min(one.num_classes for one in sides) < least:
            what = f"needs {least} or more classes, but A has {first.num_classes}, B has {second.num_classes}"
            raise DataError(what, where=name, hint="choose another metric, or data with several classes")
        start = time.monotonic()
        result = _between(metric, first, second, seed)
        seconds, value = time.monotonic() - start, float(result.value)
        self_a, self_b = (
            float(_between(metric, one, one, seed, side).value) for side, one in zip("ab", sides, strict=True)
        )
        convention = str(getattr(metric, "convention", ""))
        measured.append(Measured(name, convention, value, self_a, self_b, result.diagnostics, seconds))
    return sides, measured


def _between(metric: Metric, source: Features, target: Features, seed: int, *side: str) -> Distance:
    draws = seeding.numpy_generator(seed, "distance", "pairing", *side)
    return measure(metric, source, metric.prepare(source), target, draws)


def _read(path: Path, points: int | None, seed: int) -> Features:
    """Return a seeded draw of a file's points; the same rows for equal sizes. Errors as those of `distance`."""
    arrays = read_arrays(path, ("x", "y"))
    x, y = np.asarray(arrays["x"]), np.asarray(arrays["y"])
    if x.ndim < 2 or x.size == 0 or x.dtype.kind not in "biuf" or y.shape != x.shape[:1]:
        what = f"x is {x.dtype} {list(x.shape)}, y is {y.dtype} {list(y.shape)}"
        raise DataError(
            what, where=str(path), hint="needed: numbers x [n, d] or [n, ...] and one class label for each, y [n]"
        )
    if y.dtype.kind not in "biufUS" or (y.dtype.kind == "f" and not (y == np.floor(y)).all()):
        raise DataError("y has values that are not class labels", where=str(path), hint="round or cluster them first")
    rows = np.arange(len(x))
    if points is not None and points < len(x):
        generator = seeding.numpy_generator(seed, "distance", "points", len(x))
        rows = np.sort(generator.choice(len(x), size=points, replace=False))
    with np.errstate(over="ignore"):
        cloud = torch.from_numpy(x[rows].reshape(len(rows), -1).astype(np.float32))
    if not torch.isfinite(cloud).all():
        raise DataError("x has numbers that are NaN, infinite or beyond float32", where=str(path))
    classes, labels = np.unique(y[rows], return_inverse=True)
    return Features(cloud, torch.from_numpy(labels), len(classes))
