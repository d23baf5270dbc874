"""Short names of errors and losses by the kind of a task: `task.error=balanced` stands for a `_target_` node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orca_cli.config.parts import TARGET
from orca_cli.exceptions import ConfigError, suggest

_CLASSES, _LABELS = "orca_cli.scoring.classification", "orca_cli.scoring.multilabel"
_VALUES, _FIELDS, _LOSSES = "orca_cli.scoring.values", "orca_cli.scoring.regression", "orca_cli.scoring.losses"
_NUMBER_ERRORS = {
    "rmse": f"{_VALUES}.RMSE",
    "mae": f"{_VALUES}.MAE",
    "r2": f"{_VALUES}.OneMinusR2",
    "nrmse": f"{_VALUES}.NormalisedRMSE",
}
_CLASS_ERRORS = {
    "zero_one": f"{_CLASSES}.ZeroOne",
    "balanced": f"{_CLASSES}.Balanced",
    "macro_f1": f"{_CLASSES}.MacroF1",
}
_NUMBER_LOSSES = {
    "mse": f"{_LOSSES}.MaskedMSE",
    "huber": f"{_LOSSES}.MaskedHuber",
    "mae": f"{_LOSSES}.MaskedMAE",
}
_CROSS_ENTROPY = {"cross_entropy": f"{_LOSSES}.MaskedCrossEntropy"}
_DENSE_NUMBERS = {**_NUMBER_ERRORS, "mse": f"{_FIELDS}.MeanSquared", "relative_l2": f"{_FIELDS}.RelativeL2"}

# Setting -> kind -> name -> class. Dense targets are numbers, or a class at every position; only the data say which.
_DENSE_CLASSES = "dense classes"
_NAMES: dict[str, dict[str, dict[str, str]]] = {
    "error": {
        "classes": {**_CLASS_ERRORS, "auroc": f"{_CLASSES}.ClassAUROC"},
        "labels": {
            "map": f"{_LABELS}.MeanAveragePrecision",
            "auroc": f"{_LABELS}.MeanAUROC",
            "macro_f1": f"{_LABELS}.LabelMacroF1",
        },
        "values": _NUMBER_ERRORS,
        "dense": _DENSE_NUMBERS,
        _DENSE_CLASSES: _CLASS_ERRORS,
    },
    "loss": {
        "classes": _CROSS_ENTROPY,
        "labels": {"bce": f"{_LOSSES}.MaskedBCE"},
        "values": _NUMBER_LOSSES,
        "dense": {**_NUMBER_LOSSES, "relative_l2": f"{_LOSSES}.RelativeL2Loss"},
        _DENSE_CLASSES: _CROSS_ENTROPY,
    },
}


def node(setting: str, value: Any, kind: str | None, integer_targets: bool | None = None) -> Any:
    """Return the `_target_` node that a short name stands for; any other value as it is.

    Args:
        setting: error or loss.
        value: of task.error or task.loss.
        kind: of the task; None where only its data tell.
        integer_targets: whether targets are integers; None where that is not known yet.

    Raises:
        ConfigError: the kind has no such error or loss.
    """
    if not isinstance(value, str):
        return value
    tables = _NAMES[setting]
    kinds: Iterable[str] = tables if kind is None or kind not in tables else (kind,)
    if kind == "dense":
        kinds = {None: (kind, _DENSE_CLASSES), False: (kind,), True: (_DENSE_CLASSES,)}[integer_targets]
    names = {name: path for table in kinds for name, path in tables[table].items()}
    if value not in names:
        scope = "" if kind is None else f" of task.kind={kind}"
        scope += " with integer targets" if integer_targets and kind == "dense" else ""
        close = suggest(value, names)
        allowed = f"allowed: {', '.join(names)}, or a _target_ node"
        hint = f"{close} {allowed}" if close.startswith("did you mean") else allowed
        plural = {"error": "errors", "loss": "losses"}[setting]
        raise ConfigError(f"'{value}' is not a name of the {plural}{scope}", where=f"task.{setting}", hint=hint)
    return {TARGET: names[value]}
