"""Measure the dataset distances: seconds against geomloss and POT, and the default metric by the size of its samples.

    python scripts/bench_metric.py a --points 5000 --width 768 --classes 10 --target 128
    python scripts/bench_metric.py d --set task=digits
    python scripts/bench_metric.py e

    a  every solver against geomloss and POT, for one class and step: value, gradient, seconds
    d  metric=otdd on the tokens of a task, at the start of stage 2: bias of value and gradient compared with the exact OTDD of
       large samples, which has little bias itself; noise of a step; ratio of the noise of W to its signal; time for the
       distance of a step, relative to the time without labels
    e  metric=otdd between populations with classes of several sizes, where source and target have the same distribution or
       different ones: value, and gradient in the position of each class along the axis from the mean of all classes; standard
       errors

For comparison, geomloss recomputes for every class and step all quantities that the released code recomputes: the label
distances between source classes and to the target, the outer divergence with its self terms, and the gradient. Features are
layer-normed points around class centres.
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import itertools
import sys
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ot
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from orca_cli.config import compose, configuration, parts
from orca_cli.config.schema import Align
from orca_cli.interfaces import Batch, Features, Metric, Tokens
from orca_cli.metrics.otdd import OTDD
from orca_cli.metrics.otdd_exact import OTDDExact
from orca_cli.seeding import numpy_generator, torch_generator
from orca_cli.stages.build import build
from orca_cli.stages.problem import Labelled, Problem, Sides, form_of, make_problem
from orca_cli.terminal import LogReporter
from orca_cli.training.engine import Engine

REG = 0.1
METRICS = ("otdd", "otdd_by_class", "otdd_exact", "otdd_reference", "otdd_gaussian", "minibatch_ot")
SIZES, POINTS, DRAWS = (32, 64, 128), 256, 64  # part d: points of a sample and of a step; steps
CLASSES = 8  # number of classes of a step
LARGE, LARGE_DRAWS = 1600, 8
WIDTH, DISTANCE = (
    16,
    3,
)  # part e: dimensions, and distance from the origin of the mean of each class, on a separate axis
PRECISION = 0.02  # the largest standard error
GEOMETRIC = (256, 128, 64, 32, 16, 8, 4, 2)
POPULATIONS = {  # name -> points of each class of the source, of the target; distance by which the target is moved
    "128, 128": ((128, 128), (128, 128), 0),
    "128, 80": ((128, 80), (128, 80), 0),
    "128, 30": ((128, 30), (128, 30), 0),
    "128, 3": ((128, 3), (128, 3), 0),
    "256, 128, 64, ..., 2": (GEOMETRIC, GEOMETRIC, 0),
    "ten classes of 30": ((30,) * 10, (30,) * 10, 0),
    "1024, 240 and 128, 30": ((1024, 240), (128, 30), 0),
    "128, 30, moved by 1": ((128, 30), (128, 30), 1),
    "128, 30 and 128": ((128, 30), (128,), 0),
    "128 and 128, 30": ((128,), (128, 30), 0),
}
Result = tuple[float, np.ndarray]  # value and gradient


def taking_turns(works: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, np.ndarray]:
    """Return name -> median seconds of a call, and median of the ratio to the seconds of the first function.

    Functions take turns, since the load of a machine varies. The first round is not counted.
    """
    rounds = [
        [timeit.timeit(work, number=1) for work in works.values()] for _ in range(repeats + 1)
    ]
    seconds = np.array(rounds[1:])
    return dict(zip(works, np.median([seconds, seconds / seconds[:, :1]], axis=1).T, strict=True))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Return the cosine of two gradients."""
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def features(n: int, width: int, classes: int, name: str) -> Features:
    """Return layer-normed points; class centres make up half of their variance. Their norm is about 10."""
    noise = torch.randn(n, width, generator=torch_generator(0, name))
    centres = torch.randn(classes, width, generator=torch_generator(0, name, "centres"))
    labels = torch.arange(n) % classes
    x = torch.nn.functional.layer_norm(noise + centres[labels], (width,)) * (10 / width**0.5)
    return Features(x, labels, classes)


