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
from orca_cli.report.collect import GROUPS, TEST_SET, Run
from orca_cli.report.conditions import PROGRAM, mixed, program_name
from orca_cli.report.differences import LARGEST_P, LEAST, Effect, effect, holm, no_effect, relative
from orca_cli.report.layout import Entry, Layout, clean, number, p_text, seeds_text, settings_text
from orca_cli.report.selection import FIELDS, KEY_HINT, SET, Values
from orca_cli.report.table import Cell, Column, Table, is_source_implied
from orca_cli.runs.settings import canonical
from orca_cli.terminal import counted

_ARM = "arm"  # an axis of studies
_ARM_GROUPS = ("source", "metric", "finetune")  # that its choices set, among others
# What both runs of a pair have in common.
_COMMON = (*(name for name in FIELDS if name not in GROUPS), SET, TEST_SET, PROGRAM)
_DECIDED = "decided"  # value of settings that were left open
MARGIN = 0.5  # points, or per cent of the error: a mean gain within it counts as none
_ROUNDING = 1e-12  # gains below are 0 but for rounding
_MARKED = f"{LEAST} or more differences and p <= {LARGEST_P} after Holm's correction"
_REPEAT = (
    "run both arms on the same data, as long (train.epochs, train.members) and by one program; "
    "--any-program pairs runs of several"
)
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
class Pair:
    """Two runs of one seed, the baseline's and the arm's.

    Args:
        differs: names of the facts in which they differ, though no setting that differs sets these (`conditions.mixed`).
        is_same: whether both are the same computation, and nothing differs.
    """

    column: Column
    arm: str
    seed: int
    runs: tuple[Run, Run]
    differs: list[str]
    is_same: bool


@dataclass(frozen=True)
class Comparison:
    """Every arm against the baseline.

    Args:
        blocks: those with pairs.
        unit: of the gains that arms are judged by: points; or per cent of the error, by relative differences of mean errors
            (`differences.relative`), since the error of some set is no per cent.
        unpaired: completed runs, of all arms, without a partner.
        same: pairs that were left out: both runs are the same computation, with equal final weights and errors.
        left_out: pairs that were left out, since they differ in more than the axis.
        programs: names of the programs that made the runs of pairs.
    """

    axis: str
    baseline: str
    blocks: list[Block]
    overall: list[Overall]
    unit: str
    unpaired: int
    same: int
    left_out: list[Pair]
    programs: list[str]


@dataclass(frozen=True)
class _Place:
    """A cell of the table, its value on the axis, and what the cells of a pair have in common."""

    arm: str
    column: Column
    others: Others
    cell: Cell


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
    blocks: list[Block] = []
    left_out: list[Pair] = []
    programs: set[str] = set()
    unpaired = same = 0
    for place, base in _partners(list(_places(table, axis)), axis, baseline):
        pairs = _pairs(place, base)
        unpaired += len(place.cell.by_seed) - len(pairs)
        left_out += [pair for pair in pairs if pair.differs]
        same += sum(pair.is_same for pair in pairs)
        kept = [pair for pair in pairs if not pair.differs and not pair.is_same]
        programs |= {program_name(run) for pair in kept for run in pair.runs}
        if kept:
            seeds = tuple(pair.seed for pair in kept)
            blocks.append(_block(place, base, seeds))
    if not blocks:
        raise _without_pairs(axis, baseline, same, left_out)
    columns = dict.fromkeys(block.column for block in blocks)
    check_sets(columns, "--against")
    is_relative = not all(column.percent for column in columns)
    arms = dict.fromkeys(block.arm for block in blocks)
    overall = [
        _overall([block for block in blocks if block.arm == arm], is_relative) for arm in arms
    ]
    groups: tuple[Sequence[Block | Overall], ...] = blocks, overall
    for group in groups:
        for judged, p in zip(group, holm([entry.gain.p for entry in group]), strict=True):
            judged.holm_p = p
    return Comparison(
        axis=axis,
        baseline=baseline,
        blocks=blocks,
        overall=overall,
        unit="% of the error" if is_relative else "points",
        unpaired=unpaired,
        same=same,
        left_out=left_out,
        programs=sorted(programs),
    )


def _places(table: Table, axis: str) -> Iterator[_Place]:
    """Yield the cells with errors whose runs record a value on an axis.

    Defaults differ between sets. What runs decide themselves does too, so all methods that leave the setting open are one arm.
    """
    # Pairs may differ in the axis, in what an arm of a study sets, and in a source that the body implies.
    besides = [axis]
    if axis == _ARM:
        besides += _ARM_GROUPS
    if axis == "body" and is_source_implied(row.method for row in table.rows):
        besides.append("source")
    values = Values()
    for row in table.rows:
        facts = {name: getattr(row.method, name) for name in GROUPS} | dict(row.method.settings)
        others = tuple(sorted((key, value) for key, value in facts.items() if key not in besides))
        for column, cell in zip(table.columns, row.cells, strict=True):
            if not cell.by_seed:
                continue
            run = cell.runs[0]
            is_open = axis in run.decided and axis not in run.variant
            value = facts.get(axis) or (_DECIDED if is_open else values.lookup(run, axis))
            if value is not None:
                yield _Place(canonical(value), column, others, cell)


