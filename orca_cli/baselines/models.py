"""Fit one simple model and predict with it.

The models are logistic regression, ridge, forests, boosting, and a ridge on MiniRocket's features.
`fitted` is called in a process of its own by `compute`. MiniRocket is aeon's (Dempster et al. 2021,
arXiv 2012.08791).

For linear models, features are standardised by the training set. Where there are more features than
samples, the table is rotated into the space that its rows span: the L2 penalty and the predictions
are the same there, at less cost.
"""

import importlib
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orca_cli import signals
from orca_cli.baselines.windows import Windows, coordinates, training_positions

# Values of the inputs that are predicted at once.
_AT_ONCE = 2**22
# Imported before the clock starts.
_PACKAGES = ("sklearn.linear_model", "sklearn.model_selection", "sklearn.ensemble")
_AEON = "aeon.transformations.collection.convolution_based"
FOLDS = 5
# Of scikit-learn's LogisticRegression: the inverse of the penalty.
CS = np.logspace(-4, 2, 7)
ALPHAS = np.logspace(-3, 5, 17)
# As the authors of MiniRocket have for classes.
_ROCKET_ALPHAS = np.logspace(-3, 3, 10)
# Probability of a class that a model has not been fitted to.
LEAST = 1e-7
# Values of the table on which C is chosen.
_CV_CELLS = 2**19
# Samples, of which 300 trees take a second; of more, 100.
_SMALL = 1000
# Features. Of more, a split of a regression forest looks at the square root of their number.
_FEW = 64
# Steps: the length of MiniRocket's kernels. Shorter series are padded with zeros.
_SHORTEST = 9
# Of folds, and of what is random in a model. It is not the run's: runs of all seeds share their
# baselines.
SEED = 0

# From new inputs [m, ...] to outputs [m, K, ...], and in words what was chosen.
Fitted = tuple[Callable[[np.ndarray], np.ndarray], str]


def fitted(
    model: str,
    form: str,
    x: np.ndarray,
    y: np.ndarray,
    new: np.ndarray,
    *,
    k: int,
    groups: np.ndarray | None = None,
    fold: np.ndarray | None = None,
    balanced: bool = False,
    causal: bool = False,
    parent: int | None = None,
) -> dict[str, Any]:
    """Fit a model and return its outputs for new samples.

    Args:
        model: a name in `names.NAMES`.
        form: of the targets: classes, labels, values; maps, class_maps or masks of dense ones.
        x, y: training inputs (features [n, F]; series and dense inputs [n, C, *E]) and targets.
        new: inputs of the same form.
        k: classes; K of other targets.
        groups: [n], samples of one group stay in one fold; None where samples stand alone.
        fold: [n] int64, the fold of every training sample; None asks for no outputs for these.
        balanced: whether all classes weigh alike.
        causal: of dense targets, whether a position sees only itself and earlier ones.
        parent: process that this one ends with, even in the middle.

    Returns:
        outputs [m, K] or [m, K, *E], float32, or float64 where the targets are; seconds of
        computing them; about: what was chosen, in words; held_out: [n, ...], for each training
        sample by a model of the other folds alone.
    """
    if parent is not None:
        signals.end_with_parent(parent)
    packages: tuple[str, ...] = _PACKAGES
    if model == "minirocket":
        packages += (_AEON,)
    for package in packages:
        importlib.import_module(package)
    settings: dict[str, Any] = {"k": k, "balanced": balanced, "causal": causal}
    # Processor time, so that other load does not make a model look slow.
    start = time.process_time()
    outputs, about = _outputs(model, form, x, y, new=new, groups=groups, **settings)
    record = {"outputs": outputs, "about": about, "seconds": time.process_time() - start}
    if fold is None:
        return record
    held_out = np.zeros((len(x), *outputs.shape[1:]), outputs.dtype)
    for number in np.unique(fold):
        train = fold != number
        test = fold == number
        # All is chosen anew without the fold, so that no penalty has seen its samples.
        held_out[test], _ = _outputs(
            model,
            form,
            x[train],
            y[train],
            new=x[test],
            groups=_taken(groups, train),
            **settings,
        )
    record["held_out"] = held_out
    return record


