"""The baselines of a run, fitted or taken from the cache.

The task's own error is computed for each of them on validation and test samples.
"""

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
from orca_cli.baselines import models, plain
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
from orca_cli.models.finetuning.modes import added_state
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
from orca_cli.scoring.uncertainty import interval
from orca_cli.training.cache import Entry, cached
from orca_cli.training.checkpoint import weights_sha256

# Revision of this package's computations; a change makes every cached entry a miss.
_REVISION = 6
_MEASURES_OF_NUMBERS = (MeanSquared, RelativeL2, RMSE, MAE, OneMinusR2, NormalisedRMSE)
# Baselines that are fitted to features computed by the run's embedder or body.
_EMBEDDED = (FEATURES, PROBE)
# Prefix of the names of the fitted model's tensors in a cache entry.
_MODEL = "model."
# Limit on elapsed time as a multiple of the limit on computing time, for slow disks and busy
# machines.
_WAIT = 5


@dataclass(frozen=True)
class Baseline:
    """A baseline fitted to the data of a run, as `compute` yields it.

    Errors that tables show in per cent are stored as fractions.
    """

    # The task's own error on the test split; None where it is undefined or the model failed.
    error: float | None
    # Error on samples that the model was not fitted to and that are not test samples.
    validation_error: float | None = None
    # Number of samples that the validation error was measured on.
    validated_by: int = 0
    # 95 % interval of the test error; None where it cannot be computed.
    interval: tuple[float, float] | None = None
    # Computing time of fitting and predicting, measured when the model was fitted.
    seconds: float | None = None
    # splits: names of the splits; n: number of samples that the model was fitted to; of: number of
    # samples in the splits.
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    # Package -> version.
    versions: Mapping[str, str] = field(default_factory=dict)
    # Hyperparameters that were chosen in fitting, in words.
    about: str = ""
    # Why the baseline has no error.
    reason: str = ""
    # Whether the run's folder contains the model.
    kept: bool = False
    # The fields from this one on are not recorded. Outputs for the test split; None where the model
    # failed.
    outputs: Tensor | None = None
    # Model fitted to all training samples in use; None for the constant and where fitting failed.
    model: plain.PlainModel | None = None
    # State, before any training, of the network that computes the features: part of the state of a
    # transfer.
    start: Mapping[str, Tensor] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return the baseline's entry in result.json: only the reason if it has no outputs."""
        if self.outputs is None:
            return {"error": None, "reason": self.reason, "kept": False}
        record = dict(vars(self))
        for key in ("outputs", "model", "start"):
            del record[key]
        for key in ("about", "reason"):
            if not record[key]:
                del record[key]
        return record


def compute(
    names: Sequence[str], subject: Subject, cache: Path, reporter: Reporter
) -> Iterator[tuple[str, Baseline]]:
    """Yield each baseline of a run with its name, in order.

    If a baseline fails, its `reason` says why, and the failure is reported.

    Fitted models and their outputs are stored in the folder baselines of `cache`.

    Raises:
        InterruptionError: a signal asks to stop.
    """
    try:
        for name in names:
            signals.check()
            try:
                baseline = _baseline(name, subject, cache)
            except InterruptionError:
                raise
            except (OrcaError, OSError, MemoryError, ValueError) as failure:
                # The record and the log have one line for the failure.
                line = " ".join(str(failure).split())
                baseline = Baseline(error=None, reason=line or type(failure).__name__)
            if baseline.reason:
                reporter.say(f"baselines: {name} was not computed: {baseline.reason}")
            yield name, baseline
    finally:
        # A model fitted in the isolated process may hold gigabytes.
        isolation.close()


def _baseline(name: str, subject: Subject, cache: Path) -> Baseline:
    if name == MINIROCKET and not has_aeon():
        raise DataError("needs the package 'aeon'; install it: pip install 'orca-transfer[peers]'")
    learned = subject.learned
    splits = ["train"]
    # Stage 3 may have trained on the validation samples as well.
    if len(learned) > len(subject.task.train):
        splits.append("val")
    versions = {package: version(package) for package in PACKAGES[name]}
    # The cache's key contains the weights, so this model is made even where the cache has the
    # outputs.
    start = subject.start() if name == PROBE else None
    if name == CONSTANT:
        entry = _constant(subject)
        count = len(learned)
    else:
        entry = _fitted(name, subject, cache, facts=[splits, versions], start=start)
        count = len(subject.rows(_is_raw(name, subject)))
    outputs = entry.tensors["outputs"]
    targets = subject.targets.numpy()
    test_score = subject.error(outputs.numpy(), targets, subject.groups)
    validation_error = None
    validated_by = 0
    # Absent where the training samples are too few for folds.
    if "held_out" in entry.tensors:
        held_out = entry.tensors["held_out"].numpy()
        rows = entry.tensors["rows"].numpy()
        samples = subject.judge or learned
        groups = _groups(samples, rows)
        validation_error = subject.error(held_out, samples.targets()[rows], groups).value
        validated_by = len(rows)
    return Baseline(
        error=test_score.value,
        validation_error=validation_error,
        validated_by=validated_by,
        interval=interval(
            subject.error, test_score, outputs.numpy(), targets, groups=subject.groups
        ),
        seconds=entry.record["seconds"],
        trained_on={"splits": splits, "n": count, "of": len(learned)},
        versions=versions,
        about=str(entry.record["about"]),
        reason="the error is undefined on this test split" if test_score.value is None else "",
        outputs=outputs,
        model=_plain_model(entry),
        start=_start_state(name, subject, start),
    )


