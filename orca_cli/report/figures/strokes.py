"""How SVG is written: self-contained, without scripts, for light and dark ground; its colours, texts and shapes.

Readable without colour: each of eight looks has a marker, and neighbours differ in their dash. Paths are written as absolute
moves and lines, which is all that `files` has to read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from xml.sax import saxutils

from rich.cells import cell_len, set_cell_size

from orca_cli.report.figures.charts import LOOKS

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


class Drawing:
    """What is drawn so far; it grows downwards, and to the right where something does not fit.

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
        """Return it as a file of its own with a style sheet, or as a part of a page that has one.

        Args:
            label: what it shows, for those who cannot see it.
            standalone: as a file.
        """
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
