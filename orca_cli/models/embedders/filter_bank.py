"""A filter bank: dilated filters whose responses in patches and in a whole sample are features.

Shapes: B samples, C channels, *extent of the canvas (P positions in all), T tokens, M places in a
token's patch at which filters are evaluated, N filters of a scale, D the body's width.
"""

import hashlib
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from orca_cli.interfaces import TokenLayout

# Number of axes -> number along each axis of a filter's taps, and of the places in a patch at which
# filters are evaluated.
# On maps and volumes the product over the axes counts: 3 x 3 taps, 4 x 4 places.
_TAPS = {1: 9, 2: 3, 3: 3}
_PLACES = {1: 16, 2: 4, 3: 2}
_FLAT = 0.03  # deviations of the data below which a window counts as flat
_CONSTANT = 1e-4  # a feature is divided by its deviation only if that is larger
_FARTHEST = 5.0  # a feature is at most this many deviations from its mean
# Values of a sequence, or means of patches, are features of a sample only up to this number.
_MAX_VALUES = 1024
# A feature vector with more features is scaled down to the length of a vector with this number of
# features: otherwise a step of Adam would change the outputs of a layer with more inputs more.
_WIDE = 400
_MAX_BYTES = 2**28  # upper bound on the size of the features that a run caches


class FilterBank(nn.Module):
    """Features of every token, [B, T, D], and of whole samples, from a batch's canvas.

    The filters are random and never trained. `fit` learns from training data how to standardise the
    features. Two linear layers, which are trained, map the features to the body's width D. The
    features of a sample are added to the features of each of its tokens.

    Args:
        layout: how the canvas is cut into tokens.
        width: D; None if only features of whole samples are needed.
        filters, token_filters, scales, values: as in `patches.Multiscale`.

    Attributes:
        adds: whether it has features to add to tokens.
        sample_width: number of the features of a whole sample.
    """

    def __init__(
        self,
        layout: TokenLayout,
        width: int | None,
        *,
        filters: int,
        token_filters: int,
        scales: int,
        values: bool = False,
    ) -> None:
        super().__init__()
        # Content of a sample -> its features; and an identifier of the filters that computed them.
        self._cache = _FeatureCache()
        self._cached_filters = (0, 0)
        # Features of tokens use only the first filters of each scale; features of samples use all.
        self._token_filters = min(token_filters, filters)
        channels = layout.input_shape[0]
        centres = _centres(layout)  # [T, M, axes]
        windows = _windows(layout, scales)  # [scales, T, M, taps, axes]
        # Not stored: they follow from the layout.
        self.places = nn.Buffer(_numbered(centres, layout.extent), persistent=False)
        self.taps = nn.Buffer(_numbered(windows, layout.extent), persistent=False)
        num_scales = windows.shape[0]
        num_taps = windows.shape[3]
        # With mean 0, so that a filter does not respond to the level of an input, and with length
        # 1.
        weight = torch.randn(num_scales, filters, channels, num_taps)
        weight -= weight.mean(-1, keepdim=True)
        normalised = functional.normalize(weight.flatten(2), dim=2)
        # A buffer: stored with the model, moved with it, and never trained.
        self.weight = nn.Buffer(normalised.view_as(weight))

        is_sequence = len(layout.extent) == 1
        num_values = math.prod(layout.input_shape)
        num_means = channels * layout.tokens
        self._has_values = values and is_sequence and num_values <= _MAX_VALUES
        self._has_means = not self._has_values and num_means <= _MAX_VALUES
        self.adds = width is not None
        # `_answers` returns two features of every filter, and one feature of every scale.
        self.sample_width = num_scales * (2 * filters + 1)
        if self._has_values:
            self.sample_width += num_values
        elif self._has_means:
            self.sample_width += num_means
        token_width = num_scales * (2 * self._token_filters + 1)
        # Until `fit` is called, features are used as they are.
        self.token_mean = nn.Buffer(torch.zeros(token_width))
        self.token_deviation = nn.Buffer(torch.ones(token_width))
        self.sample_mean = nn.Buffer(torch.zeros(self.sample_width))
        self.sample_deviation = nn.Buffer(torch.ones(self.sample_width))
        if width is not None:
            self.token = _layer(token_width, width)
            self.sample = _layer(self.sample_width, width)

    def forward(self, canvas: Tensor, valid: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return features of tokens [B, T, D], or None without a width, and of samples [B, F].

        Features of samples are standardised, but not mapped to the width D. The canvas [B, C,
        *extent] is 0 where `valid` [B, *extent] is False.
        """
        token_features, sample_features = self._standardised(canvas, valid)
        if not self.adds:
            return None, sample_features
        shared = self.sample(sample_features).unsqueeze(1)  # [B, 1, D], the same for all tokens
        return self.token(token_features) + shared, sample_features

    def at(self, canvas: Tensor, valid: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return features [p, D] of p tokens, each of token `columns[i]` of sample `rows[i]`."""
        token_features, sample_features = self._standardised(canvas, valid)
        return self.token(token_features[rows, columns]) + self.sample(sample_features)[rows]

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Learn the features' means and deviations from training data.

        The batches are pairs (canvas, valid) as in `forward`.
        """
        token_moments = _Moments()
        sample_moments = _Moments()
        for canvas, valid in batches:
            token_features, sample_features, is_seen = self._cached_features(canvas, valid)
            # Padding would bring its zeros into the moments.
            token_moments.add(token_features[is_seen])
            sample_moments.add(sample_features[is_seen.any(1)])
        token_moments.write(self.token_mean, self.token_deviation)
        sample_moments.write(self.sample_mean, self.sample_deviation)

    @torch.no_grad()
    def _standardised(self, canvas: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return features of tokens [B, T, n] and samples [B, m]; 0 where nothing is valid."""
        token_features, sample_features, is_seen = self._cached_features(canvas, valid)
        token_features = _scaled(token_features, self.token_mean, self.token_deviation)
        sample_features = _scaled(sample_features, self.sample_mean, self.sample_deviation)
        # Standardising moves zeros away from 0, so the features of unseen tokens are set to 0
        # again.
        has_seen_token = is_seen.any(1, keepdim=True)  # [B, 1]
        return token_features * is_seen.unsqueeze(-1), sample_features * has_seen_token

    def _cached_features(self, canvas: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """Return `_features`, which a run on the CPU computes once for every sample.

        The cache takes at most 256 MiB. On the CPU, a sample's features are computed from that
        sample alone, so that they have the same bits whatever batch it comes in.
        """
        # On a GPU a digest would need a copy to the CPU; an exported graph cannot look one up.
        if canvas.device.type != "cpu" or torch.compiler.is_compiling():
            return self._features(canvas, valid)
        # Loading or copying weights changes one of these two numbers.
        present_filters = (self.weight.data_ptr(), self.weight._version)
        if present_filters != self._cached_filters:
            self._cache = _FeatureCache()
            self._cached_filters = present_filters
        # Sample by sample, so that a feature's bits do not depend on the batch.
        features_of_samples = []
        for sample, is_valid in zip(canvas.split(1), valid.split(1), strict=True):
            content = sample.numpy().tobytes() + is_valid.numpy().tobytes()
            # 16 bytes: no two samples of a data set share them by chance.
            digest = hashlib.blake2b(content, digest_size=16).digest()
            features = self._cache.get(digest)
            if features is None:
                features = self._features(sample, is_valid)
                # The features of all samples have one size.
                bytes_per_sample = sum(tensor.nbytes for tensor in features)
                samples_if_cached = len(self._cache) + 1
                if samples_if_cached * bytes_per_sample <= _MAX_BYTES:
                    self._cache[digest] = features
            features_of_samples.append(features)
        return tuple(torch.cat(tensors) for tensors in zip(*features_of_samples, strict=True))

    def _features(self, canvas: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return raw features of tokens [B, T, n] and samples [B, m], and which tokens are seen.

        A token is seen if any place in its patch is valid, [B, T] bool. The features of a sample
        are the means, over its tokens, of the features by all filters. The values of a sequence or
        the means of its patches are added unless they are too many.
        """
        # A further position contains 0 and is not valid; `_numbered` sends places outside to it.
        values = canvas.flatten(2).transpose(1, 2)  # [B, P, C]
        values = functional.pad(values, (0, 0, 0, 1))  # [B, P + 1, C]
        is_valid = functional.pad(valid.flatten(1), (0, 1))[:, self.places]  # [B, T, M]
        token_features = []
        all_features = []
        for taps, filters in zip(self.taps, self.weight, strict=True):
            share, largest, level = _answers(values[:, taps], filters, is_valid)
            all_features += [share, largest, level]
            token_filters = self._token_filters
            token_features += [share[..., :token_filters], largest[..., :token_filters], level]
        is_seen = is_valid.any(-1)
        token_weight = is_seen.unsqueeze(-1).to(values.dtype)  # [B, T, 1]
        total = (torch.cat(all_features, -1) * token_weight).sum(1)
        # The mean over seen tokens; the divisor is at least 1, for a sample without seen tokens.
        samples = total / token_weight.sum(1).clamp(min=1)
        if self._has_values:
            samples = torch.cat([samples, canvas.flatten(1)], -1)
        elif self._has_means:
            means = _patch_means(values[:, self.places], is_valid)  # [B, T, C]
            means = means.transpose(1, 2).flatten(1)  # [B, C * T]
            samples = torch.cat([samples, means], -1)
        return torch.cat(token_features, -1), samples, is_seen


def _answers(windows: Tensor, filters: Tensor, is_valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the responses of the filters of one scale in every token.

    Args:
        windows: [B, T, M, taps, C], the values under a filter's taps at each place.
        filters: [N, C, taps].
        is_valid: [B, T, M].

    Returns:
        [B, T, N], the share of places at which the response exceeds the filter's threshold, scaled
        to -1..1; [B, T, N], the largest response; [B, T, 1], the mean logarithm of the windows'
        sizes.
    """
    place_weight = is_valid.unsqueeze(-1).to(windows.dtype)  # [B, T, M, 1]
    valid_places = place_weight.sum(-2).clamp(min=1)  # [B, T, 1]
    centred = windows - windows.mean(-2, keepdim=True)
    centred = centred.flatten(-2)  # [B, T, M, taps * C]
    mean_square = centred.square().mean(-1, keepdim=True)
    window_size = mean_square.sqrt()  # [B, T, M, 1]
    # After the division, responses have a deviation of about 1, whatever the windows' size is.
    flat_filters = filters.transpose(1, 2).flatten(1)  # [N, taps * C]
    answers = functional.linear(centred, flat_filters).div_(window_size + _FLAT)  # [B, T, M, N]
    # Thresholds are spread over -1..1 deviations of a response. They are made here, because a model
    # whose weights come from a file is built without values.
    thresholds = torch.linspace(-1.0, 1.0, filters.shape[0], device=windows.device)
    # Places that are not valid count neither above nor below.
    is_above = (answers > thresholds).to(windows.dtype).mul_(place_weight)
    places_above = is_above.sum(-2)
    share = 2 * places_above / valid_places - 1
    # The maximum is over valid places only.
    penalty = torch.where(is_valid.unsqueeze(-1), 0.0, -math.inf)
    # In place: this is the largest tensor of the filter bank.
    largest = answers.add_(penalty).amax(-2)
    # A token without valid places has no maximum; -inf would spoil every later mean.
    largest = largest.masked_fill_(~is_valid.any(-1, keepdim=True), 0.0)
    levels = torch.log(window_size + _FLAT) * place_weight
    return share, largest, levels.sum(-2) / valid_places


def _patch_means(values: Tensor, is_valid: Tensor) -> Tensor:
    """Return the mean [B, T, C] of values [B, T, M, C] over the valid places [B, T, M]."""
    place_weight = is_valid.unsqueeze(-1).to(values.dtype)
    total = (values * place_weight).sum(-2)
    valid_places = place_weight.sum(-2).clamp(min=1)
    return total / valid_places


@dataclass
class _Moments:
    """Sums over the rows of features [n, F], in float64."""

    count: int = 0
    # In float64, since the variance is a difference of two large numbers.
    total: Any = 0.0
    squares: Any = 0.0

    def add(self, rows: Tensor) -> None:
        """Add rows [n, F] to the sums."""
        rows = rows.double()
        squares = rows.square()
        self.count += len(rows)
        self.total = self.total + rows.sum(0)
        self.squares = self.squares + squares.sum(0)

    def write(self, mean: Tensor, deviation: Tensor) -> None:
        """Write mean and deviation [F] into buffers; with fewer than two rows, leave them."""
        if self.count < 2:
            return
        exact_mean = self.total / self.count
        variance = self.squares / self.count - exact_mean.square()
        # Rounding may leave a variance a little below 0.
        exact_deviation = variance.clamp(min=0).sqrt()
        measured_deviation = exact_deviation.float()
        is_varying = measured_deviation > _CONSTANT
        mean.copy_(exact_mean)
        # A constant feature stays 0 after its mean is subtracted.
        deviation.copy_(torch.where(is_varying, measured_deviation, 1.0))


class _FeatureCache(dict[bytes, tuple[Tensor, ...]]):
    """Cached features; a copy of the filter bank starts with an empty cache."""

    def __deepcopy__(self, _: Any) -> Self:
        return type(self)()


def _layer(features: int, width: int) -> nn.Linear:
    """Return a linear layer whose outputs do not grow with the number of features."""
    layer = nn.Linear(features, width)
    # The gain undoes the shrinkage of the inputs.
    nn.init.xavier_uniform_(layer.weight, gain=1 / _shrinkage(features))
    nn.init.zeros_(layer.bias)
    return layer


def _scaled(features: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Return standardised features without outliers, as a vector of limited length (`_WIDE`)."""
    standardised = (features - mean) / deviation
    return standardised.clamp(-_FARTHEST, _FARTHEST) * _shrinkage(len(mean))


def _shrinkage(features: int) -> float:
    """Return the factor that a vector with this number of features is multiplied by (`_WIDE`)."""
    return min(1.0, math.sqrt(_WIDE / features))


def _centres(layout: TokenLayout) -> np.ndarray:
    """Return the places [T, M, axes] at which filters are evaluated; some lie outside the input."""
    axes = len(layout.extent)
    # A small patch has fewer positions than places.
    places_per_axis = min(layout.kernel, _PLACES[axes])
    # Evenly spaced in a patch, along each axis: the middles of equal sections.
    axis_offsets = []
    for section in range(places_per_axis):
        middle = (section + 0.5) * layout.kernel / places_per_axis
        axis_offsets.append(int(middle))
    offsets = np.array(list(itertools.product(axis_offsets, repeat=axes)))  # [M, axes]
    cells = np.array(list(np.ndindex(*layout.grid)))  # [T, axes]
    corners = cells * layout.kernel
    return corners[:, None] + offsets


def _windows(layout: TokenLayout, scales: int) -> np.ndarray:
    """Return the positions that a filter sees around each place, [scales, T, M, taps, axes].

    The taps of a filter are 1, 2, 4, ... positions apart, by its scale. Scales that are too wide
    for the input are left out.
    """
    axes = len(layout.extent)
    reach = _TAPS[axes] // 2
    # With taps this far apart, a filter is as long as the longest axis.
    widest = max(layout.extent) / (2 * reach)
    spacings = [1]
    wider = 2
    while len(spacings) < scales and wider < widest:
        spacings.append(wider)
        wider *= 2
    axis_offsets = range(-reach, reach + 1)
    offsets = np.array(list(itertools.product(axis_offsets, repeat=axes)))  # [taps, axes]
    centres = _centres(layout)[:, :, None]  # [T, M, 1, axes]
    return np.stack([centres + spacing * offsets for spacing in spacings])


def _numbered(positions: np.ndarray, extent: tuple[int, ...]) -> Tensor:
    """Return positions [..., axes] as numbers in row-major order, [...].

    All positions outside the input get the number P, which follows the last number inside.
    """
    sizes = np.array(extent)
    is_inside = ((positions >= 0) & (positions < sizes)).all(-1)
    # ravel_multi_index refuses positions outside, which the next step replaces.
    clipped = np.clip(positions, 0, sizes - 1)
    by_axis = tuple(np.moveaxis(clipped, -1, 0))
    position_numbers = np.ravel_multi_index(by_axis, extent)
    return torch.from_numpy(np.where(is_inside, position_numbers, math.prod(extent)))
