"""Arms against a baseline, in pairs: runs that are the same in everything but one axis.

A gain is the baseline's error less the arm's: above 0, the arm is better. Sets (the columns of the table) are what an arm is
judged by: a set counts once, with the mean over its seeds and over what else it was run with.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from orca_cli.exceptions import DataError, suggest
from orca_cli.report.records.collect import Run
from orca_cli.report.records.origin import Origin
from orca_cli.report.statistics.differences import Effect, effect, holm
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Column, Method, Table

_FIELDS = ("body", "source", "metric", "finetune")
_ARM, _OF_AN_ARM = "arm", ("source", "metric", "finetune")  # an axis of studies, and what its choices set among others
_ZERO = 1e-12


@dataclass(frozen=True)
class Block:
    """The pairs of one arm on one set, with all other settings the same.

    Args:
        others: what names the method besides the axis.
        seeds: those that both have.
        baseline, errors: by seed, as stored.
        lost: completed runs of the arm whose partner is missing.
        runs: one of the baseline and one of the arm.
    """

    column: Column
    arm: str
    others: tuple[tuple[str, str], ...]
    seeds: tuple[int, ...]
    baseline: tuple[float, ...]
    errors: tuple[float, ...]
    lost: int = 0
    runs: tuple[Run, ...] = ()

    @property
    def scale(self) -> float:
        """Return what stored errors are multiplied by where they are shown."""
        return 100.0 if self.column.percent else 1.0

    @property
    def gains(self) -> list[float]:
        """Return the gains by seed, in points where the error is a per cent."""
        return [self.scale * (base - error) for base, error in zip(self.baseline, self.errors, strict=True)]

    @property
    def effect(self) -> Effect | None:
        """Return the mean gain; None without a pair."""
        return effect(self.gains) if self.seeds else None


@dataclass(frozen=True)
class Overall:
    """One arm over all sets that it has pairs on.

    Args:
        sets: how many.
        seeds: of the sets, fewest and most.
        wins, ties, losses: sets by the sign of their mean gain.
        points: mean gain over the sets whose error is a per cent; None without one.
        relative: mean over all sets of log(baseline's mean error / arm's): about the share of the error that is gained.
        worst: name and mean gain, in points, of the set with the lowest; None without a set whose error is a per cent.
        corrected: Holm's p over the arms, of `points` if all sets have them, else of `relative`.
        is_relative: the verdict is about `relative`.
    """

    arm: str
    sets: int
    pairs: int
    seeds: tuple[int, int]
    wins: int
    ties: int
    losses: int
    points: Effect | None
    relative: Effect | None
    worst: tuple[str, float] | None = None
    corrected: float = 1.0
    is_relative: bool = False

    @property
    def judged(self) -> Effect | None:
        """Return the effect that the verdict is about."""
        return self.relative if self.is_relative else self.points


@dataclass(frozen=True)
class Comparison:
    """Every arm against the baseline.

    Args:
        axis, baseline: such as metric and none.
        margin: a mean gain of at most this, in points or in per cent of the error, counts as none.
        unpaired: completed runs, of all arms, without a partner.
        origin: of the runs, for commands that add to them; None where there are to be none.
    """

    axis: str
    baseline: str
    margin: float
    blocks: list[Block]
    overall: list[Overall]
    unpaired: int
    origin: Origin | None = None


def compare(table: Table, axis: str, baseline: str, margin: float, origin: Origin | None = None) -> Comparison:
    """Return the comparison of all methods that differ from others in an axis only.

    Args:
        table: of the runs.
        axis: body, source, metric, finetune, or a setting in which rows differ.
        baseline: its value.
        margin, origin: see `Comparison`.

    Raises:
        DataError: no row has that value, all have it, or there is no pair.
    """
    values = {value for row in table.rows if (value := value_of(row.method, axis)) is not None}
    if not values:
        keys = {key for row in table.rows for key, _ in row.method.settings} | set(_FIELDS)
        raise DataError(f"the runs do not differ in '{axis}'", where="--against", hint=suggest(axis, keys))
    if baseline not in values:
        raise DataError(f"no run has {axis}={baseline}", where="--against", hint=suggest(baseline, values))
    if len(values) == 1:
        hint = f"run others as well: orca run -m {axis}={baseline},..."
        raise DataError(f"all runs have {axis}={baseline}", where="--against", hint=hint)
    # Rows without a completed run, such as one that was typed beside an arm and interrupted, are nobody's partner.
    finished = [row for row in table.rows if any(cell.by_seed for cell in row.cells)]
    partners = {_others(row.method, axis): row for row in finished if value_of(row.method, axis) == baseline}
    blocks = []
    for row in table.rows:
        if (value := value_of(row.method, axis)) in (None, baseline):
            continue
        others = _others(row.method, axis)
        partner = partners.get(others)
        for place, column in enumerate(table.columns):
            mine = row.cells[place].by_seed
            base = {} if partner is None else partner.cells[place].by_seed
            seeds = tuple(sorted(mine.keys() & base.keys()))
            if mine:
                errors = (tuple(base[seed] for seed in seeds), tuple(mine[seed] for seed in seeds))
                runs = [own[0] for own in (partner and partner.cells[place].runs, row.cells[place].runs) if own]
                lost = len(mine) - len(seeds)
                blocks.append(Block(column, str(value), others, seeds, *errors, lost=lost, runs=tuple(runs)))
    if not any(block.seeds for block in blocks):
        what = f"no two runs of the same task and seed differ in nothing but '{axis}'"
        raise DataError(what, where="--against", hint=_unpaired_hint(table, axis, baseline))
    arms = dict.fromkeys(block.arm for block in blocks)
    found = [_overall(arm, [block for block in blocks if block.arm == arm and block.seeds]) for arm in arms]
    is_relative = not all(block.column.percent for block in blocks if block.seeds)
    found = [replace(one, is_relative=is_relative) for one in found if one.sets]
    corrected = holm([one.judged.p if one.judged else 1.0 for one in found])
    found = [replace(one, corrected=p) for one, p in zip(found, corrected, strict=True)]
    return Comparison(axis, baseline, margin, blocks, found, sum(block.lost for block in blocks), origin)


def _unpaired_hint(table: Table, axis: str, baseline: str) -> str:
    """Return in what the most alike rows with and without the baseline differ besides the axis."""
    of: dict[bool, list[set[tuple[str, str]]]] = {True: [], False: []}
    for row in table.rows:
        if (value := value_of(row.method, axis)) is not None:
            of[value == baseline].append(set(_others(row.method, axis)))
    differences = [one ^ other for one in of[True] for other in of[False]]
    keys = sorted({clean(key) for key, _ in min(differences, key=len, default=set())})
    if not keys:
        return f"run the same tasks and seeds with {axis}={baseline}"
    return f"they differ in {', '.join(keys)} as well; try --against {keys[-1]}=..., or narrow with --where"


def value_of(method: Method, axis: str) -> str | None:
    """Return a method's value on an axis; None where its name has none."""
    return str(getattr(method, axis)) if axis in _FIELDS else dict(method.settings).get(axis)


