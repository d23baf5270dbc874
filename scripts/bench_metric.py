"""Measure the dataset distances: seconds against geomloss and POT, and the default metric by the size of its samples.

    python scripts/bench_metric.py a --points 5000 --width 768 --classes 10 --target 128
    python scripts/bench_metric.py d --set task=digits

    a  every solver against geomloss and POT, for one class and step: value, gradient, seconds
    d  metric=otdd on the tokens of a task, at the start of stage 2: bias of value and gradient against the exact OTDD of large
       samples, with as little bias of its own; noise of a step; noise of W over its signal; time of a step's distance over
       that without labels

The baseline recomputes with geomloss, per class and step, what the released code recomputes: all label distances between source
classes and to the target, the outer divergence with its self terms, and the gradient. Features are layer-normed points around
class centres.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.benchmarks import command_line, paired, show  # noqa: E402

REG = 0.1
METRICS = ("otdd", "otdd_by_class", "otdd_exact", "otdd_reference", "otdd_gaussian", "minibatch_ot")
SIZES, POINTS, DRAWS = (32, 64, 128), 256, 64  # of part d: points of a sample and of a step, steps
LARGE, LARGE_DRAWS = 1600, 8
Solver = Callable[[Any, Any], tuple[float, np.ndarray]]  # value, and gradient in the target


def features(n: int, width: int, classes: int, name: str) -> Any:
    """Return layer-normed points, half of whose variance is that of their class's centre; norm about 10."""
    import torch

    from orca_cli.interfaces import Features
    from orca_cli.seeding import torch_generator

    noise = torch.randn(n, width, generator=torch_generator(0, name))
    centres = torch.randn(classes, width, generator=torch_generator(0, name, "centres"))
    labels = torch.arange(n) % classes
    x = torch.nn.functional.layer_norm(noise + centres[labels], (width,)) * (10 / width**0.5)
    return Features(x, labels, classes)


def with_geomloss(source: Any, target: Any) -> tuple[float, np.ndarray]:
    """Return value and gradient with everything computed anew, in the convention of the released code."""
    from geomloss import SamplesLoss

    inner = SamplesLoss("sinkhorn", p=2, blur=(REG / 2) ** 0.5, debias=True, backend="tensorized")
    outer = SamplesLoss("sinkhorn", p=2, blur=REG**0.5, debias=True, backend="tensorized")
    clouds = [source.x[source.labels == label] for label in range(source.num_classes)]
    for one, other in itertools.combinations(clouds, 2):
        inner(one, other).item()
    z = target.x.detach().requires_grad_()
    label = sum(2 * inner(cloud, z).item() * (len(cloud) / len(source.x)) for cloud in clouds)
    loss = outer(source.x, z) + label / 2
    loss.backward()
    return float(loss.detach()), z.grad.cpu().numpy()


def with_pot(source: Any, target: Any) -> tuple[float, np.ndarray]:
    """Return the exact value by POT's emd2 at both levels; no gradient."""
    import ot

    x, z = source.x.cpu().double().numpy(), target.x.detach().cpu().double().numpy()
    cost = ot.dist(x, z)
    labels = source.labels.cpu().numpy()
    between = np.array([ot.emd2([], [], cost[labels == a], numItermax=10**7) for a in range(source.num_classes)])
    return float(ot.emd2([], [], (cost + between[labels][:, None]) / 2, numItermax=10**7)), np.zeros(z.shape)


def with_metric(name: str) -> Solver:
    """Return a solver of ours by its name in conf/metric; its constants are computed at the first call."""
    from orca_cli import configuration, parts

    metric = parts.build(configuration.content(configuration.choices("metric")[name]), "metric")
    prepared: dict[str, Any] = {}

    def solve(source: Any, target: Any) -> tuple[float, np.ndarray]:
        if not prepared:
            prepared["constants"] = metric.prepare(source)
        z = target.x.detach().requires_grad_()
        value = metric.distance(source, prepared["constants"], type(target)(z, target.labels, target.num_classes)).value
        value.backward()
        return float(value.detach()), z.grad.numpy()

    return solve


