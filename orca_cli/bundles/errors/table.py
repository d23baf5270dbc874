"""Which formula a run's settings name, and with which arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from orca_cli import short_names
from orca_cli.bundles.errors import classes, labels, numbers
from orca_cli.bundles.errors.score import CannotComputeError, Saved, Score, mean_of, require
from orca_cli.exceptions import ConfigError

TABLE: dict[str, Callable[..., Score]] = {
    "orca_cli.scoring.classification.ZeroOne": classes.zero_one,
    "orca_cli.scoring.classification.Balanced": classes.balanced,
    "orca_cli.scoring.classification.ClassAUROC": classes.class_auroc,
    "orca_cli.scoring.classification.MacroF1": classes.macro_f1,
    "orca_cli.scoring.multilabel.MeanAveragePrecision": labels.mean_average_precision,
    "orca_cli.scoring.multilabel.MeanAUROC": labels.mean_auroc,
    "orca_cli.scoring.multilabel.LabelMacroF1": labels.label_macro_f1,
    "orca_cli.scoring.values.RMSE": numbers.of_values("RMSE"),
    "orca_cli.scoring.values.MAE": numbers.of_values("MAE"),
    "orca_cli.scoring.values.OneMinusR2": numbers.of_values("1 - R2"),
    "orca_cli.scoring.values.NormalisedRMSE": numbers.of_values("RMSE / deviation"),
    "orca_cli.scoring.regression.RelativeL2": numbers.relative_l2,
    "orca_cli.scoring.regression.MeanSquared": numbers.mean_squared,
    "orca_cli.scoring.sequences.NatsPerFrame": numbers.nats_per_frame,
    "orca_cli.scoring.masks.MaskError": labels.mask_error,
    "orca_cli.scoring.distances.LongRangeMAE": numbers.long_range_mae,
}
CHUNKS = "orca_cli.scoring.chunks.ChunkMean"
_USUAL = {
    "classes": "orca_cli.scoring.classification.ZeroOne",
    "labels": "orca_cli.scoring.multilabel.MeanAveragePrecision",
    "values": "orca_cli.scoring.values.RMSE",
}
_DENSE = ("orca_cli.scoring.regression.MeanSquared", "orca_cli.scoring.classification.ZeroOne")
_KINDS: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool}


def compute(node: Any, kind: str, saved: Saved, chunk: int | None, batch: int) -> Score:
    """Return the error of a run's predictions.

    Args:
        node: its setting `task.error`: a node, a short name, or None for the usual one of its kind.
        kind: of the task.
        saved: its predictions.
        chunk, batch: its settings `train.error_chunks` and `train.batch_size`.

    Raises:
        CannotComputeError: an error that is not the program's own, or predictions that do not suffice for it.
    """
    try:
        node = short_names.node("error", node, kind, saved.integer_targets)
    except ConfigError as error:
        raise CannotComputeError(error.what) from error
    if node is None:
        node = {short_names.TARGET: _USUAL.get(kind) or _DENSE[saved.integer_targets]}
    require(isinstance(node, Mapping), "task.error is not an error")
    given = {str(key): value for key, value in node.items()}
    if given.get(short_names.TARGET) == CHUNKS and chunk is None:
        size, inner = _whole(given, "size", 1000), given.get("error")
        if not isinstance(inner, Mapping):
            raise CannotComputeError("the error of chunks is not an error")
        return _over_chunks(dict(inner), saved, size, _whole(given, "batch", 1), bool(given.get("drop_tail")))
    return _single(given, saved) if chunk is None else _over_chunks(given, saved, chunk, batch, False)


def _single(given: Mapping[str, Any], saved: Saved) -> Score:
    target = given.get(short_names.TARGET)
    formula = TABLE.get(target) if isinstance(target, str) else None
    if formula is None:
        raise CannotComputeError(f"'{str(target)[:80]}' is not an error of the program itself")
    arguments = {key: value for key, value in given.items() if key != short_names.TARGET}
    known = inspect.signature(formula).parameters
    for key, value in arguments.items():
        wanted = str(known[key].annotation).partition(" | ")[0] if key in known else ""
        fits = isinstance(value, _KINDS.get(wanted, ())) and isinstance(value, bool) == (wanted == "bool")
        optional = value is None and key in known and known[key].default is None
        require(fits or optional, f"{key}={str(value)[:40]!r} is not an argument of {target}")
    return formula(saved, **arguments)


def _over_chunks(given: Mapping[str, Any], saved: Saved, size: int, batch: int, drop_tail: bool) -> Score:
    """Return the unweighted mean over consecutive chunks of whole batches, as `scoring/chunks.py` documents it."""
    require(size > 0 and batch > 0, "chunks have no size")
    whole = _single(given, saved)
    chunks, dropped = _chunks(len(saved.outputs), size, batch, drop_tail)
    value, n, undefined = mean_of([_single(given, saved.part(chunk)).value for chunk in chunks])
    others = {f"{name}, whole split": one for name, one in {whole.name: whole.value, **whole.others}.items()}
    return Score(f"{whole.name}, mean over chunks", whole.percent, value, n, undefined + dropped, others)


def _chunks(n: int, size: int, batch: int, drop_tail: bool) -> tuple[list[slice], int]:
    full, start, batches = [], 0, 0
    for first in range(0, n, batch):
        end = min(first + batch, n)
        batches += 1
        if (batches * (end - first) if drop_tail else end - start) >= size:
            full.append(slice(start, end))
            start, batches = end, 0
    if start == n:
        return full, 0
    return (full, 1) if full and drop_tail else ([*full, slice(start, n)], 0)


def _whole(given: Mapping[str, Any], key: str, default: int) -> int:
    value = given.get(key, default)
    require(isinstance(value, int) and not isinstance(value, bool), f"{key} is not a whole number")
    return int(value)
