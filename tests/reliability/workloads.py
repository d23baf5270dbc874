"""What is done while faults are injected: everything of ours that is committed to a disk, small; and the faults.

Each runs in a fork, writes to the file `promises` what it has said to be done, and ends as `orca run` would.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from orca_cli import storage
from orca_cli.exceptions import OrcaError
from orca_cli.runs.directory import RunDirectory, RunName

OWNER = "a" * 64
NAME = RunName("digits", "minilm", "digits", "otdd", "full", 0, "clean", OWNER, "b" * 64, {})
STEPS = 4
CALLS = (
    "fsync",
    "rename",
    "replace",
    "mkdir",
    "unlink",
    "rmdir",
    "write",
)  # that `inject` can let fail


def save(folder: Path, step: int, size: int) -> None:
    """Save a checkpoint whose weights all are the number of its step."""
    import torch

    from orca_cli.training import checkpoint

    tensors = {"w": torch.full((size,), float(step))}
    checkpoint.save(folder, checkpoint.Checkpoint(step, tensors, tensors), owner=OWNER)


def checkpoints(folder: Path, promise: Callable[[str], None]) -> None:
    """Save four checkpoints; the oldest are dropped on the way."""
    for step in range(1, STEPS + 1):
        save(folder / "checkpoints", step, 300)
        promise(f"step {step}")


def records(folder: Path, promise: Callable[[str], None]) -> None:
    """Go through the states of a run, and complete it."""
    run = RunDirectory(storage.make_folder(folder / "run"), NAME)
    for state in ("created", "build", "align"):
        run.set_state(state)
        promise(f"state {state}")
        storage.append_json_line(run.path / "metrics.jsonl", {"state": state})
        promise(f"line {state}")
    run.write_environment({"schema": 1})
    run.write_result({"error": {"value": 0.5}})
    promise("result")


def cache(folder: Path, promise: Callable[[str], None]) -> None:
    """Make a cache entry, and take it out again."""
    import torch

    from orca_cli.training.cache import Entry, cached

    for _ in range(2):
        value = cached(
            folder / "cache" / "entry", lambda: Entry({"x": torch.arange(64.0)})
        ).tensors["x"]
        assert torch.equal(value, torch.arange(64.0)), "another value came out of the cache"
        promise("entry")


WORKLOADS = {"checkpoints": checkpoints, "records": records, "cache": cache}


def run(argument: str) -> None:
    """Do a workload once strace has attached, by calls that it injects no fault into; `argument` is "name|folder"."""
    name, place = argument.split("|")
    descriptor = os.open(f"{place}/promises", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def promise(text: str) -> None:
        os.pwrite(
            descriptor, text.encode() + b"\n", 0
        )  # a call of its own kind: no fault of the workload's hits it

    status = os.open("/proc/self/status", os.O_RDONLY)
    while re.search(rb"TracerPid:\s+0\n", os.pread(status, 4096, 0)):
        time.sleep(0.002)
    os.close(status)
    try:
        WORKLOADS[name](Path(place), promise)
    except BaseException as error:  # noqa: BLE001 - the oracle wants to see it
        known = (
            error if isinstance(error, OrcaError) else storage.disk_error(error)
        )  # as `orca run` does
        if known is None:
            traceback.print_exc()
            os._exit(1)
        os.pwrite(2, f"orca: error: {known}\n".encode(), 0)
        os._exit(known.code)
    os._exit(0)


def inject(fault: str) -> None:
    """Make one call of this process fail, without help of the system: "fsync:3:ENOSPC", "rename:1:KILL", "write:2:EIO".

    The third call fails; with "3+" it and all later ones. "write" is the opening of a file to be written.
    """
    name, when, kind = fault.split(":")
    first, lasting = int(when.rstrip("+")), when.endswith("+")
    module, attribute = (builtins, "open") if name == "write" else (os, name)
    original = getattr(module, attribute)
    calls = 0

    def faulty(*words, **more):
        nonlocal calls
        if name == "write" and not set("wax+") & set(
            str(words[1] if len(words) > 1 else more.get("mode", "r"))
        ):
            return original(*words, **more)
        calls += 1
        if calls == first or (lasting and calls > first):
            if kind == "KILL":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(getattr(errno, kind), os.strerror(getattr(errno, kind)))
        return original(*words, **more)

    setattr(module, attribute, faulty)
    if name == "write":  # pathlib opens by another name
        io.open = faulty  # type: ignore[assignment]
