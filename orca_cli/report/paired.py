"""Arms against a baseline, in pairs: runs that are the same in everything but one axis; in numbers.

A gain is the baseline's error less the arm's: above 0, the arm is better. Sets (the columns of the
table) are what an arm is judged by: a set counts once, with the mean over its seeds and over what
else it was run with. `gains` puts all this in words and tables.
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
_ARM_GROUPS = ("source", "metric", "finetune")  # that its choices set, among others
# What both runs of a pair have in common.
_COMMON = ("task", "seed", "protocol", "state", SET, TEST_SET, PROGRAM)
_DECIDED = "decided"  # value of settings that were left open
_REPEAT = (
    "run both arms on the same data, as long (train.epochs, train.members) and by one program; "
    "--any-program pairs runs of several"
)


# Not frozen: Holm's p is set once all blocks are known.
@dataclass
class Block:
    """The pairs of one arm on one set, with all other settings the same.

    Args:
        others: fields and settings of the method besides the axis.
        seeds: those that both have, ascending.
        baseline, errors: by seed, as stored.
        chosen: what was chosen for the baseline and for the arm, see `Run.choice`; empty where
            nothing was.
        gains: by seed, in points where the error is a per cent; `gain` is their mean.
        holm_p: Holm's p over all blocks.
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


# Not frozen, as `Block`.
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
        differs: names of the facts in which they differ, though no setting that differs sets these
            (`conditions.mixed`).
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
        unit: of the gains that arms are judged by: points; or per cent of the error, by relative
            differences of mean errors (`differences.relative`), since the error of some set is no
            per cent.
        unpaired: completed runs, of all arms, without a partner.
        same: pairs that were left out: both runs are the same computation, with equal final weights
            and errors.
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


class _ArmCell(NamedTuple):
    """A cell of the table, its value on the axis, and what the cells of a pair have in common."""

    arm: str
    column: Column
    others: Settings
    cell: Cell