def _others(method: Method, axis: str) -> tuple[tuple[str, str], ...]:
    names = (name for name in _FIELDS if axis != _ARM or name not in _OF_AN_ARM)
    fields = {name: str(getattr(method, name)) for name in names} | dict(method.settings)
    return tuple(sorted((key, value) for key, value in fields.items() if key != axis))


def _overall(arm: str, blocks: Sequence[Block]) -> Overall:
    sets = by_column(blocks)
    means = [_mean(_mean(block.gains) for block in own) for own in sets.values()]
    named = [(mean, column.task) for mean, column in zip(means, sets, strict=True) if column.percent]
    percent = [mean for mean, _ in named]
    worst = min(named, default=None)
    ratios = [ratio for own in sets.values() if (ratio := _log_ratio(own)) is not None]
    if len(sets) == 1:  # then seeds are what there is to judge by
        (own,) = sets.values()
        percent = differences_by_seed(own, False) if percent else []
        logs = differences_by_seed(own, True)
        ratios = logs if all(map(math.isfinite, logs)) else []
    counts = [len(block.seeds) for block in blocks]
    return Overall(
        arm,
        len(sets),
        sum(counts),
        (min(counts, default=0), max(counts, default=0)),
        wins=sum(mean > _ZERO for mean in means),
        ties=sum(abs(mean) <= _ZERO for mean in means),
        losses=sum(mean < -_ZERO for mean in means),
        points=effect(percent) if percent else None,
        relative=effect(ratios) if ratios else None,
        worst=worst and (worst[1], worst[0]),
    )


def by_column(blocks: Iterable[Block]) -> dict[Column, list[Block]]:
    """Return the blocks of every set."""
    sets: dict[Column, list[Block]] = defaultdict(list)
    for block in blocks:
        sets[block.column].append(block)
    return dict(sets)


def differences_by_seed(blocks: Sequence[Block], as_logs: bool) -> list[float]:
    """Return, for each seed, the mean over the blocks of a set that have it: of gains, or of log ratios of the errors.

    A log ratio is NaN where an error is not above 0.
    """
    found: dict[int, list[float]] = defaultdict(list)
    for block in blocks:
        for seed, value in zip(block.seeds, _log_ratios(block) if as_logs else block.gains, strict=True):
            found[seed].append(value)
    return [_mean(own) for _, own in sorted(found.items())]


def _log_ratio(blocks: Sequence[Block]) -> float | None:
    """Return log(mean error of the baseline / of the arm) on a set; None where either is not above 0."""
    base, mine = _mean(_mean(block.baseline) for block in blocks), _mean(_mean(block.errors) for block in blocks)
    return math.log(base / mine) if base > 0 and mine > 0 else None


def _log_ratios(block: Block) -> list[float]:
    pairs = zip(block.baseline, block.errors, strict=True)
    return [math.log(base / mine) if base > 0 and mine > 0 else math.nan for base, mine in pairs]


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)
