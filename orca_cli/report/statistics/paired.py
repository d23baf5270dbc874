"""Arms against a baseline, in pairs: runs that are the same in everything but one axis.

A gain is the baseline's error less the arm's: above 0, the arm is better. Sets (the columns of the table) are what an arm is
judged by: a set counts once, with the mean over its seeds and over what else it was run with.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from orca_cli.exceptions import DataError, UsageError, suggest
from orca_cli.report.records.collect import GROUPS, TEST_SET
from orca_cli.report.records.filters import FIELDS, KEY_HINT, SET, Values, canonical
from orca_cli.report.statistics.differences import Effect, effect, holm, mean_of, relative
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import TASK_PREFIX, Cell, Column, Method, Table
from orca_cli.terminal import counted

_ARM, _ARM_GROUPS = "arm", ("source", "metric", "finetune")  # an axis of studies, and what its choices set among others
_COMMON = (*(name for name in FIELDS if name not in GROUPS), SET, TEST_SET)  # to both runs of a pair
_DECIDED = "decided"  # value of settings that were left open
_ZERO = 1e-12


@dataclass(frozen=True)
class Block:
    """The pairs of one arm on one set, with all other settings the same.

    Args:
        others: fields and settings of the method besides the axis.
        seeds: those that both have.
        baseline, errors: by seed, as stored.
        unpaired: completed runs of the arm whose partner is missing.
        same: seeds whose two runs are the same computation, with equal final weights and errors; no pairs.
        chosen: what was chosen for the baseline and for the arm, see `Run.choice`; empty where nothing was.
    """

    column: Column
    arm: str
    others: tuple[tuple[str, str], ...]
    seeds: tuple[int, ...]
    baseline: tuple[float, ...]
    errors: tuple[float, ...]
    unpaired: int
    same: int
    chosen: tuple[str, ...]

    @property
    def gains(self) -> list[float]:
        """Return the gains by seed, in points where the error is a per cent."""
        return [self.column.scale * (base - error) for base, error in zip(self.baseline, self.errors, strict=True)]

    @cached_property
    def effect(self) -> Effect | None:
        """Return the mean gain; None without a pair."""
        return effect(self.gains) if self.seeds else None


@dataclass(frozen=True)
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

    `is_relative`: arms are judged by relative differences of mean errors (`differences.relative`), since the error of some set
    is no per cent; else by gains in points.
    """

    axis: str
    baseline: str
    blocks: list[Block]
    overall: list[Overall]
    is_relative: bool

    @property
    def unit(self) -> str:
        """Return the unit of the gains that arms are judged by."""
        return "% of the error" if self.is_relative else "points"

    @property
    def same(self) -> int:
        """Return how many pairs were left out, since both runs are the same computation."""
        return sum(block.same for block in self.blocks)

    @property
    def unpaired(self) -> int:
        """Return how many completed runs, of all arms, have no partner."""
        return sum(block.unpaired for block in self.blocks)


def compare(table: Table, axis: str, baseline: str) -> Comparison:
    """Return the comparison of all methods that differ from others in an axis only.

    The axis is body, source, metric, finetune, or a setting, typed, decided or left as it is; the baseline is a value of it.

    Raises:
        UsageError: the axis is what pairs have in common, such as the seed.
        DataError: no row has that value, there is no pair, a run has several partners, or a set was measured in several ways.
    """
    if axis in _COMMON:
        raise UsageError(f"'{axis}' is not a setting of an arm", where="--against", hint="such as metric=none")
    blocks = _blocks(table, axis, baseline)
    paired = [block for block in blocks if block.seeds]
    if not paired:
        what = f"no two runs of the same task and seed, on the same test data, differ in nothing but '{axis}'"
        hint = f"run the same tasks and seeds with {axis}={baseline}; 'orca runs diff' says in what two runs differ"
        if same := sum(block.same for block in blocks):
            what = f"no pair is left: {counted(same, 'pair')} of the same computation (equal final weights and errors)"
            hint = f"{axis} changed nothing in these runs"
        raise DataError(what, where="--against", hint=hint)
    check_sets(dict.fromkeys(block.column for block in paired), "--against")
    is_relative = not all(block.column.percent for block in paired)
    by_arm: dict[str, list[Block]] = defaultdict(list)
    for block in paired:
        by_arm[block.arm].append(block)
    overall = [_overall(arm, arm_blocks, is_relative) for arm, arm_blocks in by_arm.items()]
    corrected = holm([one.gain.p for one in overall])
    overall = [replace(one, holm_p=p) for one, p in zip(overall, corrected, strict=True)]
    return Comparison(axis, baseline, blocks, overall, is_relative)