def compare(table: Table, axis: str, baseline: str) -> Comparison:
    """Return the comparison of methods that differ in an axis only.

    Args:
        axis: body, source, metric, finetune, arm (of a study), or the key of a setting, whether
            typed, decided by the run or left at its default.
        baseline: a value of the axis; numbers are compared as numbers.

    Raises:
        UsageError: pairs have the axis in common, such as the seed.
        DataError: no row has that value, no pair is left, a run has several partners, or a set was
            measured in several ways.
    """
    # No pair differs in any of these.
    if axis in _COMMON:
        raise UsageError(
            f"'{axis}' is not a setting of an arm", where="--against", hint="such as metric=none"
        )
    blocks = []
    left_out = []
    programs = set()
    n_same = 0
    n_unpaired = 0
    for arm_cell, baseline_cell in _partners(list(_arm_cells(table, axis)), axis, baseline):
        pairs = _pairs(arm_cell, baseline_cell)
        # Each pair has a single run of an arm, so all other runs of arms lack a partner.
        n_unpaired += len(arm_cell.cell.error_by_seed) - len(pairs)
        seeds = []
        for pair in pairs:
            if pair.differs:
                left_out.append(pair)
            elif pair.is_same:
                n_same += 1
            else:
                seeds.append(pair.seed)
                # Both runs of a pair that counts were made by one program.
                programs.add(program_name(pair.runs[0]))
        # A block has the pairs that count; an arm without any on a set has no block there.
        if seeds:
            blocks.append(_block(arm_cell, baseline_cell, seeds))
    if not blocks:
        raise _without_pairs(axis, baseline, n_same, left_out)
    # Several blocks may share a column, which counts once.
    columns = dict.fromkeys(block.column for block in blocks)
    check_sets(columns, "--against")
    # Gains in different units have no mean, so a single error that is no per cent makes all
    # relative.
    is_relative = not all(column.percent for column in columns)
    # In the order of the table's rows.
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

    A setting that was not typed has its default, which may differ between sets. What runs decide
    themselves may differ too, so all methods that leave the setting to the run are one arm.
    """
    # Pairs may differ in the axis, in what an arm of a study sets, and in a source that the body
    # implies.
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
        # Sorted, since it is a key by which cells find their partners.
        for key in sorted(fields_of_row):
            if key not in free_keys:
                other_settings.append((key, fields_of_row[key]))
        for column, cell in zip(table.columns, row.cells, strict=True):
            # Without a test error there is nothing to pair.
            if not cell.error_by_seed:
                continue
            # Runs of a cell differ in their seed only, so the first shows how all were set.
            first_run = cell.runs[0]
            arm_value = fields_of_row.get(axis)
            if not arm_value and axis in first_run.decided and axis not in first_run.variant:
                arm_value = _DECIDED
            elif not arm_value:
                arm_value = values.lookup(first_run, axis)
            # A run without such a setting is in no arm.
            if arm_value is not None:
                yield _ArmCell(
                    arm=canonical(arm_value), column=column, others=tuple(other_settings), cell=cell
                )


def _partners(
    arm_cells: Sequence[_ArmCell], axis: str, baseline: str
) -> Iterator[tuple[_ArmCell, Cell]]:
    """Yield each arm's cell with the baseline's of the same set and settings.

    A cell without a partner comes with an empty one.

    Raises:
        DataError: no cell has the baseline's value, or an arm has several partners.
    """
    reference = canonical(baseline)
    arms = {arm_cell.arm for arm_cell in arm_cells}
    if reference not in arms:
        # If no run has the axis at all, the key is wrong rather than the value.
        hint = suggest(baseline, arms) if arms else KEY_HINT
        raise DataError(f"no completed run has {axis}={baseline}", where="--against", hint=hint)
    # Set and other settings -> the baseline's cells.
    baseline_cells = defaultdict(list)
    for arm_cell in arm_cells:
        if arm_cell.arm == reference:
            baseline_cells[arm_cell.column, arm_cell.others].append(arm_cell.cell)
    for arm_cell in arm_cells:
        if arm_cell.arm == reference:
            continue
        cells = baseline_cells[arm_cell.column, arm_cell.others]
        if len(cells) > 1:
            # An arm of a study was run with another source as well, or runs differ in what no
            # setting shows.
            raise DataError(
                f"ambiguous reference: several methods have {axis}={baseline}",
                where="--against",
                hint="narrow with --where, or remove the runs of one of them: orca runs rm",
            )
        yield arm_cell, cells[0] if cells else Cell()


def _pairs(arm_cell: _ArmCell, baseline_cell: Cell) -> list[Pair]:
    """Return the pairs of runs of equal seeds that both have an error, by rising seed."""
    cell = arm_cell.cell
    pairs = []
    for seed in baseline_cell.common_seeds(cell):
        runs = (baseline_cell.run_by_seed[seed], cell.run_by_seed[seed])
        differs = list(mixed(runs))
        # Weights that are not recorded are no evidence of the same computation.
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
    """Return the gains of the pairs of some seeds, and their statistics."""
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
    # From the most specific reason to the most general: pairs that differ in more, pairs that do
    # not differ at all, no pairs.
    if left_out:
        message = f"no pair is left: {left_out_text(axis, left_out)}"
        hint = _REPEAT
    elif n_same:
        message = (
            f"no pair is left: {counted(n_same, 'pair')} of the same computation "
            "(equal final weights and errors)"
        )
        hint = f"{axis} changed nothing in these runs"
    else:
        message = (
            "no two runs of the same task and seed, on the same test data, differ in nothing but "
            f"'{axis}'"
        )
        hint = (
            f"run the same tasks and seeds with {axis}={baseline}; 'orca runs diff' says in what "
            "two runs differ"
        )
    return DataError(message, where="--against", hint=hint)


def left_out_text(axis: str, left_out: Sequence[Pair]) -> str:
    """Return how many pairs were left out, and in what those of each set and arm differ."""
    # Set, arm and facts -> seeds, so that no reason is repeated for each seed.
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
    return clean(f"{pairs_text} with differences besides {axis}: {reasons_text}", longest=2000)


def check_sets(columns: Iterable[Column], option: str) -> None:
    """Raise DataError for several columns of one set, such as two protocols of a task.

    They would count as several sets.
    """
    # Names leave out protocol, error and size, in which columns of a set differ.
    counts = Counter(column.name for column in columns)
    for set_name, n_ways in counts.items():
        if n_ways > 1:
            message = (
                f"{set_name} was measured in {n_ways} ways, which would count as {n_ways} sets"
            )
            hint = "narrow with --where protocol=..., or another setting in which its runs differ"
            raise DataError(clean(message), where=option, hint=hint)


def _overall(blocks: Sequence[Block], is_relative: bool) -> Overall:
    """Return the gain of an arm, judged by its sets, or on a single set by its seeds."""
    blocks_by_set = defaultdict(list)
    n_pairs = 0
    for block in blocks:
        blocks_by_set[block.column].append(block)
        n_pairs += len(block.seeds)
    # A set counts once, whatever its arm was run with. Where units differ, only the signs are used.
    gains = []
    differences = []
    n_seeds = []  # of each set
    for blocks_of_set in blocks_by_set.values():
        gain = fmean(fmean(block.gains) for block in blocks_of_set)
        gains.append(gain)
        if is_relative:
            # A set's difference is between its two mean errors, as the table shows them.
            baseline_error = fmean(fmean(block.baseline) for block in blocks_of_set)
            arm_error = fmean(fmean(block.errors) for block in blocks_of_set)
            gain = 100 * relative(baseline_error, arm_error)
        differences.append(gain)
        # Blocks of a set may share seeds, which count once.
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
    """Return the mean gain of each seed over blocks of one set, by rising seed."""
    gains = defaultdict(list)
    for block in blocks:
        for position, seed in enumerate(block.seeds):
            # In points, unless some set has another unit.
            gain = block.gains[position]
            if is_relative:
                gain = 100 * relative(block.baseline[position], block.errors[position])
            gains[seed].append(gain)
    return [fmean(gains[seed]) for seed in sorted(gains)]


def _correct(judged: Sequence[Block | Overall]) -> None:
    """Set Holm's p of gains that are tested together."""
    corrected = holm([entry.gain.p for entry in judged])
    for entry, holm_p in zip(judged, corrected, strict=True):
        entry.holm_p = holm_p
