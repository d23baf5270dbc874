"""Fit a baseline and predict with it.

The models are logistic regression, ridge, forests, boosting, and a ridge on MiniRocket's features.
`compute` calls `fitted` in a separate process. MiniRocket is aeon's implementation (Dempster et al.
2021, arXiv 2012.08791).

For linear models, features are standardised by the training set. If there are more features than
samples, the table is rotated into the space that its rows span. This changes neither the L2 penalty
nor the predictions, and costs less.

A fitted model is converted to plain arrays (`plain`), which compute its outputs.
"""

import importlib
import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orca_cli import signals
from orca_cli.baselines import plain
from orca_cli.baselines.names import FEATURES, MINIROCKET, PROBE
from orca_cli.baselines.prepared import Prepared
from orca_cli.baselines.rocket import AEON, Rocket
from orca_cli.baselines.windows import Windows, training_positions

# Packages that are imported before the clock starts.
_PACKAGES = ("sklearn.linear_model", "sklearn.model_selection", "sklearn.ensemble")
# Name of a baseline -> kind of its inputs; other baselines take table features.
_INPUTS = {FEATURES: "embedder", PROBE: "body", MINIROCKET: "raw"}
FOLDS = 5
# Candidates for C of scikit-learn's LogisticRegression, the inverse of the penalty.
CS = np.logspace(-4, 2, 7)
ALPHAS = np.logspace(-3, 5, 17)
# Ridge penalties that the authors of MiniRocket use for classes.
_ROCKET_ALPHAS = np.logspace(-3, 3, 10)
# Largest number of values in the table on which C is chosen.
_CV_CELLS = 2**19
# Number of samples for which 300 trees take a second; for more samples a forest has 100 trees.
_SMALL = 1000
# Number of features up to which a split of a regression forest considers a third of them. With more
# features it considers the square root of their number.
_FEW = 64
# Seed of the folds and of random models. It is not the run's seed, so that runs of all seeds share
# their baselines.
SEED = 0


@dataclass(frozen=True)
class _Fit:
    """Fitted models of all outputs, in the form of `plain`."""

    # Kind and link of each model, for the record.
    parts: list[dict[str, str]]
    arrays: dict[str, np.ndarray]
    # Hyperparameters that were chosen, in words.
    about: str
    # Positions of a window before and after its own, for dense targets.
    sides: tuple[int, int] = (0, 0)


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
    limit: int = 0,
    parent: int | None = None,
) -> dict[str, Any]:
    """Fit a model and return its outputs for new samples.

    Args:
        model: a name in `names.NAMES`.
        form: form of the targets: classes, labels or values; for dense targets maps, class_maps or
            masks.
        x, y: training inputs (features [n, F]; series and dense inputs [n, C, *E]) and targets.
        new: m inputs of the same form.
        k: number of classes; K for other targets.
        groups: [n], the group of each sample, which stays in one fold; None for samples without
            groups.
        fold: [n] int64, the fold of every training sample; None if no held-out outputs are needed.
        balanced: whether all classes have the same total weight.
        causal: for dense targets, whether a position sees only itself and earlier positions.
        limit: argument of `features.table` with which x was computed, for the record; else 0.
        parent: id of a process; when it ends, this process ends too, even in the middle of a fit.

    Returns:
        outputs: [m, K] or [m, K, *E], float32, or float64 if the targets are; seconds: processor
        time of fitting and predicting; about: the chosen hyperparameters, in words; model: record
        and arrays of the `plain.PlainModel` that computed the outputs; held_out, if `fold` is set:
        [n, ...], the outputs for each training sample by a model of the other folds alone.
    """
    if parent is not None:
        signals.end_with_parent(parent)
    packages: tuple[str, ...] = _PACKAGES
    if model == MINIROCKET:
        packages += (AEON,)
    for package in packages:
        importlib.import_module(package)
    settings: dict[str, Any] = {"k": k, "balanced": balanced, "causal": causal, "limit": limit}
    # Processor time, so that other load does not make a model look slow.
    start = time.process_time()
    fit, about = _model(model, form, x, y, groups=groups, **settings)
    outputs = fit.outputs(new)
    record = {
        "outputs": outputs,
        "about": about,
        "seconds": time.process_time() - start,
        "model": (fit.record, fit.arrays),
    }
    if fold is None:
        return record
    held_out = np.zeros((len(x), *outputs.shape[1:]), outputs.dtype)
    for number in np.unique(fold):
        train = fold != number
        test = fold == number
        # Hyperparameters are chosen again without the fold: no penalty has seen its samples.
        fold_fit, _ = _model(
            model, form, x[train], y[train], groups=_taken(groups, train), **settings
        )
        held_out[test] = fold_fit.outputs(x[test])
    record["held_out"] = held_out
    return record


