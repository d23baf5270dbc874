"""A data set of the Hugging Face hub, or a folder in its formats, without code.

Shapes: n rows, C channels, *E the extent (L, or H x W), K outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.assemble import Fitted, Pool, assemble, check_enough
from orca_cli.data.contents import MOST_BYTES, hashes
from orca_cli.data.gaps import Gaps, How, fit_gaps
from orca_cli.data.hub.opening import open_dataset
from orca_cli.data.hub.preprocessing import (
    ColumnLayout,
    HubPreprocessing,
    HubSamples,
    class_names,
    image_source,
    infer_layout,
    open_column,
    raw_targets,
    row_blocks,
)
from orca_cli.data.own_data import check_column, check_rules, described
from orca_cli.data.samples import ChannelScale, streamed_channel_scale
from orca_cli.data.splits import PART_NAMES, group_rows
from orca_cli.data.targets import fit_targets
from orca_cli.exceptions import ConfigError, DataError, suggest
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
    role = f"'{group}' is the column of {'inputs' if group == x else 'targets'}"
    check_rules((group in (x, y), "group", role, "name the column that says which rows belong together"))
    splits, origin = open_dataset(dataset, config, revision, data_folder, cache_folder)
    import datasets

    parts = _parts(splits, origin, {"train": train_split, "validation": validation_split, "test": test_split})
    where = {part: f"{origin}[{part}]" for part in parts}
    for part, rows in parts.items():
        for key, column in (("x", x), ("y", y), ("group", group)):
            if column is not None:
                check_column(column, rows.column_names, f"task.{key}", where[part])
                is_list = not isinstance(rows.features[column], (datasets.Value, datasets.ClassLabel))
                if is_list and (key == "group" or (key == "y" and kind == "classes")):
                    place, hint = f"{where[part]}[{column}]", "allowed: a number, text or class in each row"
                    raise DataError(f"holds {rows.features[column]}", where=place, hint=hint)
    check_enough(len(parts["train"]), "rows", origin)
    groups = {} if group is None else {part: np.array(rows[group]) for part, rows in parts.items()}
    records = group_rows(groups, {part: f"{place}[{group}]" for part, place in where.items()})
    columns = _Columns(
        parts, where, records, reporter, (x, y), kind, config, length, image_size,
        channels_last, normalize, missing_targets, gaps, gap_indicator,
    )  # fmt: skip
    fractions = validation_fraction, test_fraction
    return assemble("hub", reporter, kind, columns.pool(), fractions, split_seed, columns.fit)


@dataclass(frozen=True)
class _Columns:
    """Columns of inputs and targets by name, and the arguments of `load` that say how they become samples.

    By split: `parts` are the rows, `where` is their place for messages, `records` the group of each, where there are groups.
    """

    parts: dict[str, Dataset]
    where: dict[str, str]
    records: dict[str, np.ndarray]
    reporter: Reporter
    names: tuple[str, str]
    kind: Kind
    config: str | None
    length: int | None
    image_size: int | None
    channels_last: bool
    normalize: bool
    missing_targets: bool
    gaps: How
    gap_indicator: bool

    def pool(self) -> Pool:
        """Return the training rows, from which missing splits are drawn."""
        (x, y), base, place = self.names, self.parts["train"], f"{self.where['train']}[{self.names[0]}]"
        classes = np.array(base[y]).astype(str) if self.kind == "classes" else None
        everything, groups = {"train": np.arange(len(base))}, self.records.get("train")
        return Pool("rows", everything, self.parts, classes, groups, lambda: _contents(base, x, place))

    def fit(self, rows: dict[str, np.ndarray]) -> Fitted:
        """Learn from the training rows how values become samples; see `assemble`."""
        (x, y), base, learn, where = self.names, self.parts["train"], rows["train"], self.where
        x_place, y_place = f"{where['train']}[{x}]", f"{where['train']}[{y}]"
        layout = infer_layout(base, x, learn, x_place, self.length, self.image_size, self.channels_last)
        names, raw = class_names(self.kind, base, y), raw_targets(self.kind, base, y, y_place)
        form = fit_targets(
            self.kind, raw, learn, y_place, layout.shape[1:], names,
            channels_last=self.channels_last, missing=self.missing_targets,
        )  # fmt: skip
        encoded = form.encode(raw, y_place)
        scale, filling, gap_notes, constants = self._fit_scale(layout, learn, x_place)
        preprocessing = HubPreprocessing(layout, form, scale, self.names, self.config, filling)

        def samples(part: str) -> HubSamples:
            owner = "train" if part in rows else part
            targets = encoded
            if owner != "train":
                place = f"{where[part]}[{y}]"
                targets = form.encode(raw_targets(self.kind, self.parts[part], y, place, names), place)
            chosen = rows.get(part, np.arange(len(self.parts[owner])))
            values = open_column(self.parts[owner], x, bool(layout.image_mode))
            return HubSamples(values, preprocessing, targets, chosen, f"{where[owner]}[{x}]", self.records.get(owner))

        notes = [where["train"], described(layout.shape), *gap_notes, form.note(), *constants]
        return Fitted(preprocessing, preprocessing.input_shape, form, samples, notes)

    def _fit_scale(
        self, layout: ColumnLayout, learn: np.ndarray, where: str
    ) -> tuple[ChannelScale | None, Gaps | None, list[str], list[str]]:
        """Return the scale of inputs, what fills their gaps, and notes on gaps and on constant channels."""
        if layout.image_mode and not self.normalize:
            return None, None, [], []
        values = open_column(self.parts["train"], self.names[0], bool(layout.image_mode))

        def decoded() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            with self.reporter.track("reading training inputs", len(learn)) as advance:
                for some in row_blocks(learn):
                    inputs, valid = layout.decode(values(some), where, list(some))
                    yield inputs, ~np.isnan(inputs) if valid is None else ~np.isnan(inputs) & valid[:, None]
                    advance(len(some))

        scale, missing, constants = streamed_channel_scale(decoded())
        filling, notes = fit_gaps(missing, layout.shape[1:], self.gaps, self.gap_indicator, scale.mean, where)
        return (scale, filling, notes, constants) if self.normalize else (None, filling, notes, [])


def _contents(rows: Dataset, column: str, where: str) -> np.ndarray | None:
    """Return a hash of each row's input [n], for images of the file; None where there are too many bytes to compare."""
    import datasets

    if rows.data.column(column).nbytes > MOST_BYTES:
        return None
    is_image = isinstance(rows.features[column], datasets.Image)
    values = open_column(rows, column, is_image)

    def contents() -> Iterator[bytes]:
        for some in row_blocks(np.arange(len(rows))):
            for row, value in zip(some, values(some), strict=True):
                if is_image:
                    source = image_source(value, f"{where}, row {row}")
                    yield source.read_bytes() if isinstance(source, Path) else source.getvalue()
                else:
                    array = np.asarray(value)  # of objects for lists of several lengths, which are refused later
                    yield b"" if array.dtype.kind == "O" else f"{array.shape}".encode() + array.tobytes()

    return hashes(contents())


def _parts(splits: dict[str, Dataset], origin: str, names: dict[str, str | None]) -> dict[str, Dataset]:
    parts: dict[str, Dataset] = {}
    taken: dict[str, str] = {}
    for part, name in names.items():
        if name is None:
            words = () if part == "train" else PART_NAMES[part]
            name = next((word for word in words if word in splits and word not in names.values()), None)
        elif name not in splits:
            raise DataError(f"{origin} has no split '{name}'", where=f"task.{part}_split", hint=suggest(name, splits))
        if name is None or not len(splits[name]):
            continue
        if name in taken:
            what = f"'{name}' is also task.{taken[name]}_split; its rows would be in both"
            raise ConfigError(what, where=f"task.{part}_split", hint="remove it")
        taken[name], parts[part] = part, splits[name]
    if "train" not in parts:
        raise DataError("no training rows", where=origin, hint="provide a data set with training rows")
    return parts
