"""Arms against a baseline, in pairs: runs that are the same in everything but one axis; in numbers, words and tables.

A gain is the baseline's error less the arm's: above 0, the arm is better. Sets (the columns of the table) are what an arm is
judged by: a set counts once, with the mean over its seeds and over what else it was run with.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from orca_cli.exceptions import DataError, UsageError, suggest
from orca_cli.report import layout
from orca_cli.report.collect import GROUPS, TEST_SET
from orca_cli.report.differences import LARGEST_P, LEAST, Effect, effect, holm, no_effect, relative
from orca_cli.report.layout import Entry, Layout, clean, number, p_text, settings_text
from orca_cli.report.selection import FIELDS, KEY_HINT, SET, Values
from orca_cli.report.table import TASK_PREFIX, Cell, Column, Table, canonical, is_source_implied
from orca_cli.terminal import counted

_ARM, _ARM_GROUPS = (
    "arm",
    ("source", "metric", "finetune"),
)  # an axis of studies, and what its choices set among others
_COMMON = (
    *(name for name in FIELDS if name not in GROUPS),
    SET,
    TEST_SET,
)  # to both runs of a pair
_DECIDED = "decided"  # value of settings that were left open
MARGIN = 0.5  # points, or per cent of the error: a mean gain within it counts as none
_ROUNDING = 1e-12  # gains below are 0 but for rounding
_MARKED = f"{LEAST} or more differences and p <= {LARGEST_P} after Holm's correction"
Others = tuple[tuple[str, str], ...]


@dataclass
class Block:
    """The pairs of one arm on one set, with all other settings the same.

    Args:
        others: fields and settings of the method besides the axis.
        seeds: those that both have, ascending.
        baseline, errors: by seed, as stored.
        chosen: what was chosen for the baseline and for the arm, see `Run.choice`; empty where nothing was.
        gains: by seed, in points where the error is a per cent; `gain` is their mean.
        holm_p: Holm's p over all blocks.
    """

    column: Column
    arm: str
    others: Others
    seeds: tuple[int, ...]
    baseline: tuple[float, ...]
    errors: tuple[float, ...]
    chosen: tuple[str, ...]
    gains: list[float]
    gain: Effect
    holm_p: float = 1.0


@dataclass
class Overall:
    """One arm over all sets that it has pairs on.

    Args:
        sets: how many.
        pairs: of runs, on all sets.
        seeds: of a set, fewest and most; on a single set the differences that its arm is judged by.
        wins, ties, losses: sets by the sign of their mean gain.
        gain: mean over sets, or over the seeds of a single set, in `Comparison.unit`.
        holm_p: Holm's p over the arms.
    """

    arm: str
    sets: int
    pairs: int
    seeds: tuple[int, int]
    wins: int
    ties: int
    losses: int
    gain: Effect
    holm_p: float = 1.0


@dataclass(frozen=True)
class Comparison:
    """Every arm against the baseline.

    Args:
        blocks: those with pairs.
        unit: of the gains that arms are judged by: points; or per cent of the error, by relative differences of mean errors
            (`differences.relative`), since the error of some set is no per cent.
        unpaired: completed runs, of all arms, without a partner.
        same: pairs that were left out: both runs are the same computation, with equal final weights and errors.
    """

    axis: str
    baseline: str
    blocks: list[Block]
    overall: list[Overall]
    unit: str
    unpaired: int
    same: int


def compare(table: Table, axis: str, baseline: str) -> Comparison:
    """Return the comparison of all methods that differ from others in an axis only.

    Args:
        axis: body, source, metric, finetune, arm (of a study), or the key of a setting, typed, decided or left as it is.
        baseline: a value of the axis; numbers are compared as numbers.

    Raises:
        UsageError: the axis is what pairs have in common, such as the seed.
        DataError: no row has that value, there is no pair, a run has several partners, or a set was measured in several ways.
    """
    if axis in _COMMON:
        raise UsageError(
            f"'{axis}' is not a setting of an arm", where="--against", hint="such as metric=none"
        )
    blocks, unpaired, same = _blocks(table, axis, baseline)
    if not blocks:
        what = f"no two runs of the same task and seed, on the same test data, differ in nothing but '{axis}'"
        hint = f"run the same tasks and seeds with {axis}={baseline}; 'orca runs diff' says in what two runs differ"
        if same:
            what = f"no pair is left: {counted(same, 'pair')} of the same computation (equal final weights and errors)"
            hint = f"{axis} changed nothing in these runs"
        raise DataError(what, where="--against", hint=hint)
    columns = dict.fromkeys(block.column for block in blocks)
    check_sets(columns, "--against")
    is_relative = not all(column.percent for column in columns)
    arms = dict.fromkeys(block.arm for block in blocks)
    overall = [
        _overall([block for block in blocks if block.arm == arm], is_relative) for arm in arms
    ]
    groups: tuple[Sequence[Block | Overall], ...] = blocks, overall
    for group in groups:
        for one, p in zip(group, holm([one.gain.p for one in group]), strict=True):
            one.holm_p = p
    unit = "% of the error" if is_relative else "points"
    return Comparison(axis, baseline, blocks, overall, unit, unpaired, same)


def _blocks(table: Table, axis: str, baseline: str) -> tuple[list[Block], int, int]:
    """Return the pairs of every arm on every set, the sums of `unpaired` and of `same`; errors as of `compare`."""
    reference, cells = canonical(baseline), list(_valued(table, axis))
    if reference not in (values := {value for value, *_ in cells}):
        hint = suggest(baseline, values) if values else KEY_HINT
        raise DataError(f"no completed run has {axis}={baseline}", where="--against", hint=hint)
    partners: dict[tuple[int, Others], list[Cell]] = defaultdict(list)
    for value, place, others, cell in cells:
        if value == reference:
            partners[place, others].append(cell)
    blocks, unpaired, same = [], 0, 0
    for value, place, others, cell in cells:
        if value == reference:
            continue
        base, *more = partners[place, others] or [Cell()]
        if more:
            # An arm of a study was run with another source as well, or runs differ in what no setting shows.
            hint = "narrow with --where, or remove the runs of one of them: orca runs rm"
            what = f"ambiguous reference: several methods have {axis}={baseline}"
            raise DataError(what, where="--against", hint=hint)
        both, equal = _seeds(base, cell, axis.startswith(TASK_PREFIX))
        unpaired, same = unpaired + len(cell.by_seed) - len(both), same + len(equal)
        if seeds := tuple(sorted(both - equal)):
            before, after = (tuple(one.by_seed[seed] for seed in seeds) for one in (base, cell))
            column = table.columns[place]
            gains = [
                column.scale * (first - second) for first, second in zip(before, after, strict=True)
            ]
            chosen = tuple(one.runs[0].choice for one in (base, cell) if one.choice)
            blocks.append(
                Block(column, value, others, seeds, before, after, chosen, gains, effect(gains))
            )
    return blocks, unpaired, same


def _valued(table: Table, axis: str) -> Iterator[tuple[str, int, Others, Cell]]:
    """Yield the cells with errors whose runs record a value on an axis: the value, the set's place, what pairs share, the cell.

    Defaults differ between sets. What runs decide themselves does too, so all methods that leave the setting open are one arm.
    """
    # Pairs may differ in the axis, in what an arm of a study sets, and in a source that the body implies.
    implied = (
        ("source",)
        if axis == "body" and is_source_implied(row.method for row in table.rows)
        else ()
    )
    besides = (axis, *(_ARM_GROUPS if axis == _ARM else ()), *implied)
    values = Values()
    for row in table.rows:
        facts = {name: getattr(row.method, name) for name in GROUPS} | dict(row.method.settings)
        others = tuple(sorted((key, value) for key, value in facts.items() if key not in besides))
        for place, cell in enumerate(row.cells):
            if cell.by_seed:
                run = cell.runs[0]
                is_open = axis in run.decided and axis not in run.variant
                value = facts.get(axis) or (_DECIDED if is_open else values.lookup(run, axis))
                if value is not None:
                    yield canonical(value), place, others, cell


def _seeds(baseline: Cell, cell: Cell, is_task_setting: bool) -> tuple[set[int], set[int]]:
    """Return the seeds that two cells have on the same test data, and those of them that are the same computation.

    A setting of the task may prepare the test data otherwise, so that then the seed alone counts.
    """
    base, errors = baseline.by_seed, cell.by_seed
    on_same_test = {seed for seed, _ in baseline.by_test.keys() & cell.by_test.keys()}
    both = errors.keys() & base.keys() if is_task_setting else on_same_test
    one, other = (
        {run.seed: run.score.weights for run in side.runs if run.score} for side in (baseline, cell)
    )
    return both, {
        seed
        for seed in both
        if one[seed] and one[seed] == other[seed] and base[seed] == errors[seed]
    }


def check_sets(columns: Iterable[Column], option: str) -> None:
    """Raise DataError for several columns of one set, such as two protocols of a task, which would count as several sets."""
    for name, count in Counter(column.name for column in columns).items():
        if count > 1:
            what = f"{name} was measured in {count} ways, which would count as {count} sets"
            hint = "narrow with --where protocol=..., or another setting in which its runs differ"
            raise DataError(clean(what), where=option, hint=hint)


def _overall(blocks: Sequence[Block], is_relative: bool) -> Overall:
    sets: dict[Column, list[Block]] = defaultdict(list)
    by_seed: dict[int, list[float]] = defaultdict(list)
    for block in blocks:
        sets[block.column].append(block)
        for seed, gain, base, error in zip(
            block.seeds, block.gains, block.baseline, block.errors, strict=True
        ):
            by_seed[seed].append(100 * relative(base, error) if is_relative else gain)
    means = differences = [fmean(fmean(block.gains) for block in group) for group in sets.values()]
    if len(sets) == 1:  # then seeds are what there is to judge by
        differences = [fmean(by_seed[seed]) for seed in sorted(by_seed)]
    elif is_relative:
        differences = []
        for group in sets.values():
            base, error = (
                fmean(fmean(one.baseline) for one in group),
                fmean(fmean(one.errors) for one in group),
            )
            differences.append(100 * relative(base, error))
    seeds = [len({seed for block in group for seed in block.seeds}) for group in sets.values()]
    wins, losses = sum(mean > _ROUNDING for mean in means), sum(mean < -_ROUNDING for mean in means)
    signs = (wins, len(means) - wins - losses, losses)
    count = sum(len(block.seeds) for block in blocks)
    return Overall(
        blocks[0].arm, len(sets), count, (min(seeds), max(seeds)), *signs, effect(differences)
    )


def sentence(one: Overall, comparison: Comparison) -> str:
    """Return what is known about an arm, such as "otdd: helps, +1.9 [1.1, 2.7] points (n = 12 sets x 5 seeds, p = 0.02)".

    An arm helps or harms where the sign of its gain is sure and the interval has one sign. It has no effect beyond `MARGIN`
    where six differences or more say so by two one-sided t tests. Else it is undecided.
    """
    gain, arms = one.gain, len(comparison.overall)
    fewest, most = one.seeds
    seeds = (f"{fewest} to " if fewest < most else "") + counted(most, "seed")
    facts = f"n = {seeds}, one set" if one.sets == 1 else f"n = {one.sets} sets x {seeds}"
    facts += f", p = {p_text(one.holm_p)}" + (f" corrected for {arms} arms" if arms > 1 else "")
    low, high = gain.interval or (0.0, 0.0)
    verdict = "undecided"
    if is_sure(one) and (low > 0 or high < 0):
        verdict = "helps" if low > 0 else "harms"
    elif gain.n >= LEAST and (p := no_effect(gain, MARGIN)) <= LARGEST_P:
        verdict = f"no effect beyond ±{MARGIN:g} {comparison.unit}"
        facts += f"; two one-sided t tests: p = {p_text(p)}"
    elif gain.smallest * arms > LARGEST_P:
        facts += "; too few differences to reach p = 0.05"
    return f"{one.arm}: {verdict}, {gain_text(gain, 1)} {comparison.unit} ({facts})"


def is_sure(one: Overall | Block) -> bool:
    """Return whether the sign of a mean gain is shown: six differences or more, and Holm's p at most 0.05."""
    return one.gain.n >= LEAST and one.holm_p <= LARGEST_P


