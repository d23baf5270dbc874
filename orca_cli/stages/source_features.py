"""The source side of stage 2: what the body's own embedding layer makes of the source data, computed once and cached.

Also how far apart tokens are within and between samples, of the source and of the target.
"""

from __future__ import annotations

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
from orca_cli.interfaces import Examples, Features, Metric, Reporter, SourceData, Tokens
from orca_cli.models.bodies.base import Body
from orca_cli.training.cache import Entry, cached, numerics_key

_BATCH = 64
_VERSION = 3  # of what is stored; a change makes every cached entry a miss
_FRESH = 1024  # further points, to measure what the source itself scores
_RESTARTS = 3


@dataclass(frozen=True)
class EmbeddedSource:
    """The source as the body's own embedding layer sees it.

    Args:
        cloud: the points that targets are compared with.
        fresh: further points of the same kind, none of which is in `cloud`; there may be none.
        spread: variance_within and variance_between of all tokens, see `Spread`.
        key: identifies all of these.
    """

    cloud: Features
    fresh: Features
    spread: dict[str, float]
    key: str


@dataclass(frozen=True)
class Wanted:
    """Which points of a source to take.

    Args:
        features: "tokens": every token that is not padding is a point with its example's label; "pooled": the mean over
            an example's tokens; "sequence": its first `length` tokens in a row, if it has that many.
        length: tokens of a target sample.
        points: upper bound on the number of points, drawn without replacement.
        seed: of the draw.
        cloud: "embedded", or "gaussian" for points of a Gaussian with the same mean and covariance.
        labels: "given", "clusters" for k-means clusters of the points, as many as there are classes, or "shuffled".
    """

    features: str
    length: int
    points: int
    seed: int
    cloud: str = "embedded"
    labels: str = "given"


@dataclass
class Spread:
    """Variance of tokens within and between samples, summed up batch by batch, in squared units of the features.

    Both are sums over dimensions, and add up to the mean squared distance of tokens to the mean of all.
    """

    tokens: float = 0.0
    squares: float = 0.0  # of all tokens
    mean_squares: float = 0.0  # of the samples' means, weighted by their numbers of tokens
    total: Tensor | float = 0.0  # sum of all tokens, [D]

    @torch.no_grad()
    def add(self, batch: Tokens) -> None:
        """Take the samples of a batch; tokens that are padding do not count."""
        x = torch.where(batch.mask.unsqueeze(-1), batch.x.double(), 0.0)  # [B, T, D]
        counts = batch.mask.sum(1)
        sums = x.sum(1)
        self.tokens += float(counts.sum())
        self.squares += float(x.square().sum())
        self.mean_squares += float((sums.square().sum(1) / counts.clamp(min=1)).sum())
        self.total = self.total + sums.sum(0)

    def variances(self) -> dict[str, float]:
        """Return variance_within (tokens around their sample's mean) and variance_between (those means around that of all)."""
        if not self.tokens:
            return {"variance_within": 0.0, "variance_between": 0.0}
        grand = float((torch.as_tensor(self.total) / self.tokens).square().sum()) * self.tokens
        return {
            "variance_within": max(0.0, self.squares - self.mean_squares) / self.tokens,
            "variance_between": max(0.0, self.mean_squares - grand) / self.tokens,
        }


@torch.no_grad()
def collapse(tokens: Tokens) -> dict[str, float]:
    """Return diagnostics of embedded samples.

    Returns:
        variance_within, variance_between: as in `Spread`; beside the source's they tell whether the tokens have drawn together.
        token_variance: the first as a share of both; 0 where all tokens of a sample are alike, 1 where samples do not differ
            in their means.

    Raises:
        NonFiniteError: a token is NaN or infinite.
    """
    if not bool(tokens.x.isfinite().all()):
        raise NonFiniteError("a token of the embedder is NaN or infinite", where="align", hint="try a smaller align.lr")
    centre = tokens.x[tokens.mask].double().mean(0)
    spread = Spread()
    spread.add(Tokens(tokens.x.double() - centre, tokens.mask, tokens.grid))
    variances = spread.variances()
    total = sum(variances.values())
    return variances | {"token_variance": variances["variance_within"] / total if total > 0 else 0.0}


