"""Short names of errors and losses by the kind of a task: `task.error=balanced` stands for a `_target_` node."""

from __future__ import annotations

from typing import Any

from orca_cli.config.parts import TARGET
from orca_cli.exceptions import ConfigError, suggest

_HOME = "orca_cli.scoring."
_CLASSES = {
    "zero_one": "classification.ZeroOne",
    "balanced": "classification.Balanced",
    "macro_f1": "classification.MacroF1",
}
_NUMBERS = {
    "rmse": "regression.RMSE",
    "mae": "regression.MAE",
    "r2": "regression.OneMinusR2",
    "nrmse": "regression.NormalisedRMSE",
}
_ENTROPY = {"cross_entropy": "losses.MaskedCrossEntropy"}
_NUMBER_LOSSES = {"mse": "losses.MaskedMSE", "huber": "losses.MaskedHuber", "mae": "losses.MaskedMAE"}

# Setting -> kind -> name -> class. Dense targets are numbers, or a class at every position; only the data say which.
_DENSE_CLASSES = "dense classes"
_NAMES: dict[str, dict[str, dict[str, str]]] = {
    "error": {
        "classes": _CLASSES | {"auroc": "classification.ClassAUROC"},
        "labels": {
            "map": "multilabel.MeanAveragePrecision",
            "auroc": "multilabel.MeanAUROC",
            "macro_f1": "multilabel.LabelMacroF1",
        },
        "values": _NUMBERS,
        "dense": _NUMBERS | {"mse": "regression.MeanSquared", "relative_l2": "regression.RelativeL2"},
        _DENSE_CLASSES: _CLASSES,
    },
    "loss": {
        "classes": _ENTROPY,
        "labels": {"bce": "losses.MaskedBCE"},
        "values": _NUMBER_LOSSES,
        "dense": _NUMBER_LOSSES | {"relative_l2": "losses.RelativeL2Loss"},
        _DENSE_CLASSES: _ENTROPY,
    },
}


def node(setting: str, value: Any, kind: str | None, integer_targets: bool | None = None) -> Any:
    """Return the `_target_` node that a short name of an error or loss stands for; any other value as it is.

    Kind and form of the targets are None where only the data tell. ConfigError where a kind has no such error or loss.
    """
    if not isinstance(value, str):
        return value
    tables = _NAMES[setting]
    kinds = [kind] if kind in tables else list(tables)
    if kind == "dense":
        kinds = [_DENSE_CLASSES] * (integer_targets is not False) + [kind] * (not integer_targets)
    names = {name: path for table in kinds for name, path in tables[table].items()}
    if value not in names:
        scope = "" if kind is None else f" for task.kind={kind}"
        scope += " with integer targets" if integer_targets and kind == "dense" else ""
        raise ConfigError(f"'{value}' is not allowed{scope}", where=f"task.{setting}", hint=suggest(value, names))
    return {TARGET: _HOME + names[value]}