def _partners(places: Sequence[_Place], axis: str, baseline: str) -> Iterator[tuple[_Place, Cell]]:
    """Yield each cell of an arm with that of the baseline on the same set with the same settings, an empty one for none.

    Raises:
        DataError: no cell has the baseline's value, or an arm has several partners.
    """
    reference = canonical(baseline)
    arms = {place.arm for place in places}
    if reference not in arms:
        hint = suggest(baseline, arms) if arms else KEY_HINT
        raise DataError(f"no completed run has {axis}={baseline}", where="--against", hint=hint)
    bases: dict[tuple[Column, Others], list[Cell]] = defaultdict(list)
    for place in places:
        if place.arm == reference:
            bases[place.column, place.others].append(place.cell)
    for place in places:
        if place.arm == reference:
            continue
        cells = bases[place.column, place.others]
        if len(cells) > 1:
            # An arm of a study was run with another source as well, or runs differ in what no setting shows.
            raise DataError(
                f"ambiguous reference: several methods have {axis}={baseline}",
                where="--against",
                hint="narrow with --where, or remove the runs of one of them: orca runs rm",
            )
        yield place, cells[0] if cells else Cell()


def _pairs(place: _Place, base: Cell) -> list[Pair]:
    """Return the pairs of runs of equal seeds that both have an error, by rising seed."""
    errors = place.cell.by_seed
    pairs = []
    for seed in sorted(base.by_seed.keys() & errors.keys()):
        runs = base.run_by_seed[seed], place.cell.run_by_seed[seed]
        differs = list(mixed(runs))
        weights = {run.score.weights for run in runs if run.score}
        is_same = len(weights) == 1 and "" not in weights and base.by_seed[seed] == errors[seed]
        pairs.append(
            Pair(place.column, place.arm, seed, runs, differs, is_same=is_same and not differs)
        )
    return pairs


def _block(place: _Place, base: Cell, seeds: tuple[int, ...]) -> Block:
    """Return the gains of the pairs of some seeds, and their statistics."""
    before = tuple(base.by_seed[seed] for seed in seeds)
    after = tuple(place.cell.by_seed[seed] for seed in seeds)
    scale = place.column.scale
    gains = [scale * (first - second) for first, second in zip(before, after, strict=True)]
    choices = (base.runs[0].choice, place.cell.runs[0].choice)
    return Block(
        column=place.column,
        arm=place.arm,
        others=place.others,
        seeds=seeds,
        baseline=before,
        errors=after,
        chosen=tuple(choice for choice in choices if choice),
        gains=gains,
        gain=effect(gains),
    )


def _without_pairs(axis: str, baseline: str, same: int, left_out: Sequence[Pair]) -> DataError:
    """Return the error that says why no pair is left."""
    what = f"no two runs of the same task and seed, on the same test data, differ in nothing but '{axis}'"
    hint = f"run the same tasks and seeds with {axis}={baseline}; 'orca runs diff' says in what two runs differ"
    if same:
        what = f"no pair is left: {counted(same, 'pair')} of the same computation (equal final weights and errors)"
        hint = f"{axis} changed nothing in these runs"
    if left_out:
        what = f"no pair is left: {_left_out_text(axis, left_out)}"
        hint = _REPEAT
    return DataError(what, where="--against", hint=hint)


def _left_out_text(axis: str, left_out: Sequence[Pair]) -> str:
    """Return how many pairs were left out, and in what those of each set and arm differ."""
    seeds: dict[str, list[int]] = defaultdict(list)
    for pair in left_out:
        seeds[f"{pair.column.name}, {pair.arm}: {' and '.join(pair.differs)}"].append(pair.seed)
    places = "; ".join(f"{place} (seed {seeds_text(seeds[place])})" for place in seeds)
    text = f"{counted(len(left_out), 'pair')} with differences besides {axis}: {places}"
    return clean(text, longest=2000)


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
    axis = clean(comparison.axis)
    baseline = clean(comparison.baseline)
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
        f"Gain over {axis}={baseline}, in pairs of equal seed, settings, data and length, but for what {axis} sets; above 0: "
        "lower error. Mean [95 % t interval] over sets, each with the mean over its seeds and settings. % of the error: the "
        "difference over the mean of both errors. p: exact sign-flip test; Holm: corrected for the number of arms. "
        f"Bold and *: {_MARKED}."
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
    axis = clean(comparison.axis)
    baseline = clean(comparison.baseline)
    names = [axis, "with"] if any(others for _, others in rows) else [axis]
    notes = [f"all with {clean(settings_text(sorted(shared)), longest=2000)}"] if shared else []
    if same := comparison.same:
        pairs = counted(same + sum(len(block.seeds) for block in blocks), "pair")
        notes.append(f"left out of {pairs}, as the same computation (equal final weights): {same}")
    if comparison.left_out:
        notes.append(f"left out: {_left_out_text(comparison.axis, comparison.left_out)}")
    if len(comparison.programs) > 1:
        programs = clean(", ".join(comparison.programs))
        notes.append(f"programs, each of which made both runs of its pairs: {programs}")
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
    left_out = [
        vars(pair.column) | {"arm": pair.arm, "seeds": [pair.seed], "differs": pair.differs}
        for pair in comparison.left_out
    ]
    return {
        "schema": 6,
        "against": {comparison.axis: comparison.baseline},
        "margin": MARGIN,
        "unit": comparison.unit,
        "arms": [
            asdict(one) | {"sentence": sentence(one, comparison)} for one in comparison.overall
        ],
        "sets": [line.pop("column") | line for line in sets],
        "unpaired": comparison.unpaired,
        "same_computation": comparison.same,
        "left_out": left_out,
        "programs": comparison.programs,
    }
