"""A run's answer as an SVG file: a confusion matrix, F1 of labels, or predicted against true numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orca_cli.report.answer.numbers import MOST_CLASSES, Answer, Confusion, Labels, Number, Values, percent
from orca_cli.report.figures.charts import Chart, Dot, Dots, Matrix, Scatter
from orca_cli.report.figures.svg import cut, draw_all

FILE = "answer.svg"
_LONGEST_NAME = 24
_MOST_TALL = 12  # classes whose cells hold the share as well
_MOST_PANELS = 12


def draw(answer: Answer, title: str) -> str:
    """Return an answer as the text of an SVG file; the title, such as the name of the task, stands above the picture."""
    charts: Sequence[Chart]
    if isinstance(answer, Confusion):
        what, note, charts = _confusion(answer)
    elif isinstance(answer, Labels):
        what, note, charts = _labels(answer)
    else:
        what, note, charts = _values(answer)
    return draw_all(f"{title}: {what}", note, charts)


def _confusion(confusion: Confusion) -> tuple[str, str, list[Chart]]:
    names = [cut(name, _LONGEST_NAME) for name in confusion.names]
    counts, shares = confusion.counts.tolist(), confusion.shares.tolist()
    share = confusion.correct / max(confusion.n, 1)
    what = f"{confusion.correct} of {confusion.n} test samples right ({100 * share:.2f} %)"
    if len(names) > MOST_CLASSES:
        pairs, rows = confusion.confused(), []
        for i, j in pairs:
            text = f"{counts[i][j]} ({percent(shares[i][j])})"
            rows.append(Dot(f"{names[i]} → {names[j]}", 100 * shares[i][j], 1, text=text))
        note = f"the most confused of {len(pairs)} pairs of classes"
        return what, note, [Dots("pairs", "", "share of the true class, %", tuple(rows), line=0.0)]
    texts: list[tuple[str, ...]] = []
    shades: list[tuple[float | None, ...]] = []
    for i, recall in enumerate(confusion.recall):
        cells = list(enumerate(zip(counts[i], shares[i], strict=True)))
        below = [f"\n{percent(part)}" if len(names) <= _MOST_TALL else "" for _, (_, part) in cells]
        texts.append((*(f"{count}{below[j]}" if count else "" for j, (count, _) in cells), percent(recall)))
        shades.append((*((part if i == j else -part) if count else None for j, (count, part) in cells), None))
    texts.append((*(percent(value, unit="") for value in confusion.precision), ""))
    shades.append((None,) * (len(names) + 1))
    matrix = Matrix("", "", (*names, "precision"), (*names, "recall"), tuple(texts), tuple(shades))
    return what, "rows: true class, columns: predicted; the colour is a count's share of its row", [matrix]


def _labels(labels: Labels) -> tuple[str, str, list[Chart]]:
    rows = []
    for k in labels.worst():
        if np.isnan(labels.f1[k]):
            continue  # neither there nor predicted
        ends = [100 * float(value) for value in (labels.precision[k], labels.recall[k]) if not np.isnan(value)]
        text = f"{percent(labels.f1[k])} ({labels.present[k]} present)"
        rows.append(Dot(cut(labels.names[k], _LONGEST_NAME), 100 * float(labels.f1[k]), 0, min(ends), max(ends), text))
    what = f"precision, recall and F1 of {len(labels.names)} labels on {labels.n} test samples"
    note = "the lowest F1 first; line: from precision to recall; predicted: probability of 50 % or more"
    return what, note, [Dots("labels", "", "F1, %", tuple(rows), line=0.0)]


def _values(values: Values) -> tuple[str, str, list[Chart]]:
    shown = values.numbers[:_MOST_PANELS]
    some = f"; the first {len(shown)} of {len(values.numbers)} numbers" if len(shown) < len(values.numbers) else ""
    what = f"predicted against true on {max(len(number.true) for number in values.numbers)} test samples"
    return what, f"dashed: predicted = true{some}", [_scatter(number) for number in shown]


def _scatter(number: Number) -> Scatter:
    measures = [("R2", number.r2), ("RMSE", number.rmse), ("MAE", number.mae)]
    texts = [f"{name} {value:.3g}" for name, value in measures if not np.isnan(value)]
    title = "  ".join(filter(None, (cut(number.name, _LONGEST_NAME), *texts)))
    points = tuple(zip(number.true.tolist(), number.predicted.tolist(), strict=True))
    return Scatter("", title, "true", "predicted", points, *number.limits)
