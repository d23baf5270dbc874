"""Compare arms with a control, as numbers, by pairs of runs that differ in one axis only.

The control is the arm that has the `baseline` value of the axis. A gain is the control's error
less the arm's: above 0, the arm is better. Each data set (a column of the table) counts once for an
arm, with the mean over its seeds and over the other settings that the arm was run with. `gains`
turns the numbers into sentences and tables.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from orca_cli.exceptions import DataError, UsageError, suggest
from orca_cli.report.collect import GROUPS, TEST_SET, Run
from orca_cli.report.conditions import PROGRAM, mixed, program_name
from orca_cli.report.differences import Effect, effect, holm, relative, signs
from orca_cli.report.layout import clean, seeds_text
from orca_cli.report.selection import KEY_HINT, SET, Values
from orca_cli.report.table import Cell, Column, Settings, Table, is_source_implied
from orca_cli.runs.settings import canonical
from orca_cli.terminal import counted

_ARM = "arm"  # an axis of studies
_ARM_GROUPS = ("source", "metric", "finetune")  # groups that an arm of a study may set
# Both runs of a pair have these in common.
_COMMON = ("task", "seed", "protocol", "state", SET, TEST_SET, PROGRAM)
_DECIDED = "decided"  # name of the arm whose runs decided the setting themselves
_REPEAT = (
    "run both arms on the same data, with the same train.epochs, train.members and version of the "
    "program (--any-program also pairs runs of different versions)"
)


# Not frozen: Holm's p is set once all blocks are known.
@dataclass
class Block:
    """The pairs of one arm on one data set, with all other settings the same.

    Args:
        others: fields and settings of the method other than the axis.
        seeds: seeds that control and arm have in common, ascending.
        baseline, errors: errors of the control and of the arm, by seed, as stored.
        chosen: values that were chosen for the control and for the arm, see `Run.choice`; empty if
            no value was chosen.
        gains: gain of each seed, in points if the error is in per cent; `gain` is their mean.
        holm_p: p after Holm's correction for all blocks.
    """

    column: Column
    arm: str
    others: Settings
    seeds: tuple[int, ...]
    baseline: tuple[float, ...]
    errors: tuple[float, ...]
    chosen: tuple[str, ...]
    gains: list[float]
    gain: Effect
    holm_p: float = 1.0


# Not frozen, for the same reason as `Block`.
@dataclass
class Overall:
    """One arm over all data sets on which it has pairs.

    Args:
        sets: number of these data sets.
        pairs: number of pairs of runs over all data sets.
        seeds: smallest and largest number of seeds per data set.
        wins, ties, losses: number of data sets with a mean gain above, equal to and below 0.
        gain: mean gain over data sets, or over the seeds of a single data set, in
            `Comparison.unit`.
        holm_p: p after Holm's correction for the number of arms.
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
    """Two runs of one seed: the control's and the arm's.

    Args:
        differs: names of the facts in which the two runs differ although no setting that differs
            explains it (`conditions.mixed`).
        is_same: whether both runs are the same computation and `differs` is empty.
    """

    column: Column
    arm: str
    seed: int
    runs: tuple[Run, Run]
    differs: list[str]
    is_same: bool


@dataclass(frozen=True)
class Comparison:
    """Every arm compared with the control.

    Args:
        axis: group or setting in which arms differ.
        baseline: the control's value of the axis.
        blocks: blocks with at least one pair.
        unit: unit of the arms' gains: points if all errors are in per cent. Otherwise it is per
            cent of the error, from relative differences of mean errors (`differences.relative`).
        unpaired: number of completed runs, of all arms, without a partner.
        same: number of pairs that were left out because both runs are the same computation, with
            equal final weights and errors.
        left_out: pairs that were left out because their runs differ in more than the axis.
        programs: names of the versions of the program that made the runs of the pairs.
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


class _ArmCell(NamedTuple):
    """A cell of the table, its value on the axis, and the settings that a pair's cells share."""

    arm: str
    column: Column
    others: Settings
    cell: Cell


