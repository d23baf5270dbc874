"""The source side of stage 2: source data, embedded by the body's own embedding layer.

Paper 3.2, f_s, and A.3.4: the source passes through the pretrained embedder once, and its features
are kept in the cache. The module also measures how far tokens are spread within and between
samples, for the source and for the target.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from orca_cli import seeding, signals
from orca_cli.exceptions import ConfigError, NonFiniteError
from orca_cli.interfaces import Features, Metric, Reporter, SourceData, Tokens
from orca_cli.models.bodies.base import Body
from orca_cli.models.predictors import pooled
from orca_cli.training.cache import Entry, cached, numerics_key

_BATCH = 64
_VERSION = 3  # version of the stored form; a change invalidates every cached entry
_FRESH = 1024  # number of further points, which only the controls (`_variant`) use
_RESTARTS = 3


@dataclass(frozen=True)
class EmbeddedSource:
    """The source as `source_features` returns it.

    Args:
        cloud: the points that targets are compared with, float32 on the run's device.
        spread: `variances` of the tokens of all examples that were embedded, before points are
            drawn.
        key: hash of everything that determines cloud and spread, except for the last bits, which
            depend on the machine.
    """

    cloud: Features
    spread: dict[str, float]
    key: str


@dataclass(frozen=True)
class Wanted:
    """The selection of points of a source; its text, with the class name, is part of cache keys.

    Args:
        features: "tokens": every token that is not padding is a point with its example's label;
            "pooled": the mean over an example's tokens; "sequence": its first `length` tokens in a
            row, if it has that many.
        length: tokens of a target sample.
        points: upper bound on the number of points, drawn by the seed without replacement.
        seed: seed of all draws.
        cloud: "embedded", or "gaussian" for points of a Gaussian with the same mean and covariance.
        labels: "given", "clusters" for k-means clusters of the points, as many as there are
            classes, or "shuffled".
    """

    features: str
    length: int
    points: int
    seed: int
    cloud: str = "embedded"
    labels: str = "given"


def moments(batch: Tokens) -> Tensor:
    """Return sums over the non-padding tokens of a batch, which callers add up over batches.

    Returns:
        [3 + D] float64: the number of tokens, the sum of their squared lengths, the sum over tokens
        of the squared length of their sample's mean, and the sum of the tokens [D].
    """
    # In float64, since variances are small differences of these large sums.
    x = torch.where(batch.mask.unsqueeze(-1), batch.x.double(), 0.0)  # [B, T, D]
    token_counts = batch.mask.sum(1)
    token_sums = x.sum(1)
    # The squared length of a sample's mean, once for each of its tokens: n |sum / n|^2.
    squared_means = token_sums.square().sum(1) / token_counts.clamp(min=1)
    totals = torch.stack([token_counts.sum().double(), x.square().sum(), squared_means.sum()])
    return torch.cat([totals, token_sums.sum(0)])


def variances(moments: Tensor) -> dict[str, float]:
    """Return how far tokens are spread, by the sums that `moments` returns.

    Returns:
        variance_within (tokens around their sample's mean) and variance_between (samples' means
        around the overall mean): sums over dimensions, in squared units of the features, which add
        up to the mean squared distance to the mean.
    """
    count, squares, means = moments[:3].tolist()
    # Without any token all sums are 0, and so are the variances.
    count = max(count, 1.0)
    mean_of_all = moments[3:] / count
    squared_mean = float(mean_of_all.square().sum()) * count
    # Rounding may leave the difference of two equal sums below 0.
    within = max(0.0, squares - means) / count
    between = max(0.0, means - squared_mean) / count
    return {"variance_within": within, "variance_between": between}


@torch.no_grad()
def collapse(tokens: Tokens) -> dict[str, float]:
    """Return how far embedded samples are spread.

    If the values are below the source's variances, the tokens have collapsed.

    Returns:
        variance_within and variance_between as in `variances`, and token_variance, the share of
        variance_within in their sum: 0 if all tokens of a sample are equal, 1 if the means of
        samples do not differ.

    Raises:
        NonFiniteError: a token is NaN or infinite.
    """
    if not tokens.x.isfinite().all():
        raise NonFiniteError(
            "the embedder returned tokens that are NaN or infinite",
            where="align",
            hint="try a smaller align.lr",
        )
    x = tokens.x.double()
    # Centred first: far from 0, sums of squares would swamp their differences.
    token_mean = x[tokens.mask].mean(0)
    centred = replace(tokens, x=x - token_mean)
    spread = variances(moments(centred))
    total_variance = sum(spread.values())
    within_share = spread["variance_within"] / total_variance if total_variance > 0 else 0.0
    return spread | {"token_variance": within_share}


def source_features(
    body: Body,
    source: SourceData,
    wanted: Wanted,
    *,
    device: torch.device,
    cache_folder: Path,
    reporter: Reporter,
    all_examples: bool = True,
) -> EmbeddedSource:
    """Return the source as labelled points.

    Its examples are read only if the points are not in the cache, which has an entry for every
    device, build of torch and number of threads, since last bits may differ.

    Args:
        body: whose own layer embeds the source.
        source, wanted: the examples, and the selection of their points.
        device: device of the run, for the points; they are computed on the device of the body.
        cache_folder: folder of all cache entries.
        reporter: display of the progress.
        all_examples: whether points are drawn from all examples; otherwise only as many examples
            are embedded as the points need.

    Raises:
        ConfigError: features are sequences, and fewer than two examples are long enough.
        DataError, UnsafeError: files of the source do not have the expected form.
    """
    # Only sequences depend on the target's length; all other targets share an entry.
    if wanted.features != "sequence":
        wanted = replace(wanted, length=0)
    facts = [
        body.checkpoint_digest,
        body.preparation_digest,
        body.source_resolution,
        getattr(body, "max_source_tokens", ""),
        source.digest,
        wanted,
    ]
    if not all_examples:
        # Points of a few examples must not pass for a draw from all of them.
        facts.append("some")
    source_key = _key(*facts)
    entry_folder = cache_folder / "source_features" / _key(source_key, numerics_key(device))
    stored_entry = cached(
        entry_folder,
        lambda: _variant(
            _embed(body, source, wanted, reporter=reporter, all_examples=all_examples), wanted
        ),
    )
    # The points after the first `wanted.points` are the further points (`_FRESH`).
    cloud = Features(
        x=stored_entry.tensors["x"][: wanted.points].to(device),
        labels=stored_entry.tensors["labels"][: wanted.points].to(device),
        num_classes=stored_entry.record["classes"],
    )
    return EmbeddedSource(cloud=cloud, spread=stored_entry.record["spread"], key=source_key)


def prepared_metric(
    metric: Metric, settings: dict[str, Any], source: EmbeddedSource, cache_folder: Path
) -> dict[str, Tensor]:
    """Return the tensors that a metric computes from the source alone (`Metric.prepare`).

    It is cached like the source, and returned on the device of the source's points.
    """
    x = source.cloud.x
    settings_text = json.dumps(settings, sort_keys=True)
    metric_key = _key(source.key, settings_text, x.dtype, numerics_key(x.device))
    # It does not depend on the target, so all tasks with this source share the entry.
    entry_folder = cache_folder / "metric_sources" / metric_key
    prepared = cached(entry_folder, lambda: Entry(metric.prepare(source.cloud)))
    return {name: tensor.to(x.device) for name, tensor in prepared.tensors.items()}


def select_points(tokens: Tokens, features: str, length: int) -> tuple[Tensor, Tensor]:
    """Return the points of a batch of sequences [B, T, D]; see `Wanted`.

    Returns:
        the points, [p, D], or [p, length * D] for "sequence", which leaves out samples with fewer
        tokens; and the sample of each point, [p] int64.
    """
    if features == "sequence":
        is_long = tokens.mask[:, :length].sum(1) == length
        return tokens.x[is_long, :length].flatten(1), torch.nonzero(is_long)[:, 0]
    if features == "pooled":
        return pooled(tokens), torch.arange(len(tokens.x), device=tokens.x.device)
    return tokens.x[tokens.mask], torch.nonzero(tokens.mask)[:, 0]


class _Ranked(NamedTuple):
    """Points `x` [p, d] with their labels and random ranks, [p], on the CPU."""

    x: Tensor
    labels: Tensor
    ranks: Tensor


def _smallest(pieces: list[_Ranked], limit: int) -> _Ranked:
    """Return the `limit` points with the smallest ranks, or all, in the order of the pieces."""
    points = _Ranked(*(torch.cat(tensors) for tensors in zip(*pieces, strict=True)))
    rows = torch.argsort(points.ranks)[:limit].sort().values
    return _Ranked(*(tensor[rows] for tensor in points))


def _ordered(points: _Ranked, num_first: int) -> dict[str, Tensor]:
    """Return points and labels: the first by rank, then the further points (`_FRESH`).

    Within both, points keep their order.
    """
    # The first sort of ranks gives the order of the points, the second each point's position.
    is_further = points.ranks.argsort().argsort() >= num_first
    order = torch.argsort(is_further, stable=True)
    return {"x": points.x[order].float().contiguous(), "labels": points.labels[order]}


@torch.no_grad()
def _embed(
    body: Body, source: SourceData, wanted: Wanted, *, reporter: Reporter, all_examples: bool
) -> Entry:
    """Embed the source and keep a uniform draw of its points.

    Every point gets a random rank, and those with the smallest ranks are kept: first
    `wanted.points` points, then the further points (`_FRESH`), both in the order of the examples.
    """
    draw_name = ("align", "source", wanted.features, wanted.points)
    generator = seeding.torch_generator(wanted.seed, *draw_name)
    inputs = source.examples.inputs
    labels = torch.from_numpy(np.asarray(source.examples.labels, dtype=np.int64))
    most_points = wanted.points
    example_order = torch.arange(len(labels))
    if all_examples:
        most_points += _FRESH
    else:
        # The loop ends early, and the first examples of a file may all be of one class.
        example_order = torch.randperm(len(labels), generator=generator)
    pieces: list[_Ranked] = []
    num_points = 0
    # Grows to [3 + D] with the first batch.
    moment_sums = torch.zeros(())
    with reporter.track("source features", len(labels)) as advance:
        for batch in example_order.split(_BATCH):
            signals.check()
            if isinstance(inputs, np.ndarray):
                tokens = body.embed_source(inputs[batch.numpy()])
            else:
                tokens = body.embed_source([inputs[row] for row in batch.tolist()])
            moment_sums = moment_sums + moments(tokens)
            # [p, d] and [p]
            x, batch_rows = select_points(tokens, wanted.features, wanted.length)
            # Ranks, since the number of points is known only at the end, and the points may not all
            # fit into memory.
            ranks = torch.rand(len(x), generator=generator, dtype=torch.float64)
            pieces.append(_Ranked(x=x.cpu(), labels=labels[batch][batch_rows.cpu()], ranks=ranks))
            # Points that cannot be drawn any more are dropped before they take much memory.
            if sum(len(piece.ranks) for piece in pieces) > 4 * most_points:
                pieces = [_smallest(pieces, most_points)]
            num_points += len(x)
            advance(len(batch))
            if num_points >= most_points and not all_examples:
                break
    if num_points < 2:
        raise ConfigError(
            f"needs at least 2 source examples with {wanted.length} tokens, as many as a target "
            f"sample has, but found {num_points}",
            where="align.features",
            hint="use align.features=tokens or a lower embedder.max_tokens",
        )
    tensors = _ordered(_smallest(pieces, most_points), wanted.points)
    record = {"classes": len(source.examples.class_names), "spread": variances(moment_sums)}
    return Entry(tensors, record)


def _variant(embedded: Entry, wanted: Wanted) -> Entry:
    """Return the points with the selected kind of values and labels."""
    x = embedded.tensors["x"]
    labels = embedded.tensors["labels"]
    if wanted.cloud == "gaussian":
        # Sums of the centred points with normal weights are Gaussian, with the points' covariance.
        generator = seeding.torch_generator(wanted.seed, "align", "source", "gaussian")
        # [n, n], each row of squared length 1 in expectation
        noise = torch.randn(len(x), len(x), generator=generator) / len(x) ** 0.5
        mean = x.mean(0)
        x = mean + noise @ (x - mean)
    if wanted.labels == "shuffled":
        generator = seeding.torch_generator(wanted.seed, "align", "shuffled")
        labels = labels[torch.randperm(len(labels), generator=generator)]
    elif wanted.labels == "clusters":
        from sklearn.cluster import KMeans

        # scikit-learn takes seeds of 32 bits.
        random_state = seeding.derive(wanted.seed, "align", "source", "clusters") % 2**32
        # k-means cannot make more clusters than there are distinct points.
        num_clusters = min(embedded.record["classes"], len(torch.unique(x, dim=0)))
        clusters = KMeans(num_clusters, n_init=_RESTARTS, random_state=random_state)
        labels = torch.from_numpy(clusters.fit_predict(x.numpy()).astype(np.int64))
    return Entry({"x": x.contiguous(), "labels": labels}, embedded.record)


def _key(*facts: Any) -> str:
    facts_text = "\n".join(map(str, (_VERSION, *facts)))
    return hashlib.sha256(facts_text.encode()).hexdigest()[:32]
