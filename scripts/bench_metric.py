"""Measure the dataset distances: against geomloss, against POT, by size, and as a share of fine-tuning; ratios of one run.

    python scripts/bench_metric.py                          parts a and b at a size that takes minutes
    python scripts/bench_metric.py a --points 5000 --width 768 --classes 10 --target 128
    python scripts/bench_metric.py c --runs runs --json     stage 2 as a share of stage 3 in completed runs
    python scripts/bench_metric.py d --set task=digits      metric=otdd on the tokens of a task, by the size of its samples

    a  every solver against geomloss and POT, for one class and step
    b  how the time of a call grows when one of n, d, k, m is doubled
    d  at the start of stage 2: bias of value and gradient against the exact OTDD of large samples, with as little bias of its
       own; noise of a step; noise of W over its signal; time of a step's distance over that without labels

Every solver runs in a process of its own, so that peak memory is its own. The baseline recomputes with geomloss, per class and
step, what the released code recomputes: all label distances between source classes and to the target, the outer divergence
with its self terms, and the gradient. Features are layer-normed points around class centres.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.benchmarks import command_line, repeated, show  # noqa: E402

REG = 0.1
SOLVERS = ("geomloss", "pot", "otdd", "otdd_by_class", "otdd_exact", "otdd_reference", "otdd_gaussian", "minibatch_ot")
SIZES, POINTS, DRAWS = (32, 64, 128), 256, 64  # of part d: points of a sample and of a step, steps
LARGE, LARGE_DRAWS = 1600, 8


def features(n: int, width: int, classes: int, name: str, device: str) -> Any:
    """Return layer-normed points, half of whose variance is that of their class's centre; norm about 10."""
    import torch

    from orca_cli.interfaces import Features
    from orca_cli.seeding import torch_generator

    noise = torch.randn(n, width, generator=torch_generator(0, name))
    centres = torch.randn(classes, width, generator=torch_generator(0, name, "centres"))
    labels = torch.arange(n) % classes
    x = torch.nn.functional.layer_norm(noise + centres[labels], (width,)) * (10 / width**0.5)
    return Features(x.to(device), labels.to(device), classes)


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


def metric_by_name(name: str) -> Any:
    """Return a metric of ours by its name in conf/metric."""
    from orca_cli.config import configuration, parts

    return parts.build(configuration.content(configuration.choices("metric")[name]), "metric")


def with_metric(name: str) -> Callable[[Any, Any], tuple[float, np.ndarray, float]]:
    """Return a solver of ours: value, gradient, and seconds of the one-time set-up."""
    metric = metric_by_name(name)
    state: dict[str, Any] = {}

    def solve(source: Any, target: Any) -> tuple[float, np.ndarray, float]:
        if not state:
            begin = time.perf_counter()
            state["prepared"] = {key: value.to(source.x.device) for key, value in metric.prepare(source).items()}
            state["seconds"] = time.perf_counter() - begin
        z = target.x.detach().requires_grad_()
        value = metric.distance(source, state["prepared"], type(target)(z, target.labels, target.num_classes)).value
        value.backward()
        return float(value.detach()), z.grad.cpu().numpy(), state["seconds"]

    return solve


