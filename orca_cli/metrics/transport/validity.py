"""What every metric checks: the clouds that it compares, and its value."""

from __future__ import annotations

import torch
from torch import Tensor

from orca_cli.exceptions import DataError, NonFiniteError
from orca_cli.interfaces import Features

_HINT = "lower the learning rate"


def check_pair(source: Features, target: Features) -> None:
    """Check both clouds, and that their features have the same width.

    Raises:
        DataError, NonFiniteError: as `check_features` says, or the widths differ.
    """
    check_features(source, "source")
    check_features(target, "target")
    if source.x.shape[1] != target.x.shape[1]:
        raise DataError(
            f"features of {source.x.shape[1]} and {target.x.shape[1]} dimensions cannot be compared",
            where="metric",
            hint="both have to come from the same space",
        )


def check_features(features: Features, name: str) -> None:
    """Check form and values of a cloud.

    Raises:
        DataError: features or labels do not have the form that Features asks for.
        NonFiniteError: a feature is NaN or infinite.
    """
    x, labels = features.x, features.labels
    where = f"metric, {name} features"
    if x.dim() != 2 or len(x) == 0 or x.dtype not in (torch.float32, torch.float64):
        raise DataError(f"[n, d] float32 or float64 is needed, got {list(x.shape)} {x.dtype}", where=where)
    if labels.shape != x.shape[:1]:
        raise DataError(f"one label per point is needed, got {list(labels.shape)} for {len(x)} points", where=where)
    if bool((labels < 0).any()) or bool((labels >= features.num_classes).any()):
        raise DataError(f"labels must be in 0..{features.num_classes - 1}", where=where)
    # The extremes are NaN or infinite if any entry is, and cost a fifth of looking at every one.
    if not bool(torch.isfinite(torch.stack(torch.aminmax(x.detach()))).all()):
        raise NonFiniteError("a feature is NaN or infinite", where=where, hint=_HINT)


def check_finite(*results: Tensor) -> None:
    """Raise NonFiniteError if a value or a gradient has an entry that is NaN or infinite."""
    if not all(bool(torch.isfinite(result).all()) for result in results):
        raise NonFiniteError("the distance is not finite", where="metric", hint=_HINT)


def prepare_nothing(self: object, source: Features) -> dict[str, Tensor]:
    """Check the source and return nothing: the `prepare` of metrics of which no part depends on the source alone."""
    check_features(source, "source")
    return {}
