"""Fit one simple model and predict with it: logistic regression, ridge, forests, boosting, MiniRocket's features.

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
from numpy.lib.stride_tricks import sliding_window_view

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
_MOST_FEATURES = 512  # of a position
_CELLS, _MOST_ROWS = 2**24, 2**17  # of the table of training positions
_RADIUS = {1: 3, 2: 2, 3: 1}  # positions to each side, by the number of axes
_SHORTEST = 9  # steps: the length of MiniRocket's kernels; shorter series are padded with zeros
SEED = 0  # of folds, and of what is random in a model; not the run's: runs of all seeds share their baselines

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
    for package in (*_PACKAGES, *((_AEON,) if model == "minirocket" else ())):
        importlib.import_module(package)
    settings: dict[str, Any] = {"k": k, "balanced": balanced, "causal": causal}
    start = time.process_time()
    of_new, about = _outputs(model, form, x, y, groups, new, **settings)
    fit_result = {"outputs": of_new, "about": about, "seconds": time.process_time() - start}
    if fold is not None:
        held_out = fit_result["held_out"] = np.zeros((len(x), *of_new.shape[1:]), of_new.dtype)
        for number in np.unique(fold):
            known, held = fold != number, fold == number
            some = None if groups is None else groups[known]
            held_out[held], _ = _outputs(model, form, x[known], y[known], some, x[held], **settings)
    return fit_result


def _outputs(
    model: str,
    form: str,
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray | None,
    new: np.ndarray,
    /,
    **settings: Any,
) -> tuple[np.ndarray, str]:
    """Return the outputs of a model of training samples for new ones, and what was chosen."""
    if model == "minirocket":  # by aeon (Dempster et al. 2021); a ridge learns from the features
        rocket = importlib.import_module(_AEON).MiniRocket(random_state=SEED, n_jobs=1)
        x = rocket.fit_transform(_long_enough(x))
    if form == "classes":
        predict, about = classes(model, x, y, groups, settings["k"], settings["balanced"])
    elif form in ("labels", "values"):
        predict, about = numbers(model, x, y, groups)
    else:
        predict, about = dense(form, x, y, **settings)
    step = max(1, _AT_ONCE // max(1, new[:1].size))
    parts = [new[at : at + step] for at in range(0, len(new), step)]
    parts = (
        [rocket.transform(_long_enough(part)) for part in parts] if model == "minirocket" else parts
    )
    values = np.concatenate([predict(part) for part in parts])
    if form in ("labels", "masks"):
        values = (
            values - 0.5 if form == "labels" else values[:, 1:] - values[:, :1]
        )  # above 0 where present
    return values.astype(np.float64 if y.dtype == np.float64 else np.float32), about


def classes(
    model: str, x: np.ndarray, y: np.ndarray, groups: np.ndarray | None, k: int, balanced: bool
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
    transform = _as_model_takes(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of folds without a rare class, and of fits that stop early
        made = _learned(model, transform(x), y, groups, k, balanced)
    return lambda new: _scores(made, transform(new), k), _about(made)


def _learned(
    model: str, x: np.ndarray, y: np.ndarray, groups: np.ndarray | None, k: int, balanced: bool
) -> Any:
    """Return a model of scikit-learn for classes, y [n] int64, or numbers, y [n] or [n, K].

    A constant where none can be.
    """
    from sklearn import dummy, ensemble, linear_model

    weight: Any = "balanced" if balanced else None
    trees, features = 300 if len(x) <= _SMALL else 100, 1 / 3 if x.shape[1] <= _FEW else "sqrt"
    made: Any
    if y.dtype.kind == "f":
        if model == "forest":
            made = ensemble.RandomForestRegressor(trees, max_features=features, random_state=SEED)
        elif model == "boosting":
            made = ensemble.HistGradientBoostingRegressor(random_state=SEED)
        elif x.shape[1] == 0 or len(x) < 3:
            made = dummy.DummyRegressor()
        else:
            made = linear_model.RidgeCV(alphas=ALPHAS, cv=_group_folds(groups))
    elif x.shape[1] == 0 or len(np.unique(y)) < 2:
        made = dummy.DummyClassifier(strategy="prior")
    elif model == "forest":
        made = ensemble.RandomForestClassifier(trees, class_weight=weight, random_state=SEED)
    elif model == "boosting":
        made = ensemble.HistGradientBoostingClassifier(class_weight=weight, random_state=SEED)
    elif model == "linear":
        c = _chosen_c(x, y, groups, k, balanced)
        made = linear_model.LogisticRegression(C=c, max_iter=1000, class_weight=weight)
    else:
        made = linear_model.RidgeClassifierCV(
            alphas=_ROCKET_ALPHAS, class_weight=weight, cv=_group_folds(groups)
        )
    return made.fit(x, y)


def _chosen_c(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray | None, k: int, balanced: bool
) -> float:
    """Return the C of a logistic regression with the least 0-1 error in cross-validation, and among equals log-loss."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    most, weight = max(50, _CV_CELLS // x.shape[1]), "balanced" if balanced else None
    weights = len(y) / np.maximum(np.bincount(y, minlength=k), 1) if balanced else np.ones(k)
    if len(x) > most:
        rows = np.sort(np.random.default_rng(SEED).choice(len(x), most, replace=False))
        x, y, groups = x[rows], y[rows], None if groups is None else groups[rows]
    count = min(FOLDS, int(np.bincount(y).max()), len(y if groups is None else np.unique(groups)))
    if count < 2:
        return 1.0
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    wrong, loss = np.zeros(len(CS)), np.zeros(len(CS))
    for train, held in kind(count, shuffle=True, random_state=SEED).split(x, y, groups):
        if not len(held) or len(np.unique(y[train])) < 2:
            continue
        model = LogisticRegression(max_iter=100, tol=1e-3, warm_start=True, class_weight=weight)
        for place, c in enumerate(CS):
            predicted = _scores(model.set_params(C=c).fit(x[train], y[train]), x[held], k)
            truth = y[held]
            wrong[place] += weights[truth[predicted.argmax(axis=1) != truth]].sum()
            loss[place] -= (weights[truth] * predicted[np.arange(len(held)), truth]).sum()
    return float(CS[np.lexsort((loss, wrong))[0]]) if loss.any() else 1.0


