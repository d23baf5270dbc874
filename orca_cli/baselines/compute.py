"""The baselines of a run: fitted or taken from the cache, and measured by the task's own error on the run's test samples."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orca_cli import signals
from orca_cli.baselines import process
from orca_cli.baselines.inputs import Inputs
from orca_cli.baselines.process import FitError
from orca_cli.exceptions import InterruptionError, OrcaError
from orca_cli.interfaces import Error, Reporter, Samples, TaskData
from orca_cli.scoring.classification import Balanced
from orca_cli.scoring.regression import MeanSquared, RelativeL2
from orca_cli.scoring.values import MAE, RMSE, NormalisedRMSE, OneMinusR2
from orca_cli.training.cache import Entry, cached
from orca_cli.training.loop import score

CONSTANT = "constant"
# Of computing; the first MiniRocket on a machine is compiled.
LIMITS_S = {"linear": 60.0, "forest": 60.0, "minirocket": 120.0}
_PACKAGES = {"linear": ("scikit-learn",), "forest": ("scikit-learn",), "minirocket": ("aeon", "numba", "scikit-learn")}
_REVISION = 1  # of what this package computes; another one makes other cache entries
_MOST_KEPT = 2**26  # values of outputs in a cache entry
_MEASURES_OF_NUMBERS = (MeanSquared, RelativeL2, RMSE, MAE, OneMinusR2, NormalisedRMSE)
_SEED = 0


@dataclass(frozen=True)
class Baseline:
    """One simple model on the data of a run.

    Args:
        error: on the test split, by the task's own error; None where it is undefined or the model failed.
        seconds: of computing for fitting and predicting, when that was done; None where it was not.
        trained_on: splits, n samples that it was fitted to, of how many.
        versions: package -> version.
        about: what was chosen in fitting, in words.
        reason: why there is no error; empty where there is one.
        outputs: for the test split; None where it failed. Not recorded.
    """

    error: float | None
    seconds: float | None = None
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    about: str = ""
    reason: str = ""
    outputs: Tensor | None = None

    def record(self) -> dict[str, Any]:
        """Return it as result.json holds it."""
        return {key: value for key, value in vars(self).items() if key != "outputs" and value != ""}


@dataclass(frozen=True)
class Tested:
    """The test of a run, as far as baselines need it.

    Args:
        samples: the test split.
        targets: all of its targets.
        digests: of the splits by name: train, val and test.
        trivial: error of the best constant predictor.
        constant: its outputs.
    """

    samples: Samples
    targets: Tensor
    digests: Mapping[str, str]
    trivial: float | None
    constant: Tensor


def compute(
    which: str, task: TaskData, tested: Tested, error: Error, cache: Path, reporter: Reporter, *, with_validation: bool
) -> dict[str, Baseline]:
    """Return the baselines by name; whatever goes wrong with one is its `reason`, and is said.

    Args:
        which: simple, or all.
        task: the run's data.
        tested: the test split, which the run has opened.
        error: the task's own.
        cache: folder of everything that runs share.
        reporter: what says how it goes.
        with_validation: whether they learn from the validation split too.
    """
    parts = [task.train, task.validation] if with_validation else [task.train]
    inputs = Inputs(parts, tested.samples, task.input_shape)
    names = ["train", "val"][: len(parts)]
    found = {CONSTANT: _constant(tested, {"splits": names, "n": inputs.of, "of": inputs.of})}
    for name in _names(which, task):
        try:
            signals.check()
            entry, about = _entry(name, task, tested, error, cache, inputs, names)
            outputs = entry.tensors["outputs"]
            measured = score(error, outputs, tested.samples, tested.targets)
            reason = "" if measured.value is not None else "undefined on this test split"
            found[name] = Baseline(measured.value, entry.record["seconds"], *about, reason=reason, outputs=outputs)
        except InterruptionError:  # the run's own test is done, and must not be lost
            found[name] = Baseline(None, reason="interrupted")
        except (FitError, OrcaError, OSError, MemoryError, ValueError) as failure:
            found[name] = Baseline(None, reason=" ".join(str(failure).split()) or type(failure).__name__)
        if reason := found[name].reason:
            reporter.say(f"baselines: {name} was not computed: {reason}")
    return found


def _constant(tested: Tested, on: dict[str, Any]) -> Baseline:
    reason = "undefined on this test split" if tested.trivial is None else ""
    return Baseline(tested.trivial, 0.0, on, reason=reason, outputs=tested.constant)


def _names(which: str, task: TaskData) -> Iterator[str]:
    yield "linear"
    if task.kind != "dense":
        yield "forest"
        if which == "all" and len(task.input_shape) == 2:
            yield "minirocket"


def _entry(
    name: str, task: TaskData, tested: Tested, error: Error, cache: Path, inputs: Inputs, names: list[str]
) -> tuple[Entry, tuple[dict[str, Any], dict[str, str], str]]:
    """Return the outputs of a model for the test split, and what it was trained on, its versions and what it chose."""
    versions = _versions(name)
    raw = name == "minirocket" or task.kind == "dense"
    rows = inputs.rows(raw)
    settings = {
        "model": name,
        "form": _form(task, error),
        "k": task.num_outputs,
        "causal": task.causal,
        "balanced": isinstance(error, Balanced),
        "seed": _SEED,
    }
    data = {split: tested.digests[split] for split in (*names, "test")} | {"shape": list(task.input_shape)}
    key = json.dumps([_REVISION, settings, data, versions], sort_keys=True)

    def compute_entry() -> Entry:
        x, new = inputs.raw if raw else inputs.table
        y = inputs.targets(rows)
        known = rows if settings["form"] != "classes" else rows[y >= 0]  # -100 stands for no class
        kept = np.isin(rows, known)
        if not kept.any():
            raise FitError("no training sample has a target")
        found = process.fit(LIMITS_S[name], **settings, x=x[kept], y=y[kept], groups=inputs.groups(known), new=new)
        outputs = torch.from_numpy(found["outputs"])
        return Entry({"outputs": outputs}, {"seconds": round(found["seconds"], 2), "about": found["about"]})

    path = cache / "baselines" / hashlib.sha256(key.encode()).hexdigest()[:32]
    if len(tested.targets) * task.num_outputs <= _MOST_KEPT and tested.targets.numel() <= _MOST_KEPT:
        entry = cached(path, compute_entry)
    else:
        entry = compute_entry()
    return entry, ({"splits": names, "n": len(rows), "of": inputs.of}, versions, str(entry.record["about"]))


def _versions(name: str) -> dict[str, str]:
    if name == "minirocket" and importlib.util.find_spec("aeon") is None:
        raise FitError("it needs the package aeon: pip install 'orca-transfer[peers]'")
    try:
        return {package: version(package) for package in _PACKAGES[name]}
    except PackageNotFoundError as error:
        raise FitError(f"the package {error.name} is not installed") from error


def _form(task: TaskData, error: Error) -> str:
    """Return the form of the targets, as `process.fitted` names it.

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
