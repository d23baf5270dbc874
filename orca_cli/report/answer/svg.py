"""A run's answer as an SVG file: a confusion matrix, F1 of labels, or predicted against true numbers."""

from __future__ import annotations

import numpy as np

from orca_cli.report.answer.numbers import MOST_CLASSES, Answer, Confusion, Labels, Number, Values, percent
from orca_cli.report.figures.charts import Chart, Dot, Dots, Matrix, Scatter
from orca_cli.report.figures.svg import draw_all
from orca_cli.terminal import counted

FILE = "answer.svg"
_MOST_PANELS = 12


def draw(answer: Answer, title: str) -> str:
    """Return an answer as the text of an SVG file; the title, such as the name of the task, stands above the picture."""
    charts: list[Chart]
    if isinstance(answer, Confusion):
        share = answer.correct / max(answer.n, 1)
        what = f"{answer.correct} of {answer.n} test samples right ({100 * share:.2f} %)"
        note, charts = _confusion(answer)
    elif isinstance(answer, Labels):
        what = (
            f"precision, recall and F1 of {counted(len(answer.names), 'label')} on {counted(answer.n, 'test sample')}"
        )
        note = "the lowest F1 first; line: from precision to recall; predicted: probability of 50 % or more"
        charts = [_labels(answer)]
    else:
        what, charts = _values(answer)
        note = "dashed: predicted = true"
    return draw_all(f"{title}: {what}", note, charts)


def _confusion(confusion: Confusion) -> tuple[str, list[Chart]]:
    names, counts, shares = tuple(confusion.names), confusion.counts.tolist(), confusion.shares.tolist()
    if len(names) <= MOST_CLASSES:
        matrix = Matrix("", "", names, tuple(map(tuple, counts)), tuple(map(tuple, shares)))
        return "rows: true class, columns: predicted; the colour is a count's share of its row", [matrix]
    pairs = confusion.confused()
    rows = tuple(
        Dot(f"{names[i]} → {names[j]}", 100 * shares[i][j], 1, text=f"{counts[i][j]} ({percent(shares[i][j])})")
        for i, j in pairs
    )
    note = f"the most confused of {counted(len(pairs), 'pair')} of classes"
    return note, [Dots("pairs", "", "share of the true class, %", rows, line=0.0)]


def _labels(labels: Labels) -> Dots:
    rows = []
    for k in labels.worst():
        if np.isnan(labels.f1[k]):
            continue  # neither there nor predicted
        ends = [100 * float(value) for value in (labels.precision[k], labels.recall[k]) if not np.isnan(value)]
        text = f"{percent(labels.f1[k])} ({labels.present[k]} present)"
        rows.append(Dot(labels.names[k], 100 * float(labels.f1[k]), 0, min(ends), max(ends), text))
    return Dots("labels", "", "F1, %", tuple(rows), line=0.0)


def _values(values: Values) -> tuple[str, list[Chart]]:
    shown = values.numbers[:_MOST_PANELS]
    some = f"; the first {len(shown)} of {len(values.numbers)} numbers" if len(shown) < len(values.numbers) else ""
    most = max(len(number.true) for number in values.numbers)
    what = f"predicted against true on {counted(most, 'test sample')}{some}"
    return what, [_scatter(number) for number in shown]


def _scatter(number: Number) -> Scatter:
    measures = [("R2", number.r2), ("RMSE", number.rmse), ("MAE", number.mae)]
    texts = [f"{name} {value:.3g}" for name, value in measures if not np.isnan(value)]
    points = tuple(zip(number.true.tolist(), number.predicted.tolist(), strict=True))
    return Scatter("", "  ".join([number.name, *texts]).strip(), "true", "predicted", points, *number.limits)