def _blocks(table: Table, axis: str, baseline: str) -> list[Block]:
    """Return the pairs of every arm on every set; errors as of `compare`."""
    values = Values()
    cells = {(row.method, place): cell for row in table.rows for place, cell in enumerate(row.cells)}
    typed = {key: value for key, cell in cells.items() if (value := _value(key[0], cell, axis, values)) is not None}
    value_of = {key: canonical(value) for key, value in typed.items()}
    if canonical(baseline) not in value_of.values():
        hint = suggest(baseline, set(value_of.values())) if value_of else KEY_HINT
        raise DataError(f"no run has {axis}={baseline}", where="--against", hint=hint)
    # Pairs may differ in the axis, in what an arm of a study sets, and in a source that the body implies.
    bodies = {(row.method.body, row.method.source) for row in table.rows}
    implied = ("source",) if axis == "body" and len({body for body, _ in bodies}) == len(bodies) else ()
    besides = (axis, *(_ARM_GROUPS if axis == _ARM else ()), *implied)
    partners: dict[tuple[object, ...], list[Cell]] = defaultdict(list)
    arms = []
    for (method, place), arm in value_of.items():
        cell, facts = cells[method, place], {name: getattr(method, name) for name in GROUPS} | dict(method.settings)
        others = tuple(sorted((key, value) for key, value in facts.items() if key not in besides))
        if cell.by_seed and arm == canonical(baseline):
            partners[place, others].append(cell)
        elif cell.by_seed:
            arms.append((place, arm, others, cell))
    blocks = []
    for place, arm, others, cell in arms:
        bases = partners[place, others] or [Cell()]
        if len(bases) > 1:
            # An arm of a study was run with another source as well, or runs differ in what no setting shows.
            folders = ", ".join(clean(base.runs[0].path.name) for base in bases)
            hint = f"narrow with --where, or keep the runs of one of them (orca runs rm): {folders}"
            what = f"ambiguous reference: several methods have {axis}={baseline}"
            raise DataError(what, where="--against", hint=hint)
        blocks.append(_paired(table.columns[place], arm, others, bases[0], cell, axis.startswith(TASK_PREFIX)))
    return blocks


def check_sets(columns: Iterable[Column], option: str) -> None:
    """Refuse (DataError) several columns of one set, such as two protocols of a task, which would count as several sets."""
    for name, count in Counter(column.name for column in columns).items():
        if count > 1:
            what = f"{name} was measured in {count} ways, which would count as {count} sets"
            hint = "narrow with --where protocol=..., or another setting in which its runs differ"
            raise DataError(clean(what), where=option, hint=hint)


def _paired(
    column: Column, arm: str, others: tuple[tuple[str, str], ...], baseline: Cell, cell: Cell, is_task_setting: bool
) -> Block:
    """Return the pairs of two cells: runs of the same seed and test data.

    A setting of the task may prepare the test data otherwise, so that then the seed alone counts.
    """
    base, errors = baseline.by_seed, cell.by_seed
    same_data = {seed for seed, _ in baseline.by_test.keys() & cell.by_test.keys()}
    both = errors.keys() & base.keys() if is_task_setting else same_data
    weights, arm_weights = (
        {run.seed: score.weights for run, score in zip(one.runs, one.scores, strict=True)} for one in (baseline, cell)
    )
    equal = {
        seed for seed in both if weights[seed] and weights[seed] == arm_weights[seed] and base[seed] == errors[seed]
    }
    seeds = tuple(sorted(both - equal))
    return Block(
        column,
        arm,
        others,
        seeds,
        tuple(base[seed] for seed in seeds),
        tuple(errors[seed] for seed in seeds),
        unpaired=len(errors) - len(both),
        same=len(equal),
        chosen=tuple(one.runs[0].choice for one in (baseline, cell) if one.choice),
    )


def _value(method: Method, cell: Cell, axis: str, values: Values) -> str | None:
    """Return a method's value on an axis for one set (defaults differ between sets); None where its runs do not record it.

    What runs decide themselves differs between sets, so all methods that leave the setting open are one arm.
    """
    if not (cell.runs or cell.missing):
        return None
    if axis in GROUPS:
        return str(getattr(method, axis))
    typed = dict(method.settings)
    run = next(iter(cell.runs), None)
    if axis in typed or run is None:
        return typed.get(axis)
    return _DECIDED if axis in run.decided and axis not in run.variant else values.lookup(run, axis)


def _overall(arm: str, blocks: Sequence[Block], is_relative: bool) -> Overall:
    sets: dict[Column, list[Block]] = defaultdict(list)
    for block in blocks:
        sets[block.column].append(block)
    means = [mean_of(mean_of(block.gains) for block in set_blocks) for set_blocks in sets.values()]
    wins, losses = sum(mean > _ZERO for mean in means), sum(mean < -_ZERO for mean in means)
    differences = means
    if len(sets) == 1:  # then seeds are what there is to judge by
        by_seed: dict[int, list[float]] = defaultdict(list)
        for block in blocks:
            pairs_of = zip(block.baseline, block.errors, strict=True)
            values = [100 * relative(base, error) for base, error in pairs_of] if is_relative else block.gains
            for seed, value in zip(block.seeds, values, strict=True):
                by_seed[seed].append(value)
        differences = [mean_of(seed_values) for _, seed_values in sorted(by_seed.items())]
    elif is_relative:
        differences = []
        for set_blocks in sets.values():
            base = mean_of(mean_of(block.baseline) for block in set_blocks)
            differences.append(100 * relative(base, mean_of(mean_of(block.errors) for block in set_blocks)))
    seeds = [len({seed for block in set_blocks for seed in block.seeds}) for set_blocks in sets.values()]
    pairs, ties = sum(len(block.seeds) for block in blocks), len(means) - wins - losses
    return Overall(arm, len(sets), pairs, (min(seeds), max(seeds)), wins, ties, losses, gain=effect(differences))
