"""What `orca predict` costs beside the model itself: throughput beside a bare forward loop, and the peak of its memory.

    python scripts/bench_predict.py [--samples 100000] [--rounds 9] [--out FILE.json]

A run is made on synthetic series with MiniLM (extra `offline`). Then, in turn, a bare loop takes the model over batches that
lie in memory, and the program predicts the same samples from a file into a csv file; both figures are of one process, so that
only their ratios count: by the clock, which other work on the machine changes, and in processor time, which does not see what
overlaps. The memory is that of a process of its own that predicts all samples. Exit code 1 if both ratios are below 0.95 or the
peak is above 1.5 GB.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402

import orca_cli  # noqa: E402
from orca_cli.prediction import output  # noqa: E402
from orca_cli.prediction.predictor import Predictor  # noqa: E402
from scripts.benchmarks import Seconds, command_line, medians, process, ratios, timed  # noqa: E402

LEAST_RATIO, MOST_BYTES = 0.95, 1.5e9
CHANNELS, LENGTH, CLASSES = 6, 128, 5


def make_run(folder: Path, body: list[str]) -> Path:
    """Train a small run and return its folder."""
    rng = np.random.default_rng(0)
    np.savez(folder / "train.npz", x=rng.normal(size=(64, CHANNELS, LENGTH)), y=np.arange(64) % CLASSES)
    words = ["task=arrays", "task.kind=classes", f"task.train={folder / 'train.npz'}", f"paths.runs={folder / 'runs'}"]
    words += ["metric=none", "train.epochs=1", "train.warmup_epochs=0", "train.batch_size=16"]
    outcome = orca_cli.run(*words, *body)
    if outcome.path is None or outcome.code:
        raise SystemExit(f"the run failed: {outcome.failure and outcome.failure.error}")
    return outcome.path


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


def throughput(predictor: Predictor, folder: Path, samples: int, rounds: int) -> dict[str, float]:
    """Return the throughput of the bare loop and of the program, and their ratio."""
    x = np.random.default_rng(1).normal(size=(samples, CHANNELS, LENGTH)).astype(np.float32)
    np.savez(folder / "part.npz", x=x)
    ready = predictor.preprocessing.inputs(x)[0]
    bare: list[Seconds] = []
    ours: list[Seconds] = []
    for _ in range(rounds + 1):  # the first warms up
        with timed(bare):
            bare_loop(predictor, ready)
        with timed(ours):
            program(predictor, folder / "part.npz", folder / "part.csv")
    clock, processor = ratios(bare[1:], ours[1:])
    return {
        "samples": samples,
        "bare_per_s": samples / medians(bare[1:])[0],
        "program_per_s": samples / medians(ours[1:])[0],
        "ratio": clock,
        "ratio_of_processor_time": processor,
    }


def memory(run: Path, folder: Path, samples: int) -> dict[str, float]:
    """Return the largest resident memory of a process that predicts all samples into a csv file, and its seconds."""
    block = np.random.default_rng(2).normal(size=(1000, CHANNELS, LENGTH)).astype(np.float32)
    shape = (samples, CHANNELS, LENGTH)
    array = np.lib.format.open_memmap(folder / "all.npy", mode="w+", dtype=np.float32, shape=shape)
    for first in range(0, samples, len(block)):
        array[first : first + len(block)] = block[: samples - first]
    source = folder / "all.npz"
    np.savez(source, x=array, y=np.arange(samples) % CLASSES)
    del array
    figures = process("predict", str(run), str(source), "--out", str(folder / "all.csv"))
    measured = {key: figures[key] for key in ("peak_bytes", "seconds")}
    return {"samples": samples, "file_bytes": source.stat().st_size, **measured}


def main() -> int:
    """Measure, print and write."""
    parser = command_line(__doc__)
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
        figures = {
            "threads": torch.get_num_threads(),
            "precision": predictor.precision,
            "throughput": throughput(predictor, folder, arguments.part, arguments.rounds),
            "memory": memory(run, folder, arguments.samples),
        }
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")
    ratios = figures["throughput"]["ratio"], figures["throughput"]["ratio_of_processor_time"]
    good = max(ratios) >= LEAST_RATIO and figures["memory"]["peak_bytes"] <= MOST_BYTES
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
