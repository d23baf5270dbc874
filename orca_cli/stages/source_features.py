"""The source side of stage 2: what the body's own embedding layer makes of the source data, computed once and cached."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orca_cli import seeding, signals
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Body, Features, Metric, Reporter, SourceData, Tokens
from orca_cli.training.cache import Entry, cached
from orca_cli.training.numerics import numerics_key

_BATCH = 64
_VERSION = 2  # of what is stored; a change makes every cached entry a miss


def source_features(
    body: Body,
    source: SourceData,
    *,
    features: str,
    length: int,
    points: int,
    seed: int,
    cache_folder: Path,
    reporter: Reporter,
) -> tuple[Features, str]:
    """Return the source as a labelled cloud of points, and a key that identifies it.

    The cache keeps what another build of torch or number of threads computed apart: its last bits may differ.

    Args:
        body: gives the embedding layer.
        source: labelled examples.
        features: "tokens": every token that is not padding is a point with its example's label; "pooled": the mean over
            an example's tokens; "sequence": its first `length` tokens in a row, if it has that many.
        length: tokens of a target sample.
        points: upper bound on the number of points, drawn without replacement.
        seed: of the draw.
        cache_folder: where the points are kept.
        reporter: progress.

    Raises:
        ConfigError: the source is of another modality than the body.
    """
    if source.modality != body.modality:
        raise ConfigError(
            f"this source is made of {source.modality}s and the body takes {body.modality}s",
            where="source",
            hint="use source=stdlib_docs for text bodies and source=cifar10 or source=digits for image bodies",
        )
    cut = length if features == "sequence" else 0
    limit = getattr(body, "max_source_tokens", "")
    key = _key(body.checkpoint_digest, source.digest, features, cut, points, seed, limit)

    def compute() -> Entry:
        x, labels = _embed(body, source, features, length, points, seed, reporter)
        return Entry({"x": x, "labels": labels})

    stored = cached(cache_folder / "source_features" / _key(key, numerics_key()), compute).tensors
    cloud = Features(stored["x"], stored["labels"], len(source.class_names))
    return cloud, key


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
    key = _key(source_key, json.dumps(settings, sort_keys=True), str(source.x.dtype), numerics_key())
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


@torch.no_grad()
def _embed(
    body: Body, source: SourceData, features: str, length: int, points: int, seed: int, reporter: Reporter
) -> tuple[Tensor, Tensor]:
    """Embed the whole source and keep a uniform draw of its points.

    The draw gives every point a random rank and keeps the smallest, so memory is bounded by the points that are kept and
    one batch.
    """
    generator = seeding.torch_generator(seed, "align", "source", features, points)
    labels = torch.from_numpy(np.asarray(source.labels, dtype=np.int64))
    kept: list[tuple[Tensor, Tensor, Tensor]] = []  # points, labels, ranks
    held = 0
    with reporter.track("source features", len(labels)) as advance:
        for start in range(0, len(labels), _BATCH):
            signals.check()
            stop = min(start + _BATCH, len(labels))
            x, rows = select_points(body.embed_source(source.inputs[start:stop]), features, length)
            rank = torch.rand(len(x), generator=generator, dtype=torch.float64)
            kept.append((x.cpu(), labels[start:stop][rows.cpu()], rank))
            held += len(x)
            if held > 4 * points:
                kept, held = [_smallest(kept, points)], points
            advance(stop - start)
    if held < 2:
        raise ConfigError(
            f"only {held} source examples have the {length} tokens that a target sample has",
            where="align.features",
            hint="use align.features=tokens, or a lower embedder.max_tokens",
        )
    x, labels, _ = _smallest(kept, points)
    return x.float().contiguous(), labels


def _smallest(kept: list[tuple[Tensor, Tensor, Tensor]], points: int) -> tuple[Tensor, Tensor, Tensor]:
    x, labels, rank = (torch.cat(pieces) for pieces in zip(*kept, strict=True))
    order = torch.argsort(rank)[:points].sort().values
    return x[order], labels[order], rank[order]


def _key(*facts: Any) -> str:
    text = "\n".join(str(fact) for fact in (_VERSION, *facts))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
