"""Figures as SVG: one drawing for pages, for files, and for the picture of a run's predictions.

Self-contained, without scripts, for light and dark ground.
"""

import re
from collections.abc import Iterable, Sequence
from xml.sax import saxutils

from rich.cells import cell_len, set_cell_size

from orca_cli.report.figures.charts import LOOKS, Chart, Dots, Lines, Matrix, Scatter, bounds, ticks

WIDTH = 360.0  # of a phone's column, so that texts need no scaling there
CHARACTER = 6.2  # width of one at 11 px, about
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Okabe and Ito's colours, which the colour-blind can distinguish; darker on light ground where they would be too faint.
_LIGHT = ("#0072b2", "#c8500a", "#00795a", "#a8578a", "#7a6a00", "#2f8fc4", "#5b5b5b", "#8a3b12")
_DARK = ("#56b4e9", "#f0914f", "#2fc79a", "#e29bc5", "#e5d04a", "#9ad1f5", "#b9bfc6", "#d9a27a")
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
_PLOT_HEIGHT = 170
_ROW = 34
_MOST_ROWS = 40
_MOST_DRAWN = 1000  # points of a scatter
_LEFT, _RIGHT = 46, 12
_LONGEST_TITLE, _LONGEST_BESIDE = 52, 16  # characters: of a figure's title, of a name beside the cells of a matrix


