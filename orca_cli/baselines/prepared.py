"""Training features in the form that a model takes, and the plain arrays of fitted models."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from orca_cli.baselines import trees

# Class of scikit-learn -> link, which says what its scores are; other classes predict numbers.
_LINKS = {
    "DummyClassifier": "probabilities",
    "RandomForestClassifier": "probabilities",
    "HistGradientBoostingClassifier": "logits",
    "LogisticRegression": "logits",
    "RidgeClassifierCV": "decisions",
}


@dataclass(frozen=True)
class Prepared:
    """Training features in the form that a model takes.

    Trees take unchanged features. Other models take standardised features, without constant ones.
    """

    # Prepared features, [n, F'].
    table: np.ndarray
    # Arrays varies, mean and std of `plain.Linear`; for trees, these leave out all features.
    standard: dict[str, np.ndarray]
    # Rotation of the standardised features, [V, F']; None if they were not rotated.
    basis: np.ndarray | None = None

    @classmethod
    def by(cls, model: str, x: np.ndarray) -> "Prepared":
        """Return training features x [n, F] in the form that a model takes."""
        if model in ("forest", "boosting"):
            # scikit-learn's forests take float32, and `trees.Trees` compares float32.
            return cls(table=x.astype(np.float32), standard=_no_features(x.shape[1]))
        mean = x.mean(axis=0, dtype=np.float64)
        std = x.std(axis=0, dtype=np.float64)
        # float32 rounds at 6e-8 of a number; smaller deviations are not variation.
        magnitude = np.maximum(np.abs(mean), 1e-30)
        varies = std > 1e-7 * magnitude
        standard = {"varies": varies, "mean": mean[varies], "std": std[varies]}
        standardised = (x[:, varies] - standard["mean"]) / standard["std"]
        if standardised.shape[1] <= len(x):
            return cls(table=standardised, standard=standard)
        # Orthonormal columns that span the rows of the training table.
        eigenvalues, eigenvectors = np.linalg.eigh(standardised @ standardised.T)
        # Directions that are only rounding would be magnified when divided by their scale.
        is_spanned = eigenvalues > 1e-10 * max(eigenvalues[-1], 1e-300)
        scales = np.sqrt(eigenvalues[is_spanned])
        basis = (standardised.T @ eigenvectors[:, is_spanned]) / scales
        return cls(table=standardised @ basis, standard=standard, basis=basis)

    def plain_part(
        self, estimator: Any, columns: np.ndarray
    ) -> tuple[dict[str, str], dict[str, np.ndarray]]:
        """Return the record and the arrays of an estimator of the outputs in `columns` [K] bool."""
        name = type(estimator).__name__
        kind = "linear"
        if name.startswith("RandomForest"):
            kind = "forest"
            arrays = trees.of_forest(estimator)
        elif name.startswith("HistGradientBoosting"):
            kind = "boosting"
            arrays = trees.of_boosting(estimator)
        else:
            arrays = self._linear_arrays(estimator)
        return {"kind": kind, "link": _LINKS.get(name, "identity")}, arrays | {"columns": columns}

    def _linear_arrays(self, estimator: Any) -> dict[str, np.ndarray]:
        if not hasattr(estimator, "coef_"):
            # The estimator is a constant: the shares of the classes, or the mean.
            is_classifier = hasattr(estimator, "classes_")
            constant = estimator.class_prior_ if is_classifier else estimator.constant_
            intercept = np.asarray(constant, np.float64).reshape(-1)
            no_features = _no_features(len(self.standard["varies"]))
            return no_features | {"coef": np.zeros((len(intercept), 0)), "intercept": intercept}
        coef = np.atleast_2d(estimator.coef_)
        if self.basis is not None:
            # One matrix replaces two, of which the basis is as large as the table.
            coef = coef @ self.basis.T
        intercept = np.asarray(estimator.intercept_, np.float64).reshape(-1)
        if type(estimator).__name__ == "RidgeClassifierCV" and len(coef) == 1:
            # For two classes, it has only the decision for the second.
            coef = np.concatenate([-coef, coef])
            intercept = np.concatenate([-intercept, intercept])
        return self.standard | {"coef": np.ascontiguousarray(coef), "intercept": intercept}


def _no_features(width: int) -> dict[str, np.ndarray]:
    """Return the standardisation that leaves out all features."""
    return {"varies": np.zeros(width, np.bool_), "mean": np.zeros(0), "std": np.zeros(0)}
