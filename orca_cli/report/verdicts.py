"""A comparison in words and tables: a sentence for each arm, all sets together, and every set by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from orca_cli import terminal
from orca_cli.report import console, formats
from orca_cli.report.layout import PLUS_MINUS, Entry, Layout, alarms_of, header, problems_of
from orca_cli.report.notes import clean, seeds_text
from orca_cli.report.paired import LARGEST_P, Block, Comparison, Overall
from orca_cli.report.statistics import Effect
from orca_cli.report.table import Table

_MISSING = "-"
_OVERALL = (
    *(("sets",), ("wins/ties/losses",), ("gain", "points"), ("worst set", "points"), ("gain", "% of the error")),
    *(("p",), ("p, Holm",), ("least p",)),
)
CSV_COLUMNS = (
    *("task", "error", "percent", "protocol", "arm", "others", "sets", "pairs", "seeds", "unpaired"),
    *("baseline_mean", "mean", "unit", "gain", "low", "high", "p", "smallest_p", "holm_p", "wins", "ties", "losses"),
)


@dataclass(frozen=True)
class Page:
    """What a report shows: the table, or in its place a comparison of its rows."""

    table: Table
    comparison: Comparison | None = None

    def text(self, form: str) -> str:
        """Return it in one of `formats.FORMATS` as the content of a file."""
        if self.comparison is None:
            return formats.text_of(self.table, form)
        if form == "csv":
            return formats.csv_of(CSV_COLUMNS, csv_lines(self.comparison))
        if form == "json":
            return terminal.to_json(self.record())
        return formats.marked_up(layouts_of(self.comparison, self.table), form)

    def renderables(self, width: int) -> list[RenderableType]:
        """Return it for a terminal of `width` characters whose encoding is that of standard output."""
        if self.comparison is None:
            return formats.terminal_of(self.table, width)
        layouts = layouts_of(self.comparison, self.table, formats.sign())
        shown = [console.renderables(layout, width) for layout in layouts]
        return [*shown[0], Text(""), *shown[1]]

    def record(self) -> dict[str, Any]:
        """Return it as a JSON-able record."""
        return formats.record_of(self.table) if self.comparison is None else record_of(self.comparison)


def sentence(one: Overall, comparison: Comparison, sign: str = PLUS_MINUS) -> str:
    """Return what is known about an arm, such as "otdd: helps by 1.9 points [1.1, 2.7] (n = 12 sets x 5 seeds, ...)"."""
    low_n, high_n = one.seeds
    seeds = f"{low_n if low_n == high_n else f'{low_n} to {high_n}'} seed{'s' if high_n > 1 else ''}"
    counted = f"n = {one.sets} sets x {seeds}" if one.sets > 1 else f"n = {seeds}, one set"
    found, unit = _scaled(one)
    if found is None:
        return f"{one.arm}: undecided ({counted}; an error of 0 has no ratio)"
    arms = len(comparison.overall)
    facts = f"{counted}, p = {_p(one.corrected)}" + (f" corrected for {arms} arms" if arms > 1 else "")
    if found.interval is None:
        return f"{one.arm}: undecided, {found.mean:+.1f} {unit} in the only pair ({counted})"
    low, high = found.interval
    is_sure = one.corrected <= LARGEST_P
    if is_sure and low > 0:
        return f"{one.arm}: helps by {found.mean:.1f} {unit} [{low:.1f}, {high:.1f}] ({facts})"
    if is_sure and high < 0:
        return f"{one.arm}: harms by {-found.mean:.1f} {unit} [{-high:.1f}, {-low:.1f}] ({facts})"
    if max(-low, high) <= comparison.margin:
        return f"{one.arm}: no effect beyond {sign}{comparison.margin:g} {unit} ({facts})"
    few = f"; {found.n} differences cannot reach p = {LARGEST_P}" if found.smallest > LARGEST_P else ""
    return f"{one.arm}: undecided, {found.mean:+.1f} {unit} [{low:.1f}, {high:.1f}] ({facts}{few})"


def _scaled(one: Overall) -> tuple[Effect | None, str]:
    """Return the judged effect in the unit in which it is shown: logs of ratios as per cent of the baseline's error."""
    if not one.is_relative or one.relative is None:
        return one.judged, "points"
    return _as_percent(one.relative), "% of the error"


