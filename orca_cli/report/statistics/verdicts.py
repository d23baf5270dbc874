"""A comparison in words and tables: a sentence for each arm, all sets together, and every set by itself."""

import math
from dataclasses import asdict
from typing import Any

from orca_cli.report.statistics.differences import LARGEST_P, LEAST, Effect, holm, mean_of, no_effect
from orca_cli.report.statistics.paired import Block, Comparison, Overall
from orca_cli.report.tables.layout import (
    NOTHING,
    PLUS_MINUS,
    Entry,
    Layout,
    alarms_of,
    decimals_of,
    excluded_runs,
    header,
    number,
    p_text,
)
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Table
from orca_cli.terminal import counted

MARGIN = 0.5  # points, or per cent of the error: a mean gain within it counts as none
_ROUNDING = 1e-9  # gains below are 0 but for rounding
_MARKED = f"{LEAST} or more differences and p <= {LARGEST_P} after Holm's correction"


def sentence(one: Overall, comparison: Comparison) -> str:
    """Return what is known about an arm, such as "otdd: helps by 1.9 points [1.1, 2.7] (n = 12 sets x 5 seeds, p = 0.02)"."""
    gain, unit, arms = one.gain, comparison.unit, len(comparison.overall)
    low_seeds, high_seeds = one.seeds
    seeds = (f"{low_seeds} to " if low_seeds < high_seeds else "") + counted(high_seeds, "seed")
    n = f"n = {seeds}, one set" if one.sets == 1 else f"n = {one.sets} sets x {seeds}"
    facts = f"{n}, p = {p_text(one.holm_p)}" + (f" corrected for {arms} arms" if arms > 1 else "")
    places = _decimals(gain, 1)
    if gain.interval is None:
        return f"{one.arm}: undecided, {number(gain.mean, places, '+')} {unit}, a single difference ({n})"
    low, high = gain.interval
    if is_sure(one) and low > 0:
        return f"{one.arm}: helps by {number(gain.mean, places)} {unit} {_ends(low, high, places)} ({facts})"
    if is_sure(one) and high < 0:
        return f"{one.arm}: harms by {number(-gain.mean, places)} {unit} {_ends(-high, -low, places)} ({facts})"
    if gain.n >= LEAST and (p := no_effect(gain, MARGIN)) <= LARGEST_P:
        margin = f"{PLUS_MINUS}{MARGIN:g} {unit}"
        return f"{one.arm}: no effect beyond {margin} ({facts}; two one-sided t tests: p = {p_text(p)})"
    few = "; too few differences to reach p = 0.05" if gain.smallest * arms > LARGEST_P else ""
    return f"{one.arm}: undecided, {number(gain.mean, places, '+')} {unit} {_ends(low, high, places)} ({facts}{few})"


def is_sure(one: Overall) -> bool:
    """Return whether the sign of an arm's mean gain is shown: six differences or more, and Holm's p at most 0.05."""
    return one.gain.n >= LEAST and one.holm_p <= LARGEST_P


def layouts_of(comparison: Comparison, table: Table) -> list[Layout]:
    """Return two tables: the arms over all sets, with their sentences, and the arms by set."""
    axis, baseline = clean(comparison.axis), clean(comparison.baseline)
    rows = []
    for one in comparison.overall:
        texts = [str(one.sets), f"{one.wins}/{one.ties}/{one.losses}", p_text(one.gain.p), p_text(one.holm_p)]
        entries = [Entry(gain_text(one.gain, 1), best=is_sure(one)), *map(Entry, texts)]
        rows.append(([clean(one.arm)], entries))
    notes = [clean(sentence(one, comparison), longest=2000) for one in comparison.overall]
    paired = [block for block in comparison.blocks if block.seeds]
    judged = {
        frozenset((block.column, block.others, block.seeds) for block in paired if block.arm == one.arm)
        for one in comparison.overall
    }
    if len(judged) > 1:
        notes.append("arms have pairs on different sets, settings or seeds, so compare no arm with another")
    first = Layout(
        names=[axis],
        columns=[["gain", comparison.unit], ["sets"], ["wins/ties/losses"], ["p"], ["p, Holm"]],
        rows=rows,
        caption=(
            f"Gain over {axis}={baseline}, in pairs of equal seed and settings; above 0: lower error. Mean [95 % t "
            "interval] over sets, each with the mean over its seeds and settings. % of the error: the difference over the mean "
            "of both errors. p: exact sign-flip test; Holm: corrected for the number of arms. Bold and *: "
            f"{_MARKED}."
        ),
        notes=[*notes, *table.remarks],
        alarms=alarms_of(table),
        heading=table.heading,
    )
    return [first, _by_set(comparison, table)]


