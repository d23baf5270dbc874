"""The names of the baselines that a run is compared with, and which of them a task has.

This module does not import torch.
"""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any

from orca_cli.data.own_data import has_single_rows

# The run's own model, and the same model before its first training step.
TRANSFER = "transfer"
START = "start"
CONSTANT = "constant"
FEATURES = "features"
PROBE = "probe"
MINIROCKET = "minirocket"
# Baselines, in the order in which they are computed and shown. Of baselines with the same
# validation error, the first counts as the best.
NAMES = {
    CONSTANT: "the best constant",
    "linear": "a linear model",
    "forest": "a random forest",
    "boosting": "gradient boosting",
    FEATURES: "a ridge on the embedder's features",
    PROBE: "a ridge on the body's features before training",
    MINIROCKET: "MiniRocket with a ridge",
}
PACKAGES = dict.fromkeys(NAMES, ("scikit-learn",)) | {
    CONSTANT: (),
    MINIROCKET: ("aeon", "numba", "scikit-learn"),
}
# Limit on the computing time of a fit. MiniRocket is compiled when a machine first uses it.
LIMITS_S = dict.fromkeys(NAMES, 60.0) | {MINIROCKET: 120.0}
_QUICK_CELLS = 2**21  # largest number of values in training inputs for which MiniRocket is quick


def baseline_names(
    which: str, task: Mapping[str, Any], kind: str, input_shape: Sequence[int], samples: int
) -> list[str]:
    """Return the names of a run's baselines, in the order of NAMES.

    A dense task has the constant and a linear model. For other kinds, only tables have boosting,
    and only series have MiniRocket.

    Args:
        which: none, simple or all. With simple, MiniRocket is left out if it is not installed or
            would take longer than some seconds.
        task: settings of the task.
        kind: kind of the targets.
        input_shape: shape of an input, (C, *E).
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
