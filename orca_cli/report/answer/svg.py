"""A run's answer as an SVG file: self-contained, without scripts, readable on light and dark ground.

Colours are classes of a style sheet that follows `prefers-color-scheme`; a viewer that does not know it shows the light ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from xml.sax import saxutils

import numpy as np
from rich.cells import cell_len, set_cell_size

from orca_cli.report.answer.numbers import MOST_CLASSES, Answer, Confusion, Labels, Number, Values, percent

FILE = "answer.svg"
_STYLE = """\
text { font-family: system-ui, sans-serif; font-size: 12px; fill: #1f2328 }
.ground { fill: #ffffff }
.title { font-size: 14px; font-weight: 600 }
.faint { fill: #59636e }
.on { fill: #ffffff }
.right { fill: #1f6fb2 }
.wrong { fill: #c4421a }
.third { fill: #6f7782 }
.line { stroke: #9aa4af; fill: none }
@media (prefers-color-scheme: dark) {
text { fill: #e6e9ed }
.ground { fill: #16191d }
.faint { fill: #9aa4af }
.on { fill: #ffffff }
.right { fill: #3d8fd6 }
.wrong { fill: #e8693f }
.third { fill: #8b949e }
.line { stroke: #59636e }
}"""
_CHARACTER = 6.6  # width of one at 12 px, about
_LONGEST_NAME = 24
_MOST_PAIRS = 40
_MOST_LABELS = 60
_MOST_PANELS = 12
_MOST_POINTS = 1000  # drawn one by one; more are counted in squares
_SQUARES = 48
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass
class _Page:
    """What is drawn so far, and how far it reaches."""

    parts: list[str] = field(default_factory=list)
    width: float = 0
    height: float = 0

    def text(
        self, x: float, y: float, text: str, *, look: str = "", anchor: str = "start", turned: bool = False
    ) -> None:
        turn = f' transform="rotate(-60 {x:.1f} {y:.1f})"' if turned else ""
        look = f' class="{look}"' if look else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{look}{turn}>{_escaped(text)}</text>')
        if anchor == "start" and not turned:
            self._reach(x + _CHARACTER * cell_len(text) * (1.2 if "title" in look else 1), y + 6)

    def rect(
        self, x: float, y: float, width: float, height: float, look: str, opacity: float = 1, tip: str = ""
    ) -> None:
        title = f"<title>{_escaped(tip)}</title>" if tip else ""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{look}"'
            f' fill-opacity="{opacity:.3f}">{title}</rect>'
        )
        self._reach(x + width, y + height)

    def line(self, x: float, y: float, to_x: float, to_y: float, dashed: bool = False) -> None:
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.parts.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" class="line"{dash}/>')
        self._reach(max(x, to_x), max(y, to_y))

    def point(self, x: float, y: float, look: str, opacity: float, tip: str) -> None:
        self.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="{look}" fill-opacity="{opacity:.2f}">'
            f"<title>{_escaped(tip)}</title></circle>"
        )

    def _reach(self, x: float, y: float) -> None:
        self.width, self.height = max(self.width, x), max(self.height, y)


def draw(answer: Answer, title: str) -> str:
    """Return an answer as the text of an SVG file.

    Args:
        answer: what to draw.
        title: of the file, such as the name of the task; shown above the picture.
    """
    page = _Page()
    if isinstance(answer, Confusion):
        what = _confusion(page, answer, title)
    elif isinstance(answer, Labels):
        what = _labels(page, answer, title)
    else:
        what = _values(page, answer, title)
    heading = _escaped(f"{title}: {what}")
    width, height = round(page.width + 20), round(page.height + 20)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
            f' role="img" aria-label="{heading}">',
            f"<title>{heading}</title>",
            f"<style>\n{_STYLE}\n</style>",
            f'<rect width="{width}" height="{height}" class="ground"/>',
            *page.parts,
            "</svg>\n",
        ]
    )


def _escaped(text: str) -> str:
    """Return a text as XML takes it: some characters are in no document."""
    return saxutils.escape(_NOT_XML.sub("\ufffd", text), {'"': "&quot;"})


def _cut(name: str, longest: int = _LONGEST_NAME) -> str:
    return name if cell_len(name) <= longest else f"{set_cell_size(name, longest - 1).rstrip()}…"


def _room(names: Sequence[str]) -> float:
    """Return the width of the longest of some names."""
    return _CHARACTER * max((cell_len(_cut(name)) for name in names), default=0)


# Classes


def _confusion(page: _Page, found: Confusion, title: str) -> str:
    k, share = len(found.names), found.correct / max(found.n, 1)
    what = f"{found.correct} of {found.n} test samples right ({100 * share:.2f} %)"
    page.text(16, 24, f"{title}: {what}", look="title")
    if k > MOST_CLASSES:
        _pairs(page, found)
        return what
    page.text(16, 42, "rows: true class, columns: predicted; the colour is a count's share of its row", look="faint")
    cell = 48 if k <= 12 else 30 if k <= 24 else 15
    names = [_cut(name) for name in found.names]
    is_turned = _room(names) > cell - 6
    left = 24 + _room(names)
    top = 62 + (_room(names) * 0.87 + 8 if is_turned else 14)
    for j, name in enumerate(names):
        middle = left + (j + 0.5) * cell
        page.text(middle, top - 6, name, anchor="start" if is_turned else "middle", turned=is_turned)
        page.text(left - 8, top + (j + 0.5) * cell + 4, name, anchor="end")
    if is_turned:
        page.width = max(page.width, left + k * cell + _room(names[-1:]) / 2)
    page.rect(left, top, k * cell - 1, k * cell - 1, "third", 0.08)
    for i, j in np.argwhere(found.counts):
        _cell(page, found, int(i), int(j), (left + j * cell, top + i * cell), cell)
    for i, recall in enumerate(found.recall):
        page.text(left + k * cell + 8, top + (i + 0.5) * cell + 4, percent(recall), look="faint")
    bottom = top + k * cell + 16
    page.text(left - 8, bottom, "precision", look="faint", anchor="end")
    page.text(left + k * cell + 8, bottom, "recall", look="faint")
    for j, precision in enumerate(found.precision if cell > 15 else []):
        page.text(left + (j + 0.5) * cell, bottom, percent(precision, unit=""), look="faint", anchor="middle")
    page.height = max(page.height, bottom)
    return what


def _cell(page: _Page, found: Confusion, i: int, j: int, corner: tuple[float, float], cell: float) -> None:
    count, share = int(found.counts[i, j]), float(found.shares[i, j])
    (x, y), names = corner, found.names
    tip = f"true {names[i]}, predicted {names[j]}: {count} ({percent(share)} of {names[i]})"
    page.rect(x, y, cell - 1, cell - 1, "right" if i == j else "wrong", 0.12 + 0.78 * share, tip)
    if cell < 30 or len(str(count)) * _CHARACTER > cell:
        return
    look = "on" if share > 0.55 else ""
    middle, is_large = x + (cell - 1) / 2, cell >= 48
    page.text(middle, y + cell / 2 + (-2 if is_large else 4), str(count), look=look, anchor="middle")
    if is_large:
        page.text(middle, y + cell / 2 + 14, percent(share), look=look or "faint", anchor="middle")


def _pairs(page: _Page, found: Confusion) -> None:
    pairs = found.confused()
    shown = pairs[:_MOST_PAIRS]
    text = f"the {len(shown)} most confused of {len(pairs)} pairs of classes; bars: share of the true class"
    page.text(16, 42, text, look="faint")
    texts = [f"{_cut(found.names[i])} → {_cut(found.names[j])}" for i, j in shown]
    left = 24 + _CHARACTER * max(map(cell_len, texts), default=0)
    for row, ((i, j), name) in enumerate(zip(shown, texts, strict=True)):
        y, share = 60 + 20 * row, float(found.shares[i, j])
        page.text(left - 8, y + 12, name, anchor="end")
        page.rect(left, y, max(300 * share, 1), 16, "wrong", 0.85)
        page.text(left + 300 * share + 8, y + 12, f"{found.counts[i, j]} ({percent(share)})")


# Labels


def _labels(page: _Page, found: Labels, title: str) -> str:
    order = found.worst()
    some = len(order) > _MOST_LABELS
    rows = order[:_MOST_LABELS] if some else list(range(len(order)))
    what = f"precision, recall and F1 of {len(order)} labels on {found.n} test samples"
    page.text(16, 24, f"{title}: {what}", look="title")
    note = f"the {_MOST_LABELS} labels with the lowest F1; " if some else ""
    page.text(16, 42, f"{note}predicted: probability of 50 % or more", look="faint")
    left = 24 + _room([found.names[k] for k in rows])
    for place, (name, look) in enumerate((("F1", "right"), ("precision", "third"), ("recall", "wrong"))):
        page.rect(left + 90 * place, 54, 10, 10, look)
        page.text(left + 90 * place + 15, 63, name)
    for row, k in enumerate(rows):
        y = 76 + 26 * row
        page.text(left - 8, y + 14, _cut(found.names[k]), anchor="end")
        page.rect(left, y, 300, 20, "third", 0.08)
        tip = f"{found.names[k]}: present {found.present[k]}, predicted {found.predicted[k]}, both {found.both[k]}"
        for values, look, at, height in (
            (found.f1, "right", 0, 10),
            (found.precision, "third", 11, 4),
            (found.recall, "wrong", 16, 4),
        ):
            if not np.isnan(values[k]):
                page.rect(left, y + at, max(300 * float(values[k]), 1), height, look, 1, tip)
        f1 = percent(found.f1[k])
        page.text(left + 308, y + 14, f"{f1}  ({found.present[k]} present)", look="faint")
    return what


# Numbers


def _values(page: _Page, found: Values, title: str) -> str:
    numbers = found.numbers[:_MOST_PANELS]
    what = f"predicted against true on {max(len(number.true) for number in found.numbers)} test samples"
    page.text(16, 24, f"{title}: {what}", look="title")
    some = f"; the first {len(numbers)} of {len(found.numbers)} numbers" if len(numbers) < len(found.numbers) else ""
    page.text(16, 42, f"dashed: predicted = true{some}", look="faint")
    side = 340 if len(numbers) == 1 else 230
    for place, number in enumerate(numbers):
        row, column = divmod(place, 3)
        _panel(page, number, 76 + column * (side + 90), 84 + row * (side + 90), side)
    return what


def _panel(page: _Page, number: Number, left: float, top: float, side: float) -> None:
    low, high = number.limits
    measures = [("R2", number.r2), ("RMSE", number.rmse), ("MAE", number.mae)]
    texts = [f"{name} {value:.3g}" for name, value in measures if not np.isnan(value)]
    page.text(left, top - 10, "  ".join(filter(None, (_cut(number.name), *texts))))
    page.rect(left, top, side, side, "third", 0.08)
    page.line(left, top + side, left + side, top, dashed=True)
    for share in (0, 0.5, 1):
        value = f"{low + share * (high - low):.3g}"
        page.text(left - 8, top + side * (1 - share) + 4, value, look="faint", anchor="end")
        page.text(left + side * share, top + side + 16, value, look="faint", anchor="middle")
    page.text(left + side / 2, top + side + 32, "true", anchor="middle")
    page.text(left - 8, top - 10, "predicted", look="faint", anchor="end")
    page.height = max(page.height, top + side + 34)
    true = (number.true - low) / (high - low)
    predicted = (number.predicted.clip(low, high) - low) / (high - low)
    if len(true) > _MOST_POINTS:
        for i, j, count, opacity in _counted(true, predicted):
            width = side / _SQUARES
            corner = left + i * width, top + side - (j + 1) * width
            page.rect(*corner, width, width, "right", opacity, f"{count} samples")
        return
    for x, y, there, said in zip(true, predicted, number.true, number.predicted, strict=True):
        look = "wrong" if not low <= said <= high else "right"
        page.point(left + side * x, top + side * (1 - y), look, 0.6, f"true {there:.4g}, predicted {said:.4g}")


def _counted(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[int, int, int, float]]:
    """Yield the squares with samples: column, row from below, count, and how opaque to draw it."""
    counts = np.zeros((_SQUARES, _SQUARES), np.int64)
    places = [np.minimum((values * _SQUARES).astype(int), _SQUARES - 1) for values in (x, y)]
    np.add.at(counts, tuple(places), 1)
    most = np.log1p(counts.max())
    for i, j in np.argwhere(counts):
        yield int(i), int(j), int(counts[i, j]), 0.15 + 0.85 * float(np.log1p(counts[i, j]) / most)
