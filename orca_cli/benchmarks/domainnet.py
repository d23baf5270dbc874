"""DomainNet (Peng et al. 2019), 40 classes of one domain: the in-modality check of the paper (A.7).

Read from the lists of the 40-class version (Prabhu et al. 2021, SENTRY), DOMAIN_train_mini.txt and DOMAIN_test_mini.txt,
with a line `DOMAIN/CLASS/FILE.jpg LABEL` for each image, beside the folders of images.
"""

from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.images.files import FileSamples, View, by_content, content_hashes
from orca_cli.data.pixels import IMAGENET_MEAN, IMAGENET_STD
from orca_cli.data.published import AGAIN, fault, find, refuse
from orca_cli.data.splits import hold_out
from orca_cli.data.untrusted.first_bytes import read_text
from orca_cli.exceptions import UnsafeError
from orca_cli.interfaces import Reporter, TaskData

_CLASSES = 40
_LABELS = frozenset(map(str, range(_CLASSES)))
_SIDE, _LARGER = 224, 256
_MAX_LIST_BYTES = 64 * 2**20


def load(
    data_folder: Path,
    reporter: Reporter,
    path: str | None = None,
    domain: Literal["clipart", "painting", "real", "sketch"] = "sketch",
    validation_size: Count | Fraction = 0.1,
    train_size: Count | None = None,
    train_on_validation: bool = False,
    split_seed: Seed = 0,
    augment: Literal["fresh", "frozen", "none"] = "fresh",
) -> TaskData:
    """Return images [n, 3, 224, 224], normalised by ImageNet's mean and deviation, with 40 classes.

    Validation has every class in proportion, and identical files stay together. The reference draws augmentation once per
    image ("frozen"); "none" only resizes.
    """
    lists = find(
        data_folder, "domainnet", [f"{domain}_{part}_mini.txt" for part in ("train", "test")], path
    )
    folder = lists[0].parent
    (names, y, class_names), (test_names, test_y, _) = (
        _read(list_path, folder) for list_path in lists
    )
    if twice := set(names) & set(test_names):
        raise fault(f"'{min(twice)}' is in the training list too", lists[1])
    hashes = content_hashes([folder / name for name in names], reporter)
    first, content = by_content(hashes)
    drawn = hold_out(
        y[first], "stratified", validation_size, train_size, train_on_validation, split_seed
    )
    rows, held_out = (np.flatnonzero(np.isin(content, chosen)) for chosen in drawn)
    plain = View(side=_SIDE, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    frozen_seed = split_seed if augment == "frozen" else None
    random = View(
        _SIDE, mean=plain.mean, std=plain.std, larger=_LARGER, flip=True, frozen_seed=frozen_seed
    )

    def samples(rows: np.ndarray, view: View) -> FileSamples:
        chosen = [names[row] for row in rows]
        return FileSamples(
            [folder / name for name in chosen], chosen, y[rows], [hashes[row] for row in rows], view
        )

    def open_test() -> FileSamples:
        paths = [folder / name for name in test_names]
        return FileSamples(paths, test_names, test_y, content_hashes(paths, reporter), plain)

    return TaskData(
        kind="classes",
        input_shape=(3, _SIDE, _SIDE),
        num_outputs=_CLASSES,
        train=samples(rows, plain if augment == "none" else random),
        validation=samples(held_out, plain),
        open_test=open_test,
        class_names=class_names,
        validation_drawn=train_size is None and not train_on_validation,
    )


def _read(path: Path, folder: Path) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """Return n paths of one list, of images that exist, relative to the folder; classes [n] int64; the classes' folders."""
    where = str(path)
    names, labels = [], []
    folders: dict[int, str] = {}
    for number, line in enumerate(read_text(path, _MAX_LIST_BYTES, AGAIN).splitlines(), start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or any(mark in name for mark in "\\:\0"):
            raise UnsafeError(
                f"line {number} names a file outside the folder: '{name[:80]}'", where=where
            )
        if label not in _LABELS or len(parts) != 3:
            what = f"line {number} is '{line[:80]}'; 'DOMAIN/CLASS/FILE LABEL' with a label in 0..{_CLASSES - 1} is expected"
            raise fault(what, where)
        names.append(name)
        labels.append(int(label))
        folders[labels[-1]] = parts[1]
    refuse(not names, "the list is empty", where)
    find(folder, "domainnet", names, str(folder))
    class_names = tuple(folders.get(label, f"class {label}") for label in range(_CLASSES))
    return names, np.array(labels, dtype=np.int64), class_names
