"""Points of the program at which a forked case sends signals to itself; the harness's hooks (`fork(..., hook=...)`)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from tests.reliability.phases import PHASES, before

POINTS = PHASES | {
    "compose": ("orca_cli.config.compose", "session"),
    "download": ("orca_cli.data.untrusted.downloads", "_write"),
    "features": ("orca_cli.stages.source_features", "_embed"),
    "transport": PHASES["align"],  # not the timing before it
    "step": PHASES["finetune"],
    "validation": ("orca_cli.stages.member_training", "predict"),
    "baseline": ("orca_cli.baselines.compute", "fit"),
    "result": ("orca_cli.runs.directory", "RunDirectory.finish"),  # the result is written, and nothing removed
    "report": ("orca_cli.report.records.collect", "_read_run"),
}
SENT = "ORCA_TEST_SENT"  # environment variable: file that gets the moment of the last signal, seconds since 1970


def at(argument: str) -> None:
    """Send signals when a function is entered for the n-th time.

    Args:
        argument: POINT,N,PLAN; a plan such as TERM, INT+0.3+INT (the second 0.3 s later, while one operation of torch of many
            seconds is under way) or STOP+1+CONT. ^INT alone goes to the parent, as Ctrl-C in a terminal does to a driver.
    """
    point, number, plan = argument.split(",")
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may themselves run under nohup
    before(POINTS[point], int(number), lambda: send(plan))


def send(plan: str) -> None:
    """Carry out a plan; see `at`."""
    first, *later = plan.split("+")
    if later:
        delay, name = later
        text = f"sleep {delay}; date +%s.%N >{os.environ[SENT]}; kill -{name} {os.getpid()}"
        subprocess.Popen(["sh", "-c", text])
    Path(os.environ[SENT]).write_text(str(time.time()))
    target = os.getppid() if first.startswith("^") else os.getpid()
    os.kill(target, signal.Signals[f"SIG{first.removeprefix('^')}"])
    if later and first == "INT":
        import torch

        matrix = torch.zeros(8000, 8000)
        torch.mm(matrix, matrix)
