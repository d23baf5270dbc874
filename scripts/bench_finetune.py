"""Measure stage 3 beside the same work in a plain torch loop and in Hugging Face's Trainer; ratios of one run.

    python scripts/bench_finetune.py size         does a step cost more where there are more samples?

Times are taken in turns, block by block, and compared as the median of the blocks' ratios, since other work on the machine
changes from second to second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from orca_cli.schema import Config, Train
from orca_cli.stages.training_plan import TrainingPlan
from orca_cli.tasks.shared.samples import ArraySamples
from orca_cli.training.engine import Engine, choose_device

_BLOCK = 2**16  # samples that are written at once


def on_disk(folder: Path, n: int, length: int, classes: int = 10) -> ArraySamples:
    """Return n samples [1, length] in files that are mapped; each class has a mean of its own."""
    x_path, y_path = folder / f"x-{n}.npy", folder / f"y-{n}.npy"
    x = np.lib.format.open_memmap(x_path, "w+", np.float32, (n, 1, length))
    y = np.lib.format.open_memmap(y_path, "w+", np.int64, (n,))
    rng = np.random.default_rng(0)
    means = rng.normal(size=(classes, length)).astype(np.float32)
    for start in range(0, n, _BLOCK):
        rows = slice(start, min(n, start + _BLOCK))
        y[rows] = rng.integers(classes, size=len(y[rows]))
        x[rows, 0] = means[y[rows]] + rng.standard_normal((len(y[rows]), length), dtype=np.float32)
    del x, y
    return ArraySamples(np.load(x_path, mmap_mode="r"), np.load(y_path, mmap_mode="r"))


class Small(nn.Module):
    """A transformer of two layers over tokens of two values."""

    deviation = 1.0

    def __init__(self, classes: int = 10, width: int = 128) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedder = nn.Conv1d(1, width, 2, stride=2)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.predictor = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits [B, K] of inputs [B, 1, L]."""
        return self.predictor(self.body(self.embedder(x).transpose(1, 2)).mean(dim=1))


def ours(model: nn.Module, samples: Any, engine: Engine, batch: int) -> TrainingPlan:
    """Return the steps of stage 3 over a model and samples."""
    task: Any = SimpleNamespace(train=samples)
    built: Any = SimpleNamespace(model=model.to(engine.device), loss=nn.CrossEntropyLoss(), task=task)
    return TrainingPlan(Config(train=Train(batch_size=batch, epochs=10)), built, engine)


def in_turns(steps: list[Callable[[int], object]], *, block: int, blocks: int) -> list[list[float]]:
    """Return seconds per step of each block, for every kind of step; the first block is not counted."""
    seconds: list[list[float]] = [[] for _ in steps]
    for turn in range(blocks + 1):
        for kind, take in enumerate(steps):
            begin = time.perf_counter()
            for step in range(turn * block, (turn + 1) * block):
                take(step)
            if turn:
                seconds[kind].append((time.perf_counter() - begin) / block)
    return seconds


def ratio(seconds: list[float], base: list[float]) -> float:
    """Return the median over the blocks of seconds / base."""
    return statistics.median(one / other for one, other in zip(seconds, base, strict=True))


def size(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare steps over few and over many samples; an epoch's order, which grows with them, is shared by all its steps."""
    engine = Engine(choose_device(arguments.device), "fp32")
    few, many = arguments.samples
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        plans = [ours(Small(), on_disk(Path(folder), n, 16), engine, 32) for n in (few, many)]
        order = []
        for plan in plans:
            begin = time.perf_counter()
            plan.chosen(0)
            order.append((time.perf_counter() - begin) / plan.per_epoch)
        blocks = in_turns([plan.take for plan in plans], block=20, blocks=arguments.blocks)
    steps = [[one + share for one in times] for times, share in zip(blocks, order, strict=True)]
    return {
        "samples": [few, many],
        "ms a step": [round(1000 * statistics.median(times), 3) for times in steps],
        "of which the order, shared by the steps of an epoch": [round(1000 * share, 4) for share in order],
        "ratio": round(ratio(steps[1], steps[0]), 4),
    }


def main() -> None:
    """Run the chosen parts and print one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["size"], nargs="*", default=["size"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=15, help="repetitions; the median counts")
    parser.add_argument(
        "--folder", help="where data of the size that is asked for are written; default: temporary files"
    )
    parser.add_argument("--samples", type=int, nargs=2, default=[10_000, 10_000_000], help="of part size")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for part in arguments.part:
        print(json.dumps({part: {"size": size}[part](arguments)}), flush=True)


if __name__ == "__main__":
    main()