def _taken(groups: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    """Return the groups of these samples; None for samples without groups."""
    return None if groups is None else groups[rows]


def _model(
    model: str,
    form: str,
    x: np.ndarray,
    y: np.ndarray,
    *,
    groups: np.ndarray | None,
    k: int,
    balanced: bool,
    causal: bool,
    limit: int,
) -> tuple[plain.PlainModel, str]:
    """Fit a model; return it and, in words, the hyperparameters that were chosen.

    Arguments as in `fitted`.
    """
    record: dict[str, Any] = {
        "schema": plain.SCHEMA,
        "form": form,
        "inputs": _INPUTS.get(model, "table"),
        "limit": limit,
        "shape": list(x.shape[1:]),
        "dtype": "float64" if y.dtype == np.float64 else "float32",
    }
    rocket_arrays = {}
    if model == MINIROCKET:
        # aeon makes the features (Dempster et al. 2021), from which a ridge learns.
        rocket = Rocket.fitted_to(x, SEED)
        rocket_arrays = _named("rocket", rocket.arrays)
        x = rocket.features(x)
    if form == "classes":
        fit = classes(model, x, y, groups=groups, k=k, balanced=balanced)
    elif form in ("labels", "values"):
        fit = numbers(model, x, y, groups)
    else:
        record["inputs"] = "raw"
        fit = dense(form, x, y, k=k, balanced=balanced, causal=causal)
    record |= {"sides": list(fit.sides), "parts": fit.parts}
    return plain.checked(record, fit.arrays | rocket_arrays), fit.about


def _named(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays with a prefix and a dot before their names."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def classes(
    model: str,
    x: np.ndarray,
    y: np.ndarray,
    *,
    groups: np.ndarray | None,
    k: int,
    balanced: bool,
) -> _Fit:
    """Fit a classifier.

    Its outputs are scores [m, k], larger for likelier classes. Every model except a ridge returns
    log-probabilities.

    The ridge takes the classes as numbers and suits many features, as an embedder or MiniRocket
    computes them. Its penalty is chosen by leave-one-out cross-validation, or by folds of whole
    groups.

    Args:
        model: linear, forest or boosting; any other name means a ridge.
        x: [n, F] training features.
        y: [n] int64 in 0..k-1.
        groups, k, balanced: as in `fitted`.
    """
    prepared = Prepared.by(model, x)
    with warnings.catch_warnings():
        # Warnings about folds without a rare class, and about fits that stop early.
        warnings.simplefilter("ignore")
        estimator = _estimator(model, prepared.table, y, groups=groups, k=k, balanced=balanced)
    columns = np.isin(np.arange(k), estimator.classes_)
    part, arrays = prepared.plain_part(estimator, columns)
    arrays = _named("parts.0", arrays) | {"centre": np.zeros(k)}
    return _Fit(parts=[part], arrays=arrays, about=_about(estimator))


def _estimator(
    model: str,
    x: np.ndarray,
    y: np.ndarray,
    *,
    groups: np.ndarray | None,
    k: int = 0,
    balanced: bool = False,
) -> Any:
    """Return a scikit-learn model fitted to classes, y [n] int64, or to numbers, y [n] or [n, K].

    It is a constant if no other model can be fitted. `k` and `balanced` matter for classes only.
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
    """Return the C of a logistic regression with the lowest 0-1 error in cross-validation.

    Among equal errors, the lowest log-loss decides.
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
        # One model serves all C: each fit starts from the coefficients of the fit before.
        model = LogisticRegression(
            max_iter=100,
            tol=1e-3,
            warm_start=True,
            class_weight="balanced" if balanced else None,
        )
        for i, c in enumerate(CS):
            model.set_params(C=c).fit(x[train], y[train])
            probabilities = np.full((len(test), k), plain.LEAST)
            probabilities[:, model.classes_] = model.predict_proba(x[test])
            scores = np.log(np.maximum(probabilities, plain.LEAST))
            fold_wrong, fold_loss = _losses(scores, y[test], weights)
            wrong[i] += fold_wrong
            loss[i] += fold_loss
    # No fold could be used; 1 is scikit-learn's default.
    if not loss.any():
        return 1.0
    best_first = np.lexsort((loss, wrong))
    return float(CS[best_first[0]])


def _losses(scores: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Return the 0-1 error and the log-loss of scores [m, k], summed over m samples.

    Each sample has the weight of its class; `weights` is [k].
    """
    is_wrong = scores.argmax(axis=1) != y
    true_scores = scores[np.arange(len(y)), y]
    return weights[y[is_wrong]].sum(), -(weights[y] * true_scores).sum()


def numbers(model: str, x: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> _Fit:
    """Fit models of numbers; they predict [m, K], 0 for outputs without a known target.

    Arguments as in `classes`, except y: [n, K], NaN where unknown. Outputs whose targets are known
    for the same samples are fitted together, except by boosting, whose models have one output.
    """
    centre = _centre(y)
    parts: list[dict[str, str]] = []
    arrays = {"centre": centre.astype(np.float64)}
    choices = []
    patterns, pattern_of = np.unique(~np.isnan(y), axis=1, return_inverse=True)
    for i, is_known in enumerate(patterns.T):
        together = np.flatnonzero(pattern_of.reshape(-1) == i)
        rows = np.flatnonzero(is_known)
        if not len(rows):
            # Outputs without a known target are predicted as 0.
            continue
        prepared = Prepared.by(model, x[rows])
        blocks = np.split(together, len(together)) if model == "boosting" else [together]
        for columns in blocks:
            target = y[np.ix_(rows, columns)] - centre[columns]
            if len(columns) == 1:
                target = target[:, 0]
            estimator = _estimator(model, prepared.table, target, groups=_taken(groups, rows))
            is_column = np.isin(np.arange(y.shape[1]), columns)
            part, part_arrays = prepared.plain_part(estimator, is_column)
            arrays |= _named(f"parts.{len(parts)}", part_arrays)
            parts.append(part)
            choices.append(_about(estimator))
    # Each choice once, and at most three.
    about = ", ".join(list(dict.fromkeys(choices))[:3])
    return _Fit(parts=parts, arrays=arrays, about=about)


def dense(form: str, x: np.ndarray, y: np.ndarray, *, k: int, balanced: bool, causal: bool) -> _Fit:
    """Fit a linear model of each position from the inputs around it, the same everywhere.

    For numbers the outputs are [m, K, *E]. The mean input and the mean target of every position are
    subtracted first, so that the model is the mean map plus a linear convolution. For classes the
    outputs are log-probabilities [m, k, *E], by a logistic regression on the inputs around a
    position, its coordinates and their squares.

    Args:
        form: maps, with y [n, K, *E], NaN where unknown; masks, with y [n, 1, *E] of 0 and 1, NaN
            where unknown, which become maps of two classes; class_maps, with y [n, *E] int64 in
            0..k-1, negative where unknown.
        x: [n, C, *E].
        k, balanced, causal: as in `fitted`.
    """
    windows = Windows.of_inputs(x, causal)
    arrays = {}
    if form == "maps":
        is_known = ~np.isnan(y)
        sums = np.where(is_known, y, 0).sum(axis=0)
        counts = np.maximum(is_known.sum(axis=0), 1)
        mean_map = sums / counts
        # A position without a known target gets the mean of all known targets.
        mean_map = np.where(is_known.any(axis=0), mean_map, y[is_known].mean())
        windows = replace(windows, centre=x.mean(axis=0, dtype=np.float64))
        arrays = {"input_centre": windows.centre, "mean_map": mean_map.astype(np.float64)}
        # [n, K, *E] -> [n, *E]
        is_known = is_known.any(axis=1)
    else:
        if form == "masks":
            # [n, 1, *E] -> [n, *E]
            y = y[:, 0]
            y = np.where(np.isnan(y), -1, y > 0.5).astype(np.int64)
        is_known = y >= 0
    table, positions = training_positions(windows, x, is_known, SEED)
    if form == "maps":
        targets = np.moveaxis(y - mean_map, 1, -1)[positions]
        fit = numbers("linear", table, targets, None)
    else:
        fit = classes(
            "linear",
            table,
            y[positions],
            groups=positions[0],
            k=2 if form == "masks" else k,
            balanced=balanced,
        )

    window_text = " x ".join(map(str, windows.window))
    return _Fit(
        parts=fit.parts,
        arrays=fit.arrays | arrays,
        about=f"window {window_text}, {fit.about}",
        sides=windows.sides,
    )


def _centre(y: np.ndarray) -> np.ndarray:
    """Return the numbers that are subtracted from targets [n, K] before a fit, [K].

    For float64 targets they are the first known target of each output, else 0. Targets are float64
    if they are far from zero. A forest adds up squares, in which rounding would then hide the
    differences between targets. The difference between two targets is exact.
    """
    if y.dtype != np.float64:
        return np.zeros(y.shape[1], y.dtype)
    is_known = ~np.isnan(y)
    first_known = is_known.argmax(axis=0)
    columns = np.arange(y.shape[1])
    return np.nan_to_num(y[first_known, columns])


def _about(estimator: Any) -> str:
    """Return in words the hyperparameters that were chosen in fitting a model."""
    for name, text in (("alpha_", "alpha={:g}"), ("C", "C={:g}"), ("n_estimators", "{} trees")):
        if hasattr(estimator, name):
            return text.format(getattr(estimator, name))
    return "scikit-learn's defaults" if hasattr(estimator, "max_iter") else "constant"


def _group_folds(groups: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Return folds of whole groups; None without groups, or if all samples are in one group."""
    from sklearn.model_selection import GroupKFold

    if groups is None:
        return None
    count = len(np.unique(groups))
    if count < 2:
        return None
    return list(GroupKFold(min(FOLDS, count)).split(np.zeros(len(groups)), groups=groups))
