"""Time the alignment metric against recomputing everything with geomloss at every call, in one process.

    python scripts/bench_metric.py --points 3000 --width 384 --classes 8 --target 128 --json

The baseline does per call what the released code does: all label distances between source classes and to the target, the
outer divergence with its self terms, and the gradient, each by geomloss's SamplesLoss at its default annealing.
Features are drawn, layer-normed tokens around class centres; machines are noisy, so only the ratio of one run counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable

import torch
from geomloss import SamplesLoss

from orca_cli.interfaces import Features
from orca_cli.metrics.otdd import OTDD
from orca_cli.seeding import torch_generator

REG = 0.1


def tokens(n: int, width: int, classes: int, name: str) -> Features:
    """Return layer-normed points, half of whose variance is that of their class's centre; norm about 10."""
    noise = torch.randn(n, width, generator=torch_generator(0, name))
    centres = torch.randn(classes, width, generator=torch_generator(0, name, "centres"))
    labels = torch.arange(n) % classes
    x = torch.nn.functional.layer_norm(noise + centres[labels], (width,)) * (10 / width**0.5)
    return Features(x, labels, classes)


def recompute(source: Features, target: Features) -> float:
    """Value of the distance with everything computed anew, and its gradient in target.x."""
    inner = SamplesLoss("sinkhorn", p=2, blur=(REG / 2) ** 0.5, debias=True, backend="tensorized")
    outer = SamplesLoss("sinkhorn", p=2, blur=REG**0.5, debias=True, backend="tensorized")
    clouds = [source.x[source.labels == label] for label in range(source.num_classes)]
    for one, other in itertools.combinations(clouds, 2):
        inner(one, other).item()
    label = sum(2 * inner(cloud, target.x) * (len(cloud) / len(source.x)) for cloud in clouds)
    loss = outer(source.x, target.x) + label / 2
    loss.backward()
    return float(loss.detach())


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of a call."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Return seconds per call of both, their ratio and what the metric says about its convergence."""
    source = tokens(arguments.points, arguments.width, arguments.classes, "source")
    target = tokens(arguments.target, arguments.width, 1, "target")
    target = Features(target.x.requires_grad_(), target.labels, 1)
    metric = OTDD(reg=REG)
    begin = time.perf_counter()
    prepared = metric.prepare(source)
    preparation = time.perf_counter() - begin

    def ours() -> None:
        metric.distance(source, prepared, target).value.backward()

    ours()
    result = metric.distance(source, prepared, target)
    own = seconds(ours, arguments.repeats)
    theirs = seconds(lambda: recompute(source, target), 1)
    return {
        "prepare_s": preparation,
        "call_s": own,
        "recompute_s": theirs,
        "ratio": theirs / own,
        "value": float(result.value.detach()),
        **result.diagnostics,
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=3000, help="source points")
    parser.add_argument("--width", type=int, default=384, help="width of the features")
    parser.add_argument("--classes", type=int, default=8, help="source classes")
    parser.add_argument("--target", type=int, default=128, help="target points, of one class")
    parser.add_argument("--repeats", type=int, default=10, help="calls, of which the median counts")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = measure(arguments)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:16s} {value:.6g}")


if __name__ == "__main__":
    main()