def _plain_model(entry: Entry) -> plain.PlainModel | None:
    """Return the fitted model of a cache entry; None for the constant, which has no model."""
    record = entry.record.get("model")
    if record is None:
        return None
    arrays = {}
    for name, tensor in entry.tensors.items():
        if name.startswith(_MODEL):
            arrays[name.removeprefix(_MODEL)] = tensor.numpy()
    return plain.checked(record, arrays)


def _start_state(name: str, subject: Subject, start: TransferModel | None) -> dict[str, Tensor]:
    """Return the tensors of the network that computes a baseline's features, if it has a network.

    They are the embedder's tensors and the tensors that a finetune mode has added to the body. The
    body's own tensors are read from its checkpoint, or drawn from the seed.
    """
    state = {}
    if name in _EMBEDDED:
        for tensor_name, tensor in subject.embedder.state_dict().items():
            state[f"embedder.{tensor_name}"] = tensor
    if start is not None:
        state |= added_state(start)
    return state


def _constant(subject: Subject) -> Entry:
    """Return the best constant's outputs as a cache entry, in the form of `_fitted`."""
    constant = subject.constant
    rows = subject.rows(raw=False)
    if subject.judge is not None:
        rows = subject.judged_rows(raw=False)
    tensors = {
        # A view: the constant is not copied for each sample.
        "outputs": constant.expand(len(subject.targets), *constant.shape),
        "rows": torch.from_numpy(rows),
    }
    if subject.judge is not None:
        tensors["held_out"] = constant.expand(len(rows), *constant.shape)
    else:
        fold = _folds(subject, rows)
        if fold is not None:
            tensors["held_out"] = _constants_of_folds(subject, rows, fold)
    return Entry(tensors=tensors, record={"seconds": 0.0, "about": ""})


def _constants_of_folds(subject: Subject, rows: np.ndarray, fold: np.ndarray) -> Tensor:
    """Return for each of these training samples the best constant of the other folds, [n, ...]."""
    y = subject.learned.targets()[rows]
    # The constant too is evaluated on samples that it was not computed from.
    constants = []
    for number in range(fold.max() + 1):
        constants.append(subject.error.constant(y[fold != number], subject.task.num_outputs))
    return torch.from_numpy(np.stack(constants)[fold])


def _fitted(
    name: str, subject: Subject, cache: Path, *, facts: list[Any], start: TransferModel | None
) -> Entry:
    """Return the cache entry of a fitted baseline.

    It contains the model, its `outputs` for the test split, and `held_out`, its outputs for the
    samples `rows`, which the model was not fitted to.

    Args:
        name: name of the baseline.
        subject: the run.
        cache: folder that contains the folder baselines.
        facts: names of the splits that the baseline learns from, and the versions of the packages
            that it depends on.
        start: the transfer before training, if its features are the baseline's inputs; else None.
    """
    task = subject.task
    settings: dict[str, Any] = {
        "model": name,
        "form": _form(subject),
        "k": task.num_outputs,
        "causal": task.causal,
        "balanced": isinstance(subject.error, Balanced),
    }
    judged_on = "folds" if subject.judge is None else subject.digests["val"]
    if subject.run_folds is not None:
        judged_on = hashlib.sha256(subject.run_folds.tobytes()).hexdigest()
    splits, _ = facts
    data = [subject.digests[split] for split in (*splits, "test")]
    # The key has all that the outputs depend on and nothing else, so that runs share entries.
    key = [_REVISION, settings, facts, data, list(task.input_shape), judged_on]
    if name in _EMBEDDED:
        # The digest identifies the weights; the texts identify settings outside the state.
        embedding = start or subject.embedder
        layout = str(getattr(subject.embedder, "layout", None))
        key.append([weights_sha256(embedding.state_dict()), str(embedding), layout])
    key_text = json.dumps(key, sort_keys=True)
    digest = hashlib.sha256(key_text.encode()).hexdigest()
    return cached(cache / "baselines" / digest[:32], lambda: _fit(name, subject, settings, start))


def _is_raw(name: str, subject: Subject) -> bool:
    """Return whether a baseline is fitted to raw inputs, not to features."""
    return name == MINIROCKET or subject.task.kind == "dense"


