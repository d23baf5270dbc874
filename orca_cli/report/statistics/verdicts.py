"""A comparison in words and tables: a sentence for each arm, all sets together, and every set by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from orca_cli.report.statistics.differences import LARGEST_P, LEAST, Effect, holm
from orca_cli.report.statistics.further import MOST, further
from orca_cli.report.statistics.paired import Block, Comparison, Overall
from orca_cli.report.tables.layout import PLUS_MINUS, Entry, Layout, alarms_of, header, problems_of
from orca_cli.report.tables.notes import clean, seeds_text
from orca_cli.report.tables.table import Table

_MISSING = "-"
_MARKED = f"{LEAST} or more differences and p <= {LARGEST_P} after Holm's correction"
_OVERALL = (
    *(("sets",), ("wins/ties/losses",), ("gain", "points"), ("worst set", "points"), ("gain", "% of the error")),
    *(("p",), ("p, Holm",), ("least p",)),
)
CSV_COLUMNS = (
    *("task", "error", "percent", "protocol", "arm", "others", "sets", "pairs", "seeds", "unpaired"),
    *("baseline_mean", "mean", "unit", "gain", "low", "high", "p", "smallest_p", "holm_p", "wins", "ties", "losses"),
)


def sentence(one: Overall, comparison: Comparison, sign: str = PLUS_MINUS) -> str:
    """Return what is known about an arm and what would decide it, in one line.

    Such as "otdd: helps by 1.9 points [1.1, 2.7] (n = 12 sets x 5 seeds, ...)", or "otdd: undecided, ...; about 6 more seeds:
    orca run -m ...".
    """
    said, *lines = claim(one, comparison, sign)
    return f"{said}: {' ; '.join(lines)}" if lines else said


def claim(one: Overall, comparison: Comparison, sign: str = PLUS_MINUS) -> list[str]:
    """Return what is known about an arm, then the commands that would decide it, if that is undecided."""
    low_n, high_n = one.seeds
    seeds = f"{low_n if low_n == high_n else f'{low_n} to {high_n}'} seed{'s' if high_n > 1 else ''}"
    counted = f"n = {one.sets} sets x {seeds}" if one.sets > 1 else f"n = {seeds}, one set"
    found, unit = _scaled(one)
    if found is None:
        return [f"{one.arm}: undecided ({counted}; an error of 0 has no ratio)"]
    arms = len(comparison.overall)
    facts = f"{counted}, p = {_p(one.corrected)}" + (f" corrected for {arms} arms" if arms > 1 else "")
    if found.interval is None:
        said = f"{one.arm}: undecided, {found.mean:+.1f} {unit} in the only pair ({counted})"
        return _with_further(said, one, comparison)
    low, high = found.interval
    if is_sure(one) and low > 0:
        return [f"{one.arm}: helps by {found.mean:.1f} {unit} [{low:.1f}, {high:.1f}] ({facts})"]
    if is_sure(one) and high < 0:
        return [f"{one.arm}: harms by {-found.mean:.1f} {unit} [{-high:.1f}, {-low:.1f}] ({facts})"]
    if max(-low, high) <= comparison.margin and found.n >= LEAST:
        return [f"{one.arm}: no effect beyond {sign}{comparison.margin:g} {unit} ({facts})"]
    few = f"; {found.n} differences cannot reach p = {LARGEST_P}" if found.smallest * arms > LARGEST_P else ""
    said = f"{one.arm}: undecided, {found.mean:+.1f} {unit} [{low:.1f}, {high:.1f}] ({facts}{few})"
    return _with_further(said, one, comparison)


def is_sure(one: Overall) -> bool:
    """Return whether the sign of an arm's mean gain is shown: six differences or more, and Holm's p at most 0.05."""
    return one.judged is not None and one.judged.n >= LEAST and one.corrected <= LARGEST_P


def _with_further(said: str, one: Overall, comparison: Comparison) -> list[str]:
    """Return the sentence with how many more seeds or sets are needed, then the commands."""
    more = further(one, comparison)
    if more.seeds is not None:
        count = f"{'about' if one.seeds[1] > 1 else 'at least'} {more.seeds} more seed{'s' if more.seeds > 1 else ''}"
        return [f"{said}; {count}", *more.commands]
    if more.is_hopeless:
        return [f"{said}; it would take more than {MOST} more seeds"]
    why = "" if more.is_few_sets else "the sets differ more than their seeds: "
    count = f"more than {MOST}" if more.sets is None else f"about {more.sets}"
    return [f"{said}; {why}{count} more set{'s' if more.sets != 1 else ''}, not more seeds"]


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
            f"Gain over {axis}={baseline}, in pairs of equal seed and settings; above 0: lower error. Mean [95 % BCa bootstrap "
            "interval] over sets, each with the mean over its seeds and settings. points: sets whose error is a per cent. "
            "% of the error: from the mean log ratio of the errors, all sets. p: exact sign-flip test; Holm: corrected for "
            "the number of arms; least p: the smallest possible with this number of differences. "
            f"Bold and *: {_MARKED}."
        ),
        notes=[
            "\n".join(clean(line, longest=2000) for line in claim(one, comparison, sign)) for one in comparison.overall
        ]
        + _coverage(comparison),
        problems=[],
        alarms=alarms_of(table),
        alarmed=[False] * len(_OVERALL),
    )
    blocks = sorted((block for block in comparison.blocks if block.seeds), key=lambda block: (block.arm, block.others))
    corrected = corrected_of(comparison)
    columns = sorted({block.column for block in blocks})
    many = len({column.protocol for column in columns}) > 1
    shared = set.intersection(*(set(block.others) for block in blocks)) if blocks else set()
    pairs = {(dict(block.others).get("body"), dict(block.others).get("source")) for block in blocks}
    implied = "source" if len({body for body, _ in pairs}) == len(pairs) else ""
    rows: dict[tuple[str, str], list[Entry]] = {}
    for block in blocks:
        own = (f"{name}={value}" for name, value in block.others if (name, value) not in shared and name != implied)
        entries = rows.setdefault((clean(block.arm), clean(", ".join(own))), [Entry(_MISSING) for _ in columns])
        entries[columns.index(block.column)] = _block_entry(block, corrected[id(block)])
    common = ", ".join(f"{name}={value}" for name, value in sorted(shared) if name != implied)
    notes = [f"all with {clean(common, longest=2000)}"] if common else []
    if few := sum(len(block.seeds) < LEAST for block in blocks):
        text = "so few cannot reach p = 0.05, and their intervals are too narrow"
        notes.append(f"fewer than {LEAST} seeds in {few} of {len(blocks)} gains: {text}")
    if comparison.unpaired:
        notes.append(f"{comparison.unpaired} completed runs have no partner with {axis}={baseline} and are left out")
    second = Layout(
        names=[axis, "with"],
        columns=[header(column, many) for column in columns],
        rows=[(list(key), entries, "") for key, entries in rows.items()],
        ranked=False,
        caption=(
            "Gain on each set, in points where the error is a per cent: mean [95 % BCa bootstrap interval] over seeds (number "
            f"of seeds), baseline's mean error > arm's. Bold and *: {_MARKED} over all gains here."
        ),
        notes=notes,
        problems=problems_of(table),
        alarms=[],
        alarmed=[column.chosen_on_test for column in columns],
    )
    return [first, second]


def corrected_of(comparison: Comparison) -> dict[int, float]:
    """Return id of a block -> p of its gain, corrected for the number of blocks that have pairs (Holm)."""
    blocks = [(block, found) for block in comparison.blocks if (found := block.effect) is not None]
    return {id(block): p for (block, _), p in zip(blocks, holm([found.p for _, found in blocks]), strict=True)}


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
    yield _judged_entry(one, one.points, 2)
    yield Entry(_MISSING if one.worst is None else f"{one.worst[1]:+.1f} {clean(one.worst[0])}")
    yield _judged_entry(one, one.relative and _as_percent(one.relative), 1)
    yield Entry(_MISSING if judged is None else _p(judged.p))
    yield Entry(_p(one.corrected))
    yield Entry(_MISSING if judged is None else _p(judged.smallest))


def _judged_entry(one: Overall, found: Effect | None, decimals: int) -> Entry:
    """Return a gain, marked if it is the one that the verdict is about and its sign is shown."""
    is_marked = is_sure(one) and (decimals == 1) == one.is_relative
    return Entry(("* " if is_marked else "") + _with_interval(found, decimals), best=is_marked)


def _block_entry(block: Block, corrected: float) -> Entry:
    found, decimals = block.effect, 1 if block.column.percent else 3
    assert found is not None  # blocks without a pair are not shown
    base, mine = (block.scale * math.fsum(values) / len(values) for values in (block.baseline, block.errors))
    lost = f", {block.lost} without partner" if block.lost else ""
    is_marked = found.n >= LEAST and corrected <= LARGEST_P
    text = f"{'* ' if is_marked else ''}{_with_interval(found, decimals)} ({found.n})"
    return Entry(text, f"{base:.{decimals}f} > {mine:.{decimals}f}{lost}", is_marked)


def _with_interval(found: Effect | None, decimals: int) -> str:
    if found is None:
        return _MISSING
    mean, *both = (round(value, decimals) + 0.0 for value in (found.mean, *(found.interval or ())))  # no -0.0
    ends = " [{:.{d}f}, {:.{d}f}]".format(*both, d=decimals) if both else ""
    return f"{mean:+.{decimals}f}{ends}"


def _p(value: float) -> str:
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def record_of(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as a JSON-able record, with the values of all pairs; gains in points where errors are per cent."""
    corrected = corrected_of(comparison)
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
                "further": _further_record(one, comparison),
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
                "holm_p": corrected.get(id(block)),
                "unpaired": block.lost,
            }
            for block in comparison.blocks
        ],
        "unpaired": comparison.unpaired,
    }


def _further_record(one: Overall, comparison: Comparison) -> dict[str, Any] | None:
    """Return what an undecided arm lacks; None for one that is decided."""
    return asdict(further(one, comparison)) if ": undecided" in claim(one, comparison)[0] else None


def csv_lines(comparison: Comparison) -> Iterator[dict[str, object]]:
    """Yield a line for each arm and set, then one for each arm over all sets (task: all sets)."""
    blank: dict[str, object] = dict.fromkeys(CSV_COLUMNS)
    corrected = corrected_of(comparison)
    for block in comparison.blocks:
        line = (
            blank | vars(block.column) | {"error": block.column.error_name, "arm": block.arm, "pairs": len(block.seeds)}
        )
        others = ", ".join(f"{name}={value}" for name, value in block.others)
        line |= {"others": others, "seeds": seeds_text(list(block.seeds)), "unpaired": block.lost}
        line |= {"unit": "points" if block.column.percent else block.column.error_name}
        if (found := block.effect) is not None:
            line |= {"baseline_mean": _mean(block.baseline), "mean": _mean(block.errors)} | _numbers(found)
            line |= {"holm_p": corrected[id(block)]}
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
