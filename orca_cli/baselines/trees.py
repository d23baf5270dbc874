"""Forests and boosted trees as arrays, which predict the same bits as scikit-learn's.

Imports neither torch nor scikit-learn: `forest_arrays` and `boosting_arrays` only read attributes
of what scikit-learn has fitted.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from orca_cli.baselines.foreign_arrays import ForeignArrays

# Levels of a tree. Trees of some thousand samples have fewer, and a forged chain of millions of
# nodes would take hours.
_DEEPEST = 4096
_LEAF = -1


@dataclass(frozen=True)
class Trees:
    """The nodes of all trees, one tree behind the other; N nodes, T trees."""

    # The first node of each tree, and N: [T + 1].
    starts: np.ndarray
    # Which feature a node looks at, and up to which value a sample goes left: [N].
    feature: np.ndarray
    threshold: np.ndarray
    # Whether a sample whose feature is NaN goes left: [N].
    missing: np.ndarray
    # The nodes below, behind their parent in its own tree; -1 for leaves: [N].
    left: np.ndarray
    right: np.ndarray
    # Of a leaf, its row in `value`: [N].
    row: np.ndarray
    # [R, C]
    value: np.ndarray

    @classmethod
    def read(cls, arrays: ForeignArrays, width: int) -> "Trees":
        """Return trees on `width` features from arrays that may be forged.

        Raises:
            UnsafeError: an evaluation would leave the arrays, or would not end soon.
        """
        feature = arrays.take("feature", np.int32, (None,))
        nodes = (len(feature),)
        trees = cls(
            starts=arrays.take("starts", np.int64, (None,)),
            feature=feature,
            threshold=arrays.take("threshold", np.float64, nodes, infinite=True),
            missing=arrays.take("missing", np.bool_, nodes),
            left=arrays.take("left", np.int32, nodes),
            right=arrays.take("right", np.int32, nodes),
            row=arrays.take("row", np.int32, nodes),
            value=arrays.take("value", np.float64, (None, None)),
        )
        trees._check(arrays, width)
        return trees

    def _check(self, arrays: ForeignArrays, width: int) -> None:
        num_nodes = len(self.feature)
        is_whole = len(self.starts) > 1 and self.starts[0] == 0 and self.starts[-1] == num_nodes
        # Compared, since differences of forged numbers overflow.
        if not is_whole or (self.starts[1:] <= self.starts[:-1]).any():
            raise arrays.error("starts", "does not divide the nodes among trees")
        is_leaf = self.left == _LEAF
        inner = np.flatnonzero(~is_leaf)
        ends = np.repeat(self.starts[1:], np.diff(self.starts))
        for name, children in (("left", self.left[inner]), ("right", self.right[inner])):
            if ((children <= inner) | (children >= ends[inner])).any():
                raise arrays.error(name, "has a child that is not behind its parent in its tree")
        parents = np.bincount(
            np.concatenate([self.left[inner], self.right[inner]]), minlength=num_nodes
        )
        # Otherwise a few nodes could make endlessly many paths.
        parents[self.starts[:-1]] += 1
        if (parents != 1).any() or (self.right[is_leaf] != _LEAF).any():
            raise arrays.error("right", "has a node without a parent, or with several")
        if ((self.feature[inner] < 0) | (self.feature[inner] >= width)).any():
            raise arrays.error("feature", f"names a feature outside of the {width}")
        if ((self.row[is_leaf] < 0) | (self.row[is_leaf] >= len(self.value))).any():
            raise arrays.error("row", "names a row that 'value' does not have")
        level = self.starts[:-1]
        for _ in range(_DEEPEST):
            level = level[~is_leaf[level]]
            level = np.concatenate([self.left[level], self.right[level]])
            if not len(level):
                return
        raise arrays.error("left", f"has a tree of more than {_DEEPEST} levels")

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Return the rows of `value` that samples x [m, F] reach in every tree, [T, m]."""
        roots = self.starts[:-1]
        # All samples go through all trees at once, level by level.
        nodes = np.repeat(roots, len(x))
        active = np.flatnonzero(self.left[nodes] != _LEAF)
        while len(active):
            at = nodes[active]
            values = x[active % len(x), self.feature[at]]
            goes_left = np.where(np.isnan(values), self.missing[at], values <= self.threshold[at])
            below = np.where(goes_left, self.left[at], self.right[at])
            nodes[active] = below
            active = active[self.left[below] != _LEAF]
        return self.row[nodes].reshape(len(roots), len(x))


