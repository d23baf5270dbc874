"""Check and measure on a GPU everything that is claimed of one, in one go of less than ten minutes; ratios of one run.

    python scripts/bench_gpu.py                        all parts; a table, and bench_gpu.json
    python scripts/bench_gpu.py metrics runs           some parts
    python scripts/bench_gpu.py --json reports/h100.json

    tests      the tests that need a GPU: whole runs against the CPU at every precision, fp16's scale after a resume
    metrics    every metric: value and gradient against the CPU's, seconds against it, waits of the host, peak memory
    geomloss   otdd and otdd_reference against geomloss on the same card
    steps      a step of stage 2 and one of stage 3: seconds against the CPU, waits of the host, peak memory
    runs       a whole run on the card and the same on the CPU; stopped in stages 2 and 3 and resumed: the same weights
    finetune   scripts/bench_finetune.py on the card

Without a card it says so and ends with code 1; where a check fails, with code 2. A wait is a call that makes the host wait for
the card, as torch's synchronisation debug mode reports it.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from orca_cli import cli  # noqa: E402
from orca_cli.config import compose, configuration  # noqa: E402
from orca_cli.exceptions import InterruptionError  # noqa: E402
from orca_cli.interfaces import Features  # noqa: E402
from orca_cli.stages import minutes  # noqa: E402
from orca_cli.stages.build import build  # noqa: E402
from orca_cli.stages.compared import compare  # noqa: E402
from orca_cli.stages.training_plan import TrainingPlan  # noqa: E402
from orca_cli.terminal import LogReporter  # noqa: E402
from orca_cli.training.engine import Engine, choose_precision  # noqa: E402
from scripts import bench_metric  # noqa: E402
from scripts.benchmarks import command_line, repeated, show  # noqa: E402
from tests.checkpoints import save_tiny_bert  # noqa: E402

VALUE, COSINE = 2e-3, 0.999  # within which a metric's value and gradient agree with the CPU's
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
LIMIT_S = 570  # no part starts after that, and one that is a process of its own is stopped then
_STEPS = 1000  # of stage 3 that may be taken; batches are read ahead up to the last
Row = dict[str, Any]


class Card:
    """The device under test, with the measurements that only its kind offers."""

    def __init__(self) -> None:
        """Take the first CUDA device."""
        self.device = torch.device("cuda")
        self.name = torch.cuda.get_device_name()
        self.setting = "cuda"  # the value of `device` in a run

    def settle(self) -> None:
        """Wait until all work is done."""
        torch.cuda.synchronize()

    @contextmanager
    def waits(self) -> Iterator[list[int]]:
        """Count the host's waits inside the block; the list has the number afterwards."""
        counts: list[int] = []
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                yield counts
        finally:
            torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchroniz" in str(warning.message) for warning in caught))

    def peak_mb(self, work: Callable[[], object]) -> float:
        """Return the memory that some work takes at its peak, beyond what was held before."""
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20


