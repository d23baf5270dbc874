"""A comparison in words and tables: a sentence for each arm, all sets together, and every set by itself."""

import math
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

from orca_cli.report.differences import LARGEST_P, LEAST, Effect, no_effect
from orca_cli.report.layout import (
    NOTHING,
    PLUS_MINUS,
    Entry,
    Layout,
    clean,
    decimals_of,
    framed,
    headers,
    number,
    p_text,
    settings_text,
)
from orca_cli.report.paired import Block, Comparison, Overall
from orca_cli.report.table import Table
from orca_cli.terminal import counted

MARGIN = 0.5  # points, or per cent of the error: a mean gain within it counts as none
_ROUNDING = 1e-9  # gains below are 0 but for rounding
_MARKED = f"{LEAST} or more differences and p <= {LARGEST_P} after Holm's correction"


def sentence(one: Overall, comparison: Comparison) -> str:
    """Return what is known about an arm, such as "otdd: helps by 1.9 points [1.1, 2.7] (n = 12 sets x 5 seeds, p = 0.02)"."""
    gain, unit, arms = one.gain, comparison.unit, len(comparison.overall)
    fewest, most = one.seeds
    seeds = (f"{fewest} to " if fewest < most else "") + counted(most, "seed")
    n = f"n = {seeds}, one set" if one.sets == 1 else f"n = {one.sets} sets x {seeds}"
    facts = f"{n}, p = {p_text(one.holm_p)}" + (f" corrected for {arms} arms" if arms > 1 else "")
    places = _decimals(gain, 1)
    if gain.interval is None:
        return f"{one.arm}: undecided, {number(gain.mean, places, '+')} {unit}, a single difference ({n})"
    low, high = gain.interval
    if is_sure(one) and (low > 0 or high < 0):
        verb = "helps" if low > 0 else "harms"
        low, high = sorted(map(abs, gain.interval))
        return f"{one.arm}: {verb} by {number(abs(gain.mean), places)} {unit} {_ends(low, high, places)} ({facts})"
    if gain.n >= LEAST and (p := no_effect(gain, MARGIN)) <= LARGEST_P:
        margin = f"{PLUS_MINUS}{MARGIN:g} {unit}"
        return f"{one.arm}: no effect beyond {margin} ({facts}; two one-sided t tests: p = {p_text(p)})"
    few = "; too few differences to reach p = 0.05" if gain.smallest * arms > LARGEST_P else ""
    return f"{one.arm}: undecided, {number(gain.mean, places, '+')} {unit} {_ends(low, high, places)} ({facts}{few})"


def is_sure(one: Overall | Block) -> bool:
    """Return whether the sign of a mean gain is shown: six differences or more, and Holm's p at most 0.05."""
    return one.gain.n >= LEAST and one.holm_p <= LARGEST_P


def layouts_of(comparison: Comparison, table: Table) -> list[Layout]:
    """Return two tables: the arms over all sets, with their sentences, and the arms by set."""
    axis, baseline = clean(comparison.axis), clean(comparison.baseline)
    rows = []
    for one in comparison.overall:
        texts = [str(one.sets), f"{one.wins}/{one.ties}/{one.losses}", p_text(one.gain.p), p_text(one.holm_p)]
        rows.append(([clean(one.arm)], [Entry(gain_text(one.gain, 1), best=is_sure(one)), *map(Entry, texts)]))
    notes = [sentence(one, comparison) for one in comparison.overall]
    judged: dict[str, set[object]] = {}  # arm -> sets, settings and seeds of its pairs
    for block in comparison.blocks:
        judged.setdefault(block.arm, set()).add((block.column, block.others, block.seeds))
    if any(pairs != judged[comparison.overall[0].arm] for pairs in judged.values()):
        notes.append("arms have pairs on different sets, settings or seeds, so compare no arm with another")
    caption = (
        f"Gain over {axis}={baseline}, in pairs of equal seed and settings; above 0: lower error. Mean [95 % t "
        "interval] over sets, each with the mean over its seeds and settings. % of the error: the difference over the mean "
        f"of both errors. p: exact sign-flip test; Holm: corrected for the number of arms. Bold and *: {_MARKED}."
    )
    columns = [["gain", comparison.unit], ["sets"], ["wins/ties/losses"], ["p"], ["p, Holm"]]
    over = framed(table, Layout([axis], columns, rows, caption, [*notes, *table.remarks]))
    return [replace(over, problems=[]), replace(_by_set(comparison), problems=over.problems)]


def _by_set(comparison: Comparison) -> Layout:
    """Return the gains of every arm on each set."""
    blocks = sorted(comparison.blocks, key=lambda block: (block.arm, block.others))
    columns = sorted({block.column for block in blocks})
    shared = set.intersection(*(set(block.others) for block in blocks))
    rows: dict[tuple[str, str], list[Entry]] = {}
    for block in blocks:
        settings = settings_text(item for item in block.others if item not in shared)
        entries = rows.setdefault((clean(block.arm), clean(settings)), [Entry(NOTHING) for _ in columns])
        entries[columns.index(block.column)] = _block_entry(block)
    axis, baseline = clean(comparison.axis), clean(comparison.baseline)
    names = [axis, "with"] if any(others for _, others in rows) else [axis]
    notes = [f"all with {clean(settings_text(sorted(shared)), longest=2000)}"] if shared else []
    if same := comparison.same:
        pairs = counted(same + sum(len(block.seeds) for block in blocks), "pair")
        notes.append(f"left out of {pairs}, as the same computation (equal final weights): {same}")
    if comparison.unpaired:
        lost = counted(comparison.unpaired, "completed run")
        notes.append(f"{lost} without a partner of {axis}={baseline}: left out")
    caption = (
        "Gain on each set, in points where the error is a per cent: mean [95 % t interval] over seeds (number "
        f"of seeds), baseline's mean error > arm's. Bold and *: {_MARKED} over all gains here."
    )
    lines = [([*key][: len(names)], entries) for key, entries in rows.items()]
    return Layout(names, headers(columns)[0], lines, caption, notes)


def _block_entry(block: Block) -> Entry:
    """Return the gain of an arm on a set, with the mean errors of baseline and arm below."""
    base, error = (block.column.scale * fmean(values) for values in (block.baseline, block.errors))
    places = _decimals(block.gain, 1 if block.column.percent else decimals_of([base, error]))
    rest = f"{number(base, places)} > {number(error, places)}"
    rest += f", {block.unpaired} without partner" if block.unpaired else ""
    rest += f", at {clean(' > '.join(block.chosen))}" if block.chosen else ""
    return Entry(f"{gain_text(block.gain, places)} ({block.gain.n})", rest, is_sure(block))


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
    sets = [asdict(block) | {"others": dict(block.others)} for block in comparison.blocks]
    return {
        "schema": 4,
        "against": {comparison.axis: comparison.baseline},
        "margin": MARGIN,
        "unit": comparison.unit,
        "arms": [asdict(one) | {"sentence": sentence(one, comparison)} for one in comparison.overall],
        "sets": [line.pop("column") | line for line in sets],
        "unpaired": comparison.unpaired,
        "same_computation": comparison.same,
    }
