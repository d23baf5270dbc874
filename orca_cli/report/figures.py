"""Figures as SVG, by matplotlib: gains of arms, and curves of runs.

matplotlib is an extra, imported only where something is drawn. The same numbers give the same bytes.
"""

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any
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

_MOST_METHODS, _MOST_SEEDS, _MOST_POINTS = 8, 20, 50  # lines of a figure; runs and points of a line
_SIZE = (4.6, 2.8)  # inches
_DASHES = ("-", "--", ":", "-.")  # neighbours are distinguished without colours too
_STYLE = {
    "svg.fonttype": "none",  # texts stay texts
    "svg.hashsalt": "orca",
    "text.parse_math": False,  # names from the disk are never read as markup
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Curves: kind; stage and name in a record; names of the axes. The distance is the metric on the training data.
_KINDS = (
    ("distance", "align", "loss", "distance to the source", "alignment epoch"),
    ("loss", "finetune", "train_loss", "training loss", "epoch"),
    ("validation", "finetune", "validation_error", "validation error", "epoch"),
)
Curve = dict[float, float]  # epoch -> value
Draw = Callable[["Axes"], None]


@dataclass(frozen=True)
class Chart:
    """A figure of a report: the name of its file (without .svg), title, note below, what draws on axes, size in inches."""

    name: str
    title: str
    note: str
    draw: Draw
    size: tuple[float, float] = _SIZE


def is_available() -> bool:
    """Return whether figures can be drawn here: matplotlib is there, and a place for its cache."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home that is read-only
    try:
        import matplotlib.figure  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def svg(chart: Chart) -> str:
    """Return the text of a figure's SVG file, with its title above and a label, title and note, for screen readers."""
    return _svg(chart, chart.title)


def inline(chart: Chart) -> str:
    """Return a figure as an SVG element of a page, to be inserted as it is.

    The page shows the title and sets the fonts, so both are left out. It forbids inline styles, so these become attributes.
    """

    def attributes(styled: re.Match[str]) -> str:
        items = (
            item.split(": ", 1) for item in styled[2].split("; ") if not item.startswith("font")
        )
        return styled[1] + " ".join(f'{name}="{value}"' for name, value in items)

    text = _svg(chart, "")
    text = re.sub(
        r"^.*?(?=<svg)|<defs>\s*<style.*?</style>\s*</defs>", "", text, count=2, flags=re.DOTALL
    )
    text = re.sub(
        r'(?<=<g) id="[^"]*"| transform="rotate\(-0 [^"]*"|(?<=>)\s+(?=<)', "", text
    )  # ids are the same in all
    return re.sub(r'(<[^<>]* )style="([^"]*)"', attributes, text)


def _svg(chart: Chart, heading: str) -> str:
    """Return an SVG file with a heading, labelled by the figure's title and note."""
    from matplotlib import style
    from matplotlib.figure import Figure

    file = io.StringIO()
    with style.context(["default", "tableau-colorblind10", _STYLE]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that its own fonts lack; viewers have others
        figure = Figure(figsize=chart.size)
        axes = figure.add_subplot()
        axes.set_title(heading, loc="left")
        chart.draw(axes)
        without = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", bbox_inches="tight", metadata=without)
    # A tenth of a point is enough.
    label = f"{chart.title}. {chart.note}"
    short = re.sub(
        r"<[^<>]*>", lambda tag: re.sub(r"(\.\d)\d+|\s*\n", r"\1", tag[0]), file.getvalue()
    )
    return _NOT_XML.sub(
        "\ufffd", short.replace("<svg ", f'<svg role="img" aria-label={quoteattr(label)} ', 1)
    )


def _name(text: str) -> str:
    return clean(text, longest=50)


def _draw_gains(comparison: Comparison, axes: "Axes") -> None:
    arms = comparison.overall
    for place, one in enumerate(arms):
        axes.plot(one.gain.interval or [one.gain.mean] * 2, [place, place], "C0-")
        axes.plot(one.gain.mean, place, "C0o")
    axes.axvline(0.0, color="0.5", linewidth=0.8)
    axes.set_yticks(
        range(len(arms)), [f"{_name(one.arm)}\n{gain_text(one.gain, 1)}" for one in arms]
    )
    axes.set(xlabel=comparison.unit, ylim=(len(arms) - 0.5, -0.5))


def curves_of(path: Path) -> dict[str, Curve]:
    """Return the curves of a run's folder: distance (of alignment), loss and validation (error, as stored), by epoch.

    A curve is empty where the run's result.json has none. They are read only where they are drawn, since those of 10,000 runs
    would fill the memory.
    """
    recorded, curves = mapping(read_or_empty(path / RESULT).get("curves")), {}
    for kind, stage, name, _, _ in _KINDS:
        lines = lines if isinstance(lines := recorded.get(stage), list) else []
        points = (
            (number(line.get("epoch")), number(line.get(name))) for line in map(mapping, lines)
        )
        curves[kind] = {x: y for x, y in points if x is not None and y is not None}
    return curves


def mean_curve(
    curves: Iterable[Curve], scale: float = 1.0
) -> list[tuple[float, float, float, float]]:
    """Return x, mean, lowest and highest value times `scale`, in the order of x, for each x of most of the non-empty curves."""
    read = [curve for curve in curves if curve]
    by_x = {
        x: [scale * curve[x] for curve in read if x in curve]
        for x in sorted({x for curve in read for x in curve})
    }
    most = {x: values for x, values in by_x.items() if 2 * len(values) > len(read)}
    return [(x, fmean(values), min(values), max(values)) for x, values in most.items()]


def _draw_lines(lines: dict[int, tuple[str, Any]], x: str, y: str, axes: "Axes") -> None:
    for look, (name, points) in lines.items():
        across, mean, lowest, highest = zip(
            *points[:: -(-len(points) // _MOST_POINTS)], strict=True
        )
        axes.plot(across, mean, f"C{look}", linestyle=_DASHES[look % len(_DASHES)], label=name)
        axes.fill_between(across, lowest, highest, color=f"C{look}", alpha=0.2, linewidth=0)
    axes.set(xlabel=x, ylabel=y)
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.2), frameon=False)


def all_charts(table: Table, comparison: Comparison | None) -> Iterator[Chart]:
    """Yield every figure of a report: the arms' gains; for each task the distance in alignment, loss, validation error.

    Each line is the mean over a method's seeds, at most 20 of them, for the first 8 methods that have runs of the task. A
    figure without a line is left out, and so are the gains where there is no comparison.
    """
    if comparison is not None:
        title = _name(f"Gain over {comparison.axis}={comparison.baseline}, all sets")
        note = "Dot: mean over sets; line: 95 % t interval; right of 0: lower error."
        size = (_SIZE[0], 0.8 + 0.4 * len(comparison.overall))
        yield Chart("gains", title, note, partial(_draw_gains, comparison), size)
    for place, title in enumerate(column_names(table.columns)):
        rows = [row for row in table.rows if row.cells[place].runs]
        names = (
            names_of([row.method for row in rows])
            if len(rows) > 1
            else [row.method.metric for row in rows]
        )
        rows = rows[:_MOST_METHODS]
        read = [
            [curves_of(run.path) for run in row.cells[place].runs[:_MOST_SEEDS]] for row in rows
        ]
        note = "Mean over seeds, band: lowest to highest"
        note += (
            f"; the first {len(rows)} of {len(names)} methods." if len(names) > len(rows) else "."
        )
        for kind, _, _, y, x in _KINDS:
            scale = table.columns[place].scale if kind == "validation" else 1.0
            means = [mean_curve((one[kind] for one in curves), scale) for curves in read]
            # Distances of metrics have nothing in common.
            for part, metric in enumerate(
                sorted({row.method.metric for row in rows}) if kind == "distance" else [""]
            ):
                looks = [
                    look
                    for look, row in enumerate(rows)
                    if means[look] and metric in ("", row.method.metric)
                ]
                lines = {
                    look: (f"{_name(names[look])} ({len(read[look])})", means[look])
                    for look in looks
                }
                if lines:
                    heading = _name(f"{title}: {metric} {y}".replace(":  ", ": "))
                    draw = partial(_draw_lines, lines, x, f"{y}, %" if scale != 1.0 else y)
                    yield Chart(f"{kind}-{place + 1}-{part + 1}", heading, note, draw)