def _as_percent(found: Effect) -> Effect:
    """Return the effect on log(baseline / arm) as the share of the baseline's error that is gained, in per cent."""

    def share(log: float) -> float:
        return 100 * (1 - math.exp(-log))

    ends = None if found.interval is None else (share(found.interval[0]), share(found.interval[1]))
    return Effect(found.n, share(found.mean), ends, found.p, found.smallest)


def layouts_of(comparison: Comparison, table: Table, sign: str = PLUS_MINUS) -> list[Layout]:
    """Return two tables: the arms over all sets, with their sentences, and the arms by set."""
    axis, baseline = clean(comparison.axis), clean(comparison.baseline)
    first = Layout(
        names=[axis],
        columns=[list(lines) for lines in _OVERALL],
        rows=[([clean(one.arm)], list(_overall_entries(one)), "") for one in comparison.overall],
        ranked=False,
        caption=(
            f"Gain over {axis}={baseline}, in pairs of equal seed and settings; above 0: lower error. Mean [95 % bootstrap "
            "interval] over sets, each with the mean over its seeds and settings. points: sets whose error is a per cent. "
            "% of the error: from the mean log ratio of the errors, all sets. p: exact sign-flip test; Holm: corrected for "
            "the number of arms; least p: the smallest possible with this number of differences."
        ),
        notes=[clean(sentence(one, comparison, sign), longest=2000) for one in comparison.overall]
        + _coverage(comparison),
        problems=[],
        alarms=alarms_of(table),
        alarmed=[False] * len(_OVERALL),
    )
    blocks = sorted((block for block in comparison.blocks if block.seeds), key=lambda block: (block.arm, block.others))
    columns = sorted({block.column for block in blocks})
    many = len({column.protocol for column in columns}) > 1
    shared = set.intersection(*(set(block.others) for block in blocks)) if blocks else set()
    pairs = {(dict(block.others).get("body"), dict(block.others).get("source")) for block in blocks}
    implied = "source" if len({body for body, _ in pairs}) == len(pairs) else ""
    rows: dict[tuple[str, str], list[Entry]] = {}
    for block in blocks:
        own = (f"{name}={value}" for name, value in block.others if (name, value) not in shared and name != implied)
        entries = rows.setdefault((clean(block.arm), clean(", ".join(own))), [Entry(_MISSING) for _ in columns])
        entries[columns.index(block.column)] = _block_entry(block)
    common = ", ".join(f"{name}={value}" for name, value in sorted(shared) if name != implied)
    notes = [f"all with {clean(common, longest=2000)}"] if common else []
    if comparison.unpaired:
        notes.append(f"{comparison.unpaired} completed runs have no partner with {axis}={baseline} and are left out")
    second = Layout(
        names=[axis, "with"],
        columns=[header(column, many) for column in columns],
        rows=[(list(key), entries, "") for key, entries in rows.items()],
        ranked=False,
        caption=(
            "Gain on each set, in points where the error is a per cent: mean [95 % bootstrap interval] over seeds (number of "
            "seeds), baseline's mean error > arm's. Intervals of few seeds are too narrow."
        ),
        notes=notes,
        problems=problems_of(table),
        alarms=[],
        alarmed=[column.chosen_on_test for column in columns],
    )
    return [first, second]


def _coverage(comparison: Comparison) -> list[str]:
    """Return a note where arms cannot be compared with each other, since they were not run on the same; else nothing."""
    of: dict[str, set[tuple[object, ...]]] = {one.arm: set() for one in comparison.overall}
    for block in comparison.blocks:
        if block.seeds:
            of[block.arm].add((block.column, block.others, block.seeds))
    if len(set(map(frozenset, of.values()))) < 2:
        return []
    counts = ", ".join(f"{clean(arm)} {sum(len(seeds) for *_, seeds in found)}" for arm, found in of.items())  # type: ignore[misc,arg-type]
    return [f"arms have pairs on different sets, settings or seeds, so compare no arm with another: {counts} pairs"]


