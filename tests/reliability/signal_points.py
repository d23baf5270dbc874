"""Points of the program at which a forked case sends signals to itself; the harness's hooks (`fork(..., hook=...)`)."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from pathlib import Path

from tests.reliability.phases import PHASES, before

POINTS = PHASES | {
    "compose": ("orca_cli.config.compose", "session"),
    "features": ("orca_cli.stages.source_features", "_embed"),
    "transport": PHASES["align"],  # not the timing before it
    "step": PHASES["finetune"],
    "validation": ("orca_cli.stages.member_training", "predict"),
    "baseline": ("orca_cli.data.untrusted.isolation", "isolated"),
    "result": (
        "orca_cli.runs.directory",
        "RunDirectory.finish",
    ),  # the result is written, and nothing removed
}
SENT = "ORCA_TEST_SENT"  # environment variable: file that is made once a signal is sent


def at(argument: str) -> None:
    """Send signals when a function is entered for the n-th time: "POINT,N,PLAN".

    A plan is such as TERM, INT+0.3+INT (the second 0.3 s later, within one operation of a library that takes hours) or
    STOP+1+CONT. ^INT alone goes to the parent, as Ctrl-C in a terminal does to a driver.
    """
    point, number, plan = argument.split(",")
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may themselves run under nohup
    before(POINTS[point], int(number), lambda: send(plan))


def send(plan: str) -> None:
    """Carry out a plan; see `at`."""
    first, *later = plan.split("+")
    Path(os.environ[SENT]).touch()
    target = os.getppid() if first.startswith("^") else os.getpid()
    if not later:
        os.kill(target, signal.Signals[f"SIG{first.removeprefix('^')}"])
        return
    delay, second = later
    script = f"kill -{first} {target}; echo; sleep {delay}; kill -{second} {target}"
    shell = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
    assert shell.stdout is not None
    shell.stdout.readline()
    if first == "INT":
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