def numbers(model: str, x: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Fitted:
    """Fit models of numbers; they predict [m, K], 0 for outputs of which no value is known.

    Arguments as in `classes`, but for y: [n, K]; NaN where unknown. Outputs that are known for the
    same samples are fitted together, except by boosting, which has one output.
    """
    fitted, centre = [], _centre(y)
    patterns, pattern_of = np.unique(~np.isnan(y), axis=1, return_inverse=True)
    for place, known in enumerate(patterns.T):
        together, rows = np.flatnonzero(pattern_of.reshape(-1) == place), np.flatnonzero(known)
        if not len(rows):
            continue  # they are predicted as 0
        transform, some = _as_model_takes(model, x[rows]), None if groups is None else groups[rows]
        for columns in np.split(together, len(together)) if model == "boosting" else [together]:
            target = y[np.ix_(rows, columns)] - centre[columns]
            target = target[:, 0] if len(columns) == 1 else target
            fitted.append(
                (columns, transform, _learned(model, transform(x[rows]), target, some, 0, False))
            )

    def predict(new: np.ndarray) -> np.ndarray:
        outputs = np.zeros((len(new), y.shape[1]))
        for columns, transform, made in fitted:
            predicted = made.predict(transform(new)).reshape(len(new), -1)
            outputs[:, columns] = predicted + centre[columns]
        return outputs

    return predict, ", ".join(list(dict.fromkeys(_about(made) for *_, made in fitted))[:3])


def dense(form: str, x: np.ndarray, y: np.ndarray, k: int, balanced: bool, causal: bool) -> Fitted:
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
    generator = np.random.default_rng(SEED)
    windows = _Windows.of_inputs(x, causal)
    usual = np.zeros(())
    if form == "maps":
        is_known = ~np.isnan(y)
        usual = np.where(is_known, y, 0).sum(axis=0) / np.maximum(is_known.sum(axis=0), 1)
        usual = np.where(is_known.any(axis=0), usual, y[is_known].mean())
        windows = replace(windows, centre=x.mean(axis=0))
        is_known = is_known.any(axis=1)
    else:
        windows = replace(windows, coordinates=_coordinates(extent))
        if form == "masks":
            y = np.where(np.isnan(y[:, 0]), -1, y[:, 0] > 0.5).astype(np.int64)
        is_known = y >= 0
    rows = _CELLS // windows.features(x[0]).shape[1]
    per_sample = max(1, min(_MOST_ROWS, rows) // len(x))
    tables = []
    places = []
    for number, sample in enumerate(x):
        shuffled = generator.permutation(np.flatnonzero(is_known[number]))
        chosen = np.sort(shuffled[:per_sample])
        tables.append(windows.features(sample)[chosen])
        places.append([np.full(len(chosen), number), *np.unravel_index(chosen, extent)])
    table = np.concatenate(tables)
    at = tuple(np.concatenate(places, axis=1))
    if form == "maps":
        model, about = numbers("linear", table, np.moveaxis(y - usual, 1, -1)[at], None)
    else:
        count = 2 if form == "masks" else k
        model, about = classes("linear", table, y[at], at[0], count, balanced)

    def predict(new: np.ndarray) -> np.ndarray:
        outputs = [model(windows.features(sample)).T.reshape(-1, *extent) for sample in new]
        return np.stack(outputs) + usual

    return predict, f"window {' x '.join(map(str, windows.window))}, {about}"


@dataclass(frozen=True)
class _Windows:
    """The inputs around every position of a map as its features."""

    extent: tuple[int, ...]  # *E
    window: tuple[int, ...]  # positions along each axis
    sides: tuple[int, int]  # of them before and after a position
    centre: np.ndarray  # [C, *E], taken away from inputs
    coordinates: np.ndarray  # [positions, 2 * axes], further features

    @classmethod
    def of_inputs(cls, x: np.ndarray, causal: bool) -> "_Windows":
        """Return the widest windows whose features are few enough for inputs [n, C, *E]."""
        extent = x.shape[2:]
        radius = _RADIUS.get(len(extent), 0)
        while radius and x.shape[1] * (2 * radius + 1) ** len(extent) > _MOST_FEATURES:
            radius -= 1
        return cls(
            extent=extent,
            window=(2 * radius + 1,) * len(extent),
            sides=(2 * radius, 0) if causal else (radius, radius),
            centre=np.zeros(()),
            coordinates=np.zeros((int(np.prod(extent)), 0)),
        )

    def features(self, sample: np.ndarray) -> np.ndarray:
        """Return those of all positions of an input [C, *E], [positions, F]."""
        axes = len(self.extent)
        padded = np.pad(sample - self.centre, ((0, 0), *[self.sides] * axes))
        windows: Any = sliding_window_view(padded, self.window, axis=tuple(range(1, axes + 1)))
        # [C, *E, *window] -> [positions, C * window]
        values = np.moveaxis(windows, 0, axes).reshape(len(self.coordinates), -1)
        return np.concatenate([values, self.coordinates], axis=1)


def _coordinates(extent: tuple[int, ...]) -> np.ndarray:
    """Return the coordinates of all positions in -1..1, and their squares, [positions, 2 * axes]."""
    grid = np.meshgrid(*(np.linspace(-1, 1, size) for size in extent), indexing="ij")
    columns = [*grid, *(axis**2 for axis in grid)]
    return np.stack(columns, axis=-1).reshape(-1, 2 * len(extent))


def _centre(y: np.ndarray) -> np.ndarray:
    """Return what is taken away from targets [n, K] before a fit, [K]: of float64 the first known target, else 0.

    Targets are float64 where they are far from zero, and a forest adds up their squares, in which
    little else would be left. Differences from one of them are exact.
    """
    if y.dtype != np.float64:
        return np.zeros(y.shape[1], y.dtype)
    first = (~np.isnan(y)).argmax(axis=0)
    return np.nan_to_num(y[first, np.arange(y.shape[1])])


def _about(made: Any) -> str:
    """Return in words what was chosen in fitting a model."""
    for name, text in (("alpha_", "alpha={:g}"), ("C", "C={:g}"), ("n_estimators", "{} trees")):
        if hasattr(made, name):
            return text.format(getattr(made, name))
    return "scikit-learn's defaults" if hasattr(made, "max_iter") else "constant"


def _scores(made: Any, x: np.ndarray, k: int) -> np.ndarray:
    """Return scores [m, k] of all classes from a classifier, which may not have seen some: these get the least."""
    if hasattr(made, "predict_proba"):
        seen, least = np.log(np.maximum(made.predict_proba(x), LEAST)), math.log(LEAST)
    else:
        seen = made.decision_function(x)
        seen = np.stack([-seen, seen], axis=1) if seen.ndim == 1 else seen
        least = seen.min() - 1
    outputs = np.full((len(x), k), least)
    outputs[:, made.classes_] = seen
    return outputs


def _long_enough(x: np.ndarray) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), (0, max(0, _SHORTEST - x.shape[2]))))


def _as_model_takes(model: str, x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return what makes of features [m, F] those that a model takes, [m, F'], learned from training features [n, F].

    Trees take them as they are. Others take them standardised, float64, without those that are
    constant.
    """
    if model in ("forest", "boosting"):
        return lambda new: new
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    varies = std > 1e-7 * np.maximum(np.abs(mean), 1e-30)
    mean, std = mean[varies], std[varies]
    inside = (x[:, varies] - mean) / std
    if inside.shape[1] <= len(x):
        return lambda new: (new[:, varies] - mean) / std
    values, vectors = np.linalg.eigh(inside @ inside.T)
    kept = values > 1e-10 * max(values[-1], 1e-300)
    basis = (inside.T @ vectors[:, kept]) / np.sqrt(values[kept])  # orthonormal columns
    return lambda new: ((new[:, varies] - mean) / std) @ basis


def _group_folds(groups: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Return folds of whole groups; None where samples stand alone, or all are of one group."""
    from sklearn.model_selection import GroupKFold

    if groups is None or (count := len(np.unique(groups))) < 2:
        return None
    return list(GroupKFold(min(FOLDS, count)).split(np.zeros(len(groups)), groups=groups))
