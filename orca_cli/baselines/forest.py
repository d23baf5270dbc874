"""Random forests of scikit-learn. Run in a process of their own."""

from __future__ import annotations

import numpy as np

from orca_cli.baselines.linear import Fitted, log_probabilities, patterns

_SMALL = 1000  # samples, of which 300 trees take a second; of more, 100
_FEW = 64  # features; of more, a split looks at the square root of their number


def trees(samples: int) -> int:
    """Return the number of trees for this number of training samples."""
    return 300 if samples <= _SMALL else 100


def classes(x: np.ndarray, y: np.ndarray, k: int, *, balanced: bool, seed: int) -> Fitted:
    """Fit a forest that predicts log-probabilities [m, k]; arguments as in `linear.classes`."""
    from sklearn.ensemble import RandomForestClassifier

    weight = "balanced" if balanced else None
    model = RandomForestClassifier(trees(len(x)), class_weight=weight, random_state=seed).fit(x, y)
    return lambda new: log_probabilities(model.predict_proba(new), model.classes_, k), f"{trees(len(x))} trees"


def numbers(x: np.ndarray, y: np.ndarray, *, seed: int) -> Fitted:
    """Fit forests that predict numbers [m, K]; arguments as in `linear.numbers`."""
    from sklearn.ensemble import RandomForestRegressor

    features = 1 / 3 if x.shape[1] <= _FEW else "sqrt"
    fitted = []
    for columns, rows in patterns(y):
        if len(rows):
            target = y[np.ix_(rows, columns)]
            model = RandomForestRegressor(trees(len(rows)), max_features=features, random_state=seed)
            fitted.append((columns, model.fit(x[rows], target[:, 0] if len(columns) == 1 else target)))

    def predict(new: np.ndarray) -> np.ndarray:
        outputs = np.zeros((len(new), y.shape[1]))
        for columns, model in fitted:
            outputs[:, columns] = model.predict(new).reshape(len(new), -1)
        return outputs

    return predict, f"{trees(len(x))} trees"
