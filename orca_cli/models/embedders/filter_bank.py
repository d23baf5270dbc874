"""A bank of dilated filters, whose answers around the positions of a patch are features of its token."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from orca_cli.interfaces import TokenLayout

# By number of axes: taps of a filter along each, and positions of a patch along each at which filters are asked.
_TAPS = {1: 9, 2: 3, 3: 3}
_PLACES = {1: 8, 2: 2, 3: 1}
_THRESHOLDS = 1.0  # they are spread over -1 to 1 deviation of an answer
_SLOPE = 6.0  # of the soft step at a threshold
_FLAT = 0.03  # deviations of the data below which a window counts as flat


class FilterBank(nn.Module):
    """Features [B, T, D] of a batch's canvas, local to their tokens but for the reach of the filters.

    Args:
        layout: how inputs become tokens.
        width: D.
        filters, scales: as in `Multiscale`.
    """

    taps: Tensor
    places: Tensor

    def __init__(self, layout: TokenLayout, width: int, *, filters: int, scales: int) -> None:
        super().__init__()
        extent, axes = layout.extent, len(layout.extent)
        reach = _TAPS[axes] // 2
        spacings = [2**scale for scale in range(scales) if scale == 0 or 2 * reach * 2**scale < max(extent)]
        asked = _asked(layout, min(layout.kernel, _PLACES[axes]))  # [T, M, axes]
        around = np.array(list(itertools.product(range(-reach, reach + 1), repeat=axes)))  # [taps, axes]
        windows = np.stack([asked[:, :, None] + spacing * around for spacing in spacings])  # [scales, T, M, taps, axes]
        self.register_buffer("places", _numbered(asked, extent), persistent=False)
        self.register_buffer("taps", _numbered(windows, extent), persistent=False)
        weight = torch.randn(len(spacings), filters, layout.input_shape[0], len(around))
        weight -= weight.mean(-1, keepdim=True)
        self.weight = nn.Parameter(functional.normalize(weight.flatten(2), dim=2).view_as(weight))
        self.threshold = nn.Parameter(torch.linspace(-_THRESHOLDS, _THRESHOLDS, filters).repeat(len(spacings), 1))
        self.projection = nn.Linear(len(spacings) * (2 * filters + 1), width)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, canvas: Tensor, valid: Tensor) -> Tensor:
        """Return features [B, T, D].

        Args:
            canvas: [B, C, *extent], 0 where it is not valid.
            valid: [B, *extent] bool.
        """
        x, known = _with_outside(canvas, valid)
        return self._features(known[:, self.places], [x[:, :, taps].movedim(1, 3) for taps in self.taps])

    def at(self, canvas: Tensor, valid: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """Return features [p, D] of token `places[i]` of sample `rows[i]` alone."""
        x, known = _with_outside(canvas, valid)
        windows = [x[rows[:, None, None], :, taps[places]].movedim(3, 2) for taps in self.taps]
        return self._features(known[rows[:, None], self.places[places]], windows)

    def _features(self, known: Tensor, windows: list[Tensor]) -> Tensor:
        """Return features [..., D] of what is seen around M positions of a token at every scale.

        Args:
            known: [..., M] bool, whether a position is in the input and no padding.
            windows: of each scale, [..., M, C, taps].
        """
        weight = known.unsqueeze(-1).to(windows[0].dtype)
        count = weight.sum(-2).clamp(min=1)
        found = []
        for seen, filters, threshold in zip(windows, self.weight, self.threshold, strict=True):
            shape = (seen - seen.mean(-1, keepdim=True)).flatten(-2)
            size = shape.square().mean(-1, keepdim=True).sqrt()
            # A random filter answers with a deviation of about 1, whatever the window's size is.
            answers = functional.linear(shape, filters.flatten(1)) / (size + _FLAT)
            share = torch.sigmoid(_SLOPE * (answers - threshold))
            found.append(2 * (share * weight).sum(-2) / count - 1)
            largest = answers.masked_fill(~known.unsqueeze(-1), -math.inf).amax(-2)
            found.append(largest.masked_fill(~known.any(-1, keepdim=True), 0.0))
            found.append((torch.log(size + _FLAT) * weight).sum(-2) / count)
        projected: Tensor = self.projection(torch.cat(found, -1))
        return projected


def _asked(layout: TokenLayout, each: int) -> np.ndarray:
    """Return the positions [T, M, axes] at which filters are asked, `each` per axis and patch; some lie beyond the end."""
    offsets = [int((place + 0.5) * layout.kernel / each) for place in range(each)]
    within = np.array(list(itertools.product(offsets, repeat=len(layout.grid))))
    return np.array(list(np.ndindex(*layout.grid)))[:, None] * layout.kernel + within


def _numbered(positions: np.ndarray, extent: tuple[int, ...]) -> Tensor:
    """Return positions [..., axes] as numbers in row-major order; those beyond the input get the number after the last."""
    inside = ((positions >= 0) & (positions < np.array(extent))).all(-1)
    clipped = np.clip(positions, 0, np.array(extent) - 1)
    numbers = np.ravel_multi_index(tuple(np.moveaxis(clipped, -1, 0)), extent)
    return torch.from_numpy(np.where(inside, numbers, math.prod(extent)))


def _with_outside(canvas: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return [B, C, P + 1] and [B, P + 1] of P positions and one outside, which holds 0 and is not valid."""
    return functional.pad(canvas.flatten(2), (0, 1)), functional.pad(valid.flatten(1), (0, 1))