def one(solver: str, points: int, width: int, classes: int, target: int, device: str, repeats: int, out: Any) -> None:
    """Measure one solver in this process and put the record into a queue."""
    import torch

    torch.set_num_threads(1)
    source = features(points, width, classes, "source", device)
    cloud = features(target, width, 1, "target", device)
    solve: Any = {"geomloss": with_geomloss, "pot": with_pot}.get(solver) or with_metric(solver)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, result = repeated(lambda: solve(source, cloud), repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    record = {"value": result[0], "gradient": result[1], "seconds": seconds}
    setup = result[2] if len(result) > 2 else 0.0
    out.put(record | {"setup_s": setup, "memory_mb": (peak - base) / 1024})


def measure(solver: str, size: dict[str, int], device: str, repeats: int) -> dict[str, Any]:
    """Measure one solver in a new process."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    process = context.Process(target=one, args=(solver, *size.values(), device, repeats, out))
    process.start()
    record = out.get()
    process.join()
    return record


def against_baselines(size: dict[str, int], device: str) -> list[dict[str, Any]]:
    """Compare every solver with geomloss (value, gradient, seconds, memory) and the value with POT's exact one."""
    records = {name: measure(name, size, device, repeats=1 if name in ("geomloss", "pot") else 3) for name in SOLVERS}
    base, exact = records["geomloss"], records["pot"]
    rows = []
    for name, record in records.items():
        norms = np.linalg.norm(record["gradient"]) * np.linalg.norm(base["gradient"])
        row = {"solver": name, "value": record["value"], "value / exact": record["value"] / exact["value"]}
        row["gradient cosine with geomloss"] = (
            float((record["gradient"] * base["gradient"]).sum() / norms) if norms else None
        )
        row |= {"seconds": record["seconds"], "times faster than geomloss": base["seconds"] / record["seconds"]}
        rows.append(row | {"set-up, s": record["setup_s"], "memory, MB": record["memory_mb"]})
    return rows


def growth(size: dict[str, int], device: str) -> list[dict[str, Any]]:
    """Double each of n, d, k, m in turn, and return how the seconds of a call and of the set-up grow."""
    half = size | {"points": size["points"] // 2}
    rows = []
    for metric in ("otdd_by_class", "otdd", "minibatch_ot"):
        start = measure(metric, half, device, 3)
        for key in half:
            record = measure(metric, half | {key: 2 * half[key]}, device, 3)
            growths = {
                name: record[figure] / max(start[figure], 1e-9)
                for name, figure in (("call", "seconds"), ("set-up", "setup_s"), ("memory", "memory_mb"))
            }
            rows.append({"metric": metric, "doubled": key, **growths})
    return rows


def shares(runs: Path) -> list[dict[str, Any]]:
    """Return stage 2's seconds as a share of stage 3's in completed runs."""
    rows = []
    for path in sorted(runs.glob("*/*/result.json")):
        result = json.loads(path.read_text())
        seconds = result["seconds"]
        if result["metric"] != "none":
            share = seconds["align"] / seconds["finetune"]
            rows.append({"run": f"{result['task']} {result['body']} {result['metric']}", "align / finetune": share})
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
        self.problem = compare(config, self._built, self._engine, LogReporter()).problem

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
        seconds, plain = (
            repeated(lambda metric=metric: tokens.step(metric, 0), 9)[0]
            for metric in (OTDD(size, labels), OTDD(64, labels=False))
        )
        steps = [tokens.step(OTDD(size, labels), draw) for draw in range(DRAWS)]
        values, slopes = np.array([value for value, _ in steps]), [slope for _, slope in steps]
        mean = np.mean(slopes, axis=0)
        row = {"labels": labels, "size": size, "value": values.mean(), "deviation of a step": values.std(ddof=1)}
        row |= {"value / exact": values.mean() / exact, "cosine of mean and exact": cosine(mean, limit)}
        row |= {"cosine of a step and mean": float(np.mean([cosine(one, mean) for one in slopes]))}
        if labels:
            row["noise / signal of W"] = tokens.label_noise(size)
        rows.append(row | {"seconds / minibatch_ot's": seconds / plain})
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
    """Print the tables, or JSON."""
    parser = command_line(__doc__, "abcd")
    for name, default in (("points", 2000), ("width", 384), ("classes", 8), ("target", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=Path, help="folder of runs, for part c; without it, a and b are all")
    parser.add_argument("--set", nargs="*", default=["task=digits"], metavar="KEY=VALUE", help="of the run of part d")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    chosen = arguments.parts or ["a", "b", *(["c"] if arguments.runs else [])]
    if "c" in chosen and arguments.runs is None:
        parser.error("part c needs --runs")
    size = {name: getattr(arguments, name) for name in ("points", "width", "classes", "target")}
    parts = {
        "a": ("against geomloss and POT, per class and step", lambda: against_baselines(size, arguments.device)),
        "b": ("ratio when one size is doubled", lambda: growth(size, arguments.device)),
        "c": ("stage 2 as a share of stage 3", lambda: shares(arguments.runs)),
        "d": (f"metric=otdd on tokens of {' '.join(arguments.set)}", lambda: by_size(arguments.set)),
    }
    tables = {title: measured() for title, measured in (parts[part] for part in chosen)}
    if arguments.json:
        print(json.dumps({"size": size, "tables": tables}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in size.items()))
    for title, rows in tables.items():
        show(title, rows)


if __name__ == "__main__":
    main()
