"""A report that follows running runs on a terminal, until they are done or the person has seen enough."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from orca_cli import terminal
from orca_cli.report.records.collect import Run
from orca_cli.report.records.details import number
from orca_cli.report.rendering.console import renderables
from orca_cli.report.rendering.formats import sign
from orca_cli.report.rendering.sparklines import ramp, sparkline
from orca_cli.report.tables.layout import layout_of
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Table
from orca_cli.runs.directory import STAGE_FOLDERS

REFRESH_S = 2.0
GRACE_S = 30.0  # between two runs of a sweep nothing runs for some seconds
_MOST_RUNNING = 12
_TAIL = 2**16  # bytes of a curve's file
_CURVES = (("finetune", "train_loss", "training loss"), ("align", "loss", "distance"))


def follow(
    load: Callable[[], Table],
    console: Console,
    *,
    refresh_s: float = REFRESH_S,
    grace_s: float = GRACE_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show a report again and again; returns when nothing has run for `grace_s`, or at Ctrl-C.

    Args:
        load: returns the table as it is now.
        console: a terminal.
        refresh_s: between two looks at the run folders.
        grace_s: see above.
        clock: seconds from some moment on.
        sleep: waits.
    """
    idle_since = clock()
    try:
        with Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop") as live:
            while True:
                table = load()
                running = [run for run in table.unfinished if run.state == "running"]
                if running:
                    idle_since = clock()
                idle = clock() - idle_since
                live.update(Group(*_shown(table, running, console, grace_s - idle)), refresh=True)
                if not running and idle >= grace_s:
                    return
                sleep(refresh_s)
    except KeyboardInterrupt as stop:
        if stop.args:  # a signal that asks the program to end, not a person who has seen enough
            raise


def _shown(table: Table, running: Sequence[Run], console: Console, left_s: float) -> Iterator[RenderableType]:
    counts = Counter(run.state for run in table.unfinished)
    done = sum(len(cell.runs) for row in table.rows for cell in row.cells)
    words = [f"{done} completed", *(f"{count} {state}" for state, count in counts.items())]
    yield Text(f"{', '.join(words)}   (Ctrl-C ends)", style="bold")
    if not running:
        yield Text(f"nothing is running; ends in {max(left_s, 0):.0f} s unless a run begins")
    rows = [_row(run) for run in running[:_MOST_RUNNING]]
    if rows:
        yield terminal.table(("running", "seed", "stage", "curve", "last"), rows)
    if len(running) > _MOST_RUNNING:
        yield Text(f"and {len(running) - _MOST_RUNNING} more")
    yield Text("")
    layout = layout_of(table, sign())
    yield from renderables(layout, console.width)


def _row(run: Run) -> list[str]:
    name = clean(f"{run.task} {run.body} {run.metric} {run.finetune}", longest=60)
    for stage, key, word in _CURVES:
        values = tail(run.path / STAGE_FOLDERS[stage] / "metrics.jsonl", key)
        if values:
            line = sparkline(values, ramp=ramp())
            return [name, str(run.seed), stage, line, f"{word} {values[-1]:.4g} ({len(values)} lines)"]
    return [name, str(run.seed), clean(run.reason.removeprefix("in stage ")), "", ""]


def tail(path: Path, key: str) -> list[float]:
    """Return a column of the last lines of a curve that is being written; empty where there is none."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - _TAIL, 0))
            lines = file.read(_TAIL).splitlines()
    except OSError:
        return []
    values = []
    for line in lines[size > _TAIL :]:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):  # the last line may be half-written
            continue
        value = number(entry.get(key)) if isinstance(entry, dict) else None
        if value is not None:
            values.append(value)
    return values
