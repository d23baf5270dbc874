"""What a report lacks: runs that ended without a result, and seeds that a method was not run with; each with its command."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
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
    holes = []
    for run in sorted(table.unfinished, key=lambda run: UNFINISHED.index(run.state)):
        words = overrides(run.path) if run.state in _TO_BE_TYPED else None
        settings = "".join(f" {key}={value}" for key, value in sorted(run.variant.items()))
        what = f"{run.task}: {run.body} {run.metric} {run.finetune}{settings}, seed {run.seed}"
        command = "" if words is None else _typed(["run", *words], origin)
        holes.append(Hole(clean(what), run.state, clean(run.reason), command))
    if not (table.by or table.choice):  # merged rows cannot be run as one method
        for place, column in enumerate(table.columns):
            holes += _missing(table, place, column, origin)
    return holes + [Hole(clean(str(entry.path)), "broken", clean(entry.reason)) for entry in table.broken]


def _missing(table: Table, place: int, column: Column, origin: Origin) -> Iterator[Hole]:
    task_runs = [run for cell in table.cells(place) for run in cell.runs]
    every = {run.seed for run in task_runs}
    for row in table.rows:
        method, runs = row.method, row.cells[place].runs
        if any(key.startswith(TASK_PREFIX) for key, _ in method.settings) and not runs:
            continue  # it exists on other data only
        unfinished = {run.seed for run in table.unfinished if belongs_to(run, column) and _is_of(run, method)}
        if seeds := sorted(every - {run.seed for run in runs} - unfinished):
            reason = f"other methods of this task have seed{'s' if len(every) > 1 else ''} {seeds_text(sorted(every))}"
            what = f"{column.name}: {method}, seed{'s' if len(seeds) > 1 else ''} {seeds_text(seeds)}"
            examples = runs or [run for cell in row.cells for run in cell.runs] or task_runs
            command = _command(column, method, seeds, examples, _common(task_runs), origin)
            if command is not None:
                yield Hole(clean(what), "not run", clean(reason), command)


def _is_of(run: Run, method: Method) -> bool:
    fields = all(getattr(run, key) == getattr(method, key) for key in GROUPS)
    return fields and all(canonical(run.variant.get(key, value)) == canonical(value) for key, value in method.settings)


def _common(runs: Iterable[Run]) -> set[tuple[str, str]]:
    return set[tuple[str, str]].intersection(*(set(run.variant.items()) for run in runs))


def _command(
    column: Column,
    method: Method,
    seeds: Iterable[int],
    examples: Sequence[Run],
    task_settings: set[tuple[str, str]],
    origin: Origin,
) -> str | None:
    """Return the command that runs a method on a task; None where the study leaves that out.

    It also types the settings that all examples of the method share, and those of the task that all of its runs share.
    """
    common = {item for item in _common(examples) if not item[0].startswith(TASK_PREFIX)}
    common |= {item for item in task_settings if item[0].startswith(TASK_PREFIX)}
    settings = {**dict(sorted(common)), **dict(method.settings)}
    if settings.keys() & {"settings", TEST_SET}:  # a hash stands for a change that no override shows
        return ""
    fields = {key: str(getattr(method, key)) for key in GROUPS}
    chosen = ",".join(map(str, seeds))
    typed = [typed_settings(path) for path in sorted(run.path for run in examples)[:_MOST_READ]]
    if origin.study:
        named = {SET: column.task} | fields | settings
        words = {"study": origin.study}
        words |= {key: value for key, value in named.items() if key in origin.axes or key in settings}
        if not origin.makes(words):
            return None
    else:
        protocol = {} if column.protocol == "clean" else {"protocol": column.protocol}
        words = {"task": column.task, **fields, **settings} | protocol
    many = ["-m"] if origin.study or "," in chosen else []
    besides = origin.besides(typed) if origin.study else shared_data(typed)
    overridden = [f"{key}={value}" for key, value in words.items()]
    return _typed(["run", *many, *overridden, *besides, f"seed={chosen}"], origin)


def _typed(words: list[str], origin: Origin) -> str:
    """Return a command line for a shell; empty if a word has characters that cannot be typed."""
    words = [*words, *([f"paths.runs={origin.folder}"] if origin.folder else [])]
    if any(clean(word, longest=2000) != word for word in words):
        return ""
    return shlex.join(["orca", *words])
