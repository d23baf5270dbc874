"""DomainNet (Peng et al. 2019), 40 classes of one domain: the paper's in-modality check (A.7).

The images are those of the 40-class version (Prabhu et al. 2021, SENTRY). The lists of this
version, DOMAIN_train_mini.txt and DOMAIN_test_mini.txt, are next to the folders of images. Each
image has a line `DOMAIN/CLASS/FILE.jpg LABEL`.

Shapes: N images of a list, n of a split.
"""

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.images.files import FileSamples, View, by_content, content_hashes
from orca_cli.data.pixels import IMAGENET_MEAN, IMAGENET_STD
from orca_cli.data.published import AGAIN, fault, find
from orca_cli.data.splits import hold_out
from orca_cli.data.untrusted.first_bytes import read_text
from orca_cli.exceptions import UnsafeError
from orca_cli.interfaces import Reporter, TaskData

_CLASSES = 40
_LABELS = frozenset(map(str, range(_CLASSES)))
_SIDE = 224  # pixels of an input
_LARGER_SIDE = 256  # pixels of an image from which augmentation crops an input
_PLAIN = View(side=_SIDE, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_MAX_LIST_BYTES = 2**26  # 64 MiB
# On Windows, a backslash or colon can lead out of a folder; file names cannot contain a null byte.
_UNSAFE_CHARACTERS = frozenset("\\:\0")


def load(
    data_folder: Path,
    reporter: Reporter,
    path: Annotated[
        str | None,
        "folder with the lists and the folders of images; "
        "null: folder domainnet of the data folder (paths.data)",
    ] = None,
    domain: Annotated[
        Literal["clipart", "painting", "real", "sketch"],
        "domain of the images: clipart, painting, real or sketch",
    ] = "sketch",
    validation_size: Annotated[
        Count | Fraction,
        "validation images to draw from the training list: a fraction (below 1) or a number (1 or "
        "more)",
    ] = 0.1,
    train_size: Annotated[
        Count | None,
        "number of training images, stratified by class: 1 or more; null: all images that are not "
        "in the validation split",
    ] = None,
    train_on_validation: Annotated[
        bool,
        "true: train on the validation images as well, as in experiments without a validation "
        "split",
    ] = False,
    split_seed: Annotated[
        Seed,
        "seed of the draw of validation and training images, 0..2147483647; "
        "not the seed of the run",
    ] = 0,
    augment: Annotated[
        Literal["fresh", "frozen", "none"],
        "random crops (224 of 256 pixels per side) and random mirroring. fresh: drawn in each "
        "step; frozen: drawn once per image; none: no augmentation",
    ] = "fresh",
) -> TaskData:
    """Return images [n, 3, 224, 224], normalised by ImageNet's mean and deviation, with 40 classes.

    The validation split is stratified by class, and identical files are in the same split. The
    reference draws augmentation once per image ("frozen"); "none" only resizes.
    """
    train_list, test_list = find(
        data_folder, "domainnet", [f"{domain}_train_mini.txt", f"{domain}_test_mini.txt"], path
    )
    folder = train_list.parent
    names, classes, class_names = _read(train_list)
    test_names, test_classes, _ = _read(test_list)
    # Untrusted lists may overlap, which would put training images into the test split.
    shared = set(names) & set(test_names)
    if shared:
        raise fault(
            f"contains '{min(shared)}', which is also in the training list; get the training list "
            "and the test list again",
            test_list,
        )
    hashes = content_hashes([folder / name for name in names], reporter)
    # Contents are split instead of files, so that identical files are in the same split.
    first_rows, content = by_content(hashes)  # [u] for u distinct contents, and [N] in 0..u-1
    learned, held_out = hold_out(
        classes[first_rows],
        validation_size=validation_size,
        train_size=train_size,
        train_on_validation=train_on_validation,
        split_seed=split_seed,
    )

    def samples(contents: np.ndarray, view: View) -> FileSamples:
        rows = np.flatnonzero(np.isin(content, contents))  # [n]
        row_names = [names[row] for row in rows]
        row_hashes = [hashes[row] for row in rows]
        paths = [folder / name for name in row_names]
        return FileSamples(paths, row_names, classes[rows], row_hashes, view=view)

    def open_test() -> FileSamples:
        # Hashed only when the test split is opened, since this reads thousands of files.
        paths = [folder / name for name in test_names]
        test_hashes = content_hashes(paths, reporter)
        return FileSamples(paths, test_names, test_classes, test_hashes, view=_PLAIN)

    return TaskData(
        kind="classes",
        input_shape=(3, _SIDE, _SIDE),
        num_outputs=_CLASSES,
        train=samples(learned, _train_view(augment, split_seed)),
        validation=samples(held_out, _PLAIN),
        open_test=open_test,
        class_names=class_names,
        validation_drawn=train_size is None and not train_on_validation,
    )


def _train_view(augment: str, seed: int) -> View:
    """Return the view of training images: plain, or with random crops and flips."""
    if augment == "none":
        return _PLAIN
    random = replace(_PLAIN, larger=_LARGER_SIDE, flip=True)
    if augment == "frozen":
        return replace(random, frozen_seed=seed)
    return random


def _read(list_path: Path) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """Return the images of a list and their classes; raise DataError if an image does not exist.

    Returns:
        N paths relative to the list's folder, classes [N] int64, and the names of all 40 classes.
    """
    where = str(list_path)
    image_names = []
    labels = []
    class_names = [f"class {label}" for label in range(_CLASSES)]
    text = read_text(list_path, _MAX_LIST_BYTES, AGAIN)
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, label = _parse(line, number, where)
        image_names.append(name)
        labels.append(label)
        class_names[label] = PurePosixPath(name).parent.name  # the folder of the class
    if not image_names:
        raise fault("has no images", where)
    # Checked here, so that a missing image is an error before training and not in the middle of it.
    folder = list_path.parent
    find(folder, "domainnet", image_names, str(folder))
    return image_names, np.array(labels, dtype=np.int64), tuple(class_names)


def _parse(line: str, number: int, where: str) -> tuple[str, int]:
    """Return path and label in a line of a list.

    Raises UnsafeError for a path that leads out of the folder, and DataError for another form.
    """
    # The label is the last word, since file names may contain spaces.
    name, _, label = line.strip().rpartition(" ")
    folders = PurePosixPath(name).parts  # the last one is the file
    is_outside = name.startswith("/") or ".." in folders
    if is_outside or not _UNSAFE_CHARACTERS.isdisjoint(name):
        raise UnsafeError(
            f"line {number} names a file outside the folder: '{name[:80]}'", where=where
        )
    if label not in _LABELS or len(folders) != 3:
        raise fault(
            f"line {number} must be DOMAIN/CLASS/FILE LABEL with a label in 0..{_CLASSES - 1}, "
            f"got '{line[:80]}'",
            where,
        )
    return name, int(label)
