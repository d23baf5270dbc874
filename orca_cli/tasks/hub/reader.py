"""A data set of the Hugging Face hub, or a folder in its formats, without code.

Shapes: n rows, C channels, *E the extent (L, or H x W), K outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.exceptions import ConfigError, DataError, suggest
from orca_cli.interfaces import Kind, Reporter, TaskData
from orca_cli.tasks.hub.columns import ColumnLayout, class_names, image_source, infer_layout, open_column, raw_targets
from orca_cli.tasks.hub.opening import open_dataset
from orca_cli.tasks.hub.preprocessing import HubPreprocessing, HubSamples, row_blocks
from orca_cli.tasks.shared.assemble import Fitted, Pool, assemble, check_enough
from orca_cli.tasks.shared.contents import MOST_BYTES, hashes
from orca_cli.tasks.shared.gaps import Gaps, How, fit_gaps
from orca_cli.tasks.shared.own_data import check_column, check_missing_targets, cut_notes, described
from orca_cli.tasks.shared.samples import ChannelScale, streamed_channel_scale
from orca_cli.tasks.shared.splits import PART_NAMES, check_fractions, group_rows
from orca_cli.tasks.shared.targets import fit_targets

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
    """Return a task over two columns of a data set, read from the mapped file batch by batch.

    Inputs are a column of lists (L), nested lists (C, L) or (C, H, W), or images, which become 1 or 3 channels in 0..1.
    See shared.assemble.

    Args:
        dataset: hub id, or folder of .parquet files or of what save_to_disk writes.
        kind: classes: y are class labels, integers or text. labels: lists of K times 0 or 1, or of the classes that are
            present, of type List(ClassLabel). values: a number, or lists of K numbers. dense: lists of the extent of x, of
            floats, or of integers for a class at every position.
        config: one of the data set's configurations, where it has several.
        revision: commit, tag or branch on the hub; None takes the newest.
        train_split: split with the training rows, from which missing splits are drawn.
        validation_split: None takes validation, valid, val or dev, or else draws from the training rows.
        test_split: None takes test, or else draws.
        group: column that says which rows belong together; no two drawn splits share one of its values.
        length: steps that sequences are padded with 0 or cut to; None requires equal lengths.
        image_size: side in pixels that images are resized to; None requires equal sizes.
        channels_last: whether lists are (L, C) or (H, W, C), and dense targets (*E, K).
        gaps: what takes the place of missing numbers in inputs, None or NaN: the channel's training mean; linear: what lies
            between the known values in time, for sequences.
        gap_indicator: whether a channel with missing numbers in training gets another one that is 1 where one was missing.

    Raises:
        ConfigError: settings contradict each other or the data set.
        NetworkError: the data set is not in the hub's cache and the hub cannot be reached.
        UnavailableError: the package `datasets` is not installed.
    """
    splits, origin = open_dataset(dataset, config, revision, data_folder, cache_folder)
    parts = _parts(splits, origin, {"train": train_split, "validation": validation_split, "test": test_split})
    where = {part: f"{origin}[{part}]" for part in parts}
    for part, rows in parts.items():
        for key, column in (("x", x), ("y", y), ("group", group)):
            if column is not None:
                check_column(column, rows.column_names, f"task.{key}", where[part])
    base, x_place, y_place = parts["train"], f"{where['train']}[{x}]", f"{where['train']}[{y}]"
    check_enough(len(base), "rows", origin)
    groups = {} if group is None else {part: np.array(rows[group]) for part, rows in parts.items()}
    records = group_rows(groups, {part: f"{place}[{group}]" for part, place in where.items()})
    classes = np.array(base[y]).astype(str) if kind == "classes" else None
    everything, train_records = {"train": np.arange(len(base))}, records.get("train")
    pool = Pool("rows", everything, parts, classes, train_records, lambda: _contents(base, x, x_place))

    def fit(rows: dict[str, np.ndarray]) -> Fitted:
        learn = rows["train"]
        layout = infer_layout(base, x, learn, x_place, length, image_size, channels_last)
        is_image, extent, names = bool(layout.image_mode), layout.shape[1:], class_names(kind, base, y)
        raw = raw_targets(kind, base, y, y_place)
        form = fit_targets(
            kind, raw, learn, y_place, extent, names, channels_last=channels_last, missing=missing_targets
        )
        base_y = form.encode(raw, y_place)
        scale: ChannelScale | None = None
        filling: Gaps | None = None
        notes: list[str] = []
        constants: list[str] = []
        if normalize or not is_image:
            with reporter.track("reading training inputs", len(learn)) as advance:
                values = open_column(base, x, is_image)

                def decoded() -> Iterator[tuple[np.ndarray, np.ndarray]]:
                    for some in row_blocks(learn):
                        inputs, valid = layout.decode(values(some), x_place, list(some))
                        yield inputs, ~np.isnan(inputs) if valid is None else ~np.isnan(inputs) & valid[:, None]
                        advance(len(some))

                scale, missing, constants = streamed_channel_scale(decoded())
            filling, notes = fit_gaps(missing, extent, gaps, gap_indicator, scale.mean, x_place)
        preprocessing = HubPreprocessing(layout, form, scale if normalize else None, (x, y), config, filling)

        def samples(part: str) -> HubSamples:
            owner = "train" if part in rows else part
            stored, targets = parts[owner], base_y
            if owner != "train":
                place = f"{where[owner]}[{y}]"
                targets = form.encode(raw_targets(kind, stored, y, place, names), place)
                for cut in _cuts(stored, x, layout):
                    reporter.say(f"{part} split: {cut}")
            chosen = rows.get(part, np.arange(len(stored)))
            values = open_column(stored, x, is_image)
            return HubSamples(values, preprocessing, targets, chosen, f"{where[owner]}[{x}]", records.get(owner))

        notes = [
            described(layout.shape),
            *_cuts(base, x, layout),
            *notes,
            form.note(),
            *(constants if normalize else []),
        ]
        return Fitted(preprocessing, preprocessing.input_shape, form, samples, notes)

    fractions = validation_fraction, test_fraction
    return assemble("hub", reporter, kind, pool, fractions, split_seed, fit, origin=[origin])


def check_settings(
    kind: str,
    length: int | None,
    image_size: int | None,
    validation_fraction: float,
    test_fraction: float,
    missing_targets: bool,
) -> None:
    """Raise ConfigError where settings contradict each other; arguments as those of `load`."""
    if length is not None and image_size is not None:
        what = "applies to sequences, and task.image_size to images"
        raise ConfigError(what, where="task.length", hint="give one of them")
    check_missing_targets(kind, missing_targets)
    check_fractions(validation_fraction, test_fraction)


def _cuts(rows: Dataset, column: str, layout: ColumnLayout) -> list[str]:
    """Return a note on the rows that are longer than the inputs."""
    if not layout.padded:
        return []
    values = open_column(rows, column, False)
    steps = [layout.steps(values(some)) for some in row_blocks(np.arange(len(rows)))]
    return cut_notes(np.concatenate(steps), layout.shape[-1])


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
            hint = "remove it and the split is drawn from the training rows"
            raise ConfigError(what, where=f"task.{part}_split", hint=hint)
        taken[name], parts[part] = part, splits[name]
    if "train" not in parts:
        raise DataError("no training rows", where=origin, hint="provide a data set with training rows")
    return parts
