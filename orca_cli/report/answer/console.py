"""A run's answer on a terminal: as wide as there is room for, and readable without colours and beyond ASCII."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from orca_cli.report.answer.numbers import Answer, Confusion, Labels, Number, Values, percent

_LONGEST_NAME = 16
_SHORTEST_NAME = 6  # characters that a name above a column is cut to
_MOST_IN_MATRIX = 30
_MOST_TALL = 12  # classes whose matrix may take two lines each
_MOST_PAIRS = 12
_MOST_ROWS = 20  # labels or numbers
_GAP = 2


@dataclass(frozen=True)
class Picture:
    """An answer as a Rich renderable: classes as a confusion matrix where it fits, everything else as numbers.

    Args:
        answer: what to show.
        note: a last line, such as where the same is as a file.
    """

    answer: Answer
    note: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Show within the width of the console."""
        yield from _Writer(max(options.max_width, 40), options.ascii_only).shown(self.answer)
        if self.note:
            yield Text(self.note, style="dim")


Style = Literal["wide", "tall", "plain"]


@dataclass(frozen=True)
class _Matrix:
    """How a confusion matrix is laid out: what a cell holds, its width, the heads of the columns, the gap between them."""

    style: Style
    width: int
    heads: list[str]
    gap: int

    @property
    def numbered(self) -> bool:
        """Return whether numbers stand above the columns, which the rows' names then have as well."""
        return self.heads == [str(i) for i in range(len(self.heads))]


