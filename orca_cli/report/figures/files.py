"""Figures as files: SVG by our own drawing, PNG and PDF by matplotlib (extra `plot`), which is loaded only for these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import storage
from orca_cli.exceptions import UnavailableError, UsageError, suggest
from orca_cli.report.figures import svg
from orca_cli.report.figures.charts import LOOKS, Bars, Chart, Dots, Lines, Matrix
from orca_cli.report.figures.strokes import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("svg", "png", "pdf")
_MARKERS = "os^DvPX*"
_DASHES = ("-", "--", ":", "-.")
_WIDTH_IN, _DPI = 5.0, 200


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
    charts, written = list(charts), []
    if "svg" in formats:
        for chart in charts:
            written.append(folder / f"{chart.name}.svg")
            storage.write_text(written[-1], svg.draw(chart))
    others = [form for form in formats if form != "svg"]
    if others:
        figure_of = _with_matplotlib(others)
        for chart in charts:
            for form in others:
                written.append(folder / f"{chart.name}.{form}")
                storage.write_bytes(written[-1], figure_of(chart, form))
    return written


def _with_matplotlib(formats: Sequence[str]) -> Any:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        names = " and ".join(form.upper() for form in formats)
        hint = "pip install 'orca-transfer[plot]', or add --figures-as svg"
        raise UnavailableError(
            f"{names} need matplotlib, which is not installed", where="--figures", hint=hint
        ) from error
    import io

    settings: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "orca"}

    def figure_of(chart: Chart, form: str) -> bytes:
        with matplotlib.rc_context(settings):
            figure = Figure(figsize=(_WIDTH_IN, _height(chart)), layout="constrained")
            axes = figure.add_subplot()
            axes.set_title(_plain(chart.title), fontsize=9, loc="left")
            {Lines: _lines, Dots: _dots, Bars: _bars, Matrix: _matrix}[type(chart)](axes, chart)  # type: ignore[operator]
            file = io.BytesIO()
            metadata = {"Software": None} if form == "png" else {"CreationDate": None}
            figure.savefig(file, format=form, dpi=_DPI, metadata=metadata)
        return file.getvalue()

    return figure_of


def _height(chart: Chart) -> float:
    if isinstance(chart, Lines):
        return 3.2
    names = 1.3 if isinstance(chart, Matrix) else 0.0  # below the columns
    return min(1.5 + names + 0.28 * len(chart.rows), 12.0)


def _plain(text: str) -> str:
    """Return a text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")


def _lines(axes: Axes, chart: Lines) -> None:
    for one in chart.series:
        x, y, low, high = zip(*one.points, strict=True)
        colour, marker = LIGHT[one.look % LOOKS], _MARKERS[one.look % LOOKS]
        dash = _DASHES[(one.look + one.look // LOOKS) % len(_DASHES)]
        steps, last = "steps-post" if chart.is_step else "default", [len(x) - 1]
        looks: Any = {"color": colour, "marker": marker, "markevery": last, "ms": 4, "lw": 1.3}
        axes.plot(x, y, dash, **looks, label=_plain(one.name), drawstyle=steps)
        if any(a < b for a, b in zip(low, high, strict=True)):
            axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0, step="post" if chart.is_step else None)
        if one.level is not None:
            axes.axhline(one.level, color=colour, ls=":", lw=0.9)
        if one.chosen is not None and one.chosen < x[-1]:
            place = min(range(len(x)), key=lambda place: abs(x[place] - (one.chosen or 0)))
            axes.plot([x[place]], [y[place]], "o", mfc="none", mec=colour, ms=9)
    if chart.is_log:
        axes.set_yscale("log")
    axes.set_xlabel(_plain(chart.x))
    axes.set_ylabel(_plain(chart.y))
    if chart.series:
        axes.legend(frameon=False, fontsize=7)


def _dots(axes: Axes, chart: Dots) -> None:
    for place, dot in enumerate(chart.rows):
        colour, marker = LIGHT[dot.look % LOOKS], _MARKERS[dot.look % LOOKS]
        if dot.low is not None and dot.high is not None:
            axes.plot([dot.low, dot.high], [place, place], color=colour, lw=1.3)
        axes.plot([dot.value], [place], marker, color=colour, ms=5)
    if chart.line is not None:
        axes.axvline(chart.line, color="#59636e", lw=0.9)
    _rows(axes, [dot.label for dot in chart.rows], chart.x)


def _bars(axes: Axes, chart: Bars) -> None:
    left = [0.0] * len(chart.rows)
    for part, name in enumerate(chart.parts):
        lengths = [row[1][part] for row in chart.rows]
        axes.barh(range(len(lengths)), lengths, left=left, height=0.6, color=LIGHT[part % LOOKS], label=_plain(name),
                  hatch=("", "///", "...", "xx")[part % 4], edgecolor="white")  # fmt: skip
        left = [a + b for a, b in zip(left, lengths, strict=True)]
    _rows(axes, [label for label, _, _ in chart.rows], chart.x)
    axes.legend(
        frameon=False, fontsize=7, ncols=len(chart.parts), loc="lower right", bbox_to_anchor=(1, 1), borderpad=0
    )


def _matrix(axes: Axes, chart: Matrix) -> None:
    shades = [[float("nan") if shade is None else shade for shade in row] for row in chart.shades]
    axes.imshow(shades, cmap="RdBu", vmin=-1.6, vmax=1.6, aspect="auto")
    for i, row in enumerate(chart.texts):
        for j, text in enumerate(row):
            axes.text(j, i, _plain(text), ha="center", va="center", fontsize=7)
    axes.set_xticks(range(len(chart.columns)), map(_plain, chart.columns), rotation=45, ha="right")
    axes.set_yticks(range(len(chart.rows)), map(_plain, chart.rows))


def _rows(axes: Axes, labels: Sequence[str], unit: str) -> None:
    axes.set_yticks(range(len(labels)), map(_plain, labels))
    axes.invert_yaxis()
    axes.set_xlabel(_plain(unit))
    axes.grid(axis="x", color="#d4d9df", lw=0.6)
    axes.set_axisbelow(True)
