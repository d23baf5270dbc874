"""A2, A3, C1, C3: every system call of a commit fails once: killed, disk full, input/output error. A4: the power fails.

Two harnesses that know nothing of each other: strace injects faults into the calls of an unmodified process, and the
functions of `os` are replaced in a fork. A third one replays what a disk may hold.
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
from orca_cli.exceptions import ChecksumError
from orca_cli.training import checkpoint
from tests.crashes import Recorder
from tests.reliability import workloads

CALLS = ("openat", "write", "fsync", "rename", "mkdir", "unlink", "unlinkat", "rmdir")
SHIM = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "write")
FAULTS = ("KILL", "ENOSPC", "EIO")
# What the operating system may say of a fault of the disk, and what the program may make of it.
STORAGE = 30


def start(fork, name, folder, fault):
    return fork("list", hook=f"tests.reliability.workloads:run:{name}|{folder}|{fault}")


def promised(folder: Path) -> str:
    path = folder / "promises"
    return path.read_text().splitlines()[0] if path.exists() and path.read_text() else ""


def problems(name: str, folder: Path) -> list[str]:
    """Return the violations of I1 and I2 after a fault; repeats the work, as a user would."""
    last = promised(folder)
    return _torn(folder) + (_lost(folder, last) if last else []) + restart(name, folder)


def _torn(folder: Path) -> list[str]:
    """Return the files under final names that are not whole."""
    torn = []
    for path in folder.rglob("*.json"):
        if any(storage.is_temporary(part) for part in (path, *path.parents)):
            continue
        try:
            json.loads(path.read_text())
            if path.name == storage.MANIFEST:
                storage.verify_folder(path.parent, extra_allowed=path.parent == folder / "run")
        except (ValueError, ChecksumError) as error:
            torn.append(f"not whole: {path.relative_to(folder)}: {error}")
    return torn


def _lost(folder: Path, last: str) -> list[str]:
    """Return what was promised and is not there."""
    what, _, which = last.partition(" ")
    if what == "step":
        loaded = checkpoint.load_latest(folder / "checkpoints", owner=workloads.OWNER)
        there = loaded is not None and loaded.step >= int(which)
        assert not there or torch.equal(loaded.weights["w"], torch.full((300,), float(loaded.step)))
    elif what in ("state", "line"):
        order = ("created", "build", "align", "completed")
        state = json.loads((folder / "run" / "status.json").read_text())["state"]
        lines = len(storage.read_json_lines(folder / "run" / "metrics.jsonl"))
        there = order.index(state) >= order.index(which) and lines >= order.index(which) + (what == "line")
    else:
        there = {
            "result": (folder / "run" / "result.json").exists,
            "entry": (folder / "cache" / "entry").exists,
            "report": (folder / "tables" / "report.md").exists,
        }[what]()
    return [] if there else [f"lost: {last}"]


def restart(name: str, folder: Path) -> list[str]:
    """Do the work again over what is there; returns what goes wrong or is left over."""
    storage.clean_temporary(folder)
    try:
        workloads.WORKLOADS[name](folder, lambda text: None)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        return [f"does not go on: {error!r}"]
    left = [path.name for path in folder.rglob("*") if storage.is_temporary(path)]
    return [f"left over: {left}"] if left else []


def verdict(name: str, fault: str, code: int, err: str, folder: Path) -> list[str]:
    violations = problems(name, folder)
    if fault == "KILL":
        return violations
    if code not in (0, STORAGE):
        violations.append(f"exit code {code}: {err.strip()[-300:]}")
    if code == STORAGE and not re.fullmatch(r"orca: error: [^\n]+\n", err):
        violations.append(f"not one line: {err!r}")
    return violations


def spread(cases: list, most: int) -> list:
    """Return at most so many cases, evenly spread over all."""
    if len(cases) <= most:
        return cases
    return [cases[round(place * (len(cases) - 1) / (most - 1))] for place in range(most)]


def traced(fork, name, folder, log, *more):
    """Do a workload under strace; returns (exit code, standard error)."""
    folder.mkdir()
    case = start(fork, name, folder, "traced")
    end = time.monotonic() + 30
    while not (folder / "promises").exists():  # else the faults would hit what the fork does before its work
        assert time.monotonic() < end, case.poll()
        time.sleep(0.002)
    command = ["strace", "-p", str(case.pid), "-o", str(log), "-e", f"trace={','.join(CALLS)}", *more]
    tracer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    code = case.wait(30)
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


@pytest.fixture(scope="session")
def strace(tmp_path_factory):
    """Return "" where strace can inject faults here, else the reason why not."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    command = ["strace", "-o", "/dev/null", "-e", "inject=fsync:error=EIO", "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except OSError as error:
        return str(error)
    return "" if done.returncode == 0 else f"strace cannot trace here: {done.stderr.strip()[-100:]}"


