"""What the paper and its released code do in training that no setting says: each protocol's own practice.

Sound practice is the default. The others are for comparison with published numbers alone, and go with `protocol=` as a whole
(docs/protocols.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Practice:
    """How one protocol trains and measures.

    Args:
        sums_batches: the gradient of an optimizer step is the sum of its batches' mean gradients, else the mean over all
            its samples.
        uses_task_units: real-valued targets enter the gradient in the task's own units, else in their deviations.
        aligns_as_finetune: stage 2 has the optimizer, momentum and betas of stage 3 (paper A.3.4), else AdamW with its
            usual betas.
        error_chunks: samples of a split after which an error is averaged; None: errors are those of the whole split.
    """

    sums_batches: bool = False
    uses_task_units: bool = False
    aligns_as_finetune: bool = False
    error_chunks: int | None = None


PRACTICES = {
    "clean": Practice(),
    "paper": Practice(sums_batches=True, uses_task_units=True, aligns_as_finetune=True),
    "release": Practice(sums_batches=True, uses_task_units=True, aligns_as_finetune=True, error_chunks=1000),
}


def recorded_chunks(settings: Mapping[str, Any]) -> Any:
    """Return the chunk size of errors that a run's recorded settings mean; None for errors over the whole split.

    Args:
        settings: the content of a run's config.yaml, which may be a stranger's: the value is unchecked. Runs of schema 1
            have it as `train.error_chunks`.
    """
    train = settings.get("train")
    if isinstance(train, Mapping) and "error_chunks" in train:
        return train["error_chunks"]
    return PRACTICES.get(str(settings.get("protocol")), Practice()).error_chunks
