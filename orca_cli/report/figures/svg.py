"""Figures as SVG: one drawing for pages, for files, and for the picture of a run's predictions.

Self-contained, without scripts, for light and dark ground. Readable without colour: each of eight looks has a marker, and
neighbours differ in their dash. Paths are written as absolute moves and lines, which is all that `files` has to read.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from xml.sax import saxutils

from rich.cells import cell_len, set_cell_size

from orca_cli.report.figures.charts import (
    LOOKS,
    Chart,
    Dots,
    Lines,
    Matrix,
    Scatter,
    Series,
    bounds,
    log_ticks,
    ticks,
)

WIDTH = 360.0  # of a phone's column, so that texts need no scaling there
CHARACTER = 6.2  # width of one at 11 px, about
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Okabe and Ito's colours, which the colour-blind can distinguish; darker on light ground where they would be too faint.
LIGHT = ("#0072b2", "#c8500a", "#00795a", "#a8578a", "#7a6a00", "#2f8fc4", "#5b5b5b", "#8a3b12")
_DARK = ("#56b4e9", "#f0914f", "#2fc79a", "#e29bc5", "#e5d04a", "#9ad1f5", "#b9bfc6", "#d9a27a")
INK, FAINT, RULE, GROUND = "#1f2328", "#59636e", "#d4d9df", "#fff"  # on light ground
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
# Corners of the markers after the first, which is a circle.
_MARKERS: tuple[tuple[tuple[float, float], ...], ...] = (
    ((-3.2, -3.2), (3.2, -3.2), (3.2, 3.2), (-3.2, 3.2)),
    ((0, -3.8), (3.8, 3.2), (-3.8, 3.2)),
    ((0, -3.8), (3.8, 0), (0, 3.8), (-3.8, 0)),
    ((-3.8, -3.4), (3.8, -3.4), (0, 3.4)),
    ((-1.3, -3.8), (1.3, -3.8), (1.3, 3.8), (-1.3, 3.8)),
    ((-4, -1.2), (4, -1.2), (4, 1.2), (-4, 1.2)),
    ((-3.8, -2.6), (0, 0), (3.8, -2.6), (3.8, 2.6), (0, 0), (-3.8, 2.6)),
)
_PLOT_HEIGHT = 170
_ROW = 34
_MOST_ROWS = 40
_MOST_POINTS = 60  # of one line
_MOST_DRAWN = 1000  # points of a scatter that are drawn one by one; more are counted in squares
_SQUARES = 48
_LEFT, _RIGHT = 46, 12
_LONGEST_TITLE, _LONGEST_BESIDE = 52, 16  # characters: of a figure's title, of a name beside the cells of a matrix


class Drawing:
    """A drawing that grows downwards, and to the right where something does not fit.

    Classes of the style sheet: f for faint texts, h for headings, t for texts that stand out from what they cover, g for the
    ground, l for lines, v for dotted ones, r and z for rules, a, b and m for areas, c0 to c7 for the colour of a look.
    """

    def __init__(self) -> None:
        self.width, self.y = WIDTH, 6.0  # where the next thing begins
        self._parts: list[str] = []

    def text(self, x: float, y: float, text: str, look: str = "", anchor: str = "") -> None:
        """Add a text that begins at a place, or ends there (anchor end), or has its middle there."""
        look = f' class="{look}"' if look else ""
        anchor = f' text-anchor="{anchor}"' if anchor else ""
        self._parts.append(f'<text x="{x:.4g}" y="{y:.4g}"{look}{anchor}>{escaped(text)}</text>')

    def path(self, points: Iterable[tuple[float, float]], look: str, *, closed: bool = False, dash: int = 0) -> None:
        """Add the line through some points, or the area within; `dash` is a look whose dash the line has."""
        pattern = _DASHES[(dash + dash // LOOKS) % len(_DASHES)]
        dashed = f' stroke-dasharray="{pattern}"' if pattern else ""
        corners = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self._parts.append(f'<path class="{look}" d="M{corners}{"Z" * closed}"{dashed}/>')

    def rect(self, x: float, y: float, width: float, height: float, look: int, opacity: float = 1.0) -> None:
        """Add an area in the colour of a look."""
        self._parts.append(
            f'<rect class="b c{look % LOOKS}" x="{x:.4g}" y="{y:.4g}" width="{width:.4g}" height="{height:.4g}"'
            f' fill-opacity="{opacity:.2f}"/>'
        )

    def circle(self, x: float, y: float, radius: float, look: str, opacity: float = 1.0) -> None:
        """Add a circle."""
        faint = f' fill-opacity="{opacity:.2f}"' if opacity < 1 else ""
        self._parts.append(f'<circle class="{look}" cx="{x:.4g}" cy="{y:.4g}" r="{radius:g}"{faint}/>')

    def marker(self, x: float, y: float, look: int) -> None:
        """Add the marker of a look."""
        shape = look % LOOKS
        if shape == 0:
            self.circle(x, y, 3.6, "m c0")
        else:
            self.path(((x + dx, y + dy) for dx, dy in _MARKERS[shape - 1]), f"m c{shape}", closed=True)

    def svg(self, label: str, *, standalone: bool = True) -> str:
        """Return it as a file of its own with a style sheet, or as a part of a page that has one; `label`: what it shows."""
        width, height = round(self.width), round(self.y + 4)
        head = f'viewBox="0 0 {width} {height}" role="img" aria-label="{escaped(label)}">'
        if not standalone:
            return "".join([f'<svg class="chart" {head}', *self._parts, "</svg>"])
        size = f'width="{width}" height="{height}"'
        sheet = f'<style>{style()}</style><rect class="g" {size}/>'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" {size} {head}'
        return "".join([head, sheet, *self._parts, "</svg>\n"])


def style() -> str:
    """Return the style sheet of drawings; it has no custom properties, which drawing programs do not know."""
    rules = (
        "text{font-family:system-ui,sans-serif;font-size:11px}",
        ".h{font-size:12.5px;font-weight:600}",
        *(f".{look}{{fill:none}}" for look in "rzlv"),
        ".l{stroke-width:1.8;stroke-linejoin:round}",
        ".v{stroke-dasharray:1 3}",
        ".m{stroke-width:.8}",
        ".t{paint-order:stroke;stroke-width:3px;stroke-linejoin:round}",
        ".a{fill-opacity:.16}",
    )
    common = "".join(f".chart {rule}" for rule in rules)
    dark = _colours("#e6e9ed", "#a4adb7", "#3a424b", "#16191d", _DARK)
    return f"{common}{_colours(INK, FAINT, RULE, GROUND, LIGHT)}@media(prefers-color-scheme:dark){{{dark}}}"


def _colours(ink: str, faint: str, rule: str, ground: str, looks: Sequence[str]) -> str:
    filled = {"text": ink, ".f": faint, ".g": ground}
    stroked = {".m": ground, ".t": ground, ".r": rule, ".z": faint}
    rules = "".join(f".chart {name}{{fill:{colour}}}" for name, colour in filled.items())
    rules += "".join(f".chart {name}{{stroke:{colour}}}" for name, colour in stroked.items())
    for look, colour in enumerate(looks):
        lines, areas = (",".join(f".chart .c{look}.{name}" for name in names) for names in ("lv", "mba"))
        rules += f"{lines}{{stroke:{colour}}}{areas}{{fill:{colour}}}"
    return rules


def escaped(text: str) -> str:
    """Return a text escaped for XML; characters that are not allowed in it are replaced."""
    return saxutils.escape(_NOT_XML.sub("\ufffd", text), {'"': "&quot;", "'": "&#39;"})


def cut(text: str, longest: int) -> str:
    """Return a text that takes at most `longest` columns."""
    return text if cell_len(text) <= longest else f"{set_cell_size(text, longest - 1).rstrip()}\u2026"


def draw(chart: Chart, *, standalone: bool = True) -> str:
    """Return a figure as SVG; as a file of its own with style sheet and title, or as a part of a page that has them."""
    drawing = Drawing()
    if standalone:
        _add_title(drawing, cut(chart.title, _LONGEST_TITLE))
    _add(drawing, chart)
    return drawing.svg(f"{chart.title}. {chart.note}".removesuffix(". "), standalone=standalone)


def draw_all(heading: str, note: str, charts: Iterable[Chart]) -> str:
    """Return charts below each other as one SVG file; its label is the heading."""
    drawing = Drawing()
    drawing.width = max(WIDTH, 16 + 1.2 * CHARACTER * cell_len(heading), 16 + CHARACTER * cell_len(note))
    _add_title(drawing, heading)
    drawing.text(8, drawing.y + 8, note, "f")
    drawing.y += 20
    for chart in charts:
        if chart.title:
            _add_title(drawing, cut(chart.title, _LONGEST_TITLE))
        _add(drawing, chart)
    return drawing.svg(heading)


def _add_title(drawing: Drawing, title: str) -> None:
    drawing.text(8, drawing.y + 10, title, "h")
    drawing.y += 20


def _add(drawing: Drawing, chart: Chart) -> None:
    kinds = {Lines: _lines, Dots: _dots, Matrix: _matrix, Scatter: _scatter}
    kinds[type(chart)](drawing, chart)  # type: ignore[operator]


def _lines(drawing: Drawing, chart: Lines) -> None:
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
        drawing.path([(_LEFT, down(value)), (WIDTH - _RIGHT, down(value))], "r")
        drawing.text(_LEFT - 5, down(value) + 4, _short(value), "f", "end")
    for value in ticks(left, right, 5):
        drawing.text(across(value), bottom + 14, _short(value), "f", "middle")
    drawing.text(WIDTH - _RIGHT, bottom + 28, chart.x, "f", "end")
    for one in drawn:
        _series(drawing, one, chart, across, down)
    drawing.y = bottom + 34
    _legend(drawing, drawn)


def _series(
    drawing: Drawing, one: Series, chart: Lines, across: Callable[[float], float], down: Callable[[float], float]
) -> None:
    look, points = f"c{one.look % LOOKS}", [(across(x), down(y)) for x, y, _, _ in one.points]
    if any(low < high for _, _, low, high in one.points):
        edge = [(across(x), down(high)) for x, _, _, high in one.points]
        edge += [(across(x), down(low)) for x, _, low, _ in reversed(one.points)]
        drawing.path(edge, f"a {look}", closed=True)
    if one.level is not None:
        drawing.path([(_LEFT, down(one.level)), (WIDTH - _RIGHT, down(one.level))], f"v {look}")
    if chart.is_step:
        steps = zip(points, points[1:], strict=False)
        points = [corner for a, b in steps for corner in (a, (b[0], a[1]))] + points[-1:]
    drawing.path(points, f"l {look}", dash=one.look)
    for x, y in points[-1:]:
        drawing.marker(x, y, one.look)
    if one.chosen is not None and one.points and one.chosen < one.points[-1][0]:
        x, y, _, _ = min(one.points, key=lambda point: abs(point[0] - (one.chosen or 0)))
        drawing.circle(across(x), down(y), 6, f"l {look}")


def _legend(drawing: Drawing, series: Iterable[Series]) -> None:
    """Add the name of each line with its dash and marker; short names share a row."""
    x, row = 8.0, 0
    for one in series:
        shown = cut(one.name, 50)
        width = 28 + 1.08 * CHARACTER * cell_len(shown) + 12
        if row and x + width > WIDTH:
            x, row = 8.0, 0
            drawing.y += 16
        drawing.path([(x, drawing.y + 6), (x + 22, drawing.y + 6)], f"l c{one.look % LOOKS}", dash=one.look)
        drawing.marker(x + 11, drawing.y + 6, one.look)
        drawing.text(x + 28, drawing.y + 10, shown)
        x += width
        row += 1
    drawing.y += 18 if row else 0


def _dots(drawing: Drawing, chart: Dots) -> None:
    rows = chart.rows[:_MOST_ROWS]
    values = [value for dot in rows for value in (dot.value, dot.low, dot.high) if value is not None]
    low, high = bounds([*values, *([] if chart.line is None else [chart.line])])
    top, left, right = drawing.y + 8, 14, WIDTH - 14

    def across(x: float) -> float:
        return left + (right - left) * (x - low) / (high - low)

    bottom = top + _ROW * len(rows)
    for value in ticks(low, high, 5):
        drawing.path([(across(value), top), (across(value), bottom)], "r")
        drawing.text(across(value), bottom + 14, _short(value), "f", "middle")
    if chart.line is not None:
        drawing.path([(across(chart.line), top), (across(chart.line), bottom)], "z")
    for place, dot in enumerate(rows):
        y = top + _ROW * place
        room = int((WIDTH - 28) / CHARACTER) - cell_len(dot.text) - 2
        drawing.text(14, y + 12, cut(dot.label, max(room, 8)), "t")
        drawing.text(right, y + 12, dot.text, "f t", "end")
        if dot.low is not None and dot.high is not None:
            drawing.path([(across(dot.low), y + 24), (across(dot.high), y + 24)], f"l c{dot.look % LOOKS}")
        drawing.marker(across(dot.value), y + 24, dot.look)
    drawing.text(right, bottom + 28, chart.x, "f", "end")
    drawing.y = bottom + 34
    if len(chart.rows) > _MOST_ROWS:
        drawing.text(14, drawing.y + 10, f"the first {_MOST_ROWS} of {len(chart.rows)} rows", "f")
        drawing.y += 16


def _matrix(drawing: Drawing, chart: Matrix) -> None:
    """Draw cells that are wide enough for their texts, with names around them, or with numbers whose names stand below.

    Names of both rows and columns are numbered from the first row and column on.
    """
    lines = [line for row in chart.texts for text in row for line in text.split("\n")]
    is_beside = all(cell_len(name) <= _LONGEST_BESIDE for name in chart.rows)
    both = [name for name in chart.rows if name in chart.columns]  # others, such as precision, always show their names
    beside = [name for name in chart.rows if is_beside or name not in both]
    left = 32 + CHARACTER * max(map(cell_len, beside), default=0)
    side = max((WIDTH - left - 8) / max(len(chart.columns), 1), _room(lines), 16)
    height = min(side, 38)
    is_numbered = not is_beside or _room(both) > side
    top = drawing.y + 18
    for j, name in enumerate(chart.columns):
        shown = str(j + 1) if is_numbered and name in both else name
        drawing.text(left + (j + 0.5) * side, top - 5, shown, "f", "middle")
    for i, (name, row, shades) in enumerate(zip(chart.rows, chart.texts, chart.shades, strict=True)):
        y = top + i * height
        words = [str(i + 1)] * (is_numbered and name in both) + [name] * (name in beside)
        drawing.text(left - 6, y + height / 2 + 4, " ".join(words), "f", "end")
        for j, (text, shade) in enumerate(zip(row, shades, strict=True)):
            x = left + j * side
            if shade is not None:
                drawing.rect(x, y, side - 1, height - 1, int(shade < 0), 0.08 + 0.55 * min(abs(shade), 1))
            first, *rest = text.split("\n")
            drawing.text(x + side / 2, y + height / 2 + (-2 if rest else 4), first, "", "middle")
            for line in rest:
                drawing.text(x + side / 2, y + height / 2 + 12, line, "f", "middle")
    drawing.width = max(drawing.width, left + side * len(chart.columns) + 8)
    drawing.y = top + len(chart.rows) * height + 8
    if not is_beside:
        for i, name in enumerate(both):
            drawing.text(26, drawing.y + 10, str(i + 1), "f", "end")
            drawing.text(32, drawing.y + 10, cut(name, 50))
            drawing.y += 16


def _room(texts: Sequence[str]) -> float:
    """Return the width that the longest of some texts needs."""
    return 6 + CHARACTER * max(map(cell_len, texts), default=0)


def _scatter(drawing: Drawing, chart: Scatter) -> None:
    side, top = WIDTH - _LEFT - _RIGHT, drawing.y + 16
    drawing.text(_LEFT, top - 6, chart.y, "f")
    drawing.rect(_LEFT, top, side, side, 6, 0.08)
    drawing.path([(_LEFT, top + side), (_LEFT + side, top)], "z", dash=1)
    for share in (0, 0.5, 1):
        value = _short(chart.low + share * (chart.high - chart.low))
        drawing.text(_LEFT - 5, top + side * (1 - share) + 4, value, "f", "end")
        drawing.text(_LEFT + side * share, top + side + 14, value, "f", ("start", "middle", "end")[int(2 * share)])
    drawing.text(WIDTH - _RIGHT, top + side + 28, chart.x, "f", "end")
    shares = [[(value - chart.low) / (chart.high - chart.low) for value in point] for point in chart.points]
    if len(shares) > _MOST_DRAWN:
        size = side / _SQUARES
        counts = Counter(tuple(min(max(int(share * _SQUARES), 0), _SQUARES - 1) for share in point) for point in shares)
        most = math.log1p(max(counts.values()))
        for (i, j), count in sorted(counts.items()):
            opacity = 0.15 + 0.85 * math.log1p(count) / most
            drawing.rect(_LEFT + i * size, top + side - (j + 1) * size, size, size, 0, opacity)
    else:
        for x, y in shares:
            height = top + side * (1 - min(max(y, 0.0), 1.0))
            drawing.circle(_LEFT + side * x, height, 3, f"b c{int(not 0 <= y <= 1)}", 0.6)
    drawing.y = top + side + 36


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
