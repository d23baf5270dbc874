"""Errors of real values, fields, sequences and distance maps; as `orca_cli/scoring/values.py`, `regression.py`,
`sequences.py` and `distances.py` document them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from orca_cli.bundles.errors.score import Saved, Score, mean_of, require, require_numbers

_NAMES = ("RMSE", "MAE", "1 - R2", "RMSE / deviation")


def of_values(name: str) -> Callable[[Saved], Score]:
    """Return one of the errors of real values by its name; the other ones are in its `others`."""
    return lambda saved: _of_values(saved, name)


def _of_values(saved: Saved, name: str) -> Score:
    _check(saved)
    outputs, targets = (np.moveaxis(x, 1, 0).reshape(x.shape[1], -1).astype(np.float64) for x in _pair(saved))
    known = ~np.isnan(targets)
    difference = np.where(known, outputs - targets, 0.0)
    require_numbers(~np.isfinite(difference))
    count = known.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, targets, 0.0).sum(axis=1) / count
        around = np.where(known, targets - mean[:, None], 0.0)
        # Equal targets differ from their computed mean by rounding.
        around = np.where(np.abs(around) > 1e-12 * np.abs(mean)[:, None], around, 0.0)
        squared, spread = (difference**2).sum(axis=1), (around**2).sum(axis=1)
        unexplained = np.where(spread > 0, squared / spread, np.nan)
        of_outputs = (
            np.sqrt(squared / count),
            np.abs(difference).sum(axis=1) / count,
            unexplained,
            np.sqrt(unexplained),
        )
    found = dict(zip(_NAMES, of_outputs, strict=True))
    means = {key: float(own[~np.isnan(own)].mean()) if (~np.isnan(own)).any() else None for key, own in found.items()}
    n = int(count[~np.isnan(found[name])].sum())
    value = means.pop(name)
    return Score(name, False, value, n, targets.size - n, means)


def relative_l2(saved: Saved) -> Score:
    """Return the mean over samples of |output - target| / |target|."""
    difference, targets = _differences(saved)
    norm = np.sqrt((targets**2).sum(axis=1))
    counted = norm > 0
    n = int(counted.sum())
    value = float((np.sqrt((difference**2).sum(axis=1))[counted] / norm[counted]).mean()) if n else None
    return Score("relative l2", False, value, n, len(norm) - n)


def mean_squared(saved: Saved) -> Score:
    """Return the mean of (output - target)^2 over all known entries."""
    difference, _ = _differences(saved)
    n = int((~np.isnan(saved.targets)).sum())
    return Score("MSE", False, float((difference**2).sum()) / n if n else None, n, saved.targets.size - n)


def nats_per_frame(saved: Saved, count_padding: bool = False) -> Score:
    """Return the negative log-likelihood of a frame in nats, summed over labels."""
    outputs, targets = _pair(saved)
    fits = outputs.ndim == 3 and outputs.shape == targets.shape and targets.dtype.kind == "f"
    require(fits, f"outputs {outputs.shape} do not fit targets {targets.shape} of frames")
    known = ~np.isnan(targets)
    frames = int(known.any(axis=1).sum())
    padding = known.shape[0] * known.shape[2] - frames
    counted = np.ones_like(known) if count_padding else known
    require_numbers(~np.isfinite(outputs) & counted)
    logits, truth = outputs.astype(np.float64), np.where(known, targets, 0.0).astype(np.float64)
    with np.errstate(invalid="ignore"):
        # log(1 + exp(x)) - x * truth, without overflow.
        nats = np.maximum(logits, 0) - logits * truth + np.log1p(np.exp(-np.abs(logits)))
    per_frame = float(nats[known].sum()) / frames if frames else None
    mean = float(nats.mean()) if nats.size and bool(np.isfinite(nats).all()) else None
    of_frames, of_all = "nats per frame", "mean cross-entropy with padding"
    if count_padding:
        return Score(of_all, False, mean, frames + padding, 0, {of_frames: per_frame})
    return Score(of_frames, False, per_frame, frames, padding, {of_all: mean})


def long_range_mae(saved: Saved, separation: int = 24, threshold: float = 8.0, symmetrize_twice: bool = False) -> Score:
    """Return the mean over proteins of the mean absolute error of distances far apart in sequence and near in space."""
    outputs, targets = _pair(saved)
    fits = outputs.ndim == 4 and outputs.shape == targets.shape and outputs.shape[1::2] == (1, outputs.shape[2])
    require(fits and targets.dtype.kind == "f", f"outputs {outputs.shape} do not fit distance maps {targets.shape}")
    below = 0.75 if symmetrize_twice else 0.5
    errors: list[float | None] = []
    for output, target in zip(outputs[:, 0], targets[:, 0], strict=True):
        rows, columns = np.nonzero(np.triu(target <= threshold, separation))
        if not len(rows):
            errors.append(None)
            continue
        upper, lower = output[rows, columns].astype(np.float64), output[columns, rows].astype(np.float64)
        require_numbers(~(np.isfinite(upper) & np.isfinite(lower)))
        predicted = np.maximum(below * lower + (1 - below) * upper, 0.01)
        errors.append(float(np.abs(predicted - target[rows, columns]).mean()))
    return Score(f"long-range MAE{threshold:g}", False, *mean_of(errors))


def _pair(saved: Saved) -> tuple[np.ndarray, np.ndarray]:
    return saved.outputs, saved.targets


def _check(saved: Saved) -> None:
    outputs, targets = _pair(saved)
    fits = outputs.shape == targets.shape and targets.dtype.kind == "f" and targets.ndim > 1
    require(fits, f"outputs {outputs.shape} do not fit real-valued targets {targets.shape}")


def _differences(saved: Saved) -> tuple[np.ndarray, np.ndarray]:
    """Return output - target and target, [n, entries], zero where the target is NaN."""
    require(
        saved.outputs.shape == saved.targets.shape and saved.targets.dtype.kind == "f",
        f"outputs {saved.outputs.shape} do not fit real-valued targets {saved.targets.shape}",
    )
    outputs, targets = (x.reshape(len(x), -1).astype(np.float64) for x in _pair(saved))
    known = ~np.isnan(targets)
    difference = np.where(known, outputs - targets, 0.0)
    require_numbers(~np.isfinite(difference))
    return difference, np.where(known, targets, 0.0)
