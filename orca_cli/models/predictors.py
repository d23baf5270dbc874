"""The predictors (paper 3.1, h).

The pooled predictor has outputs for each sample, the dense predictor for each position.

Shapes: B samples, T tokens without the prefix, F the width of features, K outputs.
"""

from torch import Tensor, nn

from orca_cli.interfaces import TokenLayout, Tokens
from orca_cli.models.geometry import from_canvas


class PooledPredictor(nn.Module):
    """Features to K outputs: pooling, then a linear layer (paper 3.1).

    A second linear layer, which starts at 0, takes the features that bypassed the body.

    Args:
        width: F.
        outputs: K.
        pooling: "mean" over the valid tokens without the prefix, or "class_token", the first token
            of the prefix.
        sample_width: S, the width of `Tokens.samples`; 0 if no features bypass the body.
    """

    def __init__(self, width: int, outputs: int, pooling: str, sample_width: int = 0) -> None:
        super().__init__()
        self.pooling = pooling
        self.linear = nn.Linear(width, outputs)
        self.skip: nn.Linear | None = None
        if sample_width:
            # At first the outputs depend on the body's features alone.
            self.skip = nn.Linear(sample_width, outputs, bias=False)
            nn.init.zeros_(self.skip.weight)

    def forward(self, features: Tokens) -> Tensor:
        """Return the outputs, [B, K]."""
        outputs: Tensor = self.linear(self.pool(features))
        if self.skip is not None:
            outputs = outputs + self.skip(features.samples)
        return outputs

    def pool(self, features: Tokens) -> Tensor:
        """Return the inputs of the first layer, [B, F]."""
        if self.pooling == "class_token":
            # The classification token is the first of the prefix.
            return features.x[:, 0]
        return pooled(features)


def pooled(features: Tokens) -> Tensor:
    """Return [B, F], the mean over the valid tokens without the prefix."""
    token_features = features.x[:, features.prefix :]  # [B, T, F]
    mask = features.mask[:, features.prefix :]  # [B, T]
    weight = mask.unsqueeze(-1).to(token_features.dtype)
    total = (token_features * weight).sum(1)
    # A sample without valid tokens gets 0 instead of NaN.
    token_count = weight.sum(1).clamp(min=1)
    return total / token_count


class DensePredictor(nn.Module):
    """Features to a map with K channels of the input's extent: linear layer, then pixel shuffle.

    A feature gives K values at each of the (k * downsampling)^axes positions of the canvas that it
    covers (paper 3.1, Shi et al. 2016). Values beyond the canvas are cut off, and the map is
    brought back to the input's extent.

    Args:
        width: F.
        outputs: K.
        layout: how the embedder cut the input into tokens.
        downsampling: factor per axis by which the body's grid is coarser than the embedder's.
    """

    def __init__(self, width: int, outputs: int, layout: TokenLayout, downsampling: int) -> None:
        super().__init__()
        self.layout = layout
        self.factor = layout.kernel * downsampling
        positions_per_token = self.factor ** len(layout.extent)
        self.linear = nn.Linear(width, outputs * positions_per_token)

    def forward(self, features: Tokens) -> Tensor:
        """Return the outputs, [B, K, *E]."""
        token_features = features.x[:, features.prefix :]  # [B, T, F]
        values = self.linear(token_features)  # [B, T, K * factor^axes]
        maps = shuffle(values, features.grid, self.factor)
        # Tokens of the last row or column may reach beyond the canvas.
        for axis, size in enumerate(self.layout.extent):
            maps = maps.narrow(2 + axis, 0, size)
        return from_canvas(maps, self.layout)


def shuffle(values: Tensor, grid: tuple[int, ...], factor: int) -> Tensor:
    """Spread each token's values over the patch that it covers, `factor` along each axis.

    Args:
        values: [B, T, K * factor^axes], the channel first, then the position inside the patch, row
            by row.
        grid: extent of the T tokens.
        factor: number of positions of a token along each axis.

    Returns:
        [B, K, *(grid * factor)].
    """
    axes = len(grid)
    patch = (factor,) * axes
    split = values.unflatten(-1, (-1, *patch))
    split = split.unflatten(1, grid)  # [B, *grid, K, *patch]
    # Batch and channel first; then, axis by axis, the grid and its patch.
    axis_order = [0, 1 + axes]
    for axis in range(axes):
        axis_order += [1 + axis, 2 + axes + axis]
    interleaved = split.permute(axis_order)  # [B, K, grid, patch, grid, patch, ...]
    extent = [size * factor for size in grid]
    return interleaved.reshape(values.shape[0], -1, *extent)
