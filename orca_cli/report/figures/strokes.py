"""How SVG is written: for light and dark ground, self-contained, without scripts; its colours, texts and shapes.

Readable without colour: each of eight looks has a marker of its own, and neighbours differ in their dash.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.sax import saxutils

from rich.cells import cell_len, set_cell_size

CHARACTER = 6.2  # width of one at 11 px, about
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Okabe and Ito's colours, which the colour-blind tell apart; darker on light ground where they would be too faint.
LIGHT = ("#0072b2", "#c8500a", "#00795a", "#a8578a", "#7a6a00", "#2f8fc4", "#5b5b5b", "#8a3b12")
_DARK = ("#56b4e9", "#f0914f", "#2fc79a", "#e29bc5", "#e5d04a", "#9ad1f5", "#b9bfc6", "#d9a27a")


class Drawing:
    """What is drawn so far. Looks are classes of `style`: f for faint texts, h for headings, g for the ground's colour,
    l, v and z for lines, a and b for areas, c0 to c7 for the colour."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def add(self, *parts: str) -> None:
        """Add elements that are written out."""
        self._parts += parts

    def text(self, x: float, y: float, text: str, look: str = "", anchor: str = "", *, turned: bool = False) -> None:
        """Add a text that begins at a place, ends there (anchor end) or has its middle there; turned ones go up."""
        look = f' class="{look}"' if look else ""
        anchor = f' text-anchor="{anchor}"' if anchor else ""
        turn = f' transform="rotate(-60 {x:.4g} {y:.4g})"' if turned else ""
        self.add(f'<text x="{x:.4g}" y="{y:.4g}"{look}{anchor}{turn}>{escaped(text)}</text>')

    def line(self, x: float, y: float, to_x: float, to_y: float, look: str) -> None:
        """Add a straight line."""
        self.add(f'<path class="{look}" d="M{x:.4g} {y:.4g}L{to_x:.4g} {to_y:.4g}"/>')

    def rect(self, x: float, y: float, width: float, height: float, look: int, opacity: float = 1.0) -> None:
        """Add an area in the colour of a look."""
        self.add(
            f'<rect class="b c{look}" x="{x:.4g}" y="{y:.4g}" width="{width:.4g}" height="{height:.4g}"'
            f' fill-opacity="{opacity:.2f}"/>'
        )

    def svg(self, label: str, width: int, height: int, *, standalone: bool = True) -> str:
        """Return it as a file of its own with a style sheet, or as a part of a page that has one.

        Args:
            label: what it shows, for those who cannot see it.
            width, height: of the drawing, in pixels.
            standalone: as a file.
        """
        head = f'role="img" aria-label="{escaped(label)}">'
        if not standalone:
            return "".join([f'<svg class="chart" viewBox="0 0 {width} {height}" {head}', *self._parts, "</svg>"])
        size = f'width="{width}" height="{height}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" {size} viewBox="0 0 {width} {height}" {head}'
        sheet = [f"<style>{style()}</style>", f'<rect class="g" {size}/>']
        return "".join([head, *sheet, *self._parts, "</svg>\n"])


def style() -> str:
    """Return the style sheet of drawings; colours follow the ground, without custom properties, which drawing programs do not
    know."""
    light = _colours(".chart", "#1f2328", "#59636e", "#d4d9df", "#fff", LIGHT)
    dark = _colours(".chart", "#e6e9ed", "#a4adb7", "#3a424b", "#16191d", _DARK)
    rules = (
        "text{font-family:system-ui,sans-serif;font-size:11px}",
        ".h{font-size:12.5px;font-weight:600}",
        ".r,.z,.l,.v{fill:none}",
        ".l{stroke-width:1.8;stroke-linejoin:round}",
        ".v{stroke-dasharray:1 3}",
        ".m{stroke-width:.8}",
        ".t{paint-order:stroke;stroke-width:3px;stroke-linejoin:round}",
        ".a{fill-opacity:.16}",
    )
    common = "".join(
        ",".join(f".chart {name}" for name in rule.partition("{")[0].split(",")) + "{" + rule.partition("{")[2]
        for rule in rules
    )
    return f"{common}{light}@media(prefers-color-scheme:dark){{{dark}}}"


def _colours(scope: str, ink: str, faint: str, rule: str, ground: str, looks: Sequence[str]) -> str:
    filled = {" text": ink, " .f": faint, " .g": ground}
    stroked = {" .m": ground, " .t": ground, " .r": rule, " .z": faint}
    rules = "".join(f"{scope}{name}{{fill:{colour}}}" for name, colour in filled.items())
    rules += "".join(f"{scope}{name}{{stroke:{colour}}}" for name, colour in stroked.items())
    for look, colour in enumerate(looks):
        lines, areas = (",".join(f"{scope} .c{look}.{name}" for name in names) for names in ("lv", "mba"))
        rules += f"{lines}{{stroke:{colour}}}{areas}{{fill:{colour}}}"
    return rules


def escaped(text: str) -> str:
    """Return a text escaped for XML and HTML; characters that are not allowed in XML are replaced."""
    return saxutils.escape(_NOT_XML.sub("\ufffd", text), {'"': "&quot;", "'": "&#39;"})


def cut(text: str, longest: int) -> str:
    """Return a text that takes at most `longest` columns."""
    return text if cell_len(text) <= longest else f"{set_cell_size(text, longest - 1).rstrip()}\u2026"
