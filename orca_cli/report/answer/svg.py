"""A run's answer as an SVG file: self-contained, without scripts, readable on light and dark ground."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rich.cells import cell_len

from orca_cli.report.answer.numbers import MOST_CLASSES, Answer, Confusion, Labels, Number, Values, percent
from orca_cli.report.figures.strokes import CHARACTER, Drawing, cut

FILE = "answer.svg"
_RIGHT, _WRONG, _THIRD = 0, 1, 6  # looks
_LONGEST_NAME = 24
_MOST_PAIRS = 40
_MOST_LABELS = 60
_MOST_PANELS = 12
_MOST_POINTS = 1000  # drawn one by one; more are counted in squares
_SQUARES = 48


class _Page(Drawing):
    """A drawing that is as large as what is drawn."""

    width = height = 0.0

    def text(self, x: float, y: float, text: str, look: str = "", anchor: str = "", *, turned: bool = False) -> None:
        super().text(x, y, text, look, anchor, turned=turned)
        if not anchor and not turned:
            self.reach(x + CHARACTER * cell_len(text) * (1.2 if look == "h" else 1), y + 6)

    def rect(self, x: float, y: float, width: float, height: float, look: int, opacity: float = 1.0) -> None:
        super().rect(x, y, width, height, look, opacity)
        self.reach(x + width, y + height)

    def reach(self, x: float, y: float) -> None:
        """Make the page reach a place at least."""
        self.width, self.height = max(self.width, x), max(self.height, y)


def draw(answer: Answer, title: str) -> str:
    """Return an answer as the text of an SVG file.

    Args:
        answer: what to draw.
        title: of the file, such as the name of the task; shown above the picture.
    """
    page = _Page()
    if isinstance(answer, Confusion):
        what, note = _confusion(page, answer)
    elif isinstance(answer, Labels):
        what, note = _labels(page, answer)
    else:
        what, note = _values(page, answer)
    heading = f"{title}: {what}"
    page.text(16, 24, heading, "h")
    page.text(16, 42, note, "f")
    return page.svg(heading, round(page.width + 20), round(page.height + 20))


def _room(names: Sequence[str]) -> float:
    """Return the width of the longest of some names."""
    return CHARACTER * max((cell_len(cut(name, _LONGEST_NAME)) for name in names), default=0)


# Classes


def _confusion(page: _Page, confusion: Confusion) -> tuple[str, str]:
    k, share = len(confusion.names), confusion.correct / max(confusion.n, 1)
    what = f"{confusion.correct} of {confusion.n} test samples right ({100 * share:.2f} %)"
    if k > MOST_CLASSES:
        return what, _pairs(page, confusion)
    cell = 48 if k <= 12 else 30 if k <= 24 else 15
    names = [cut(name, _LONGEST_NAME) for name in confusion.names]
    is_turned = _room(names) > cell - 6
    left = 24 + _room(names)
    top = 62 + (_room(names) * 0.87 + 8 if is_turned else 14)
    for j, name in enumerate(names):
        page.text(left + (j + 0.5) * cell, top - 6, name, anchor="" if is_turned else "middle", turned=is_turned)
        page.text(left - 8, top + (j + 0.5) * cell + 4, name, anchor="end")
    if is_turned:
        page.reach(left + k * cell + _room(names[-1:]) / 2, 0)
    page.rect(left, top, k * cell - 1, k * cell - 1, _THIRD, 0.08)
    for i, j in np.argwhere(confusion.counts):
        _cell(page, confusion, int(i), int(j), (left + j * cell, top + i * cell), cell)
    for i, recall in enumerate(confusion.recall):
        page.text(left + k * cell + 8, top + (i + 0.5) * cell + 4, percent(recall), "f")
    bottom = top + k * cell + 16
    page.text(left - 8, bottom, "precision", "f", "end")
    page.text(left + k * cell + 8, bottom, "recall", "f")
    for j, precision in enumerate(confusion.precision if cell > 15 else []):
        page.text(left + (j + 0.5) * cell, bottom, percent(precision, unit=""), "f", "middle")
    return what, "rows: true class, columns: predicted; the colour is a count's share of its row"


def _cell(page: _Page, confusion: Confusion, i: int, j: int, corner: tuple[float, float], cell: float) -> None:
    count, share = int(confusion.counts[i, j]), float(confusion.shares[i, j])
    x, y = corner
    page.rect(x, y, cell - 1, cell - 1, _RIGHT if i == j else _WRONG, 0.12 + 0.78 * share)
    if cell < 30 or len(str(count)) * CHARACTER > cell:
        return
    look = "g" if share > 0.55 else ""
    middle, is_large = x + (cell - 1) / 2, cell >= 48
    page.text(middle, y + cell / 2 + (-2 if is_large else 4), str(count), look, "middle")
    if is_large:
        page.text(middle, y + cell / 2 + 14, percent(share), look or "f", "middle")


def _pairs(page: _Page, confusion: Confusion) -> str:
    pairs = confusion.confused()
    shown = pairs[:_MOST_PAIRS]
    texts = [f"{cut(confusion.names[i], _LONGEST_NAME)} → {cut(confusion.names[j], _LONGEST_NAME)}" for i, j in shown]
    left = 24 + CHARACTER * max(map(cell_len, texts), default=0)
    for row, ((i, j), name) in enumerate(zip(shown, texts, strict=True)):
        y, share = 60 + 20 * row, float(confusion.shares[i, j])
        page.text(left - 8, y + 12, name, anchor="end")
        page.rect(left, y, max(300 * share, 1), 16, _WRONG, 0.85)
        page.text(left + 300 * share + 8, y + 12, f"{confusion.counts[i, j]} ({percent(share)})")
    return f"the {len(shown)} most confused of {len(pairs)} pairs of classes; bars: share of the true class"


# Labels


def _labels(page: _Page, labels: Labels) -> tuple[str, str]:
    order = labels.worst()
    some = len(order) > _MOST_LABELS
    rows = order[:_MOST_LABELS] if some else list(range(len(order)))
    left = 24 + _room([labels.names[k] for k in rows])
    for place, (name, look) in enumerate((("F1", _RIGHT), ("precision", _THIRD), ("recall", _WRONG))):
        page.rect(left + 90 * place, 54, 10, 10, look)
        page.text(left + 90 * place + 15, 63, name)
    bars = ((labels.f1, _RIGHT, 0, 10), (labels.precision, _THIRD, 11, 4), (labels.recall, _WRONG, 16, 4))
    for row, k in enumerate(rows):
        y = 76 + 26 * row
        page.text(left - 8, y + 14, cut(labels.names[k], _LONGEST_NAME), anchor="end")
        page.rect(left, y, 300, 20, _THIRD, 0.08)
        for values, look, at, height in bars:
            if not np.isnan(values[k]):
                page.rect(left, y + at, max(300 * float(values[k]), 1), height, look)
        page.text(left + 308, y + 14, f"{percent(labels.f1[k])}  ({labels.present[k]} present)", "f")
    note = f"the {_MOST_LABELS} labels with the lowest F1; " if some else ""
    what = f"precision, recall and F1 of {len(order)} labels on {labels.n} test samples"
    return what, f"{note}predicted: probability of 50 % or more"


# Numbers


def _values(page: _Page, values: Values) -> tuple[str, str]:
    numbers = values.numbers[:_MOST_PANELS]
    side = 340 if len(numbers) == 1 else 230
    for place, number in enumerate(numbers):
        row, column = divmod(place, 3)
        _panel(page, number, 76 + column * (side + 90), 84 + row * (side + 90), side)
    some = f"; the first {len(numbers)} of {len(values.numbers)} numbers" if len(numbers) < len(values.numbers) else ""
    what = f"predicted against true on {max(len(number.true) for number in values.numbers)} test samples"
    return what, f"dashed: predicted = true{some}"


def _panel(page: _Page, number: Number, left: float, top: float, side: float) -> None:
    low, high = number.limits
    measures = [("R2", number.r2), ("RMSE", number.rmse), ("MAE", number.mae)]
    texts = [f"{name} {value:.3g}" for name, value in measures if not np.isnan(value)]
    page.text(left, top - 10, "  ".join(filter(None, (cut(number.name, _LONGEST_NAME), *texts))))
    page.rect(left, top, side, side, _THIRD, 0.08)
    page.add(f'<path class="z" stroke-dasharray="4 3" d="M{left} {top + side}L{left + side} {top}"/>')
    for share in (0, 0.5, 1):
        value = f"{low + share * (high - low):.3g}"
        page.text(left - 8, top + side * (1 - share) + 4, value, "f", "end")
        page.text(left + side * share, top + side + 16, value, "f", "middle")
    page.text(left + side / 2, top + side + 32, "true", anchor="middle")
    page.text(left - 8, top - 10, "predicted", "f", "end")
    page.reach(0, top + side + 34)
    true = (number.true - low) / (high - low)
    predicted = (number.predicted.clip(low, high) - low) / (high - low)
    if len(true) > _MOST_POINTS:
        width = side / _SQUARES
        for i, j, opacity in _counted(true, predicted):
            page.rect(left + i * width, top + side - (j + 1) * width, width, width, _RIGHT, opacity)
        return
    for x, y, prediction in zip(true, predicted, number.predicted, strict=True):
        look, place = _RIGHT if low <= prediction <= high else _WRONG, (left + side * x, top + side * (1 - y))
        page.add(f'<circle class="b c{look}" cx="{place[0]:.4g}" cy="{place[1]:.4g}" r="3" fill-opacity="0.6"/>')


def _counted(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Yield the squares with samples: column, row from below, and how opaque to draw it for its count."""
    counts = np.zeros((_SQUARES, _SQUARES), np.int64)
    places = [np.minimum((values * _SQUARES).astype(int), _SQUARES - 1) for values in (x, y)]
    np.add.at(counts, tuple(places), 1)
    most = np.log1p(counts.max())
    for i, j in np.argwhere(counts):
        yield int(i), int(j), 0.15 + 0.85 * float(np.log1p(counts[i, j]) / most)
