"""Figures as SVG: self-contained, without scripts, for light and dark ground, readable without colour.

All are as wide as a phone's column, so that their texts need no scaling there; a page sets them side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from rich.cells import cell_len

from orca_cli.report.figures.charts import LOOKS, Bars, Chart, Dots, Lines, Matrix, Series, bounds, log_ticks, ticks
from orca_cli.report.figures.strokes import CHARACTER, Drawing, cut

WIDTH = 360
_PLOT_HEIGHT = 170
_ROW = 34
_MOST_ROWS = 40
_MOST_POINTS = 60  # of one line
_SHADES = (1, 0.62, 0.36, 0.2)  # of the parts of a bar
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
_LEFT, _RIGHT = 46, 12


def draw(chart: Chart, *, standalone: bool = True) -> str:
    """Return a figure as SVG; as a file of its own with style sheet and title, or as a part of a page that has them."""
    drawing = _Drawing()
    if standalone:
        drawing.text(8, 16, cut(chart.title, 52), "h")
        drawing.y = 26
    {Lines: _lines, Dots: _dots, Bars: _bars, Matrix: _matrix}[type(chart)](drawing, chart)  # type: ignore[operator]
    label = f"{chart.title}. {chart.note}".removesuffix(". ")
    return drawing.svg(label, WIDTH, math.ceil(drawing.y + 4), standalone=standalone)


class _Drawing(Drawing):
    """A drawing that grows downwards."""

    y = 6.0  # where the next thing begins

    def legend(self, series: Iterable[Series]) -> None:
        """Add the name of each line with its dash and marker; short names share a row."""
        x, row = 8.0, 0
        for one in series:
            shown = cut(one.name, 50)
            width = 28 + 1.08 * CHARACTER * cell_len(shown) + 12
            if row and x + width > WIDTH:
                x, row = 8.0, 0
                self.y += 16
            self.add(f'<path class="l c{one.look % LOOKS}" d="M{x:.4g} {self.y + 6:.4g}h22"{_dash(one.look)}/>')
            self.add(_marker(x + 11, self.y + 6, one.look))
            self.text(x + 28, self.y + 10, shown)
            x += width
            row += 1
        self.y += 18 if row else 0

    def row(self, label: str, text: str, y: float) -> None:
        """Add the label of a row, and a text at its other end."""
        room = int((WIDTH - 28) / CHARACTER) - cell_len(text) - 2
        self.text(14, y + 12, cut(label, max(room, 8)), "t")
        if text:
            self.text(WIDTH - 14, y + 12, text, "f t", "end")

    def rest(self, count: int) -> None:
        """Say how many rows there are, if not all are drawn."""
        if count > _MOST_ROWS:
            self.text(14, self.y + 10, f"the first {_MOST_ROWS} of {count} rows", "f")
            self.y += 16


def _lines(drawing: _Drawing, chart: Lines) -> None:
    drawn = [replace(one, points=_thinned(one.points)) for one in chart.series]
    levels = [one.level for one in drawn if one.level is not None]
    ys = [y for one in drawn for point in one.points for y in point[1:]]
    if chart.is_log:
        ys = [math.log10(y) for y in (*ys, *(level for level in levels if level > 0))]
    else:
        ys += levels
    low, high = bounds(ys)
    left, right = bounds((point[0] for one in drawn for point in one.points), margin=0.02)
    top, bottom = drawing.y + 16, drawing.y + 16 + _PLOT_HEIGHT

    def across(x: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (x - left) / (right - left)

    def down(y: float) -> float:
        value = math.log10(max(y, 1e-300)) if chart.is_log else y
        return min(max(bottom - _PLOT_HEIGHT * (value - low) / (high - low), top - 2), bottom + 2)

    drawing.text(_LEFT, top - 6, chart.y + (", log scale" if chart.is_log else ""), "f")
    for value in log_ticks(10**low, 10**high) if chart.is_log else ticks(low, high):
        drawing.line(_LEFT, down(value), WIDTH - _RIGHT, down(value), "r")
        drawing.text(_LEFT - 5, down(value) + 4, _short(value), "f", "end")
    for value in ticks(left, right, 5):
        drawing.text(across(value), bottom + 14, _short(value), "f", "middle")
    drawing.text(WIDTH - _RIGHT, bottom + 28, chart.x, "f", "end")
    for one in drawn:
        _series(drawing, one, chart, across, down)
    drawing.y = bottom + 34
    drawing.legend(drawn)


def _series(
    drawing: _Drawing, one: Series, chart: Lines, across: Callable[[float], float], down: Callable[[float], float]
) -> None:
    look, points = f"c{one.look % LOOKS}", [(across(x), down(y)) for x, y, _, _ in one.points]
    if any(low < high for _, _, low, high in one.points):
        edge = [(across(x), down(high)) for x, _, _, high in one.points]
        edge += [(across(x), down(low)) for x, _, low, _ in reversed(one.points)]
        drawing.add(f'<path class="a {look}" d="{_path(edge)}Z"/>')
    if one.level is not None:
        drawing.line(_LEFT, down(one.level), WIDTH - _RIGHT, down(one.level), f"v {look}")
    if chart.is_step:
        steps = zip(points, points[1:], strict=False)
        points = [corner for a, b in steps for corner in (a, (b[0], a[1]))] + points[-1:]
    drawing.add(f'<path class="l {look}" d="{_path(points)}"{_dash(one.look)}/>')
    drawing.add(*(_marker(x, y, one.look) for x, y in points[-1:]))
    if one.chosen is not None and one.points and one.chosen < one.points[-1][0]:
        x, y, _, _ = min(one.points, key=lambda point: abs(point[0] - (one.chosen or 0)))
        drawing.add(f'<circle class="l {look}" cx="{across(x):.4g}" cy="{down(y):.4g}" r="6"/>')


def _dots(drawing: _Drawing, chart: Dots) -> None:
    rows = chart.rows[:_MOST_ROWS]
    values = [value for dot in rows for value in (dot.value, dot.low, dot.high) if value is not None]
    low, high = bounds([*values, *([] if chart.line is None else [chart.line])])
    top, left, right = drawing.y + 8, 14, WIDTH - 14

    def across(x: float) -> float:
        return left + (right - left) * (x - low) / (high - low)

    bottom = top + _ROW * len(rows)
    for value in ticks(low, high, 5):
        drawing.line(across(value), top, across(value), bottom, "r")
        drawing.text(across(value), bottom + 14, _short(value), "f", "middle")
    if chart.line is not None:
        drawing.line(across(chart.line), top, across(chart.line), bottom, "z")
    for place, dot in enumerate(rows):
        y = top + _ROW * place
        drawing.row(dot.label, dot.text, y)
        if dot.low is not None and dot.high is not None:
            drawing.add(
                f'<path class="l c{dot.look % LOOKS}" d="M{across(dot.low):.4g} {y + 24:.4g}H{across(dot.high):.4g}"/>'
            )
        drawing.add(_marker(across(dot.value), y + 24, dot.look))
    drawing.text(right, bottom + 28, chart.x, "f", "end")
    drawing.y = bottom + 34
    drawing.rest(len(chart.rows))


def _bars(drawing: _Drawing, chart: Bars) -> None:
    rows = chart.rows[:_MOST_ROWS]
    longest = max((sum(lengths) for _, lengths, _ in rows), default=0) or 1.0
    top, room = drawing.y, WIDTH - 28
    for place, (label, lengths, text) in enumerate(rows):
        y, x = top + _ROW * place, 14.0
        drawing.row(label, text, y)
        for part, length in enumerate(lengths):
            width = room * length / longest
            if width > 0.2:
                drawing.rect(x, y + 18, max(width - 0.6, 0.4), 11, part % LOOKS, _SHADES[part % 4])
            x += width
    bottom = top + _ROW * len(rows)
    for value in ticks(0, longest, 4):
        drawing.text(14 + room * value / longest, bottom + 12, _short(value), "f", "middle" if value else "start")
    drawing.text(WIDTH - 14, bottom + 26, chart.x, "f", "end")
    drawing.y = bottom + 32
    x = 8.0
    for part, name in enumerate(chart.parts):
        drawing.rect(x, drawing.y, 12, 11, part % LOOKS, _SHADES[part % 4])
        drawing.text(x + 16, drawing.y + 10, name)
        x += 30 + CHARACTER * len(name)
    drawing.y += 18
    drawing.rest(len(chart.rows))


def _matrix(drawing: _Drawing, chart: Matrix) -> None:
    """Draw numbered rows and columns, whose names are below: names beside the cells would leave no room for these."""
    count = max(len(chart.columns), 1)
    side, top = (WIDTH - 40) / count, drawing.y + 18
    height = min(side, 38)
    for j in range(len(chart.columns)):
        drawing.text(32 + (j + 0.5) * side, top - 5, str(j + 1), "f", "middle")
    for i, (row, shades) in enumerate(zip(chart.texts, chart.shades, strict=True)):
        y = top + i * height
        drawing.text(26, y + height / 2 + 4, str(i + 1), "f", "end")
        for j, (text, shade) in enumerate(zip(row, shades, strict=True)):
            x, opacity = 32 + j * side, 0.0 if shade is None else 0.08 + 0.55 * min(abs(shade), 1)
            drawing.rect(x, y, side - 1, height - 1, 0 if (shade or 0) >= 0 else 1, opacity)
            if CHARACTER * len(text) < side - 2:
                drawing.text(x + side / 2, y + height / 2 + 4, text, "", "middle")
    drawing.y = top + len(chart.rows) * height + 8
    for i, name in enumerate(chart.rows):
        drawing.text(26, drawing.y + 10, str(i + 1), "f", "end")
        drawing.text(32, drawing.y + 10, cut(name, 50))
        drawing.y += 16


def _marker(x: float, y: float, look: int) -> str:
    """Return one of eight shapes."""
    shape = look % LOOKS
    if shape == 0:
        return f'<circle class="m c{shape}" cx="{x:.4g}" cy="{y:.4g}" r="3.6"/>'
    outline = (
        "", "h3.2v-6.4h-6.4v6.4z", "h3.8l-3.8-7l-3.8 7z", "l3.8-3.8l-3.8-3.8l-3.8 3.8z", "h-.6l-3.6-6.6h8.2l-3.6 6.6z",
        "h1.3v-2.4h2.4v-2.6h-2.4v-2.4h-2.6v2.4h-2.4v2.6h2.4v2.4z", "h4v-2.4h-8v2.4z", "h1.2v-8h-2.4v8z",
    )[shape]  # fmt: skip
    lift = {3: 3.8, 6: 1.2, 7: 4.0, 5: 3.7}.get(shape, 3.2)
    return f'<path class="m c{shape}" d="M{x:.4g} {y + lift:.4g}{outline}"/>'


def _dash(look: int) -> str:
    """Return the attribute that dashes a line; empty for a solid one."""
    pattern = _DASHES[(look + look // LOOKS) % len(_DASHES)]
    return f' stroke-dasharray="{pattern}"' if pattern else ""


def _path(points: Iterable[tuple[float, float]]) -> str:
    """Return the path through points, each as the distance from the one before, in tenths of a pixel."""
    parts: list[str] = []
    last = (0, 0)
    for x, y in points:
        here = (round(10 * x), round(10 * y))
        if not parts:
            parts.append(f"M{_tenth(here[0])} {_tenth(here[1])}")
        elif here != last:
            lead = "l" if len(parts) == 1 else " "
            parts.append(f"{lead}{_tenth(here[0] - last[0])} {_tenth(here[1] - last[1])}")
        last = here
    return "".join(parts).replace(" -", "-")


def _tenth(value: int) -> str:
    whole, rest = divmod(abs(value), 10)
    text = f"{whole or ''}.{rest}" if rest else str(whole)
    return f"-{text}" if value < 0 and text != "0" else text


def _thinned(points: tuple[tuple[float, float, float, float], ...]) -> tuple[tuple[float, float, float, float], ...]:
    """Return at most `_MOST_POINTS` points, evenly spaced, including the first and the last."""
    last = len(points) - 1
    if last < _MOST_POINTS:
        return points
    return tuple(points[round(place * last / (_MOST_POINTS - 1))] for place in range(_MOST_POINTS))


def _short(value: float) -> str:
    """Return a number in about three digits."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