def _taken(groups: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    """Return the groups of these samples; None where samples stand alone."""
    return None if groups is None else groups[rows]


def _outputs(
    model: str,
    form: str,
    x: np.ndarray,
    y: np.ndarray,
    *,
    new: np.ndarray,
    groups: np.ndarray | None,
    k: int,
    balanced: bool,
    causal: bool,
) -> tuple[np.ndarray, str]:
    """Fit a model; return its outputs for new samples, and what was chosen in fitting.

    Arguments as in `fitted`.
    """
    if model == "minirocket":
        # aeon makes the features (Dempster et al. 2021), from which a ridge learns.
        rocket = importlib.import_module(_AEON).MiniRocket(random_state=SEED, n_jobs=1)
        x = rocket.fit_transform(_long_enough(x))
    if form == "classes":
        predict, about = classes(model, x, y, groups=groups, k=k, balanced=balanced)
    elif form in ("labels", "values"):
        predict, about = numbers(model, x, y, groups)
    else:
        predict, about = dense(form, x, y, k=k, balanced=balanced, causal=causal)
    sample_cells = max(1, new[:1].size)
    step = max(1, _AT_ONCE // sample_cells)
    batches = [new[start : start + step] for start in range(0, len(new), step)]
    if model == "minirocket":
        batches = [rocket.transform(_long_enough(batch)) for batch in batches]
    outputs = np.concatenate([predict(batch) for batch in batches])
    # Outputs of labels and masks are above 0 where these are present.
    if form == "labels":
        outputs = outputs - 0.5
    elif form == "masks":
        outputs = outputs[:, 1:] - outputs[:, :1]
    dtype = np.float64 if y.dtype == np.float64 else np.float32
    return outputs.astype(dtype), about


def classes(
    model: str,
    x: np.ndarray,
    y: np.ndarray,
    *,
    groups: np.ndarray | None,
    k: int,
    balanced: bool,
) -> Fitted:
    """Fit a classifier.

    It predicts scores [m, k], larger for likelier classes: log-probabilities, but for a ridge.

    A ridge on the classes as numbers takes many features, as those of an embedder or of MiniRocket.
    Its penalty is chosen by leaving one sample out, or folds of whole groups.

    Args:
        model: linear, forest, boosting; another is a ridge.
        x: [n, F] training features.
        y: [n] int64 in 0..k-1.
        groups, k, balanced: as in `fitted`.
    """
    transform = _preparation(model, x)
    with warnings.catch_warnings():
        # Of folds without a rare class, and of fits that stop early.
        warnings.simplefilter("ignore")
        estimator = _estimator(model, transform(x), y, groups=groups, k=k, balanced=balanced)
    return lambda new: _scores(estimator, transform(new), k), _about(estimator)


def _estimator(
    model: str,
    x: np.ndarray,
    y: np.ndarray,
    *,
    groups: np.ndarray | None,
    k: int = 0,
    balanced: bool = False,
) -> Any:
    """Return a model of scikit-learn, fitted to classes, y [n] int64, or numbers, y [n] or [n, K].

    A constant where none can be fitted. `k` and `balanced` are of classes.
    """
    from sklearn import dummy, ensemble, linear_model

    weight: Any = "balanced" if balanced else None
    trees = 300 if len(x) <= _SMALL else 100
    estimator: Any
    if y.dtype.kind == "f":
        if model == "forest":
            features: Any = 1 / 3 if x.shape[1] <= _FEW else "sqrt"
            estimator = ensemble.RandomForestRegressor(
                trees, max_features=features, random_state=SEED
            )
        elif model == "boosting":
            estimator = ensemble.HistGradientBoostingRegressor(random_state=SEED)
        elif x.shape[1] == 0 or len(x) < 3:
            estimator = dummy.DummyRegressor()
        else:
            estimator = linear_model.RidgeCV(alphas=ALPHAS, cv=_group_folds(groups))
    elif x.shape[1] == 0 or len(np.unique(y)) < 2:
        estimator = dummy.DummyClassifier(strategy="prior")
    elif model == "forest":
        estimator = ensemble.RandomForestClassifier(trees, class_weight=weight, random_state=SEED)
    elif model == "boosting":
        estimator = ensemble.HistGradientBoostingClassifier(class_weight=weight, random_state=SEED)
    elif model == "linear":
        c = _chosen_c(x, y, groups=groups, k=k, balanced=balanced)
        estimator = linear_model.LogisticRegression(C=c, max_iter=1000, class_weight=weight)
    else:
        estimator = linear_model.RidgeClassifierCV(
            alphas=_ROCKET_ALPHAS, class_weight=weight, cv=_group_folds(groups)
        )
    return estimator.fit(x, y)


def _chosen_c(
    x: np.ndarray, y: np.ndarray, *, groups: np.ndarray | None, k: int, balanced: bool
) -> float:
    """Return the C of a logistic regression with the least 0-1 error in cross-validation.

    Among equals it is the one with the least log-loss.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    limit = max(50, _CV_CELLS // x.shape[1])
    weights = np.ones(k)
    if balanced:
        weights = len(y) / np.maximum(np.bincount(y, minlength=k), 1)
    if len(x) > limit:
        rows = np.sort(np.random.default_rng(SEED).choice(len(x), limit, replace=False))
        x = x[rows]
        y = y[rows]
        groups = _taken(groups, rows)
    units = len(y if groups is None else np.unique(groups))
    # Stratified folds need a class with at least as many samples as folds.
    count = min(FOLDS, int(np.bincount(y).max()), units)
    if count < 2:
        return 1.0
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    wrong = np.zeros(len(CS))
    loss = np.zeros(len(CS))
    for train, test in kind(count, shuffle=True, random_state=SEED).split(x, y, groups):
        # Folds of whole groups may be empty, or leave one class for training.
        if not len(test) or len(np.unique(y[train])) < 2:
            continue
        # One model for all C: each fit starts from the coefficients of the one before.
        model = LogisticRegression(
            max_iter=100,
            tol=1e-3,
            warm_start=True,
            class_weight="balanced" if balanced else None,
        )
        for i, c in enumerate(CS):
            model.set_params(C=c).fit(x[train], y[train])
            fold_wrong, fold_loss = _losses(_scores(model, x[test], k), y[test], weights)
            wrong[i] += fold_wrong
            loss[i] += fold_loss
    # No fold could be used; 1 is scikit-learn's default.
    if not loss.any():
        return 1.0
    best_first = np.lexsort((loss, wrong))
    return float(CS[best_first[0]])


def _losses(scores: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Return the 0-1 error and the log-loss of scores [m, k], summed over m samples.

    A sample counts by the weight of its class; `weights` is [k].
    """
    is_wrong = scores.argmax(axis=1) != y
    true_scores = scores[np.arange(len(y)), y]
    return weights[y[is_wrong]].sum(), -(weights[y] * true_scores).sum()


@dataclass(frozen=True)
class _Fit:
    """A fitted model of some of the outputs."""

    # Indices of the outputs.
    columns: np.ndarray
    transform: Callable[[np.ndarray], np.ndarray]
    # Of scikit-learn.
    estimator: Any


def numbers(model: str, x: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Fitted:
    """Fit models of numbers; they predict [m, K], 0 for outputs of which no value is known.

    Arguments as in `classes`, but for y: [n, K]; NaN where unknown. Outputs that are known for the
    same samples are fitted together, except by boosting, which has one output.
    """
    centre = _centre(y)
    fits = []
    patterns, pattern_of = np.unique(~np.isnan(y), axis=1, return_inverse=True)
    for i, is_known in enumerate(patterns.T):
        together = np.flatnonzero(pattern_of.reshape(-1) == i)
        rows = np.flatnonzero(is_known)
        if not len(rows):
            # Outputs of which no value is known are predicted as 0.
            continue
        transform = _preparation(model, x[rows])
        blocks = np.split(together, len(together)) if model == "boosting" else [together]
        for columns in blocks:
            target = y[np.ix_(rows, columns)] - centre[columns]
            if len(columns) == 1:
                target = target[:, 0]
            estimator = _estimator(model, transform(x[rows]), target, groups=_taken(groups, rows))
            fits.append(_Fit(columns=columns, transform=transform, estimator=estimator))

    def predict(new: np.ndarray) -> np.ndarray:
        outputs = np.zeros((len(new), y.shape[1]))
        for fit in fits:
            predicted = fit.estimator.predict(fit.transform(new))
            outputs[:, fit.columns] = predicted.reshape(len(new), -1) + centre[fit.columns]
        return outputs

    # Each choice once, and at most three.
    choices = list(dict.fromkeys(_about(fit.estimator) for fit in fits))
    return predict, ", ".join(choices[:3])


def dense(
    form: str, x: np.ndarray, y: np.ndarray, *, k: int, balanced: bool, causal: bool
) -> Fitted:
    """Fit a linear model of each position from the inputs around it, the same everywhere.

    Numbers, [m, K, *E]: the mean input and the mean target of every position are taken away first,
    so that the model is the mean map plus a linear convolution. Classes, log-probabilities [m, k,
    *E]: a logistic regression on the inputs around a position, its coordinates and their squares.

    Args:
        form: maps, y [n, K, *E], NaN where unknown; masks, y [n, 1, *E] of 0 and 1, likewise, which
            are maps of two classes; class_maps, y [n, *E] int64 in 0..k-1, negative where unknown.
        x: [n, C, *E].
        k, balanced, causal: as in `fitted`.
    """
    extent = x.shape[2:]
    windows = Windows.of_inputs(x, causal)
    mean_map = np.zeros(())
    if form == "maps":
        is_known = ~np.isnan(y)
        sums = np.where(is_known, y, 0).sum(axis=0)
        counts = np.maximum(is_known.sum(axis=0), 1)
        mean_map = sums / counts
        # Where no target is known at a position, the mean of all.
        mean_map = np.where(is_known.any(axis=0), mean_map, y[is_known].mean())
        windows = replace(windows, centre=x.mean(axis=0))
        # [n, K, *E] -> [n, *E]
        is_known = is_known.any(axis=1)
    else:
        windows = replace(windows, coordinates=coordinates(extent))
        if form == "masks":
            # [n, 1, *E] -> [n, *E]
            y = y[:, 0]
            y = np.where(np.isnan(y), -1, y > 0.5).astype(np.int64)
        is_known = y >= 0
    table, positions = training_positions(windows, x, is_known, SEED)
    if form == "maps":
        targets = np.moveaxis(y - mean_map, 1, -1)[positions]
        model, about = numbers("linear", table, targets, None)
    else:
        model, about = classes(
            "linear",
            table,
            y[positions],
            groups=positions[0],
            k=2 if form == "masks" else k,
            balanced=balanced,
        )

    def predict(new: np.ndarray) -> np.ndarray:
        outputs = []
        for sample in new:
            at_positions = model(windows.features(sample))  # [positions, K]
            outputs.append(at_positions.T.reshape(-1, *extent))
        return np.stack(outputs) + mean_map

    window_text = " x ".join(map(str, windows.window))
    return predict, f"window {window_text}, {about}"


def _centre(y: np.ndarray) -> np.ndarray:
    """Return the numbers that are taken away from targets [n, K] before a fit, [K].

    For float64 these are the first known targets, else 0. Targets are float64 where they are far
    from zero, and a forest adds up their squares, in which little else would be left. Differences
    from one of them are exact.
    """
    if y.dtype != np.float64:
        return np.zeros(y.shape[1], y.dtype)
    is_known = ~np.isnan(y)
    first_known = is_known.argmax(axis=0)
    columns = np.arange(y.shape[1])
    return np.nan_to_num(y[first_known, columns])


def _about(estimator: Any) -> str:
    """Return in words what was chosen in fitting a model."""
    for name, text in (("alpha_", "alpha={:g}"), ("C", "C={:g}"), ("n_estimators", "{} trees")):
        if hasattr(estimator, name):
            return text.format(getattr(estimator, name))
    return "scikit-learn's defaults" if hasattr(estimator, "max_iter") else "constant"


def _scores(estimator: Any, x: np.ndarray, k: int) -> np.ndarray:
    """Return scores [m, k] of all classes from a classifier.

    Classes that it was not fitted to get the least score.
    """
    if hasattr(estimator, "predict_proba"):
        scores = np.log(np.maximum(estimator.predict_proba(x), LEAST))
        lowest = math.log(LEAST)
    else:
        scores = estimator.decision_function(x)
        if scores.ndim == 1:
            # Of two classes, the score of the second alone.
            scores = np.stack([-scores, scores], axis=1)
        lowest = scores.min() - 1
    outputs = np.full((len(x), k), lowest)
    outputs[:, estimator.classes_] = scores
    return outputs


def _long_enough(x: np.ndarray) -> np.ndarray:
    missing_steps = max(0, _SHORTEST - x.shape[2])
    return np.pad(x, ((0, 0), (0, 0), (0, missing_steps)))


def _preparation(model: str, x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that prepares features [m, F] for a model, as [m, F'].

    Trees take features as they are. Other models take them standardised by training features x
    [n, F], float64, without those that are constant.
    """
    if model in ("forest", "boosting"):
        return lambda new: new
    mean = x.mean(axis=0, dtype=np.float64)
    std = x.std(axis=0, dtype=np.float64)
    # float32 rounds at 6e-8 of a number; smaller deviations are not variation.
    magnitude = np.maximum(np.abs(mean), 1e-30)
    varies = std > 1e-7 * magnitude
    mean = mean[varies]
    std = std[varies]
    standardised = (x[:, varies] - mean) / std
    if standardised.shape[1] <= len(x):
        return lambda new: (new[:, varies] - mean) / std
    # Orthonormal columns that span the rows of the training table.
    eigenvalues, eigenvectors = np.linalg.eigh(standardised @ standardised.T)
    # Directions that are only rounding would be magnified when divided by their scale.
    is_spanned = eigenvalues > 1e-10 * max(eigenvalues[-1], 1e-300)
    scales = np.sqrt(eigenvalues[is_spanned])
    basis = (standardised.T @ eigenvectors[:, is_spanned]) / scales
    return lambda new: ((new[:, varies] - mean) / std) @ basis


def _group_folds(groups: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Return folds of whole groups; None where samples stand alone, or all are of one group."""
    from sklearn.model_selection import GroupKFold

    if groups is None:
        return None
    count = len(np.unique(groups))
    if count < 2:
        return None
    return list(GroupKFold(min(FOLDS, count)).split(np.zeros(len(groups)), groups=groups))
