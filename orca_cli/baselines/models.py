"""Fit one simple model and predict with it: logistic regression, ridge, forests, boosting, MiniRocket's features.

`fit_here` is called in a process of its own by `compute`.

For linear models, features are standardised by the training set. Where there are more features than samples, the table is
rotated into the space that its rows span: the L2 penalty and the predictions are the same there, and the cost is that of as
many features as samples.
"""

from __future__ import annotations

import importlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from orca_cli import signals

_AT_ONCE = 2**22  # values of the inputs that are predicted at once
# Imported before the clock starts.
_PACKAGES = ("sklearn.linear_model", "sklearn.model_selection", "sklearn.ensemble")
_AEON = "aeon.transformations.collection.convolution_based"
FOLDS = 5
CS = np.logspace(-4, 2, 7)  # of scikit-learn's LogisticRegression: the inverse of the penalty
ALPHAS = np.logspace(-3, 5, 17)
_ROCKET_ALPHAS = np.logspace(-3, 3, 10)  # as the authors of MiniRocket have for classes
LEAST = 1e-7  # probability of a class that a model has not seen
_CV_CELLS = 2**19  # of the table on which C is chosen
_SMALL = 1000  # samples, of which 300 trees take a second; of more, 100
_FEW = 64  # features; of more, a split of a forest looks at the square root of their number
_SHORTEST = 9  # steps: the length of MiniRocket's kernels; shorter series are padded with zeros

# From new inputs [m, ...] to outputs [m, K, ...], and in words what was chosen.
Fitted = tuple[Callable[[np.ndarray], np.ndarray], str]


class FitError(Exception):
    """A model could not be fitted; the message says why."""


def fit_here(parent: int, request: dict[str, Any]) -> dict[str, Any]:
    """Return what `fitted` returns; this process ends with its parent, of that id, even in the middle."""
    signals.end_with_parent(parent)
    return fitted(**request)


