"""The source side of stage 2: what the body's own embedding layer makes of the source data, computed once and cached.

Paper 3.2, f_s, and A.3.4: the source passes through the pretrained embedder once, and its features are kept. Also how far
apart tokens are within and between samples, of the source and of the target.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
_VERSION = 3  # of what is stored; a change makes every cached entry a miss
_FRESH = 1024  # further points, which count in the controls (`_variant`) alone
_RESTARTS = 3


@dataclass(frozen=True)
class EmbeddedSource:
    """The source as `source_features` returns it.

    Args:
        cloud: the points that targets are compared with, float32 on the CPU.
        spread: `variances` of the tokens of all examples that were embedded, before points are drawn.
        key: hash of what determines both but for the last bits, which depend on the machine.
    """

    cloud: Features
    spread: dict[str, float]
    key: str


@dataclass(frozen=True)
class Wanted:
    """Which points of a source to take.

    Args:
        features: "tokens": every token that is not padding is a point with its example's label; "pooled": the mean over
            an example's tokens; "sequence": its first `length` tokens in a row, if it has that many.
        length: tokens of a target sample.
        points: upper bound on the number of points, drawn by the seed without replacement.
        cloud: "embedded", or "gaussian" for points of a Gaussian with the same mean and covariance.
        labels: "given", "clusters" for k-means clusters of the points, as many as there are classes, or "shuffled".
    """

    features: str
    length: int
    points: int
    seed: int
    cloud: str = "embedded"
    labels: str = "given"


def moments(batch: Tokens) -> Tensor:
    """Return sums over the tokens of a batch that are not padding, [3 + D] float64, to be added up over batches.

    They are the number of tokens, the sum of their squared lengths, the sum over tokens of the squared length of their
    sample's mean, and the sum of the tokens [D].
    """
    x = torch.where(batch.mask.unsqueeze(-1), batch.x.double(), 0.0)  # [B, T, D]
    counts, sums = batch.mask.sum(1), x.sum(1)
    means = (sums.square().sum(1) / counts.clamp(min=1)).sum()
    return torch.cat([torch.stack([counts.sum().double(), x.square().sum(), means]), sums.sum(0)])


def variances(moments: Tensor) -> dict[str, float]:
    """Return variance_within (tokens around their sample's mean) and variance_between (those means around that of all).

    Both are sums over dimensions, in squared units of the features, and add up to the mean squared distance to the mean.
    """
    count, squares, means = moments[:3].tolist()
    count = max(count, 1.0)
    grand = float((moments[3:] / count).square().sum()) * count
    within, between = max(0.0, squares - means) / count, max(0.0, means - grand) / count
    return {"variance_within": within, "variance_between": between}


@torch.no_grad()
def collapse(tokens: Tokens) -> dict[str, float]:
    """Return how far embedded samples are spread: below the source's variances, tokens have drawn together.

    Returns:
        variance_within and variance_between as in `variances`, and token_variance, the share of the former in their sum: 0
        where all tokens of a sample are alike, 1 where samples do not differ in their means. NonFiniteError for a token that is
        NaN or infinite.
    """
    if not bool(tokens.x.isfinite().all()):
        raise NonFiniteError(
            "a token of the embedder is NaN or infinite",
            where="align",
            hint="try a smaller align.lr",
        )
    x = tokens.x.double()
    spread = variances(moments(replace(tokens, x=x - x[tokens.mask].mean(0))))
    total = sum(spread.values())
    return spread | {"token_variance": spread["variance_within"] / total if total > 0 else 0.0}


def source_features(
    body: Body,
    source: SourceData,
    wanted: Wanted,
    device: torch.device,
    cache_folder: Path,
    reporter: Reporter,
    whole: bool = True,
) -> EmbeddedSource:
    """Return the source as labelled points; its examples are read only where the points are not in the cache.

    The cache has an entry for every device, build of torch and number of threads, since last bits may differ. Unless `whole`,
    no more examples are embedded than that many points need.

    Raises:
        ConfigError: features are sequences, and fewer than two examples have the length of one.
        DataError, UnsafeError: files of the source do not have the expected form.
    """
    if wanted.features != "sequence":
        wanted = replace(wanted, length=0)
    of_body = body.checkpoint_digest, body.preparation_digest, body.source_resolution
    longest = getattr(body, "max_source_tokens", "")
    key = _key(*of_body, longest, source.digest, wanted, *([] if whole else ["some"]))
    path = cache_folder / "source_features" / _key(key, numerics_key(device))
    stored = cached(path, lambda: _variant(_embed(body, source, wanted, whole, reporter), wanted))
    x, labels = (stored.tensors[name][: wanted.points] for name in ("x", "labels"))
    return EmbeddedSource(
        Features(x, labels, stored.record["classes"]), stored.record["spread"], key
    )


def prepared_metric(
    metric: Metric, settings: dict[str, Any], source: Features, source_key: str, cache_folder: Path
) -> dict[str, Tensor]:
    """Return what a metric with these `settings` computes from the source alone (`Metric.prepare`), cached as the source is."""
    key = _key(
        source_key,
        json.dumps(settings, sort_keys=True),
        source.x.dtype,
        numerics_key(source.x.device),
    )
    return cached(
        cache_folder / "metric_sources" / key, lambda: Entry(metric.prepare(source))
    ).tensors


def select_points(tokens: Tokens, features: str, length: int) -> tuple[Tensor, Tensor]:
    """Return the points of a batch of sequences [B, T, D], and the sample that each belongs to, [p] int64; see `Wanted`.

    Points are [p, D], or of "sequence", which leaves out samples with fewer tokens, [p, length * D].
    """
    if features == "sequence":
        whole = tokens.mask[:, :length].sum(1) == length
        return tokens.x[whole, :length].flatten(1), torch.nonzero(whole)[:, 0]
    if features == "pooled":
        return pooled(tokens), torch.arange(len(tokens.x), device=tokens.x.device)
    return tokens.x[tokens.mask], torch.nonzero(tokens.mask)[:, 0]


@torch.no_grad()
def _embed(
    body: Body, source: SourceData, wanted: Wanted, whole: bool, reporter: Reporter
) -> Entry:
    """Embed the source and keep a uniform draw of its points, those that are asked for before the further ones.

    Every point gets a random rank, and those with the smallest ranks are kept, in the order in which they came.
    """
    generator = seeding.torch_generator(
        wanted.seed, "align", "source", wanted.features, wanted.points
    )
    inputs, labels = (
        source.examples.inputs,
        torch.from_numpy(np.asarray(source.examples.labels, dtype=np.int64)),
    )
    most = wanted.points + (_FRESH if whole else 0)
    kept: list[
        tuple[Tensor, ...]
    ] = []  # points [p, d], labels [p] and ranks [p] of some batches, on the CPU
    held, sums = 0, torch.zeros(())

    def drawn() -> tuple[Tensor, ...]:
        x, labels, rank = (torch.cat(pieces) for pieces in zip(*kept, strict=True))
        order = torch.argsort(rank)[:most].sort().values
        return x[order], labels[order], rank[order]

    order = torch.arange(len(labels)) if whole else torch.randperm(len(labels), generator=generator)
    with reporter.track("source features", len(labels)) as advance:
        for some in order.split(_BATCH):
            signals.check()
            chosen = some.numpy()
            texts_or_images = (
                inputs[chosen]
                if isinstance(inputs, np.ndarray)
                else [inputs[int(row)] for row in chosen]
            )
            tokens = body.embed_source(texts_or_images)
            sums = sums + moments(tokens)
            x, rows = select_points(tokens, wanted.features, wanted.length)
            rank = torch.rand(len(x), generator=generator, dtype=torch.float64)
            kept.append((x.cpu(), labels[some][rows.cpu()], rank))
            if sum(len(points) for points, *_ in kept) > 4 * most:
                kept = [drawn()]
            held += len(x)
            advance(len(some))
            if held >= most and not whole:
                break
    if held < 2:
        what = (
            f"only {held} source examples have the {wanted.length} tokens that a target sample has"
        )
        hint = "use align.features=tokens, or a lower embedder.max_tokens"
        raise ConfigError(what, where="align.features", hint=hint)
    x, labels, rank = drawn()
    order = torch.argsort(rank.argsort().argsort() >= wanted.points, stable=True)
    record = {"classes": len(source.examples.class_names), "spread": variances(sums)}
    return Entry({"x": x[order].float().contiguous(), "labels": labels[order]}, record)


def _variant(embedded: Entry, wanted: Wanted) -> Entry:
    """Return the points with the selected kind of values and labels."""
    x, labels = embedded.tensors["x"], embedded.tensors["labels"]
    if wanted.cloud == "gaussian":
        generator = seeding.torch_generator(wanted.seed, "align", "source", "gaussian")
        noise = torch.randn(len(x), len(x), generator=generator) / len(x) ** 0.5
        mean = x.mean(0)
        x = mean + noise @ (
            x - mean
        )  # a sample of the Gaussian with the points' own mean and covariance
    if wanted.labels == "shuffled":
        generator = seeding.torch_generator(wanted.seed, "align", "shuffled")
        labels = labels[torch.randperm(len(labels), generator=generator)]
    elif wanted.labels == "clusters":
        from sklearn.cluster import KMeans

        state = seeding.derive(wanted.seed, "align", "source", "clusters") % 2**32
        count = min(embedded.record["classes"], len(torch.unique(x, dim=0)))
        means = KMeans(count, n_init=_RESTARTS, random_state=state)
        labels = torch.from_numpy(means.fit_predict(x.numpy()).astype(np.int64))
    return Entry({"x": x.contiguous(), "labels": labels}, embedded.record)


def _key(*facts: Any) -> str:
    text = "\n".join(str(fact) for fact in (_VERSION, *facts))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
