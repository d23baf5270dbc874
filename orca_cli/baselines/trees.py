"""Random forests and gradient boosting of scikit-learn. Run in a process of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from orca_cli.baselines.linear import Fitted, constant_classifier, log_probabilities, patterns

_SMALL = 1000  # samples, of which 300 trees take a second; of more, 100
_FEW = 64  # features; of more, a split looks at the square root of their number


def classes(model: str, x: np.ndarray, y: np.ndarray, k: int, *, balanced: bool, seed: int) -> Fitted:
    """Fit a forest, or boosting, that predicts log-probabilities [m, k]; other arguments as in `linear.classes`."""
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

    if len(np.unique(y)) < 2:
        return constant_classifier(y, k)
    settings: dict[str, Any] = {"class_weight": "balanced" if balanced else None, "random_state": seed}
    if model == "forest":
        made, about = RandomForestClassifier(_trees(len(x)), **settings), f"{_trees(len(x))} trees"
    else:
        made, about = HistGradientBoostingClassifier(**settings), "scikit-learn's defaults"
    made.fit(x, y)
    return lambda new: log_probabilities(made.predict_proba(new), made.classes_, k), about


def numbers(model: str, x: np.ndarray, y: np.ndarray, *, seed: int) -> Fitted:
    """Fit forests, or boosting, that predict numbers [m, K]; other arguments as in `linear.numbers`."""
    from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor

    features = 1 / 3 if x.shape[1] <= _FEW else "sqrt"
    fitted = []
    for columns, rows in patterns(y):
        # Boosting has one output, a forest several.
        for block in [columns] if model == "forest" else [columns[i : i + 1] for i in range(len(columns))]:
            if not len(rows):
                continue
            if model == "forest":
                made: Any = RandomForestRegressor(_trees(len(rows)), max_features=features, random_state=seed)
            else:
                made = HistGradientBoostingRegressor(random_state=seed)
            target = y[np.ix_(rows, block)]
            fitted.append((block, made.fit(x[rows], target[:, 0] if len(block) == 1 else target)))

    def predict(new: np.ndarray) -> np.ndarray:
        outputs = np.zeros((len(new), y.shape[1]))
        for block, made in fitted:
            outputs[:, block] = made.predict(new).reshape(len(new), -1)
        return outputs

    return predict, f"{_trees(len(x))} trees" if model == "forest" else "scikit-learn's defaults"


def _trees(samples: int) -> int:
    """Return the number of a forest's trees for this number of training samples."""
    return 300 if samples <= _SMALL else 100
