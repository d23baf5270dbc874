"""Errors of predicted distance maps of proteins, over a whole split."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from orca_cli.config.ranges import Count, Positive
from orca_cli.interfaces import Score
from orca_cli.scoring.checks import check_fit, check_numbers

_LEAST = 0.01  # no two atoms are closer, in Angstrom


class LongRangeMAE:
    """Mean over proteins of the mean absolute error, in Angstrom, over residues far apart in sequence and near in space.

    The pairs i < j with j - i >= separation whose true distance is known and at most `threshold` count: "MAE8, long
    range" of PDNET (Adhikari 2020) at the defaults. The prediction of a pair is the mean of its two entries, and at
    least 0.01. Proteins without such a pair are skipped.

    Args:
        separation: least distance along the sequence, in residues.
        threshold: largest true distance in Angstrom.
        symmetrize_twice: the released code averaged a map with its own transpose in place and then once more, which
            leaves 3/4 of the entry below the diagonal and 1/4 of the one above.
    """

    percent = False

    def __init__(self, separation: Count = 24, threshold: Positive = 8.0, symmetrize_twice: bool = False) -> None:
        self._separation, self._threshold = separation, threshold
        self._below = 0.75 if symmetrize_twice else 0.5
        self.name = f"long-range MAE{threshold:g}"

    def __call__(self, outputs: Tensor, targets: Tensor, groups: Tensor | None = None) -> Score:
        """Return the error of maps [n, 1, W, W] in Angstrom; `n` and `skipped` count proteins.

        Targets are NaN outside a protein's own L x L block and where unknown.
        """
        fits = outputs.ndim == 4 and outputs.shape == targets.shape and outputs.shape[1::2] == (1, outputs.shape[2])
        check_fit(fits, outputs, targets, "distance maps (n, 1, W, W)")
        errors = []
        for index, rows, columns in self._pairs(targets):
            above, below = outputs[index, 0, rows, columns].double(), outputs[index, 0, columns, rows].double()
            predicted = (self._below * below + (1 - self._below) * above).clamp_min(_LEAST)
            # clamp_min keeps NaN but would turn minus infinity into a distance.
            check_numbers(~(above.isfinite() & below.isfinite()), f"NaN or infinite in protein {index}")
            errors.append(float((predicted - targets[index, 0, rows, columns]).abs().mean()))
        return Score(sum(errors) / len(errors) if errors else None, len(errors), len(outputs) - len(errors))

    def constant(self, train_targets: Tensor, num_outputs: int) -> Tensor:
        """Return [1, W, W], the one distance whose error over the training proteins is least.

        It is the median over their pairs, each weighted by one over its protein's number of pairs; half the threshold
        where no protein has any.
        """
        distances, weights = [], []
        for index, rows, columns in self._pairs(train_targets):
            distances.append(train_targets[index, 0, rows, columns])
            weights.append(torch.full((len(rows),), 1 / len(rows), dtype=torch.float64))
        value = self._threshold / 2
        if distances:
            ranked, order = torch.cat(distances).sort()
            mass = torch.cat(weights)[order].cumsum(0)
            value = float(ranked[int(torch.searchsorted(mass, mass[-1] / 2))])
        return torch.full(tuple(train_targets.shape[1:]), value)

    def _pairs(self, targets: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield each protein that has pairs, with their rows and columns; memory is that of one map."""
        for index, target in enumerate(targets):
            near = torch.triu(target[0] <= self._threshold, self._separation)  # NaN compares as False
            rows, columns = near.nonzero(as_tuple=True)
            if len(rows):
                yield index, rows, columns
