"""What a report lacks: runs that ended without a result, and seeds that a method was not run with; each with its command."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from orca_cli.report.records.collect import GROUPS, TEST_SET, Run
from orca_cli.report.records.details import overrides, shared_data, typed_settings
from orca_cli.report.records.filters import canonical
from orca_cli.report.records.study_members import SET, Origin
from orca_cli.report.tables.notes import clean, seeds_text
from orca_cli.report.tables.table import TASK_PREFIX, UNFINISHED, Column, Method, Table, belongs_to

_NOWHERE = Origin()
_MOST_READ = 20  # runs that a command is made after
_TO_BE_TYPED = ("failed", "dead", "interrupted")


@dataclass(frozen=True)
class Hole:
    """Something that is not there.

    Args:
        what: task, method and seeds.
        state: as of a run; "not run", or "broken" for a folder that cannot be read.
        reason: why it is not there.
        command: what fills it; empty where no command can.
    """

    what: str
    state: str
    reason: str
    command: str = ""


def holes_of(table: Table, origin: Origin = _NOWHERE) -> list[Hole]:
    """Return the holes of a table: runs by how they ended, then missing seeds by task and method, then broken folders."""
    runs = sorted(table.unfinished, key=lambda run: UNFINISHED.index(run.state))
    holes = [_run_hole(run, origin) for run in runs]
    for place, column in enumerate(
        [] if table.by or table.choice else table.columns
    ):  # merged rows cannot be run as one method
        holes += _missing(table, place, column, origin)
    broken = [Hole(clean(str(entry.path)), "broken", clean(entry.reason)) for entry in table.broken]
    return holes + broken


def _run_hole(run: Run, origin: Origin) -> Hole:
    words = overrides(run.path) if run.state in _TO_BE_TYPED else None
    settings = "".join(f" {key}={value}" for key, value in sorted(run.variant.items()))
    what = f"{run.task}: {run.body} {run.metric} {run.finetune}{settings}, seed {run.seed}"
    return Hole(clean(what), run.state, clean(run.reason), "" if words is None else _typed(["run", *words], origin))


def _missing(table: Table, place: int, column: Column, origin: Origin) -> Iterator[Hole]:
    cells = [(row.method, row.cells[place]) for row in table.rows]
    every = {run.seed for _, cell in cells for run in cell.runs}
    for method, cell in cells:
        if any(key.startswith(TASK_PREFIX) for key, _ in method.settings) and not cell.runs:
            continue  # it exists on other data only
        started = {run.seed for run in cell.runs} | {run.seed for run in _unfinished(table, column, method)}
        seeds = sorted(every - started)
        if seeds:
            others = [run for row in table.rows for run in row.cells[place].runs]
            reason = f"other methods of this task have seed{'s' if len(every) > 1 else ''} {seeds_text(sorted(every))}"
            what = f"{column.name}: {method}, seed{'s' if len(seeds) > 1 else ''} {seeds_text(seeds)}"
            method_runs = cell.runs or [
                run for row in table.rows if row.method == method for one in row.cells for run in one.runs
            ]
            command = _command(column, method, seeds, (method_runs or others, others), origin)
            if command is not None:
                yield Hole(clean(what), "not run", clean(reason), command)


def _unfinished(table: Table, column: Column, method: Method) -> Iterator[Run]:
    for run in table.unfinished:
        fields = all(getattr(run, key) == getattr(method, key) for key in GROUPS)
        settings = all(canonical(run.variant.get(key, value)) == canonical(value) for key, value in method.settings)
        if fields and settings and belongs_to(run, column):
            yield run


def _command(
    column: Column, method: Method, seeds: Iterable[int], like: tuple[Collection[Run], Collection[Run]], origin: Origin
) -> str | None:
    """Return the command that runs a method on a task; None where the study leaves that out.

    Settings that all runs of the method have are typed as well (first of `like`), and those of the task from its runs (second).
    """
    method_settings, task_settings = (
        set[tuple[str, str]].intersection(*(set(run.variant.items()) for run in runs)) for runs in like
    )
    common = {(key, value) for key, value in method_settings if not key.startswith(TASK_PREFIX)}
    common |= {(key, value) for key, value in task_settings if key.startswith(TASK_PREFIX)}
    settings = {**dict(sorted(common)), **dict(method.settings)}
    if settings.keys() & {"settings", TEST_SET}:  # a hash stands for a change that no override shows
        return ""
    fields = {key: str(getattr(method, key)) for key in GROUPS}
    chosen = ",".join(map(str, seeds))
    typed = [typed_settings(path) for path in sorted(run.path for run in like[0])[:_MOST_READ]]
    if origin.study:
        axis_fields = {key: value for key, value in fields.items() if key in origin.axes}
        words = {"study": origin.study, SET: column.task} | axis_fields | settings
        words = {key: value for key, value in words.items() if key == "study" or key in origin.axes or key in settings}
        if not origin.makes(words):
            return None
    else:
        words = {"task": column.task, **fields, **settings}
        if column.protocol != "clean":
            words["protocol"] = column.protocol
    many = ["-m"] if origin.study or "," in chosen else []
    besides = origin.besides(typed) if origin.study else shared_data(typed)
    return _typed(
        ["run", *many, *(f"{key}={value}" for key, value in words.items()), *besides, f"seed={chosen}"], origin
    )


def _typed(words: list[str], origin: Origin) -> str:
    """Return a command line for a shell; empty if a word has characters that cannot be typed."""
    words = [*words, *([f"paths.runs={origin.folder}"] if origin.folder else [])]
    if any(clean(word, longest=2000) != word for word in words):
        return ""
    return shlex.join(["orca", *words])
