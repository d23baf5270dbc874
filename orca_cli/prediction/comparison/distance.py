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
from orca_cli.interfaces import Features, Metric, Reporter
from orca_cli.prediction.comparison.points import Data, Embedding, read
from orca_cli.stages.problem import measure
from orca_cli.terminal import LogReporter
from orca_cli.training.engine import choose_device

DTYPES = {"float32": torch.float32, "float64": torch.float64}
CONFIDENCE = 0.95
# Settings for reading and embedding named data; other settings are a metric's own parameters.
_EMBEDDING = ("task", "source", "body", "embedder", "align", "paths")


@dataclass(frozen=True)
class Measured:
    """What one metric measured.

    Args:
        convention: whether the value is squared, its costs halved, and the like; empty if the metric does not say.
        value: distance of B (as target) to A (as source).
        self_a: distance of A to itself; `self_b` likewise.
        interval: 95 % confidence interval of the value, None if not requested; see `distance`.
        halves_mean: mean value over the halves behind the interval; its difference from the value shows how much the
            number of points matters.
        diagnostics: the solver's, for the value.
        seconds: time for the value, without the self-distances and the interval.
    """

    metric: str
    parameters: dict[str, Any]
    convention: str
    value: float
    self_a: float
    self_b: float
    interval: tuple[float, float] | None
    halves_mean: float | None
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
        repeats: number of halves behind an interval.
        metrics: what was measured.
        left_out: metric -> why "all" does not include it for these data.
    """

    a: Side
    b: Side
    body: str | None
    dtype: str
    seed: int
    repeats: int
    metrics: list[Measured]
    left_out: dict[str, str]


def distance(
    a: Data,
    b: Data,
    *,
    metrics: Sequence[str] = ("otdd",),
    settings: Sequence[str] = (),
    points: int | None = 1000,
    repeats: int = 0,
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
    body: str | None = None,
    config_dir: Path | None = None,
) -> Comparison:
    """Return distances between two labelled data sets.

    The confidence interval has the width of the central 95 % of the values on `repeats` random halves (of every class, drawn
    without replacement, independently for A and B), whose spread is about that of the whole. It is shifted so that their mean
    equals the value: fewer points give a different value on average, which says nothing about this one.

    Args:
        a, b: source and target: (x [n, ...], y [n]); a path of an .npz file with arrays x and y; or the name of a task or a
            source, written task=NAME or source=NAME if both have it. Further axes of x are flattened.
        metrics: files of conf/metric; "all" for every one that is defined for the data, `left_out` lists the others.
        settings: KEY=VALUE: a metric's parameters (`reg=0.5`), and how named data are embedded (`source.size=200`).
        points: upper bound on the points of each side, drawn without replacement; None takes all.
        repeats: number of halves; 0 for no interval.
        seed: of all draws, and of the embedder's weights.
        dtype: "float32" or "float64"; device: auto, cpu, cuda, cuda:N or mps.
        body: embeds named data, by default the body that the task picks; config_dir: the user's own configuration.

    Raises:
        ConfigError: unknown metric, name or parameter, or a value out of range.
        DataError: missing arrays, shapes other than above, different widths, too few classes for a metric.
        NonFiniteError: a distance overflows.
    """
    reporter = LogReporter()
    if points is not None and points < 2:
        raise ConfigError(f"{points} is out of range", where="points", hint="allowed: at least 2")
    if repeats < 0 or repeats == 1:
        raise ConfigError(f"{repeats} is out of range", where="ci", hint="allowed: 0 for none, or at least 2")
    if dtype not in DTYPES:
        raise ConfigError(f"'{dtype}' is not allowed", where="dtype", hint=suggest(dtype, DTYPES))
    place = choose_device(device)
    with compose.session(config_dir) as session:
        nodes = _metric_nodes(session, metrics, settings, config_dir)
        kept = [text for text in settings if _is_embedding(text)]
        embedding = Embedding(
            session, [a, b], body=body, settings=kept, seed=seed, config_dir=config_dir, device=place, reporter=reporter
        )
        clouds = [embedding.cloud(data, points) or read(data, points=points, seed=seed) for data in (a, b)]
    first, second = _comparable([cloud.features for cloud in clouds], place, dtype)
    built = {name: parts.build(node, "metric") for name, node in nodes.items()}
    lacks = _lacking(built, first, second, refuse="all" not in metrics)
    sides = [
        Side(c.name, len(c.features.x), c.available, c.features.x.shape[1], c.features.num_classes) for c in clouds
    ]
    how = first, second, repeats, seed, reporter
    measured = [_measure(name, nodes[name], metric, *how) for name, metric in built.items() if name not in lacks]
    return Comparison(sides[0], sides[1], embedding.body_name, dtype, seed, repeats, measured, lacks)


def _comparable(features: list[Features], device: torch.device, dtype: str) -> tuple[Features, Features]:
    """Return both sides on the device; refuse numbers that are not finite, and points of different width."""
    first, second = (
        Features(one.x.to(device, DTYPES[dtype]), one.labels.to(device), one.num_classes) for one in features
    )
    for name, cloud in (("A", first), ("B", second)):
        if not torch.isfinite(cloud.x).all():
            hint = f"use --dtype float64, or other units; needed: numbers that are finite in {dtype}"
            raise DataError(f"a number is NaN, infinite or beyond {dtype}", where=name, hint=hint)
    if first.x.shape[1] != second.x.shape[1]:
        text = f"A has points of width {first.x.shape[1]} and B of width {second.x.shape[1]}"
        hint = "use data of equal width, or names of tasks and sources, which are embedded by one body"
        raise DataError(text, where="A, B", hint=hint)
    return first, second


def _lacking(built: dict[str, Metric], first: Features, second: Features, refuse: bool) -> dict[str, str]:
    """Return the metrics that need more classes than a side has, with why; refuse the first of them where that is wanted."""
    fewest = min(first.num_classes, second.num_classes)
    least = {name: int(getattr(metric, "least_classes", 1)) for name, metric in built.items()}
    have = f"A has {first.num_classes}, B has {second.num_classes}"
    lacks = {name: f"needs {needed} or more classes, but {have}" for name, needed in least.items() if needed > fewest}
    if lacks and refuse:
        name, lack = next(iter(lacks.items()))
        raise DataError(lack, where=name, hint="choose another metric, or data with several classes")
    return lacks


def _measure(
    name: str,
    node: dict[str, Any],
    metric: Metric,
    a: Features,
    b: Features,
    repeats: int,
    seed: int,
    reporter: Reporter,
) -> Measured:
    start = time.monotonic()
    with torch.no_grad():
        prepared = metric.prepare(a)
        measured = measure(metric, a, prepared, b, seeding.numpy_generator(seed, "distance", "pairing"))
        value = float(measured.value)
        seconds = time.monotonic() - start
        self_a = float(measure(metric, a, prepared, a, seeding.numpy_generator(seed, "distance", "pairing", "a")).value)
        self_b = _value(metric, b, b, seed, "b")
        halves = []
        with reporter.track(f"{name}: halves", repeats) as advance:
            for repeat in range(repeats):
                halves.append(_value(metric, _half(a, seed, "a", repeat), _half(b, seed, "b", repeat), seed, repeat))
                advance()
    interval = None
    if halves:
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(halves, [tail, 1 - tail]) - np.mean(halves) + value
        interval = (float(low), float(high))
    return Measured(
        metric=name,
        parameters={key: entry for key, entry in node.items() if key != parts.TARGET},
        convention=str(getattr(metric, "convention", "")),
        value=value,
        self_a=self_a,
        self_b=self_b,
        interval=interval,
        halves_mean=float(np.mean(halves)) if halves else None,
        diagnostics=measured.diagnostics,
        seconds=seconds,
    )


def _value(metric: Metric, source: Features, target: Features, seed: int, *names: str | int) -> float:
    generator = seeding.numpy_generator(seed, "distance", "pairing", *names)
    return float(measure(metric, source, metric.prepare(source), target, generator).value)


def _half(features: Features, seed: int, *names: str | int) -> Features:
    """Return a random half of every class, rounded up."""
    generator = seeding.numpy_generator(seed, "distance", "half", *names)
    labels = features.labels.cpu().numpy()
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    chosen = [generator.choice(rows, size=(len(rows) + 1) // 2, replace=False) for rows in members]
    rows = torch.from_numpy(np.sort(np.concatenate(chosen))).to(features.x.device)
    return Features(features.x[rows], features.labels[rows], features.num_classes)


def _is_embedding(setting: str) -> bool:
    return setting.partition("=")[0].partition(".")[0] in _EMBEDDING


def _metric_nodes(
    session: compose.Session, metrics: Sequence[str], settings: Sequence[str], config_dir: Path | None
) -> dict[str, dict[str, Any]]:
    """Return the checked nodes of the metrics; a parameter goes to those that have it."""
    files = {name: configuration.content(path) for name, path in configuration.choices("metric", config_dir).items()}
    available = [name for name, content in files.items() if content.get(parts.TARGET) is not None]
    names = available if "all" in metrics else list(dict.fromkeys(metrics))
    for name in names:
        if name not in available:
            raise ConfigError(f"no such metric: '{name}'", where="metric", hint=suggest(name, [*available, "all"]))
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
