"""Which simple models a run is compared with, and which are still missing; does not import what computes them."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any

from orca_cli.config.retired import current_target

CONSTANT, FEATURES, PROBE, MINIROCKET = "constant", "features", "probe", "minirocket"
# In the order in which they are computed and shown; among those that validate alike, the first one counts as the best.
NAMES = {
    CONSTANT: "the best constant",
    "linear": "a linear model",
    "forest": "a random forest",
    "boosting": "gradient boosting",
    FEATURES: "a ridge on the embedder's features",
    PROBE: "a ridge on the features of the body as it starts",
    MINIROCKET: "MiniRocket with ridge",
}
PACKAGES = dict.fromkeys(NAMES, ("scikit-learn",)) | {CONSTANT: (), MINIROCKET: ("aeon", "numba", "scikit-learn")}
# Of computing, for one fit; the first MiniRocket on a machine is compiled.
LIMITS_S = dict.fromkeys(NAMES, 60.0) | {MINIROCKET: 120.0}
_SECONDS = 2**21  # values of the training inputs up to which MiniRocket takes seconds
_TABLE = "orca_cli.data.table.load"
_SERIES = ("sequence", "id")  # settings of a table whose samples are not single rows


def baseline_names(
    which: str, task: Mapping[str, Any], kind: str, input_shape: Sequence[int], samples: int
) -> list[str]:
    """Return the names of a run's baselines, in order.

    Args:
        which: none, simple or all.
        task: its settings.
        kind: of the targets.
        input_shape: (C, *E).
        samples: that the run trained on.
    """
    if which == "none":
        return []
    names = {CONSTANT, "linear", FEATURES}
    is_table = current_target(str(task.get("_target_"))) == _TABLE and not any(
        task.get(key) is not None for key in _SERIES
    )
    is_table = is_table or math.prod(input_shape[1:]) == 1
    if kind != "dense":
        names |= {"forest", PROBE} | ({"boosting"} if is_table else set())
        if len(input_shape) == 2 and not is_table:
            is_quick = has_aeon() and samples * math.prod(input_shape) <= _SECONDS
            names |= {MINIROCKET} if which == "all" or is_quick else set()
    return [name for name in NAMES if name in names]


def missing(names: Sequence[str], recorded: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names that a run lacks, or whose failure another attempt may fix."""
    return [name for name in names if name not in recorded or _may_succeed(name, recorded[name])]


def _may_succeed(name: str, record: Mapping[str, Any]) -> bool:
    if "validation_error" not in record:  # it was stopped, failed, or is older than the choice by validation
        return record.get("suits", True) and (name != MINIROCKET or has_aeon())
    return False


def has_aeon() -> bool:
    """Return whether MiniRocket is installed."""
    return importlib.util.find_spec("aeon") is not None
