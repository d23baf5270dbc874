"""Which runs of a collection are meant: those with a value of a group, of a setting or of their state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from orca_cli.exceptions import DataError, UsageError, suggest
from orca_cli.report.collect import Collection, Run

FIELDS = ("task", "body", "source", "metric", "finetune", "seed", "protocol", "state")
Lookup = Callable[[Run, str], str | None]


def pair(text: str, option: str) -> tuple[str, str]:
    """Return key and value of KEY=VALUE; UsageError where the text is something else."""
    key, separator, value = text.partition("=")
    if not (separator and key and value):
        raise UsageError(f"'{text}' is not KEY=VALUE", where=option, hint=f"such as {option} metric=none")
    return key, value


def _nothing(run: Run, key: str) -> str | None:
    return None


def where(collection: Collection, text: str, more: Lookup = _nothing) -> Collection:
    """Return the runs with a value, or one of several with commas, of a group, a setting that was given, or an axis.

    Args:
        collection: the runs.
        text: KEY=VALUE; numbers are compared as numbers, so that 1e-4 finds 0.0001.
        more: value of a key that neither the groups nor the given settings of a run have; None where it has none.

    Raises:
        UsageError: the text is not KEY=VALUE.
        DataError: no run has such a value.
    """
    key, value = pair(text, "--where")

    def found(run: Run) -> str | None:
        own = str(getattr(run, key)) if key in FIELDS else run.variant.get(key)
        return more(run, key) if own is None else own

    values = {id(run): found(run) for run in (*collection.runs, *collection.superseded)}
    known = {_canonical(value): value for value in values.values() if value is not None}
    names = [value] if _canonical(value) in known else value.split(",")
    for name in sorted(name for name in names if _canonical(name) not in known):
        hint = suggest(name, known.values()) if known else "it is none of the runs' settings"
        raise DataError(f"no run has {key}={name}", where="--where", hint=hint)
    wanted = {_canonical(name) for name in names}

    def kept(runs: list[Run]) -> list[Run]:
        return [run for run in runs if (own := values[id(run)]) is not None and _canonical(own) in wanted]

    return dataclasses.replace(collection, runs=kept(collection.runs), superseded=kept(collection.superseded))


def _canonical(text: str) -> str:
    try:
        return repr(float(text))
    except ValueError:
        return text