def compare(table: Table, axis: str, baseline: str) -> Comparison:
    """Return the comparison of methods that differ in one axis only.

    Args:
        table: the table of all runs.
        axis: body, source, metric, finetune, arm (of a study), or the key of a setting. The setting
            may be set explicitly, decided by the run or left at its default.
        baseline: the control's value of the axis; numbers are compared as numbers.

    Raises:
        UsageError: both runs of a pair always share the axis, such as the seed.
        DataError: no run has that value, no pair is left, a run has several partners, or a data set
            was measured in several ways.
    """
    # No pair differs in any of these.
    if axis in _COMMON:
        raise UsageError(
            f"arms cannot differ in '{axis}'",
            where="--against",
            hint="use a setting, such as --against metric=none",
        )
    blocks = []
    left_out = []
    programs = set()
    n_same = 0
    n_unpaired = 0
    for arm_cell, baseline_cell in _partners(list(_arm_cells(table, axis)), axis, baseline):
        pairs = _pairs(arm_cell, baseline_cell)
        # Each pair has one run of the arm, so the arm's other runs lack a partner.
        n_unpaired += len(arm_cell.cell.error_by_seed) - len(pairs)
        seeds = []
        for pair in pairs:
            if pair.differs:
                left_out.append(pair)
            elif pair.is_same:
                n_same += 1
            else:
                seeds.append(pair.seed)
                # Both runs of a pair that counts were made by one version of the program.
                programs.add(program_name(pair.runs[0]))
        # A block contains the pairs that count; without pairs on a data set an arm has no block.
        if seeds:
            blocks.append(_block(arm_cell, baseline_cell, seeds))
    if not blocks:
        raise _without_pairs(axis, baseline, n_same, left_out)
    # Several blocks may share a column, which counts once.
    columns = dict.fromkeys(block.column for block in blocks)
    check_sets(columns, "--against")
    # Gains in different units have no mean, so one error that is not in per cent makes all gains
    # relative.
    is_relative = not all(column.percent for column in columns)
    # Arms are in the order of the table's rows.
    blocks_by_arm = defaultdict(list)
    for block in blocks:
        blocks_by_arm[block.arm].append(block)
    overall = [_overall(arm_blocks, is_relative) for arm_blocks in blocks_by_arm.values()]
    # The two tables answer two questions, so each is corrected for its own tests.
    _correct(blocks)
    _correct(overall)
    return Comparison(
        axis=axis,
        baseline=baseline,
        blocks=blocks,
        overall=overall,
        unit="% of the error" if is_relative else "points",
        unpaired=n_unpaired,
        same=n_same,
        left_out=left_out,
        programs=sorted(programs),
    )


def _arm_cells(table: Table, axis: str) -> Iterator[_ArmCell]:
    """Yield the cells with errors whose runs record a value on an axis.

    A setting that was not set explicitly has its default, which may differ between data sets. The
    values that runs decide themselves may differ too, so all methods that leave the setting to the
    run form one arm.
    """
    # The runs of a pair may differ in the axis, in groups that an arm of a study sets, and in a
    # source that the body implies.
    free_keys = {axis}
    if axis == _ARM:
        free_keys.update(_ARM_GROUPS)
    if axis == "body" and is_source_implied(row.method for row in table.rows):
        free_keys.add("source")
    values = Values()
    for row in table.rows:
        fields_of_row = {group: getattr(row.method, group) for group in GROUPS}
        fields_of_row |= dict(row.method.settings)
        other_settings = []
        # Sorted, since cells with equal settings become partners.
        for key in sorted(fields_of_row):
            if key not in free_keys:
                other_settings.append((key, fields_of_row[key]))
        for column, cell in zip(table.columns, row.cells, strict=True):
            # Without a test error there is nothing to pair.
            if not cell.error_by_seed:
                continue
            # Runs of a cell differ in their seed only, so the first run has the settings of all.
            first_run = cell.runs[0]
            arm_value = fields_of_row.get(axis)
            if not arm_value and axis in first_run.decided and axis not in first_run.variant:
                arm_value = _DECIDED
            elif not arm_value:
                arm_value = values.lookup(first_run, axis)
            # A run without such a setting belongs to no arm.
            if arm_value is not None:
                yield _ArmCell(
                    arm=canonical(arm_value), column=column, others=tuple(other_settings), cell=cell
                )