@pytest.mark.slow
@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_every_system_call_fails_once(name, fork, tmp_path, strace, count, scorecard):
    """A2, A3, C1, C3, by strace."""
    figure = "system-call faults (strace): neither corrupt nor lost"
    if strace:
        scorecard.not_run(figure, strace)
        pytest.skip(strace)
    code, err = traced(fork, name, tmp_path / "whole", tmp_path / "log")
    assert code == 0, err
    ours = calls_in(tmp_path / "whole", (tmp_path / "log").read_text())
    assert len(ours["fsync"]) >= 4
    assert problems(name, tmp_path / "whole") == []
    cases = [(call, k, fault) for fault in FAULTS for call in CALLS for k in ours[call]]
    cases += [("write", f"{k}+", "ENOSPC") for k in ours["write"]]
    chosen = spread(cases, count(pr=8, nightly=10_000))
    bad, tried = {}, 0
    for number, (call, k, fault) in enumerate(chosen):
        folder, log = tmp_path / f"{number}", tmp_path / "log"
        what = f"{call}:signal=KILL:when={k}" if fault == "KILL" else f"{call}:error={fault}:when={k}"
        code, err = traced(fork, name, folder, log, "-e", f"inject={what}")
        hit = code == -9 if fault == "KILL" else "(INJECTED)" in log.read_text()
        if not hit:  # the work made fewer calls this time; then nothing was tested
            continue
        tried += 1
        violations = verdict(name, fault, code, err, folder)
        if violations:
            bad[call, k, fault] = violations
        shutil.rmtree(folder)
    scorecard.add(figure, cases=tried, passed=tried - len(bad), target=125)
    assert tried >= 0.8 * len(chosen)
    assert bad == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_every_call_of_the_storage_module_fails_once(name, fork, tmp_path, count, scorecard):
    """A2, A3, C1, C3, by replaced functions: the second harness, which needs nothing."""
    cases = [(call, k, fault) for call in SHIM for k in range(1, 30) for fault in FAULTS]
    cases += [("write", f"{k}+", "ENOSPC") for k in range(1, 10)]
    exhausted = set()
    bad, tried = {}, 0
    for call, k, fault in spread(cases, count(pr=40, nightly=10_000)):
        if any(other == call and int(str(k).rstrip("+")) >= least for other, least in exhausted):
            continue
        folder = tmp_path / f"{call}-{k}-{fault}"
        folder.mkdir()
        case = start(fork, name, folder, f"{call}:{k}:{fault}")
        code = case.wait(30)
        if code == 0 and fault != "KILL" and not case.err and _whole(name, folder):
            exhausted.add((call, int(str(k).rstrip("+"))))  # fewer calls than that
            continue
        if fault == "KILL" and code == 0:
            exhausted.add((call, k))
            continue
        tried += 1
        violations = verdict(name, fault, code, case.err, folder)
        if violations:
            bad[call, k, fault] = violations
        shutil.rmtree(folder)
    figure = "faults in the storage module's calls: neither corrupt nor lost"
    scorecard.add(figure, cases=tried, passed=tried - len(bad), target=60)
    assert tried >= 4
    assert bad == {}


def _whole(name: str, folder: Path) -> bool:
    last = {"checkpoints": f"step {workloads.STEPS}", "records": "result", "cache": "entry", "report": "report 1"}
    return promised(folder) == last[name]


def test_the_shim_hits(fork, tmp_path):
    """The premise of the test above: an injected fault does fail the work, and names the disk."""
    for number, fault in enumerate(("fsync:1:ENOSPC", "rename:1:EIO", "write:1+:ENOSPC")):
        folder = tmp_path / str(number)
        folder.mkdir()
        case = start(fork, "checkpoints", folder, fault)
        assert case.wait(30) == STORAGE, case.err
        assert ("no space left" in case.err) == ("ENOSPC" in fault)


def work(recorder: Recorder) -> None:
    """Save checkpoints, a record and lines of a curve, two levels down, as a stage does."""
    run = recorder.root / "run"
    workloads.checkpoints(run, recorder.promise)
    for number in range(3):
        storage.write_json(run / "status.json", {"number": number})
        recorder.promise(f"status {number}")
        storage.append_json_line(run / "lines.jsonl", {"line": number})
        recorder.promise(f"line {number}")


def broken_promises(run: Path, promises: list[str]) -> list[str]:
    """Return what a disk has lost of what was promised, and what is corrupt on it."""
    promised = dict(text.split() for text in promises)  # the last of each kind
    kept, faults = {"step": 0}, []
    for path in (run / "checkpoints").glob("step-*"):
        try:
            storage.verify_folder(path)
            kept["step"] = max(kept["step"], int(path.name[5:]))
        except ChecksumError:
            faults.append(f"not whole: {path.name}")
    try:
        kept["status"] = json.loads((run / "status.json").read_text())["number"]
    except FileNotFoundError:
        kept["status"] = -1
    except ValueError:
        faults.append("not whole: status.json")
    kept["line"] = len(storage.read_json_lines(run / "lines.jsonl")) - 1
    return faults + [f"lost: {kind}" for kind, number in promised.items() if kept.get(kind, 9) < int(number)]


FSYNCS = [r"safetensors$", r"trainer\.json$", r"MANIFEST\.json$", r"\.tmp-[^/]*-step-\d+$", r"checkpoints$", r"run$", r"disk$",
          r"-status\.json( \(deleted\))?$", r"lines\.jsonl$"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("left_out", ["", *FSYNCS])
def test_nothing_that_was_promised_is_lost_when_the_power_fails(tmp_path, left_out, scorecard):
    """A4: in all states of the disk; and without the fsync of any one file or folder that is seen."""
    disk, after = tmp_path / "disk", tmp_path / "after"
    disk.mkdir()
    recorder = Recorder(disk, skip=lambda path: bool(left_out) and bool(re.search(left_out, path)))
    with recorder.recording():
        work(recorder)
    bad = 0
    for promises, state in recorder.states:
        recorder.restore(state, after)
        bad += bool(broken_promises(after / "run", promises))
    if left_out:
        assert recorder.skipped
        assert bad
        scorecard.add("fsyncs left out / seen by the replay", cases=1, passed=1, target=1)
    else:
        scorecard.add("states of a disk after a power failure / whole", cases=len(recorder.states),
                      passed=len(recorder.states) - bad, target=50)  # fmt: skip
        assert len(recorder.states) > 50
        assert bad == 0