def against_baselines(size: dict[str, int]) -> list[dict[str, Any]]:
    """Compare every solver with geomloss (value, gradient, seconds) and the value with POT's exact one."""
    source = features(size["points"], size["width"], size["classes"], "source")
    target = features(size["target"], size["width"], 1, "target")
    solvers: dict[str, Solver] = {"geomloss": with_geomloss, "pot": with_pot}
    solvers |= {name: with_metric(name) for name in METRICS}
    results: dict[str, tuple[float, np.ndarray]] = {}

    def work(name: str) -> Callable[[], None]:
        return lambda: results.update({name: solvers[name](source, target)})

    times = paired({name: work(name) for name in solvers}, 3)
    base, exact = results["geomloss"][1], results["pot"][0]
    rows = []
    for name, (value, gradient) in results.items():
        row: dict[str, Any] = {"solver": name, "value": value, "value / exact": value / exact}
        if gradient.any():
            row["gradient cosine with geomloss"] = cosine(gradient.ravel(), base.ravel())
        seconds, ratio = times[name]
        rows.append(row | {"seconds": seconds, "times faster than geomloss": 1 / ratio})
    return rows


class Tokens:
    """The embedded source and the untrained embedder of a run, and distances between draws of points of both."""

    def __init__(self, overrides: list[str]) -> None:
        """Build the run."""
        import torch

        from orca_cli.config.compose.sessions import session
        from orca_cli.stages.build import build
        from orca_cli.stages.compared import compare
        from orca_cli.terminal import LogReporter
        from orca_cli.training.engine import Engine

        with session() as composing:
            config = composing.compose(["metric=otdd", *overrides]).config
        self._built = build(config, LogReporter())
        self._engine = Engine(torch.device("cpu"), "fp32")
        self.problem = compare(self._built, self._engine, LogReporter()).problem

    def target(self, points: int, draw: int) -> Any:
        """Return target points of a draw of classes, equally many of each."""
        problem = replace(self.problem, settings=replace(self.problem.settings, max_samples=points))
        groups = problem.groups(problem.train, "bench", draw)
        return problem.points(self._built.model, self._engine, problem.train, groups, "bench", draw)[0]

    def step(self, metric: Any, draw: int) -> tuple[float, np.ndarray]:
        """Return value and gradient of one step of stage 2."""
        from orca_cli.seeding import numpy_generator
        from orca_cli.stages.problem import measure

        generator = numpy_generator(0, "bench", draw)
        distance = measure(metric, self.problem.source, {}, self.target(POINTS, draw), generator)
        return float(distance.value.detach()), self._gradient(distance.value)

    def exact(self, draw: int) -> tuple[float, np.ndarray]:
        """Return value and gradient of the exact OTDD of large samples, less half of each side's to itself."""
        from orca_cli.metrics.otdd_exact import OTDDExact
        from orca_cli.seeding import numpy_generator
        from orca_cli.stages.problem import balanced_rows

        metric, generator = OTDDExact(), numpy_generator(0, "bench", "exact", draw)
        z = self.target(LARGE, draw)
        rows = balanced_rows(z, len(z.x), 8, generator)
        halves = [rows[: len(rows) // 2], rows[len(rows) // 2 : len(rows) // 2 * 2]]
        z, z_other = (type(z)(z.x[half], z.labels[half], z.num_classes) for half in halves)
        drawn = balanced_rows(self.problem.source, 2 * len(z.x), 8, generator)
        source = self.problem.source
        x, x_other = (
            type(z)(source.x[half], source.labels[half], source.num_classes)
            for half in (drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :])
        )
        fixed = type(z)(z_other.x.detach(), z_other.labels, z_other.num_classes)
        across, within_target, within_source = (
            metric.distance(one, metric.prepare(one), other).value for one, other in ((x, z), (fixed, z), (x, x_other))
        )
        value = float((across - within_target / 2 - within_source / 2).detach())
        # Both sides of the target's own term move, and each has half of its slope in expectation.
        return value, self._gradient(across - within_target)

    def _gradient(self, value: Any) -> np.ndarray:
        import torch

        parameters = [one for one in self._built.model.embedder.parameters() if one.requires_grad]
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        return np.concatenate([one.flatten().numpy() for one in gradients if one is not None])

    def label_noise(self, size: int) -> float:
        """Return the deviation of W between draws over that between pairs of classes; a class has an eighth of a sample."""
        from orca_cli.seeding import numpy_generator

        each, target, pairs = max(1, size // 8), self.target(LARGE, 0), []
        sides = [(side.x.detach().numpy(), side.labels.numpy()) for side in (self.problem.source, target)]
        for pair in itertools.product(*(np.unique(labels) for _, labels in sides)):
            values = []
            for draw in range(8):
                generator = numpy_generator(0, "bench", "labels", *map(int, pair), draw)
                members = [np.flatnonzero(labels == label) for (_, labels), label in zip(sides, pair, strict=True)]
                if min(map(len, members)) >= each:
                    rows = [generator.choice(some, each, replace=False) for some in members]
                    values.append(transport(*(x[chosen] for (x, _), chosen in zip(sides, rows, strict=True))))
            if values:
                pairs.append(values)
        table = np.array(pairs)
        return float(np.sqrt(table.var(axis=1, ddof=1).mean()) / table.mean(axis=1).std(ddof=1))


def by_size(overrides: list[str]) -> list[dict[str, Any]]:
    """Return how far steps of small samples are from the exact OTDD of large ones, and from one another."""
    from orca_cli.metrics.otdd import OTDD

    tokens = Tokens(overrides)
    large = [tokens.exact(draw) for draw in range(LARGE_DRAWS)]
    exact = float(np.mean([value for value, _ in large]))
    limit = np.mean([slope for _, slope in large], axis=0)
    rows: list[dict[str, Any]] = [{"otdd_exact, debiased": exact}]
    for labels, size in itertools.product((True, False), SIZES):
        metrics = {"without labels": OTDD(64, labels=False), "": OTDD(size, labels)}
        works = {name: lambda metric=metric: tokens.step(metric, 0) for name, metric in metrics.items()}  # type: ignore[misc]
        ratio = paired(works, 9)[""][1]
        steps = [tokens.step(OTDD(size, labels), draw) for draw in range(DRAWS)]
        values, slopes = np.array([value for value, _ in steps]), [slope for _, slope in steps]
        mean = np.mean(slopes, axis=0)
        row = {"labels": labels, "size": size, "value": values.mean(), "deviation of a step": values.std(ddof=1)}
        row |= {"value / exact": values.mean() / exact, "cosine of mean and exact": cosine(mean, limit)}
        row |= {"cosine of a step and mean": float(np.mean([cosine(one, mean) for one in slopes]))}
        if labels:
            row["noise / signal of W"] = tokens.label_noise(size)
        rows.append(row | {"seconds / minibatch_ot's": ratio})
    return rows


def transport(x: np.ndarray, z: np.ndarray) -> float:
    """Return W between two equal samples."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost = cdist(x, z, "sqeuclidean")
    return float(cost[linear_sum_assignment(cost)].mean())


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Return the cosine of two gradients."""
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def main() -> None:
    """Print the tables."""
    parser = command_line(__doc__, "ad")
    for name, default in (("points", 2000), ("width", 384), ("classes", 8), ("target", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--set", nargs="*", default=["task=digits"], metavar="KEY=VALUE", help="of the run of part d")
    arguments = parser.parse_args()
    size = {name: getattr(arguments, name) for name in ("points", "width", "classes", "target")}
    chosen = arguments.parts or "ad"
    if "a" in chosen:
        title = ", ".join(f"{name} {value}" for name, value in size.items())
        show(f"against geomloss and POT, per class and step: {title}", against_baselines(size))
    if "d" in chosen:
        show(f"metric=otdd on tokens of {' '.join(arguments.set)}", by_size(arguments.set))


if __name__ == "__main__":
    main()
