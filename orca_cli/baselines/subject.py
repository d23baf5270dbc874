"""Make a completed run's data for its baselines, from its stages or, later, from its folder."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orca_cli import signals
from orca_cli.baselines.inputs import Subject
from orca_cli.config.schema import Config
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Samples
from orca_cli.models.transfer import TransferModel
from orca_cli.progress import Silent
from orca_cli.runs.directory import PREDICTIONS, RunDirectory
from orca_cli.stages.build import Built, build, make_model
from orca_cli.stages.finetune import best_constant
from orca_cli.stages.joint_members import OUT_OF_FOLD
from orca_cli.training.engine import choose_device, same_threads_after


def subject_of(
    config: Config, folder: RunDirectory, built: Built | None, test: Samples | None
) -> Subject:
    """Return a completed run as its baselines see it.

    Args:
        config, folder: settings and folder of the run, which this process has claimed.
        built: result of stage 1; None in a later process, which repeats stage 1.
        test: the test split if this process has opened it. None: the split is opened if the cache
            lacks some outputs, and result.json counts this reading.

    Raises:
        DataError: the data have changed since the run, or the run's outputs cannot be read.
    """
    splits = folder.result()["splits"]
    digests = {name: split["sha256"] for name, split in splits.items()}
    if built is None:
        built = _rebuilt(config, folder)
    for name, split in built.summary["splits"].items():
        # Baselines on changed data could not be compared with the run's own error.
        if split["sha256"] != digests[name]:
            message = "the data have changed since the run; restore the original data"
            raise DataError(message, where=folder.path.name)
    task = built.task
    plan = built.plan
    # The targets that the run's error was measured on, read without opening the test split.
    _, targets, groups = saved_outputs(folder)
    # Validation samples that stage 3 trained on cannot say which model is best.
    learns_from_training_only = len(built.learned) == len(task.train)

    # A function, since only the probe needs the whole model.
    def start() -> TransferModel:
        return make_model(plan, task)[0].to(choose_device(plan.device))

    # Opening the test split again is counted, so it waits until outputs are missing in the cache.
    def open_test() -> Samples:
        return _reopened(folder, task.open_test, digests["test"]) if test is None else test

    return Subject(
        task=task,
        error=built.error,
        learned=built.learned,
        may_judge=learns_from_training_only and plan.train.validate_on != "test",
        run_folds=_folds(folder) if plan.train.folds else None,
        embedder=built.embedder,
        start=start,
        open_test=open_test,
        targets=targets,
        groups=groups,
        digests=digests,
        constant=best_constant(built),
    )


def saved_outputs(folder: RunDirectory) -> tuple[Tensor, Tensor, np.ndarray | None]:
    """Return the saved outputs, targets and groups of the test split; the groups may be None.

    Raises:
        DataError: the file cannot be read.
    """
    with _arrays(folder.stage("finetune") / PREDICTIONS) as arrays:
        outputs = torch.from_numpy(arrays["outputs"])
        targets = torch.from_numpy(arrays["targets"])
        return outputs, targets, arrays.get("groups")


def _folds(folder: RunDirectory) -> np.ndarray:
    """Return the validation fold of each of the n samples that the run learned from, [n]."""
    with _arrays(folder.stage("finetune") / OUT_OF_FOLD) as arrays:
        return np.asarray(arrays["fold"], np.int64)


@contextmanager
def _arrays(path: Path) -> Iterator[Any]:
    """Open a run's arrays, which are read on access; DataError if this fails in the block."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays
    except (KeyError, OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error


def _rebuilt(config: Config, folder: RunDirectory) -> Built:
    """Repeat stage 1 of a completed run on the CPU, and return its result."""
    # With this setting, stage 1 opens the test split in place of the validation split.
    if config.train.validate_on == "test":
        _count_read(folder)
    # The rebuilt model is not trained.
    train = replace(config.train, gradient_checkpointing=False)
    with signals.immediate(), same_threads_after():
        return build(replace(config, train=train, device="cpu"), Silent(), folder.result())


def _reopened(folder: RunDirectory, open_test: Callable[[], Any], digest: str) -> Samples:
    """Open the test split once more; DataError where its SHA-256 is not `digest`."""
    _count_read(folder)
    samples: Samples = open_test()
    if samples.digest() != digest:
        message = "the test data have changed since the run; restore the original data"
        raise DataError(message, where=folder.path.name)
    return samples


def _count_read(folder: RunDirectory) -> None:
    """Count in result.json that the test split of a completed run is about to be opened again."""
    folder.write_result(folder.result() | {"test_reads": folder.count_test_read()})
