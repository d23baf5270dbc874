"""Faults in the jobs of a sweep: hooks that replace the stages of a forked case and of its jobs, which are forks of it.

A job without a fault completes within milliseconds, with a result record and no training.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from orca_cli import experiment, signals
from orca_cli.launching import process
from orca_cli.runs.outcome import Outcome

KINDS = ("raise", "exit", "exit without a word", "kill", "segfault", "memory", "hang", "deaf")
STARTS = "ORCA_TEST_STARTS"  # environment variable: file that gets a line for each start and each end of a job


def default_signals(_: str) -> None:
    """Take signals as in a terminal; the tests may themselves run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def stages(argument: str) -> None:
    """Replace the stages of a run.

    Args:
        argument: SECONDS;SEED;KIND: how long a job takes, and how the job of a seed fails; "-" for none.
    """
    seconds, seed, kind = argument.split(";")
    default_signals("")
    process.GRACE_S = 1.0

    def complete(job: Any, run: Any, *_: Any) -> Outcome:
        _note(f"start {job.config.seed}")
        run.set_state("finetune")
        if str(job.config.seed) == seed:
            _fail(kind)
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            time.sleep(0.01)
            signals.check()
        record = {"error": {"name": "0-1 error", "value": 0.5, "n": 2, "skipped": 0, "percent": True, "others": {}}}
        record |= {"pid": os.getpid(), "validation_error": 0.5, "trivial_error": 0.5, "seconds": {"finetune": 0.0}}
        record |= {"curves": {"align": [], "finetune": [{"epoch": 1, "validation_error": 0.5}]}}
        record |= {"selected": {"epoch": 1}, "metric_value": {"before": None, "after": None}}
        run.write_result(record | {"splits": {"test": {"n": 2}}})
        _note(f"end {job.config.seed}")
        return Outcome("completed", path=run.path, result=run.result())

    experiment._complete = complete


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
        case "deaf":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    while kind in ("hang", "deaf"):
        time.sleep(0.05)
        if kind == "hang":
            signals.check()


def without(names: str) -> None:
    """Let packages be missing: their names, with commas between."""
    for name in filter(None, names.split(",")):
        for module in [name, *(module for module in sys.modules if module.startswith(f"{name}."))]:
            sys.modules[module] = None  # type: ignore[assignment]


def together(argument: str) -> None:
    """Let several cases start at one moment.

    Args:
        argument: MOMENT;SECONDS: seconds since 1970, and how long the stages take.
    """
    moment, seconds = argument.split(";")
    stages(f"{seconds};-;-")
    original = experiment.run

    def run(*words: Any, **settings: Any) -> Any:
        while time.time() < float(moment):
            time.sleep(0.0005)
        return original(*words, **settings)

    experiment.run = run