def source_features(
    body: Body, source: SourceData, selection: Wanted, device: torch.device, cache_folder: Path, reporter: Reporter
) -> EmbeddedSource:
    """Return the source as labelled points; its examples are read only where they are not in the cache.

    The cache keeps what another device, build of torch or number of threads computed apart: its last bits may differ.

    Args:
        body: gives the embedding layer.
        source: labelled examples.
        selection: which points.
        device: where the body is.
        cache_folder: where they are kept.
        reporter: progress.

    Raises:
        ConfigError: the source is of another modality than the body, or too few examples have the length of a sequence.
    """
    check_modality(body, source)
    if selection.features != "sequence":
        selection = replace(selection, length=0)
    body_facts = (
        *(body.checkpoint_digest, body.preparation_digest),
        *(body.source_resolution, getattr(body, "max_source_tokens", "")),
    )
    key = _key(*body_facts, source.digest, selection)

    def compute() -> Entry:
        return _variant(_embed(body, source, selection, reporter), selection)

    stored = cached(cache_folder / "source_features" / _key(key, numerics_key(device)), compute)
    x, labels, classes = stored.tensors["x"], stored.tensors["labels"], stored.record["classes"]
    cut = min(selection.points, len(x))
    cloud, fresh = (Features(x[some], labels[some], classes) for some in (slice(cut), slice(cut, None)))
    return EmbeddedSource(cloud, fresh, stored.record["spread"], key)


def check_modality(body: Body, source: SourceData) -> None:
    """Raise ConfigError where a source is of another modality than the body."""
    if source.modality != body.modality:
        hint = "use source=stdlib_docs for text bodies, cifar10 or digits for image bodies"
        what = f"the source holds {source.modality} data, but the body takes {body.modality}"
        raise ConfigError(what, where="source", hint=hint)


def embed_examples(body: Body, examples: Examples, rows: np.ndarray) -> Tokens:
    """Return some examples of a source as the body's own embedding layer has them, without prefix."""
    inputs = examples.inputs
    return body.embed_source(inputs[rows] if isinstance(inputs, np.ndarray) else [inputs[int(row)] for row in rows])


def prepared_metric(
    metric: Metric, settings: dict[str, Any], source: Features, source_key: str, cache_folder: Path
) -> dict[str, Tensor]:
    """Return what a metric computes from the source alone, from the cache where it is there.

    Args:
        metric: the distance.
        settings: the metric's configuration; with the key of the source it names the entry.
        source: the points.
        source_key: as `source_features` returned it.
        cache_folder: where the entry is kept.
    """
    key = _key(source_key, json.dumps(settings, sort_keys=True), source.x.dtype, numerics_key(source.x.device))
    return cached(cache_folder / "metric_sources" / key, lambda: Entry(metric.prepare(source))).tensors


def select_points(tokens: Tokens, features: str, length: int) -> tuple[Tensor, Tensor]:
    """Return the points of a batch of sequences, [p, d], and the sample that each belongs to, [p] int64.

    Args:
        tokens: [B, T, D].
        features: "tokens" or "pooled", d = D; "sequence", d = length * D.
        length: for "sequence": samples with fewer tokens are left out, and longer ones are cut.
    """
    if features == "sequence":
        whole = tokens.mask[:, :length].sum(1) == length
        return tokens.x[whole, :length].flatten(1), torch.nonzero(whole)[:, 0]
    if features == "pooled":
        weight = tokens.mask.to(tokens.x.dtype).unsqueeze(-1)  # [B, T, 1]
        mean = (tokens.x * weight).sum(1) / weight.sum(1).clamp(min=1)
        return mean, torch.arange(len(mean), device=mean.device)
    rows = torch.nonzero(tokens.mask)[:, 0]
    return tokens.x[tokens.mask], rows


