"""Measure `orca report`: seconds and peak memory over many run folders, as a table, a comparison and a page.

    python scripts/bench_report.py [--runs 1000 10000] [--folder FOLDER]

The script makes run folders with records of the size of a real run's (some 15 kB each) and runs the command in a separate
process. For each number of runs it prints the wall time, the processor time, the peak memory, the size of the output, and the
time in which a browser opens the page, if a browser is installed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests import browser  # noqa: E402
from tests.report.trees import add_run, details  # noqa: E402

TASKS = (
    "darcy",
    "deepsea",
    "digits",
    "ecg",
    "jsb",
    "listops",
    "ninapro",
    "satellite",
    "spherical",
    "cosmic",
)
METRICS = ("otdd", "otdd_gaussian", "mmd", "moments", "none")
# Program of a measured process: it runs the command line, then prints its figures to standard error. Linux's ru_maxrss would
# include the process that started it.
_CHILD = """
import re, resource, sys, time
from pathlib import Path
from orca_cli.cli import main
code = main(sys.argv[1:])
status = Path("/proc/self/status")
peak = re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1] if status.exists() else resource.getrusage(0).ru_maxrss
print(time.process_time(), int(peak), file=sys.stderr)
sys.exit(code)
"""


def make(folder: Path, count: int) -> None:
    """Write `count` run folders: ten tasks, five metrics, and enough seeds and rates to reach this number."""
    per_cell = -(-count // (len(TASKS) * len(METRICS)))
    for number in range(count):
        place, cell = divmod(number, len(TASKS) * len(METRICS))
        task, metric = TASKS[cell // len(METRICS)], METRICS[cell % len(METRICS)]
        rate, seed = divmod(place, min(per_cell, 20))
        value = 0.1 + 0.03 * METRICS.index(metric) + 0.01 * TASKS.index(task) + 0.001 * seed
        state = "failed" if number % 97 == 96 else "completed"
        variant = {"train.lr": f"{1e-4 * (rate + 1):.0e}"}
        names = {"task": task, "metric": metric, "variant": variant, "state": state}
        add_run(folder, seed=seed, value=value, **names, **details(seed, metric=metric))


def measure(*words: str) -> str:
    """Run a command in a separate process, and return its time, memory and size of output as text."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _CHILD, *words], capture_output=True, cwd=ROOT)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(
            f"orca {' '.join(words)}: exit status {done.returncode}\n{done.stderr.decode()}"
        )
    busy, kibibytes = map(float, done.stderr.split()[-2:])
    size = len(done.stdout) / 1000
    return (
        f"{seconds:6.2f} s (processor {busy:5.2f} s)  {kibibytes / 1024:5.0f} MiB  {size:6.0f} kB"
    )


def main() -> None:
    """Make the folders and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, nargs="+", default=[1000, 10000], metavar="N")
    parser.add_argument(
        "--folder",
        type=Path,
        help="folder that keeps the run folders for later calls; default: they are removed at the end",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for count in arguments.runs:
            folder = (arguments.folder or Path(temporary)) / str(count)
            if not folder.exists():
                make(folder, count)
            for words in ([], ["--against", "metric=none"], ["--format", "html"]):
                text = " ".join(words) or "table"
                print(
                    f"{count:6} runs  {text:22} {measure('report', str(folder), *words)}",
                    flush=True,
                )
            if (program := browser.path()) is not None:
                page = Path(temporary) / "page.html"
                measure("report", str(folder), "--format", "html", "--out", str(page))
                with browser.started(program) as started:
                    print(
                        f"{count:6} runs  opened in a browser in {started.open(page.as_uri()):.2f} s",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
