"""A data set of the Hugging Face hub, or a folder in its formats, without code.

Shapes: n rows, C channels, *E the extent (L, or H x W), K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    image_content,
    infer_layout,
    open_column,
    raw_targets,
    row_blocks,
)
from orca_cli.data.own_data import check_column, check_rules, described
from orca_cli.data.samples import streamed_channel_scale
from orca_cli.data.splits import PART_NAMES, group_rows
from orca_cli.data.targets import TargetForm, fit_targets, plain_labels
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
    groups = {} if group is None else {part: np.array(rows[group]) for part, rows in parts.items()}
    records = group_rows(groups, {part: f"{origin}[{part}][{group}]" for part in parts})
    base, place = parts["train"], f"{origin}[train][{y}]"
    classes = plain_labels(raw_targets(kind, base, y, place)[0], place).astype(str) if kind == "classes" else None
    everything, contents = {"train": np.arange(len(base))}, partial(_contents, base, x, f"{origin}[train][{x}]")
    pool = Pool("rows", everything, parts, classes, records.get("train"), contents)
    layout = partial(infer_layout, length=length, image_size=image_size, channels_last=channels_last)
    form = partial(fit_targets, kind, channels_last=channels_last, missing=missing_targets)
    fill = partial(fit_gaps, how=gaps, indicator=gap_indicator)
    fit = partial(_fit, parts, origin, records, (x, y), kind, config, layout, form, fill, normalize, reporter)
    return assemble("hub", reporter, kind, pool, (validation_fraction, test_fraction), split_seed, fit)


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
                check_column(column, rows.column_names, f"task.{key}", f"{origin}[{part}]")
                if key == "group" and not isinstance(rows.features[column], (datasets.Value, datasets.ClassLabel)):
                    hint = "allowed: a number, text or class in each row"
                    raise DataError(f"holds {rows.features[column]}", where=f"{origin}[{part}][{column}]", hint=hint)
    check_enough(len(parts["train"]), "rows", origin)
    return parts


def _fit(
    parts: dict[str, Dataset],
    origin: str,
    records: dict[str, np.ndarray],
    columns: tuple[str, str],
    kind: Kind,
    config: str | None,
    fit_layout: Callable[..., ColumnLayout],
    fit_form: Callable[..., TargetForm],
    fit_filling: Callable[..., tuple[Gaps, list[str]]],
    normalize: bool,
    reporter: Reporter,
    rows: dict[str, np.ndarray],
) -> Fitted:
    """Learn from the training rows how values become samples; see `assemble`."""
    (x, y), base, learn, place = columns, parts["train"], rows["train"], f"{origin}[train]"
    layout = fit_layout(base, x, learn, f"{place}[{x}]")
    raw, names = raw_targets(kind, base, y, f"{place}[{y}]")
    form = fit_form(raw, learn, f"{place}[{y}]", layout.shape[1:], names)
    encoded = form.encode(raw, f"{place}[{y}]")
    notes = [place, described(layout.shape), form.note()]
    scale, filling = None, None
    if normalize or not layout.image_mode:
        parts_read = _decoded(layout, open_column(base, x, bool(layout.image_mode)), learn, f"{place}[{x}]", reporter)
        scale, missing, constants = streamed_channel_scale(parts_read)
        filling, filled = fit_filling(missing, layout.shape[1:], means=scale.mean, where=f"{place}[{x}]")
        notes += [*filled, *(constants if normalize else [])]
    preprocessing = HubPreprocessing(layout, form, scale if normalize else None, columns, config, filling)

    def samples(part: str) -> HubSamples:
        if part in rows:
            return HubSamples(base, preprocessing, encoded, rows[part], f"{place}[{x}]", records.get("train"))
        source, where = parts[part], f"{origin}[{part}]"
        targets = form.encode(raw_targets(kind, source, y, f"{where}[{y}]", names)[0], f"{where}[{y}]")
        chosen = np.arange(len(source))
        return HubSamples(source, preprocessing, targets, chosen, f"{where}[{x}]", records.get(part))

    return Fitted(preprocessing, preprocessing.input_shape, form, samples, notes)


def _decoded(
    layout: ColumnLayout, values: Callable, rows: np.ndarray, where: str, reporter: Reporter
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield inputs of rows, block by block, and where they are neither missing nor padding."""
    with reporter.track("reading training inputs", len(rows)) as advance:
        for some in row_blocks(rows):
            x, valid = layout.decode(values(some), where, list(some))
            yield x, ~np.isnan(x) if valid is None else ~np.isnan(x) & valid[:, None]
            advance(len(some))


def _contents(rows: Dataset, column: str, where: str) -> np.ndarray | None:
    """Return a hash of each row's input [n], for images of the file; None where there are too many bytes to compare."""
    import datasets

    if rows.data.column(column).nbytes > MOST_BYTES:
        return None
    is_image = isinstance(rows.features[column], datasets.Image)
    values = open_column(rows, column, is_image)

    def content(row: int, value: Any) -> bytes:
        if is_image:
            return image_content(value, f"{where}, row {row}").getvalue()
        array = np.asarray(value)  # of objects for lists of several lengths, which are refused later
        return b"" if array.dtype.kind == "O" else f"{array.shape}".encode() + array.tobytes()

    blocks = row_blocks(np.arange(len(rows)))
    return hashes(content(row, value) for some in blocks for row, value in zip(some, values(some), strict=True))
