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
from orca_cli.baselines import completion, models
from orca_cli.baselines.inputs import Subject
from orca_cli.baselines.models import FitError
from orca_cli.data.splits import folds
from orca_cli.data.untrusted import isolation
from orca_cli.exceptions import DataError, InterruptionError, OrcaError
from orca_cli.interfaces import Reporter, Samples
from orca_cli.scoring.classification import Balanced
from orca_cli.scoring.regression import MAE, RMSE, MeanSquared, NormalisedRMSE, OneMinusR2, RelativeL2
from orca_cli.training.cache import Entry, cached
from orca_cli.training.checkpoint import weights_sha256

FOLDS = 5
_REVISION = 3  # of this package's computations; a change makes every cached entry a miss
_MOST_KEPT = 2**26  # values of outputs in a cache entry
_MEASURES_OF_NUMBERS = (MeanSquared, RelativeL2, RMSE, MAE, OneMinusR2, NormalisedRMSE)
_SEED = 0
_WAIT = 5  # times the computing time: for slow disks and busy machines


@dataclass(frozen=True)
class Baseline:
    """One simple model on the data of a run."""

    error: float | None  # on the test split, by the task's own error; None where it is undefined or the model failed
    validation_error: float | None = None  # on samples that it was not fitted to and that are not test ones
    seconds: float | None = None  # of computing for fitting and predicting, when that was done
    trained_on: Mapping[str, Any] = field(default_factory=dict)  # splits, n samples that it was fitted to, of how many
    versions: Mapping[str, str] = field(default_factory=dict)  # package -> version
    about: str = ""  # what was chosen in fitting, in words
    reason: str = ""  # why there is no error
    outputs: Tensor | None = None  # for the test split; None where it failed. Not recorded

    def record(self) -> dict[str, Any]:
        """Return it as result.json holds it."""
        if self.outputs is None:
            return {"error": None, "reason": self.reason}
        return {key: value for key, value in vars(self).items() if key != "outputs" and value != ""}


def compute(names: Sequence[str], subject: Subject, cache: Path, reporter: Reporter) -> Iterator[tuple[str, Baseline]]:
    """Yield the baselines of a run by name, in order; a failure becomes the baseline's `reason` and is reported."""
    try:
        for name in names:
            signals.check()
            try:
                baseline = _baseline(name, subject, cache)
            except InterruptionError:
                raise
            except (FitError, OrcaError, OSError, MemoryError, ValueError) as failure:
                baseline = Baseline(None, reason=" ".join(str(failure).split()) or type(failure).__name__)
            if baseline.reason:
                reporter.say(f"baselines: {name} was not computed: {baseline.reason}")
            yield name, baseline
    finally:
        isolation.close()  # a model fitted there may hold gigabytes


def _baseline(name: str, subject: Subject, cache: Path) -> Baseline:
    learned, error = subject.learned, subject.error
    splits = ["train", "val"] if len(learned) > len(subject.task.train) else ["train"]
    if name == completion.MINIROCKET and not completion.has_aeon():
        raise FitError("it needs the package aeon: pip install 'orca-transfer[peers]'")
    versions = {package: version(package) for package in completion.PACKAGES[name]}
    is_constant = name == completion.CONSTANT
    entry = _constant(subject) if is_constant else _entry(name, subject, cache, splits, versions)
    outputs = entry.tensors["outputs"]
    measured = error(outputs.numpy(), subject.targets.numpy(), subject.groups).value
    validation_error = None
    if "held_out" in entry.tensors:
        rows, judge = entry.tensors["rows"].numpy(), subject.judge or learned
        held_out = entry.tensors["held_out"].numpy()
        validation_error = error(held_out, judge.targets()[rows], _groups(judge, rows)).value
    count = len(learned if is_constant else subject.rows(learned, _is_raw(name, subject)))
    return Baseline(
        measured,
        validation_error,
        entry.record["seconds"],
        {"splits": splits, "n": count, "of": len(learned)},
        versions,
        str(entry.record["about"]),
        reason="" if measured is not None else "undefined on this test split",
        outputs=outputs,
    )


def _constant(subject: Subject) -> Entry:
    constant, tensors = subject.constant, {}
    if subject.judge is not None:
        rows = subject.rows(subject.judge, raw=False)
        tensors = {"held_out": constant.expand(len(rows), *constant.shape), "rows": torch.from_numpy(rows)}
    else:
        rows = subject.rows(subject.learned, raw=False)
        y, fold = subject.learned.targets()[rows], _folds(subject, rows)
        if fold is not None:
            apart = [subject.error.constant(y[fold != i], subject.task.num_outputs) for i in range(FOLDS)]
            tensors = {"held_out": torch.from_numpy(np.stack(apart)[fold]), "rows": torch.from_numpy(rows)}
    outputs = {"outputs": constant.expand(len(subject.targets), *constant.shape)}
    return Entry(outputs | tensors, {"seconds": 0.0, "about": ""})


