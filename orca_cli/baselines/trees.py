"""Forests and boosted trees as arrays, which predict the same bits as scikit-learn's models.

This module imports neither torch nor scikit-learn: `of_forest` and `of_boosting` only read
attributes of fitted scikit-learn models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from orca_cli.baselines.foreign_arrays import taken
from orca_cli.exceptions import UnsafeError

# Largest number of levels of a tree. Trees of some thousand samples have fewer levels, while a
# forged chain of millions of nodes would take hours.
_DEEPEST = 4096
_LEAF = -1
# Array -> its type and axes: N nodes, T trees, R rows of W values, C scores.
_FORMS = {
    "roots": (np.int64, "T"),
    "feature": (np.int32, "N"),
    "threshold": (np.float64, "N"),
    "missing": (np.bool_, "N"),
    "left": (np.int32, "N"),
    "right": (np.int32, "N"),
    "row": (np.int32, "N"),
    "value": (np.float64, "RW"),
    "intercept": (np.float64, "C"),
}


@dataclass(frozen=True)
class Trees:
    """Trees whose values are averaged, as in a forest, or added up."""

    is_mean: bool
    # The first node of each tree, [T].
    roots: np.ndarray
    # Feature that a node compares, and the largest value with which a sample goes left: [N].
    feature: np.ndarray
    threshold: np.ndarray
    # Whether a sample whose feature is NaN goes left: [N].
    missing: np.ndarray
    # Child nodes, which come after their parent; `left` of a leaf is -1: [N].
    left: np.ndarray
    right: np.ndarray
    # Row in `value`, for a leaf: [N].
    row: np.ndarray
    # Values of all scores, [R, C], or of a single score, [R, 1]; in the latter case the trees add
    # to the scores in turn.
    value: np.ndarray
    # The scores before the first tree, [C].
    intercept: np.ndarray

    @classmethod
    def read(
        cls, arrays: Mapping[str, np.ndarray], prefix: str, width: int, is_mean: bool
    ) -> "Trees":
        """Return trees on `width` features from untrusted arrays.

        Raises:
            UnsafeError: evaluating the trees would index outside the arrays, or would take hours.
        """
        own_arrays = taken(arrays, _FORMS, prefix, {})
        for name in ("feature", "left", "right", "row"):
            # NumPy indexes fastest by this type, which takes twice the space in a file.
            own_arrays[name] = own_arrays[name].astype(np.intp)
        trees = cls(is_mean=is_mean, **own_arrays)
        trees._check(prefix, width)
        return trees

    def _check(self, prefix: str, width: int) -> None:
        num_nodes = len(self.feature)
        is_leaf = self.left == _LEAF
        inner = np.flatnonzero(~is_leaf)
        # Arrays of indices, each with the smallest allowed index and the end of the allowed range.
        for name, indices, least, end in (
            ("left", self.left[inner], inner + 1, num_nodes),
            ("right", self.right[inner], inner + 1, num_nodes),
            ("feature", self.feature[inner], 0, width),
            ("row", self.row[is_leaf], 0, len(self.value)),
        ):
            if ((indices < least) | (indices >= end)).any():
                raise UnsafeError(f"array '{prefix}{name}' has an index that is out of range")
        if not len(self.roots) or self.value.shape[1] not in (1, len(self.intercept)):
            raise UnsafeError(
                f"array '{prefix}roots' is empty, or array '{prefix}value' has neither one column "
                "nor one column for each score"
            )
        # Otherwise a few nodes could form endless paths.
        entered = np.concatenate([self.roots, self.left[inner], self.right[inner]])
        if not np.array_equal(np.sort(entered), np.arange(num_nodes)):
            raise UnsafeError(
                f"arrays '{prefix}roots', '{prefix}left' and '{prefix}right' together do not "
                "contain each node exactly once"
            )
        level = self.roots
        for _ in range(_DEEPEST):
            level = level[~is_leaf[level]]
            level = np.concatenate([self.left[level], self.right[level]])
            if not len(level):
                return
        raise UnsafeError(
            f"a decision tree (arrays '{prefix}left' and '{prefix}right') has more levels than the "
            f"limit of {_DEEPEST}"
        )

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return the scores [m, C] of samples x [m, F], which are compared as float32."""
        x = np.ascontiguousarray(x, np.float32)
        total = np.tile(self.intercept, (len(x), 1))
        num_values = self.value.shape[1]
        # The order of scikit-learn, so that the sums have the same bits.
        for number, root in enumerate(self.roots):
            first = number * num_values % len(self.intercept)
            total[:, first : first + num_values] += self.value[self._rows(x, root)]
        if self.is_mean:
            total /= len(self.roots)
        return total

    def _rows(self, x: np.ndarray, root: int) -> np.ndarray:
        """Return the rows of `value` that samples x [m, F] reach in a tree, [m]."""
        reached = np.full(len(x), root)
        # All samples that are not at a leaf go down a level together. `take` indexes fastest.
        samples = np.flatnonzero(self.left.take(reached) != _LEAF)
        nodes = reached.take(samples)
        while len(samples):
            values = x.take(samples * x.shape[1] + self.feature.take(nodes))
            goes_left = values <= self.threshold.take(nodes)
            goes_left |= np.isnan(values) & self.missing.take(nodes)
            nodes = np.where(goes_left, self.left.take(nodes), self.right.take(nodes))
            reached[samples] = nodes
            inner = np.flatnonzero(self.left.take(nodes) != _LEAF)
            samples = samples.take(inner)
            nodes = nodes.take(inner)
        return self.row.take(reached)


