"""The predictors (paper 3.1, h): pooled for one output per sample, dense for one at every position."""

from torch import Tensor, nn

from orca_cli.interfaces import TokenLayout, Tokens
from orca_cli.models.geometry import from_canvas


class PooledPredictor(nn.Module):
    """Features to K outputs: pooling, then a linear layer (paper 3.1), and a second one for features that went past the body.

    Args:
        width, outputs: F, K.
        pooling: "mean" over the valid tokens but those of the prefix, or "class_token", the first of the prefix.
        sample_width: S, of `Tokens.samples`; 0 where there are none. Their layer starts at 0.
    """

    def __init__(self, width: int, outputs: int, pooling: str, sample_width: int = 0) -> None:
        super().__init__()
        self.pooling = pooling
        self.linear = nn.Linear(width, outputs)
        self.skip = nn.Linear(sample_width, outputs, bias=False) if sample_width else None
        if self.skip is not None:
            nn.init.zeros_(self.skip.weight)

    def forward(self, features: Tokens) -> Tensor:
        """Return [B, K]."""
        outputs: Tensor = self.linear(self.pool(features))
        return outputs if self.skip is None else outputs + self.skip(features.samples)

    def pool(self, features: Tokens) -> Tensor:
        """Return what the first layer sees, [B, F]."""
        return features.x[:, 0] if self.pooling == "class_token" else pooled(features)


def pooled(features: Tokens) -> Tensor:
    """Return [B, F], the mean over the valid tokens but those of the prefix."""
    x = features.x[:, features.prefix :]
    weight = features.mask[:, features.prefix :].to(x.dtype).unsqueeze(-1)  # [B, T, 1]
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)


class DensePredictor(nn.Module):
    """Features to a map with K channels of the input's extent: linear layer, then pixel shuffle (paper 3.1, Shi et al. 2016).

    A feature gives K values at each of the (k * downsampling)^axes positions of the canvas that it stands for. What lies beyond
    the canvas is cut off, and the map is brought back to the input's extent.

    Args:
        width, outputs: F, K.
        layout: how the embedder cut the input into tokens.
        downsampling: how much coarser the body's grid is than the embedder's, per axis.
    """

    def __init__(self, width: int, outputs: int, layout: TokenLayout, downsampling: int) -> None:
        super().__init__()
        self.layout = layout
        self.factor = layout.kernel * downsampling
        self.linear = nn.Linear(width, outputs * self.factor ** len(layout.extent))

    def forward(self, features: Tokens) -> Tensor:
        """Return [B, K, *E]."""
        maps = shuffle(self.linear(features.x[:, features.prefix :]), features.grid, self.factor)
        for axis, size in enumerate(self.layout.extent):  # drop the padding at the end
            maps = maps.narrow(2 + axis, 0, size)
        return from_canvas(maps, self.layout)


def shuffle(values: Tensor, grid: tuple[int, ...], factor: int) -> Tensor:
    """Spread each token's values over the patch that it stands for, `factor` along each axis; returns [B, K, *(grid * factor)].

    `values` [B, T, K * factor^axes] hold the channel first, then the position inside the patch, row by row.
    """
    axes = len(grid)
    split = values.unflatten(-1, (-1, *(factor,) * axes)).unflatten(
        1, grid
    )  # [B, *grid, K, *patch]
    pairs = [place for axis in range(1, 1 + axes) for place in (axis, 1 + axes + axis)]
    interleaved = split.permute(0, 1 + axes, *pairs)  # [B, K, grid, patch, grid, patch]
    return interleaved.reshape(values.shape[0], -1, *(size * factor for size in grid))
