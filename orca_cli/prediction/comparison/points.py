"""Labelled points from arrays, files, and the names of configured tasks and sources: what `orca distance` compares."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orca_cli import seeding
from orca_cli.config import compose, configuration, parts
from orca_cli.config.catalogue import GROUPS
from orca_cli.config.schema import Config
from orca_cli.data.untrusted.arrays import read_arrays
from orca_cli.exceptions import ConfigError, DataError, suggest
from orca_cli.interfaces import Features, Reporter, Samples, TaskData
from orca_cli.models.assembly import build_model
from orca_cli.models.bodies.base import Body
from orca_cli.models.transfer import TransferModel
from orca_cli.stages.build import fit_embedder, load_body, read_source, read_task
from orca_cli.stages.pseudo_labels import class_labels, shuffled
from orca_cli.stages.source_features import UniformDraw, Wanted, select_points, source_features

Data = str | Path | tuple[np.ndarray, np.ndarray]
_POINT_KEYS = tuple(
    f"align.{name}" for name in ("features", "pseudo_labels", "source_cloud", "source_labels", "target_labels")
)
_PSEUDO_LABELS = 10  # like the classes of most sources; align.pseudo_labels changes it
_BATCH = 64


@dataclass(frozen=True)
class Cloud:
    """Labelled points on the CPU, a point of every class, and how many they were drawn from; None if unknown."""

    name: str
    features: Features
    available: int | None


def read(data: Data, *, points: int | None, seed: int) -> Cloud:
    """Return the points of arrays x [n, ...] and y [n], or of an .npz file with them.

    Raises:
        DataError: as in `cloud_of`; the file or an array is missing or damaged.
        UnsafeError: an array holds Python objects.
    """
    if isinstance(data, tuple):
        return cloud_of("arrays", *data, points=points, seed=seed)
    arrays = read_arrays(Path(data), ("x", "y"))
    return cloud_of(str(data), arrays["x"], arrays["y"], points=points, seed=seed)


def cloud_of(name: str, x: np.ndarray, y: np.ndarray, *, points: int | None, seed: int) -> Cloud:
    """Return a seeded draw of points; the same rows for every data set of the same size.

    Args:
        name: for messages.
        x: [n, ...], numbers; further axes are flattened.
        y: [n], integers, bools or texts, or floats with integer values.
        points: upper bound on their number; None takes all.
        seed: of the draw.

    Raises:
        DataError: other shapes or types, no points, or NaN or infinite values.
    """
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
    kind = np.float32 if x.dtype in (np.float16, np.float32) else np.float64
    chosen = torch.from_numpy(np.ascontiguousarray(x[rows].reshape(len(rows), -1), dtype=kind))
    if not bool(torch.isfinite(chosen).all()):
        raise DataError("x has NaN or infinite values", where=name, hint="remove or replace them")
    return Cloud(name, _compact(chosen, torch.from_numpy(np.unique(y[rows], return_inverse=True)[1])), len(x))


class Embedding:
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
        reporter: Reporter,
    ) -> None:
        """Compose the configurations of all names among `data`; arguments as in `distance`.

        Raises:
            ConfigError: an unknown name, or a setting that is not allowed.
        """
        self._seed, self._device, self._reporter = seed, device, reporter
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
    def cloud(self, data: Data, points: int | None) -> Cloud | None:
        """Return the embedded points of a named task or source, at most `points`; None for files and arrays."""
        if isinstance(data, tuple) or data not in self._configs:
            return None
        group, config = self._configs[data]
        limit = sys.maxsize if points is None else points
        features = self._task(data, config, limit) if group == "task" else self._source(config, limit)
        return Cloud(str(data), _compact(features.x, features.labels), None)

    def _loaded(self, config: Config) -> Body:
        if self._body is None:
            self._body = load_body(config)
            self._body.to(self._device)  # type: ignore[attr-defined]
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
        x, rows = self._embed(model, task.train, config.align.features, limit)
        return Features(x, torch.from_numpy(labels)[rows], int(labels.max()) + 1)

    def _embed(self, model: TransferModel, samples: Samples, features: str, limit: int) -> tuple[Tensor, Tensor]:
        """Return a uniform draw of at most `limit` points, and the sample of each."""
        draw = UniformDraw(limit, seeding.torch_generator(self._seed, "distance", "task", features))
        with self._reporter.track("target features", len(samples)) as advance:
            for indices in np.array_split(np.arange(len(samples)), -(-len(samples) // _BATCH)):
                batch = samples.batch(indices)
                valid = None if batch.valid is None else batch.valid.to(self._device)
                tokens = model.embed(batch.x.to(self._device), valid)
                x, rows = select_points(tokens, features, model.embedder.layout.tokens)
                draw.add(x.float(), torch.from_numpy(indices)[rows.cpu()])
                advance(len(indices))
        x, samples_of, _ = draw.drawn()
        return x, samples_of


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


def _compact(x: Tensor, labels: Tensor) -> Features:
    """Return points whose classes are numbered without gaps."""
    present, compact = torch.unique(labels, return_inverse=True)
    return Features(x, compact, len(present))
