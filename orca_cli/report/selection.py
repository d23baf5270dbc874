"""Which runs are shown: by the value of any setting; members of a study, by its names; every arm at its own value."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orca_cli.config.schema import is_without_effect
from orca_cli.exceptions import DataError, OrcaError, UsageError, suggest
from orca_cli.report.collect import GROUPS, STATES, TEST_SET, Collection, Run
from orca_cli.report.conditions import PROGRAM, VALIDATED, mixed, program_name
from orca_cli.report.layout import clean, seeds_text
from orca_cli.report.table import Column, Method, placed
from orca_cli.runs import settings, studies
from orca_cli.runs.settings import canonical

SET = "set"  # the axis whose choices are the columns of a study's table
FIELDS = ("task", *GROUPS, "seed", "protocol", "state")
KEY_HINT = "it is none of the runs' settings; orca runs show RUN lists them"
RATE = "train.lr"
FEW = 50  # validation samples: a choice by fewer is mostly luck
_EDGE = "(edge): the lowest or highest value that was run, so that a better one may lie beyond"
_LUCK = f"chosen by fewer than {FEW} validation samples, so mostly by luck (train.folds=5 validates on all)"
_ALONE = "nothing is left to judge, since no other seed was run at what was chosen"


def pair(text: str, option: str) -> tuple[str, str]:
    """Return key and value of KEY=VALUE; UsageError where the text is something else."""
    key, _, value = text.partition("=")
    if not (key and value):
        raise UsageError(
            f"'{text}' is not KEY=VALUE", where=option, hint=f"such as {option} metric=none"
        )
    return key, value


class Values:
    """Looks up the value of any key of a run, as it would be typed; runs that differ in their seed only are read once."""

    def __init__(self) -> None:
        self._composed: dict[tuple[str, str], str | None] = {}

    def lookup(self, run: Run, key: str) -> str | None:
        """Return a run's value of a group or a setting: typed, decided by the run, or the default; None if not recorded.

        A run of `select_study` has the names of the study's choices in place of what these set, and `set` is its task.
        """
        fields = {name: str(getattr(run, name)) for name in FIELDS}
        known = {
            **run.decided,
            **run.variant,
            **fields,
            SET: run.task,
            TEST_SET: run.test_set[:8] or None,
            PROGRAM: program_name(run) if run.facts else None,
        }
        if key in known:
            return known[key]
        # The hash of the settings leaves out those without an effect on the result.
        place = (str(run.path) if is_without_effect(key) or not run.settings else run.settings, key)
        if place not in self._composed:
            try:
                self._composed[place] = settings.as_typed(settings.settings(run.path)[key])
            except (OrcaError, KeyError):  # the run has no such setting
                self._composed[place] = None
        return self._composed[place]


def where(collection: Collection, text: str, values: Values | None = None) -> Collection:
    """Return the runs whose key has a value, or one of several; see `Values.lookup`. Broken folders stay.

    Args:
        text: KEY=VALUE or KEY=VALUE,VALUE,...; numbers are compared as numbers, so that 1e-4 finds 0.0001.
        values: of runs, so that the settings of several calls are read once.

    Raises:
        UsageError: the text is not KEY=VALUE.
        DataError: no run has such a value, and it is no state that a run may have.
    """
    key, value = pair(text, "--where")
    values = values or Values()
    every = [values.lookup(run, key) for run in (*collection.runs, *collection.superseded)]
    spellings = {canonical(spelt): spelt for spelt in every if spelt is not None}
    if key == "state":
        spellings |= {state: state for state in STATES}
    names = [value] if canonical(value) in spellings else value.split(",")
    for name in sorted(name for name in names if canonical(name) not in spellings):
        hint = suggest(name, spellings.values()) if spellings else KEY_HINT
        raise DataError(f"no run has {key}={name}", where="--where", hint=hint)
    kept = {
        spelt
        for spelt in every
        if spelt is not None and canonical(spelt) in [*map(canonical, names)]
    }
    return collection.changed(lambda run: [run] if values.lookup(run, key) in kept else [])


def select_study(collection: Collection, folders: Sequence[Path], name: str) -> Collection:
    """Return the runs that belong to a study, with the study's names for their task, settings and arm.

    A run that several arms share is there once for each. Any of the folders of runs may hold a record of the study.

    Raises:
        DataError: no folder has a record of it, or one is damaged.
    """
    recorded = [(folder, there) for folder in folders for there in studies.names(folder)]
    if name not in (names := [there for _, there in recorded]):
        hint = suggest(name, names) if names else f"orca run -m study={name}"
        raise DataError(f"no run belongs to a study '{name}'", where="--study", hint=hint)
    members = [
        one for folder, there in recorded if there == name for one in studies.read(folder, name)
    ]
    axes = sorted(set.intersection(*(set(one.labels) for one in members))) if members else []
    axes = [axis for axis in axes if not is_without_effect(axis)]
    labels_by_arm: dict[str, dict[tuple[str, ...], dict[str, str]]] = defaultdict(dict)
    for member in members:
        labels = {key: value for key, value in member.labels.items() if not is_without_effect(key)}
        arms, arm = labels_by_arm[member.identity], tuple(labels[axis] for axis in axes)
        # An extra override that repeats the study's own value does not make a second run of the arm.
        arms[arm] = min(labels, arms.get(arm, labels), key=len)

    def named(run: Run) -> Iterator[Run]:
        for labels in labels_by_arm.get(run.identity, {}).values():
            groups: dict[str, Any] = {key: labels[key] for key in GROUPS if key in labels}
            variant = {
                key: text
                for key, text in labels.items()
                if key not in (SET, "seed", "task", *GROUPS)
            }
            arm = ", ".join(f"{axis}={labels[axis]}" for axis in axes if axis != "seed")
            yield replace(run, task=labels.get(SET, run.task), variant=variant, arm=arm, **groups)

    return collection.changed(named)


_Runs = list[tuple[str, Run]]  # of an arm, with their values of a setting


@dataclass(frozen=True)
class _Choice:
    """What the validation errors of one arm on one seed choose.

    Args:
        arm: its name, with its set.
        seed: that chooses.
        value: what was chosen; empty where nothing validates.
        is_edge: whether it is the lowest or the highest value that was run.
        fewest: validation samples of the errors that were compared; 0 if not recorded.
        judges: the runs of other seeds at that value.
        unlike: values whose errors were not compared with the others, with what differs, for readers.
    """

    arm: str
    seed: int
    value: str
    is_edge: bool
    fewest: int
    judges: list[Run]
    unlike: list[str]


def choose(collection: Collection, key: str, values: Values) -> tuple[Collection, str, list[str]]:
    """Choose each arm's value of a setting by validation error on one seed, and return the runs of other seeds at that value.

    An arm is all settings but the seed and the one that is chosen. Its seed is the one that most values were run with, the
    lowest of several. Only errors on equal samples, of runs that are alike (`conditions.VALIDATED`), are compared: those of the
    most values, of equally many the newest. Of equal errors the middle value is chosen, the lower of two. Errors of the test
    split never choose, not even where a protocol validates on it. An arm without a validation error is left out.

    Returns:
        the runs that judge; the first line of their table; notes on what limits the choice.

    Raises:
        UsageError: the key is not a setting of an arm.
        DataError: no run has it, or no run is left that could judge.
    """
    if key in (*FIELDS, SET):
        raise UsageError(
            f"'{key}' is not a setting of an arm", where="--choose", hint=f"such as --choose {RATE}"
        )
    choices = [_choice(arm, runs, key) for arm, runs in _arms(collection, key, values)]
    chosen_on = f"chosen on validation, seed {seeds_text({choice.seed for choice in choices})}"
    judges = [run for choice in choices for run in choice.judges]
    if not judges:
        what = (
            f"no other seed was run at the {key} that was {chosen_on}, so nothing is left to judge"
        )
        hint = f"run other seeds: orca run -m {key}=... seed=1,2,3"
        raise DataError(clean(what), where="--choose", hint=hint)
    judges.sort(key=lambda run: (run.path.name, str(run.path)))
    heading = f"each arm at its own {key}, {chosen_on}; judged by the other seeds"
    return replace(collection, runs=judges), heading, _limits(choices, key)


def _arms(collection: Collection, key: str, values: Values) -> list[tuple[str, _Runs]]:
    """Return the name and the runs of each arm on each set; DataError where no run has the setting."""
    arms: dict[tuple[Column, Method], _Runs] = defaultdict(list)
    for run, column, method in placed(collection.runs):
        value = values.lookup(run, key)
        if value is not None:
            settings = tuple(setting for setting in method.settings if setting[0] != key)
            arms[column, replace(method, settings=settings)].append((canonical(value), run))
    if not arms:
        raise DataError(f"no run has '{key}'", where="--choose", hint=KEY_HINT)
    return [(f"{column.name} {method}", runs) for (column, method), runs in sorted(arms.items())]


def _choice(arm: str, runs: _Runs, key: str) -> _Choice:
    """Return what the runs of an arm choose."""
    # The lowest seed that all values were run with, or else most of them.
    counts = Counter(seed for _, seed in {(value, run.seed) for value, run in runs})
    seed = min(counts, key=lambda candidate: (-counts[candidate], candidate))
    validated = {value: run for value, run in runs if run.seed == seed and run.chooses_by}
    compared, unlike = _alike(validated)
    scores = {value: validated[value].chooses_by for value in compared}
    chosen, is_edge = _lowest(
        {value: score.validation or 0.0 for value, score in scores.items() if score}
    )
    judges = []
    for value, run in runs:
        if value == chosen and run.seed != seed:
            variant = {name: text for name, text in run.variant.items() if name != key}
            choice = f"{chosen} (edge)" if is_edge else chosen
            judges.append(replace(run, variant=variant, choice=choice))
    return _Choice(
        arm=arm,
        seed=seed,
        value=chosen,
        is_edge=is_edge,
        fewest=min((score.validated_by for score in scores.values() if score), default=0),
        judges=judges,
        unlike=unlike,
    )


def _alike(runs: Mapping[str, Run]) -> tuple[list[str], list[str]]:
    """Return the values whose runs can be compared, most of all, of equally many the newest, and the others, with reasons.

    `runs`: value -> run.
    """
    compared: list[str] = []
    unlike: list[str] = []
    for example in runs.values():
        differs = {value: mixed((example, run), VALIDATED) for value, run in runs.items()}
        alike = [value for value, names in differs.items() if not names]
        if len(alike) >= len(compared):
            compared = alike
            unlike = [f"{value} ({', '.join(names)})" for value, names in differs.items() if names]
    return compared, unlike


def _limits(choices: Sequence[_Choice], key: str) -> list[str]:
    """Return notes on what limits choices, each with the arms that it is about."""
    unlike = f"left out of the choice, since more than {key} differs from the arm's other runs"
    limits: dict[str, list[str]] = {reason: [] for reason in (_EDGE, _LUCK, _ALONE, unlike)}
    for choice in choices:
        place = f"{choice.arm} {choice.value}"
        if choice.is_edge:
            limits[_EDGE].append(place)
        if 0 < choice.fewest < FEW:
            limits[_LUCK].append(f"{choice.arm} ({choice.fewest})")
        if choice.value and not choice.judges:
            limits[_ALONE].append(f"{place} (seed {choice.seed})")
        limits[unlike] += [f"{choice.arm} {value}" for value in choice.unlike]
    return [f"{reason}: {'; '.join(names)}" for reason, names in limits.items() if names]


def _lowest(errors: Mapping[str, float]) -> tuple[str, bool]:
    """Return the value with the lowest error, empty for none, and whether it is the lowest or highest of several numbers."""

    def order(value: str) -> tuple[float, str]:
        try:
            return float(value), value
        except ValueError:
            return math.inf, value

    values = sorted(errors, key=order)
    lowest = min(errors.values(), default=0.0)
    best = [value for value in values if math.isclose(errors[value], lowest, abs_tol=1e-12)] or [""]
    value = best[(len(best) - 1) // 2]
    return value, len(values) > 1 and value in (values[0], values[-1]) and order(values[-1])[
        0
    ] < math.inf