class _Writer:
    """Writes for one width.

    Args:
        width: in characters.
        ascii_only: whether the terminal has no others.
    """

    def __init__(self, width: int, ascii_only: bool) -> None:
        self._width = width
        self._dots, self._none, self._arrow = ("..", ".", "->") if ascii_only else ("…", "·", "→")

    def shown(self, answer: Answer) -> Iterable[RenderableType]:
        if isinstance(answer, Confusion):
            return self._confusion(answer)
        return self._labels(answer) if isinstance(answer, Labels) else self._values(answer)

    def _cut(self, text: str, width: int) -> str:
        if cell_len(text) <= width:
            return text
        return set_cell_size(text, max(width - len(self._dots), 0)).rstrip() + self._dots

    def _confusion(self, confusion: Confusion) -> Iterable[RenderableType]:
        share = confusion.correct / max(confusion.n, 1)
        right = f"{confusion.correct} of {confusion.n} test samples right ({percent(share, 2)})"
        layout = self._layout(confusion)
        if layout is None:
            yield Text(right, style="bold")
            yield from self._pairs(confusion)
        else:
            cells = "counts" if layout.style == "plain" else "counts and their share of the row"
            yield Text.assemble((right, "bold"), f"; rows: true class, columns: predicted; {cells}")
            yield self._matrix(confusion, layout)
        if missing := [name for name, row in zip(confusion.names, confusion.counts, strict=True) if not row.any()]:
            names = ", ".join(self._cut(name, 28) for name in missing[:8])
            yield Text(f"no test sample of {names}" + (f" and {len(missing) - 8} others" if len(missing) > 8 else ""))

    def _layout(self, confusion: Confusion) -> _Matrix | None:
        """Return the most telling layout that fits; None where none does."""
        names, k = confusion.names, len(confusion.names)
        if k > _MOST_IN_MATRIX:
            return None
        digits = len(str(confusion.counts.max(initial=0)))
        needs: dict[Style, int] = {"wide": digits + 5, "tall": max(digits, 4), "plain": max(digits, 2)}
        longest = max(map(cell_len, names))
        for style, need in needs.items():
            if style == "tall" and k > _MOST_TALL:
                continue
            for numbered, gap in itertools.product((False, True), (_GAP, 1)):
                if style == "wide" and gap < _GAP:
                    continue  # pairs of numbers have to stand apart
                # beside the cells: the class, the number of samples, the recall
                beside = self._first(names, numbered) + gap + len(str(confusion.n)) + gap + len("recall")
                room = (self._width - beside) // k - gap
                width = min(max(need, longest), room, _LONGEST_NAME)
                heads = [self._cut(name, width) for name in names]
                if room < need:
                    continue
                if numbered:
                    return _Matrix(style, max(need, len(str(k - 1))), [str(i) for i in range(k)], gap)
                if longest <= width or (width >= _SHORTEST_NAME and len(set(heads)) == k):
                    return _Matrix(style, width, heads, gap)
        return None

    def _first(self, names: Sequence[str], numbered: bool) -> int:
        number = len(str(len(names))) + 1 if numbered else 0
        return max(len("precision"), number + min(max(map(cell_len, names)), _LONGEST_NAME))

    def _matrix(self, confusion: Confusion, layout: _Matrix) -> Table:
        k = len(confusion.names)
        table = Table(
            box=None, pad_edge=False, padding=(0, layout.gap, 0, 0), header_style="bold", collapse_padding=True
        )
        table.add_column("true", style="cyan", no_wrap=True)
        for head in layout.heads:
            table.add_column(Text(head), justify="right", min_width=layout.width, no_wrap=True)
        table.add_column("n", justify="right", no_wrap=True)
        table.add_column("recall", justify="right", no_wrap=True)
        for i, name in enumerate(confusion.names):
            shown = self._cut(name, _LONGEST_NAME)
            first = f"{i:>{len(str(k - 1))}} {shown}" if layout.numbered and name != str(i) else shown
            cells = [self._cell(confusion, i, j, layout.style) for j in range(k)]
            total = Text(str(confusion.counts[i].sum()))
            table.add_row(Text(first), *cells, total, Text(percent(confusion.recall[i])))
        narrow = layout.style != "wide"
        precision = [Text(percent(value, unit="" if narrow else " %"), style="dim") for value in confusion.precision]
        table.add_row(Text("precision"), *precision, Text(""), Text(""))
        return table

    def _cell(self, confusion: Confusion, i: int, j: int, style: Style) -> Text:
        count, share = int(confusion.counts[i, j]), float(confusion.shares[i, j])
        if not count:
            return Text(self._none, style="dim")
        colour = "bold green" if i == j else "bold red" if share >= 0.1 else "red"
        if style == "plain":
            return Text(str(count), style=colour)
        between = " " if style == "wide" else "\n"
        row_share = percent(share, unit="%")
        return Text.assemble(
            (str(count), colour), (f"{between}{row_share:>4}", "" if i == j else colour.removeprefix("bold "))
        )

    def _pairs(self, confusion: Confusion) -> Iterable[RenderableType]:
        pairs = confusion.confused()
        if not pairs:
            return
        longest = min(20, (self._width - 26) // 2)
        table = _table("true", self._cut(f"{self._arrow} predicted", longest), "samples", "of the class")
        for i, j in pairs[:_MOST_PAIRS]:
            names = [Text(self._cut(confusion.names[k], longest)) for k in (i, j)]
            table.add_row(*names, str(confusion.counts[i, j]), percent(float(confusion.shares[i, j])))
        shown, errors = min(len(pairs), _MOST_PAIRS), confusion.n - confusion.correct
        yield Text(f"most confused: {shown} of {len(pairs)} pairs of classes, with {errors} errors in all")
        yield table
        recall = confusion.recall
        worst = [int(k) for k in np.argsort(np.where(np.isnan(recall), np.inf, recall), kind="stable")[:6]]
        texts = [f"{confusion.names[k]} {percent(recall[k])}" for k in worst if recall[k] < 1]
        if texts:
            yield Text(f"least recognised: {', '.join(texts)}")

    def _labels(self, labels: Labels) -> Iterable[RenderableType]:
        order = labels.worst()
        some = len(order) > _MOST_ROWS
        rows = order[:_MOST_ROWS] if some else list(range(len(order)))
        what = f"the {_MOST_ROWS} of {len(order)} labels with the lowest F1" if some else f"{len(order)} labels"
        yield Text.assemble((f"{labels.n} test samples", "bold"), f"; {what}; predicted: probability of 50 % or more")
        table = _table("label", "present", "predicted", "precision", "recall", "F1")
        name_width = min(max(map(cell_len, labels.names)), 28)
        columns = (labels.precision, labels.recall, labels.f1)
        for k in rows:
            name, counts = (
                Text(self._cut(labels.names[k], name_width)),
                (str(labels.present[k]), str(labels.predicted[k])),
            )
            table.add_row(name, *counts, *(percent(values[k]) for values in columns))
        table.add_row("mean", "", "", *(percent(_mean(values)) for values in columns), style="bold")
        yield table

    def _values(self, values: Values) -> Iterable[RenderableType]:
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
            table.add_row(Text(self._cut(number.name, 28)), str(len(number.true)), *cells)
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


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    table.add_column(first, style="cyan", no_wrap=True)
    for name in others:
        table.add_column(name, justify="left" if " predicted" in name else "right", no_wrap=True)
    return table
