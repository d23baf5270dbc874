"""How long the runs that are left will take, from those that are done."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from orca_cli.runs.directory import RunName

Choices = Mapping[str, str]  # what a run is, such as {"body": "minilm", "metric": "otdd", "seed": "0"}


def choices_of(name: RunName) -> Choices:
    """Return what a run is."""
    return {key: str(getattr(name, key)) for key in ("task", "body", "metric", "finetune", "seed")} | name.variant


def remaining_s(runs: Sequence[tuple[Choices, float | None]]) -> float | None:
    """Return the expected seconds of all runs that are not done; None where none is done.

    A run is expected to take what those that differ in the seed only took on average; where there are none, those of the same
    body and metric, then all.

    Args:
        runs: what each is, and the seconds that it took; None for one that is not done.
    """
    levels = (
        lambda own: tuple(sorted((key, value) for key, value in own.items() if key != "seed")),
        lambda own: (own.get("body"), own.get("metric")),
        lambda own: (),
    )
    took: list[dict[object, list[float]]] = [defaultdict(list) for _ in levels]
    for own, seconds in runs:
        for level, found in zip(levels, took, strict=True):
            if seconds is not None:
                found[level(own)].append(seconds)
    if not took[-1]:
        return None
    left = [own for own, seconds in runs if seconds is None]
    alike = [
        next(found[level(own)] for level, found in zip(levels, took, strict=True) if level(own) in found)
        for own in left
    ]
    return sum(map(statistics.fmean, alike))


def in_words(seconds: float) -> str:
    """Return a time such as 40 s, 12 min or 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
