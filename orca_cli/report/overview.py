"""The report on a terminal: data sets one below the other, the newest first, on one screen."""

import shlex
from collections import defaultdict
from dataclasses import replace

from rich.console import Console, RenderableType
from rich.text import Text

from orca_cli.report.collect import Collection
from orca_cli.report.formats import rich_tables
from orca_cli.report.layout import clean, counted_states, framed, layout_of, notes_of
from orca_cli.report.table import Row, Table, build_table
from orca_cli.terminal import counted

_CAPTION = (
    "Test error, lower is better: mean ± sample standard deviation over seeds (number of seeds). "
    "trivial: the best constant predictor."
)
_MOST_METHODS = 4  # largest number of methods shown for a data set
_LONGEST_NAME = 32  # characters of a data set's name in the list of data sets not shown
# Lines below the tables: the caption, further data sets, failures.
_LINES_BELOW = 5


def by_data_set(collection: Collection) -> dict[str, Collection]:
    """Return the runs of each data set, by its name; the data set of the newest run comes first."""
    runs = defaultdict(list)
    # Runs are sorted by age: the last data set that gets a run is the newest.
    for run in collection.runs:
        runs[run.data].append(run)
    names = list(dict.fromkeys(run.data for run in reversed(collection.runs)))
    superseded = defaultdict(list)
    for run in collection.superseded:
        superseded[run.data].append(run)
    return {
        name: Collection(runs=runs[name], superseded=superseded[name], broken=[]) for name in names
    }


def overview(collection: Collection, console: Console, command: str) -> list[RenderableType]:
    """Return the data sets whose tables fit on the console, and a line for all others.

    A data set is shown with its best methods; failures are counted. `command` is the command line
    of the report.
    """
    sets = by_data_set(collection)
    shown: list[RenderableType] = []
    lines_left = console.height - _LINES_BELOW
    waiting = list(sets)
    for name, runs in sets.items():
        block = _block(build_table(runs), console.width, f"{command} --name {shlex.quote(name)}")
        n_lines = sum(len(console.render_lines(part, pad=False)) for part in block)
        # The newest data set is always shown, however long its table is.
        if shown and n_lines > lines_left:
            break
        shown += block
        lines_left -= n_lines
        waiting.remove(name)
    shown.append(Text(_CAPTION))
    if waiting:
        older = ", ".join(clean(name, longest=_LONGEST_NAME) for name in waiting)
        data_sets = counted(len(waiting), "older data set")
        line = Text(f"{command} --name NAME shows {data_sets}: {older}")
        line.truncate(console.width, overflow="ellipsis")
        shown.append(line)
    states = [run.state for run in collection.runs if run.state != "completed"]
    states += [broken.state for broken in collection.broken]
    problems = counted_states(states)
    if problems:
        shown.append(Text(problems, "bold"))
    return shown


def _block(table: Table, width: int, command: str) -> list[RenderableType]:
    """Return a data set's best methods, and the command that shows the other methods and notes."""
    rows = sorted(table.rows, key=_lowest_mean)
    best = replace(table, rows=rows[:_MOST_METHODS])
    (layout,) = framed(best, [layout_of(best)])
    block: list[RenderableType] = [*rich_tables(layout, width)]
    block += [Text(alarm, "bold red") for alarm in layout.alarms]
    more = []
    if len(rows) > _MOST_METHODS:
        more.append(counted(len(rows) - _MOST_METHODS, "further method"))
    notes = notes_of(table)
    if notes:
        more.append(counted(len(notes), "note"))
    if more:
        block.append(Text(f"{clean(command)} shows {' and '.join(more)}", "dim"))
    return [*block, Text("")]


def _lowest_mean(row: Row) -> float:
    """Return the lowest mean error of a method; infinite without one."""
    return min((cell.mean for cell in row.cells if cell.mean is not None), default=float("inf"))
