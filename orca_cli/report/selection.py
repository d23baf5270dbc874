"""Which runs are shown: by any setting, by the names of a study, or every arm at its own value."""

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
KEY_HINT = "it is none of the runs' settings; orca runs show RUN lists them"
RATE = "train.lr"
# The error of 50 samples has a standard error of up to 7 points.
FEW = 50  # validation samples: a choice by fewer is mostly luck
_EDGE = "(edge): the lowest or highest value that was run, so that a better one may lie beyond"
_LUCK = (
    f"chosen by fewer than {FEW} validation samples, so mostly by luck (train.folds=5 validates on "
    "all)"
)
_ALONE = "nothing is left to judge, since no other seed was run at what was chosen"
_LabelsByArm = dict[tuple[str, ...], dict[str, str]]  # arm, as values on the axes -> labels


def pair(text: str, option: str) -> tuple[str, str]:
    """Return key and value of KEY=VALUE; UsageError where the text is something else."""
    key, _, value = text.partition("=")
    if not (key and value):
        raise UsageError(
            f"'{text}' is not KEY=VALUE", where=option, hint=f"such as {option} metric=none"
        )
    return key, value


class Values:
    """Looks up the value of any key of a run, as it would be typed.

    The settings of runs that differ in their seed only are read once.
    """

    def __init__(self) -> None:
        self._composed: dict[tuple[str, str], str | None] = {}

    def lookup(self, run: Run, key: str) -> str | None:
        """Return a run's value of a group or a setting; None if not recorded.

        It was typed, decided by the run, or is the default. A run of `select_study` has the names
        of the study's choices in place of what these set, and `set` is its task.
        """
        if key in FIELDS:
            return str(getattr(run, key))
        if key == SET:
            return run.task
        if key == TEST_SET:
            # As tables show it.
            return run.test_set[:8] or None
        if key == PROGRAM:
            return program_name(run) if run.facts else None
        # In a study these are its names, which come before all that the run records.
        for recorded in (run.variant, run.decided):
            if key in recorded:
                return recorded[key]
        entry = (str(run.path), key)
        # The hash of the settings leaves out those without an effect on the result.
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
    """Return the runs whose key has a value, or one of several; see `Values.lookup`.

    Broken folders stay.

    Args:
        text: KEY=VALUE or KEY=VALUE,VALUE,...; numbers are compared as numbers, so that 1e-4 finds
            0.0001.
        values: of runs; several calls share them, so that settings are read once.

    Raises:
        UsageError: the text is not KEY=VALUE.
        DataError: no run has such a value, and it is no state that a run may have.
    """
    key, value = pair(text, "--where")
    # A data set may be called 1 or 1.0, which as numbers were the same.
    form = str if key == "data" else canonical
    spellings = {}  # canonical form -> as a run has it
    for run in (*collection.runs, *collection.superseded):
        recorded = values.lookup(run, key)
        if recorded is not None:
            spellings[form(recorded)] = recorded
    # A state that no run has is no mistake: it selects nothing.
    if key == "state":
        for state in STATES:
            spellings[state] = state
    # A list such as [1,2] is one value.
    typed_values = [value] if form(value) in spellings else value.split(",")
    for typed_value in sorted(typed_values):
        if form(typed_value) not in spellings:
            hint = suggest(typed_value, spellings.values()) if spellings else KEY_HINT
            raise DataError(f"no run has {key}={typed_value}", where="--where", hint=hint)
    # In the form in which recorded values are compared.
    chosen = set(map(form, typed_values))

    def matching(run: Run) -> Iterator[Run]:
        recorded = values.lookup(run, key)
        if recorded is not None and form(recorded) in chosen:
            yield run

    return collection.changed(matching)


def select_study(collection: Collection, folders: Sequence[Path], name: str) -> Collection:
    """Return the runs of a study, with the study's names for their task, settings and arm.

    A run that several arms share is there once for each. Any of the folders of runs may hold a
    record of the study.

    Raises:
        DataError: no folder has a record of it, or one is damaged.
    """
    study_names = []
    members = []
    for folder in folders:
        recorded = studies.names(folder)
        study_names += recorded
        if name in recorded:
            members += studies.read(folder, name)
    if name not in study_names:
        hint = suggest(name, study_names) if study_names else f"orca run -m study={name}"
        raise DataError(f"no run belongs to a study '{name}'", where="--study", hint=hint)
    all_labels = []
    for member in members:
        labels = {}
        for key, text in member.labels.items():
            # A label without an effect on the result would split an arm in two.
            if not is_without_effect(key):
                labels[key] = text
        all_labels.append(labels)
    # Axes are labels of all members; further labels are overrides of some.
    axes = sorted(set.intersection(*map(set, all_labels))) if members else []
    # By the identity of the run.
    arms_by_run: dict[str, _LabelsByArm] = defaultdict(dict)
    for member, labels in zip(members, all_labels, strict=True):
        arms = arms_by_run[member.identity]
        arm_values = tuple(labels[axis] for axis in axes)
        # An extra override that repeats the study's own value makes no second run of the arm.
        if arm_values not in arms or len(labels) <= len(arms[arm_values]):
            arms[arm_values] = labels

    def renamed(run: Run) -> Iterator[Run]:
        # A run that is no member yields nothing, and so is left out.
        for labels in arms_by_run.get(run.identity, {}).values():
            yield _renamed(run, labels, axes)

    return collection.changed(renamed)


def _renamed(run: Run, labels: Mapping[str, str], axes: Sequence[str]) -> Run:
    """Return a run with a study's names in place of its own."""
    groups: dict[str, Any] = {}
    variant = {}
    for key, text in labels.items():
        # Axes that are groups keep their field; the others become settings.
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
    """A run of an arm, with its value of the setting that is chosen."""

    value: str
    run: Run


