"""What the benchmarks share: times of work that takes turns, ratios of them, a process of its own, command lines, tables."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
Seconds = tuple[float, float]  # by the clock, and of the processor
Row = Mapping[str, Any]

# What a measured process runs: the command line, then its figures into a file. Linux's ru_maxrss would count the process that
# started it as well.
_CHILD = """
import json, resource, sys, time
from pathlib import Path
from orca_cli.cli import main
code = main(sys.argv[2:])
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
peak = 1024 * (peaks[0] if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
Path(sys.argv[1]).write_text(json.dumps({"processor_s": time.process_time(), "peak_bytes": peak}))
sys.exit(code)
"""


def now() -> Seconds:
    """Return the time by the clock, and the processor's time of this process."""
    return time.perf_counter(), time.process_time()


def since(begin: Seconds, count: int = 1) -> Seconds:
    """Return the seconds since `begin` that each of `count` parts took."""
    clock, processor = now()
    return (clock - begin[0]) / count, (processor - begin[1]) / count


@contextmanager
def timed(times: list[Seconds], count: int = 1) -> Iterator[None]:
    """Note the seconds of a block, each of `count` parts."""
    begin = now()
    yield
    times.append(since(begin, count))


def repeated(work: Callable[[], Any], repeats: int, settle: Callable[[], object] = lambda: None) -> tuple[float, Any]:
    """Return the median seconds of some work, after one call that is not counted, and what its last call returned.

    Args:
        settle: waits until all started work has finished.
    """
    work()
    times: list[Seconds] = []
    for _ in range(repeats):
        settle()
        with timed(times):
            result = work()
            settle()
    return medians(times)[0], result


def medians(times: list[Seconds]) -> Seconds:
    """Return the medians by the clock and of the processor."""
    clock, processor = (statistics.median(kind) for kind in zip(*times, strict=True))
    return clock, processor


def ratios(times: list[Seconds], others: list[Seconds]) -> Seconds:
    """Return the medians of the ratios between blocks that took turns."""
    return medians([(one[0] / other[0], one[1] / other[1]) for one, other in zip(times, others, strict=True)])


def process(*words: str) -> dict[str, float]:
    """Run an `orca` command in a process of its own.

    Returns:
        seconds, processor_s, peak_bytes (resident), and output_bytes (of its standard output).

    Raises:
        SystemExit: it failed.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out:
        figures = Path(folder) / "figures.json"
        begin = now()
        done = subprocess.run([sys.executable, "-c", _CHILD, str(figures), *words], stdout=out, cwd=ROOT)
        seconds, _ = since(begin)
        if done.returncode:
            raise SystemExit(f"orca {' '.join(words)}: exit status {done.returncode}")
        size = os.fstat(out.fileno()).st_size
        return {"seconds": seconds, "output_bytes": size, **json.loads(figures.read_text())}


def command_line(about: str | None, parts: Collection[str] = ()) -> argparse.ArgumentParser:
    """Return a parser that shows a module's docstring, and takes the names of parts where there are some."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if parts:
        names = ", ".join(parts)

        def part(word: str) -> str:
            if word not in parts:
                raise argparse.ArgumentTypeError(f"no such part: {word}; allowed: {names}")
            return word

        parser.add_argument("parts", nargs="*", metavar="part", type=part, help=f"all by default: {names}")
    return parser


def show(title: str, rows: list[Any]) -> None:
    """Print a title and a line for each row, without what is None."""
    print(f"\n{title}")
    for row in rows:
        known = {key: value for key, value in row.items() if value is not None}
        cells = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in known.items())
        print("  " + ", ".join(cells), flush=True)
