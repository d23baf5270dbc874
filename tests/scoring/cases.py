"""Every error with settings, and random predictions for it: ties, empty classes, unknown targets, outputs of NaN."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orca_cli.interfaces import IGNORED_CLASS

# Form of outputs and targets -> kind of a task that has them.
FORMS = {"classes": "classes", "labels": "labels", "values": "values"}
FORMS |= dict.fromkeys(("positions", "fields", "rolls", "masks", "maps"), "dense")
_RECORDS = 20


@dataclass(frozen=True)
class Case:
    """An error of `orca_cli.scoring` by module and class, one of `FORMS`, and its settings."""

    name: str
    form: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def node(self) -> dict[str, Any]:
        return {"_target_": f"orca_cli.scoring.{self.name}", **self.settings}

    def __str__(self) -> str:
        return f"{self.name} of {self.form} {self.settings or ''}".strip()

    def drawn(
        self, seed: int, coarse: float = 0.0, unknown: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return float32 outputs, targets and the record [n] of each sample; samples of a record share classes and labels.

        Outputs are multiples of `coarse`, so that many are equal; a fraction `unknown` of the targets is unknown.
        """
        rng = np.random.default_rng(seed)
        names = rng.choice(1000, _RECORDS, replace=False) - 500
        groups = rng.permutation(np.repeat(names, rng.integers(1, 6, _RECORDS)))
        record = np.unique(groups, return_inverse=True)[1]
        targets = _targets(self.form, record, rng)
        has_classes = targets.dtype.kind == "i"
        shape = (
            (len(targets), 4, *targets.shape[1:]) if has_classes else targets.shape
        )  # the fourth never occurs
        outputs = rng.normal(3 * (self.form == "maps"), 2, shape)
        outputs = np.round(outputs / coarse) * coarse if coarse else outputs
        missing = rng.random(targets.shape) < unknown
        if self.form == "labels":
            missing = (rng.random((_RECORDS, *targets.shape[1:])) < unknown)[record]
        elif self.form == "maps":
            missing |= missing.swapaxes(2, 3)
        elif self.form == "rolls":  # padding behind the frames of a piece
            missing |= np.arange(targets.shape[2]) >= rng.integers(
                1, targets.shape[2] + 1, (len(targets), 1, 1)
            )
        targets[missing] = IGNORED_CLASS if has_classes else np.nan
        if has_classes or self.form == "labels":
            outputs[rng.random(outputs.shape) < unknown / 5] = np.nan
        elif not self.settings.get("count_padding"):
            outputs[missing] = np.nan  # nobody asks for them
        return outputs.astype(np.float32), targets, groups


def _targets(form: str, record: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = len(record)
    if form == "classes":
        return rng.integers(0, 3, _RECORDS)[record]
    if form == "positions":
        return rng.integers(0, 3, (n, 3, 2))
    if form == "labels":
        targets = (rng.random((_RECORDS, 5)) < 0.3)[record]
        targets[:, 0], targets[:, 1] = False, True
    elif form == "values":
        targets = rng.normal(1, 1, (n, 3))
        targets[:, 2] = 0.1  # whose mean differs from it by rounding
        return targets
    elif form == "fields":
        targets = rng.normal(1, 1, (n, 3, 5))
        targets[0] = 0
    elif form == "maps":
        targets = rng.uniform(1, 20, (4, 1, 30, 30))
        targets[3] += 20  # no two residues are near
    else:
        targets = rng.random((n, 4, 9) if form == "rolls" else (n, 1, 4, 4)) < 0.3
        targets[:, 0, 0] = False
    return targets.astype(np.float32)


_ZERO_ONE, _MACRO_F1 = (
    {"_target_": f"orca_cli.scoring.classification.{name}"} for name in ("ZeroOne", "MacroF1")
)
_BATCHES = {"size": 16, "batch": 5, "drop_tail": True}
CASES = (
    *(Case(f"classification.{name}", form) for name in ("ZeroOne", "Balanced") for form in ("classes", "positions")),
    Case("classification.ClassAUROC", "classes"),
    Case("classification.MacroF1", "classes", {"by": "records", "also_first": 2}),
    Case("classification.MacroF1", "classes", {"num_classes": 3, "also_first": 2}),
    Case("classification.MacroF1", "positions"),
    Case("multilabel.MeanAveragePrecision", "labels", {"by": "records"}),
    *(Case(f"multilabel.{name}", "labels") for name in ("MeanAveragePrecision", "MeanAUROC", "LabelMacroF1")),
    *(Case(f"regression.{name}", "values") for name in ("RMSE", "MAE", "OneMinusR2", "NormalisedRMSE")),
    *(Case(f"regression.{name}", "fields") for name in ("RMSE", "OneMinusR2")),
    *(Case(f"regression.{name}", "fields") for name in ("RelativeL2", "MeanSquared")),
    *(Case("dense.NatsPerFrame", "rolls", {"count_padding": padding}) for padding in (False, True)),
    *(
        Case(
            "dense.MaskError",
            "masks",
            {"report": report, "count_ignored": counted, "threshold": 0.6},
        )
        for report, counted in (
            ("balanced", True),
            ("auroc", False),
            ("fnr", True),
            ("pixel_auroc", False),
        )
    ),
    *(
        Case(
            "dense.LongRangeMAE",
            "maps",
            {"separation": 5, "threshold": 12.0, "symmetrize_twice": twice},
        )
        for twice in (False, True)
    ),
    Case("reported.ChunkMean", "classes", {"error": _ZERO_ONE, "size": 25, "batch": 10}),
    Case("reported.ChunkMean", "classes", {"error": _MACRO_F1 | {"by": "records"}, **_BATCHES}),
)  # fmt: skip