@dataclass(frozen=True)
class Forest:
    """Trees whose values are averaged: the probabilities of classes, or numbers."""

    trees: Trees

    @classmethod
    def read(cls, arrays: ForeignArrays, width: int) -> "Forest":
        """Return a forest on `width` features from arrays that may be forged; UnsafeError."""
        return cls(Trees.read(arrays, width))

    @property
    def sizes(self) -> tuple[int, int]:
        """Return how many scores a sample gets, and how many trees are gone through for it."""
        return self.trees.value.shape[1], len(self.trees.starts)

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return the mean [m, C] over all trees for samples x [m, F]."""
        # scikit-learn compares in float32, and adds up in the order of the trees.
        rows = self.trees.rows(x.astype(np.float32))
        total = np.zeros((len(x), self.trees.value.shape[1]))
        for tree_rows in rows:
            total += self.trees.value[tree_rows]
        return total / len(rows)


@dataclass(frozen=True)
class Boosting:
    """Trees whose values are added up: each adds to a score, in turn."""

    trees: Trees
    # The scores before the first tree, [C].
    baseline: np.ndarray

    @classmethod
    def read(cls, arrays: ForeignArrays, width: int) -> "Boosting":
        """Return boosted trees on `width` features from arrays that may be forged; UnsafeError."""
        trees = Trees.read(arrays, width)
        baseline = arrays.take("baseline", np.float64, (None,))
        if trees.value.shape[1] != 1 or not len(baseline):
            raise arrays.error("value", "is not a number a leaf that adds to a score")
        return cls(trees, baseline)

    @property
    def sizes(self) -> tuple[int, int]:
        """Return how many scores a sample gets, and how many trees are gone through for it."""
        return len(self.baseline), len(self.trees.starts)

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return the sums [m, C] for samples x [m, F]."""
        total = np.tile(self.baseline, (len(x), 1))
        for number, tree_rows in enumerate(self.trees.rows(x)):
            total[:, number % len(self.baseline)] += self.trees.value[tree_rows, 0]
        return total


def forest_arrays(estimator: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a fitted RandomForestClassifier or RandomForestRegressor."""
    nodes = []
    for fitted_tree in estimator.estimators_:
        tree = fitted_tree.tree_
        # [nodes, K, 1] of numbers, [nodes, 1, classes] of classes.
        value = tree.value.reshape(tree.node_count, -1)
        nodes.append(
            {
                "left": tree.children_left,
                "right": tree.children_right,
                "feature": tree.feature,
                "threshold": tree.threshold,
                "missing": tree.missing_go_to_left,
                "value": value,
            }
        )
    return _joined(nodes)


def boosting_arrays(estimator: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a fitted HistGradientBoostingClassifier or -Regressor.

    scikit-learn has no public way to its trees. All that this program reads of private attributes
    is here. Features are numbers, never categories.
    """
    nodes = []
    for iteration in estimator._predictors:
        for predictor in iteration:
            fields = predictor.nodes
            is_leaf = fields["is_leaf"].astype(bool)
            nodes.append(
                {
                    "left": np.where(is_leaf, _LEAF, fields["left"].astype(np.int64)),
                    "right": fields["right"],
                    "feature": fields["feature_idx"],
                    "threshold": fields["num_threshold"],
                    "missing": fields["missing_go_to_left"],
                    "value": fields["value"][:, None],
                }
            )
    return _joined(nodes) | {"baseline": estimator._baseline_prediction.reshape(-1)}


def _joined(trees: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays of `Trees` from the nodes of each tree, numbered from 0."""
    parts: dict[str, list[np.ndarray]] = {}
    starts = [0]
    num_rows = 0
    for nodes in trees:
        is_leaf = nodes["left"] == _LEAF
        # Pure leaves of a class all have the same value.
        value, rows = np.unique(nodes["value"][is_leaf], axis=0, return_inverse=True)
        row = np.zeros(len(is_leaf), np.int32)
        row[is_leaf] = num_rows + rows.reshape(-1)
        columns = {
            "feature": np.where(is_leaf, 0, nodes["feature"]).astype(np.int32),
            "threshold": np.where(is_leaf, 0.0, nodes["threshold"]),
            "missing": nodes["missing"].astype(bool),
            "row": row,
            "value": value,
        }
        for side in ("left", "right"):
            children = nodes[side].astype(np.int64) + starts[-1]
            columns[side] = np.where(is_leaf, _LEAF, children).astype(np.int32)
        for name, column in columns.items():
            parts.setdefault(name, []).append(column)
        starts.append(starts[-1] + len(is_leaf))
        num_rows += len(value)
    joined = {name: np.concatenate(columns) for name, columns in parts.items()}
    return joined | {"starts": np.array(starts)}
