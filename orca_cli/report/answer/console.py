"""A run's answer on a terminal: a confusion matrix where it fits, tables for everything else."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from orca_cli import terminal
from orca_cli.report.answer.numbers import Answer, Confusion, Labels, Values, percent
from orca_cli.report.figures.svg import cut

_LONGEST_NAME = 16
_MOST_IN_MATRIX = 30
_MOST_PAIRS = 12
_MOST_ROWS = 20  # labels or numbers


@dataclass(frozen=True)
class Picture:
    """An answer as a Rich renderable, with a last line, such as the path of the same picture as a file."""

    answer: Answer
    note: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Show within the width of the console."""
        if isinstance(self.answer, Confusion):
            yield from _confusion(self.answer, console, options)
        elif isinstance(self.answer, Labels):
            yield from _labels(self.answer)
        else:
            yield from _values(self.answer)
        if self.note:
            yield Text(self.note, style="dim")


def _confusion(confusion: Confusion, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
    """Yield the share that is right, and the matrix, or the most confused classes where it does not fit."""
    matrix = _matrix(confusion) if len(confusion.names) <= _MOST_IN_MATRIX else None
    if matrix and console.measure(matrix, options=options.update(max_width=10_000)).maximum <= options.max_width:
        yield Text.assemble((confusion.right, "bold"), "; rows: true class, columns: predicted")
        yield matrix
        return
    yield Text(confusion.right, style="bold")
    if pairs := confusion.confused():
        counted, names = terminal.counted(len(pairs), "pair"), [cut(name, _LONGEST_NAME) for name in confusion.names]
        named = (f"{names[i]} -> {names[j]} {confusion.counts[i, j]}" for i, j in pairs[:_MOST_PAIRS])
        yield Text(f"most confused (true -> predicted), of {counted} of classes: {', '.join(named)}")


def _matrix(confusion: Confusion) -> Table:
    """Return a confusion matrix of counts, whose columns have numbers, with each class's recall."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("true", style="cyan", no_wrap=True)
    for header in (*map(str, range(len(confusion.names))), "recall"):
        table.add_column(header, justify="right", no_wrap=True)
    for i, name in enumerate(confusion.names):
        cells, counts = [], confusion.counts[i].tolist()
        for j, count in enumerate(counts):
            look = "bold green" if i == j else "bold red" if count >= 0.1 * sum(counts) else "red"
            cells.append(Text(str(count), style=look) if count else Text(".", style="dim"))
        first = name if name == str(i) else f"{i} {cut(name, _LONGEST_NAME)}"
        table.add_row(Text(first), *cells, percent(confusion.recall[i]))
    return table


def _labels(labels: Labels) -> Iterable[RenderableType]:
    order = labels.worst()[:_MOST_ROWS]
    count = terminal.counted(labels.n, "test sample")
    which = f"the {len(order)} of {len(labels.names)} labels with the lowest F1"
    yield Text.assemble((count, "bold"), f"; {which}; predicted: probability of 50 % or more")
    rows = []
    for k in order:
        shares = (percent(values[k]) for values in labels.shares.values())
        rows.append((cut(labels.names[k], _LONGEST_NAME), str(labels.present[k]), str(labels.predicted[k]), *shares))
    yield terminal.table(("label", "present", "predicted", "precision", "recall", "F1"), rows)


def _values(values: Values) -> Iterable[RenderableType]:
    rows = []
    for number in values.numbers[:_MOST_ROWS]:
        texts = ("-" if np.isnan(value) else f"{value:.4g}" for value in number.measures.values())
        rows.append((cut(number.name, _LONGEST_NAME), str(len(number.true)), *texts))
    yield terminal.table(("number", "test samples", "R2", "RMSE", "MAE"), rows)
    if len(values.numbers) > _MOST_ROWS:
        yield Text(f"... and {len(values.numbers) - _MOST_ROWS} more")
