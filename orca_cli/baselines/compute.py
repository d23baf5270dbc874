"""The baselines of a run, fitted or taken from the cache.

They are measured by the task's own error on validation and test samples.
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

# Of this package's computations; a change makes every cached entry a miss.
_REVISION = 6
_MEASURES_OF_NUMBERS = (MeanSquared, RelativeL2, RMSE, MAE, OneMinusR2, NormalisedRMSE)
# Models that learn from what the run's embedder or body makes of its data.
_EMBEDDED = (FEATURES, PROBE)
# In the names of a cache entry's tensors, before those of the fitted model.
_MODEL = "model."
# Times the computing time: for slow disks and busy machines.
_WAIT = 5


@dataclass(frozen=True)
class Baseline:
    """One simple model on the data of a run, as `compute` yields it.

    Errors are as stored, fractions where a per cent.
    """

    # On the test split, by the task's own error; None where it is undefined or the model failed.
    error: float | None
    # On samples that it was not fitted to and that are not test ones.
    validation_error: float | None = None
    # Number of these samples.
    validated_by: int = 0
    # 95 % interval of the test error; None where it cannot be computed.
    interval: tuple[float, float] | None = None
    # Of computing for fitting and predicting, when that was done.
    seconds: float | None = None
    # Names of the splits; n: samples that it was fitted to; of: samples that they hold.
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    # Package -> version.
    versions: Mapping[str, str] = field(default_factory=dict)
    # What was chosen in fitting, in words.
    about: str = ""
    # Why there is no error.
    reason: str = ""
    # Whether the run's folder has it.
    kept: bool = False
    # The rest is not recorded. For the test split; None where it failed.
    outputs: Tensor | None = None
    # Fitted to all of its training samples; None for the constant and where it failed.
    model: plain.PlainModel | None = None
    # What makes its features, as it was before any training: part of a transfer model's state.
    start: Mapping[str, Tensor] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return it as result.json holds it: only the reason where it has no outputs."""
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
                # The record and the log have one line for it.
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
        raise DataError("it needs the package aeon: pip install 'orca-transfer[peers]'")
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
        reason="undefined on this test split" if test_score.value is None else "",
        outputs=outputs,
        model=_plain_model(entry),
        start=_start_state(name, subject, start),
    )


def _plain_model(entry: Entry) -> plain.PlainModel | None:
    """Return the fitted model of a cache entry; None for the constant, which has none."""
    record = entry.record.get("model")
    if record is None:
        return None
    arrays = {}
    for name, tensor in entry.tensors.items():
        if name.startswith(_MODEL):
            arrays[name.removeprefix(_MODEL)] = tensor.numpy()
    return plain.checked(record, arrays)


def _start_state(name: str, subject: Subject, start: TransferModel | None) -> dict[str, Tensor]:
    """Return the tensors of the network that makes a model's features, if one does.

    These are the embedder's and, of the body, what a finetune mode has added to it: the body itself
    comes from its checkpoint, or from the seed.
    """
    state = {}
    if name in _EMBEDDED:
        for tensor_name, tensor in subject.embedder.state_dict().items():
            state[f"embedder.{tensor_name}"] = tensor
    if start is not None:
        state |= added_state(start)
    return state


def _constant(subject: Subject) -> Entry:
    """Return the outputs of the best constant, as `_fitted` does those of a model."""
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
    # The constant too is judged on samples that it was not computed from.
    constants = []
    for number in range(fold.max() + 1):
        constants.append(subject.error.constant(y[fold != number], subject.task.num_outputs))
    return torch.from_numpy(np.stack(constants)[fold])


def _fitted(
    name: str, subject: Subject, cache: Path, *, facts: list[Any], start: TransferModel | None
) -> Entry:
    """Return a model, its outputs for the test split, and `held_out` for `rows` new to it.

    Args:
        name, subject: of the model and its run.
        cache: holds the folder baselines.
        facts: names of the splits that it learns from, and the versions that it depends on.
        start: the whole model as it was before training, where its features are the inputs.
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
    # All that the outputs depend on and nothing else, so that runs share what they can.
    key = [_REVISION, settings, facts, data, list(task.input_shape), judged_on]
    if name in _EMBEDDED:
        # Weights by their digest, and by text what the state does not contain.
        embedding = start or subject.embedder
        layout = str(getattr(subject.embedder, "layout", None))
        key.append([weights_sha256(embedding.state_dict()), str(embedding), layout])
    key_text = json.dumps(key, sort_keys=True)
    digest = hashlib.sha256(key_text.encode()).hexdigest()
    return cached(cache / "baselines" / digest[:32], lambda: _fit(name, subject, settings, start))


def _is_raw(name: str, subject: Subject) -> bool:
    """Return whether a model takes the inputs as they are."""
    return name == MINIROCKET or subject.task.kind == "dense"


def _inputs(
    name: str, subject: Subject, start: TransferModel | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return what a model takes, of the training samples in use and of the others.

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
    """Fit a model in a process of its own; see `_fitted`.

    Args:
        name, subject: of the model and its run.
        settings: those of `models.fitted`.
        start: the whole model as it was before training, where its features are the inputs.
    """
    is_raw = _is_raw(name, subject)
    reading_s = 0.0
    began = time.monotonic()
    x, new = _inputs(name, subject, start)
    if name in _EMBEDDED:
        # Computing the features belongs to the cost of these models.
        reading_s = time.monotonic() - began
    # Raw inputs leave room for fewer samples than features do.
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
        # The models of the folds take time as well.
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
    # Among the new samples, those that judge come before those of the test split.
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
    """Return what `models.fitted` does, from a process that is ended at its limit in seconds."""
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
        raise DataError(f"it {error}") from error
    return fitted


def _is_known(targets: np.ndarray) -> np.ndarray:
    """Return which targets are known: numbers are NaN where they are not, classes negative."""
    return ~np.isnan(targets) if targets.dtype.kind == "f" else targets >= 0


def _groups(samples: Samples, rows: np.ndarray) -> np.ndarray | None:
    """Return the records that these samples are cut from; None where they stand alone."""
    groups = samples.groups()
    if groups is None:
        return None
    return np.asarray(groups, np.int64)[rows]


def _folds(subject: Subject, rows: np.ndarray) -> np.ndarray | None:
    """Return the fold of each of these training samples; None where there are too few.

    These are the run's folds where it has any, so that all are judged alike.
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
    # A few samples show the form, and all of them may be a large memory map.
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
            "several labels at each position, or outputs and inputs that differ in extent; "
            "the best constant is the only baseline"
        )
    return form
