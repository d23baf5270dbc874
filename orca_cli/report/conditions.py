"""The facts that two runs must share to be compared, and the settings that determine each fact.

A comparison is about one difference. Everything else that affects an error, such as data, length of
training and program, must be the same in both runs, unless a setting in which they differ
determines it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

# `collect` imports this module, so the name is imported for annotations only.
if TYPE_CHECKING:
    from orca_cli.report.collect import Run

SeedsByFact = dict[str, list[int]]  # a fact, as a text -> seeds of the runs with it
TEST_DATA = "test data"
PROGRAM = "program"
TASK_PREFIX = "task."  # settings that say what the data are
# These determine how many steps stage 3 takes on the same data.
_LENGTH = ("budget", "hparams", "train.epochs", "train.batch_size", "train.accumulation")
# These determine how many samples are left for training, and whether the validation samples are
# trained on as well (docs/selection.md).
_REFIT = ("train.select", "train.refit", "train.folds", "train.validate_on")
# Each fold fine-tunes a separate model, so folds change the number of members as well.
_MEMBERS = ("budget", "hparams", "train.members", "train.folds")


class Fact(NamedTuple):
    """A fact of a run.

    Args:
        path: keys under which result.json has it.
        settings: settings that determine it. Other data also mean another length of training.
    """

    path: tuple[str | int, ...]
    settings: tuple[str, ...]


FACTS = {
    "training data": Fact(("splits", "train", "sha256"), (TASK_PREFIX,)),
    "validation data": Fact(("splits", "val", "sha256"), (TASK_PREFIX, "train.validate_on")),
    # The samples of the error that chooses; with folds these are not the validation split.
    "validation samples": Fact(("selected", "sha256"), (TASK_PREFIX,)),
    TEST_DATA: Fact(("splits", "test", "sha256"), (TASK_PREFIX,)),
    "samples learned": Fact(("selected", "learned"), (TASK_PREFIX, *_REFIT)),
    # The last line of the curve has the number of all steps.
    "steps": Fact(("curves", "finetune", -1, "step"), (TASK_PREFIX, *_REFIT, *_LENGTH)),
    "members": Fact(("selected", "members"), (TASK_PREFIX, *_MEMBERS)),
    # No setting chooses the program, so no setting explains that it differs.
    PROGRAM: Fact(("program", "sha256"), ()),
}
# The facts that count if test errors (TESTED) or validation errors (VALIDATED) are compared. Errors
# that choose were measured on the validation samples, which count in place of the validation split;
# the test split plays no part in a choice.
TESTED = [name for name in FACTS if name != "validation samples"]
VALIDATED = [name for name in FACTS if name not in ("validation data", TEST_DATA)]


def facts_of(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts of a completed run, as texts by name, from its result.json.

    A fact that is not recorded is empty.
    """
    facts = {fact_name: _recorded(result, fact.path) for fact_name, fact in FACTS.items()}
    inexact = result.get("inexact")
    if isinstance(inexact, list) and PROGRAM in inexact:
        # Several versions of the program made this run; no other run was made by the same versions.
        facts[PROGRAM] = f"several ({result.get('run_id')})"
    return facts


def _recorded(result: Any, path: Sequence[str | int]) -> str:
    """Return the entry of a record at a path, as text; empty if the record has none."""
    for step in path:
        # A step is a key of a record or an index of a list; a damaged record may have neither.
        try:
            result = result[step]
        except (LookupError, TypeError):
            return ""
    return "" if result is None else str(result)


def _setters(run: Run, fact_name: str) -> frozenset[tuple[str, str]]:
    """Return those explicitly set settings of a run that determine a fact."""
    setter_keys = FACTS[fact_name].settings
    setters = set()
    # `typed` is in canonical form, so that 1e-3 and 0.001 are equal.
    for key, text in run.typed.items():
        sets_data = TASK_PREFIX in setter_keys and key.startswith(TASK_PREFIX)
        if key in setter_keys or sets_data:
            setters.add((key, text))
    return frozenset(setters)


def mixed(runs: Collection[Run], fact_names: Collection[str] = TESTED) -> dict[str, SeedsByFact]:
    """Return the facts in which runs differ although no difference in their settings explains it.

    Args:
        runs: completed runs.
        fact_names: names of the facts that count.

    Returns:
        name of the fact -> the fact, as a text -> seeds of the runs with it.
    """
    differing: dict[str, SeedsByFact] = defaultdict(dict)
    for fact_name in fact_names:
        # Runs are grouped by the explicitly set settings that determine the fact. These settings
        # explain a difference between two groups, but not a difference within a group.
        groups: dict[Hashable, SeedsByFact] = defaultdict(dict)
        for run in runs:
            seeds_by_fact = groups[_setters(run, fact_name)]
            fact = run.facts[fact_name]
            seeds_by_fact.setdefault(fact, []).append(run.seed)
        for seeds_by_fact in groups.values():
            if len(seeds_by_fact) > 1:
                differing[fact_name] |= seeds_by_fact
    return differing


def shown(fact: str) -> str:
    """Return a fact for readers; a SHA-256 is cut to its first eight digits."""
    # A SHA-256 has 64 hexadecimal digits.
    if len(fact) == 64:
        return fact[:8]
    return fact or "unknown"


def program_name(run: Run) -> str:
    """Return the program that made a completed run, for readers."""
    return shown(run.facts[PROGRAM])
