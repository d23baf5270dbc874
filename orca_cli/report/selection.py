"""Select the runs of a report: by a setting, by a study, or each arm at its own chosen value."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from orca_cli.config.schema import is_without_effect
from orca_cli.exceptions import DataError, OrcaError, UsageError, suggest
from orca_cli.report.collect import GROUPS, STATES, TEST_SET, Collection, Run
from orca_cli.report.conditions import PROGRAM, VALIDATED, mixed, program_name
from orca_cli.report.layout import clean, seeds_text, settings_text
from orca_cli.report.table import placed
from orca_cli.runs import settings, studies
from orca_cli.runs.settings import canonical

SET = "set"  # the axis whose choices are the columns of a study's table
FIELDS = ("task", "data", *GROUPS, "seed", "protocol", "state")
KEY_HINT = "use a setting that the runs have; `orca runs show RUN` lists the settings"
RATE = "train.lr"
# The error of 50 samples has a standard error of up to 7 points.
FEW = 50  # a choice by fewer validation samples is mostly luck
_EDGE = (
    "(edge): the chosen value is the lowest or the highest that was run; values beyond it may be "
    "better"
)
_LUCK = (
    f"chosen on fewer than {FEW} validation samples, so mostly by luck (train.folds=5 validates on "
    "all training samples)"
)
_ALONE = "not compared, since no other seed was run with the chosen value"
_LabelsByArm = dict[tuple[str, ...], dict[str, str]]  # arm, as values on the axes -> labels


def pair(text: str, option: str) -> tuple[str, str]:
    """Return key and value of KEY=VALUE; UsageError if the text does not have this form."""
    key, _, value = text.partition("=")
    if not (key and value):
        raise UsageError(
            f"'{text}' is not KEY=VALUE",
            where=option,
            hint=f"write, for example, {option} metric=none",
        )
    return key, value


class Values:
    """Look up the value of any key of a run, in the form that the command line takes.

    The settings of runs that differ only in their seed are read once.
    """

    def __init__(self) -> None:
        self._composed: dict[tuple[str, str], str | None] = {}

    def lookup(self, run: Run, key: str) -> str | None:
        """Return a run's value of a group or a setting; None if not recorded.

        The value was set explicitly, decided by the run, or is the default. A run of `select_study`
        has the names of the study's choices in place of the settings behind them, and its `set` is
        its task.
        """
        if key in FIELDS:
            return str(getattr(run, key))
        if key == SET:
            return run.task
        if key == TEST_SET:
            # Tables show the same short form.
            return run.test_set[:8] or None
        if key == PROGRAM:
            return program_name(run) if run.facts else None
        # In a study, `variant` contains the study's names, which precede the run's own records.
        for recorded in (run.variant, run.decided):
            if key in recorded:
                return recorded[key]
        entry = (str(run.path), key)
        # The hash of the settings leaves out settings without an effect on the result.
        if run.settings and not is_without_effect(key):
            entry = (run.settings, key)
        if entry not in self._composed:
            try:
                composed = settings.settings(run.path)
                self._composed[entry] = settings.as_typed(composed[key])
            except (OrcaError, KeyError):  # the run has no such setting
                self._composed[entry] = None
        return self._composed[entry]


def where(collection: Collection, text: str, values: Values) -> Collection:
    """Return the runs whose key has a value, or one of several values; see `Values.lookup`.

    Broken folders stay.

    Args:
        collection: the runs to select from.
        text: KEY=VALUE or KEY=VALUE,VALUE,...; numbers are compared as numbers, so that 1e-4 finds
            0.0001.
        values: looks up values of runs; calls that share it read the settings of a run once.

    Raises:
        UsageError: the text is not KEY=VALUE.
        DataError: no run has such a value, and it is not a state that a run may have.
    """
    key, value = pair(text, "--where")
    # Data sets may be named 1 and 1.0, which are equal as numbers.
    form = str if key == "data" else canonical
    spellings = {}  # canonical form -> as a run has it
    for run in (*collection.runs, *collection.superseded):
        recorded = values.lookup(run, key)
        if recorded is not None:
            spellings[form(recorded)] = recorded
    # A state that no run has is not a mistake: it selects no runs.
    if key == "state":
        for state in STATES:
            spellings[state] = state
    # A list such as [1,2] is one value.
    typed_values = [value] if form(value) in spellings else value.split(",")
    for typed_value in sorted(typed_values):
        if form(typed_value) not in spellings:
            hint = suggest(typed_value, spellings.values()) if spellings else KEY_HINT
            raise DataError(f"no run has {key}={typed_value}", where="--where", hint=hint)
    # Values in the form in which recorded values are compared.
    chosen = set(map(form, typed_values))

    def matching(run: Run) -> Iterator[Run]:
        recorded = values.lookup(run, key)
        if recorded is not None and form(recorded) in chosen:
            yield run

    return collection.changed(matching)


def select_study(collection: Collection, folders: Sequence[Path], name: str) -> Collection:
    """Return the runs of a study, with the study's names for their task, settings and arm.

    A run that several arms share appears once for each of them. Any of the folders of runs may
    contain a record of the study.

    Raises:
        DataError: no folder has a record of the study, or a record is damaged.
    """
    study_names = []
    members = []
    for folder in folders:
        recorded = studies.names(folder)
        study_names += recorded
        if name in recorded:
            members += studies.read(folder, name)
    if name not in study_names:
        hint = f"run the study: `orca run -m study={name}`"
        if study_names:
            hint = suggest(name, study_names)
        raise DataError(f"no run belongs to a study '{name}'", where="--study", hint=hint)
    all_labels = []
    for member in members:
        labels = {}
        for key, text in member.labels.items():
            # A label without an effect on the result would split an arm in two.
            if not is_without_effect(key):
                labels[key] = text
        all_labels.append(labels)
    # Labels that all members have are axes; other labels are overrides of some members.
    axes = sorted(set.intersection(*map(set, all_labels))) if members else []
    # Identity of a run -> its arms.
    arms_by_run: dict[str, _LabelsByArm] = defaultdict(dict)
    for member, labels in zip(members, all_labels, strict=True):
        arms = arms_by_run[member.identity]
        arm_values = tuple(labels[axis] for axis in axes)
        # An override that repeats the study's own value does not make a second run of the arm.
        if arm_values not in arms or len(labels) <= len(arms[arm_values]):
            arms[arm_values] = labels

    def renamed(run: Run) -> Iterator[Run]:
        # A run that is not a member yields nothing and so is left out.
        for labels in arms_by_run.get(run.identity, {}).values():
            yield _renamed(run, labels, axes)

    return collection.changed(renamed)


def _renamed(run: Run, labels: Mapping[str, str], axes: Sequence[str]) -> Run:
    """Return a run with a study's names in place of its own."""
    groups: dict[str, Any] = {}
    variant = {}
    for key, text in labels.items():
        # Axes that are groups keep their field; other axes become settings.
        if key in GROUPS:
            groups[key] = text
        elif key not in (SET, "seed", "task"):
            variant[key] = text
    choices = [(axis, labels[axis]) for axis in axes if axis != "seed"]
    # `typed` stays as recorded, since it says which settings explain a difference between runs
    # (see `conditions`).
    return replace(
        run,
        **groups,
        task=labels.get(SET, run.task),
        data=labels.get(SET, run.data),
        variant=variant,
        arm=settings_text(choices),
    )


