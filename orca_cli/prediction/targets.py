"""What a model's outputs mean: classes, labels, numbers or maps, in the words of the data.

Shapes: n samples, K outputs, *E the extent of dense outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orca_cli.interfaces import IGNORED_CLASS, Targets


class Decoder:
    """Predictions, probabilities and scores of a model's outputs.

    Args:
        targets: the form of the task's targets.
        num_outputs: K.
    """

    def __init__(self, targets: Targets, num_outputs: int) -> None:
        self.form = targets.kind
        self.num_outputs = num_outputs
        class_names = targets.classes or targets.names
        self.classes: np.ndarray | None = None
        if self.has_probabilities:
            self.classes = np.array(class_names) if len(class_names) == num_outputs else np.arange(num_outputs)
        self.names: Sequence[str] = targets.names if len(targets.names) == num_outputs else ()

    @property
    def has_probabilities(self) -> bool:
        """Return whether outputs are logits of classes or labels."""
        return self.form in ("classes", "labels", "class_maps")

    @property
    def is_map(self) -> bool:
        """Return whether an output is a map or a sequence."""
        return self.form in ("maps", "class_maps")

    @property
    def estimator_type(self) -> str | None:
        """Return scikit-learn's word: classifier or regressor; None for maps, which it does not know."""
        if self.is_map:
            return None
        return "classifier" if self.has_probabilities else "regressor"

    @property
    def columns(self) -> list[str]:
        """Return K names for the columns of a table of predictions."""
        if self.classes is not None:
            return [str(name) for name in self.classes]
        return list(self.names) or [str(i) for i in range(self.num_outputs)]

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """Return predictions for outputs [n, K, ...]; their form: see Predictor.predict."""
        if self.form == "classes":
            assert self.classes is not None
            return self.classes[outputs.argmax(1)]
        if self.form == "labels":
            return (outputs >= 0).astype(np.int64)
        if self.form == "class_maps":
            return outputs.argmax(1)
        return outputs[:, 0] if not self.is_map and self.num_outputs == 1 else outputs

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return probabilities [n, K, ...] float32: over classes they sum to 1, those of labels are of each alone."""
        wide = outputs.astype(np.float64)
        if self.form == "labels":
            return np.exp(-np.logaddexp(0, -wide)).astype(np.float32)
        weights = np.exp(wide - wide.max(1, keepdims=True))
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)

    def score(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """Return scikit-learn's score of outputs for encoded targets; see Predictor.score. NaN and -100 do not count."""
        if self.form in ("classes", "class_maps"):
            known = targets != IGNORED_CLASS
            return float((outputs.argmax(1) == targets)[known].mean())
        known = ~np.isnan(targets)
        if self.form == "labels":
            right = (((outputs >= 0) == (targets == 1)) | ~known).all(axis=1)
            return float(right[known.any(axis=1)].mean())
        from sklearn.metrics import r2_score

        targets, outputs = targets.astype(np.float64), outputs.astype(np.float64)
        rows = [(k, known[:, k]) for k in range(self.num_outputs) if known[:, k].any()]
        return float(np.mean([r2_score(targets[:, k][row], outputs[:, k][row]) for k, row in rows]))
