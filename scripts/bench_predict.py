"""What `orca predict` costs beside the model itself: throughput beside a bare forward loop, and the peak of its memory.

    python scripts/bench_predict.py [--samples 100000] [--rounds 9] [--out FILE.json]

A run is made on synthetic series with MiniLM (extra `offline`). Then, in turn, a bare loop takes the model over batches that
lie in memory, and the program predicts the same samples from a file into a csv file; both figures are of one process, so that
only their ratios count: by the clock, which other work on the machine changes, and in processor time, which does not see what
overlaps. The memory is that of a process of its own that predicts all samples. Exit code 1 if both ratios are below 0.95 or the
peak is above 1.5 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402

import orca_cli  # noqa: E402
from orca_cli.prediction import output  # noqa: E402
from orca_cli.prediction.predictor import Predictor  # noqa: E402

LEAST_RATIO, MOST_BYTES = 0.95, 1.5e9
# What the measured process runs: the command line, then its peak. Linux's ru_maxrss would count that of the process that
# started it as well.
CHILD = """
import resource, sys
from pathlib import Path
from orca_cli.cli import main
code = main(sys.argv[1:])
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
peak = peaks[0] if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak)
sys.exit(code)
"""
CHANNELS, LENGTH, CLASSES = 6, 128, 5


def make_run(folder: Path, body: list[str]) -> Path:
    """Train a small run and return its folder."""
    rng = np.random.default_rng(0)
    np.savez(folder / "train.npz", x=rng.normal(size=(64, CHANNELS, LENGTH)), y=np.arange(64) % CLASSES)
    outcome = orca_cli.run(
        "task=arrays",
        "task.kind=classes",
        f"task.train={folder / 'train.npz'}",
        "metric=none",
        "train.epochs=1",
        "train.warmup_epochs=0",
        "train.batch_size=16",
        f"paths.runs={folder / 'runs'}",
        *body,
    )
    if outcome.path is None or outcome.code:
        raise SystemExit(f"the run failed: {outcome.failure and outcome.failure.error}")
    return outcome.path


Seconds = tuple[float, float]  # by the clock, and of the processor


def timed(work: Callable[[], object]) -> Seconds:
    """Return how long a call takes."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def bare_loop(predictor: Predictor, x: torch.Tensor) -> torch.Tensor:
    """Return the outputs of the model alone, at the same precision, for inputs in memory."""
    model, size = predictor.model.eval(), predictor.batch_size
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=predictor.precision == "bf16"):
        outputs = [model(x[first : first + size]).float() for first in range(0, len(x), size)]
    return torch.cat(outputs)


def program(predictor: Predictor, source: Path, target: Path) -> None:
    """Write predictions of a file of inputs into a file."""
    new = predictor.opened(source)
    output.write(target, predictor.stream(new), len(new), predictor.decoder, new.ids)


def ratio_of(predictor: Predictor, folder: Path, samples: int, rounds: int) -> dict[str, float]:
    """Return the throughput of both ways, and of the program's as a part of the bare loop's."""
    x = np.random.default_rng(1).normal(size=(samples, CHANNELS, LENGTH)).astype(np.float32)
    np.savez(folder / "part.npz", x=x)
    ready = predictor.preprocessing.inputs(x)[0]
    bare, ours = [], []
    for _ in range(rounds + 1):  # the first warms up
        bare.append(timed(lambda: bare_loop(predictor, ready)))
        ours.append(timed(lambda: program(predictor, folder / "part.npz", folder / "part.csv")))
    clock, processor = ([a[k] / b[k] for a, b in zip(bare[1:], ours[1:], strict=True)] for k in (0, 1))
    return {
        "samples": samples,
        "bare_per_s": samples / statistics.median(seconds for seconds, _ in bare[1:]),
        "program_per_s": samples / statistics.median(seconds for seconds, _ in ours[1:]),
        "ratio": statistics.median(clock),
        "ratio_of_processor_time": statistics.median(processor),
    }


def peak_of(run: Path, folder: Path, samples: int) -> dict[str, float]:
    """Return the largest resident memory of a process that predicts all samples into a csv file, and its seconds."""
    block = np.random.default_rng(2).normal(size=(1000, CHANNELS, LENGTH)).astype(np.float32)
    array = np.lib.format.open_memmap(
        folder / "all.npy", mode="w+", dtype=np.float32, shape=(samples, CHANNELS, LENGTH)
    )
    for first in range(0, samples, len(block)):
        array[first : first + len(block)] = block[: samples - first]
    np.savez(folder / "all.npz", x=array, y=np.arange(samples) % CLASSES)
    del array
    words = [
        sys.executable,
        "-c",
        CHILD,
        "predict",
        str(run),
        str(folder / "all.npz"),
        "--out",
        str(folder / "all.csv"),
    ]
    start = time.perf_counter()
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return {
        "samples": samples,
        "file_bytes": (folder / "all.npz").stat().st_size,
        "peak_bytes": int(done.stdout.splitlines()[-1]),
        "seconds": time.perf_counter() - start,
    }


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000, help="for the memory")
    parser.add_argument("--part", type=int, default=1024, help="samples for the throughput")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    parser.add_argument("body", nargs="*", default=["body=minilm", "embedder.max_tokens=8"], help="settings of the run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = make_run(folder, arguments.body)
        predictor = orca_cli.load(run, device="cpu")
        found = {
            "threads": torch.get_num_threads(),
            "precision": predictor.precision,
            "throughput": ratio_of(predictor, folder, arguments.part, arguments.rounds),
            "memory": peak_of(run, folder, arguments.samples),
        }
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")
    ratios = found["throughput"]["ratio"], found["throughput"]["ratio_of_processor_time"]
    good = max(ratios) >= LEAST_RATIO and found["memory"]["peak_bytes"] <= MOST_BYTES
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
