"""Figures as SVG: self-contained, without scripts, for light and dark ground, readable without colour.

All are as wide as a phone's column, so that their texts need no scaling there; a page sets them side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from rich.cells import cell_len

from orca_cli.report.figures.charts import LOOKS, Bars, Chart, Dots, Lines, Matrix, Series, bounds, log_ticks, ticks
from orca_cli.report.figures.strokes import cut, dash, escaped, marker, path, short, style, thinned

WIDTH = 360
_CHARACTER = 6.2  # width of one at 11 px, about
_PLOT_HEIGHT = 170
_ROW = 34
_MOST_ROWS = 40
_MOST_POINTS = 60  # of one line
_SHADES = (1, 0.62, 0.36, 0.2)  # of the parts of a bar
_LEFT, _RIGHT = 46, 12


def draw(chart: Chart, *, standalone: bool = True) -> str:
    """Return a figure as SVG; as a file of its own with style sheet and title, or as a part of a page that has them."""
    drawing = _Drawing(chart)
    if standalone:
        drawing.text(8, 16, cut(chart.title, 52), "h")
        drawing.y = 26
    {Lines: _lines, Dots: _dots, Bars: _bars, Matrix: _matrix}[type(chart)](drawing, chart)  # type: ignore[operator]
    return drawing.finished(standalone)


def sparkline(values: Sequence[float], title: str) -> str:
    """Return a small curve for a cell of a table; empty for fewer than two values."""
    if len(values) < 2:
        return ""
    values = thinned(list(values), 30)
    low, high = min(values), max(values)
    points = (
        (72 * place / (len(values) - 1) + 1, 15 - 13 * (value - low) / ((high - low) or 1))
        for place, value in enumerate(values)
    )
    return (
        f'<svg class="chart spark" width="74" height="17" viewBox="0 0 74 17" role="img"><title>{escaped(title)}</title>'
        f'<path class="l c0" d="{path(points)}"/></svg>'
    )


class _Drawing:
    """What is drawn so far, and how far down it reaches."""

    def __init__(self, chart: Chart) -> None:
        self.chart = chart
        self.parts: list[str] = []
        self.y = 6.0  # where the next thing begins

    def add(self, *parts: str) -> None:
        self.parts += parts

    def text(self, x: float, y: float, text: str, look: str = "", anchor: str = "") -> None:
        look = f' class="{look}"' if look else ""
        anchor = f' text-anchor="{anchor}"' if anchor else ""
        self.add(f'<text x="{x:.4g}" y="{y:.4g}"{look}{anchor}>{escaped(text)}</text>')

    def line(self, x: float, y: float, to_x: float, to_y: float, look: str) -> None:
        self.add(f'<path class="{look}" d="M{x:.4g} {y:.4g}L{to_x:.4g} {to_y:.4g}"/>')

    def finished(self, standalone: bool) -> str:
        height = math.ceil(self.y + 4)
        name = escaped(f"{self.chart.title}. {self.chart.note}".removesuffix(". "))
        space = ' xmlns="http://www.w3.org/2000/svg"' if standalone else ""
        size = f' width="{WIDTH}" height="{height}"' if standalone else ""
        head = f'<svg{space} class="chart"{size} viewBox="0 0 {WIDTH} {height}" role="img"><title>{name}</title>'
        sheet = [f"<style>{style()}</style>", f'<rect class="g" width="{WIDTH}" height="{height}"/>']
        return "".join([head, *(sheet if standalone else []), *self.parts, "</svg>"]) + ("\n" if standalone else "")

    def legend(self, entries: Iterable[tuple[str, int, bool]]) -> None:
        """Add a line for each name: a swatch with its dash or marker; short names share a line."""
        x, row = 8.0, 0
        for name, look, is_line in entries:
            shown = cut(name, 50)
            width = 28 + 1.08 * _CHARACTER * cell_len(shown) + 12
            if row and x + width > WIDTH:
                x, row = 8.0, 0
                self.y += 16
            if is_line:
                self.add(f'<path class="l c{look % LOOKS}" d="M{x:.4g} {self.y + 6:.4g}h22"{dash(look)}/>')
            self.add(marker(x + 11, self.y + 6, look))
            self.text(x + 28, self.y + 10, shown)
            x += width
            row += 1
        self.y += 18 if row else 0


def _lines(drawing: _Drawing, chart: Lines) -> None:
    drawn = [_simplified(series) for series in chart.series]
    levels = [one.level for one in drawn if one.level is not None]
    ys = [y for one in drawn for point in one.points for y in point[1:]]
    is_log = chart.is_log and min(ys, default=0) > 0
    if is_log:
        levels = [level for level in levels if level > 0]
        ys = [math.log10(y) for y in (*ys, *levels)]
    else:
        ys += levels
    low, high = bounds(ys)
    left, right = bounds((point[0] for one in drawn for point in one.points), margin=0.02)
    top, bottom = drawing.y + 16, drawing.y + 16 + _PLOT_HEIGHT

    def across(x: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (x - left) / (right - left)

    def down(y: float) -> float:
        value = math.log10(max(y, 1e-300)) if is_log else y
        return min(max(bottom - _PLOT_HEIGHT * (value - low) / (high - low), top - 2), bottom + 2)

    drawing.text(_LEFT, top - 6, chart.y + (", log scale" if is_log else ""), "f")
    for value in log_ticks(10**low, 10**high) if is_log else ticks(low, high):
        drawing.line(_LEFT, down(value), WIDTH - _RIGHT, down(value), "r")
        drawing.text(_LEFT - 5, down(value) + 4, short(value), "f", "end")
    for value in ticks(left, right, 5):
        drawing.text(across(value), bottom + 14, short(value), "f", "middle")
    drawing.text(WIDTH - _RIGHT, bottom + 28, chart.x, "f", "end")
    for one in drawn:
        _series(drawing, one, chart, across, down)
    drawing.y = bottom + 34
    drawing.legend((one.name, one.look, True) for one in drawn)


def _series(
    drawing: _Drawing, one: Series, chart: Lines, across: Callable[[float], float], down: Callable[[float], float]
) -> None:
    colour, points = f"c{one.look % LOOKS}", [(across(x), down(y)) for x, y, _, _ in one.points]
    tip = f"<title>{escaped(_tip(one, chart))}</title>"
    drawing.add(f'<g class="{colour}">{tip}')
    if any(low < high for _, _, low, high in one.points):
        edge = [(across(x), down(high)) for x, _, _, high in one.points]
        edge += [(across(x), down(low)) for x, _, low, _ in reversed(one.points)]
        drawing.add(f'<path class="a" d="{path(edge)}Z"/>')
    if one.level is not None:
        drawing.line(_LEFT, down(one.level), WIDTH - _RIGHT, down(one.level), "v")
    if chart.is_step:
        points = [corner for a, b in zip(points, points[1:], strict=False) for corner in (a, (b[0], a[1]))] + points[
            -1:
        ]
    drawing.add(f'<path class="l" d="{path(points)}"{dash(one.look)}/>')
    marks = points if one.marked or len(points) == 1 else points[-1:]
    drawing.add(*(marker(x, y, one.look) for x, y in marks[:: max(1, len(marks) // 12)]))
    if one.chosen is not None and one.points and one.chosen < one.points[-1][0]:
        x, y, _, _ = min(one.points, key=lambda point: abs(point[0] - (one.chosen or 0)))
        drawing.add(
            f'<circle class="l" cx="{across(x):.4g}" cy="{down(y):.4g}" r="6"><title>chosen: {one.chosen:g}</title></circle>'
        )
    drawing.add("</g>")


def _dots(drawing: _Drawing, chart: Dots) -> None:
    rows = chart.rows[:_MOST_ROWS]
    values = [
        value for _, dots in rows for dot in dots for value in (dot.value, dot.low, dot.high) if value is not None
    ]
    low, high = bounds([*values, *([] if chart.line is None else [chart.line])])
    top, left, right = drawing.y + 8, 14, WIDTH - 14

    def across(x: float) -> float:
        return left + (right - left) * (x - low) / (high - low)

    bottom = top + _ROW * len(rows)
    for value in ticks(low, high, 5):
        drawing.line(across(value), top, across(value), bottom, "r")
        drawing.text(across(value), bottom + 14, short(value), "f", "middle")
    if chart.line is not None:
        drawing.line(across(chart.line), top, across(chart.line), bottom, "z")
    for place, (label, dots) in enumerate(rows):
        y = top + _ROW * place
        _row(drawing, label, dots[-1].text if dots else "", y)
        for dot in dots:
            tip = f"{label}: {dot.name} {dot.text or short(dot.value)}"
            drawing.add(f'<g class="c{dot.look % LOOKS}"><title>{escaped(tip)}</title>')
            if dot.low is not None and dot.high is not None:
                drawing.add(f'<path class="l" d="M{across(dot.low):.4g} {y + 24:.4g}H{across(dot.high):.4g}"/>')
            drawing.add(marker(across(dot.value), y + 24, dot.look), "</g>")
    drawing.text(right, bottom + 28, chart.x, "f", "end")
    drawing.y = bottom + 34
    drawing.legend((name, look, False) for name, look in chart.legend)
    _rest(drawing, len(chart.rows))


def _bars(drawing: _Drawing, chart: Bars) -> None:
    rows = chart.rows[:_MOST_ROWS]
    longest = max((sum(lengths) for _, lengths, _ in rows), default=0) or 1.0
    top, room = drawing.y, WIDTH - 28
    for place, (label, lengths, text) in enumerate(rows):
        y, x = top + _ROW * place, 14.0
        _row(drawing, label, text, y)
        for part, (name, length) in enumerate(zip(chart.parts, lengths, strict=True)):
            width = room * length / longest
            tip = f"{label}: {name} {short(length)} ({chart.x})"
            if width > 0.2:
                drawing.add(
                    f'<rect class="b c{part % LOOKS}" x="{x:.4g}" y="{y + 18:.4g}" width="{max(width - 0.6, 0.4):.4g}"'
                    f' height="11" fill-opacity="{_SHADES[part % 4]}"><title>{escaped(tip)}</title></rect>'
                )
            x += width
    bottom = top + _ROW * len(rows)
    for value in ticks(0, longest, 4):
        drawing.text(14 + room * value / longest, bottom + 12, short(value), "f", "middle" if value else "start")
    drawing.text(WIDTH - 14, bottom + 26, chart.x, "f", "end")
    drawing.y = bottom + 32
    x = 8.0
    for part, name in enumerate(chart.parts):
        drawing.add(
            f'<rect class="b c{part % LOOKS}" x="{x:.4g}" y="{drawing.y:.4g}" width="12" height="11"'
            f' fill-opacity="{_SHADES[part % 4]}"/>'
        )
        drawing.text(x + 16, drawing.y + 10, name)
        x += 30 + _CHARACTER * len(name)
    drawing.y += 18
    _rest(drawing, len(chart.rows))


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
            x, look = 32 + j * side, "c0" if (shade or 0) >= 0 else "c1"
            tip = escaped(f"{chart.rows[i]} against {chart.columns[j]}: {text or 'nothing to compare'}")
            opacity = 0.0 if shade is None else 0.08 + 0.55 * min(abs(shade), 1)
            drawing.add(
                f'<rect class="b {look}" x="{x:.4g}" y="{y:.4g}" width="{side - 1:.4g}" height="{height - 1:.4g}"'
                f' fill-opacity="{opacity:.2f}"><title>{tip}</title></rect>'
            )
            if _CHARACTER * len(text) < side - 2:
                drawing.text(x + side / 2, y + height / 2 + 4, text, "", "middle")
    drawing.y = top + len(chart.rows) * height + 8
    for i, name in enumerate(chart.rows):
        drawing.text(26, drawing.y + 10, str(i + 1), "f", "end")
        drawing.text(32, drawing.y + 10, cut(name, 50))
        drawing.y += 16


def _row(drawing: _Drawing, label: str, text: str, y: float) -> None:
    room = int((WIDTH - 28) / _CHARACTER) - cell_len(text) - 2
    drawing.text(14, y + 12, cut(label, max(room, 8)), "t")
    if text:
        drawing.text(WIDTH - 14, y + 12, text, "f t", "end")


def _rest(drawing: _Drawing, count: int) -> None:
    if count > _MOST_ROWS:
        drawing.text(14, drawing.y + 10, f"the first {_MOST_ROWS} of {count} rows", "f")
        drawing.y += 16


def _simplified(series: Series) -> Series:
    points = tuple(thinned(list(series.points), _MOST_POINTS))
    return Series(series.name, points, series.look, series.marked, series.chosen, series.level)


def _tip(one: Series, chart: Lines) -> str:
    if not one.points:
        return one.name
    (first, start, *_), (last, end, *_) = one.points[0], one.points[-1]
    level = "" if one.level is None else f"; floor {short(one.level)}"
    return f"{one.name}: {chart.y} {short(start)} at {chart.x} {short(first)}, {short(end)} at {short(last)}{level}"