def gain_text(effect: Effect, least: int | None) -> str:
    """Return a mean and its interval, such as "+1.2 [0.3, 2.2]"; a single difference has no interval.

    `least` is the number of decimals; there are more, up to nine, where the largest of the three would be shown as 0. None
    gives three significant digits.
    """
    values = (effect.mean, *(effect.interval or ()))
    size = max(map(abs, values))
    if least is not None and _ROUNDING < size < math.inf:
        least = min(9, max(least, -math.floor(math.log10(size))))
    mean, *ends = (number(value, least, "" if place else "+") for place, value in enumerate(values))
    return f"{mean} [{', '.join(ends)}]" if ends else mean


def layouts_of(comparison: Comparison) -> list[Layout]:
    """Return two tables: the arms over all sets, with their sentences, and the arms by set."""
    axis, baseline = clean(comparison.axis), clean(comparison.baseline)
    rows = []
    for one in comparison.overall:
        texts = [
            str(one.sets),
            f"{one.wins}/{one.ties}/{one.losses}",
            p_text(one.gain.p),
            p_text(one.holm_p),
        ]
        rows.append(
            (
                [clean(one.arm)],
                [Entry(gain_text(one.gain, 1), best=is_sure(one)), *map(Entry, texts)],
            )
        )
    notes = [sentence(one, comparison) for one in comparison.overall]
    caption = (
        f"Gain over {axis}={baseline}, in pairs of equal seed and settings; above 0: lower error. Mean [95 % t "
        "interval] over sets, each with the mean over its seeds and settings. % of the error: the difference over the mean "
        f"of both errors. p: exact sign-flip test; Holm: corrected for the number of arms. Bold and *: {_MARKED}."
    )
    columns = [["gain", comparison.unit], ["sets"], ["wins/ties/losses"], ["p"], ["p, Holm"]]
    return [Layout([axis], columns, rows, caption, notes), _by_set(comparison)]


