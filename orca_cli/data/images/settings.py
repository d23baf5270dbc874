"""The settings of a user's own images."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from orca_cli.config.ranges import Fraction, Seed


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """The settings of task=images; see `reader.load`."""

    kind: Annotated[
        Literal["classes", "labels", "values"] | None,
        "classes, labels or values; labels and values need task.table; null: inferred from the "
        "columns to be predicted if task.table is set, else classes",
    ] = None
    path: Annotated[
        str, "folder of images: a path in the working folder, or in the data folder (paths.data)"
    ]
    table: Annotated[
        str | None,
        ".csv, .tsv or .parquet file with a row for each image: its path, its targets and, "
        "if you want, its split (column `split`)",
    ] = None
    file: Annotated[
        str | None,
        "column of task.table with the path of each image, relative to the folder task.path; "
        "null: the first column",
    ] = None
    target: Annotated[
        str | None,
        "column of task.table to be predicted; null: all columns except those with the paths "
        "and the splits. If several columns are predicted, they must all contain labels (0 or 1) "
        "or all contain numbers",
    ] = None
    size: Annotated[
        Annotated[int, Interval(ge=4, le=4096)] | None,
        "pixels per side of the square input: 4..4096; null: the longest side of any training "
        "image, but at most 224",
    ] = None
    channels: Annotated[Literal[3, 1], "3 (colour) or 1 (grey)"] = 3
    fit: Annotated[
        Literal["stretch", "crop"],
        "stretch: stretch the whole image to a square; crop: keep only the largest square in the "
        "middle",
    ] = "stretch"
    normalize: Annotated[
        Literal["imagenet", "none"],
        "imagenet: subtract ImageNet's mean, divide by its standard deviation; none: pixels in "
        "0..1",
    ] = "imagenet"
    padding: Annotated[
        int,
        Interval(ge=0, le=1024),
        "largest random shift of images during training, in pixels: 0..1024",
    ] = 0
    flip: Annotated[
        bool, "true: mirror images at random during training; not for letters or digits"
    ] = False
    split_seed: Annotated[
        Seed, "seed for drawing the splits: 0 or more; the setting `seed` does not affect them"
    ] = 0
    validation_fraction: Annotated[
        Fraction,
        "fraction of the images that is drawn for validation: above 0 and below 1; not used if the "
        "data contain a validation split",
    ] = 0.15
    test_fraction: Annotated[
        Fraction,
        "fraction of the images that is drawn for the test split: above 0 and below 1; not used "
        "if the data contain a test split",
    ] = 0.15
    missing_targets: Annotated[
        bool,
        "true: labels and values may be empty; losses and errors skip empty targets",
    ] = False