def _by_set(comparison: Comparison, table: Table) -> Layout:
    """Return the gains of every arm on each set."""
    blocks = sorted((block for block in comparison.blocks if block.seeds), key=lambda block: (block.arm, block.others))
    corrected = _corrected(comparison)
    columns = sorted({block.column for block in blocks})
    shared = set.intersection(*(set(block.others) for block in blocks)) if blocks else set()
    rows: dict[tuple[str, str], list[Entry]] = {}
    for block in blocks:
        settings = (f"{name}={value}" for name, value in block.others if (name, value) not in shared)
        entries = rows.setdefault((clean(block.arm), clean(", ".join(settings))), [Entry(NOTHING) for _ in columns])
        entries[columns.index(block.column)] = _block_entry(block, corrected[id(block)])
    common = ", ".join(f"{name}={value}" for name, value in sorted(shared))
    notes = [f"all with {clean(common, longest=2000)}"] if common else []
    axis, baseline = clean(comparison.axis), clean(comparison.baseline)
    names = [axis, "with"] if any(others for _, others in rows) else [axis]
    if same := comparison.same:
        pairs = counted(same + sum(len(block.seeds) for block in blocks), "pair")
        notes.append(f"left out of {pairs}, as the same computation (equal final weights): {same}")
    if comparison.unpaired:
        lost = counted(comparison.unpaired, "completed run")
        notes.append(f"{lost} without a partner of {axis}={baseline}: left out")
    return Layout(
        names=names,
        columns=[header(column, len({column.protocol for column in columns}) > 1) for column in columns],
        rows=[([*key][: len(names)], entries) for key, entries in rows.items()],
        caption=(
            "Gain on each set, in points where the error is a per cent: mean [95 % t interval] over seeds (number "
            f"of seeds), baseline's mean error > arm's. Bold and *: {_MARKED} over all gains here."
        ),
        notes=notes,
        problems=excluded_runs(table),
    )


def _corrected(comparison: Comparison) -> dict[int, float]:
    """Return id of a block -> p of its gain, corrected for the number of blocks that have pairs (Holm)."""
    p = {id(block): effect.p for block in comparison.blocks if (effect := block.effect) is not None}
    return dict(zip(p, holm([*p.values()]), strict=True))


def _block_entry(block: Block, corrected: float) -> Entry:
    """Return the gain of an arm on a set, with the mean errors of baseline and arm below."""
    effect = block.effect
    assert effect is not None  # blocks without a pair are not shown
    base, error = (block.column.scale * mean_of(values) for values in (block.baseline, block.errors))
    places = _decimals(effect, 1 if block.column.percent else decimals_of([base, error]))
    lost = f", {block.unpaired} without partner" if block.unpaired else ""
    lost += f", at {clean(' > '.join(block.chosen))}" if block.chosen else ""
    rest = f"{number(base, places)} > {number(error, places)}{lost}"
    is_marked = effect.n >= LEAST and corrected <= LARGEST_P
    return Entry(f"{gain_text(effect, places)} ({effect.n})", rest, is_marked)


def gain_text(effect: Effect, least: int | None) -> str:
    """Return "+1.2 [0.3, 2.2]" with at least some decimals, or with three significant digits for None."""
    places = _decimals(effect, least)
    return number(effect.mean, places, "+") + ("" if effect.interval is None else f" {_ends(*effect.interval, places)}")


def _decimals(effect: Effect, least: int | None) -> int | None:
    """Return how many decimals show the first digit of a gain or of an end of its interval: at least some, at most nine."""
    size = max(map(abs, (effect.mean, *(effect.interval or ()))))
    if least is None or size <= _ROUNDING or not math.isfinite(size):
        return least
    return min(9, max(least, -math.floor(math.log10(size))))


def _ends(low: float, high: float, places: int | None) -> str:
    return f"[{number(low, places)}, {number(high, places)}]"


def record_of(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as a JSON-able record, with the values of all pairs; gains in points where errors are per cent."""
    corrected, sets = _corrected(comparison), []
    for block in comparison.blocks:
        line = asdict(block) | {"others": dict(block.others)}
        gain = {"gain": block.effect and asdict(block.effect), "holm_p": corrected.get(id(block))}
        sets.append(line.pop("column") | line | gain)
    return {
        "schema": 4,
        "against": {comparison.axis: comparison.baseline},
        "margin": MARGIN,
        "unit": comparison.unit,
        "arms": [asdict(one) | {"sentence": sentence(one, comparison)} for one in comparison.overall],
        "sets": sets,
        "unpaired": comparison.unpaired,
        "same_computation": comparison.same,
    }