class _Choice(NamedTuple):
    """What the validation errors of one arm on one seed choose.

    Args:
        arm: its name, with its set.
        seed: that chooses.
        value: what was chosen; empty where nothing validates.
        is_edge: whether it is the lowest or the highest value that was run.
        fewest: validation samples of the errors that were compared; 0 if not recorded.
        judges: the runs of other seeds at that value.
        unlike: values whose errors were not compared with the others, with what differs, for
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

    An arm is all settings but the seed and the setting that is chosen. Its seed is the one that
    most values were run with, the lowest of several. Only errors on equal samples, of runs that are
    alike (`conditions.VALIDATED`), are compared: the largest group of values, and of equally large
    groups the newest. Of equal errors the middle value is chosen, the lower of two. Errors of the
    test split never choose, not even where a protocol validates on it. An arm without a validation
    error is left out.

    Returns:
        the runs of other seeds at the chosen values, which judge the arms; the first line of their
        table; notes on what limits the choice.

    Raises:
        UsageError: the key is not a setting of an arm.
        DataError: no run has it, or no run is left that could judge.
    """
    if key in (*FIELDS, SET):
        raise UsageError(
            f"'{key}' is not a setting of an arm",
            where="--choose",
            hint=f"such as --choose {RATE}",
        )
    choices = []
    judges = []
    # Arms may be chosen on different seeds, if not all were run with the same.
    choosing_seeds = set()
    for arm, candidates in _arms(collection, key, values):
        choice = _choice(arm, candidates, key)
        choices.append(choice)
        judges += choice.judges
        choosing_seeds.add(choice.seed)
    chosen_on = f"chosen on validation, seed {seeds_text(choosing_seeds)}"
    if not judges:
        raise DataError(
            clean(
                f"no other seed was run at the {key} that was {chosen_on}, so nothing is left to "
                "judge"
            ),
            where="--choose",
            hint=f"run other seeds: orca run -m {key}=... seed=1,2,3",
        )
    # From the oldest to the newest, as cells of a table need them.
    judges.sort(key=Run.order)
    heading = f"each arm at its own {key}, {chosen_on}; judged by the other seeds"
    return replace(collection, runs=judges), heading, _limits(choices, key)


def _arms(
    collection: Collection, chosen_key: str, values: Values
) -> list[tuple[str, list[_Candidate]]]:
    """Return name and runs of each arm on each set; DataError where no run has the setting."""
    arms = defaultdict(list)
    for run, column, method in placed(collection.runs):
        value = values.lookup(run, chosen_key)
        if value is not None:
            # Runs that differ in the chosen setting alone are of one arm.
            fixed = tuple(setting for setting in method.settings if setting[0] != chosen_key)
            arm = replace(method, settings=fixed)
            candidate = _Candidate(value=canonical(value), run=run)
            arms[column, arm].append(candidate)
    if not arms:
        raise DataError(f"no run has '{chosen_key}'", where="--choose", hint=KEY_HINT)
    named_arms = []
    for column, arm in sorted(arms):
        named_arms.append((f"{column.name} {arm}", arms[column, arm]))
    return named_arms


def _choice(arm: str, candidates: Sequence[_Candidate], chosen_key: str) -> _Choice:
    """Return what an arm's runs of one seed choose, and its runs of other seeds, which judge."""
    seed = _choosing_seed(candidates)
    validated = {}
    for value, run in candidates:
        # The newest run of a value replaces the others, since runs come from the oldest.
        if run.seed == seed and run.choosing_score is not None:
            validated[value] = run
    compared, unlike = _alike(validated)
    errors = {}
    sizes = []
    # Values of the choosing seed only, so that no error of a judge has a say.
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
            # Without the chosen setting an arm is one row, whatever was chosen on its sets.
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
    """Return the lowest seed that all values were run with, or else most of them."""
    # A value that was run twice with one seed counts once.
    values_by_seed: dict[int, set[str]] = defaultdict(set)
    for value, run in candidates:
        values_by_seed[run.seed].add(value)
    return min(values_by_seed, key=lambda seed: (-len(values_by_seed[seed]), seed))


def _alike(runs: Mapping[str, Run]) -> tuple[list[str], list[str]]:
    """Return the values whose runs can be compared, and the other values, with reasons.

    Where several groups of runs are alike, the largest counts, and the newest of equally large
    ones. `runs`: value -> run.
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
        # Runs come from the oldest to the newest: of equally large groups the last stays.
        if len(alike) >= len(compared):
            compared = alike
            unlike = different
    return compared, unlike


def _limits(choices: Sequence[_Choice], chosen_key: str) -> list[str]:
    """Return notes on what limits choices, each with the arms that it is about."""
    unlike = (
        f"left out of the choice, since more than {chosen_key} differs from the arm's other runs"
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

    Without an error the value is empty. A single number has no edge. `errors`: value -> error.
    """
    if not errors:
        return "", False
    # By size, so that the first and the last are the edges.
    values = sorted(errors, key=_order)
    lowest = min(errors.values())
    # Of equal errors the middle value is chosen, which is the farthest from an edge.
    best_values = [value for value in values if math.isclose(errors[value], lowest, abs_tol=1e-12)]
    chosen = best_values[(len(best_values) - 1) // 2]
    size_of_last, _ = _order(values[-1])
    # Values that are not numbers come last and have no order of their own.
    has_edges = len(values) > 1 and size_of_last < math.inf
    edges = (values[0], values[-1])
    return chosen, has_edges and chosen in edges


def _order(value: str) -> tuple[float, str]:
    """Return a key that sorts numbers by size, and other values after them."""
    try:
        return float(value), value
    except ValueError:
        return math.inf, value