class Bench:
    """The parts; each returns rows of plain values, of which `ok` says whether a check held.

    Args:
        card: the device.
        size: points, width, classes and target of the clouds that metrics compare.
        words: overrides of the runs, such as their sizes.
        checkpoint: changes to the tiny body, by which it gets the size of a real one.
    """

    def __init__(self, card: Card, size: dict[str, int], words: list[str], checkpoint: dict[str, Any]) -> None:
        self._card, self._size = card, size
        self._end = time.monotonic() + LIMIT_S
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        body = save_tiny_bert(self.folder / "body", **checkpoint)
        self._words = ["task=digits", "body=minilm", f"body.checkpoint={body}", *words]

    def left_s(self) -> float:
        """Return the seconds that are left for further parts; below 0 where there are none."""
        return self._end - time.monotonic()

    def tests(self) -> list[Row]:
        """Run the tests that need a GPU."""
        done = self._process("-m", "pytest", "-m", "gpu", "tests", "-q", "-p", "no:cacheprovider")
        last = (done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]])[-1]
        return [{"tests": last, "ok": done.returncode == 0 and "passed" in last}]

    def metrics(self) -> list[Row]:
        """Compare every metric with itself on the CPU, with one target class and, where it needs that, with three."""
        return [self._metric(name) for name in sorted(set(configuration.choices("metric")) - {"none"})]

    def _metric(self, name: str) -> Row:
        metric = bench_metric.metric_by_name(name)
        classes = 1 if getattr(metric, "least_classes", 1) == 1 else 3
        solves = []
        for device in (torch.device("cpu"), self._card.device):
            source, target = self._clouds(classes, device)
            if getattr(metric, "samples_source", False):  # is given as many source points as target points
                points = len(target.x)
                source = Features(source.x[:points], source.labels[:points], source.num_classes)
            solves.append(partial(bench_metric.with_metric(name), source, target))
        (cpu_s, (here, slope, _)), (s, (there, other, _)) = (self._timed(solve) for solve in solves)
        with self._card.waits() as waits:
            solves[1]()
        slope, other = torch.from_numpy(slope).double(), torch.from_numpy(other).double()
        cosine = float(torch.nn.functional.cosine_similarity(slope.flatten(), other.flatten(), dim=0))
        off = abs(there - here) / max(abs(here), 1e-6)
        return {
            "metric": name,
            "relative difference of values": off,
            "cosine of gradients": cosine,
            "ms": 1000 * s,
            "times faster than the CPU": cpu_s / s,
            "waits": waits[0],
            "peak MB": self._card.peak_mb(solves[1]),
            "ok": off < VALUE and cosine > COSINE,
        }

    def geomloss(self) -> list[Row]:
        """Compare the time of a class and step with geomloss on the same card."""
        source, target = self._clouds(1, self._card.device)
        solvers = {"geomloss": bench_metric.with_geomloss}
        solvers |= {name: bench_metric.with_metric(name) for name in ("otdd", "otdd_reference")}
        seconds = {name: self._timed(partial(solve, source, target))[0] for name, solve in solvers.items()}
        return [
            {"solver": name, "ms": 1000 * s, "times faster than geomloss": seconds["geomloss"] / s}
            for name, s in seconds.items()
        ]

    def steps(self) -> list[Row]:
        """Measure a step of stage 2, for all classes, and one of stage 3."""
        work: dict[str, dict[str, Any]] = {}
        precision: list[str] = []
        for device in (self._card.device, torch.device("cpu")):
            with compose.session() as session:
                config = session.compose([*self._words, f"paths.cache={self.folder / 'cache'}"]).config
            built = build(config, LogReporter())
            engine = Engine(device, choose_precision(config.precision, device, built.model.body.width))
            config = built.config
            built.model.to(device)
            problem = compare(config, built, engine, LogReporter()).problem
            plan, number = TrainingPlan(config, built, engine, steps=_STEPS), itertools.count()

            def align(problem: Any = problem, built: Any = built, engine: Any = engine) -> None:
                for some in problem.parts(built.model, engine, problem.train, 0):
                    torch.stack([weight * distance.value for weight, distance in some]).sum().backward()

            def train(plan: Any = plan, number: Any = number) -> None:
                plan.take(next(number))

            work[device.type] = {"align": align, "finetune": train}
            precision.append(engine.precision)
        rows = []
        for stage, step in work[self._card.device.type].items():
            seconds, cpu_s = self._timed(step)[0], self._timed(work["cpu"][stage])[0]
            with self._card.waits() as waits:
                step()
            peak = self._card.peak_mb(step)
            rows.append({"step": stage, "ms": 1000 * seconds, "times faster than the CPU": cpu_s / seconds})
            rows[-1] |= {"precision, here and on the CPU": " ".join(precision), "waits": waits[0], "peak MB": peak}
        return rows

    def runs(self) -> list[Row]:
        """Run everything on the card and on the CPU; stop runs in stages 2 and 3 and resume them."""
        straight, seconds = self._run("straight", self._card.setting)
        _, cpu_seconds = self._run("cpu", "cpu")
        ratios = {f"{stage}, times faster than the CPU": cpu_seconds[stage] / seconds[stage] for stage in seconds}
        rows: list[Row] = [{"run": "straight", "error": straight["error"]["value"]} | ratios]
        aligned = straight["alignment"]["steps"]
        for name, stop in (("stopped in stage 2", max(1, aligned // 2)), ("stopped in stage 3", aligned + 3)):
            take, calls = torch.optim.AdamW.step, itertools.count(1)

            def broken(*words: Any, take: Any = take, calls: Any = calls, stop: int = stop, **more: Any) -> Any:
                if next(calls) == stop + 1:
                    raise InterruptionError("stopped on purpose", where="bench_gpu")
                return take(*words, **more)

            # Steps that are timed before a run would be counted as its own.
            untimed = mock.patch.object(minutes, "measure", return_value=None)
            with untimed, mock.patch.object(torch.optim.AdamW, "step", broken):
                self._run(name, self._card.setting, stops=True)
            resumed, _ = self._run(name, self._card.setting)
            rows.append({"run": name, "ok": resumed["weights_sha256"] == straight["weights_sha256"]})
        return rows

    def _run(self, name: str, device: str, *, stops: bool = False) -> tuple[dict[str, Any], dict[str, float]]:
        """Run the command line in this process; returns its result and seconds by stage."""
        root = self.folder / name.replace(" ", "-")
        words = ["run", *self._words, f"device={device}", f"paths.runs={root}", f"paths.cache={root / 'cache'}"]
        code = cli.main([*words, "train.checkpoint_s=0"])
        results = [json.loads(path.read_text()) for path in root.glob("*/*/result.json")]
        if stops:
            if results:
                raise RuntimeError(f"run '{name}' was not stopped")
            return {}, {}
        if code or not results:
            raise RuntimeError(f"run '{name}' ended with code {code}")
        return results[0], results[0]["seconds"]

    def finetune(self) -> list[Row]:
        """Run scripts/bench_finetune.py on the card; its lines of JSON are the rows."""
        done = self._process("scripts/bench_finetune.py", "--device", self._card.setting)
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return rows or [{"finetune": (done.stderr.strip().splitlines() or ["no figures"])[-1], "ok": False}]

    def _process(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": max(1.0, self.left_s())}
        return subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, check=False, **settings)  # noqa: S603

    def _clouds(self, classes: int, device: torch.device) -> list[Any]:
        """Return a source, and a target of some classes."""
        sizes = (("points", self._size["classes"]), ("target", classes))
        return [bench_metric.features(self._size[key], self._size["width"], n, key, device) for key, n in sizes]

    def _timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Return the median seconds of some work, warm, and what it returned."""
        return repeated(work, 5, self._card.settle)


PARTS = ("tests", "metrics", "geomloss", "steps", "runs", "finetune")


def measure(bench: Bench, names: list[str]) -> dict[str, Any]:
    """Run parts in turn; one that fails, or has no time left, becomes a row that says so and does not stop the others."""
    results: dict[str, Any] = {}
    for name in names:
        begin = time.perf_counter()
        try:
            rows = getattr(bench, name)() if bench.left_s() > 0 else [{"left out": "no time was left", "ok": False}]
        except Exception as error:  # noqa: BLE001 - the figures of the other parts are wanted
            rows = [{"failed": f"{type(error).__name__}: {error}", "ok": False}]
        results[name] = {"seconds": round(time.perf_counter() - begin, 1), "rows": rows}
        show(f"{name} ({results[name]['seconds']:.0f} s)", rows)
    return results


def main() -> None:
    """Print the parts and write them to a file, with the name of the card."""
    parser = command_line(__doc__, PARTS)
    parser.add_argument("--json", type=Path, default=Path("bench_gpu.json"), help="where the figures are written")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench_gpu: no CUDA device on this machine; nothing was measured")
    card = Card()
    sizes = {"points": 2000, "width": 384, "classes": 8, "target": 128}
    words = ["task.train_size=512", "train.epochs=3", "train.warmup_epochs=1", "align.epochs=6"]
    bench = Bench(card, sizes, words, MINILM)
    time_now = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"card": card.name, "torch": torch.__version__, "cuda": torch.version.cuda, "time": time_now}
    print(f"{card.name}, torch {torch.__version__}")
    record["parts"] = measure(bench, arguments.parts or list(PARTS))
    arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    failed = [name for name, part in record["parts"].items() if not all(row.get("ok", True) for row in part["rows"])]
    print(f"\nwritten to {arguments.json}" + (f"; FAILED: {', '.join(failed)}" if failed else ""))
    sys.exit(2 if failed else 0)


if __name__ == "__main__":
    main()
