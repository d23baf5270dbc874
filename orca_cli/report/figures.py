"""Figures as SVG, by matplotlib: gains of arms, curves of runs, and what a run predicted for its test split.

matplotlib is an extra, imported only where something is drawn. The same numbers give the same bytes.
"""

import io
import logging
import math
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

from orca_cli.report.answer import MOST_CLASSES, Answer, Confusion, Labels, Number, percent
from orca_cli.report.collect import mapping, number
from orca_cli.report.layout import clean, column_names
from orca_cli.report.paired import Comparison, gain_text
from orca_cli.report.ranks import names_of
from orca_cli.report.table import Table
from orca_cli.runs.directory import RESULT, read_or_empty
from orca_cli.terminal import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_METHODS, _MOST_SEEDS, _MOST_POINTS = 8, 20, 50  # lines of a figure; runs of a line; points of a run
_MOST_LABELS, _MOST_NUMBERS, _MOST_DOTS = 40, 12, 1000  # of an answer: labels; numbers, and samples of each
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
Points = tuple[tuple[float, float], ...]
Draw = Callable[["Axes"], None]


@dataclass(frozen=True)
class Chart:
    """A figure of a report: the name of its file, its title, a note below it, what draws it, and its size in inches."""

    name: str
    title: str
    note: str
    draw: Draw
    size: tuple[float, float] = _SIZE


def is_available() -> bool:
    """Return whether figures can be drawn here."""
    return util.find_spec("matplotlib") is not None


def svg(chart: Chart) -> str:
    """Return a figure as an SVG file, with its title and a label."""
    return _svg(f"{chart.title}. {chart.note}", [(chart.title, chart.draw)], chart.size)


def inline(chart: Chart) -> str:
    """Return a figure as a part of a page that has its title and fonts and forbids styles: these become attributes."""
    text = _svg(f"{chart.title}. {chart.note}", [("", chart.draw)], chart.size)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text[text.index("<svg") :], count=1, flags=re.DOTALL)
    text = re.sub(r">\s+<", "><", re.sub(r'<g id="[^"]*">', "<g>", text))  # names of parts, the same in every figure

    def attributes(found: re.Match[str]) -> str:
        items = (item.split(": ", 1) for item in found[2].split("; ") if not item.startswith("font"))
        return found[1] + " ".join(f'{name}="{value}"' for name, value in items)

    return re.sub(r'(<[^<>]* )style="([^"]*)"', attributes, text)


