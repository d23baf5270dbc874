"""Figures as files: SVG, and PNG and PDF of the same drawing by matplotlib (extra `plot`), which is loaded only for these."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from orca_cli import storage
from orca_cli.exceptions import UnavailableError, UsageError, suggest
from orca_cli.report.figures import svg
from orca_cli.report.figures.charts import Chart
from orca_cli.report.figures.svg import FAINT, GROUND, INK, LIGHT, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("svg", "png", "pdf")
_DPI = 200
_ANCHORS: dict[str | None, Any] = {None: "left", "start": "left", "middle": "center", "end": "right"}


def formats_of(text: str) -> list[str]:
    """Return the formats that a list with commas names; UsageError for one that there is not."""
    names = text.split(",")
    for name in names:
        if name not in FORMATS:
            raise UsageError(f"there is no figure format '{name}'", where="--figures-as", hint=suggest(name, FORMATS))
    return names


def write(charts: Iterable[Chart], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write every figure in every format, and return the files.

    Raises:
        UnavailableError: matplotlib is needed and absent; SVG files are written all the same.
        StorageError: the folder cannot be written.
    """
    drawings = {chart.name: svg.draw(chart) for chart in charts}
    written = []
    for form in sorted(formats, key=FORMATS.index):  # SVG first, which needs nothing
        for name, drawing in drawings.items():
            written.append(folder / f"{name}.{form}")
            if form == "svg":
                storage.write_text(written[-1], drawing)
            else:
                storage.write_bytes(written[-1], _converted(drawing, form, formats))
    return written


def _converted(drawing: str, form: str, formats: Sequence[str]) -> bytes:
    """Return an SVG file of ours as PNG or PDF, one point a pixel."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        names = " and ".join(name.upper() for name in formats if name != "svg")
        hint = "pip install 'orca-transfer[plot]', or add --figures-as svg"
        raise UnavailableError(
            f"{names} need matplotlib, which is not installed", where="--figures", hint=hint
        ) from error
    root = ElementTree.fromstring(drawing)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    for order, element in enumerate(root):
        _add(axes, element, order)
    file = io.BytesIO()
    metadata = {"Software": None} if form == "png" else {"CreationDate": None}
    figure.savefig(file, format=form, dpi=_DPI, metadata=metadata)
    return file.getvalue()


def _add(axes: Axes, element: ElementTree.Element, order: int) -> None:
    """Add an element of a drawing; see `svg.Drawing` for its classes."""
    from matplotlib.patches import Circle, Polygon, Rectangle

    kind, facts = element.tag.rpartition("}")[2], element.attrib
    classes = facts.get("class", "").split()
    colour = next((LIGHT[int(name[1])] for name in classes if name[0] == "c"), "none")
    if kind == "text":
        looks: Any = {"color": FAINT if "f" in classes else INK, "size": 10 if "h" in classes else 8.5}
        looks |= {"ha": _ANCHORS[facts.get("text-anchor")], "va": "baseline", "zorder": order, "parse_math": False}
        axes.text(float(facts["x"]), float(facts["y"]), element.text or "", **looks)
        return
    if kind == "style":
        return
    line = {"r": RULE, "z": FAINT, "m": GROUND, "l": colour, "v": colour}
    style: Any = {
        "facecolor": colour,
        "edgecolor": "none",
        "alpha": float(facts.get("fill-opacity", 1)),
        "zorder": order,
    }
    style |= {"alpha": 0.16} if "a" in classes else {"facecolor": GROUND} if "g" in classes else {}
    if edge := next((line[name] for name in classes if name in line), None):
        style |= {"edgecolor": edge, "linewidth": 1.8 if "l" in classes else 0.8}
        style |= {} if "m" in classes else {"facecolor": "none"}
    dash = "1 3" if "v" in classes else facts.get("stroke-dasharray")
    style |= {"linestyle": (0, tuple(map(float, dash.split())))} if dash else {}
    if kind == "circle":
        axes.add_patch(Circle((float(facts["cx"]), float(facts["cy"])), float(facts["r"]), **style))
    elif kind == "rect":
        x, y, width, height = (float(facts.get(key, 0)) for key in ("x", "y", "width", "height"))
        axes.add_patch(Rectangle((x, y), width, height, **style))
    else:
        corners = facts["d"].removeprefix("M").removesuffix("Z").split("L")
        points = [tuple(map(float, corner.split())) for corner in corners]
        axes.add_patch(Polygon(points, closed=facts["d"].endswith("Z"), **style))