def _partners(
    arm_cells: Sequence[_ArmCell], axis: str, baseline: str
) -> Iterator[tuple[_ArmCell, Cell]]:
    """Yield each arm's cell with the control's cell of the same data set and settings.

    A cell without a partner is paired with an empty cell.

    Raises:
        DataError: no cell has the control's value, or an arm has several partners.
    """
    reference = canonical(baseline)
    arms = {arm_cell.arm for arm_cell in arm_cells}
    if reference not in arms:
        # If no run has the axis at all, the key is wrong and not the value.
        hint = suggest(baseline, arms) if arms else KEY_HINT
        raise DataError(f"no completed run has {axis}={baseline}", where="--against", hint=hint)
    # Data set and other settings -> the control's cells.
    baseline_cells = defaultdict(list)
    for arm_cell in arm_cells:
        if arm_cell.arm == reference:
            baseline_cells[arm_cell.column, arm_cell.others].append(arm_cell.cell)
    for arm_cell in arm_cells:
        if arm_cell.arm == reference:
            continue
        cells = baseline_cells[arm_cell.column, arm_cell.others]
        if len(cells) > 1:
            # An arm of a study was also run with another source, or runs differ in something that
            # no setting shows.
            raise DataError(
                f"several methods have {axis}={baseline}, so the control is unclear",
                where="--against",
                hint="select one of them with --where, or remove the others with `orca runs rm`",
            )
        yield arm_cell, cells[0] if cells else Cell()


def _pairs(arm_cell: _ArmCell, baseline_cell: Cell) -> list[Pair]:
    """Return the pairs of runs of equal seeds that both have an error, by rising seed."""
    cell = arm_cell.cell
    pairs = []
    for seed in baseline_cell.common_seeds(cell):
        runs = (baseline_cell.run_by_seed[seed], cell.run_by_seed[seed])
        differs = list(mixed(runs))
        # Weights that are not recorded do not prove that both runs computed the same.
        weights = {run.score.weights for run in runs if run.score}
        has_equal_weights = len(weights) == 1 and "" not in weights
        # Exactly equal: the same computation gives the same bits.
        has_equal_errors = baseline_cell.error_by_seed[seed] == cell.error_by_seed[seed]
        pair = Pair(
            column=arm_cell.column,
            arm=arm_cell.arm,
            seed=seed,
            runs=runs,
            differs=differs,
            is_same=has_equal_weights and has_equal_errors and not differs,
        )
        pairs.append(pair)
    return pairs


def _block(arm_cell: _ArmCell, baseline_cell: Cell, seeds: Sequence[int]) -> Block:
    """Return the block of the pairs with these seeds: their gains and statistics."""
    cell = arm_cell.cell
    scale = arm_cell.column.scale
    baseline = [baseline_cell.error_by_seed[seed] for seed in seeds]
    errors = [cell.error_by_seed[seed] for seed in seeds]
    gains = []
    for baseline_error, error in zip(baseline, errors, strict=True):
        gains.append(scale * (baseline_error - error))
    choices = (baseline_cell.runs[0].choice, cell.runs[0].choice)
    return Block(
        column=arm_cell.column,
        arm=arm_cell.arm,
        others=arm_cell.others,
        seeds=tuple(seeds),
        baseline=tuple(baseline),
        errors=tuple(errors),
        chosen=tuple(filter(None, choices)),
        gains=gains,
        gain=effect(gains),
    )


def _without_pairs(axis: str, baseline: str, n_same: int, left_out: Sequence[Pair]) -> DataError:
    """Return the error that says why no pair is left."""
    # The most specific reason is checked first: pairs that differ in more than the axis,
    # pairs that do not differ at all, no pairs.
    if left_out:
        message = f"no pair is left: {left_out_text(axis, left_out)}"
        hint = _REPEAT
    elif n_same:
        message = (
            f"no pair is left: in {counted(n_same, 'pair')}, both runs computed the same model "
            "(equal final weights and errors)"
        )
        hint = f"compare another setting; {axis} changed nothing in these runs"
    else:
        message = f"no two runs with the same task, seed and test data differ only in '{axis}'"
        hint = (
            f"run the same tasks and seeds with {axis}={baseline}; `orca runs diff` shows how two "
            "runs differ"
        )
    return DataError(message, where="--against", hint=hint)