def with_geomloss(source: Features, z: Tensor) -> Tensor:
    """Return the value with all terms recomputed, in the convention of the released code."""
    from geomloss import SamplesLoss

    inner = SamplesLoss("sinkhorn", p=2, blur=(REG / 2) ** 0.5, debias=True, backend="tensorized")
    outer = SamplesLoss("sinkhorn", p=2, blur=REG**0.5, debias=True, backend="tensorized")
    clouds = [source.x[source.labels == label] for label in range(source.num_classes)]
    for one, other in itertools.combinations(clouds, 2):
        inner(one, other).item()
    label = sum(2 * inner(cloud, z).item() * (len(cloud) / len(source.x)) for cloud in clouds)
    return outer(source.x, z) + label / 2


def with_pot(source: Features, z: Tensor) -> Tensor:
    """Return the exact value by POT's emd2 at both levels; no gradient."""
    cost, labels = (
        ot.dist(source.x.double().numpy(), z.detach().double().numpy()),
        source.labels.numpy(),
    )
    between = np.array(
        [ot.emd2([], [], cost[labels == a], numItermax=10**7) for a in range(source.num_classes)]
    )
    return torch.tensor(ot.emd2([], [], (cost + between[labels][:, None]) / 2, numItermax=10**7))


def with_metric(name: str, labels: Tensor) -> Callable[[Features, Tensor], Tensor]:
    """Return the solver with this name in conf/metric; its constants are computed at the first call."""
    metric = parts.build(configuration.content(configuration.choices("metric")[name]), "metric")
    prepared: dict[str, Tensor] = {}

    def solve(source: Features, z: Tensor) -> Tensor:
        if not prepared:
            prepared.update(metric.prepare(source))
        target = Features(z, labels, 1)
        if metric.sample_size:
            size = min(metric.sample_size, len(z) // 2)
            source, target = (consecutive(side, len(z) // size, size) for side in (source, target))
        return metric.distance(source, prepared, target).value

    return solve


def consecutive(points: Features, samples: int, size: int) -> Features:
    """Return the first points as samples."""
    x, labels = (
        part[: samples * size].unflatten(0, (samples, size)) for part in (points.x, points.labels)
    )
    return Features(x, labels, points.num_classes)


def against_baselines(points: int, width: int, classes: int, target: int) -> list[dict[str, Any]]:
    """Compare every solver with geomloss (value, gradient, seconds) and its value with POT's exact value."""
    source, one_class = (
        features(points, width, classes, "source"),
        features(target, width, 1, "target"),
    )
    solvers = {"geomloss": with_geomloss, "pot": with_pot}
    solvers |= {name: with_metric(name, one_class.labels) for name in METRICS}
    results: dict[str, Result] = {}

    def work(name: str) -> None:
        z = one_class.x.clone().requires_grad_()
        value = solvers[name](source, z)
        if value.requires_grad:
            value.backward()
        results[name] = (
            float(value.detach()),
            np.zeros(0) if z.grad is None else z.grad.numpy().ravel(),
        )

    times = taking_turns({name: lambda name=name: work(name) for name in solvers}, 3)
    base, exact = results["geomloss"][1], results["pot"][0]
    return [
        {
            "solver": name,
            "value": value,
            "value / exact": value / exact,
            "gradient cosine with geomloss": cosine(gradient, base) if len(gradient) else None,
            "seconds": times[name][0],
            "times faster than geomloss": 1 / times[name][1],
        }
        for name, (value, gradient) in results.items()
    ]


class Start:
    """The embedded source and the untrained embedder of a run, and distances between points drawn from both."""

    def __init__(self, overrides: list[str]) -> None:
        """Build the run."""
        with compose.session() as composing:
            config = composing.compose(["metric=otdd", *overrides]).config
        self._built = build(config, LogReporter())
        self._engine = Engine(torch.device("cpu"), "fp32")
        self.problem, _ = make_problem(self._built, self._engine, LogReporter())

    def sides(self, metric: Metric, points: int, draw: int) -> Sides:
        """Return randomly drawn points of source and target, in the form that the metric takes."""
        form = replace(self.problem.form, points=points)
        problem = replace(self.problem, metric=metric, form=form)
        group = tuple(problem.train.members)
        return problem.clouds(problem.train, [group], "bench", draw)[0]

    def step(self, metric: Metric, draw: int) -> Result:
        """Return value and gradient of one step of stage 2."""
        sides = self.sides(metric, POINTS, draw)
        value = metric.distance(sides.source, {}, sides.target).value
        return float(value.detach()), self._gradient(value)

    def exact(self, draw: int) -> Result:
        """Return value and gradient of the exact OTDD of large samples, minus half of each side's own OTDD."""
        metric = OTDDExact()
        (x, x_other), (z, z_other) = (
            [
                Features(*sample, side.num_classes)
                for sample in zip(side.x, side.labels, strict=True)
            ]
            for side in self.sides(OTDD(LARGE // 2), LARGE, draw)
        )
        fixed = replace(z_other, x=z_other.x.detach())
        across, within_target, within_source = (
            metric.distance(one, metric.prepare(one), other).value
            for one, other in ((x, z), (fixed, z), (x, x_other))
        )
        value = float((across - within_target / 2 - within_source / 2).detach())
        # Both samples of the target's own term move, and each has half of the slope in expectation.
        return value, self._gradient(across - within_target)

    def _gradient(self, value: Tensor) -> np.ndarray:
        parameters = [one for one in self._built.model.embedder.parameters() if one.requires_grad]
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        return np.concatenate([one.flatten().numpy() for one in gradients if one is not None])

    def label_noise(self, size: int) -> float:
        """Return the deviation of W between draws, divided by its deviation between pairs of classes.

        Each class has an equal share of a sample.
        """
        each, pairs = max(1, size // CLASSES), []
        sides = [
            (side.x.detach().numpy(), side.labels.numpy())
            for side in self.sides(OTDDExact(), LARGE, 0)
        ]
        for pair in itertools.product(*(np.unique(labels) for _, labels in sides)):
            members = [x[labels == label] for (x, labels), label in zip(sides, pair, strict=True)]
            if min(map(len, members)) < each:
                continue
            values = []
            for draw in range(8):
                generator = numpy_generator(0, "bench", "labels", *map(int, pair), draw)
                cost = cdist(
                    *(x[generator.choice(len(x), each, replace=False)] for x in members),
                    "sqeuclidean",
                )
                values.append(cost[linear_sum_assignment(cost)].mean())
            pairs.append(values)
        table = np.array(pairs)
        return float(np.sqrt(table.var(axis=1, ddof=1).mean()) / table.mean(axis=1).std(ddof=1))


def by_size(overrides: list[str]) -> list[dict[str, Any]]:
    """Return how far steps with small samples are from the exact OTDD of large samples, and from one another."""
    start = Start(overrides)

    def drawn(draw: Callable[[int], Result], count: int) -> tuple[np.ndarray, np.ndarray]:
        values, slopes = zip(*(draw(number) for number in range(count)), strict=True)
        return np.array(values), np.array(slopes)

    exact, limit = (part.mean(axis=0) for part in drawn(start.exact, LARGE_DRAWS))
    rows: list[dict[str, Any]] = [{"labels": "otdd_exact, debiased", "value": exact}]
    for labels, size in itertools.product((True, False), SIZES):
        metrics = {"minibatch_ot": OTDD(64, labels=False), "otdd": OTDD(size, labels)}
        works = {
            name: lambda metric=metric: start.step(metric, 0) for name, metric in metrics.items()
        }
        values, slopes = drawn(lambda draw, metric=metrics["otdd"]: start.step(metric, draw), DRAWS)
        mean = slopes.mean(axis=0)
        rows.append(
            {
                "labels": labels,
                "size": size,
                "value": values.mean(),
                "deviation of a step": values.std(ddof=1),
                "value / exact": values.mean() / exact,
                "cosine of mean and exact": cosine(mean, limit),
                "cosine of a step and mean": np.mean([cosine(one, mean) for one in slopes]),
                "noise / signal of W": start.label_noise(size) if labels else None,
                "seconds / minibatch_ot's": taking_turns(works, 9)["otdd"][1],
            }
        )
    return rows


class Points:
    """Samples of one step, whose values [n, d] are the points themselves."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: np.ndarray, augment: None = None) -> Batch:
        """Return the samples as [B, d, 1], without targets."""
        return Batch(self.x[torch.from_numpy(indices), :, None], torch.empty(0))


def problem_of(source: Features, target: Labelled, metric: Metric, **settings: Any) -> Problem:
    """Return a problem of stage 2 whose embedder returns its inputs."""

    def embed(x: Tensor, valid: None) -> Tokens:
        return Tokens(x.mT, torch.ones(len(x), 1, dtype=torch.bool), (1,))

    layout = SimpleNamespace(tokens=1, input_shape=(source.x.shape[1], 1))
    model = SimpleNamespace(embed=embed, embedder=SimpleNamespace(layout=layout))
    engine = SimpleNamespace(move=lambda batch: batch)
    return Problem(
        model=model,  # type: ignore[arg-type]
        engine=engine,  # type: ignore[arg-type]
        metric=metric,
        source=source,
        prepared={},
        train=target,
        heldout=target,
        form=form_of(metric, Align(**settings)),
        seed=0,
    )


def population(sizes: Sequence[int], generator: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """Return points [n, WIDTH] with unit deviation around the means of their classes, and their classes [n]."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    x = generator.normal(size=(len(labels), WIDTH)) + DISTANCE * np.eye(len(sizes), WIDTH)[labels]
    return torch.from_numpy(x), labels


def drawn_distance(
    sizes: tuple[Sequence[int], Sequence[int]], metric: Metric, draw: int, shift: float = 0.0
) -> list[float]:
    """Return the distance between two freshly drawn populations, and its slopes.

    There is a slope in the position of every class of the target, along the axis from the mean of its classes (for one class:
    from the origin). The last slope is in the position of the whole target, along an axis on which no class lies and on which
    the target is moved by `shift`.

    Args:
        sizes: numbers of points of each class, for the source and for the target.
    """
    generator = numpy_generator(0, "bench", "population", draw)
    x, x_labels = population(sizes[0], generator)
    z, z_labels = population(sizes[1], generator)
    z[:, -1] += shift
    z.requires_grad_()
    source = Features(x, torch.from_numpy(x_labels), len(sizes[0]))
    value, _ = problem_of(source, Labelled(Points(z), z_labels), metric).backward(draw)
    assert z.grad is not None
    gradient = z.grad.numpy()
    axes = np.eye(len(sizes[1]), WIDTH)
    if len(axes) > 1:
        axes = axes - axes.mean(0)
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    of_classes = [gradient[z_labels == label].sum(0) @ axis for label, axis in enumerate(axes)]
    return [value, *of_classes, gradient[:, -1].sum()]


def known_differences() -> list[dict[str, Any]]:
    """Return value and slopes of metric=otdd for every pair of POPULATIONS, with enough draws for PRECISION."""
    rows = []
    for name, (source, target, shift) in POPULATIONS.items():
        drawn: list[list[float]] = []
        errors = np.full(1, np.inf)
        while errors.max() > PRECISION:
            numbers = range(len(drawn), len(drawn) + 100)
            drawn += [drawn_distance((source, target), OTDD(), number, shift) for number in numbers]
            errors = np.std(drawn, axis=0, ddof=1) / len(drawn) ** 0.5
        means = np.mean(drawn, axis=0)
        largest = 1 + np.abs(means[1:-1]).argmax()
        rows.append(
            {
                "populations": name,
                "draws": len(drawn),
                "value": means[0],
                "value +-": errors[0],
                "largest slope of a class": means[largest],
                "class +-": errors[largest],
                "slope of all": means[-1],
                "all +-": errors[-1],
            }
        )
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=("a", "d", "e"), help="default: all")
    sizes = {"points": 2000, "width": 384, "classes": 8, "target": 128}
    for name, default in sizes.items():
        parser.add_argument(
            f"--{name}", type=int, default=default, help=f"{name} in part a; default: {default}"
        )
    parser.add_argument(
        "--set",
        nargs="*",
        default=["task=digits"],
        metavar="KEY=VALUE",
        help="settings of the run in part d",
    )
    arguments = parser.parse_args()
    tables = {}
    if arguments.part in (None, "a"):
        size = {name: getattr(arguments, name) for name in sizes}
        tables[f"against geomloss and POT, per class and step: {size}"] = against_baselines(**size)
    if arguments.part in (None, "d"):
        tables[f"metric=otdd on tokens of {' '.join(arguments.set)}"] = by_size(arguments.set)
    if arguments.part in (None, "e"):
        tables["metric=otdd between populations of classes"] = known_differences()
    for title, rows in tables.items():
        print(
            f"\n{title}\n{pd.DataFrame(rows).to_string(index=False, float_format='{:.4g}'.format, na_rep='')}"
        )


if __name__ == "__main__":
    main()
