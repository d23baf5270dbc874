"""The simple models that a run is compared with, by name, and which of them a task has.

Imports no torch.
"""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any

from orca_cli.data.own_data import has_single_rows

# The run's own model, and the same before its first step.
TRANSFER = "transfer"
START = "start"
CONSTANT = "constant"
FEATURES = "features"
PROBE = "probe"
MINIROCKET = "minirocket"
# In the order in which they are computed and shown. Of those that validate alike, the first counts
# as the best.
NAMES = {
    CONSTANT: "the best constant",
    "linear": "a linear model",
    "forest": "a random forest",
    "boosting": "gradient boosting",
    FEATURES: "a ridge on the embedder's features",
    PROBE: "a ridge on the features of the body as it starts",
    MINIROCKET: "MiniRocket with ridge",
}
PACKAGES = dict.fromkeys(NAMES, ("scikit-learn",)) | {
    CONSTANT: (),
    MINIROCKET: ("aeon", "numba", "scikit-learn"),
}
# Of computing, for one fit. The first MiniRocket on a machine is compiled.
LIMITS_S = dict.fromkeys(NAMES, 60.0) | {MINIROCKET: 120.0}
_QUICK_CELLS = 2**21  # values of the training inputs up to which MiniRocket takes seconds


def baseline_names(
    which: str, task: Mapping[str, Any], kind: str, input_shape: Sequence[int], samples: int
) -> list[str]:
    """Return the names of a run's baselines, in the order of NAMES.

    A dense task has the constant and a linear model. For other kinds boosting is for tables only,
    and MiniRocket for series only.

    Args:
        which: none, simple or all. simple leaves out MiniRocket where it is not installed or would
            take longer than seconds.
        task: its settings; `kind` is that of its targets, the input's shape (C, *E).
        samples: number of samples in the training split.
    """
    if which == "none":
        return []
    if kind == "dense":
        return [CONSTANT, "linear"]
    is_table = has_single_rows(task, input_shape)
    is_series = len(input_shape) == 2 and not is_table
    is_quick = has_aeon() and samples * math.prod(input_shape) <= _QUICK_CELLS
    absent = set()
    if not is_table:
        absent.add("boosting")
    if not is_series or not (which == "all" or is_quick):
        absent.add(MINIROCKET)
    return [name for name in NAMES if name not in absent]


def has_aeon() -> bool:
    """Return whether MiniRocket is installed."""
    return importlib.util.find_spec("aeon") is not None
