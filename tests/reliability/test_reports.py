"""K4: a report over 200 runs of which 60 are broken in 20 ways."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

from orca_cli.report.records.collect import collect
from tests.report.test_collect import DAMAGES
from tests.report.trees import add_run

# A process starts with the peak of the one that it was forked from; between this large one and the command stands a small one.
MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""
TASKS = ("ecg", "satellite", "deepsea", "darcy", "digits")


def tree(root: Path, *, broken: int) -> dict[Path, str]:
    """Write 140 good runs, and some that are broken; returns the reasons of the broken ones by folder."""
    for number in range(140):
        task = TASKS[number % len(TASKS)]
        metric = ("otdd", "mmd")[number // 70]
        add_run(root, task=task, metric=metric, seed=number // len(TASKS) % 14, value=0.001 * number)
    reasons = {}
    kinds = list(DAMAGES)
    for number in range(broken):
        change, words = DAMAGES[kinds[number % len(kinds)]]
        name = f"2026-02-01_00-00-00.{number:06}_minilm_euclidean_full_s{number}_{number:08x}"
        path = add_run(root, task=TASKS[number % len(TASKS)], metric="euclidean", seed=number, name=name)
        change(path)
        reasons[path] = words
    return reasons


def digest(root: Path) -> str:
    """Return what a tree looks like from outside: names, kinds, times, contents."""
    lines = []
    for path in sorted(root.rglob("*")):
        facts = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        lines.append(f"{path} {facts.st_mode} {facts.st_mtime_ns} {facts.st_size} {content}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def cells(text: str) -> list:
    rows = json.loads(text)["rows"]
    for row in rows:
        for cell in row["cells"]:
            for value in (cell or {}).get("values", []):
                value.pop("run")
    return rows


def test_the_report_is_the_clean_one_with_a_list(tmp_path, scorecard):
    """The same numbers, all 60 named with a reason, nothing written, within 500 MB."""
    clean, mixed = tmp_path / "clean", tmp_path / "mixed"
    tree(clean, broken=0)
    reasons = tree(mixed, broken=60)
    listed = {entry.path: entry.reason for entry in collect([mixed]).broken}
    right = sum(path in listed and words in listed[path] for path, words in reasons.items())
    before = digest(mixed)

    def report(root: Path) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "orca_cli", "report", str(root), "--format", "json"]
        launched = [sys.executable, "-c", MEASURED, str(tmp_path / "peak"), *command]
        done = subprocess.run(launched, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done

    expected = cells(report(clean).stdout)
    start = time.monotonic()
    done = report(mixed)
    seconds, peak = time.monotonic() - start, float((tmp_path / "peak").read_text()) / 1024
    same = 140 * (cells(done.stdout) == expected)
    scorecard.add("runs of which 60 are broken / classified right", cases=200, passed=right + same, target=200)
    note = f"{seconds:.1f} s, peak {peak:.0f} MB"
    scorecard.add("report over 200 runs / nothing written", cases=1, passed=1, target=1, note=note)
    assert right == len(listed) == 60
    assert same
    assert sum(path.name in done.stdout + done.stderr for path in reasons) == 60
    assert digest(mixed) == before
    assert peak < 500
