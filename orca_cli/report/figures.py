"""Figures as SVG, by matplotlib: gains of arms, and curves of runs.

matplotlib is an extra, imported only where something is drawn. The same numbers give the same
bytes.
"""

import io
import logging
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import quoteattr

from orca_cli.report.collect import mapping, number
from orca_cli.report.gains import gain_text
from orca_cli.report.layout import clean, column_names
from orca_cli.report.paired import Comparison
from orca_cli.report.ranks import names_of
from orca_cli.report.table import Table
from orca_cli.runs.directory import RESULT, read_or_empty

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_METHODS = 8  # largest number of lines in a figure
_MOST_SEEDS = 20  # largest number of runs that a line averages
_MOST_POINTS = 50  # largest number of points on a line
_SIZE = (4.6, 2.8)  # inches
_DASHES = ("-", "--", ":", "-.")  # they distinguish neighbouring lines without colours
_STYLE = {
    "svg.fonttype": "none",  # texts stay texts
    # Ids are hashes with a salt that is random by default; a fixed salt gives the same bytes.
    "svg.hashsalt": "orca",
    "text.parse_math": False,  # names from the disk are never read as markup
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# XML does not allow these characters, not even escaped.
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
Curve = dict[float, float]  # epoch -> value


class _Kind(NamedTuple):
    """A kind of curve: its name, its stage and key in a record, and the labels of its axes."""

    name: str
    stage: str
    key: str
    y_label: str
    x_label: str


_KINDS = (
    # The value of the metric on the training data.
    _Kind(
        "distance", "align", key="loss", y_label="distance to the source", x_label="alignment epoch"
    ),
    _Kind("loss", "finetune", key="train_loss", y_label="training loss", x_label="epoch"),
    _Kind(
        "validation",
        "finetune",
        key="validation_error",
        y_label="validation error",
        x_label="epoch",
    ),
)


class Point(NamedTuple):
    """The values of several curves at one x."""

    x: float
    mean: float
    lowest: float
    highest: float


class _Line(NamedTuple):
    """A method's line in a figure; `look` decides its colour and dashes."""

    look: int
    label: str
    points: list[Point]


class _DrawnMethod(NamedTuple):
    """A method of a task, with the curves of each of its seeds by kind."""

    label: str
    metric: str
    curves: list[dict[str, Curve]]


@dataclass(frozen=True)
class Chart:
    """A figure of a report.

    Args:
        name: name of its file, without .svg.
        note: text below the figure.
        draw: function that draws the figure on axes.
        size: in inches.
    """

    name: str
    title: str
    note: str
    draw: Callable[["Axes"], None]
    size: tuple[float, float] = _SIZE


def is_available() -> bool:
    """Return whether figures can be drawn: matplotlib is installed and can write its cache."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home that is read-only
    try:
        import matplotlib.figure  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def svg(chart: Chart) -> str:
    """Return the text of a figure's SVG file, with its title above the figure.

    Title and note form its label, for screen readers.
    """
    return _svg(chart, chart.title)


def inline(chart: Chart) -> str:
    """Return a figure as an SVG element of a page, to be inserted as it is.

    The page shows the title and sets the fonts, so both are left out. It forbids inline styles, so
    these become attributes.
    """
    text = _svg(chart, "")
    # The XML header, and matplotlib's style sheet.
    text = re.sub(
        r"^.*?(?=<svg)|<defs>\s*<style.*?</style>\s*</defs>", "", text, count=2, flags=re.DOTALL
    )
    # Ids would be the same in all figures of a page; rotations by 0 and blanks are redundant.
    text = re.sub(r'(?<=<g) id="[^"]*"| transform="rotate\(-0 [^"]*"|(?<=>)\s+(?=<)', "", text)
    return re.sub(r'(<[^<>]* )style="([^"]*)"', _with_attributes, text)


def _with_attributes(tag: re.Match[str]) -> str:
    """Return a tag's start with the declarations of its style, except fonts, as attributes."""
    attributes = []
    for declaration in tag[2].split("; "):
        if not declaration.startswith("font"):
            name, setting = declaration.split(": ", 1)
            attributes.append(f'{name}="{setting}"')
    return tag[1] + " ".join(attributes)


def _svg(chart: Chart, heading: str) -> str:
    """Return an SVG file with a heading, labelled by the figure's title and note."""
    from matplotlib import style
    from matplotlib.figure import Figure

    file = io.StringIO()
    # Based on matplotlib's defaults, so that a user's own style file has no effect.
    with style.context(["default", "tableau-colorblind10", _STYLE]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters missing in its fonts; viewers have others
        # Without pyplot, which keeps every figure in a global list and may look for a display.
        figure = Figure(figsize=chart.size)
        axes = figure.add_subplot()
        axes.set_title(heading, loc="left")
        chart.draw(axes)
        # A date, or the version of matplotlib, would change the bytes.
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", bbox_inches="tight", metadata=no_metadata)
    text = re.sub(r"<[^<>]*>", _shortened, file.getvalue())
    label = quoteattr(f"{chart.title}. {chart.note}")
    # The first `<svg` is the whole figure: screen readers read the label in place of its parts.
    text = text.replace("<svg ", f'<svg role="img" aria-label={label} ', 1)
    # Last, since the label may have such characters as well.
    return _NOT_XML.sub("\ufffd", text)


def _shortened(tag: re.Match[str]) -> str:
    """Return a tag with numbers to a tenth of a point, which is enough, and without line breaks."""
    return re.sub(r"(\.\d)\d+|\s*\n", r"\1", tag[0])


def _name(text: str) -> str:
    return clean(text, longest=50)


def _draw_gains(comparison: Comparison, axes: "Axes") -> None:
    labels = []
    for y, arm in enumerate(comparison.overall):
        # A single difference has no interval; its line has the length 0.
        mean = arm.gain.mean
        axes.plot(arm.gain.interval or [mean, mean], [y, y], "C0-")
        axes.plot(mean, y, "C0o")
        labels.append(f"{_name(arm.arm)}\n{gain_text(arm.gain, 1)}")
    axes.axvline(0.0, color="0.5", linewidth=0.8)
    axes.set_yticks(range(len(labels)), labels)
    # The y axis runs from high to low, so that the first arm is on top.
    axes.set(xlabel=comparison.unit, ylim=(len(labels) - 0.5, -0.5))


def curves_of(path: Path) -> dict[str, Curve]:
    """Return the curves of a run's folder, by epoch: distance, loss and validation.

    They are the distance of alignment, the training loss and the validation error, as stored. A
    curve that the run's result.json lacks is empty. Curves are read only when they are drawn, since
    the curves of 10,000 runs would fill the memory.
    """
    recorded = mapping(read_or_empty(path / RESULT).get("curves"))
    curves = {}
    for kind in _KINDS:
        # A line of the record without a finite number is left out; the other lines are drawn.
        curve: Curve = {}
        lines = recorded.get(kind.stage)
        if isinstance(lines, list):
            for line in map(mapping, lines):
                epoch = number(line.get("epoch"))
                curve_value = number(line.get(kind.key))
                if epoch is not None and curve_value is not None:
                    curve[epoch] = curve_value
        curves[kind.name] = curve
    return curves


def mean_curve(curves: Iterable[Curve], scale: float = 1.0) -> list[Point]:
    """Return the mean of curves, and the band around it, in the order of x.

    It has every x that more than half of the non-empty curves have; values are multiplied by
    `scale`.
    """
    # Curves without a value say nothing about where most have ended.
    drawn = list(filter(None, curves))
    # Epoch -> values of the curves that have it.
    values_at = defaultdict(list)
    for curve in drawn:
        for epoch, curve_value in curve.items():
            values_at[epoch].append(scale * curve_value)
    points = []
    for epoch, values in sorted(values_at.items()):
        # Where most curves have ended, the mean of the others would jump.
        if 2 * len(values) > len(drawn):
            points.append(Point(epoch, mean=fmean(values), lowest=min(values), highest=max(values)))
    return points


def _draw_lines(lines: Sequence[_Line], kind: _Kind, unit: str, axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    for line in lines:
        # Every step-th point is drawn, at most 50.
        step = -(-len(line.points) // _MOST_POINTS)  # rounded up
        epochs, mean, lowest, highest = zip(*line.points[::step], strict=True)
        color = f"C{line.look}"
        dashes = _DASHES[line.look % len(_DASHES)]
        axes.plot(epochs, mean, color, linestyle=dashes, label=line.label)
        axes.fill_between(epochs, lowest, highest, color=color, alpha=0.2, linewidth=0)
    # Epochs are whole numbers.
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set(xlabel=kind.x_label, ylabel=f"{kind.y_label}{unit}")
    # Below the axes, where it hides no line.
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.2), frameon=False)


def all_charts(table: Table, comparison: Comparison | None) -> Iterator[Chart]:
    """Yield every figure of a report.

    They are the arms' gains, and for each task the distance during alignment, the training loss and
    the validation error. Each line is the mean over a method's seeds, at most 20 of them, for the
    first 8 methods that have runs of the task. A figure without a line is left out, and so are the
    gains if there is no comparison.
    """
    if comparison is not None:
        title = f"Gain over {comparison.axis}={comparison.baseline}, all data sets"
        # Each arm has two lines of text, which need 0.4 inches.
        height = 0.8 + 0.4 * len(comparison.overall)
        yield Chart(
            name="gains",
            title=_name(title),
            note="Dot: mean over data sets. Line: 95 % t interval. "
            "Right of 0, the arm is better than the control.",
            draw=partial(_draw_gains, comparison),
            size=(_SIZE[0], height),
        )
    for position, title in enumerate(column_names(table.columns)):
        yield from _task_charts(table, position, title)


def _task_charts(table: Table, position: int, title: str) -> Iterator[Chart]:
    """Yield the figures of the task in the column at a position."""
    rows = [row for row in table.rows if row.cells[position].runs]
    method_names = names_of([row.method for row in rows])
    # A single method would have its full name, which is long; its metric is enough.
    if len(rows) == 1:
        method_names = [rows[0].method.metric]
    note = "Line: mean over seeds; band: lowest to highest value"
    if len(rows) > _MOST_METHODS:
        note += f"; shown: the first {_MOST_METHODS} of {len(rows)} methods"
        rows = rows[:_MOST_METHODS]
    methods = []
    # Not strict: methods that are not drawn, beyond the largest number, have names as well.
    for row, name in zip(rows, method_names, strict=False):
        # Read once for all kinds.
        curves = [curves_of(run.path) for run in row.cells[position].runs[:_MOST_SEEDS]]
        method = _DrawnMethod(
            label=f"{_name(name)} ({len(curves)})", metric=row.method.metric, curves=curves
        )
        methods.append(method)
    for kind in _KINDS:
        scale = 1.0
        unit = ""
        # Distances and losses are never in per cent.
        if kind.name == "validation" and table.columns[position].percent:
            scale = table.columns[position].scale
            unit = ", %"
        lines_by_metric = _lines_by_metric(methods, kind, scale)
        for figure_number, (metric, lines) in enumerate(sorted(lines_by_metric.items()), start=1):
            if lines:
                # Without a metric there would be two blanks.
                heading = f"{title}: {metric} {kind.y_label}".replace(":  ", ": ")
                yield Chart(
                    name=f"{kind.name}-{position + 1}-{figure_number}",
                    title=_name(heading),
                    note=f"{note}.",
                    draw=partial(_draw_lines, lines, kind, unit),
                )


def _lines_by_metric(
    methods: Sequence[_DrawnMethod], kind: _Kind, scale: float
) -> dict[str, list[_Line]]:
    """Return the lines of a kind of curve, by metric for distances, else under an empty name."""
    lines_by_metric: dict[str, list[_Line]] = defaultdict(list)
    # `look` counts methods, so that a method looks the same in all figures of a task.
    for look, method in enumerate(methods):
        # Distances of different metrics cannot be compared, so each metric has its own figure.
        metric = method.metric if kind.name == "distance" else ""
        lines = lines_by_metric[metric]
        points = mean_curve((curves[kind.name] for curves in method.curves), scale)
        if points:
            lines.append(_Line(look=look, label=method.label, points=points))
    return lines_by_metric
