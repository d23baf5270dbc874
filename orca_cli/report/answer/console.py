"""A run's answer on a terminal: a confusion matrix where it fits, tables for everything else."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from orca_cli.report.answer.numbers import Answer, Confusion, Labels, Number, Values, percent

_LONGEST_NAME = 16
_MOST_IN_MATRIX = 30
_MOST_TALL = 12  # classes whose matrix may take two lines each
_MOST_PAIRS = 12
_MOST_ROWS = 20  # labels or numbers


@dataclass(frozen=True)
class Picture:
    """An answer as a Rich renderable, with a last line, such as the path of the same picture as a file."""

    answer: Answer
    note: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Show within the width of the console."""
        width = max(options.max_width, 40)
        if isinstance(self.answer, Confusion):
            yield from _confusion(self.answer, console, width, is_ascii=options.ascii_only)
        elif isinstance(self.answer, Labels):
            yield from _labels(self.answer, is_ascii=options.ascii_only)
        else:
            yield from _values(self.answer, is_ascii=options.ascii_only)
        if self.note:
            yield Text(self.note, style="dim")


def _cut(text: str, width: int, is_ascii: bool) -> str:
    dots = ".." if is_ascii else "…"
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(width - len(dots), 0)).rstrip() + dots


def _confusion(confusion: Confusion, console: Console, width: int, *, is_ascii: bool) -> Iterable[RenderableType]:
    share = confusion.correct / max(confusion.n, 1)
    right = f"{confusion.correct} of {confusion.n} test samples right ({percent(share, 2)})"
    for between, is_numbered in itertools.product((" ", "\n", None), (False, True)):
        k = len(confusion.names)
        if k > (_MOST_TALL if between == "\n" else _MOST_IN_MATRIX):
            continue
        matrix = _matrix(confusion, between, is_numbered, is_ascii)
        if console.measure(matrix, options=console.options.update(max_width=10_000)).maximum <= width:
            cells = "counts" if between is None else "counts and their share of the row"
            yield Text.assemble((right, "bold"), f"; rows: true class, columns: predicted; {cells}")
            yield matrix
            break
    else:
        yield Text(right, style="bold")
        yield from _pairs(confusion, width, is_ascii)
    if missing := [name for name, row in zip(confusion.names, confusion.counts, strict=True) if not row.any()]:
        names = ", ".join(_cut(name, 28, is_ascii) for name in missing[:8])
        yield Text(f"no test sample of {names}" + (f" and {len(missing) - 8} others" if len(missing) > 8 else ""))


def _matrix(confusion: Confusion, between: str | None, is_numbered: bool, is_ascii: bool) -> Table:
    """Return a confusion matrix; `between` a count and its share of the row, which is left out for None."""
    k = len(confusion.names)
    names = [_cut(name, _LONGEST_NAME, is_ascii) for name in confusion.names]
    numbers = [str(i) for i in range(k)]
    table = _table("true", *(numbers if is_numbered else names), "n", "recall", gap=2 if between == " " else 1)
    for i, name in enumerate(names):
        first = f"{i:>{len(numbers[-1])}} {name}" if is_numbered and name != str(i) else name
        cells = [_cell(confusion, i, j, between, is_ascii) for j in range(k)]
        table.add_row(Text(first), *cells, str(confusion.counts[i].sum()), percent(confusion.recall[i]))
    unit = " %" if between == " " else ""
    table.add_row("precision", *(Text(percent(value, unit=unit), style="dim") for value in confusion.precision))
    return table


def _cell(confusion: Confusion, i: int, j: int, between: str | None, is_ascii: bool) -> Text:
    count, share = int(confusion.counts[i, j]), float(confusion.shares[i, j])
    if not count:
        return Text("." if is_ascii else "·", style="dim")
    colour = "bold green" if i == j else "bold red" if share >= 0.1 else "red"
    row_share = "" if between is None else f"{between}{percent(share, unit='%'):>4}"
    return Text.assemble((str(count), colour), (row_share, "" if i == j else colour.removeprefix("bold ")))


def _pairs(confusion: Confusion, width: int, is_ascii: bool) -> Iterable[RenderableType]:
    pairs = confusion.confused()
    if not pairs:
        return
    longest = min(20, (width - 26) // 2)
    arrow = "->" if is_ascii else "→"
    table = _table("true", _cut(f"{arrow} predicted", longest, is_ascii), "samples", "of the class")
    table.columns[1].justify = "left"
    for i, j in pairs[:_MOST_PAIRS]:
        names = [Text(_cut(confusion.names[k], longest, is_ascii)) for k in (i, j)]
        table.add_row(*names, str(confusion.counts[i, j]), percent(float(confusion.shares[i, j])))
    shown, errors = min(len(pairs), _MOST_PAIRS), confusion.n - confusion.correct
    yield Text(f"most confused: {shown} of {len(pairs)} pairs of classes, with {errors} errors in all")
    yield table
    recall = confusion.recall
    worst = [int(k) for k in np.argsort(np.where(np.isnan(recall), np.inf, recall), kind="stable")[:6]]
    texts = [f"{confusion.names[k]} {percent(recall[k])}" for k in worst if recall[k] < 1]
    if texts:
        yield Text(f"least recognised: {', '.join(texts)}")


def _labels(labels: Labels, *, is_ascii: bool) -> Iterable[RenderableType]:
    order = labels.worst()
    is_part = len(order) > _MOST_ROWS
    which = f"the {_MOST_ROWS} of {len(order)} labels with the lowest F1" if is_part else f"{len(order)} labels"
    yield Text.assemble((f"{labels.n} test samples", "bold"), f"; {which}; predicted: probability of 50 % or more")
    table = _table("label", "present", "predicted", "precision", "recall", "F1")
    columns = (labels.precision, labels.recall, labels.f1)
    for k in order[:_MOST_ROWS] if is_part else range(len(order)):
        counts = (str(labels.present[k]), str(labels.predicted[k]))
        name = Text(_cut(labels.names[k], 28, is_ascii))
        table.add_row(name, *counts, *(percent(values[k]) for values in columns))
    table.add_row("mean", "", "", *(percent(_mean(values)) for values in columns), style="bold")
    yield table


def _values(values: Values, *, is_ascii: bool) -> Iterable[RenderableType]:
    numbers = values.numbers
    if len(numbers) == 1:
        (number,) = numbers
        texts = [f"{name} {_short(value)}" for name, value in _measures(number)]
        title = f"{len(number.true)} test samples" + (f", {number.name}" if number.name else "")
        yield Text.assemble((title, "bold"), f"; {', '.join(texts)}")
        return
    table = _table("number", "n", "R2", "RMSE", "MAE", "correlation")
    for number in numbers[:_MOST_ROWS]:
        cells = [_short(value) for _, value in _measures(number)]
        table.add_row(Text(_cut(number.name, 28, is_ascii)), str(len(number.true)), *cells)
    yield Text(f"{len(numbers)} numbers of each test sample", style="bold")
    yield table
    if len(numbers) > _MOST_ROWS:
        yield Text(f"... and {len(numbers) - _MOST_ROWS} more")


def _measures(number: Number) -> list[tuple[str, float]]:
    return [("R2", number.r2), ("RMSE", number.rmse), ("MAE", number.mae), ("correlation", number.correlation)]


def _short(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4g}"


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else np.nan


def _table(first: str, *others: str, gap: int = 2) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    table.add_column(first, style="cyan", no_wrap=True)
    for name in others:
        table.add_column(Text(name), justify="right", no_wrap=True)
    return table