class Drawing:
    """A drawing that grows downwards, and to the right where something does not fit.

    Classes of the style sheet: f for faint texts, h for headings, t for texts that stand out from what they cover, g for the
    ground, l for lines, r and z for rules, a and b for areas, c0 to c7 for the colour of a look.
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

    def rect(self, x: float, y: float, width: float, height: float, look: int, opacity: float) -> None:
        """Add an area in the colour of a look."""
        self._parts.append(
            f'<rect class="b c{look % LOOKS}" x="{x:.4g}" y="{y:.4g}" width="{width:.4g}" height="{height:.4g}"'
            f' fill-opacity="{opacity:.2f}"/>'
        )

    def circle(self, x: float, y: float, look: int) -> None:
        """Add a small circle in the colour of a look."""
        self._parts.append(f'<circle class="b c{look % LOOKS}" cx="{x:.4g}" cy="{y:.4g}" r="3.5"/>')

    def title(self, title: str) -> None:
        """Add a heading."""
        self.text(8, self.y + 10, title, "h")
        self.y += 20

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
        *(f".{look}{{fill:none}}" for look in "rzl"),
        ".l{stroke-width:1.8;stroke-linejoin:round}",
        ".t{paint-order:stroke;stroke-width:3px;stroke-linejoin:round}",
        ".a{fill-opacity:.16}",
    )
    common = "".join(f".chart {rule}" for rule in rules)
    light = _colours("#1f2328", "#59636e", "#d4d9df", "#fff", _LIGHT)
    dark = _colours("#e6e9ed", "#a4adb7", "#3a424b", "#16191d", _DARK)
    return f"{common}{light}@media(prefers-color-scheme:dark){{{dark}}}"


def _colours(ink: str, faint: str, rule: str, ground: str, looks: Sequence[str]) -> str:
    filled = {"text": ink, ".f": faint, ".g": ground}
    stroked = {".t": ground, ".r": rule, ".z": faint}
    rules = "".join(f".chart {name}{{fill:{colour}}}" for name, colour in filled.items())
    rules += "".join(f".chart {name}{{stroke:{colour}}}" for name, colour in stroked.items())
    for look, colour in enumerate(looks):
        rules += f".chart .c{look}.l{{stroke:{colour}}}"
        rules += f".chart .c{look}.a,.chart .c{look}.b{{fill:{colour}}}"
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
    _add(drawing, chart, has_title=standalone)
    return drawing.svg(f"{chart.title}. {chart.note}".removesuffix(". "), standalone=standalone)


def draw_all(heading: str, note: str, charts: Iterable[Chart]) -> str:
    """Return charts below each other as one SVG file; its label is the heading."""
    drawing = Drawing()
    drawing.width = max(WIDTH, 16 + 1.2 * CHARACTER * cell_len(heading), 16 + CHARACTER * cell_len(note))
    drawing.title(heading)
    drawing.text(8, drawing.y + 8, note, "f")
    drawing.y += 20
    for chart in charts:
        _add(drawing, chart, has_title=bool(chart.title))
    return drawing.svg(heading)


def _add(drawing: Drawing, chart: Chart, *, has_title: bool) -> None:
    if has_title:
        drawing.title(cut(chart.title, _LONGEST_TITLE))
    kinds = {Lines: _lines, Dots: _dots, Matrix: _matrix, Scatter: _scatter}
    kinds[type(chart)](drawing, chart)  # type: ignore[operator]


def _lines(drawing: Drawing, chart: Lines) -> None:
    low, high = bounds(y for one in chart.series for point in one.points for y in point[1:])
    left, right = bounds((point[0] for one in chart.series for point in one.points), margin=0.02)
    top, bottom = drawing.y + 16, drawing.y + 16 + _PLOT_HEIGHT

    def across(x: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (x - left) / (right - left)

    def down(y: float) -> float:
        return bottom - _PLOT_HEIGHT * (y - low) / (high - low)

    drawing.text(_LEFT, top - 6, chart.y, "f")
    for value in ticks(low, high):
        drawing.path([(_LEFT, down(value)), (WIDTH - _RIGHT, down(value))], "r")
        drawing.text(_LEFT - 5, down(value) + 4, _short(value), "f", "end")
    for value in ticks(left, right, 5):
        drawing.text(across(value), bottom + 14, _short(value), "f", "middle")
    drawing.text(WIDTH - _RIGHT, bottom + 28, chart.x, "f", "end")
    drawing.y = bottom + 34
    for one in chart.series:
        look, points = f"c{one.look % LOOKS}", [(across(x), down(y)) for x, y, _, _ in one.points]
        if any(lowest < highest for _, _, lowest, highest in one.points):
            edge = [(across(x), down(highest)) for x, _, _, highest in one.points]
            edge += [(across(x), down(lowest)) for x, _, lowest, _ in reversed(one.points)]
            drawing.path(edge, f"a {look}", closed=True)
        drawing.path(points, f"l {look}", dash=one.look)
        drawing.circle(*points[-1], one.look)
        # Its name below, with its dash.
        drawing.path([(8, drawing.y + 6), (30, drawing.y + 6)], f"l {look}", dash=one.look)
        drawing.text(36, drawing.y + 10, cut(one.name, 50))
        drawing.y += 16


def _dots(drawing: Drawing, chart: Dots) -> None:
    rows = chart.rows[:_MOST_ROWS]
    values = [value for dot in rows for value in (dot.value, dot.low, dot.high) if value is not None]
    low, high = bounds([*values, 0.0])
    top, left, right = drawing.y + 8, 14, WIDTH - 14

    def across(x: float) -> float:
        return left + (right - left) * (x - low) / (high - low)

    bottom = top + _ROW * len(rows)
    for value in ticks(low, high, 5):
        drawing.path([(across(value), top), (across(value), bottom)], "r")
        drawing.text(across(value), bottom + 14, _short(value), "f", "middle")
    drawing.path([(across(0.0), top), (across(0.0), bottom)], "z")
    for place, dot in enumerate(rows):
        y = top + _ROW * place
        room = int((WIDTH - 28) / CHARACTER) - cell_len(dot.text) - 2
        drawing.text(14, y + 12, cut(dot.label, max(room, 8)), "t")
        drawing.text(right, y + 12, dot.text, "f t", "end")
        if dot.low is not None and dot.high is not None:
            drawing.path([(across(dot.low), y + 24), (across(dot.high), y + 24)], f"l c{dot.look % LOOKS}")
        drawing.circle(across(dot.value), y + 24, dot.look)
    drawing.text(right, bottom + 28, chart.x, "f", "end")
    drawing.y = bottom + 34
    if len(chart.rows) > _MOST_ROWS:
        drawing.text(14, drawing.y + 10, f"the first {_MOST_ROWS} of {len(chart.rows)} rows", "f")
        drawing.y += 16


def _matrix(drawing: Drawing, chart: Matrix) -> None:
    """Draw cells that are wide enough for their counts; columns have numbers, which stand before the names of the rows."""
    names = [f"{place} {cut(name, _LONGEST_BESIDE)}" for place, name in enumerate(chart.classes)]
    left = 14 + CHARACTER * max(map(cell_len, names), default=0)
    longest = max((len(str(count)) for row in chart.counts for count in row), default=1)
    side = max((WIDTH - left - 8) / max(len(names), 1), 6 + CHARACTER * longest, 18)
    height, top = min(side, 38), drawing.y + 18
    for i, (name, counts) in enumerate(zip(names, chart.counts, strict=True)):
        y = top + i * height
        drawing.text(left + (i + 0.5) * side, top - 5, str(i), "f", "middle")
        drawing.text(left - 6, y + height / 2 + 4, name, "f", "end")
        for j, count in enumerate(counts):
            if count:  # its colour shows its share of the row: one for right, one for wrong
                x = left + j * side
                drawing.rect(x, y, side - 1, height - 1, int(i != j), 0.08 + 0.55 * count / sum(counts))
                drawing.text(x + side / 2, y + height / 2 + 4, str(count), "", "middle")
    drawing.width = max(drawing.width, left + side * len(names) + 8)
    drawing.y = top + len(names) * height + 8


def _scatter(drawing: Drawing, chart: Scatter) -> None:
    side, top = WIDTH - _LEFT - _RIGHT, drawing.y + 16
    low, high = bounds((true for true, _ in chart.points), margin=0.25)
    drawing.text(_LEFT, top - 6, "predicted", "f")
    drawing.rect(_LEFT, top, side, side, 6, 0.08)
    drawing.path([(_LEFT, top + side), (_LEFT + side, top)], "z", dash=1)
    for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        value = _short(low + share * (high - low))
        drawing.text(_LEFT - 5, top + side * (1 - share) + 4, value, "f", "end")
        drawing.text(_LEFT + side * share, top + side + 14, value, "f", anchor)
    drawing.text(WIDTH - _RIGHT, top + side + 28, "true", "f", "end")
    for point in chart.points[:: -(-len(chart.points) // _MOST_DRAWN) or 1]:
        x, y = ((value - low) / (high - low) for value in point)
        drawing.circle(_LEFT + side * x, top + side * (1 - min(max(y, 0.0), 1.0)), int(not 0 <= y <= 1))
    drawing.y = top + side + 36


def _short(value: float) -> str:
    """Return a number in about three digits."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