def _overall_entries(one: Overall) -> Iterator[Entry]:
    judged = one.judged
    yield Entry(str(one.sets))
    yield Entry(f"{one.wins}/{one.ties}/{one.losses}")
    yield Entry(_with_interval(one.points, 2))
    yield Entry(_MISSING if one.worst is None else f"{one.worst[1]:+.1f} {clean(one.worst[0])}")
    yield Entry(_with_interval(one.relative and _as_percent(one.relative), 1))
    yield Entry(_MISSING if judged is None else _p(judged.p))
    yield Entry(_p(one.corrected))
    yield Entry(_MISSING if judged is None else _p(judged.smallest))


def _block_entry(block: Block) -> Entry:
    found, decimals = block.effect, 1 if block.column.percent else 3
    assert found is not None  # blocks without a pair are not shown
    base, mine = (block.scale * math.fsum(values) / len(values) for values in (block.baseline, block.errors))
    lost = f", {block.lost} without partner" if block.lost else ""
    text = f"{_with_interval(found, decimals)} ({found.n})"
    return Entry(text, f"{base:.{decimals}f} > {mine:.{decimals}f}{lost}")


def _with_interval(found: Effect | None, decimals: int) -> str:
    if found is None:
        return _MISSING
    ends = "" if found.interval is None else " [{:.{d}f}, {:.{d}f}]".format(*found.interval, d=decimals)
    return f"{found.mean:+.{decimals}f}{ends}"


def _p(value: float) -> str:
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def record_of(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as a JSON-able record, with the values of all pairs; gains in points where errors are per cent."""
    return {
        "schema": 1,
        "against": {comparison.axis: comparison.baseline},
        "margin": comparison.margin,
        "arms": [
            {
                "arm": one.arm,
                "sets": one.sets,
                "pairs": one.pairs,
                "wins": one.wins,
                "ties": one.ties,
                "losses": one.losses,
                "points": one.points and asdict(one.points),
                "worst": one.worst and list(one.worst),
                "log_ratio": one.relative and asdict(one.relative),
                "judged": "log_ratio" if one.is_relative else "points",
                "holm_p": one.corrected,
                "sentence": sentence(one, comparison),
            }
            for one in comparison.overall
        ],
        "sets": [
            {
                **vars(block.column),
                "arm": block.arm,
                "others": dict(block.others),
                "seeds": list(block.seeds),
                "baseline": list(block.baseline),
                "errors": list(block.errors),
                "gain": block.effect and asdict(block.effect),
                "unpaired": block.lost,
            }
            for block in comparison.blocks
        ],
        "unpaired": comparison.unpaired,
    }


def csv_lines(comparison: Comparison) -> Iterator[dict[str, object]]:
    """Yield a line for each arm and set, then one for each arm over all sets (task: all sets)."""
    blank: dict[str, object] = dict.fromkeys(CSV_COLUMNS)
    for block in comparison.blocks:
        line = (
            blank | vars(block.column) | {"error": block.column.error_name, "arm": block.arm, "pairs": len(block.seeds)}
        )
        others = ", ".join(f"{name}={value}" for name, value in block.others)
        line |= {"others": others, "seeds": seeds_text(list(block.seeds)), "unpaired": block.lost}
        line |= {"unit": "points" if block.column.percent else block.column.error_name}
        if (found := block.effect) is not None:
            line |= {"baseline_mean": _mean(block.baseline), "mean": _mean(block.errors)} | _numbers(found)
        yield line
    for one in comparison.overall:
        for unit, found in (("points", one.points), ("log ratio", one.relative)):
            if found is not None:
                line = blank | {"task": "all sets", "arm": one.arm, "sets": found.n, "pairs": one.pairs, "unit": unit}
                line |= {"wins": one.wins, "ties": one.ties, "losses": one.losses} | _numbers(found)
                yield line | ({"holm_p": one.corrected} if found is one.judged else {})


def _numbers(found: Effect) -> dict[str, object]:
    low, high = found.interval or (None, None)
    return {"gain": found.mean, "low": low, "high": high, "p": found.p, "smallest_p": found.smallest}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
