"""Forests and boosted trees as arrays, which predict the same bits as scikit-learn's.

Imports neither torch nor scikit-learn: `of_forest` and `of_boosting` only read attributes of what
scikit-learn has fitted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from orca_cli.baselines.foreign_arrays import taken
from orca_cli.exceptions import UnsafeError

# Levels of a tree. Trees of some thousand samples have fewer, and a forged chain of millions of
# nodes would take hours.
_DEEPEST = 4096
_LEAF = -1
# N nodes, T trees, R rows of W values, C scores.
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
    """Trees whose values are averaged, as those of a forest, or added up."""

    is_mean: bool
    # The first node of each tree, [T].
    roots: np.ndarray
    # Which feature a node looks at, and up to which value a sample goes left: [N].
    feature: np.ndarray
    threshold: np.ndarray
    # Whether a sample whose feature is NaN goes left: [N].
    missing: np.ndarray
    # The nodes below, behind their parent; `left` of a leaf is -1: [N].
    left: np.ndarray
    right: np.ndarray
    # Of a leaf, its row in `value`: [N].
    row: np.ndarray
    # Of all scores, [R, C], or of one, [R, 1]; then the trees add to the scores in turn.
    value: np.ndarray
    # The scores before the first tree, [C].
    intercept: np.ndarray

    @classmethod
    def read(
        cls, arrays: Mapping[str, np.ndarray], prefix: str, width: int, is_mean: bool
    ) -> "Trees":
        """Return trees on `width` features from arrays that may be forged.

        Raises:
            UnsafeError: an evaluation would leave the arrays, or would not end soon.
        """
        trees = cls(is_mean=is_mean, **taken(arrays, _FORMS, prefix, {}))
        trees._check(prefix, width)
        return trees

    def _check(self, prefix: str, width: int) -> None:
        num_nodes = len(self.feature)
        is_leaf = self.left == _LEAF
        inner = np.flatnonzero(~is_leaf)
        # Which numbers are indices, of what, and from where on.
        for name, indices, least, end in (
            ("left", self.left[inner], inner + 1, num_nodes),
            ("right", self.right[inner], inner + 1, num_nodes),
            ("feature", self.feature[inner], 0, width),
            ("row", self.row[is_leaf], 0, len(self.value)),
        ):
            if ((indices < least) | (indices >= end)).any():
                raise UnsafeError(f"array '{prefix}{name}' has an index out of its range")
        if not len(self.roots) or self.value.shape[1] not in (1, len(self.intercept)):
            raise UnsafeError(f"array '{prefix}value' does not have the values of the scores")
        # Otherwise a few nodes could make endlessly many paths.
        entered = np.concatenate([self.roots, self.left[inner], self.right[inner]])
        if not np.array_equal(np.sort(entered), np.arange(num_nodes)):
            raise UnsafeError(f"a node of '{prefix}left' and '{prefix}right' has not one parent")
        level = self.roots
        for _ in range(_DEEPEST):
            level = level[~is_leaf[level]]
            level = np.concatenate([self.left[level], self.right[level]])
            if not len(level):
                return
        raise UnsafeError(f"'{prefix}left' and '{prefix}right' have more than {_DEEPEST} levels")

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return the scores [m, C] of samples x [m, F], which are compared as float32."""
        x = x.astype(np.float32)
        total = np.tile(self.intercept, (len(x), 1))
        num_values = self.value.shape[1]
        # In the order of scikit-learn, so that the sums have its bits.
        for number, root in enumerate(self.roots):
            first = number * num_values % len(self.intercept)
            total[:, first : first + num_values] += self.value[self._rows(x, root)]
        if self.is_mean:
            total /= len(self.roots)
        return total

    def _rows(self, x: np.ndarray, root: int) -> np.ndarray:
        """Return the rows of `value` that samples x [m, F] reach in a tree, [m]."""
        nodes = np.full(len(x), root)
        # All samples together, level by level.
        samples = np.flatnonzero(self.left[nodes] != _LEAF)
        while len(samples):
            parents = nodes[samples]
            values = x[samples, self.feature[parents]]
            is_low = values <= self.threshold[parents]
            goes_left = np.where(np.isnan(values), self.missing[parents], is_low)
            below = np.where(goes_left, self.left[parents], self.right[parents])
            nodes[samples] = below
            samples = samples[self.left[below] != _LEAF]
        return self.row[nodes]


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
            # [nodes, K, 1] of numbers, [nodes, 1, classes] of classes.
            "value": tree.value.reshape(tree.node_count, -1),
        }
        trees.append(nodes)
    return _joined(trees) | {"intercept": np.zeros(trees[0]["value"].shape[1])}


def of_boosting(estimator: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a fitted HistGradientBoostingClassifier or -Regressor.

    scikit-learn has no public way to its trees: all that this program reads of private attributes
    is here. Features are numbers, never categories.
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
    """Return the arrays of all trees; the nodes of each are numbered from 0."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in _FORMS}
    num_nodes = 0
    num_rows = 0
    for nodes in trees:
        is_leaf = nodes["left"] == _LEAF
        leaf_values = np.where(is_leaf[:, None], nodes["value"], 0.0)
        # Once each: pure leaves of a class all have the same values.
        value, row = np.unique(leaf_values, axis=0, return_inverse=True)
        columns["roots"].append(np.array([num_nodes]))
        columns["row"].append(row.reshape(-1) + num_rows)
        columns["value"].append(value)
        columns["feature"].append(nodes["feature"])
        # Infinite where only missing values go right.
        columns["threshold"].append(np.nan_to_num(nodes["threshold"]))
        columns["missing"].append(nodes["missing"])
        for side in ("left", "right"):
            columns[side].append(np.where(is_leaf, _LEAF, nodes[side] + num_nodes))
        num_nodes += len(is_leaf)
        num_rows += len(value)
    del columns["intercept"]
    return {name: np.concatenate(parts).astype(_FORMS[name][0]) for name, parts in columns.items()}
