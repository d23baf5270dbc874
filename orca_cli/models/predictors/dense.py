"""The predictor of tasks with an output at every position: linear, then pixel shuffle (paper 3.1, h; Shi et al. 2016)."""

from __future__ import annotations

from torch import Tensor, nn

from orca_cli.interfaces import TokenLayout, Tokens
from orca_cli.models.canvas import from_canvas


class DensePredictor(nn.Module):
    """Features to a map with K channels of the input's extent."""

    def __init__(self, width: int, outputs: int, layout: TokenLayout, downsampling: int) -> None:
        """Make the linear layer.

        Args:
            width: F.
            outputs: K.
            layout: how the embedder cut the input into tokens.
            downsampling: how much coarser the body's grid is than the embedder's, per axis.
        """
        super().__init__()
        self.layout, self.outputs = layout, outputs
        self.factor = layout.kernel * downsampling
        self.linear = nn.Linear(width, outputs * self.factor ** len(layout.extent))

    def forward(self, features: Tokens) -> Tensor:
        """Return [B, K, *E]."""
        maps = shuffle(self.linear(features.x[:, features.prefix :]), features.grid, self.factor)
        for axis, size in enumerate(self.layout.extent):  # drop the padding at the end
            maps = maps.narrow(2 + axis, 0, size)
        return from_canvas(maps, self.layout)


def shuffle(values: Tensor, grid: tuple[int, ...], factor: int) -> Tensor:
    """Spread each token's values over the patch that the token stands for.

    Args:
        values: [B, T, K * factor^axes]; channel first, then the position inside the patch, row by row.
        grid: tokens per axis, one or two axes.
        factor: patch size per axis.

    Returns:
        [B, K, *(grid * factor)].
    """
    axes = len(grid)
    patch = (factor,) * axes
    split = values.unflatten(-1, (-1, *patch)).unflatten(1, grid)  # [B, *grid, K, *patch]
    channel = 1 + axes
    order = [0, channel]
    for axis in range(axes):
        order += [1 + axis, channel + 1 + axis]
    interleaved = split.permute(order)  # [B, K, grid, patch, grid, patch]
    sizes = [size * factor for size in grid]
    return interleaved.reshape(len(values), -1, *sizes)
