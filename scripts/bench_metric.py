"""Measure the dataset distances: against geomloss, against POT, by size, and as a share of fine-tuning; ratios of one run.

    python scripts/bench_metric.py                          parts a and b at a size that takes minutes
    python scripts/bench_metric.py a --points 5000 --width 768 --classes 10 --target 128
    python scripts/bench_metric.py c --runs runs --json     stage 2 as a share of stage 3 in completed runs

    a  every solver against geomloss and POT, for one class and step
    b  how the time of a call grows when one of n, d, k, m is doubled

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
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.benchmarks import command_line, repeated, show  # noqa: E402

REG = 0.1
SOLVERS = ("geomloss", "pot", "otdd", "otdd_exact", "otdd_reference", "otdd_gaussian", "minibatch_ot")


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
    from orca_cli import configuration, parts

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
    for metric in ("otdd", "minibatch_ot"):
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


def main() -> None:
    """Print the tables, or JSON."""
    parser = command_line(__doc__, "abc")
    for name, default in (("points", 2000), ("width", 384), ("classes", 8), ("target", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=Path, help="folder of runs, for part c; without it, a and b are all")
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
