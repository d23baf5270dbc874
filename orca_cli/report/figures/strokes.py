"""What figures are drawn with: colours, markers, dashes, paths, short texts.

Readable without colour: each of eight looks has a marker of its own, and neighbours differ in their dash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar
from xml.sax import saxutils

from rich.cells import cell_len, set_cell_size

from orca_cli.report.figures.charts import LOOKS

_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
Item = TypeVar("Item")
_DASHES = ("", "6 3", "2 3", "8 3 2 3")

# Okabe and Ito's colours, which the colour-blind tell apart; darker on light ground where they would be too faint.
LIGHT = ("#0072b2", "#c8500a", "#00795a", "#a8578a", "#7a6a00", "#2f8fc4", "#5b5b5b", "#8a3b12")
_DARK = ("#56b4e9", "#f0914f", "#2fc79a", "#e29bc5", "#e5d04a", "#9ad1f5", "#b9bfc6", "#d9a27a")


def style(scope: str = "") -> str:
    """Return the style sheet of figures, in a page below a `scope`; colours follow the ground, without custom properties,
    which drawing programs do not know."""
    light = _colours(f"{scope}.chart", "#1f2328", "#59636e", "#d4d9df", "#fff", LIGHT)
    dark = _colours(f"{scope}.chart", "#e6e9ed", "#a4adb7", "#3a424b", "#16191d", _DARK)
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
        ",".join(f"{scope}.chart {name}" for name in rule.partition("{")[0].split(",")) + "{" + rule.partition("{")[2]
        for rule in rules
    )
    return f"{common}{light}@media(prefers-color-scheme:dark){{{dark}}}"


def _colours(scope: str, ink: str, faint: str, rule: str, ground: str, looks: Sequence[str]) -> str:
    filled = {" text": ink, " .f": faint, " .g": ground}
    stroked = {" .m": ground, " .t": ground, " .r": rule, " .z": faint}
    rules = "".join(f"{scope}{name}{{fill:{colour}}}" for name, colour in filled.items())
    rules += "".join(f"{scope}{name}{{stroke:{colour}}}" for name, colour in stroked.items())
    for look, colour in enumerate(looks):
        lines = ",".join(f"{scope} .c{look}{gap}.{name}" for name in "lv" for gap in ("", " "))
        areas = ",".join(f"{scope} .c{look}{gap}.{name}" for name in "mba" for gap in ("", " "))
        rules += f"{lines}{{stroke:{colour}}}{areas}{{fill:{colour}}}"
    return rules


def escaped(text: str) -> str:
    """Return a text as XML and HTML take it: some characters are in no document."""
    return saxutils.escape(_NOT_XML.sub("\ufffd", text), {'"': "&quot;", "'": "&#39;"})


def marker(x: float, y: float, look: int) -> str:
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


def dash(look: int) -> str:
    """Return the attribute that dashes a line; empty for a solid one."""
    found = _DASHES[(look + look // LOOKS) % len(_DASHES)]
    return f' stroke-dasharray="{found}"' if found else ""


def path(points: Iterable[tuple[float, float]]) -> str:
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


def thinned(items: list[Item], most: int) -> list[Item]:
    """Return at most `most` items, evenly spaced, including the first and the last."""
    if len(items) <= most:
        return items
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def short(value: float) -> str:
    """Return a number in about three digits."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def cut(text: str, longest: int) -> str:
    """Return a text that takes at most `longest` columns."""
    return text if cell_len(text) <= longest else f"{set_cell_size(text, longest - 1).rstrip()}\u2026"
