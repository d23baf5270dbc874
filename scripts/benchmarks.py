"""What the benchmarks share: times of work that takes turns, a process of its own, command lines, tables."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

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


def paired(works: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, tuple[float, float]]:
    """Time functions that take turns, after one call each that is not counted: other work on a machine comes and goes.

    Returns:
        By name the median seconds, and the median over the turns of the ratio to the first function's seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - begin)
    first = next(iter(times.values()))[1:]
    return {
        name: (statistics.median(each[1:]), statistics.median(s / t for s, t in zip(each[1:], first, strict=True)))
        for name, each in times.items()
    }


def process(*words: str) -> dict[str, float]:
    """Run an `orca` command in a process of its own.

    Returns:
        seconds, processor_s, peak_bytes (resident), and output_bytes (of its standard output).

    Raises:
        SystemExit: it failed.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out:
        figures = Path(folder) / "figures.json"
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", _CHILD, str(figures), *words], stdout=out, cwd=ROOT)
        seconds = time.perf_counter() - begin
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


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a title and a line for each row."""
    print(f"\n{title}")
    for row in rows:
        cells = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
        print("  " + ", ".join(cells), flush=True)