def fitted(
    model: str,
    form: str,
    x: np.ndarray,
    y: np.ndarray,
    new: np.ndarray,
    fold: np.ndarray | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Fit a model and return its outputs for new samples.

    Args:
        model: a name in `completion.NAMES`.
        form: of the targets: classes, labels, values; maps, class_maps or masks of dense ones.
        x, y: training inputs (features [n, F]; series and dense inputs [n, C, *E]) and targets.
        new: inputs of the same form.
        fold: [n] int64, the fold of every training sample; None asks for no outputs for these.
        settings: k, groups, causal, balanced and seed, see below and `windows`.

    Returns:
        outputs [m, K] or [m, K, *E] float32; seconds of computing them; about: what was chosen, in words; held_out: [n, ...],
        for each training sample by a model of the other folds alone.
    """
    for package in (*_PACKAGES, *((_AEON,) if model == "minirocket" else ())):
        importlib.import_module(package)
    start = time.process_time()
    predict, about = _fit(model, form, x, y, **settings)
    fit_result: dict[str, Any] = {"outputs": _outputs(predict, form, new), "about": about}
    fit_result["seconds"] = time.process_time() - start
    if fold is not None:
        groups = settings["groups"]
        for number in np.unique(fold):
            held = fold == number
            fold_settings = settings | {"groups": None if groups is None else groups[~held]}
            outputs = _outputs(_fit(model, form, x[~held], y[~held], **fold_settings)[0], form, x[held])
            fit_result.setdefault("held_out", np.zeros((len(x), *outputs.shape[1:]), np.float32))[held] = outputs
    return fit_result


def _outputs(predict: Any, form: str, new: np.ndarray) -> np.ndarray:
    step = max(1, _AT_ONCE // max(1, new[:1].size))
    outputs = np.concatenate([predict(new[at : at + step]) for at in range(0, len(new), step)])
    if form in ("labels", "masks"):
        outputs = outputs - 0.5 if form == "labels" else outputs[:, 1:] - outputs[:, :1]  # above 0 where present
    return outputs.astype(np.float32)


def _fit(model: str, form: str, x: np.ndarray, y: np.ndarray, **settings: Any) -> Any:
    from orca_cli.baselines import windows

    k, groups, seed, balanced = (settings[name] for name in ("k", "groups", "seed", "balanced"))
    if model == "minirocket":  # by aeon (Dempster et al. 2021); a ridge learns from the features
        rocket = importlib.import_module(_AEON).MiniRocket(random_state=seed, n_jobs=1)
        features, transform = rocket.fit_transform(_long_enough(x)), lambda new: rocket.transform(_long_enough(new))
        predict, about = _fit("features", form, features, y, **settings)
        return lambda new: predict(transform(new)), about
    if form == "maps":
        return windows.numbers(x, y, causal=settings["causal"], seed=seed)
    if form in ("class_maps", "masks"):
        truth = np.where(np.isnan(y[:, 0]), -1, y[:, 0] > 0.5).astype(np.int64) if form == "masks" else y
        classes = 2 if form == "masks" else k
        return windows.classes(x, truth, classes, causal=settings["causal"], balanced=balanced, seed=seed)
    if model in ("forest", "boosting"):
        if form == "classes":
            return tree_classes(model, x, y, k, balanced=balanced, seed=seed)
        return tree_numbers(model, x, y, seed=seed)
    if form != "classes":
        return ridge_numbers(x, y, groups)
    if model in ("features", "probe"):
        return ridge_classes(x, y, groups, k, balanced=balanced)
    return logistic(x, y, groups, k, balanced=balanced, seed=seed)


def logistic(x: np.ndarray, y: np.ndarray, groups: np.ndarray | None, k: int, *, balanced: bool, seed: int) -> Fitted:
    """Fit a logistic regression; it predicts log-probabilities [m, k].

    Cross-validation chooses C by the 0-1 error, and among equals by the log-loss.

    Args:
        x: [n, F] training features.
        y: [n] int64 in 0..k-1.
        groups: [n], samples of one group stay in one fold; None where samples stand alone.
        balanced: whether all classes weigh alike.
        seed: of the folds.
    """
    from sklearn.linear_model import LogisticRegression

    x, transform = standardised(x)
    if x.shape[1] == 0 or len(np.unique(y)) < 2:
        return constant_classifier(y, k)
    weight = "balanced" if balanced else None
    most, rows = max(50, _CV_CELLS // x.shape[1]), np.arange(len(x))
    if len(x) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    some_x, some_y = x[rows], y[rows]
    weights = len(y) / np.maximum(np.bincount(y, minlength=k), 1) if balanced else np.ones(k)
    wrong, loss = np.zeros(len(CS)), np.zeros(len(CS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of folds without a rare class, and of fits that stop early
        for train, held in _folds(some_y, None if groups is None else groups[rows], seed):
            model = LogisticRegression(max_iter=100, tol=1e-3, warm_start=True, class_weight=weight)
            for place, c in enumerate(CS):
                model.set_params(C=c).fit(some_x[train], some_y[train])
                predicted = log_probabilities(model.predict_proba(some_x[held]), model.classes_, k)
                truth = some_y[held]
                wrong[place] += weights[truth[predicted.argmax(axis=1) != truth]].sum()
                loss[place] -= (weights[truth] * predicted[np.arange(len(held)), truth]).sum()
        c = CS[np.lexsort((loss, wrong))[0]] if loss.any() else 1.0
        model = LogisticRegression(C=c, max_iter=1000, class_weight=weight).fit(x, y)
    return lambda new: log_probabilities(model.predict_proba(transform(new)), model.classes_, k), f"C={c:g}"


def ridge_classes(x: np.ndarray, y: np.ndarray, groups: np.ndarray | None, k: int, *, balanced: bool) -> Fitted:
    """Fit a ridge on the classes as numbers; it predicts scores [m, k], larger for likelier classes.

    It takes many features, as those of an embedder or of MiniRocket. Arguments as in `logistic`; the penalty is chosen by
    leaving one sample out, or folds of whole groups.
    """
    from sklearn.linear_model import RidgeClassifierCV

    x, transform = standardised(x)
    if x.shape[1] == 0 or len(np.unique(y)) < 2:
        return constant_classifier(y, k)
    weight = "balanced" if balanced else None
    model = RidgeClassifierCV(alphas=_ROCKET_ALPHAS, class_weight=weight, cv=_group_folds(groups)).fit(x, y)

    def predict(new: np.ndarray) -> np.ndarray:
        scores = model.decision_function(transform(new))
        scores = np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
        outputs = np.full((len(new), k), scores.min() - 1)
        outputs[:, model.classes_] = scores
        return outputs

    return predict, f"alpha={model.alpha_:g}"


def ridge_numbers(x: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Fitted:
    """Fit ridge regressions whose penalty leave-one-out validation chooses; they predict [m, K].

    Args:
        x: [n, F] training features.
        y: [n, K]; NaN where unknown. Outputs that are known for the same samples are fitted together.
        groups: [n]; then folds of whole groups choose the penalty.
    """
    from sklearn.linear_model import RidgeCV

    fitted = []
    chosen = set()
    for columns, rows in patterns(y):
        target = y[np.ix_(rows, columns)]
        inside, transform = standardised(x[rows]) if len(rows) else (np.zeros((0, 0)), None)
        if inside.shape[1] == 0 or len(rows) < 3:
            fitted.append((columns, target.mean(axis=0) if len(rows) else 0.0, None, transform))
            continue
        model = RidgeCV(alphas=ALPHAS, cv=_group_folds(None if groups is None else groups[rows])).fit(inside, target)
        chosen.add(float(model.alpha_))
        fitted.append((columns, 0.0, model, transform))

    def predict(new: np.ndarray) -> np.ndarray:
        outputs = np.zeros((len(new), y.shape[1]))
        for columns, mean, model, transform in fitted:
            outputs[:, columns] = mean if model is None else model.predict(transform(new)).reshape(len(new), -1)
        return outputs

    return predict, f"alpha={', '.join(f'{alpha:g}' for alpha in sorted(chosen)[:3])}" if chosen else "constant"


def tree_classes(model: str, x: np.ndarray, y: np.ndarray, k: int, *, balanced: bool, seed: int) -> Fitted:
    """Fit a forest, or boosting, that predicts log-probabilities [m, k]; other arguments as in `logistic`."""
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


def tree_numbers(model: str, x: np.ndarray, y: np.ndarray, *, seed: int) -> Fitted:
    """Fit forests, or boosting, that predict numbers [m, K]; other arguments as in `ridge_numbers`."""
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


def _long_enough(x: np.ndarray) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), (0, max(0, _SHORTEST - x.shape[2]))))


def standardised(x: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Return training features [n, F'] float64 without those that are constant, and what does the same to new ones."""
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    varies = std > 1e-7 * np.maximum(np.abs(mean), 1e-30)
    mean, std = mean[varies], std[varies]
    inside = (x[:, varies] - mean) / std
    if inside.shape[1] <= len(x):
        return inside, lambda new: (new[:, varies] - mean) / std
    values, vectors = np.linalg.eigh(inside @ inside.T)
    kept = values > 1e-10 * max(values[-1], 1e-300)
    basis = (inside.T @ vectors[:, kept]) / np.sqrt(values[kept])  # orthonormal columns
    return inside @ basis, lambda new: ((new[:, varies] - mean) / std) @ basis


def patterns(y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield outputs (columns) that are known for the same samples, and these samples (rows), of targets [n, K]."""
    known = ~np.isnan(y)
    distinct, pattern_numbers = np.unique(known, axis=1, return_inverse=True)
    for place in range(distinct.shape[1]):
        yield np.flatnonzero(pattern_numbers.reshape(-1) == place), np.flatnonzero(distinct[:, place])


def constant_classifier(y: np.ndarray, k: int) -> Fitted:
    """Return what predicts the log-probabilities [m, k] of the training classes [n], whatever the input."""
    shares = np.bincount(y, minlength=k)[None] / len(y)
    return lambda new: np.repeat(log_probabilities(shares, np.arange(k), k), len(new), axis=0), "constant"


def log_probabilities(probabilities: np.ndarray, present: np.ndarray, k: int) -> np.ndarray:
    """Return log-probabilities [m, k] of all classes, from probabilities [m, P] of those that a model has seen."""
    outputs = np.full((len(probabilities), k), math.log(LEAST))
    outputs[:, present] = np.log(np.maximum(probabilities, LEAST))
    return outputs


def _group_folds(groups: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Return folds of whole groups; None where samples stand alone, or all are of one group."""
    from sklearn.model_selection import GroupKFold

    if groups is None or (count := len(np.unique(groups))) < 2:
        return None
    return list(GroupKFold(min(FOLDS, count)).split(np.zeros(len(groups)), groups=groups))


def _folds(y: np.ndarray, groups: np.ndarray | None, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield training and held-out rows, every class in proportion; none where there are too few samples or groups."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    most = min(FOLDS, int(np.bincount(y).max()), len(y) if groups is None else len(np.unique(groups)))
    if most < 2:
        return
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    for train, held in kind(most, shuffle=True, random_state=seed).split(np.zeros(len(y)), y, groups):
        if len(held) and len(np.unique(y[train])) > 1:
            yield train, held
