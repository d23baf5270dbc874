"""Arms against a baseline, in pairs: runs that are the same in everything but one axis.

A gain is the baseline's error less the arm's: above 0, the arm is better. Sets (the columns of the table) are what an arm is
judged by: a set counts once, with the mean over its seeds and over what else it was run with.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
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
        gain: mean over seeds, in points where the error is a per cent.
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
    gain: Effect
    holm_p: float = 1.0

    @property
    def gains(self) -> list[float]:
        """Return the gains by seed, in points where the error is a per cent."""
        return _gains(self.column, self.baseline, self.errors)


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
    values = _values(table, axis)
    names = {canonical(value) for *_, value in values}
    if canonical(baseline) not in names:
        hint = suggest(baseline, names) if names else KEY_HINT
        raise DataError(f"no run has {axis}={baseline}", where="--against", hint=hint)
    partners: dict[tuple[int, Others], list[Cell]] = defaultdict(list)
    for place, others, cell, value in values:
        if cell.by_seed and canonical(value) == canonical(baseline):
            partners[place, others].append(cell)
    blocks: list[Block] = []
    unpaired = computed_twice = 0
    for place, others, cell, value in values:
        if not cell.by_seed or canonical(value) == canonical(baseline):
            continue
        bases = partners[place, others] or [Cell()]
        if len(bases) > 1:
            # An arm of a study was run with another source as well, or runs differ in what no setting shows.
            folders = ", ".join(clean(base.runs[0].path.name) for base in bases)
            hint = f"narrow with --where, or keep the runs of one of them (orca runs rm): {folders}"
            what = f"ambiguous reference: several methods have {axis}={baseline}"
            raise DataError(what, where="--against", hint=hint)
        seeds, lost, same = _seeds(bases[0], cell, axis.startswith(TASK_PREFIX))
        unpaired, computed_twice = unpaired + lost, computed_twice + same
        if seeds:
            column = table.columns[place]
            base, errors = (tuple(one.by_seed[seed] for seed in seeds) for one in (bases[0], cell))
            chosen = tuple(one.runs[0].choice for one in (bases[0], cell) if one.choice)
            gain = effect(_gains(column, base, errors))
            blocks.append(Block(column, canonical(value), others, seeds, base, errors, lost, same, chosen, gain))
    return blocks, unpaired, computed_twice


def check_sets(columns: Iterable[Column], option: str) -> None:
    """Refuse (DataError) several columns of one set, such as two protocols of a task, which would count as several sets."""
    for name, count in Counter(column.name for column in columns).items():
        if count > 1:
            what = f"{name} was measured in {count} ways, which would count as {count} sets"
            hint = "narrow with --where protocol=..., or another setting in which its runs differ"
            raise DataError(clean(what), where=option, hint=hint)


def _values(table: Table, axis: str) -> list[tuple[int, Others, Cell, str]]:
    """Return the cells whose runs record their value on an axis: the column's place, what pairs share, the cell, the value.

    Defaults differ between sets. What runs decide themselves does too, so all methods that leave the setting open are one arm.
    """
    # Pairs may differ in the axis, in what an arm of a study sets, and in a source that the body implies.
    bodies = {(row.method.body, row.method.source) for row in table.rows}
    implied = ("source",) if axis == "body" and len({body for body, _ in bodies}) == len(bodies) else ()
    besides = (axis, *(_ARM_GROUPS if axis == _ARM else ()), *implied)
    found, values = [], Values()
    for row in table.rows:
        facts = {name: getattr(row.method, name) for name in GROUPS} | dict(row.method.settings)
        others = tuple(sorted((key, value) for key, value in facts.items() if key not in besides))
        for place, cell in enumerate(row.cells):
            value = facts.get(axis)
            if value is None and cell.runs:
                run = cell.runs[0]
                is_open = axis in run.decided and axis not in run.variant
                value = _DECIDED if is_open else values.lookup(run, axis)
            if value is not None and (cell.runs or cell.missing):
                found.append((place, others, cell, value))
    return found


def _seeds(baseline: Cell, cell: Cell, is_task_setting: bool) -> tuple[tuple[int, ...], int, int]:
    """Return the seeds of the pairs of two cells, and how many of the second have no partner, or are the same computation.

    A pair has the same seed and test data. A setting of the task may prepare the test data otherwise, so that then the seed
    alone counts.
    """
    base, errors = baseline.by_seed, cell.by_seed
    both = {seed for seed, _ in baseline.by_test.keys() & cell.by_test.keys()}
    if is_task_setting:
        both = errors.keys() & base.keys()
    one, other = ({run.seed: run.score.weights for run in side.runs if run.score} for side in (baseline, cell))
    same = {seed for seed in both if one[seed] and one[seed] == other[seed] and base[seed] == errors[seed]}
    return tuple(sorted(both - same)), len(errors) - len(both), len(same)


def _gains(column: Column, baseline: Sequence[float], errors: Sequence[float]) -> list[float]:
    return [column.scale * (base - error) for base, error in zip(baseline, errors, strict=True)]


def _overall(arm: str, blocks: Sequence[Block], is_relative: bool) -> Overall:
    sets: dict[Column, list[Block]] = defaultdict(list)
    for block in blocks:
        sets[block.column].append(block)
    means = [fmean(fmean(block.gains) for block in set_blocks) for set_blocks in sets.values()]
    wins, losses = sum(mean > _ZERO for mean in means), sum(mean < -_ZERO for mean in means)
    differences = means
    if len(sets) == 1:  # then seeds are what there is to judge by
        by_seed: dict[int, list[float]] = defaultdict(list)
        for block in blocks:
            both = zip(block.baseline, block.errors, strict=True)
            values = [100 * relative(base, error) for base, error in both] if is_relative else block.gains
            for seed, value in zip(block.seeds, values, strict=True):
                by_seed[seed].append(value)
        differences = [fmean(seed_values) for _, seed_values in sorted(by_seed.items())]
    elif is_relative:
        differences = []
        for set_blocks in sets.values():
            base = fmean(fmean(block.baseline) for block in set_blocks)
            differences.append(100 * relative(base, fmean(fmean(block.errors) for block in set_blocks)))
    seeds = [len({seed for block in set_blocks for seed in block.seeds}) for set_blocks in sets.values()]
    pairs, ties = sum(len(block.seeds) for block in blocks), len(means) - wins - losses
    return Overall(arm, len(sets), pairs, (min(seeds), max(seeds)), wins, ties, losses, effect(differences))
