"""Curves in a terminal, and a report that follows running runs."""

from __future__ import annotations

import io
import json
import math
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orca_cli import storage
from orca_cli.cli import main
from orca_cli.report.records.collect import collect
from orca_cli.report.rendering import watch
from orca_cli.report.rendering.sparklines import ASCII, BLOCKS, sparkline
from orca_cli.report.tables.table import Table, build_table
from tests.report.trees import add_run, details


def test_a_sparkline_goes_from_low_to_high() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == BLOCKS
    assert sparkline([7, 0], ramp=ASCII) == "#_"
    assert sparkline([5, 5, 5]) == BLOCKS[0] * 3
    assert sparkline([0.0] * 50 + [1.0] * 50, width=4) == BLOCKS[0] * 2 + BLOCKS[-1] * 2
    assert sparkline([]) == ""


@given(st.integers(0, 200), st.integers(1, 40), st.sampled_from([1.0, 1e300, -1e300, math.nan, math.inf]))
def test_a_sparkline_is_never_wider_than_its_room(count: int, width: int, odd: float) -> None:
    drawn = sparkline([*map(float, range(count)), odd], width)
    assert len(drawn) == min(count + math.isfinite(odd), width)
    assert set(drawn) <= set(BLOCKS)


def test_curves_are_shown_below_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(tmp_path, **details(0))
    add_run(tmp_path, seed=1, **details(0))
    assert main(["report", str(tmp_path), "--curves"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "0.94" in line or "> 1" in line]
    assert line.split()[:3] == ["digits", "otdd", "(2)"]
    assert "40 > 1.07 (2)" in line
    assert any(char in line for char in BLOCKS[1:] + ASCII[1:])
    assert main(["report", str(tmp_path), "--curves", "--json"]) == 2


def _follow(load: object, **more: float) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    watch.follow(load, console, clock=lambda: now[0], sleep=sleep, **more)  # type: ignore[arg-type]
    assert now[0] < 1000
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_it_follows_a_run_until_nothing_has_run_for_a_while(tmp_path: Path) -> None:
    run = add_run(tmp_path, state="finetune", seed=3)
    folder = run / "3_finetune"
    folder.mkdir()
    lines = [json.dumps({"epoch": epoch, "train_loss": 4.0 / epoch}) for epoch in range(1, 9)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"epoch": 9, "train_lo')
    looks: list[Table] = []
    with storage.lock(run / "lock", timeout_s=1.0, what="the run"):
        running = build_table(collect([tmp_path]))
    (run / "result.json").write_text((add_run(tmp_path / "other", seed=3) / "result.json").read_text())
    completed = build_table(collect([run]))

    def load() -> Table:
        looks.append(running if len(looks) < 5 else completed)
        return looks[-1]

    shown = _follow(load, refresh_s=2.0, grace_s=30.0)
    assert looks.count(running) == 5
    assert 15 <= looks.count(completed) <= 17
    assert "0 completed, 1 running" in shown
    assert "training loss 0.5 (8 lines)" in shown
    assert "1 completed" in shown


def test_a_run_that_begins_within_the_grace_is_followed() -> None:
    tables = [Table([], [], [], [], [], [])]
    assert "ends in 10 s" in _follow(lambda: tables[0], refresh_s=5.0, grace_s=10.0)


def test_without_a_terminal_it_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(tmp_path)
    assert main(["report", str(tmp_path), "--watch"]) == 2
    assert capsys.readouterr().err == "orca: error: --watch: standard output is not a terminal; leave --watch out\n"


def test_ctrl_c_ends_it_with_the_last_table_and_exit_code_0(tmp_path: Path) -> None:
    add_run(tmp_path, **details(0))
    ours, its = pty.openpty()
    words = [sys.executable, "-m", "orca_cli", "report", str(tmp_path), "--watch"]
    process = subprocess.Popen(words, stdin=its, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    shown, is_sent, deadline = b"", False, time.monotonic() + 60
    while process.poll() is None or select.select([ours], [], [], 0)[0]:
        assert time.monotonic() < deadline, shown
        try:
            shown += os.read(ours, 2**16) if select.select([ours], [], [], 1)[0] else b""
        except OSError:  # the other end is closed
            break
        if not is_sent and b"nothing is running" in shown:
            is_sent = True
            process.send_signal(signal.SIGINT)
    os.close(ours)
    assert process.wait(30) == 0
    assert is_sent
    after = shown.decode().rpartition("nothing is running")[2]
    assert "10.0" in after  # the table, once more, to stay
    assert "rror:" not in after
