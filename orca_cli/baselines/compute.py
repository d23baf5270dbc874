"""The baselines of a run: fitted or taken from the cache, measured by the task's own error on validation and test samples."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import signals
from orca_cli.baselines import completion, models
from orca_cli.baselines.inputs import Inputs
from orca_cli.baselines.models import FitError
from orca_cli.data.splits import folds
from orca_cli.data.untrusted import isolation
from orca_cli.exceptions import DataError, InterruptionError, OrcaError
from orca_cli.interfaces import Error, Reporter, Samples, TaskData
from orca_cli.models.transfer import TransferModel
from orca_cli.scoring.classification import Balanced
from orca_cli.scoring.regression import MAE, RMSE, MeanSquared, NormalisedRMSE, OneMinusR2, RelativeL2
from orca_cli.training.cache import Entry, cached
from orca_cli.training.checkpoint import weights_sha256

FOLDS = 5
LEAST_JUDGES = 50  # validation samples; where there are fewer, folds of the training samples say which model is best
_REVISION = 3  # of this package's computations; a change makes every cached entry a miss
_MOST_KEPT = 2**26  # values of outputs in a cache entry
_MEASURES_OF_NUMBERS = (MeanSquared, RelativeL2, RMSE, MAE, OneMinusR2, NormalisedRMSE)
_SEED = 0
_WAIT = 5  # times the computing time: for slow disks and busy machines


@dataclass(frozen=True)
class Baseline:
    """One simple model on the data of a run.

    Args:
        error: on the test split, by the task's own error; None where it is undefined or the model failed.
        validation_error: on samples that it was not fitted to and that are not test ones; None likewise.
        seconds: of computing for fitting and predicting, when that was done; None where it was not.
        trained_on: splits, n samples that it was fitted to, of how many.
        versions: package -> version.
        about: what was chosen in fitting, in words.
        reason: why there is no error; empty where there is one.
        outputs: for the test split; None where it failed. Not recorded.
    """

    error: float | None
    validation_error: float | None = None
    seconds: float | None = None
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    about: str = ""
    reason: str = ""
    outputs: Tensor | None = None

    def record(self) -> dict[str, Any]:
        """Return it as result.json holds it."""
        if self.outputs is None:
            return {"error": None, "reason": self.reason}
        return {key: value for key, value in vars(self).items() if key != "outputs" and value != ""}


@dataclass(frozen=True)
class Subject:
    """A run as its baselines need it.

    Args:
        task: its data.
        error: the task's own.
        learned: what its stage 3 trained on: the training split, or validation as well.
        may_judge: whether the validation split is another one than these and the test split.
        embedder: as it was before any training, on the CPU.
        start: returns the whole model as it was before any training.
        open_test: returns the test split; called where the cache does not have all outputs.
        targets: of the test split, [n, ...].
        groups: records of the test samples, [n], or None.
        digests: of the splits by name: train, val and test.
        constant: output of the best constant predictor, [K] or [K, *E].
    """

    task: TaskData
    error: Error
    learned: Samples
    may_judge: bool
    embedder: nn.Module
    start: Callable[[], TransferModel]
    open_test: Callable[[], Samples]
    targets: Tensor
    groups: np.ndarray | None
    digests: Mapping[str, str]
    constant: Tensor


def compute(names: Sequence[str], subject: Subject, cache: Path, reporter: Reporter) -> Iterator[tuple[str, Baseline]]:
    """Yield the baselines by name, in order; a failure becomes the baseline's `reason` and is reported.

    Args:
        names: of `completion.NAMES`.
        subject: the run.
        cache: folder of everything that runs share.
        reporter: messages.

    Raises:
        InterruptionError: a signal asked to stop.
    """
    validation = subject.task.validation
    judge = validation if subject.may_judge and len(validation) >= LEAST_JUDGES else None
    inputs = Inputs(subject.learned, judge, subject.open_test, subject.task.input_shape)
    try:
        for name in names:
            signals.check()
            try:
                baseline = _baseline(name, subject, inputs, cache)
            except InterruptionError:
                raise
            except (FitError, OrcaError, OSError, MemoryError, ValueError) as failure:
                reason = " ".join(str(failure).split()) or type(failure).__name__
                baseline = Baseline(None, reason=reason)
            if baseline.reason:
                reporter.say(f"baselines: {name} was not computed: {baseline.reason}")
            yield name, baseline
    finally:
        isolation.close()  # a model fitted there may hold gigabytes


def _baseline(name: str, subject: Subject, inputs: Inputs, cache: Path) -> Baseline:
    splits = ["train", "val"] if len(subject.learned) > len(subject.task.train) else ["train"]
    if name == completion.MINIROCKET and not completion.has_aeon():
        raise FitError("it needs the package aeon: pip install 'orca-transfer[peers]'")
    versions = {package: version(package) for package in completion.PACKAGES[name]}
    if name == completion.CONSTANT:
        entry = _constant(subject, inputs)
    else:
        entry = _entry(name, subject, inputs, cache, {"splits": splits, "versions": versions})
    outputs = entry.tensors["outputs"]
    measured = subject.error(outputs.numpy(), subject.targets.numpy(), subject.groups).value
    validation_error = None
    if "held_out" in entry.tensors:
        rows, judge = entry.tensors["rows"].numpy(), inputs.judge or inputs.learned
        validation_error = subject.error(
            entry.tensors["held_out"].numpy(), judge.targets()[rows], _groups(judge, rows)
        ).value
    count = len(subject.learned) if name == completion.CONSTANT else len(inputs.rows(_is_raw(name, subject.task)))
    return Baseline(
        measured,
        validation_error,
        entry.record["seconds"],
        {"splits": splits, "n": count, "of": len(subject.learned)},
        versions,
        str(entry.record["about"]),
        reason="" if measured is not None else "undefined on this test split",
        outputs=outputs,
    )


def _constant(subject: Subject, inputs: Inputs) -> Entry:
    outputs = subject.constant.expand(len(subject.targets), *subject.constant.shape)
    rows, fold = inputs.judged(raw=False), None
    held = subject.constant.expand(len(rows), *subject.constant.shape)
    if inputs.judge is None:
        rows = inputs.rows(raw=False)
        fold, y = _folds(subject.task, inputs, rows), inputs.learned.targets()[rows]
        if fold is None:
            return Entry({"outputs": outputs}, {"seconds": 0.0, "about": ""})
        apart = [subject.error.constant(y[fold != i], subject.task.num_outputs) for i in range(FOLDS)]
        held = torch.from_numpy(np.stack(apart)[fold])
    return Entry({"outputs": outputs, "held_out": held, "rows": torch.from_numpy(rows)}, {"seconds": 0.0, "about": ""})


def _entry(name: str, subject: Subject, inputs: Inputs, cache: Path, facts: dict[str, Any]) -> Entry:
    """Return a model's outputs for the test split, and for samples, of those `rows`, that it has not seen (held_out)."""
    task, error = subject.task, subject.error
    settings: dict[str, Any] = {
        "model": name,
        "form": _form(task, error),
        "k": task.num_outputs,
        "causal": task.causal,
        "balanced": isinstance(error, Balanced),
        "seed": _SEED,
    }
    uses_model = name in (completion.FEATURES, completion.PROBE)
    judge = "folds" if inputs.judge is None else subject.digests["val"]
    data = {split: subject.digests[split] for split in (*facts["splits"], "test")}
    key = [_REVISION, settings, data | {"shape": list(task.input_shape), "judge": judge}, facts["versions"]]
    if uses_model:
        start = subject.start() if name == completion.PROBE else None
        part = start or subject.embedder
        key.append([weights_sha256(part.state_dict()), str(part), str(getattr(subject.embedder, "layout", None))])

    def compute_entry() -> Entry:
        raw, began = _is_raw(name, task), time.monotonic()
        if uses_model:
            x, new = inputs.embedded(subject.embedder) if start is None else inputs.probed(start)
        else:
            x, new = inputs.raw if raw else inputs.table
        seconds = time.monotonic() - began if uses_model else 0.0
        rows, judged = inputs.rows(raw), inputs.judged(raw)
        y = inputs.learned.targets()[rows]
        known = ~np.isnan(y) if y.dtype.kind == "f" else y >= 0  # -100 stands for no class
        if not known.any():
            raise FitError("no training sample has a target")
        kept = known if settings["form"] == "classes" else np.ones(len(rows), bool)
        fold = _folds(task, inputs, rows[kept]) if inputs.judge is None else None
        groups = _groups(inputs.learned, rows[kept])
        limit_s = completion.LIMITS_S[name] * (1 if fold is None else 3)
        fit_result = fit(limit_s, **settings, x=x[kept], y=y[kept], groups=groups, fold=fold, new=new)
        outputs = torch.from_numpy(fit_result["outputs"])
        tensors = {"outputs": outputs[len(judged) :]}
        if fold is not None:
            tensors |= {"held_out": torch.from_numpy(fit_result["held_out"]), "rows": torch.from_numpy(rows[kept])}
        elif inputs.judge is not None:
            tensors |= {"held_out": outputs[: len(judged)], "rows": torch.from_numpy(judged)}
        return Entry(tensors, {"seconds": round(seconds + fit_result["seconds"], 2), "about": fit_result["about"]})

    if max(len(subject.targets) * task.num_outputs, subject.targets.numel()) > _MOST_KEPT:
        return compute_entry()
    name_of_entry = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return cached(cache / "baselines" / name_of_entry, compute_entry)