class _Candidate(NamedTuple):
    """A run of an arm, with its value of the setting that is to be chosen."""

    value: str
    run: Run


class _Choice(NamedTuple):
    """The value that the validation errors of one arm on one seed choose.

    Args:
        arm: its name, with its data set.
        seed: seed whose validation errors choose.
        value: the chosen value; empty if no run has a validation error.
        is_edge: whether it is the lowest or the highest value that was run.
        fewest: smallest number of validation samples of the compared errors; 0 if not recorded.
        judges: runs of other seeds with that value, by which the arm is compared.
        unlike: values whose errors could not be compared with the others, with the differences, for
            readers.
    """

    arm: str
    seed: int
    value: str
    is_edge: bool
    fewest: int
    judges: list[Run]
    unlike: list[str]


def choose(collection: Collection, key: str, values: Values) -> tuple[Collection, str, list[str]]:
    """Choose each arm's value of a setting by validation error on one seed.

    An arm is defined by all settings except the seed and the setting that is chosen. The choosing
    seed is the seed that most values were run with, the lowest of several such seeds. Errors are
    compared only on equal samples and under equal conditions (`conditions.VALIDATED`): those of the
    largest group of values, or of the newest of equally large groups. Of equal errors the middle
    value is chosen, the lower of two middle values. Errors on the test split never choose, not even
    if a protocol validates on it. An arm without a validation error is left out.

    Returns:
        the runs of other seeds with the chosen values, by which the arms are compared; the first
        line of their table; notes on the limits of the choice.

    Raises:
        UsageError: the value of the key cannot be chosen.
        DataError: no run has the setting, or no other seed was run with a chosen value.
    """
    if key in (*FIELDS, SET):
        raise UsageError(
            f"the value of '{key}' cannot be chosen",
            where="--choose",
            hint=f"use a setting, such as --choose {RATE}",
        )
    choices = []
    judges = []
    # The choosing seed may differ between arms that were run with different seeds.
    choosing_seeds = set()
    for arm, candidates in _arms(collection, key, values):
        choice = _choice(arm, candidates, key)
        choices.append(choice)
        judges += choice.judges
        choosing_seeds.add(choice.seed)
    chosen_on = f"chosen by validation error on seed {seeds_text(choosing_seeds)}"
    if not judges:
        raise DataError(
            clean(
                f"no run is left to compare: no other seed was run with the value of {key} that "
                f"was {chosen_on}"
            ),
            where="--choose",
            hint=f"run other seeds: `orca run -m {key}=... seed=1,2,3`",
        )
    # Cells of a table need their runs from the oldest to the newest.
    judges.sort(key=Run.order)
    heading = f"each arm at its own {key}, {chosen_on}; arms are compared on the other seeds"
    return replace(collection, runs=judges), heading, _limits(choices, key)


