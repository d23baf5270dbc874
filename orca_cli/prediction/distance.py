"""The distance between two labelled data sets outside a run: what `orca distance` computes, as a function.

A and B are arrays, .npz files, or names of configured tasks and sources. Named data are embedded as in stage 2: sources by
the body's own embedding layer, the training split of tasks by the embedder as it is initialised.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orca_cli import seeding
from orca_cli.config import compose, configuration, parts
from orca_cli.config.catalogue import GROUPS
from orca_cli.config.schema import Config
from orca_cli.data.untrusted.arrays import read_arrays
from orca_cli.exceptions import ConfigError, DataError, suggest
from orca_cli.interfaces import Features, Metric, TaskData
from orca_cli.models.assembly import build_model
from orca_cli.models.bodies.base import Body
from orca_cli.models.transfer import TransferModel
from orca_cli.stages.build import fit_embedder, load_body, read_source, read_task
from orca_cli.stages.problem import measure
from orca_cli.stages.pseudo_labels import class_labels, shuffled
from orca_cli.stages.source_features import UniformDraw, Wanted, select_points, source_features
from orca_cli.terminal import LogReporter
from orca_cli.training.engine import choose_device

Data = str | Path | tuple[np.ndarray, np.ndarray]
_POINT_KEYS = tuple(
    f"align.{name}" for name in ("features", "pseudo_labels", "source_cloud", "source_labels", "target_labels")
)
_PSEUDO_LABELS = 10  # like the classes of most sources; align.pseudo_labels changes it
_BATCH = 64
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
    """A file, task or source as it was compared: number of points, width, classes."""

    name: str
    points: int
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
        embedding = _Embedding(
            session, [a, b], body=body, settings=kept, seed=seed, config_dir=config_dir, device=place
        )
        clouds = [embedding.points(data, points) or _read(data, points=points, seed=seed) for data in (a, b)]
    first, second = (Features(one.x.to(place, torch.float32), one.labels.to(place), one.num_classes) for one in clouds)
    for name, cloud in (("A", first), ("B", second)):
        if not torch.isfinite(cloud.x).all():
            raise DataError("a number is NaN, infinite or beyond float32", where=name, hint="use other units")
    if first.x.shape[1] != second.x.shape[1]:
        text = f"A has points of width {first.x.shape[1]} and B of width {second.x.shape[1]}"
        hint = "use data of equal width, or names of tasks and sources, which are embedded by one body"
        raise DataError(text, where="A, B", hint=hint)
    built = {name: parts.build(node, "metric") for name, node in nodes.items()}
    fewest = min(first.num_classes, second.num_classes)
    for name, metric in built.items():
        if (least := int(getattr(metric, "least_classes", 1))) > fewest:
            what = f"needs {least} or more classes, but A has {first.num_classes}, B has {second.num_classes}"
            raise DataError(what, where=name, hint="choose another metric, or data with several classes")
    sides = [
        Side("arrays" if isinstance(data, tuple) else str(data), len(one.x), one.x.shape[1], one.num_classes)
        for data, one in ((a, first), (b, second))
    ]
    measured = [_measure(name, nodes[name], metric, first, second, seed) for name, metric in built.items()]
    return Comparison(sides[0], sides[1], embedding.body_name, seed, measured)


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


def _read(data: Data, *, points: int | None, seed: int) -> Features:
    """Return a seeded draw of points of arrays x and y, or of an .npz file with them; the same rows for equal sizes.

    Args:
        data: x [n, ...], numbers, whose further axes are flattened; y [n], integers, bools or texts, or floats with integer
            values.
        points: upper bound on their number; None takes all.
        seed: of the draw.

    Raises:
        DataError: other shapes or types, no points, or NaN or infinite values; the file or an array is missing or damaged.
        UnsafeError: an array holds Python objects.
    """
    if isinstance(data, tuple):
        name, (x, y) = "arrays", data
    else:
        arrays = read_arrays(Path(data), ("x", "y"))
        name, x, y = str(data), arrays["x"], arrays["y"]
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim < 2 or x.size == 0 or x.dtype.kind not in "biuf":
        raise DataError(f"x is {x.dtype} {list(x.shape)}; needed: numbers [n, d] or [n, ...]", where=name)
    if y.shape != x.shape[:1] or y.dtype.kind not in "biufUS":
        text = f"y is {y.dtype} {list(y.shape)}; needed: one class label for each of {len(x)} points"
        raise DataError(text, where=name)
    if y.dtype.kind == "f" and not (np.isfinite(y).all() and (y == np.floor(y)).all()):
        raise DataError("y has values that are not class labels", where=name, hint="round or cluster them first")
    rows = np.arange(len(x))
    if points is not None and points < len(x):
        generator = seeding.numpy_generator(seed, "distance", "points", len(x))
        rows = np.sort(generator.choice(len(x), size=points, replace=False))
    chosen = torch.from_numpy(np.ascontiguousarray(x[rows].reshape(len(rows), -1), dtype=np.float64))
    if not bool(torch.isfinite(chosen).all()):
        raise DataError("x has NaN or infinite values", where=name, hint="remove or replace them")
    return _compact(chosen, torch.from_numpy(np.unique(y[rows], return_inverse=True)[1]))


class _Embedding:
    """Embeds named tasks and sources with one body, loaded once and only if anything is named."""

    body_name: str | None = None

    def __init__(
        self,
        session: compose.Session,
        data: Sequence[Data],
        *,
        body: str | None,
        settings: Sequence[str],
        seed: int,
        config_dir: Path | None,
        device: torch.device,
    ) -> None:
        """Compose the configurations of all names among `data`; arguments as in `distance`.

        Raises:
            ConfigError: an unknown name, or a setting that is not allowed.
        """
        self._seed, self._device, self._reporter = seed, device, LogReporter()
        named = {entry: _named(entry, config_dir) for entry in data if not isinstance(entry, tuple)}
        chosen = {entry: pair for entry, pair in named.items() if pair is not None}
        self._configs: dict[Any, tuple[str, Config]] = {}
        self._body: Body | None = None
        self._tasks: dict[Any, tuple[TaskData, TransferModel]] = {}
        for text in settings:
            key = text.partition("=")[0]
            if not chosen:
                hint = "name a task or a source, or leave it out"
                raise ConfigError("is about named data, and there are none", where=text, hint=hint)
            if key.startswith("align.") and key not in _POINT_KEYS:
                raise ConfigError("has no effect on points", where=text, hint=f"allowed: {', '.join(_POINT_KEYS)}")
        if not chosen:
            return
        # A task picks its body, so the first task decides for both sides.
        group, name = min(chosen.values(), key=lambda pair: pair[0] != "task")
        start = session.compose([f"{group}={name}", *([f"body={body}"] if body else [])])
        self.body_name = start.choices["body"]
        shared = [f"body={self.body_name}", f"seed={seed}", *settings]
        for entry, (group, name) in chosen.items():
            self._configs[entry] = (group, session.compose([f"{group}={name}", *shared]).config)

    @torch.no_grad()
    def points(self, data: Data, most: int | None) -> Features | None:
        """Return the embedded points of a named task or source, at most `most`; None for files and arrays."""
        if isinstance(data, tuple) or data not in self._configs:
            return None
        group, config = self._configs[data]
        limit = sys.maxsize if most is None else most
        features = self._task(data, config, limit) if group == "task" else self._source(config, limit)
        return _compact(features.x, features.labels)

    def _loaded(self, config: Config) -> Body:
        if self._body is None:
            self._body = load_body(config)
            self._body.to(self._device)
        return self._body

    def _source(self, config: Config, limit: int) -> Features:
        assert config.paths.cache is not None
        align, length = config.align, 0
        if align.features == "sequence":  # of as many tokens as a sample of the task
            tasks = [(entry, other) for entry, (group, other) in self._configs.items() if group == "task"]
            if not tasks:
                raise ConfigError("needs a task, because its samples have a length", where="align.features=sequence")
            length = self._built(*tasks[0])[1].embedder.layout.tokens
        return source_features(
            self._loaded(config),
            read_source(config, self._seed, self._reporter),
            Wanted(align.features, length, limit, self._seed, align.source_cloud, align.source_labels),
            self._device,
            Path(config.paths.cache),
            self._reporter,
        ).cloud

    def _built(self, entry: Data, config: Config) -> tuple[TaskData, TransferModel]:
        if entry not in self._tasks:
            task = read_task(config, self._reporter)
            model = build_model(
                body=self._loaded(config),
                kind=task.kind,
                input_shape=task.input_shape,
                num_outputs=task.num_outputs,
                embedder=parts.build(config.embedder, "embedder"),
                pooling=config.predictor.pooling,
                seed=self._seed,
            )
            fit_embedder(model.embedder, task.train, self._seed)
            self._tasks[entry] = task, model.to(self._device).eval()
        return self._tasks[entry]

    def _task(self, entry: Data, config: Config, limit: int) -> Features:
        task, model = self._built(entry, config)
        targets = task.train.targets(), task.validation.targets()
        clusters = config.align.pseudo_labels or _PSEUDO_LABELS
        unshuffled = class_labels(task.kind, *targets, num_clusters=clusters, seed=self._seed)
        labels, _ = shuffled(unshuffled, self._seed) if config.align.target_labels == "shuffled" else unshuffled
        draw = UniformDraw(limit, seeding.torch_generator(self._seed, "distance", "task", config.align.features))
        for indices in np.array_split(np.arange(len(task.train)), -(-len(task.train) // _BATCH)):
            batch = task.train.batch(indices)
            valid = None if batch.valid is None else batch.valid.to(self._device)
            tokens = model.embed(batch.x.to(self._device), valid)
            x, rows = select_points(tokens, config.align.features, model.embedder.layout.tokens)
            draw.add(x.float(), torch.from_numpy(indices)[rows.cpu()])
        x, samples_of, _ = draw.drawn()
        return Features(x, torch.from_numpy(labels)[samples_of], int(labels.max()) + 1)


def _named(entry: str | Path, config_dir: Path | None) -> tuple[str, str] | None:
    """Return (group, name) of a task or a source; None for a file."""
    text = str(entry)
    choices = {group: configuration.choices(group, config_dir) for group in GROUPS}
    group, separator, name = text.partition("=")
    if separator and group in GROUPS:
        if name not in choices[group]:
            raise ConfigError(f"no such {group}: '{name}'", where=text, hint=suggest(name, choices[group]))
        return group, name
    if text.endswith(".npz") or Path(text).is_file():
        return None
    groups = [group for group in GROUPS if text in choices[group]]
    if len(groups) > 1:
        raise ConfigError("is both a task and a source", where=text, hint=f"write task={text} or source={text}")
    if not groups:
        names = {name for group in GROUPS for name in choices[group]}
        raise ConfigError("is not an .npz file, a task or a source", where=text, hint=suggest(text, names))
    return groups[0], text


def _compact(x: torch.Tensor, labels: torch.Tensor) -> Features:
    """Return points whose classes are numbered without gaps."""
    present, compact = torch.unique(labels, return_inverse=True)
    return Features(x, compact, len(present))