class UniformDraw:
    """A uniform draw of points that come in batches, without replacement.

    Every point gets a random rank and the smallest ranks are kept, so that memory is bounded by the points that are kept and
    one batch.

    Args:
        most: points to keep.
        generator: of the ranks.
    """

    def __init__(self, most: int, generator: torch.Generator) -> None:
        self._most, self._generator = most, generator
        self._kept: list[tuple[Tensor, ...]] = []
        self._held = 0

    def add(self, x: Tensor, labels: Tensor) -> None:
        """Take a batch of points, [p, d], with a number for each, [p]."""
        rank = torch.rand(len(x), generator=self._generator, dtype=torch.float64)
        self._kept.append((x.cpu(), labels, rank))
        self._held += len(x)
        if self._held > 4 * self._most:
            self._kept, self._held = [self.drawn()], self._most

    def drawn(self) -> tuple[Tensor, ...]:
        """Return the points that are kept, in the order in which they came, their numbers and their ranks, on the CPU."""
        x, labels, rank = (torch.cat(pieces) for pieces in zip(*self._kept, strict=True))
        order = torch.argsort(rank)[: self._most].sort().values
        return x[order], labels[order], rank[order]


@torch.no_grad()
def _embed(body: Body, source: SourceData, selection: Wanted, reporter: Reporter) -> Entry:
    """Embed the whole source and keep a uniform draw of its points, those of the cloud before the fresh ones."""
    generator = seeding.torch_generator(selection.seed, "align", "source", selection.features, selection.points)
    examples = source.examples
    labels = torch.from_numpy(np.asarray(examples.labels, dtype=np.int64))
    draw, held, spread = UniformDraw(selection.points + _FRESH, generator), 0, Spread()
    with reporter.track("source features", len(labels)) as advance:
        for start in range(0, len(labels), _BATCH):
            signals.check()
            stop = min(start + _BATCH, len(labels))
            tokens = body.embed_source(examples.inputs[start:stop])
            spread.add(tokens)
            x, rows = select_points(tokens, selection.features, selection.length)
            draw.add(x, labels[start:stop][rows.cpu()])
            held += len(x)
            advance(stop - start)
    if held < 2:
        what = f"only {held} source examples have the {selection.length} tokens that a target sample has"
        raise ConfigError(
            what, where="align.features", hint="use align.features=tokens, or a lower embedder.max_tokens"
        )
    x, labels, rank = draw.drawn()
    in_cloud = torch.zeros(len(rank), dtype=torch.bool)
    in_cloud[torch.argsort(rank)[: selection.points]] = True
    order = torch.argsort(~in_cloud, stable=True)
    record = {"classes": len(examples.class_names), "spread": spread.variances()}
    return Entry({"x": x[order].float().contiguous(), "labels": labels[order]}, record)


def _variant(embedded: Entry, selection: Wanted) -> Entry:
    """Return the points with the selected kind of values and labels."""
    x, labels = embedded.tensors["x"], embedded.tensors["labels"]
    if selection.cloud == "gaussian":
        generator = seeding.torch_generator(selection.seed, "align", "source", "gaussian")
        noise = torch.randn(len(x), len(x), generator=generator) / len(x) ** 0.5
        mean = x.mean(0)
        x = mean + noise @ (x - mean)  # a sample of the Gaussian with the points' own mean and covariance
    if selection.labels == "shuffled":
        labels = labels[
            torch.randperm(len(labels), generator=seeding.torch_generator(selection.seed, "align", "shuffled"))
        ]
    elif selection.labels == "clusters":
        from sklearn.cluster import KMeans

        state = seeding.derive(selection.seed, "align", "source", "clusters") % 2**32
        distinct = len(torch.unique(x, dim=0))
        means = KMeans(min(embedded.record["classes"], distinct), n_init=_RESTARTS, random_state=state)
        labels = torch.from_numpy(means.fit_predict(x.numpy()).astype(np.int64))
    return Entry({"x": x.contiguous(), "labels": labels}, embedded.record)


def _key(*facts: Any) -> str:
    text = "\n".join(str(fact) for fact in (_VERSION, *facts))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