def _arms(
    collection: Collection, chosen_key: str, values: Values
) -> list[tuple[str, list[_Candidate]]]:
    """Return name and runs of each arm on each data set; DataError if no run has the setting."""
    arms = defaultdict(list)
    for run, column, method in placed(collection.runs):
        value = values.lookup(run, chosen_key)
        if value is not None:
            # Runs that differ only in the chosen setting belong to one arm.
            fixed = tuple(setting for setting in method.settings if setting[0] != chosen_key)
            arm = replace(method, settings=fixed)
            candidate = _Candidate(value=canonical(value), run=run)
            arms[column, arm].append(candidate)
    if not arms:
        raise DataError(f"no run has the setting '{chosen_key}'", where="--choose", hint=KEY_HINT)
    named_arms = []
    for column, arm in sorted(arms):
        named_arms.append((f"{column.name} {arm}", arms[column, arm]))
    return named_arms


def _choice(arm: str, candidates: Sequence[_Candidate], chosen_key: str) -> _Choice:
    """Return the value that an arm's runs of one seed choose, and its runs of other seeds."""
    seed = _choosing_seed(candidates)
    validated = {}
    for value, run in candidates:
        # The newest run of a value replaces older runs, since runs are sorted by age.
        if run.seed == seed and run.choosing_score is not None:
            validated[value] = run
    compared, unlike = _alike(validated)
    errors = {}
    sizes = []
    # Only errors of the choosing seed: the seeds on which arms are compared must not choose.
    for value in compared:
        score = validated[value].choosing_score
        if score is not None and score.validation is not None:
            errors[value] = score.validation
            sizes.append(score.validated_by)
    chosen, is_edge = _lowest(errors)
    choice = f"{chosen} (edge)" if is_edge else chosen
    judges = []
    for value, run in candidates:
        if value == chosen and run.seed != seed:
            variant = dict(run.variant)
            # Without the chosen setting an arm is one row, whichever value each data set chose.
            variant.pop(chosen_key, None)
            judges.append(replace(run, variant=variant, choice=choice))
    return _Choice(
        arm=arm,
        seed=seed,
        value=chosen,
        is_edge=is_edge,
        fewest=min(sizes, default=0),
        judges=judges,
        unlike=unlike,
    )


