"""The baselines of a run: fitted or taken from the cache, measured by the task's own error on validation and test samples."""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orca_cli import signals
from orca_cli.baselines import models
from orca_cli.baselines.inputs import Subject
from orca_cli.baselines.names import (
    CONSTANT,
    FEATURES,
    LIMITS_S,
    MINIROCKET,
    PACKAGES,
    PROBE,
    has_aeon,
)
from orca_cli.data.splits import folds
from orca_cli.data.untrusted import isolation
from orca_cli.exceptions import DataError, InterruptionError, OrcaError
from orca_cli.interfaces import Reporter, Samples
from orca_cli.models.transfer import TransferModel
from orca_cli.scoring.classification import Balanced
from orca_cli.scoring.regression import (
    MAE,
    RMSE,
    MeanSquared,
    NormalisedRMSE,
    OneMinusR2,
    RelativeL2,
)
from orca_cli.training.cache import Entry, cached
from orca_cli.training.checkpoint import weights_sha256

FOLDS = 5
_REVISION = 4  # of this package's computations; a change makes every cached entry a miss
_MEASURES_OF_NUMBERS = (MeanSquared, RelativeL2, RMSE, MAE, OneMinusR2, NormalisedRMSE)
_EMBEDDED = (
    FEATURES,
    PROBE,
)  # which learn from what parts of the run make of its data
_WAIT = 5  # times the computing time: for slow disks and busy machines


@dataclass(frozen=True)
class Baseline:
    """One simple model on the data of a run, as `compute` yields it.

    Errors are as stored, fractions where a per cent.
    """

    error: (
        float | None
    )  # on the test split, by the task's own error; None where it is undefined or the model failed
    validation_error: float | None = (
        None  # on samples that it was not fitted to and that are not test ones
    )
    seconds: float | None = None  # of computing for fitting and predicting, when that was done
    trained_on: Mapping[str, Any] = field(
        default_factory=dict
    )  # splits, n samples that it was fitted to, of how many
    versions: Mapping[str, str] = field(default_factory=dict)  # package -> version
    about: str = ""  # what was chosen in fitting, in words
    reason: str = ""  # why there is no error
    outputs: Tensor | None = None  # for the test split; None where it failed. Not recorded

    def record(self) -> dict[str, Any]:
        """Return it as result.json holds it: of one without outputs only the reason."""
        if self.outputs is None:
            return {"error": None, "reason": self.reason}
        return {key: value for key, value in vars(self).items() if key != "outputs" and value != ""}


def compute(
    names: Sequence[str], subject: Subject, cache: Path, reporter: Reporter
) -> Iterator[tuple[str, Baseline]]:
    """Yield the baselines of a run by name, in order.

    A failure becomes the baseline's `reason` and is reported.

    What is computed is kept in the folder baselines of `cache`. InterruptionError where a signal
    asks to stop.
    """
    try:
        for name in names:
            signals.check()
            try:
                baseline = _baseline(name, subject, cache)
            except InterruptionError:
                raise
            except (OrcaError, OSError, MemoryError, ValueError) as failure:
                baseline = Baseline(
                    None, reason=" ".join(str(failure).split()) or type(failure).__name__
                )
            if baseline.reason:
                reporter.say(f"baselines: {name} was not computed: {baseline.reason}")
            yield name, baseline
    finally:
        isolation.close()  # a model fitted there may hold gigabytes


def _baseline(name: str, subject: Subject, cache: Path) -> Baseline:
    learned, judge, error = subject.learned, subject.judge, subject.error
    splits = ["train", "val"] if len(learned) > len(subject.task.train) else ["train"]
    if name == MINIROCKET and not has_aeon():
        raise DataError("it needs the package aeon: pip install 'orca-transfer[peers]'")
    versions = {package: version(package) for package in PACKAGES[name]}
    is_constant = name == CONSTANT
    entry, count = (
        _constant(subject) if is_constant else _fitted(name, subject, cache, [splits, versions])
    )
    outputs, validation_error = entry.tensors["outputs"], None
    measured = error(outputs.numpy(), subject.targets.numpy(), subject.groups).value
    if "held_out" in entry.tensors:
        held_out, rows = (entry.tensors[key].numpy() for key in ("held_out", "rows"))
        samples = judge or learned
        validation_error = error(held_out, samples.targets()[rows], _groups(samples, rows)).value
    seconds, about = entry.record["seconds"], str(entry.record["about"])
    trained_on = {"splits": splits, "n": count, "of": len(learned)}
    reason = "" if measured is not None else "undefined on this test split"
    return Baseline(
        measured, validation_error, seconds, trained_on, versions, about, reason, outputs
    )


def _constant(subject: Subject) -> tuple[Entry, int]:
    """As `_fitted`."""
    constant, samples = subject.constant, subject.judge or subject.learned
    rows = subject.rows(samples, raw=False)
    tensors = {"outputs": constant.expand(len(subject.targets), *constant.shape)}
    if subject.judge is not None:
        tensors["held_out"] = constant.expand(len(rows), *constant.shape)
    elif (fold := _folds(subject, rows)) is not None:
        y = samples.targets()[rows]
        apart = [
            subject.error.constant(y[fold != i], subject.task.num_outputs) for i in range(FOLDS)
        ]
        tensors["held_out"] = torch.from_numpy(np.stack(apart)[fold])
    return Entry(tensors | {"rows": torch.from_numpy(rows)}, {"seconds": 0.0, "about": ""}), len(
        subject.learned
    )


