"""The settings of a task of images."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from orca_cli.config.ranges import Fraction, Seed


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """The settings of task=images; see `reader.load`."""

    kind: Annotated[
        Literal["classes", "labels", "values"] | None,
        "with task.table: classes, labels or values; null: as its column says. Without: classes",
    ] = None
    path: Annotated[str, "the folder, from the working folder or from paths.data"]
    table: Annotated[
        str | None,
        ".csv, .tsv or .parquet with a row for each image: file, targets, and possibly `split`",
    ] = None
    file: Annotated[
        str | None, "its column of files, as paths below the folder; null: the first"
    ] = None
    target: Annotated[
        str | None,
        "its column to be predicted; null: all others (several: labels of 0 and 1, or values)",
    ] = None
    size: Annotated[
        Annotated[int, Interval(ge=4, le=4096)] | None,
        "pixels per side: 4..4096; null: the longest side of the training images, at most 224",
    ] = None
    channels: Annotated[Literal[3, 1], "3 (colour) or 1 (grey)"] = 3
    fit: Annotated[
        Literal["stretch", "crop"],
        "stretch: the whole image to a square; crop: the largest square from its middle",
    ] = "stretch"
    normalize: Annotated[
        Literal["imagenet", "none"], "imagenet: ImageNet's mean and deviation; none: pixels in 0..1"
    ] = "imagenet"
    padding: Annotated[
        int,
        Interval(ge=0, le=1024),
        "optimizer steps see images moved by up to this many pixels: 0..1024",
    ] = 0
    flip: Annotated[
        bool, "true: optimizer steps see mirrored images too; not for letters or digits"
    ] = False
    split_seed: Annotated[
        Seed, "seed of the splits that are drawn: 0 or more; not the seed of the run"
    ] = 0
    validation_fraction: Annotated[
        Fraction, "part of the images that is drawn: above 0 and below 1; unused where val is given"
    ] = 0.15
    test_fraction: Annotated[Fraction, "as validation_fraction"] = 0.15
    missing_targets: Annotated[
        bool, "true: empty fields of labels and values are missing targets"
    ] = False
