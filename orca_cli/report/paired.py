"""Arms against a baseline, in pairs: runs that are the same in everything but one axis.

A gain is the baseline's error less the arm's: above 0, the arm is better. Sets (the columns of the table) are what an arm is
judged by: a set counts once, with the mean over its seeds and over what else it was run with.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from orca_cli.exceptions import DataError, UsageError, suggest
from orca_cli.report.collect import GROUPS, TEST_SET
from orca_cli.report.differences import Effect, effect, holm, relative
from orca_cli.report.layout import clean
from orca_cli.report.selection import FIELDS, KEY_HINT, SET, Values
from orca_cli.report.table import TASK_PREFIX, Cell, Column, Table, canonical
from orca_cli.terminal import counted

_ARM, _ARM_GROUPS = "arm", ("source", "metric", "finetune")  # an axis of studies, and what its choices set among others
_COMMON = (*(name for name in FIELDS if name not in GROUPS), SET, TEST_SET)  # to both runs of a pair
_DECIDED = "decided"  # value of settings that were left open
_ZERO = 1e-12
Others = tuple[tuple[str, str], ...]


@dataclass
class Block:
    """The pairs of one arm on one set, with all other settings the same.

    Args:
        others: fields and settings of the method besides the axis.
        seeds: those that both have.
        baseline, errors: by seed, as stored.
        unpaired: completed runs of the arm whose partner is missing.
        same: seeds whose two runs are the same computation, with equal final weights and errors; no pairs.
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
    unpaired: int
    same: int
    chosen: tuple[str, ...]
    gains: list[float]
    gain: Effect
    holm_p: float = 1.0


@dataclass
class Overall:
    """One arm over all sets that it has pairs on.

    Args:
        sets: how many.
        seeds: of a set, fewest and most; on a single set the differences that its arm is judged by.
        wins, ties, losses: sets by the sign of their mean gain.
        gain: mean over sets, of gains in points or of relative differences in per cent; see `Comparison.is_relative`.
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
        is_relative: arms are judged by relative differences of mean errors (`differences.relative`), since the error of some
            set is no per cent; else by gains in points.
        unpaired: completed runs, of all arms, without a partner.
        same: pairs that were left out, since both runs are the same computation.
    """

    axis: str
    baseline: str
    blocks: list[Block]
    overall: list[Overall]
    is_relative: bool
    unpaired: int
    same: int

    @property
    def unit(self) -> str:
        """Return the unit of the gains that arms are judged by."""
        return "% of the error" if self.is_relative else "points"


def compare(table: Table, axis: str, baseline: str) -> Comparison:
    """Return the comparison of all methods that differ from others in an axis only.

    The axis is body, source, metric, finetune, or a setting, typed, decided or left as it is; the baseline is a value of it.

    Raises:
        UsageError: the axis is what pairs have in common, such as the seed.
        DataError: no row has that value, there is no pair, a run has several partners, or a set was measured in several ways.
    """
    if axis in _COMMON:
        raise UsageError(f"'{axis}' is not a setting of an arm", where="--against", hint="such as metric=none")
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
    overall = [
        _overall(arm, [block for block in blocks if block.arm == arm], is_relative)
        for arm in dict.fromkeys(block.arm for block in blocks)
    ]
    groups: tuple[Sequence[Block | Overall], ...] = blocks, overall
    for group in groups:
        for one, p in zip(group, holm([one.gain.p for one in group]), strict=True):
            one.holm_p = p
    return Comparison(axis, baseline, blocks, overall, is_relative, unpaired, same)


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
            folders = ", ".join(clean(one.runs[0].path.name) for one in (base, *more))
            hint = f"narrow with --where, or keep the runs of one of them (orca runs rm): {folders}"
            what = f"ambiguous reference: several methods have {axis}={baseline}"
            raise DataError(what, where="--against", hint=hint)
        both, equal = _seeds(base, cell, axis.startswith(TASK_PREFIX))
        lost, column = len(cell.by_seed) - len(both), table.columns[place]
        unpaired, same = unpaired + lost, same + len(equal)
        if seeds := tuple(sorted(both - equal)):
            before, after = (tuple(one.by_seed[seed] for seed in seeds) for one in (base, cell))
            gains = [column.scale * (first - second) for first, second in zip(before, after, strict=True)]
            chosen = tuple(one.runs[0].choice for one in (base, cell) if one.choice)
            counts = (lost, len(equal))
            blocks.append(Block(column, value, others, seeds, before, after, *counts, chosen, gains, effect(gains)))
    return blocks, unpaired, same


def _valued(table: Table, axis: str) -> Iterator[tuple[str, int, Others, Cell]]:
    """Yield the cells with errors whose runs record a value on an axis: the value, the set's place, what pairs share, the cell.

    Defaults differ between sets. What runs decide themselves does too, so all methods that leave the setting open are one arm.
    """
    # Pairs may differ in the axis, in what an arm of a study sets, and in a source that the body implies.
    bodies = {(row.method.body, row.method.source) for row in table.rows}
    implied = ("source",) if axis == "body" and len({body for body, _ in bodies}) == len(bodies) else ()
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
    both = {seed for seed, _ in baseline.by_test.keys() & cell.by_test.keys()}
    if is_task_setting:
        both = errors.keys() & base.keys()
    one, other = ({run.seed: run.score.weights for run in side.runs if run.score} for side in (baseline, cell))
    return both, {seed for seed in both if one[seed] and one[seed] == other[seed] and base[seed] == errors[seed]}


def check_sets(columns: Iterable[Column], option: str) -> None:
    """Refuse (DataError) several columns of one set, such as two protocols of a task, which would count as several sets."""
    for name, count in Counter(column.name for column in columns).items():
        if count > 1:
            what = f"{name} was measured in {count} ways, which would count as {count} sets"
            hint = "narrow with --where protocol=..., or another setting in which its runs differ"
            raise DataError(clean(what), where=option, hint=hint)


def _overall(arm: str, blocks: Sequence[Block], is_relative: bool) -> Overall:
    sets: dict[Column, list[Block]] = defaultdict(list)
    by_seed: dict[int, list[float]] = defaultdict(list)
    for block in blocks:
        sets[block.column].append(block)
        for seed, gain, base, error in zip(block.seeds, block.gains, block.baseline, block.errors, strict=True):
            by_seed[seed].append(100 * relative(base, error) if is_relative else gain)
    means = differences = [fmean(fmean(block.gains) for block in group) for group in sets.values()]
    if len(sets) == 1:  # then seeds are what there is to judge by
        differences = [fmean(by_seed[seed]) for seed in sorted(by_seed)]
    elif is_relative:
        differences = []
        for group in sets.values():
            base, error = fmean(fmean(one.baseline) for one in group), fmean(fmean(one.errors) for one in group)
            differences.append(100 * relative(base, error))
    seeds = [len({seed for block in group for seed in block.seeds}) for group in sets.values()]
    wins, losses = sum(mean > _ZERO for mean in means), sum(mean < -_ZERO for mean in means)
    signs = (wins, len(means) - wins - losses, losses)
    count = sum(len(block.seeds) for block in blocks)
    return Overall(arm, len(sets), count, (min(seeds), max(seeds)), *signs, effect(differences))