def left_out_text(axis: str, left_out: Sequence[Pair]) -> str:
    """Return the number of pairs that were left out, and how they differ by data set and arm."""
    # Data set, arm and facts -> seeds, so that no reason is repeated for each seed.
    seeds_by_reason = defaultdict(list)
    for pair in left_out:
        facts = " and ".join(pair.differs)
        reason = f"{pair.column.name}, {pair.arm}: {facts}"
        seeds_by_reason[reason].append(pair.seed)
    reasons = []
    for reason, seeds in seeds_by_reason.items():
        reasons.append(f"{reason} (seed {seeds_text(seeds)})")
    pairs_text = counted(len(left_out), "pair")
    reasons_text = "; ".join(reasons)
    return clean(
        f"{pairs_text} whose runs differ in more than {axis}: {reasons_text}", longest=2000
    )


def check_sets(columns: Iterable[Column], option: str) -> None:
    """Raise DataError for several columns of one data set, such as two protocols of a task.

    They would count as several data sets.
    """
    # A column's name leaves out protocol, error and size, in which columns of a data set differ.
    counts = Counter(column.name for column in columns)
    for set_name, n_ways in counts.items():
        if n_ways > 1:
            message = (
                f"the data set '{set_name}' was measured in {n_ways} ways, so it would count as "
                f"{n_ways} data sets"
            )
            hint = (
                "select runs that were measured in one way: use --where protocol=..., or --where "
                "with another setting in which the runs differ"
            )
            raise DataError(clean(message), where=option, hint=hint)


def _overall(blocks: Sequence[Block], is_relative: bool) -> Overall:
    """Return the gain of an arm over its data sets, or over the seeds of a single data set."""
    blocks_by_set = defaultdict(list)
    n_pairs = 0
    for block in blocks:
        blocks_by_set[block.column].append(block)
        n_pairs += len(block.seeds)
    # A data set counts once, whatever settings the arm was run with. If units differ, only the
    # signs of these gains are used.
    gains = []
    differences = []
    n_seeds = []  # number of seeds of each data set
    for blocks_of_set in blocks_by_set.values():
        gain = fmean(fmean(block.gains) for block in blocks_of_set)
        gains.append(gain)
        if is_relative:
            # The difference of a data set is between its two mean errors, as the table shows them.
            baseline_error = fmean(fmean(block.baseline) for block in blocks_of_set)
            arm_error = fmean(fmean(block.errors) for block in blocks_of_set)
            gain = 100 * relative(baseline_error, arm_error)
        differences.append(gain)
        # Blocks of a data set may share seeds, which count once.
        seeds: set[int] = set()
        for block in blocks_of_set:
            seeds.update(block.seeds)
        n_seeds.append(len(seeds))
    if len(blocks_by_set) == 1:
        # One mean has no spread, so the seeds are the observations.
        differences = _by_seed(blocks, is_relative)
    return Overall(
        arm=blocks[0].arm,
        sets=len(blocks_by_set),
        pairs=n_pairs,
        seeds=(min(n_seeds), max(n_seeds)),
        **signs(gains),
        gain=effect(differences),
    )


def _by_seed(blocks: Sequence[Block], is_relative: bool) -> list[float]:
    """Return the mean gain of each seed over the blocks of one data set, by rising seed."""
    gains = defaultdict(list)
    for block in blocks:
        for position, seed in enumerate(block.seeds):
            # The gain is in points, unless the error of a data set has another unit.
            gain = block.gains[position]
            if is_relative:
                gain = 100 * relative(block.baseline[position], block.errors[position])
            gains[seed].append(gain)
    return [fmean(gains[seed]) for seed in sorted(gains)]


def _correct(judged: Sequence[Block | Overall]) -> None:
    """Set the Holm-corrected p of gains that are tested together."""
    corrected = holm([entry.gain.p for entry in judged])
    for entry, holm_p in zip(judged, corrected, strict=True):
        entry.holm_p = holm_p