def _svg(label: str, panels: Sequence[tuple[str, Draw]], size: tuple[float, float]) -> str:
    """Return an SVG file with panels below each other, each with its title; `size`: of one, in inches."""
    from matplotlib import style
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home that is read-only
    file = io.StringIO()
    with style.context(["default", "tableau-colorblind10", _STYLE]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that its own fonts lack; viewers have others
        figure = Figure(figsize=(size[0], size[1] * len(panels)))
        figure.subplots_adjust(hspace=0.5)
        for axes, (title, draw) in zip(figure.subplots(len(panels), squeeze=False).flat, panels, strict=True):
            axes.set_title(title, loc="left")
            draw(axes)
        without = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", bbox_inches="tight", metadata=without)
    text = file.getvalue().replace("<svg ", f'<svg role="img" aria-label={quoteattr(label)} ', 1)
    text = re.sub(r'<path [^<>]*d="[^"]*"', lambda path: re.sub(r"(\.\d)\d+|\s*\n", r"\1", path[0]), text)
    return _NOT_XML.sub("\ufffd", text)


def all_charts(table: Table, comparison: Comparison | None) -> list[Chart]:
    """Return every figure of a report."""
    charts = list(_curves(table))
    if comparison is not None:
        title = _name(f"Gain over {comparison.axis}={comparison.baseline}, all sets")
        note = "Dot: mean over sets; line: 95 % t interval; right of 0: lower error."
        size = (_SIZE[0], 0.8 + 0.4 * len(comparison.overall))
        charts.insert(0, Chart("gains", title, note, partial(_draw_gains, comparison), size))
    return charts


def _name(text: str) -> str:
    return clean(text, longest=60)


def _draw_gains(comparison: Comparison, axes: "Axes") -> None:
    arms = comparison.overall
    for place, one in enumerate(arms):
        axes.plot(one.gain.interval or [one.gain.mean] * 2, [place, place], "C0-")
        axes.plot(one.gain.mean, place, "C0o")
    axes.axvline(0.0, color="0.5", linewidth=0.8)
    axes.set_yticks(range(len(arms)), [f"{_name(one.arm)}\n{gain_text(one.gain, 1)}" for one in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel(comparison.unit)


def curves_of(path: Path) -> dict[str, Points]:
    """Return the curves of a run's folder by kind: (epoch, value) wherever its record has both.

    They are read only where they are drawn, since those of 10,000 runs would fill the memory.
    """
    recorded = mapping(read_or_empty(path / RESULT).get("curves"))
    return {kind: tuple(_points(recorded.get(stage), name)) for kind, stage, name, _, _ in _KINDS}


def _points(lines: Any, name: str) -> Iterator[tuple[float, float]]:
    lines = lines if isinstance(lines, list) else []
    for line in lines[:: -(-len(lines) // _MOST_POINTS) or 1]:
        x, y = number(mapping(line).get("epoch")), number(mapping(line).get(name))
        if x is not None and y is not None:
            yield x, y


def mean_curve(curves: Iterable[Points], scale: float = 1.0) -> tuple[tuple[float, float, float, float], ...]:
    """Return x, mean, lowest and highest value times `scale`, wherever most of the curves have one, in the order of x."""
    by_x: dict[float, list[float]] = defaultdict(list)
    count = 0
    for points in curves:
        count += bool(points)
        for x, y in dict(points).items():
            by_x[x].append(scale * y)
    common = ((x, values) for x, values in sorted(by_x.items()) if 2 * len(values) > count)
    return tuple((x, math.fsum(values) / len(values), min(values), max(values)) for x, values in common)


def _curves(table: Table) -> Iterator[Chart]:
    """Yield for each task the distance along alignment, and training loss and validation error along fine-tuning.

    Each line is the mean over a method's seeds. Drawn are the first `_MOST_METHODS` methods.
    """
    for place, title in enumerate(column_names(table.columns)):
        rows = [row for row in table.rows if row.cells[place].runs]
        names = names_of([row.method for row in rows]) if len(rows) > 1 else [row.method.metric for row in rows]
        drawn = [
            (row.method.metric, _name(name), [curves_of(run.path) for run in row.cells[place].runs[:_MOST_SEEDS]])
            for row, name in zip(rows[:_MOST_METHODS], names, strict=False)
        ]
        note = "Mean over seeds, band: lowest to highest"
        note += f"; the first {len(drawn)} of {len(rows)} methods." if len(rows) > len(drawn) else "."
        for kind, _, _, y, x in _KINDS:
            scale = table.columns[place].scale if kind == "validation" else 1.0
            lines: dict[str, dict[int, tuple[str, Any]]] = defaultdict(
                dict
            )  # distances of metrics have nothing in common
            for look, (metric, name, read) in enumerate(drawn):
                if points := mean_curve((one[kind] for one in read), scale):
                    lines[f"{metric} " if kind == "distance" else ""][look] = f"{name} ({len(read)})", points
            for part, (metric, some) in enumerate(sorted(lines.items()), 1):
                file, heading = f"{kind}-{place + 1}-{part}", _name(f"{title}: {metric}{y}")
                yield Chart(file, heading, note, partial(_draw_lines, some, x, f"{y}, %" if scale != 1.0 else y))


def _draw_lines(lines: dict[int, tuple[str, Any]], x: str, y: str, axes: "Axes") -> None:
    for look, (name, points) in lines.items():
        across, mean, lowest, highest = zip(*points, strict=True)
        axes.plot(across, mean, f"C{look}", linestyle=_DASHES[look % len(_DASHES)], label=name)
        if lowest != highest:
            axes.fill_between(across, lowest, highest, color=f"C{look}", alpha=0.16, linewidth=0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.2), frameon=False)


def answer_svg(answer: Answer, task: str) -> str:
    """Return what a run predicted as an SVG file: a confusion matrix, F1 of labels, or predicted against true numbers."""
    size = _SIZE
    if isinstance(answer, Confusion):
        label = f"{task}: {answer.right}"
        panels: list[tuple[str, Draw]] = [(label, partial(_draw_confusion, answer))]
        side = 0.2 + 0.08 * len(str(answer.counts.max()))  # of a cell that holds its count
        size = (max(4.0, side * len(answer.names)),) * 2 if len(answer.names) <= MOST_CLASSES else (6.0, 6.0)
    elif isinstance(answer, Labels):
        label = (
            f"{task}: F1 of {counted(len(answer.names), 'label')} on {counted(answer.n, 'test sample')}, lowest first"
        )
        panels = [(label, partial(_draw_labels, answer))]
        size = (_SIZE[0], 0.8 + 0.2 * min(len(answer.names), _MOST_LABELS))
    else:
        most = max(len(one.true) for one in answer.numbers)
        label = f"{task}: predicted against true on {counted(most, 'test sample')}"
        panels = []
        for one in answer.numbers[:_MOST_NUMBERS]:
            texts = [f"{name.upper()} {value:.3g}" for name, value in one.measures.items() if not math.isnan(value)]
            panels.append(("  ".join([_name(one.name), *texts]), partial(_draw_number, one)))
    return _svg(label, panels, size)


def _draw_confusion(confusion: Confusion, axes: "Axes") -> None:
    counts, places = confusion.counts, range(len(confusion.names))
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.4, interpolation="none")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true; the colour is a count's share of its row")
    if len(places) <= MOST_CLASSES:
        names = [*map(_name, confusion.names)]
        axes.set_xticks(places, names, rotation=90)
        axes.set_yticks(places, names)
        for i, j in zip(*counts.nonzero(), strict=True):
            axes.text(j, i, str(counts[i, j]), ha="center", va="center")


def _draw_labels(labels: Labels, axes: "Axes") -> None:
    f1 = labels.shares["f1"]
    worst = [k for k in labels.worst() if f1[k] >= 0][:_MOST_LABELS]  # NaN: neither there nor predicted
    bars = axes.barh(range(len(worst)), 100 * f1[worst])
    axes.bar_label(bars, [f"{percent(f1[k])} ({labels.present[k]} present)" for k in worst], padding=2)
    axes.set_yticks(range(len(worst)), [_name(labels.names[k]) for k in worst])
    axes.invert_yaxis()
    axes.set_xlabel("F1, %")


def _draw_number(number: Number, axes: "Axes") -> None:
    step = -(-len(number.true) // _MOST_DOTS) or 1
    axes.plot(number.true[::step], number.predicted[::step], "C0.")
    axes.plot(number.true, number.true, color="0.5", linewidth=0.8, zorder=0)  # where both are equal
    axes.set_xlabel("true")
    axes.set_ylabel("predicted")
