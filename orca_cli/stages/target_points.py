"""The target side of stage 2: points of a split, embedded a few samples at a time."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from orca_cli.interfaces import Batch, Samples, Tokens
from orca_cli.models.transfer import TransferModel
from orca_cli.stages.source_features import select_points
from orca_cli.training.engine import Engine
from orca_cli.training.loop import batches

EMBEDDED_VALUES = 2**26  # input values that are read at once (256 MiB in float32)


class Draw(NamedTuple):
    """The selection of points of some samples.

    Args:
        indices: indices of the samples to read, ascending.
        choose: function that gets the index of each point's sample, [p], and returns the rows of
            the points to take, each once, in an array of any shape.
    """

    indices: np.ndarray
    choose: Callable[[np.ndarray], np.ndarray]


# Points [*, d], in the shape that `Draw.choose` gives, and the sample of each, [*].
DrawnPoints = tuple[Tensor, np.ndarray]


def embed_points(
    model: TransferModel, engine: Engine, samples: Samples, draws: Sequence[Draw], features: str
) -> list[DrawnPoints]:
    """Return the points of each draw.

    If points are tokens and the embedder can compute single tokens (its `tokens_at`), only the
    drawn tokens are embedded.

    Args:
        model, engine: transfer and engine, which embed the samples.
        samples: split that the draws index.
        draws: which points to take.
        features: as in `Align.features`; d is T * D for "sequence", else D.
    """
    indices = np.concatenate([draw.indices for draw in draws])
    if features == "tokens" and getattr(model.embedder, "tokens_at", None) is not None:
        # Inputs are kept, since their masks decide which tokens are drawn before any is embedded.
        read_batches = list(_batches(model, engine, samples, indices))
        return _embed_drawn(model, read_batches, draws, indices)
    # [B, T, D]
    tokens = embed(model, engine, samples, indices)
    # [p, d] and [p]
    points, owners_of_points = select_points(tokens, features, model.embedder.layout.tokens)
    owners = owners_of_points.cpu().numpy()
    drawn = []
    for rows in _chosen(draws, owners):
        point_rows = torch.from_numpy(rows).to(points.device)
        drawn.append((points[point_rows], indices[owners[rows]]))
    return drawn


def _embed_drawn(
    model: TransferModel, read_batches: Sequence[Batch], draws: Sequence[Draw], indices: np.ndarray
) -> list[DrawnPoints]:
    """Return the tokens of each draw without embedding other tokens.

    Args:
        model: its embedder has `tokens_at`.
        read_batches: batches with the samples of all draws, in their order.
        draws: which tokens to take.
        indices: indices of the samples of all draws.
    """
    token_masks = [model.embedder.mask(batch.x, batch.valid) for batch in read_batches]
    # For every token except padding: its sample (a row of `indices`), and its position in the
    # sample.
    owners, positions = torch.cat(token_masks).cpu().numpy().nonzero()
    rows_of_draws = _chosen(draws, owners)
    # Ascending rows are in the order of samples, so that each batch embeds a contiguous piece of
    # them.
    rows = np.sort(np.concatenate(rows_of_draws, axis=None))
    pieces = []
    first_sample = 0
    for batch in read_batches:
        end_sample = first_sample + len(batch.x)
        batch_rows = rows[(owners[rows] >= first_sample) & (owners[rows] < end_sample)]
        # `tokens_at` counts samples from the start of the batch.
        batch_owners = torch.from_numpy(owners[batch_rows] - first_sample).to(batch.x.device)
        batch_positions = torch.from_numpy(positions[batch_rows]).to(batch.x.device)
        pieces.append(model.embedder.tokens_at(batch.x, batch.valid, batch_owners, batch_positions))
        first_sample = end_sample
    points = torch.cat(pieces)
    drawn = []
    for draw_rows in rows_of_draws:
        # `points` are in the order of `rows`, which are sorted.
        point_rows = torch.from_numpy(np.searchsorted(rows, draw_rows)).to(points.device)
        drawn.append((points[point_rows], indices[owners[draw_rows]]))
    return drawn


def _chosen(draws: Sequence[Draw], owners: np.ndarray) -> list[np.ndarray]:
    """Return the rows of the points that each draw takes.

    Args:
        draws: which points to take.
        owners: for every point, the position of its sample in all draws' indices, ascending.
    """
    rows_of_draws = []
    first_sample = 0
    for draw in draws:
        end_sample = first_sample + len(draw.indices)
        # `owners` ascend, so the points of a draw are neighbouring rows.
        first_point, end_point = np.searchsorted(owners, [first_sample, end_sample])
        # For every point of the draw, the sample that owns it.
        point_samples = draw.indices[owners[first_point:end_point] - first_sample]
        # `choose` counts rows from the first of them.
        rows_of_draws.append(first_point + draw.choose(point_samples))
        first_sample = end_sample
    return rows_of_draws


def embed(model: TransferModel, engine: Engine, samples: Samples, indices: np.ndarray) -> Tokens:
    """Return the embedder's tokens of some samples.

    Large samples are read a few at a time: the gradient does not need the inputs, but only their
    content on the body's canvas.
    """
    # All pieces stay in one graph: the caller differentiates through every sample.
    pieces = [
        model.embed(batch.x, batch.valid) for batch in _batches(model, engine, samples, indices)
    ]
    x = torch.cat([piece.x for piece in pieces])
    token_mask = torch.cat([piece.mask for piece in pieces])
    return replace(pieces[0], x=x, mask=token_mask)


def samples_at_once(model: TransferModel) -> int:
    """Return how many samples are read at once, as `EMBEDDED_VALUES` allows."""
    # A sample above the limit is read alone.
    return max(1, EMBEDDED_VALUES // math.prod(model.embedder.layout.input_shape))


def _batches(
    model: TransferModel, engine: Engine, samples: Samples, indices: np.ndarray
) -> Iterator[Batch]:
    """Yield the samples on the run's device."""
    for rows in batches(indices, samples_at_once(model)):
        yield engine.move(samples.batch(rows))