def of_forest(estimator: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a fitted RandomForestClassifier or RandomForestRegressor."""
    trees = []
    for fitted_tree in estimator.estimators_:
        tree = fitted_tree.tree_
        nodes = {
            "left": tree.children_left,
            "right": tree.children_right,
            "feature": tree.feature,
            "threshold": tree.threshold,
            "missing": tree.missing_go_to_left,
            # [nodes, K, 1] for numbers, [nodes, 1, classes] for classes.
            "value": tree.value.reshape(tree.node_count, -1),
        }
        trees.append(nodes)
    return _joined(trees) | {"intercept": np.zeros(trees[0]["value"].shape[1])}


def of_boosting(estimator: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a fitted HistGradientBoostingClassifier or -Regressor.

    scikit-learn does not publish these trees. Only this function reads its private attributes.
    Features are numbers, never categories.
    """
    trees = []
    for iteration in estimator._predictors:
        for predictor in iteration:
            fields = predictor.nodes
            nodes = {
                "left": np.where(fields["is_leaf"], _LEAF, fields["left"].astype(np.int64)),
                "right": fields["right"],
                "feature": fields["feature_idx"],
                "threshold": fields["num_threshold"],
                "missing": fields["missing_go_to_left"],
                "value": fields["value"][:, None],
            }
            trees.append(nodes)
    return _joined(trees) | {"intercept": estimator._baseline_prediction.reshape(-1)}


def _joined(trees: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays of all trees together, from trees whose nodes are numbered from 0."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in _FORMS}
    num_nodes = 0
    num_rows = 0
    for nodes in trees:
        is_leaf = nodes["left"] == _LEAF
        leaf_values = np.where(is_leaf[:, None], nodes["value"], 0.0)
        # Equal rows are stored once: all pure leaves of a class have the same values.
        value, row = np.unique(leaf_values, axis=0, return_inverse=True)
        columns["roots"].append(np.array([num_nodes]))
        columns["row"].append(row.reshape(-1) + num_rows)
        columns["value"].append(value)
        columns["feature"].append(nodes["feature"])
        # A threshold is infinite if only missing values go right.
        columns["threshold"].append(np.nan_to_num(nodes["threshold"]))
        columns["missing"].append(nodes["missing"])
        for side in ("left", "right"):
            columns[side].append(np.where(is_leaf, _LEAF, nodes[side] + num_nodes))
        num_nodes += len(is_leaf)
        num_rows += len(value)
    del columns["intercept"]
    return {name: np.concatenate(parts).astype(_FORMS[name][0]) for name, parts in columns.items()}