def _fitted(name: str, subject: Subject, cache: Path, facts: list[Any]) -> tuple[Entry, int]:
    """Return a model's outputs for the test split, and `held_out` for other `rows` new to it.

    With them comes the number of samples that it learned from. `facts`: splits of these, and
    versions that it depends on.
    """
    task = subject.task
    settings: dict[str, Any] = {
        "model": name,
        "form": _form(subject),
        "k": task.num_outputs,
        "causal": task.causal,
        "balanced": isinstance(subject.error, Balanced),
    }
    start = subject.start() if name == PROBE else None
    judged_on = "folds" if subject.judge is None else subject.digests["val"]
    data = [subject.digests[split] for split in (*facts[0], "test")]
    key = [_REVISION, settings, facts, data, list(task.input_shape), judged_on]
    if name in _EMBEDDED:
        embedding = start or subject.embedder
        layout = str(getattr(subject.embedder, "layout", None))
        key.append([weights_sha256(embedding.state_dict()), str(embedding), layout])
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    entry = cached(cache / "baselines" / digest, lambda: _fit(name, subject, settings, start))
    return entry, len(subject.rows(subject.learned, _is_raw(name, subject)))


def _is_raw(name: str, subject: Subject) -> bool:
    """Return whether a model takes the inputs as they are."""
    return name == MINIROCKET or subject.task.kind == "dense"


def _fit(
    name: str, subject: Subject, settings: dict[str, Any], start: TransferModel | None
) -> Entry:
    """Fit a model in a process of its own; see `_fitted`.

    Args:
        name, subject: of the model and its run.
        settings: those of `models.fitted`.
        start: the whole model as it was before training, where its features are the inputs.
    """
    began = time.monotonic()
    is_raw = _is_raw(name, subject)
    reading_s = 0.0
    if start is not None:
        x, new = subject.probed(start)
    elif name in _EMBEDDED:
        x, new = subject.embedded()
    else:
        x, new = subject.raw if is_raw else subject.table
    if name in _EMBEDDED:
        reading_s = time.monotonic() - began
    rows = subject.rows(subject.learned, is_raw)
    y = subject.learned.targets()[rows]
    is_known = ~np.isnan(y) if y.dtype.kind == "f" else y >= 0  # -100 stands for no class
    if not is_known.any():
        raise DataError("no training sample has a target")
    if settings["form"] == "classes":
        x, y, rows = x[is_known], y[is_known], rows[is_known]
    fold = _folds(subject, rows) if subject.judge is None else None
    limit_s = LIMITS_S[name] * (1 if fold is None else 3)
    request = settings | {
        "x": x,
        "y": y,
        "groups": _groups(subject.learned, rows),
        "fold": fold,
        "new": new,
    }
    limits = math.ceil(limit_s), _WAIT * limit_s
    try:
        fitted = isolation.isolated(
            models.fitted, "baselines", *limits, parent=os.getpid(), **request
        )
    except isolation.StoppedError as error:
        raise DataError(f"it {error}") from error
    judged = subject.rows(subject.judge, is_raw)
    outputs = torch.from_numpy(fitted["outputs"])
    tensors = {"outputs": outputs[len(judged) :]}
    if fold is not None:
        tensors["held_out"] = torch.from_numpy(fitted["held_out"])
        tensors["rows"] = torch.from_numpy(rows)
    elif subject.judge is not None:
        tensors["held_out"] = outputs[: len(judged)]
        tensors["rows"] = torch.from_numpy(judged)
    seconds = round(reading_s + fitted["seconds"], 2)
    return Entry(tensors, {"seconds": seconds, "about": fitted["about"]})


def _groups(samples: Samples, rows: np.ndarray) -> np.ndarray | None:
    """Return the records that some samples are cut from; None where they stand alone."""
    groups = samples.groups()
    return None if groups is None else np.asarray(groups, np.int64)[rows]


def _folds(subject: Subject, rows: np.ndarray) -> np.ndarray | None:
    """Return the fold of each of these training samples; None where there are too few."""
    learned = subject.learned
    classes = learned.targets()[rows] if subject.task.kind == "classes" else None
    try:
        return folds(
            len(rows), FOLDS, seed=models.SEED, classes=classes, groups=_groups(learned, rows)
        )
    except DataError:
        return None


def _form(subject: Subject) -> str:
    """Return the form of the targets, as `models.fitted` names it.

    Raises:
        DataError: dense targets for which the best constant is the only baseline.
    """
    task = subject.task
    if task.kind != "dense":
        return task.kind
    some = task.train.targets()[:64]
    form, shape = "class_maps", some.shape[1:]
    if np.issubdtype(some.dtype, np.floating):
        form, shape = "maps", some.shape[2:]
        if (
            not isinstance(subject.error, _MEASURES_OF_NUMBERS)
            and np.isin(some[~np.isnan(some)], (0, 1)).all()
        ):
            form = "masks"
    if shape != task.input_shape[1:] or (form == "masks" and task.num_outputs > 1):
        what = "several labels at each position, or outputs and inputs that differ in extent"
        raise DataError(f"{what}; the best constant is the only baseline")
    return form
