"""Faults in the jobs of a sweep: hooks that replace the stages of a forked case and of its jobs, which are forks of it.

A job without a fault completes within milliseconds, with a result record and no training.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from orca_cli import experiment, signals
from orca_cli.launching import process, slurm
from orca_cli.runs.outcome import Outcome
from tests.reliability.phases import PHASES, before

STARTS = "ORCA_TEST_STARTS"  # environment variable: file that gets a line for each start and each end of a job
HANGS = "hangs"  # such a line
HELD = "held"  # while this file is in a folder, jobs wait; for jobs without stages it is the folder of runs
GO = "go"


def driver(folder: str) -> None:
    """Let the interpreters that a driver starts import from a folder first, and look more often at what SLURM says."""
    sys.path.insert(0, folder)
    slurm.ASK_EVERY_S, slurm.LATE_S = 1.0, 1.0


def hold(folder: str) -> None:
    """Let every job wait before its second step of stage 3, with a checkpoint of the first.

    It says so by a file FOLDER/PID (`held_jobs`), and goes on once that or FOLDER/held is taken away, or it is to stop.
    """
    signal.signal(
        signal.SIGHUP, signal.SIG_DFL
    )  # as in a terminal; the tests may themselves run under nohup

    def wait() -> None:
        gate, mark = Path(folder) / HELD, Path(folder) / str(os.getpid())
        if gate.exists():
            mark.touch()
            while gate.exists() and mark.exists() and signals.pending() is None:
                time.sleep(0.02)

    before(PHASES["finetune"], 2, wait)


def held_jobs(folder: Path) -> list[int]:
    """Return the processes of the jobs that wait in a folder, in the order in which they came."""
    marks = sorted(
        (path for path in folder.iterdir() if path.name != HELD),
        key=lambda path: path.stat().st_mtime_ns,
    )
    return [int(path.name) for path in marks if lives(path.name)]


def lives(pid: int | str) -> bool:
    """Return whether a process runs; one that has ended and was not waited for does not."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


def stages(argument: str) -> None:
    """Replace the stages of a run; the argument is SEED=KIND,...: how the jobs of some seeds fail."""
    faults = dict(pair.split("=") for pair in argument.split(",") if pair)
    process.time = SimpleNamespace(monotonic=_hours_later, sleep=time.sleep)

    def complete(job: Any, run: Any, *_: Any) -> Outcome:
        _note(f"start {job.config.seed}")
        run.set_state("finetune")
        _fail(faults.get(str(job.config.seed), ""))
        while (run.path.parent.parent / HELD).exists():
            time.sleep(0.01)
        record = {
            "error": {"name": "0-1 error", "value": 0.5, "n": 2, "skipped": 0, "percent": True, "others": {}},
        }  # fmt: skip
        record |= {
            "pid": os.getpid(),
            "validation_error": 0.5,
            "trivial_error": 0.5,
            "seconds": {"finetune": 0.0},
        }
        record |= {"curves": {"align": [], "finetune": [{"epoch": 1, "validation_error": 0.5}]}}
        record |= {"selected": {"epoch": 1}, "metric_value": {"before": None, "after": None}}
        run.write_result(record | {"splits": {"test": {"n": 2}}})
        _note(f"end {job.config.seed}")
        return Outcome("completed", path=run.path, result=run.result())

    experiment._complete = complete


def _hours_later() -> float:
    """Return the driver's time: whenever a job has said that it hangs, hours have passed."""
    path = Path(os.environ.get(STARTS, os.devnull))
    return time.monotonic() + (36_000 * path.read_text().count(HANGS) if path.exists() else 0)


def _note(text: str) -> None:
    if path := os.environ.get(STARTS):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{text}\n")


def _fail(kind: str) -> None:
    match kind:
        case "raise":
            raise ZeroDivisionError("on purpose")
        case "exit":
            sys.exit(7)
        case "exit without a word":
            os._exit(0)
        case "kill" | "segfault":
            os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGSEGV)
        case "memory":
            bytearray(2**62)
        case "hang" | "deaf":
            _note(HANGS)
            while signals.pending() is None:
                time.sleep(0.05)
            if kind == "hang":
                signals.check()
            _note(HANGS)
            time.sleep(3600)


def without(names: str) -> None:
    """Let packages be missing: their names, with commas between."""
    for name in filter(None, names.split(",")):
        for module in [name, *(module for module in sys.modules if module.startswith(f"{name}."))]:
            sys.modules[module] = None  # type: ignore[assignment]


def together(folder: str) -> None:
    """Let several cases start at one moment: each says by a file FOLDER/PID that it is ready, and waits for FOLDER/go."""
    stages("")
    original = experiment.run

    def run(*words: Any, **settings: Any) -> Any:
        (Path(folder) / str(os.getpid())).touch()
        while not (Path(folder) / GO).exists():
            time.sleep(0.0005)
        return original(*words, **settings)

    experiment.run = run
