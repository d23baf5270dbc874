"""The distance between two labelled data sets outside a run: what `orca distance` computes, as a function.

A and B are arrays, .npz files, or names of configured tasks and sources. Named data are embedded as in stage 2: sources by
the body's own embedding layer, the training split of tasks by the embedder as it is initialised.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orca_cli import seeding
from orca_cli.config import compose, configuration, parts
from orca_cli.exceptions import ConfigError, DataError, suggest
from orca_cli.interfaces import Features, Metric
from orca_cli.prediction.comparison.points import Data, Embedding, read
from orca_cli.stages.problem import measure
from orca_cli.training.engine import choose_device

# Settings for reading and embedding named data; other settings are a metric's own parameters.
_EMBEDDING = ("task", "source", "body", "embedder", "align", "paths")


@dataclass(frozen=True)
class Measured:
    """What one metric measured.

    Args:
        convention: whether the value is squared, its costs halved, and the like; empty if the metric does not say.
        value: distance of B (as target) to A (as source).
        self_a: distance of A to itself; `self_b` likewise.
        diagnostics: the solver's, for the value.
        seconds: time for the value, without the self-distances.
    """

    metric: str
    parameters: dict[str, Any]
    convention: str
    value: float
    self_a: float
    self_b: float
    diagnostics: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Side:
    """A file, task or source as it was compared: number of points, of those they were drawn from, width, classes."""

    name: str
    points: int
    available: int | None
    width: int
    classes: int


@dataclass(frozen=True)
class Comparison:
    """Both data sets, how they were compared, and what every metric measured.

    Args:
        body: what embedded named data; None for files and arrays.
        metrics: what was measured.
    """

    a: Side
    b: Side
    body: str | None
    seed: int
    metrics: list[Measured]


def distance(
    a: Data,
    b: Data,
    *,
    metrics: Sequence[str] = ("otdd",),
    settings: Sequence[str] = (),
    points: int | None = 1000,
    seed: int = 0,
    device: str = "cpu",
    body: str | None = None,
    config_dir: Path | None = None,
) -> Comparison:
    """Return distances between two labelled data sets.

    Args:
        a, b: source and target: (x [n, ...], y [n]); a path of an .npz file with arrays x and y; or the name of a task or a
            source, written task=NAME or source=NAME if both have it. Further axes of x are flattened.
        metrics: files of conf/metric.
        settings: KEY=VALUE: a metric's parameters (`reg=0.5`), and how named data are embedded (`source.size=200`).
        points: upper bound on the points of each side, drawn without replacement; None takes all.
        seed: of all draws, and of the embedder's weights.
        device: auto, cpu, cuda, cuda:N or mps.
        body: embeds named data, by default the body that the task picks; config_dir: the user's own configuration.

    Raises:
        ConfigError: unknown metric, name or parameter, or a value out of range.
        DataError: missing arrays, shapes other than above, different widths, too few classes for a metric.
        NonFiniteError: a distance overflows.
    """
    if points is not None and points < 2:
        raise ConfigError(f"{points} is out of range", where="points", hint="allowed: at least 2")
    place = choose_device(device)
    with compose.session(config_dir) as session:
        nodes = _metric_nodes(session, metrics, settings, config_dir)
        kept = [text for text in settings if _is_embedding(text)]
        embedding = Embedding(session, [a, b], body=body, settings=kept, seed=seed, config_dir=config_dir, device=place)
        clouds = [embedding.cloud(data, points) or read(data, points=points, seed=seed) for data in (a, b)]
    first, second = _comparable([cloud.features for cloud in clouds], place)
    built = {name: parts.build(node, "metric") for name, node in nodes.items()}
    fewest = min(first.num_classes, second.num_classes)
    for name, metric in built.items():
        if (least := int(getattr(metric, "least_classes", 1))) > fewest:
            what = f"needs {least} or more classes, but A has {first.num_classes}, B has {second.num_classes}"
            raise DataError(what, where=name, hint="choose another metric, or data with several classes")
    a_side, b_side = (
        Side(c.name, len(c.features.x), c.available, c.features.x.shape[1], c.features.num_classes) for c in clouds
    )
    measured = [_measure(name, nodes[name], metric, first, second, seed) for name, metric in built.items()]
    return Comparison(a_side, b_side, embedding.body_name, seed, measured)


def _comparable(features: list[Features], device: torch.device) -> tuple[Features, Features]:
    """Return both sides on the device; refuse numbers that are not finite, and points of different width."""
    first, second = (
        Features(one.x.to(device, torch.float32), one.labels.to(device), one.num_classes) for one in features
    )
    for name, cloud in (("A", first), ("B", second)):
        if not torch.isfinite(cloud.x).all():
            raise DataError("a number is NaN, infinite or beyond float32", where=name, hint="use other units")
    if first.x.shape[1] != second.x.shape[1]:
        text = f"A has points of width {first.x.shape[1]} and B of width {second.x.shape[1]}"
        hint = "use data of equal width, or names of tasks and sources, which are embedded by one body"
        raise DataError(text, where="A, B", hint=hint)
    return first, second


@torch.no_grad()
def _measure(name: str, node: dict[str, Any], metric: Metric, a: Features, b: Features, seed: int) -> Measured:
    def draws(*side: str) -> np.random.Generator:
        return seeding.numpy_generator(seed, "distance", "pairing", *side)

    start = time.monotonic()
    prepared = metric.prepare(a)
    measured = measure(metric, a, prepared, b, draws())
    seconds = time.monotonic() - start
    return Measured(
        metric=name,
        parameters={key: entry for key, entry in node.items() if key != parts.TARGET},
        convention=str(getattr(metric, "convention", "")),
        value=float(measured.value),
        self_a=float(measure(metric, a, prepared, a, draws("a")).value),
        self_b=float(measure(metric, b, metric.prepare(b), b, draws("b")).value),
        diagnostics=measured.diagnostics,
        seconds=seconds,
    )


def _is_embedding(setting: str) -> bool:
    return setting.partition("=")[0].partition(".")[0] in _EMBEDDING


def _metric_nodes(
    session: compose.Session, metrics: Sequence[str], settings: Sequence[str], config_dir: Path | None
) -> dict[str, dict[str, Any]]:
    """Return the checked nodes of the metrics; a parameter goes to those that have it."""
    files = {name: configuration.content(path) for name, path in configuration.choices("metric", config_dir).items()}
    available = [name for name, content in files.items() if content.get(parts.TARGET) is not None]
    names = list(dict.fromkeys(metrics))
    for name in names:
        if name not in available:
            raise ConfigError(f"no such metric: '{name}'", where="metric", hint=suggest(name, available))
    allowed = {name: set(files[name]) - {parts.TARGET} for name in names}
    metric_settings = [text.removeprefix("metric.") for text in settings if not _is_embedding(text)]
    for text in metric_settings:
        key = text.partition("=")[0]
        if not any(key in keys for keys in allowed.values()):
            what = f"{' and '.join(names)} {'have' if len(names) > 1 else 'has'} no parameter '{key}'"
            raise ConfigError(what, where=text, hint=suggest(key, set().union(*allowed.values())))
    nodes = {}
    for name in names:
        parameters = [f"metric.{text}" for text in metric_settings if text.partition("=")[0] in allowed[name]]
        # A distance is a single problem with all classes.
        words = [f"metric={name}", "align.classes_per_problem=0", *parameters]
        nodes[name] = session.compose(words).config.metric
    return nodes
