"""What sections of a page are made of, besides tables: charts, notes, a box that filters rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from orca_cli.report.figures.charts import Chart
from orca_cli.report.figures.strokes import escaped
from orca_cli.report.figures.svg import draw

_MOST_NOTES = 8  # shown without a click


def figures(charts: Iterable[Chart], *, captions: bool = True, flowing: bool = False) -> str:
    """Return charts one below the other, or side by side where they flow; empty where there are none."""
    shown = "".join(
        f"<figure><h3>{escaped(chart.title)}</h3>{draw(chart, standalone=False)}"
        + (f"<figcaption>{escaped(chart.note)}</figcaption>" if captions and chart.note else "")
        + "</figure>"
        for chart in charts
    )
    return f'<div class="{"flow" if flowing else "charts"}">{shown}</div>' if shown else ""


def filter_box(name: str, rows: int) -> str:
    """Return a box that filters the rows of a table by words; empty where a look is enough."""
    if rows < 5:
        return ""
    label = f"show rows with all these words in {name}"
    box = f'<input type="search" data-for="{name}" aria-label="{label}" placeholder="filter rows">'
    return f'<div class="tools" hidden>{box}<output></output></div>'


def listed(notes: Sequence[str]) -> str:
    """Return notes as a list, folded where there are many; empty where there are none."""
    items = [f"<li>{escaped(note)}</li>" for note in notes]
    if len(items) <= _MOST_NOTES:
        return f'<ul class="notes">{"".join(items)}</ul>' if items else ""
    return f'<details><summary>{len(items)} notes</summary><ul class="notes">{"".join(items)}</ul></details>'


def mean(values: Sequence[float]) -> float:
    """Return the mean of some values, summed without loss."""
    return math.fsum(values) / len(values)