def _inputs(
    name: str, subject: Subject, start: TransferModel | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return a baseline's inputs for the training samples in use and for the other samples.

    See `Subject`.
    """
    if start is not None:
        return subject.probed(start)
    if name in _EMBEDDED:
        return subject.embedded()
    return subject.raw if _is_raw(name, subject) else subject.table


def _fit(
    name: str, subject: Subject, settings: dict[str, Any], start: TransferModel | None
) -> Entry:
    """Fit a baseline in a separate process, and return its cache entry; see `_fitted`.

    Args:
        name: name of the baseline.
        subject: the run.
        settings: settings for `models.fitted`.
        start: as in `_fitted`.
    """
    is_raw = _is_raw(name, subject)
    reading_s = 0.0
    began = time.monotonic()
    x, new = _inputs(name, subject, start)
    if name in _EMBEDDED:
        # Computing the features belongs to the cost of these models.
        reading_s = time.monotonic() - began
    # The memory limit allows fewer samples of raw inputs than of features.
    rows = subject.rows(is_raw)
    y = subject.learned.targets()[rows]
    is_known = _is_known(y)
    if not is_known.any():
        raise DataError("no training sample has a target")
    # Classifiers need a class for every sample; the other models leave out NaN themselves.
    if settings["form"] == "classes":
        x = x[is_known]
        y = y[is_known]
        rows = rows[is_known]
    fold = None
    limit_s = LIMITS_S[name]
    if subject.judge is None:
        fold = _folds(subject, rows)
    if fold is not None:
        # The models of the folds take computing time as well.
        limit_s *= 3
    is_table = not is_raw and name not in _EMBEDDED
    request = settings | {
        "x": x,
        "y": y,
        "groups": _groups(subject.learned, rows),
        "fold": fold,
        "new": new,
        "limit": subject.limit if is_table else 0,
    }
    fitted = _in_process(request, limit_s)
    # Among the new samples, the validation samples come before the test samples.
    judged = subject.judged_rows(is_raw)
    outputs = torch.from_numpy(fitted["outputs"])
    tensors = {"outputs": outputs[len(judged) :]}
    if fold is not None:
        tensors["held_out"] = torch.from_numpy(fitted["held_out"])
        tensors["rows"] = torch.from_numpy(rows)
    elif subject.judge is not None:
        tensors["held_out"] = outputs[: len(judged)]
        tensors["rows"] = torch.from_numpy(judged)
    model_record, arrays = fitted["model"]
    for array_name, array in arrays.items():
        tensors[f"{_MODEL}{array_name}"] = torch.tensor(array)
    record = {
        "seconds": round(reading_s + fitted["seconds"], 2),
        "about": fitted["about"],
        "model": model_record,
    }
    return Entry(tensors=tensors, record=record)


def _in_process(request: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """Call `models.fitted` in a process that is ended after `limit_s` seconds of computing."""
    try:
        # A separate process can be ended even within a library's call.
        fitted: dict[str, Any] = isolation.isolated(
            models.fitted,
            "baselines",
            math.ceil(limit_s),
            _WAIT * limit_s,
            parent=os.getpid(),
            **request,
        )
    except isolation.StoppedError as error:
        raise DataError(f"fitting {error}") from error
    return fitted


def _is_known(targets: np.ndarray) -> np.ndarray:
    """Return a mask of the known targets; unknown numbers are NaN, unknown classes negative."""
    return ~np.isnan(targets) if targets.dtype.kind == "f" else targets >= 0


def _groups(samples: Samples, rows: np.ndarray) -> np.ndarray | None:
    """Return the records of these samples; None if samples are not cut from records."""
    groups = samples.groups()
    if groups is None:
        return None
    return np.asarray(groups, np.int64)[rows]


def _folds(subject: Subject, rows: np.ndarray) -> np.ndarray | None:
    """Return the fold of each of these training samples; None if they are too few for folds.

    If the run has folds, these are used, so that all candidates are compared on the same samples.
    """
    learned = subject.learned
    if subject.run_folds is not None:
        return subject.run_folds[rows]
    classes = None
    if subject.task.kind == "classes":
        classes = learned.targets()[rows]
    try:
        groups = _groups(learned, rows)
        return folds(len(rows), models.FOLDS, seed=models.SEED, classes=classes, groups=groups)
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
    # A few samples show the form; the targets of all samples may be a large memory map.
    targets = task.train.targets()[:64]
    form = "class_maps"
    extent = targets.shape[1:]
    if np.issubdtype(targets.dtype, np.floating):
        form = "maps"
        extent = targets.shape[2:]
        if not isinstance(subject.error, _MEASURES_OF_NUMBERS):
            # Zeros and ones are masks unless the error measures them as numbers.
            known_targets = targets[~np.isnan(targets)]
            is_zero_or_one = np.isin(known_targets, (0, 1))
            form = "masks" if is_zero_or_one.all() else "maps"
    has_several_labels = form == "masks" and task.num_outputs > 1
    if has_several_labels or extent != task.input_shape[1:]:
        raise DataError(
            "the targets have several labels at each position, or another height, width or length "
            "than the inputs; for such a task, the best constant is the only baseline"
        )
    return form