def _entry(name: str, subject: Subject, cache: Path, splits: list[str], versions: dict[str, str]) -> Entry:
    """Return a model's outputs for the test split, and for samples, of those `rows`, that it has not seen (held_out)."""
    task, judge, form = subject.task, subject.judge, _form(subject)
    settings = {"model": name, "form": form, "k": task.num_outputs, "causal": task.causal}
    settings |= {"balanced": isinstance(subject.error, Balanced), "seed": _SEED}
    data: dict[str, Any] = {split: subject.digests[split] for split in (*splits, "test")}
    data |= {"shape": list(task.input_shape), "judge": "folds" if judge is None else subject.digests["val"]}
    key = [_REVISION, settings, data, versions]
    start = subject.start() if name == completion.PROBE else None
    if name in (completion.FEATURES, completion.PROBE):
        part = start or subject.embedder
        key.append([weights_sha256(part.state_dict()), str(part), str(getattr(subject.embedder, "layout", None))])

    def compute_entry() -> Entry:
        raw, seconds = _is_raw(name, subject), 0.0
        if name in (completion.FEATURES, completion.PROBE):
            began = time.monotonic()
            x, new = subject.embedded() if start is None else subject.probed(start)
            seconds = time.monotonic() - began
        else:
            x, new = subject.raw if raw else subject.table
        rows, judged = subject.rows(subject.learned, raw), subject.rows(judge, raw)
        y = subject.learned.targets()[rows]
        known = ~np.isnan(y) if y.dtype.kind == "f" else y >= 0  # -100 stands for no class
        if not known.any():
            raise FitError("no training sample has a target")
        if form == "classes":
            x, y, rows = x[known], y[known], rows[known]
        fold = _folds(subject, rows) if judge is None else None
        limit_s = completion.LIMITS_S[name] * (1 if fold is None else 3)
        request = settings | {"x": x, "y": y, "groups": _groups(subject.learned, rows), "fold": fold, "new": new}
        limits, parent = (math.ceil(limit_s), _WAIT * limit_s), os.getpid()
        try:
            fit_result = isolation.isolated(models.fit_here, "baselines", *limits, parent=parent, request=request)
        except isolation.StoppedError as error:
            raise FitError(f"it {error}") from error
        outputs = torch.from_numpy(fit_result["outputs"])
        tensors = {"outputs": outputs[len(judged) :]}
        if fold is not None:
            tensors |= {"held_out": torch.from_numpy(fit_result["held_out"]), "rows": torch.from_numpy(rows)}
        elif judge is not None:
            tensors |= {"held_out": outputs[: len(judged)], "rows": torch.from_numpy(judged)}
        return Entry(tensors, {"seconds": round(seconds + fit_result["seconds"], 2), "about": fit_result["about"]})

    if max(len(subject.targets) * task.num_outputs, subject.targets.numel()) > _MOST_KEPT:
        return compute_entry()
    name_of_entry = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return cached(cache / "baselines" / name_of_entry, compute_entry)


def _groups(samples: Samples, rows: np.ndarray) -> np.ndarray | None:
    """Return the records that some samples are cut from; None where they stand alone."""
    groups = samples.groups()
    return None if groups is None else np.asarray(groups, np.int64)[rows]


def _folds(subject: Subject, rows: np.ndarray) -> np.ndarray | None:
    """Return the fold of each of these training samples; None where there are too few."""
    learned = subject.learned
    classes = learned.targets()[rows] if subject.task.kind == "classes" else None
    try:
        return folds(len(rows), FOLDS, seed=_SEED, classes=classes, groups=_groups(learned, rows))
    except DataError:
        return None


def _is_raw(name: str, subject: Subject) -> bool:
    return name == completion.MINIROCKET or subject.task.kind == "dense"


def _form(subject: Subject) -> str:
    """Return the form of the targets, as `models.fitted` names it.

    Raises:
        FitError: dense targets for which the best constant is the only baseline.
    """
    task = subject.task
    if task.kind != "dense":
        return task.kind
    some = task.train.targets()[:64]
    form, shape = "class_maps", some.shape[1:]
    if np.issubdtype(some.dtype, np.floating):
        form, shape = "maps", some.shape[2:]
        if not isinstance(subject.error, _MEASURES_OF_NUMBERS) and np.isin(some[~np.isnan(some)], (0, 1)).all():
            form = "masks"
    if shape != task.input_shape[1:] or (form == "masks" and task.num_outputs > 1):
        what = "several labels at each position, or outputs and inputs that differ in extent"
        raise FitError(f"{what}; the best constant is the only baseline")
    return form
