"""Every arm at its own value of a setting: chosen on validation data of one seed, judged by the other seeds.

An arm is all settings but the seed and the one that is chosen. Runs that differ from an arm only in `train.folds` may choose
its value, if they cover every value, but never judge it: folds validate on all training samples, a split on few.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

from orca_cli.exceptions import DataError, UsageError
from orca_cli.report.records.collect import Collection, Run, Score
from orca_cli.report.records.filters import FIELDS, SET, Values, canonical, key_hint
from orca_cli.report.tables.notes import clean, seeds_text
from orca_cli.report.tables.table import Column, Method, Table, placed

RATE = "train.lr"
FEW = 50  # validation samples: a choice by fewer is mostly luck
_FOLDS = "train.folds"


@dataclass(frozen=True)
class _Arm:
    """One arm on one set: the value chosen for it, and the runs that judge it.

    Args:
        seed: on which its value was chosen: the lowest that all values were run with, or else most of them.
        samples: the fewest that validated a value; 0 if not recorded.
        lacking: values that cannot be chosen, since no run of that seed has a validation error.
        value: the chosen value; empty if none could be chosen.
        is_edge: whether it is the lowest or highest of several numbers.
        judging: runs of other seeds with the chosen value.
    """

    name: str
    seed: int
    samples: int
    lacking: list[str]
    value: str
    is_edge: bool
    judging: list[Run]


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
        raise DataError(f"no run has '{key}'", where="--choose", hint=key_hint(key, collection))
    groups: dict[tuple[Column, Method], dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run, column, method in placed(collection.runs):
        if id(run) in typed:
            settings = tuple(item for item in method.settings if item[0] not in (key, _FOLDS))
            groups[column, replace(method, settings=settings)][typed[id(run)]].append(run)
    arms = [_arm(clean(f"{column.name} {method}"), group) for (column, method), group in sorted(groups.items())]
    seeds = seeds_text(sorted({arm.seed for arm in arms}))
    if not any(arm.judging for arm in arms):
        choices = clean("; ".join(f"{arm.name} {arm.value or 'nothing'}" for arm in arms))
        what = f"seed {seeds} is the only one at the {key} that it chose, so nothing is left to judge ({choices})"
        raise DataError(what, where="--choose", hint=f"run other seeds of these: orca run -m {key}=... seed=1,2,3")
    judged = {id(run): arm for arm in arms for run in arm.judging}
    runs = []
    for run, arm in ((run, judged[id(run)]) for run in collection.runs if id(run) in judged):
        variant = {name: text for name, text in run.variant.items() if name != key}  # it no longer names the method
        runs.append(replace(run, variant=variant, choice=arm.value + " (edge)" * arm.is_edge))
    heading = f"each arm at its own {key}, chosen on validation, seed {seeds}; judged by the other seeds"
    return replace(collection, runs=runs), heading, _notes(arms, key)


def _arm(name: str, group: dict[str, list[Run]]) -> _Arm:
    counts = Counter(seed for runs in group.values() for seed in {run.seed for run in runs})
    seed = min(counts, key=lambda one: (-counts[one], one))
    validated: dict[bool, dict[str, Score]] = {True: {}, False: {}}  # by whether folds did
    for value, runs in group.items():
        for run in runs:
            score = run.score
            if score and run.seed == seed and score.validated_on != "test" and score.validation is not None:
                validated[_is_validated_on_folds(run)][value] = score  # of several the newest
    errors = max(validated.values(), key=len)  # on a tie, folds
    order = sorted(errors, key=_order)
    lowest = min((score.validation or 0.0 for score in errors.values()), default=0.0)
    best = [value for value in order if math.isclose(errors[value].validation or 0.0, lowest, abs_tol=1e-12)]
    value = best[(len(best) - 1) // 2] if best else ""
    is_edge = len(order) > 1 and value in (order[0], order[-1]) and all(_order(one)[0] < math.inf for one in order)
    is_plain = any(not _is_validated_on_folds(run) for runs in group.values() for run in runs)
    others = [run for run in group.get(value, ()) if run.seed != seed]
    judging = [run for run in others if not (is_plain and _is_validated_on_folds(run))]
    few = min((score.validated_by for score in errors.values()), default=0)
    return _Arm(name, seed, few, sorted(group.keys() - errors.keys(), key=_order), value, is_edge, judging)


def _is_validated_on_folds(run: Run) -> bool:
    return run.variant.get(_FOLDS, "0") != "0" if run.score is None else run.score.validated_on == "folds"


def _order(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return math.inf, value


def _notes(arms: list[_Arm], key: str) -> list[str]:
    """Return one note for each limit of the choices."""
    luck = f"so mostly by luck ({_FOLDS}=5 on that seed validates on all)"
    validates = "no run of the seed has a validation error (missing, failed, or nothing validates)"
    limits = {
        f"(edge): the lowest or highest {key} that was run, so that a better one may lie beyond": [
            f"{arm.name} {arm.value}" for arm in arms if arm.is_edge
        ],
        f"chosen by fewer than {FEW} validation samples, {luck}": [
            f"{arm.name} ({arm.samples})" for arm in arms if 0 < arm.samples < FEW
        ],
        f"left out of the choice, since {validates}": [
            f"{arm.name} {', '.join(arm.lacking)} (seed {arm.seed})" for arm in arms if arm.lacking
        ],
        "nothing is left to judge, since no other seed was run at what was chosen": [
            f"{arm.name} {arm.value} (seed {arm.seed})" for arm in arms if arm.value and not arm.judging
        ],
    }
    return [f"{reason}: {clean('; '.join(names), longest=2000)}" for reason, names in limits.items() if names]


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
