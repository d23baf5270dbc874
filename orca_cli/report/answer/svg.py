"""A run's answer as an SVG file: a confusion matrix, F1 of labels, or predicted against true numbers."""

import numpy as np

from orca_cli.report.answer.numbers import MOST_CLASSES, Answer, Confusion, Labels, percent
from orca_cli.report.figures.charts import Chart, Dot, Dots, Matrix, Scatter
from orca_cli.report.figures.svg import draw_all
from orca_cli.terminal import counted

FILE = "answer.svg"
_MOST_PANELS = 12


def draw(answer: Answer, title: str) -> str:
    """Return an answer as the text of an SVG file; the title, such as the name of the task, stands above the picture."""
    charts: list[Chart]
    if isinstance(answer, Confusion):
        what, (note, charts) = answer.right, _confusion(answer)
    elif isinstance(answer, Labels):
        labels, samples = counted(len(answer.names), "label"), counted(answer.n, "test sample")
        what = f"precision, recall and F1 of {labels} on {samples}"
        note = "the lowest F1 first; line: from precision to recall; predicted: probability of 50 % or more"
        charts = [_labels(answer)]
    else:
        shown = answer.numbers[:_MOST_PANELS]
        some = f"; the first {len(shown)} of {len(answer.numbers)} numbers" if len(shown) < len(answer.numbers) else ""
        most = max(len(number.true) for number in answer.numbers)
        what = f"predicted against true on {counted(most, 'test sample')}{some}"
        note, charts = "dashed: predicted = true", []
        for number in shown:
            texts = [f"{name.upper()} {value:.3g}" for name, value in number.measures.items() if not np.isnan(value)]
            points = tuple(zip(number.true.tolist(), number.predicted.tolist(), strict=True))
            charts.append(Scatter(points, "  ".join([number.name, *texts]).strip()))
    return draw_all(f"{title}: {what}", note, charts)


def _confusion(confusion: Confusion) -> tuple[str, list[Chart]]:
    names, counts = tuple(confusion.names), confusion.counts.tolist()
    if len(names) <= MOST_CLASSES:
        note = "rows: true class, columns: predicted; the colour is a count's share of its row"
        return note, [Matrix(names, tuple(map(tuple, counts)))]
    pairs, rows = confusion.confused(), []
    for i, j in pairs:
        share = counts[i][j] / sum(counts[i])
        rows.append(Dot(f"{names[i]} → {names[j]}", 100 * share, 1, text=f"{counts[i][j]} ({percent(share)})"))
    note = f"the most confused of {counted(len(pairs), 'pair')} of classes"
    return note, [Dots("pairs", "", "share of the true class, %", tuple(rows))]


def _labels(labels: Labels) -> Dots:
    rows, shares = [], labels.shares
    for k in labels.worst():
        precision, recall, f1 = (100 * float(values[k]) for values in shares.values())
        if not np.isnan(f1):  # else neither there nor predicted
            ends = [value for value in (precision, recall) if not np.isnan(value)]
            text = f"{percent(f1 / 100)} ({labels.present[k]} present)"
            rows.append(Dot(labels.names[k], f1, 0, min(ends), max(ends), text))
    return Dots("labels", "", "F1, %", tuple(rows))