def fit(limit_s: float, **request: Any) -> dict[str, Any]:
    """Return what `models.fitted` returns for the same arguments, called in a process of its own.

    Raises:
        FitError: it failed, crashed, or needs more than `limit_s` seconds of computing.
        InterruptionError: a signal asked to stop.
    """
    limits = isolation.Limits(math.ceil(limit_s), _WAIT * limit_s)
    try:
        fit_result: dict[str, Any] = isolation.isolated(
            models.fit_here, limits, "baselines", parent=os.getpid(), request=request
        )
    except isolation.OverTimeError as error:
        raise FitError(f"it needs more than {limit_s:g} s") from error
    except isolation.StoppedError as error:
        raise FitError(f"it {error}") from error
    return fit_result


def _groups(samples: Samples, rows: np.ndarray) -> np.ndarray | None:
    """Return the records that some samples are cut from; None where they stand alone."""
    groups = samples.groups()
    return None if groups is None else np.asarray(groups, np.int64)[rows]


def _folds(task: TaskData, inputs: Inputs, rows: np.ndarray) -> np.ndarray | None:
    """Return the fold of each of these training samples; None where there are too few."""
    classes = inputs.learned.targets()[rows] if task.kind == "classes" else None
    try:
        return folds(len(rows), FOLDS, seed=_SEED, classes=classes, groups=_groups(inputs.learned, rows))
    except DataError:
        return None


def _is_raw(name: str, task: TaskData) -> bool:
    return name == completion.MINIROCKET or task.kind == "dense"


def _form(task: TaskData, error: Error) -> str:
    """Return the form of the targets, as `models.fitted` names it.

    Raises:
        FitError: dense targets for which the best constant is the only baseline.
    """
    if task.kind != "dense":
        return task.kind
    some = task.train.targets()[:64]
    extent = task.input_shape[1:]
    if not np.issubdtype(some.dtype, np.floating):
        form, shape = "class_maps", some.shape[1:]
    else:
        form, shape = "maps", some.shape[2:]
        if not isinstance(error, _MEASURES_OF_NUMBERS) and np.isin(some[~np.isnan(some)], (0, 1)).all():
            form = "masks"
            if task.num_outputs > 1:
                raise FitError("several labels at every position; the best constant is the only baseline")
    if shape != extent:
        raise FitError("outputs and inputs differ in extent; the best constant is the only baseline")
    return form