def _by_set(comparison: Comparison) -> Layout:
    """Return the gains of every arm on each set, with the mean errors of baseline and arm below."""
    blocks = sorted(comparison.blocks, key=lambda block: (block.arm, block.others))
    columns = sorted({block.column for block in blocks})
    shared = set.intersection(*(set(block.others) for block in blocks))
    rows: dict[tuple[str, str], list[Entry]] = {}
    for block in blocks:
        settings = settings_text(item for item in block.others if item not in shared)
        entries = rows.setdefault(
            (clean(block.arm), clean(settings)), [Entry("-") for _ in columns]
        )
        base, error = (
            block.column.scale * fmean(values) for values in (block.baseline, block.errors)
        )
        decimals = 1 if block.column.percent else layout.decimals_of([base, error])
        rest = f"{number(base, decimals)} > {number(error, decimals)}"
        rest += f", at {clean(' > '.join(block.chosen))}" if block.chosen else ""
        text = f"{gain_text(block.gain, decimals)} ({block.gain.n})"
        entries[columns.index(block.column)] = Entry(text, rest, is_sure(block))
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
    return Layout(names, layout.headers(columns)[0], lines, caption, notes)


def record_of(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as a JSON-able record: errors of all pairs as stored, gains in points where errors are per cent."""
    sets = [asdict(block) | {"others": dict(block.others)} for block in comparison.blocks]
    return {
        "schema": 5,
        "against": {comparison.axis: comparison.baseline},
        "margin": MARGIN,
        "unit": comparison.unit,
        "arms": [
            asdict(one) | {"sentence": sentence(one, comparison)} for one in comparison.overall
        ],
        "sets": [line.pop("column") | line for line in sets],
        "unpaired": comparison.unpaired,
        "same_computation": comparison.same,
    }
