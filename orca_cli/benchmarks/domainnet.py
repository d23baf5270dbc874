"""DomainNet (Peng et al. 2019), 40 classes of one domain: the in-modality check of the paper (A.7).

Read from the lists of the 40-class version (Prabhu et al. 2021, SENTRY), DOMAIN_train_mini.txt and DOMAIN_test_mini.txt,
with a line `DOMAIN/CLASS/FILE.jpg LABEL` for each image, beside the folders of images.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.images.files import FileSamples, View, by_content, content_hashes
from orca_cli.data.pixels import IMAGENET_MEAN, IMAGENET_STD
from orca_cli.data.published import find
from orca_cli.data.splits import describe, hold_out
from orca_cli.data.untrusted.first_bytes import read_text
from orca_cli.exceptions import DataError, UnsafeError
from orca_cli.interfaces import Reporter, TaskData

_CLASSES = 40
_SIDE, _LARGER = 224, 256
_MAX_LIST_BYTES = 64 * 2**20


class _Listed(NamedTuple):
    """The images of one list: n paths relative to the task's folder, and their classes [n] int64."""

    names: list[str]
    y: np.ndarray


def load(
    data_folder: Path,
    reporter: Reporter,
    kind: Literal["classes"] = "classes",
    path: str | None = None,
    domain: Literal["clipart", "painting", "real", "sketch"] = "sketch",
    validation_size: Count | Fraction = 0.1,
    train_size: Count | None = None,
    train_on_validation: bool = False,
    split_seed: Seed = 0,
    augment: Literal["fresh", "frozen", "none"] = "fresh",
) -> TaskData:
    """Return images [n, 3, 224, 224], normalised by ImageNet's mean and deviation, with 40 classes.

    conf/task/domainnet.yaml explains the settings. Validation has every class in proportion, and identical files stay
    together. The reference draws augmentation once per image ("frozen"); "none" only resizes.
    """
    lists = find(data_folder, "domainnet", [f"{domain}_{part}_mini.txt" for part in ("train", "test")], path)
    folder = lists[0].parent
    train, test = (_read(list_path, folder) for list_path in lists)
    if twice := set(train.names) & set(test.names):
        raise DataError(f"'{min(twice)}' is in the training list too", where=str(lists[1]), hint="get the lists again")
    hashes = content_hashes([folder / name for name in train.names], reporter)
    first, content = by_content(hashes)
    drawn = hold_out(train.y[first], "stratified", validation_size, train_size, train_on_validation, split_seed)
    rows, held_out = (np.flatnonzero(np.isin(content, chosen)) for chosen in drawn)
    plain = View(side=_SIDE, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    frozen_seed = split_seed if augment == "frozen" else None
    random = View(_SIDE, mean=plain.mean, std=plain.std, larger=_LARGER, flip=True, frozen_seed=frozen_seed)

    def samples(listed: _Listed, hashes: list[str], chosen: np.ndarray, view: View) -> FileSamples:
        names = [listed.names[row] for row in chosen]
        paths = [folder / name for name in names]
        return FileSamples(paths, names, listed.y[chosen], [hashes[row] for row in chosen], view)

    def open_test() -> FileSamples:
        test_hashes = content_hashes([folder / name for name in test.names], reporter)
        return samples(test, test_hashes, np.arange(len(test.names)), plain)

    note = f"DomainNet, {domain}: {describe(rows, held_out, 'stratified', split_seed)}, {len(test.names)} test images"
    reporter.say(note)
    return TaskData(
        kind="classes",
        input_shape=(3, _SIDE, _SIDE),
        num_outputs=_CLASSES,
        train=samples(train, hashes, rows, plain if augment == "none" else random),
        validation=samples(train, hashes, held_out, plain),
        open_test=open_test,
        class_names=_class_names(train, lists[0]),
        note=note,
        validation_drawn=train_size is None and not train_on_validation,
    )


def _read(path: Path, folder: Path) -> _Listed:
    """Return the images of one list; none of them is opened, all of them exist."""
    where = str(path)
    lines = read_text(path, _MAX_LIST_BYTES, "get the list again").splitlines()
    names, labels = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not (label.isascii() and label.isdigit() and len(label) < 9) or int(label) >= _CLASSES:
            what = f"line {number} is '{line[:80]}'; 'DOMAIN/CLASS/FILE LABEL' with a label in 0..{_CLASSES - 1} is expected"
            raise DataError(what, where=where, hint="get the list again")
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0] or "\0" in name:
            raise UnsafeError(f"line {number} names a file outside the folder: '{name[:80]}'", where=where)
        names.append(name)
        labels.append(int(label))
    if not names:
        raise DataError("the list is empty", where=where, hint="get the list again")
    if missing := [name for name in names if not (folder / name).is_file()]:
        what = f"{len(missing)} of {len(names)} images are missing, the first is '{missing[0]}'"
        raise DataError(what, where=where, hint=f"unpack {PurePosixPath(missing[0]).parts[0]}.zip into {folder}")
    return _Listed(names, np.array(labels, dtype=np.int64))


def _class_names(listed: _Listed, path: Path) -> tuple[str, ...]:
    """Return the classes' names, the folders that the images lie in."""
    pairs = sorted(set(zip(listed.y.tolist(), (PurePosixPath(name).parent.name for name in listed.names), strict=True)))
    names = dict(pairs)
    for label, folder in pairs:
        if names[label] != folder:
            what = f"label {label} is given to '{names[label]}' and '{folder}'"
            raise DataError(what, where=str(path), hint="get the list again")
    return tuple(names.get(label, f"class {label}") for label in range(_CLASSES))
