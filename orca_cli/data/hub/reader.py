"""A data set of the Hugging Face hub, or a folder in its formats, without code.

Shapes: n rows, C channels, *E the extent (L, or H x W), K outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.assemble import Fitted, Pool, assemble
from orca_cli.data.hub.opening import open_dataset
from orca_cli.data.hub.preprocessing import Column, HubPreprocessing, HubSamples, contents, infer_layout, raw_targets
from orca_cli.data.own_data import check_columns, check_rules, described, refuse_if
from orca_cli.data.samples import How, fit_inputs
from orca_cli.data.splits import PART_NAMES, group_rows
from orca_cli.data.targets import fit_targets, plain_labels
from orca_cli.exceptions import DataError, suggest
from orca_cli.interfaces import Kind, Reporter, TaskData

if TYPE_CHECKING:
    from datasets import Dataset


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    dataset: str,
    x: str,
    y: str,
    kind: Kind = "classes",
    config: str | None = None,
    revision: str | None = None,
    train_split: str = "train",
    validation_split: str | None = None,
    test_split: str | None = None,
    group: str | None = None,
    length: Count | None = None,
    image_size: Count | None = None,
    channels_last: bool = False,
    split_seed: Seed = 0,
    validation_fraction: Fraction = 0.15,
    test_fraction: Fraction = 0.15,
    normalize: bool = True,
    missing_targets: bool = False,
    gaps: How = "mean",
    gap_indicator: bool = False,
) -> TaskData:
    """Return a task over two columns of a data set, read from the mapped file batch by batch. See `assemble`.

    conf/task/hub.yaml explains the settings. Inputs are a column of lists (L), nested lists (C, L) or (C, H, W), or images,
    which become 1 or 3 channels in 0..1.

    Raises:
        NetworkError: the data set is not in the hub's cache and the hub cannot be reached.
        UnavailableError: the package `datasets` is not installed.
    """
    typed = [name for name in (train_split, validation_split, test_split) if name is not None]
    check_rules(
        (group in (x, y), "group", "is the column of inputs or targets", "name another column"),
        (len({*typed}) < len(typed), "train_split", "this, validation_split and test_split have to differ", ""),
    )
    splits, origin = open_dataset(dataset, config, revision, data_folder, cache_folder)
    named = {"train": train_split, "validation": validation_split, "test": test_split}
    parts = _parts(splits, origin, named, {"x": x, "y": y, "group": group})
    layout = {"length": length, "image_size": image_size, "channels_last": channels_last}
    form = {"channels_last": channels_last, "missing": missing_targets}
    held = _Held(parts, origin, (x, y), group, kind, config, layout, form, (gaps, gap_indicator), normalize, reporter)
    return assemble("hub", reporter, kind, held.pool, (validation_fraction, test_fraction), split_seed, held.fit)


def _parts(
    splits: dict[str, Dataset], origin: str, names: dict[str, str | None], columns: dict[str, str | None]
) -> dict[str, Dataset]:
    """Return the rows of each split by the names that settings give, or that splits usually have; all have the columns."""
    import datasets

    parts: dict[str, Dataset] = {}
    for part, name in names.items():
        if name is None:
            name = next((word for word in PART_NAMES[part] if word in splits and word not in names.values()), None)
        elif name not in splits:
            raise DataError(f"{origin} has no split '{name}'", where=f"task.{part}_split", hint=suggest(name, splits))
        if name is None or (part != "train" and not len(splits[name])):
            continue
        rows = parts[part] = splits[name]
        for key, column in columns.items():
            if column is not None:
                check_columns([column], rows.column_names, f"task.{key}", f"{origin}[{part}]")
                feature, place = rows.features[column], f"{origin}[{part}][{column}]"
                is_list = key == "group" and not isinstance(feature, (datasets.Value, datasets.ClassLabel))
                refuse_if(is_list, f"holds {feature}", place, "allowed: a number, text or class in each row")
    return parts


@dataclass
class _Held:
    """The rows of each split, and how they become samples; `layout`, `form` are arguments of `infer_layout`, `fit_targets`."""

    parts: dict[str, Dataset]
    origin: str
    columns: tuple[str, str]
    group: str | None
    kind: Kind
    config: str | None
    layout: dict[str, Any]
    form: dict[str, bool]
    gaps: tuple[How, bool]
    normalize: bool
    reporter: Reporter

    def __post_init__(self) -> None:
        base, y_where, group = self.parts["train"], self._where("train", self.columns[1]), self.group
        self._raw, self._names = raw_targets(self.kind, base, self.columns[1], y_where)
        held = {} if group is None else {part: np.array(rows[group]) for part, rows in self.parts.items()}
        self._groups = group_rows({part: (values, self._where(part, group)) for part, values in held.items()})
        rows, groups = {"train": np.arange(len(base))}, self._groups.get("train")
        classes = plain_labels(self._raw, y_where).astype(str) if self.kind == "classes" else None
        hashed = partial(contents, base, self.columns[0], self._where("train", self.columns[0]))
        self.pool = Pool("rows", self.origin, rows, self.parts, classes, groups, hashed)

    def _where(self, part: str, column: str | None) -> str:
        return f"{self.origin}[{part}][{column}]"

    def fit(self, rows: dict[str, np.ndarray]) -> Fitted:
        """Learn from the training rows how values become samples; see `assemble`."""
        (x, y), base, learn = self.columns, self.parts["train"], rows["train"]
        where, y_where = self._where("train", x), self._where("train", y)
        layout = infer_layout(base, x, learn, where, **self.layout)
        form = fit_targets(self.kind, self._raw, learn, y_where, layout.shape[1:], self._names, **self.form)
        encoded = form.encode(self._raw, y_where)
        notes, scale, filling = [f"{self.origin}[train]", described(layout.shape), form.note()], None, None
        if self.normalize or not layout.image_mode:
            with self.reporter.track("reading training inputs", len(learn)) as advance:
                column = Column(base, x, layout, where)
                scale, filling, constants, filled = fit_inputs(column, learn, True, *self.gaps, where, advance)
            notes += [*filled, *(constants if self.normalize else [])]
        used = scale if self.normalize else None
        preprocessing = HubPreprocessing(layout, form, used, self.columns, self.config, filling)

        def samples(part: str) -> HubSamples:
            held, targets = "train" if part in rows else part, encoded
            source, place = self.parts[held], self._where(held, y)
            if part not in rows:
                targets = form.encode(raw_targets(self.kind, source, y, place, self._names)[0], place)
            inputs, groups = Column(source, x, layout, self._where(held, x)), self._groups.get(held)
            return HubSamples(inputs, targets, None, rows.get(part), used, groups, filling)

        return Fitted(preprocessing, preprocessing.input_shape, form, samples, notes)
