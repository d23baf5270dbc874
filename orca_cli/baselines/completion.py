"""The baselines of a completed run: which it lacks, and computing them into its record, now or when it is typed again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import terminal
from orca_cli.baselines import choice
from orca_cli.config.schema import Config
from orca_cli.exceptions import DataError, InterruptionError, OrcaError, interruption_in
from orca_cli.runs.directory import SUMMARY, RunDirectory, read_or_empty

if TYPE_CHECKING:  # torch takes seconds to import, and a run that lacks nothing does not need it
    from orca_cli.baselines.compute import Baseline, Subject

PREDICTIONS = "predictions.npz"


def lacking(config: Config, folder: RunDirectory, result: Mapping[str, Any]) -> list[str]:
    """Return the names of the baselines that a completed run should have and has not."""
    splits, built = result.get("splits") or {}, read_or_empty(folder.stage("build") / SUMMARY)
    if "test" not in splits or not {"kind", "input_shape"} <= built.keys():
        return []
    names = choice.baseline_names(
        config.baselines, config.task, built["kind"], built["input_shape"], splits["train"]["n"]
    )
    return choice.missing(names, result.get("baselines") or {})


def complete(
    config: Config,
    folder: RunDirectory,
    names: Sequence[str],
    make: Callable[[], Subject],
) -> InterruptionError | None:
    """Compute baselines of a completed run into its result; whatever goes wrong, the run stays completed.

    Args:
        config: the run's settings.
        folder: the run's; its predictions are there.
        names: of the baselines that it lacks.
        make: returns what they are measured on.

    Returns:
        the interruption that ended it; what was computed until then is in the record, and in the cache.
    """
    from orca_cli.baselines import compute, verdict

    start, stop = time.monotonic(), None
    recorded = folder.result().get("baselines") or {}
    baselines: dict[str, Baseline] = {}
    comparison = folder.result().get("comparison")
    try:
        subject = make()
        # The sentence needs the outputs of all of them; those that were computed before come from the cache.
        every = [name for name in choice.NAMES if name in (*names, *recorded)]
        for name, one in compute.compute(every, subject, Path(config.paths.cache or ""), terminal.LogReporter()):
            baselines[name] = one
        outputs, targets, groups = saved(folder)
        error, ways = subject.error, verdict.ways(config, subject.task)
        value = folder.result()["error"]["value"]
        comparison = verdict.verdict(
            error, value, outputs, targets, groups, baselines, ways, pretrained=subject.pretrained
        )
    except Exception as error:  # noqa: BLE001 - the run is completed, whatever this is
        stop = interruption_in(error)
        left = ", ".join(name for name in names if name not in baselines) or "the comparison"
        why = error if isinstance(error, OrcaError) else f"{type(error).__name__}: {error}"
        text = f"baselines: {' '.join(str(why).split())}" if stop is None else f"baselines: {stop.what} before {left}"
        terminal.log.warning(f"{text}; the same command computes what is missing")
    if baselines:
        result = folder.result()
        new = {name: one.record() for name, one in baselines.items() if one.outputs is not None or name not in recorded}
        spent = result["seconds"].get("baselines", 0.0) + time.monotonic() - start
        seconds = result["seconds"] | {"baselines": round(spent, 2)}
        ordered = {name: (recorded | new)[name] for name in choice.NAMES if name in recorded | new}
        folder.write_result(result | {"baselines": ordered, "comparison": comparison, "seconds": seconds})
    return stop


def saved(folder: RunDirectory) -> tuple[Any, Any, Any]:
    """Return outputs and targets of the run's test split as tensors, and the records of its samples, or None."""
    import numpy as np
    import torch

    path = folder.stage("finetune") / PREDICTIONS
    try:
        with np.load(path, allow_pickle=False) as arrays:
            groups = arrays.get("groups")
            return torch.from_numpy(arrays["outputs"]), torch.from_numpy(arrays["targets"]), groups
    except (KeyError, OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error


def opened(folder: RunDirectory, open_test: Callable[[], Any], digest: str) -> Any:
    """Open the test split of a completed run once more.

    Raises:
        DataError: the data are not those of the run any more.
    """
    count_read(folder)
    samples = open_test()
    if samples.digest() != digest:
        raise DataError("the test data are not those that the run was tested on", where=folder.path.name)
    return samples


def count_read(folder: RunDirectory) -> None:
    """Record, before it happens, that the test split of a completed run is opened, and count it in the result."""
    folder.write_result(folder.result() | {"test_reads": folder.count_test_read()})