def _choosing_seed(candidates: Sequence[_Candidate]) -> int:
    """Return the lowest seed that all values, or else most values, were run with."""
    # A value that was run twice with one seed counts once.
    values_by_seed: dict[int, set[str]] = defaultdict(set)
    for value, run in candidates:
        values_by_seed[run.seed].add(value)
    return min(values_by_seed, key=lambda seed: (-len(values_by_seed[seed]), seed))


def _alike(runs: Mapping[str, Run]) -> tuple[list[str], list[str]]:
    """Return the values whose runs can be compared, and the other values, with reasons.

    If runs form several groups with equal conditions, the largest group is compared, or the newest
    of equally large groups. `runs`: value -> run.
    """
    compared: list[str] = []
    unlike: list[str] = []
    for example in runs.values():
        alike = []
        different = []
        for value, run in runs.items():
            facts = mixed((example, run), VALIDATED)
            if facts:
                different.append(f"{value} ({', '.join(facts)})")
            else:
                alike.append(value)
        # Runs come from the oldest to the newest, so the last of equally large groups stays.
        if len(alike) >= len(compared):
            compared = alike
            unlike = different
    return compared, unlike


def _limits(choices: Sequence[_Choice], chosen_key: str) -> list[str]:
    """Return notes on the limits of choices, each with the arms that it concerns."""
    unlike = (
        "values left out of the choice, since their runs differ from the arm's other runs in more "
        f"than {chosen_key}"
    )
    # Reason -> names of arms.
    limits: dict[str, list[str]] = {_EDGE: [], _LUCK: [], _ALONE: [], unlike: []}
    for choice in choices:
        chosen = f"{choice.arm} {choice.value}"
        if choice.is_edge:
            limits[_EDGE].append(chosen)
        # 0: no number was recorded.
        if 0 < choice.fewest < FEW:
            limits[_LUCK].append(f"{choice.arm} ({choice.fewest})")
        if choice.value and not choice.judges:
            limits[_ALONE].append(f"{chosen} (seed {choice.seed})")
        for value in choice.unlike:
            limits[unlike].append(f"{choice.arm} {value}")
    notes = []
    for reason, arm_names in limits.items():
        if arm_names:
            notes.append(f"{reason}: {'; '.join(arm_names)}")
    return notes


def _lowest(errors: Mapping[str, float]) -> tuple[str, bool]:
    """Return the value with the lowest error, and whether it is the lowest or highest number.

    Without errors the value is empty. A single number is not an edge. `errors`: value -> error.
    """
    if not errors:
        return "", False
    # Sorted by size, so that the first and the last value are the edges.
    values = sorted(errors, key=_order)
    lowest = min(errors.values())
    # Among equal errors the middle value is chosen, which is the farthest from an edge.
    best_values = [value for value in values if math.isclose(errors[value], lowest, abs_tol=1e-12)]
    chosen = best_values[(len(best_values) - 1) // 2]
    size_of_last, _ = _order(values[-1])
    # Values that are not numbers come last and have no meaningful order.
    has_edges = len(values) > 1 and size_of_last < math.inf
    edges = (values[0], values[-1])
    return chosen, has_edges and chosen in edges


def _order(value: str) -> tuple[float, str]:
    """Return a key that sorts numbers by size, and other values after them."""
    try:
        return float(value), value
    except ValueError:
        return math.inf, value
