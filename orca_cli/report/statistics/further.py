"""How many more seeds an undecided comparison needs, and the command that runs them."""

from __future__ import annotations

import itertools
import math
import shlex
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orca_cli.report.records.collect import GROUPS, Run
from orca_cli.report.records.details import typed_settings
from orca_cli.report.records.study_members import SET, Origin
from orca_cli.report.statistics.differences import LARGEST_P, needed
from orca_cli.report.statistics.paired import Block, Comparison, Overall, by_column, differences_by_seed

MOST = 50  # further seeds; more is hopeless


@dataclass(frozen=True)
class Further:
    """What an undecided arm lacks.

    Args:
        seeds: how many more of each set; None where no number, or more than `MOST`, would do.
        is_hopeless: more than `MOST` seeds would do.
        sets: how many more sets would do where no number of seeds does; None for more than `MOST`.
        is_few_sets: there are so few sets that p cannot be low enough, whatever the seeds.
        commands: run the seeds; completed runs are not repeated.
    """

    seeds: int | None = None
    is_hopeless: bool = False
    sets: int | None = None
    is_few_sets: bool = False
    commands: tuple[str, ...] = ()


def further(one: Overall, comparison: Comparison) -> Further:
    """Return how many more seeds or sets would decide about an arm.

    The rule (see `differences.needed`): if further differences resemble those seen, as many as give a power of 80 % for Holm's
    p <= 0.05 (as if the arm were the first of all) or for no effect beyond the margin; never fewer than can reach that p at
    all: 6 for one arm. On one set the differences are seeds. On several they are sets, and more seeds only make the mean of
    each set more certain. The variance of such a mean is that between sets, which stays, plus that of a seed over the number of
    seeds, which shrinks; with one seed per set the two cannot be separated, and all variance is attributed to seeds.
    """
    blocks = comparison.judged(one.arm)
    judged, largest = one.judged, LARGEST_P / len(comparison.overall)
    sets = [differences_by_seed(set_blocks, one.is_relative) for set_blocks in by_column(blocks).values()]

    def total(deviation: float) -> float:
        return needed(judged.mean, deviation, comparison.margin, largest)

    shared = sorted(set.intersection(*(set(block.seeds) for block in blocks)))
    if one.sets == 1:
        count = max(total(statistics.stdev(sets[0]) if len(sets[0]) > 1 else 0.0), judged.n + 1) - len(shared)
    else:
        between, within = _variances(sets)
        if total(math.sqrt(between)) > judged.n:  # whatever the number of seeds
            means = [statistics.fmean(differences) for differences in sets]
            more = max(total(statistics.stdev(means) if len(means) > 1 else 0.0), judged.n + 1) - judged.n
            return Further(sets=int(more) if more <= MOST else None, is_few_sets=total(0.0) > judged.n)
        tried = range(len(shared) + 1, len(shared) + MOST + 1)
        enough = (seeds for seeds in tried if total(math.sqrt(between + within / seeds)) <= judged.n)
        count = next(enough, math.inf) - len(shared)
    if count > MOST:
        return Further(is_hopeless=True)
    done = frozenset[int].intersection(*(block.done for block in blocks))
    seeds = itertools.islice((seed for seed in itertools.count() if seed not in done), int(count))
    return Further(int(count), commands=tuple(commands(blocks, comparison, seeds)))


def _variances(sets: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the variance of the true means of sets and that of one seed, from the differences by seed of every set."""
    repeated = [differences for differences in sets if len(differences) > 1]
    means = statistics.variance([statistics.fmean(differences) for differences in sets]) if len(sets) > 1 else 0.0
    if not repeated:
        return 0.0, means
    freedom = sum(len(differences) - 1 for differences in repeated)
    within = math.fsum(statistics.variance(differences) * (len(differences) - 1) for differences in repeated) / freedom
    return max(0.0, means - within * statistics.fmean(1 / len(differences) for differences in sets)), within


def commands(blocks: Sequence[Block], comparison: Comparison, seeds: Iterable[int]) -> list[str]:
    """Return the command lines that run an arm and its baseline with some seeds, on all sets that the arm was run on."""
    origin = comparison.origin
    if origin is None:
        return []
    last = [f"seed={','.join(map(str, seeds))}"] + ([f"paths.runs={origin.folder}"] if origin.folder else [])
    if origin.study:
        words = [_study_words(blocks, origin)]
    else:
        typed = [typed_settings(run.path) for block in blocks for run in block.runs]
        words = [[f"{key}={value}" for key, value in one.items()] for one in _merged(typed)]
    return [shlex.join(["orca", "run", "-m", *overrides, *last]) for overrides in words]


def _study_words(blocks: Sequence[Block], origin: Origin) -> list[str]:
    words = [f"study={origin.study}"]
    runs = [run for block in blocks for run in block.runs]
    for axis in origin.axes:
        choices = dict.fromkeys(value for run in runs if axis != "seed" and (value := _label(run, axis)) is not None)
        if choices and not origin.whole.get(axis, frozenset({""})) <= choices.keys():
            words.append(f"{axis}={','.join(choices)}")
    return words + origin.besides([typed_settings(run.path) for run in runs])


def _label(run: Run, axis: str) -> str | None:
    """Return what a study calls a run on an axis; see `study_members.select_study`."""
    if axis == SET:
        return run.task
    if run.chosen is not None and axis == run.chosen.key:
        return run.chosen.value
    return str(getattr(run, axis)) if axis in ("task", *GROUPS) else run.variant.get(axis)


def _merged(typed: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return fewer command lines for the same runs: those that differ in one key only become one, its values with commas."""
    merged = [dict(items) for items in dict.fromkeys(tuple(sorted(one.items())) for one in typed if one)]
    order = dict.fromkeys(("task", *GROUPS, *(key for one in typed for key in one)))
    for key in order:
        groups: dict[tuple[tuple[str, str], ...], list[str]] = defaultdict(list)
        for one in merged:
            if key in one:
                groups[tuple((name, value) for name, value in one.items() if name != key)].append(one[key])
        others = [one for one in merged if key not in one]
        merged = others + [dict(rest) | {key: ",".join(dict.fromkeys(values))} for rest, values in groups.items()]
    return [{key: one[key] for key in order if key in one} for one in merged]
