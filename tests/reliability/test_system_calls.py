"""A2, A3, C1, C3: every system call of a commit fails once: killed, disk full, input/output error. A4: the power fails.

strace injects faults into the calls of an unmodified process; another harness replays what a disk may hold. A third one,
which replaces functions of `os`, is at work in test_lives.py.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch

from orca_cli import storage
from orca_cli.exceptions import CheckpointError, ChecksumError
from orca_cli.training import checkpoint
from tests.crashes import Recorder
from tests.reliability import workloads
from tests.tiers import count

CALLS = ("openat", "write", "fsync", "rename", "mkdir", "unlink", "unlinkat", "rmdir")
FAULTS = ("KILL", "ENOSPC", "EIO")
STORAGE = 30


def broken(folder: Path, promises: list[str]) -> list[str]:
    """Return what is torn (I1) or lost (I2) after a fault; the last promise of each kind counts."""
    wrong = []
    for path in folder.rglob("*.json"):
        if any(storage.is_temporary(part) for part in (path, *path.parents)):
            continue
        try:
            json.loads(path.read_text())
            if path.name == storage.MANIFEST:
                storage.verify_folder(path.parent, extra_allowed=path.parent == folder / "run")
        except (ValueError, ChecksumError) as error:
            wrong.append(f"not whole: {path.relative_to(folder)}: {error}")
    last = {text.partition(" ")[0]: text for text in promises}.values()
    return wrong + [f"lost: {text}" for text in last if not is_there(folder, text)]


def problems(name: str, folder: Path) -> list[str]:
    """Return what is broken after a fault, and what goes wrong when the work is repeated, as a user would."""
    wrong = broken(folder, (folder / "promises").read_text().splitlines()[:1])
    storage.clean_temporary(folder)
    try:
        workloads.WORKLOADS[name](folder, lambda text: None)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        return [*wrong, f"does not go on: {error!r}"]
    return wrong + [
        f"left over: {path.name}" for path in folder.rglob("*") if storage.is_temporary(path)
    ]


def is_there(folder: Path, promise: str) -> bool:
    what, _, which = promise.partition(" ")
    if what == "step":
        try:
            loaded = checkpoint.load_latest(folder / "checkpoints", owner=workloads.OWNER)
        except CheckpointError:  # there are some, and none is valid
            return False
        if loaded is None or loaded.step < int(which):
            return False
        return torch.equal(loaded.weights["w"], torch.full((300,), float(loaded.step)))
    if what in ("state", "line"):
        order = ("created", "build", "align", "completed")
        if not (folder / "run" / "status.json").exists():
            return False
        state = json.loads((folder / "run" / "status.json").read_text() or '{"state": "created"}')[
            "state"
        ]
        lines = len(storage.read_json_lines(folder / "run" / "metrics.jsonl"))
        return order.index(state) >= order.index(which) and lines >= order.index(which) + (
            what == "line"
        )
    return (folder / {"result": "run/result.json", "entry": "cache/entry"}[what]).exists()


def traced(fork, name, folder, log, *more):
    """Do a workload under strace; returns (exit code, standard error)."""
    folder.mkdir()
    case = fork("list", hook=f"tests.reliability.workloads:run:{name}|{folder}")
    end = time.monotonic() + 600
    while not (
        folder / "promises"
    ).exists():  # else the faults would hit what the fork does before its work
        assert time.monotonic() < end, case.poll()
        time.sleep(0.002)
    command = [
        "strace",
        "-p",
        str(case.pid),
        "-o",
        str(log),
        "-e",
        f"trace={','.join(CALLS)}",
        *more,
    ]
    tracer = subprocess.run(command, capture_output=True, text=True, timeout=600)
    code = case.wait(600)
    assert "ttach" in tracer.stderr or log.exists(), tracer.stderr
    return code, case.err


def calls_in(folder: Path, log: str) -> dict[str, list[int]]:
    """Return by call which of its calls concern the folder: libraries open files of the system, and may not fail well."""
    numbers: dict[str, list[int]] = {call: [] for call in CALLS}
    seen = dict.fromkeys(CALLS, 0)
    for call, words in re.findall(r"^(\w+)\((.*)$", log, re.M):
        seen[call] += 1
        if call != "openat" or str(folder) in words:
            numbers[call].append(seen[call])
    return numbers


@pytest.mark.slow
@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_every_system_call_fails_once(name, fork, tmp_path, not_run, scorecard):
    """A2, A3, C1, C3."""
    figure = "system-call faults (strace): neither corrupt nor lost"
    command = ["strace", "-o", "/dev/null", "-e", "inject=fsync:error=EIO", "true"]
    if shutil.which("strace") is None or subprocess.run(command, capture_output=True).returncode:
        not_run(figure, "strace is not installed, or cannot inject faults here")
    log, bad, tried = tmp_path / "log", {}, 0
    code, err = traced(fork, name, tmp_path / "whole", log)
    assert code == 0, err
    ours = calls_in(tmp_path / "whole", log.read_text())
    assert len(ours["fsync"]) >= 4
    assert problems(name, tmp_path / "whole") == []
    cases = [(call, k, fault) for fault in FAULTS for call in CALLS for k in ours[call]]
    cases += [("write", f"{k}+", "ENOSPC") for k in ours["write"]]
    chosen = cases[:: max(1, len(cases) // count(pr=10, nightly=10_000))]  # evenly spread over all
    for number, (call, k, fault) in enumerate(chosen):
        folder = tmp_path / f"{number}"
        what = (
            f"{call}:signal=KILL:when={k}" if fault == "KILL" else f"{call}:error={fault}:when={k}"
        )
        code, err = traced(fork, name, folder, log, "-e", f"inject={what}")
        hit = code == -9 if fault == "KILL" else "(INJECTED)" in log.read_text()
        if not hit:  # the work made fewer calls this time; then nothing was tested
            continue
        tried += 1
        violations = problems(name, folder)
        if code not in (-9, 0) and (
            code != STORAGE or not re.fullmatch(r"orca: error: [^\n]+\n", err)
        ):
            violations.append(f"exit code {code}: {err.strip()[-300:]}")
        if violations:
            bad[call, k, fault] = violations
        shutil.rmtree(folder)
    scorecard.add(figure, cases=tried, passed=tried - len(bad), target=125)
    assert tried >= 0.8 * len(chosen)
    assert not bad


FSYNCS = [r"safetensors$", r"trainer\.json$", r"MANIFEST\.json$", r"\.tmp-[^/]*-step-\d+$", r"checkpoints$", r"run$", r"disk$",
          r"-status\.json( \(deleted\))?$", r"metrics\.jsonl$"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("left_out", ["", *FSYNCS])
def test_nothing_that_was_promised_is_lost_when_the_power_fails(tmp_path, left_out, scorecard):
    """A4: in all states of the disk; and without the fsync of any one file or folder that is seen."""
    disk, after = tmp_path / "disk", tmp_path / "after"
    disk.mkdir()
    recorder = Recorder(disk, skip=lambda path: bool(left_out) and bool(re.search(left_out, path)))
    with recorder.recording():
        workloads.checkpoints(disk, recorder.promise)
        workloads.records(disk, recorder.promise)
    bad = 0
    for promises, state in recorder.states:
        recorder.restore(state, after)
        bad += bool(broken(after, promises))
    if left_out:
        assert recorder.skipped
        assert bad
        scorecard.add("fsyncs left out / seen by the replay", cases=1, passed=1, target=1)
    else:
        scorecard.add("states of a disk after a power failure / whole", cases=len(recorder.states),
                      passed=len(recorder.states) - bad, target=50)  # fmt: skip
        assert len(recorder.states) > 50
        assert bad == 0
