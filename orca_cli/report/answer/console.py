"""A run's answer on a terminal: as wide as there is room for, and readable without colours and beyond ASCII."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from orca_cli.report.answer.numbers import Answer, Confusion, Labels, Number, Values, percent

_LONGEST_NAME = 16
_LEAST_OF_A_NAME = 6  # characters that a name above a column is cut to
_MOST_IN_MATRIX = 30
_MOST_TALL = 12  # classes whose matrix may take two lines each
_MOST_PAIRS = 12
_LEAST_BAR = 8  # characters
_MOST_LABELS = 20
_MOST_NUMBERS = 20
_MOST_PLOTS = 4
_PLOT = (44, 20)  # columns and rows
_DENSITY = ".oO@"
_GAP = 2


@dataclass(frozen=True)
class Picture:
    """An answer as a Rich renderable.

    Args:
        answer: what to draw.
        note: a last line, such as where the same is as a file.
    """

    answer: Answer
    note: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw within the width of the console."""
        drawer = _Drawer(max(options.max_width, 40), options.ascii_only)
        yield from drawer.draw(self.answer)
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


class _Drawer:
    """Draws for one width.

    Args:
        width: in characters.
        ascii_only: whether the terminal has no others.
    """

    def __init__(self, width: int, ascii_only: bool) -> None:
        self._width = width
        self._dots, self._none, self._bar = ("..", ".", "#") if ascii_only else ("…", "·", "█")
        self._arrow = "->" if ascii_only else "→"

    def draw(self, answer: Answer) -> Iterable[RenderableType]:
        if isinstance(answer, Confusion):
            return self._confusion(answer)
        return self._labels(answer) if isinstance(answer, Labels) else self._values(answer)

    def _cut(self, text: str, width: int) -> str:
        if cell_len(text) <= width:
            return text
        return set_cell_size(text, max(width - len(self._dots), 0)).rstrip() + self._dots

    # Classes

    def _confusion(self, found: Confusion) -> Iterable[RenderableType]:
        right = f"{found.correct} of {found.n} test samples right ({percent(found.correct / max(found.n, 1), 2)})"
        layout = self._layout(found)
        if layout is None:
            yield Text(right, style="bold")
            yield from self._pairs(found)
        else:
            cells = "counts" if layout.style == "plain" else "counts and their share of the row"
            yield Text.assemble((right, "bold"), f"; rows: true class, columns: predicted; {cells}")
            yield self._matrix(found, layout)
        if missing := [name for name, row in zip(found.names, found.counts, strict=True) if not row.any()]:
            yield Text(f"no test sample of {self._listed(missing)}")

    def _layout(self, found: Confusion) -> _Matrix | None:
        """Return the most telling layout that fits; None where none does."""
        names, k = found.names, len(found.names)
        if k > _MOST_IN_MATRIX:
            return None
        digits = len(str(found.counts.max(initial=0)))
        needs: dict[Style, int] = {"wide": digits + 5, "tall": max(digits, 4), "plain": max(digits, 2)}
        longest = max(map(cell_len, names))
        for style, need in needs.items():
            if style == "tall" and k > _MOST_TALL:
                continue
            for numbered, gap in itertools.product((False, True), (_GAP, 1)):
                if style == "wide" and gap < _GAP:
                    continue  # pairs of numbers have to stand apart
                # beside the cells: the class, the number of samples, the recall
                beside = self._first(names, numbered) + gap + len(str(found.n)) + gap + len("recall")
                room = (self._width - beside) // k - gap
                width = min(max(need, longest), room, _LONGEST_NAME)
                heads = [self._cut(name, width) for name in names]
                if room < need:
                    continue
                if numbered:
                    return _Matrix(style, max(need, len(str(k - 1))), [str(i) for i in range(k)], gap)
                if longest <= width or (width >= _LEAST_OF_A_NAME and len(set(heads)) == k):
                    return _Matrix(style, width, heads, gap)
        return None

    def _first(self, names: Sequence[str], numbered: bool) -> int:
        number = len(str(len(names))) + 1 if numbered else 0
        return max(len("precision"), number + min(max(map(cell_len, names)), _LONGEST_NAME))

    def _matrix(self, found: Confusion, layout: _Matrix) -> Table:
        k = len(found.names)
        table = Table(
            box=None, pad_edge=False, padding=(0, layout.gap, 0, 0), header_style="bold", collapse_padding=True
        )
        table.add_column("true", style="cyan", no_wrap=True)
        for head in layout.heads:
            table.add_column(Text(head), justify="right", min_width=layout.width, no_wrap=True)
        table.add_column("n", justify="right", no_wrap=True)
        table.add_column("recall", justify="right", no_wrap=True)
        for i, name in enumerate(found.names):
            shown = self._cut(name, _LONGEST_NAME)
            first = f"{i:>{len(str(k - 1))}} {shown}" if layout.numbered and name != str(i) else shown
            cells = [self._cell(found, i, j, layout.style) for j in range(k)]
            total = Text(str(found.counts[i].sum()))
            table.add_row(Text(first), *cells, total, Text(percent(found.recall[i])))
        narrow = layout.style != "wide"
        precision = [Text(percent(value, unit="" if narrow else " %"), style="dim") for value in found.precision]
        table.add_row(Text("precision"), *precision, Text(""), Text(""))
        return table

    def _cell(self, found: Confusion, i: int, j: int, style: Style) -> Text:
        count, share = int(found.counts[i, j]), float(found.shares[i, j])
        if not count:
            return Text(self._none, style="dim")
        colour = "bold green" if i == j else "bold red" if share >= 0.1 else "red"
        if style == "plain":
            return Text(str(count), style=colour)
        between = " " if style == "wide" else "\n"
        of_row = percent(share, unit="%")
        return Text.assemble(
            (str(count), colour), (f"{between}{of_row:>4}", "" if i == j else colour.removeprefix("bold "))
        )

    def _pairs(self, found: Confusion) -> Iterable[RenderableType]:
        pairs = found.confused()
        errors = found.n - found.correct
        if not pairs:
            return
        longest = min(20, (self._width - 26) // 2)
        room = self._width - 2 * longest - 30  # for bars
        table = _table("true", self._cut(f"{self._arrow} predicted", longest), "samples", "of the class")
        if room >= _LEAST_BAR:
            table.add_column("", no_wrap=True)
        for i, j in pairs[:_MOST_PAIRS]:
            names = [Text(self._cut(found.names[k], longest)) for k in (i, j)]
            share = float(found.shares[i, j])
            bars = [self._bars(share, room)] if room >= _LEAST_BAR else []
            table.add_row(*names, str(found.counts[i, j]), percent(share), *bars)
        shown = min(len(pairs), _MOST_PAIRS)
        yield Text(f"most confused: {shown} of {len(pairs)} pairs of classes, with {errors} errors in all")
        yield table
        recall = found.recall
        worst = [int(k) for k in np.argsort(np.where(np.isnan(recall), np.inf, recall), kind="stable")[:6]]
        texts = [f"{found.names[k]} {percent(recall[k])}" for k in worst if recall[k] < 1]
        if texts:
            yield Text(f"least recognised: {', '.join(texts)}")

    # Labels

    def _labels(self, found: Labels) -> Iterable[RenderableType]:
        order = found.worst()
        some = len(order) > _MOST_LABELS
        rows = order[:_MOST_LABELS] if some else list(range(len(order)))
        what = f"the {_MOST_LABELS} of {len(order)} labels with the lowest F1" if some else f"{len(order)} labels"
        yield Text.assemble((f"{found.n} test samples", "bold"), f"; {what}; predicted: probability of 50 % or more")
        table = _table("label", "present", "predicted", "precision", "recall", "F1", "")
        name_width = min(max(map(cell_len, found.names)), 28)
        room = max(min(self._width - name_width - 7 - 9 - 9 - 7 - 7 - 6 * _GAP, 40), 8)
        for k in rows:
            measures = [percent(values[k]) for values in (found.precision, found.recall, found.f1)]
            f1 = float(np.nan_to_num(found.f1[k]))
            name, counts = Text(self._cut(found.names[k], name_width)), (str(found.present[k]), str(found.predicted[k]))
            table.add_row(name, *counts, *measures, self._bars(f1, room))
        means = [percent(_mean(values)) for values in (found.precision, found.recall, found.f1)]
        table.add_row("mean", "", "", *means, "", style="bold")
        yield table

    def _bars(self, share: float, width: int) -> str:
        return self._bar * max(round(share * width), int(share > 0))

    # Numbers

    def _values(self, found: Values) -> Iterable[RenderableType]:
        numbers = found.numbers
        if len(numbers) == 1:
            (number,) = numbers
            texts = [f"{name} {_short(value)}" for name, value in _measures(number)]
            title = f"{len(number.true)} test samples" + (f", {number.name}" if number.name else "")
            yield Text.assemble((title, "bold"), f"; {', '.join(texts)}")
            yield self._plot(number)
            return
        table = _table("number", "n", "R2", "RMSE", "MAE", "correlation")
        for number in numbers[:_MOST_NUMBERS]:
            cells = [_short(value) for _, value in _measures(number)]
            table.add_row(Text(self._cut(number.name, 28)), str(len(number.true)), *cells)
        yield Text(f"{len(numbers)} numbers of each test sample", style="bold")
        yield table
        if len(numbers) > _MOST_NUMBERS:
            yield Text(f"... and {len(numbers) - _MOST_NUMBERS} more")
        plots = [self._plot(number) for number in numbers[:_MOST_PLOTS]]
        beside = max(1, self._width // (_PLOT[0] + 14))
        for start in range(0, len(plots), beside):
            grid = Table.grid(padding=(0, 2, 0, 0))
            grid.add_row(*plots[start : start + beside])
            yield grid

    def _plot(self, number: Number) -> RenderableType:
        """Return predicted against true values as characters, the denser the more samples; / is where they are equal."""
        columns, rows = min(_PLOT[0], self._width - 14), _PLOT[1]
        low, high = number.limits
        counts = np.zeros((rows, columns), int)
        places = [
            np.clip(((values - low) / (high - low) * size).astype(int), 0, size - 1)
            for values, size in ((number.predicted.clip(low, high), rows), (number.true, columns))
        ]
        np.add.at(counts, tuple(places), 1)
        steps = _steps(int(counts.max(initial=0)))
        labels = {rows - 1: f"{high:.3g}", rows // 2: f"{(low + high) / 2:.3g}", 0: f"{low:.3g}"}
        margin = max(map(len, labels.values()))
        lines = [Text(f"predicted{f' {number.name}' if number.name else ''}"[: columns + margin])]
        for row in reversed(range(rows)):
            line = Text(f"{labels.get(row, ''):>{margin}} |")
            for column in range(columns):
                count = counts[row, column]
                if count:
                    line.append(_DENSITY[int(np.searchsorted(steps, count, side="right")) - 1], style="bold cyan")
                else:
                    # A row is as high as several columns are wide.
                    on_line = int((row + 0.5) / rows * columns) == column or int(row / rows * columns) == column
                    line.append("/" if on_line else " ", style="dim")
            lines.append(line)
        lines.append(Text(f"{'':>{margin}} +{'-' * columns}"))
        middle = f"{low:.3g}{labels[rows // 2]:^{columns - 2 * margin}}"
        lines.append(Text(f"{'':>{margin}}  {middle}{high:.3g}".rstrip() + "  true"))
        lines.append(Text(f"{'':>{margin}}  {_legend(steps)}", style="dim"))
        beyond = int(((number.predicted < low) | (number.predicted > high)).sum())
        if beyond:
            lines.append(Text(f"{'':>{margin}}  {beyond} far off, drawn at the border", style="dim"))
        return Group(*lines)

    def _listed(self, names: Sequence[str]) -> str:
        shown = ", ".join(self._cut(name, 28) for name in names[:8])
        return f"{shown} and {len(names) - 8} others" if len(names) > 8 else shown


def _steps(most: int) -> list[int]:
    """Return the smallest counts that each sign of `_DENSITY` stands for; fewer signs where counts are low."""
    found = sorted({max(1, round(most ** (i / len(_DENSITY)))) for i in range(len(_DENSITY))})
    return found[: len(_DENSITY)]


def _legend(steps: list[int]) -> str:
    ends = [*(step - 1 for step in steps[1:]), None]
    texts = [
        f"{sign} {start}" + ("" if end == start else "+" if end is None else f"-{end}")
        for sign, start, end in zip(_DENSITY, steps, ends, strict=False)
    ]
    return f"samples: {'  '.join(texts)}   / predicted = true"


def _measures(number: Number) -> list[tuple[str, float]]:
    return [("R2", number.r2), ("RMSE", number.rmse), ("MAE", number.mae), ("correlation", number.correlation)]


def _short(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4g}"


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    table.add_column(first, style="cyan", no_wrap=True)
    for name in others:
        table.add_column(name, justify="left" if not name or " predicted" in name else "right", no_wrap=True)
    return table
