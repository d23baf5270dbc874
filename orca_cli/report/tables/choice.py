"""Every arm at its own value of a setting: chosen on validation data of one seed, judged by the other seeds.

An arm is all settings but the seed and the one that is chosen. Runs that differ from an arm only in `train.folds` may choose
its value, if they cover every value, but never judge it: folds validate on all training samples, a split on few.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace

from orca_cli.exceptions import DataError, UsageError
from orca_cli.report.records.collect import Collection, Run, Score
from orca_cli.report.records.filters import FIELDS, KEY_HINT, SET, Values, canonical
from orca_cli.report.tables.notes import clean, seeds_text
from orca_cli.report.tables.table import Column, Method, Table, placed

RATE = "train.lr"
FEW = 50  # validation samples: a choice by fewer is mostly luck
_FOLDS = "train.folds"
_EDGE = "(edge): the lowest or highest value that was run, so that a better one may lie beyond"
_LUCK = f"chosen by fewer than {FEW} validation samples, so mostly by luck ({_FOLDS}=5 on that seed validates on all)"
_LACKING = "left out of the choice, since no run of the seed has a validation error"
_ALONE = "nothing is left to judge, since no other seed was run at what was chosen"


def choose(collection: Collection, key: str, values: Values) -> tuple[Collection, str, list[str]]:
    """Return the runs that judge every arm at the value of a setting that has its lowest validation error.

    With them come the first line of their table, and notes on what limits the choice. Of equal errors the middle value counts,
    the lower one of two. Errors of the test split never choose, not even where a protocol validates on it.

    Raises:
        UsageError: the key is not a setting of an arm.
        DataError: no run has it, or no run is left that could judge.
    """
    if key in (*FIELDS, SET):
        raise UsageError(f"'{key}' is not a setting of an arm", where="--choose", hint=f"such as --choose {RATE}")
    typed = {id(run): canonical(value) for run in collection.runs if (value := values.lookup(run, key)) is not None}
    if not typed:
        raise DataError(f"no run has '{key}'", where="--choose", hint=KEY_HINT)
    groups: dict[tuple[Column, Method], dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run, column, method in placed(collection.runs):
        if id(run) in typed:
            settings = tuple(item for item in method.settings if item[0] not in (key, _FOLDS))
            groups[column, replace(method, settings=settings)][typed[id(run)]].append(run)
    limits: dict[str, list[str]] = {reason: [] for reason in (_EDGE, _LUCK, _LACKING, _ALONE)}
    judged: dict[int, str] = {}  # id of a run -> what was chosen for its arm
    seeds = set()
    for (column, method), group in sorted(groups.items()):
        # The lowest seed that all values were run with, or else most of them.
        counts = Counter(seed for runs in group.values() for seed in {run.seed for run in runs})
        name, seed = f"{column.name} {method}", min(counts, key=lambda one: (-counts[one], one))
        errors = _validation_errors(group, seed)
        value, is_edge = _lowest(errors)
        # Not those validated on folds, unless all runs of the arm are.
        is_plain = any(not _is_validated_on_folds(run) for runs in group.values() for run in runs)
        others = [run for run in group.get(value, ()) if run.seed != seed]
        judging = [run for run in others if not (is_plain and _is_validated_on_folds(run))]
        judged |= {id(run): value + " (edge)" * is_edge for run in judging}
        seeds.add(seed)
        limits[_EDGE] += [f"{name} {value}"] if is_edge else []
        fewest = min((score.validated_by for score in errors.values()), default=0)
        limits[_LUCK] += [f"{name} ({fewest})"] if 0 < fewest < FEW else []
        lacking = sorted(group.keys() - errors.keys(), key=_order)
        limits[_LACKING] += [f"{name} {', '.join(lacking)} (seed {seed})"] if lacking else []
        limits[_ALONE] += [f"{name} {value} (seed {seed})"] if value and not judging else []
    chosen_on = f"chosen on validation, seed {seeds_text(seeds)}"
    if not judged:
        what = clean(f"no other seed was run at the {key} that was {chosen_on}, so nothing is left to judge")
        raise DataError(what, where="--choose", hint=f"run other seeds: orca run -m {key}=... seed=1,2,3")
    runs = []
    for run in (run for run in collection.runs if id(run) in judged):
        variant = {name: text for name, text in run.variant.items() if name != key}  # it no longer names the method
        runs.append(replace(run, variant=variant, choice=judged[id(run)]))
    notes = [clean(f"{reason}: {'; '.join(names)}", longest=2000) for reason, names in limits.items() if names]
    return replace(collection, runs=runs), f"each arm at its own {key}, {chosen_on}; judged by the other seeds", notes


def _validation_errors(group: Mapping[str, list[Run]], seed: int) -> Mapping[str, Score]:
    """Return value -> the score whose validation error counts, of folds if they cover as many values as a split."""
    validated: dict[bool, dict[str, Score]] = {True: {}, False: {}}  # by whether folds did
    for value, runs in group.items():
        for run in runs:
            score = run.score
            if score and run.seed == seed and score.validated_on != "test" and score.validation is not None:
                validated[_is_validated_on_folds(run)][value] = score  # of several the newest
    return max(validated.values(), key=len)


def _lowest(errors: Mapping[str, Score]) -> tuple[str, bool]:
    """Return the value with the lowest error, empty for none, and whether it is the lowest or highest of several numbers."""
    order = sorted(errors, key=_order)
    lowest = min((score.validation or 0.0 for score in errors.values()), default=0.0)
    best = [value for value in order if math.isclose(errors[value].validation or 0.0, lowest, abs_tol=1e-12)]
    value = best[(len(best) - 1) // 2] if best else ""
    return value, len(order) > 1 and value in (order[0], order[-1]) and _order(order[-1])[0] < math.inf


def _is_validated_on_folds(run: Run) -> bool:
    return run.variant.get(_FOLDS, "0") != "0" if run.score is None else run.score.validated_on == "folds"


def _order(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return math.inf, value


def rates_of(table: Table) -> str:
    """Return a first line for comparisons that says which learning rates the arms had; empty if no run records one."""
    values, every = Values(), set[str]()
    for place in range(len(table.columns)):
        typed = [values.lookup(cell.runs[0], RATE) for cell in table.cells(place) if cell.runs]
        rates = {canonical(rate) for rate in typed if rate is not None}
        if len(rates) > 1:
            return f"arms at different rates, not chosen on validation (--choose {RATE} does that)"
        every |= rates
    return "" if not every else "one rate for all arms" if len(every) == 1 else "one rate for all arms of a set"
