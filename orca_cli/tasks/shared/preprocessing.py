"""Between the preprocessing of own data and its records: what the classes of all readers have in common."""

from __future__ import annotations

from typing import Any

from orca_cli.interfaces import Preprocessing, PreprocessingRecord
from orca_cli.tasks.shared.scales import ChannelScale
from orca_cli.tasks.shared.target_form import TargetForm


def record_of(
    owner: Preprocessing, values: dict[str, Any], targets: TargetForm, scale: ChannelScale | None = None
) -> PreprocessingRecord:
    """Return a record of plain values, the form of the targets, and the scale of the inputs where they are scaled."""
    kind = type(owner)
    arrays = targets.arrays() | ({} if scale is None else {"mean": scale.mean, "std": scale.std})
    return PreprocessingRecord(f"{kind.__module__}.{kind.__qualname__}", values | {"targets": targets.values()}, arrays)


def parts_of(record: PreprocessingRecord) -> tuple[dict[str, Any], TargetForm, ChannelScale | None]:
    """Return what `record_of` was given, but for the owner; tuples among the plain values have become lists."""
    values = dict(record.values)
    targets = TargetForm.rebuilt(values.pop("targets"), record.arrays)
    scale = ChannelScale(record.arrays["mean"], record.arrays["std"]) if "mean" in record.arrays else None
    return values, targets, scale
