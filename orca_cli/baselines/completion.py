"""Which simple models a run is compared with, which of them it lacks, and computing these into its record."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import terminal
from orca_cli.config.retired import current_target
from orca_cli.config.schema import Config
from orca_cli.exceptions import DataError, InterruptionError, OrcaError, interruption_in
from orca_cli.runs.directory import PREDICTIONS, SUMMARY, RunDirectory, read_or_empty

if TYPE_CHECKING:  # torch takes seconds to import, and a run that lacks nothing does not need it
    from orca_cli.baselines.compute import Baseline
    from orca_cli.baselines.inputs import Subject

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
PACKAGES = dict.fromkeys(NAMES, ("scikit-learn",)) | {
    CONSTANT: (),
    MINIROCKET: ("aeon", "numba", "scikit-learn"),
}
# Of computing, for one fit; the first MiniRocket on a machine is compiled.
LIMITS_S = dict.fromkeys(NAMES, 60.0) | {MINIROCKET: 120.0}
_SECONDS = 2**21  # values of the training inputs up to which MiniRocket takes seconds
_TABLE = "orca_cli.data.table.load"
_SERIES = ("sequence", "id")  # settings of a table whose samples are not single rows


def baseline_names(
    which: str, task: Mapping[str, Any], kind: str, input_shape: Sequence[int], samples: int
) -> list[str]:
    """Return the names of a run's baselines, in the order of NAMES.

    A dense task has the constant and a linear model. In others boosting is for tables only, and MiniRocket for series only.

    Args:
        which: none, simple or all; simple leaves out MiniRocket where it is not installed or would take longer than seconds.
        task: its settings; `kind` is that of its targets, the input's shape (C, *E).
        samples: number of samples in the training split.
    """
    if which == "none" or kind == "dense":
        return [] if which == "none" else [CONSTANT, "linear"]
    is_table = current_target(str(task.get("_target_"))) == _TABLE and not any(
        map(task.get, _SERIES)
    )
    is_table = is_table or math.prod(input_shape[1:]) == 1
    is_quick = which == "all" or (has_aeon() and samples * math.prod(input_shape) <= _SECONDS)
    left_out = {
        "boosting": not is_table,
        MINIROCKET: is_table or len(input_shape) != 2 or not is_quick,
    }
    return [name for name in NAMES if not left_out.get(name)]


def has_aeon() -> bool:
    """Return whether MiniRocket is installed."""
    return importlib.util.find_spec("aeon") is not None


def lacking(config: Config, folder: RunDirectory, result: Mapping[str, Any]) -> list[str]:
    """Return the names of the baselines that a completed run should have and has not; none for one that was not tested."""
    splits, built = result.get("splits") or {}, read_or_empty(folder.stage("build") / SUMMARY)
    if "test" not in splits or not {"kind", "input_shape"} <= built.keys():
        return []
    recorded, samples = result.get("baselines") or {}, splits["train"]["n"]
    names = baseline_names(
        config.baselines, config.task, built["kind"], built["input_shape"], samples
    )
    return [name for name in names if name not in recorded]


def complete(
    config: Config, folder: RunDirectory, names: Sequence[str], make: Callable[[], Subject]
) -> InterruptionError | None:
    """Compute baselines that a completed run lacks; write them, the comparison and the time that they took to result.json.

    Whatever goes wrong is logged, and the run stays completed.

    Args:
        config, folder: of the run, which this process has claimed.
        names: of those that it lacks. Those in its record are taken from the cache as well, for the comparison.
        make: returns the run as its baselines see it; called once.

    Returns:
        The interruption that ended it, or None. What was computed until then is in the record, and in the cache.
    """
    from orca_cli.baselines import compute, verdict

    start, stop, before = time.monotonic(), None, folder.result()
    recorded, comparison = before.get("baselines") or {}, before.get("comparison")
    baselines: dict[str, Baseline] = {}
    try:
        subject = make()
        # The sentence needs the outputs of all of them; those that were computed before come from the cache.
        every = [name for name in NAMES if name in (*names, *recorded)]
        baselines.update(
            compute.compute(every, subject, Path(config.paths.cache or ""), terminal.LogReporter())
        )
        comparison = verdict.verdict(subject.error, *saved(folder), baselines)
    except Exception as error:  # noqa: BLE001 - the run is completed, whatever this is
        stop = interruption_in(error)
        why = error if isinstance(error, OrcaError) else f"{type(error).__name__}: {error}"
        terminal.log.warning(
            f"baselines: {' '.join(str(why).split())}; the same command computes what is missing"
        )
    if baselines:
        result = folder.result()
        new = {
            name: one.record()
            for name, one in baselines.items()
            if one.outputs is not None or name not in recorded
        }
        ordered = {name: (recorded | new)[name] for name in NAMES if name in recorded | new}
        spent = result["seconds"].get("baselines", 0.0) + time.monotonic() - start
        seconds = result["seconds"] | {"baselines": round(spent, 2)}
        folder.write_result(
            result | {"baselines": ordered, "comparison": comparison, "seconds": seconds}
        )
    return stop


def saved(folder: RunDirectory) -> tuple[Any, Any, Any]:
    """Return outputs and targets of the test split as tensors, and its samples' records or None; DataError where unreadable."""
    import numpy as np
    import torch

    path = folder.stage("finetune") / PREDICTIONS
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return (
                torch.from_numpy(arrays["outputs"]),
                torch.from_numpy(arrays["targets"]),
                arrays.get("groups"),
            )
    except (KeyError, OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error


def opened(folder: RunDirectory, open_test: Callable[[], Any], digest: str) -> Any:
    """Open the test split of a completed run once more, counted in its result; DataError where its SHA-256 is not `digest`."""
    count_read(folder)
    samples = open_test()
    if samples.digest() != digest:
        raise DataError(
            "the test data are not those that the run was tested on", where=folder.path.name
        )
    return samples


def count_read(folder: RunDirectory) -> None:
    """Record, before it happens, that the test split of a completed run is opened, and count it in the result."""
    folder.write_result(folder.result() | {"test_reads": folder.count_test_read()})
