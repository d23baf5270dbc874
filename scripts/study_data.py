"""Make the files that the studies read from raw data sets.

    python scripts/study_data.py --from FOLDER             into paths.data ($ORCA_HOME/data, else the user's cache folder)
    python scripts/study_data.py --from FOLDER --to DATA

FOLDER contains some of these files:

    series/NAME.npz            x_train [n, C, L], y_train [n], x_test, y_test; lengths_train and lengths_test [n] if series
                               are shorter than L: values after a series' end become 0
    series/watch.npz           x [n, C, L], y [n], group [n]: the subject, 1..10
    series/peptides*.csv       columns sequence and label: one-hot over the 20 amino acids, cut and padded to 50
    cifar10/*.npz              x_train [n, 3, 32, 32] uint8, y_train [n], x_test, y_test
    jsb/JSB_Chorales.mat

The script writes to DATA: study/SEED/NAME.npz with x_train, y_train, x_val, y_val, x_test, y_test; study/cifar10.npz and
study/cifar10_source.npz (images of other indices, for the source); and jsb/JSB_Chorales.mat. It names every data set that
FOLDER lacks.

Every seed of a study has a separate draw, so that the spread over seeds includes the spread over samples. Seed 0 has the given
test split; the other seeds split all samples again, in the same sizes. Validation is drawn from training. In watch, two
subjects are the test split and one subject is the validation split (seed 0: 9 and 10, and 8). At most 200 training, 100
validation and 500 test samples are kept. Every draw keeps the classes' shares and has a fixed seed: the same FOLDER gives the
same files, byte for byte. All seeds share one pool of images: the task rotates them, and draws its training samples, by its own
seed.

For study=defaults and study=own_data, which leave sizes and validation to the program, the script also writes to DATA:
whole/NAME.npz of every series (watch: training is subjects 1 to 8), the tables of FOLDER/more and the table of peptides,
whole/steps.csv (Trace as a long table), whole/photos/{train,test}/CLASS/*.png and whole/photos.npz (300 training and 300 test
images of CIFAR-10), and whole/frequency.npz, a generated regression: a sine's frequency from 100 noisy steps.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from orca_cli.config.configuration import default_folders  # noqa: E402

MOST = {"train": 200, "val": 100, "test": 500}
SEEDS = 6
TASK_IMAGES = 2500  # five rotations of the sphere: with a single rotation, training would never see the test's rotation
VALIDATION = 0.2  # share of the given training split, up to the limit in MOST
WHOLE = (
    "ACSF1",
    "ArrowHead",
    "Covid3Month",
    "JapaneseVowels",
    "OSULeaf",
    "PigCVP",
    "Trace",
    "watch",
)
SERIES = ("ACSF1", "ArrowHead", "JapaneseVowels", "OSULeaf", "Trace")
TABLES = ("splice", "spam", "autompg", "ACP_CancPPD_vs_Random")
PHOTOS = 300
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
PEPTIDE_LENGTH = 50
WATCH_TEST = (9, 10)

Split = tuple[np.ndarray, np.ndarray]


def stratified(y: np.ndarray, size: int, name: str) -> np.ndarray:
    """Return the sorted indices of `size` samples, with every class in proportion and at least one; all if fewer exist."""
    if size >= len(y):
        return np.arange(len(y))
    generator = np.random.default_rng([len(y), size, *name.encode()])
    order = generator.permutation(len(y))
    # Ranks within a class, as fractions of the class: the smallest ranks are a sample in proportion.
    rank = np.empty(len(y))
    for label in np.unique(y):
        members = order[y[order] == label]
        rank[members] = np.arange(len(members)) / len(members)
    return np.sort(order[np.argsort(rank[order], kind="stable")[:size]])


def split(x: np.ndarray, y: np.ndarray, name: str) -> dict[str, Split]:
    """Return disjoint training and validation splits of samples [n, ...] and their classes [n]."""
    val = stratified(y, min(MOST["val"], max(1, round(VALIDATION * len(y)))), f"{name} validation")
    rest = np.setdiff1d(np.arange(len(y)), val)
    train = rest[stratified(y[rest], MOST["train"], f"{name} training")]
    return {"train": (x[train], y[train]), "val": (x[val], y[val])}


def cut(x: np.ndarray, y: np.ndarray, part: str, name: str) -> Split:
    """Return the samples of a split, cut to the limit in MOST."""
    kept = stratified(y, MOST[part], f"{name} {part}")
    return x[kept], y[kept]


def drawn(x: np.ndarray, y: np.ndarray, tested: int, name: str) -> tuple[Split, Split]:
    """Return a training split and a test split of `tested` samples, of samples [n, ...] and their classes [n]."""
    test = stratified(y, tested, f"{name} drawn test")
    rest = np.setdiff1d(np.arange(len(y)), test)
    return (x[rest], y[rest]), (x[test], y[test])


def read(path: Path) -> dict[str, np.ndarray]:
    """Return all arrays of a file."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def first(folder: Path, pattern: str, name: str) -> Path:
    """Return the first file that matches the pattern; if no file matches, the missing file `name`."""
    return min(folder.glob(pattern), default=folder / name)


def series(folder: Path, name: str, seed: int) -> dict[str, Split]:
    """Return the splits of a data set with a given test split, which seed 0 uses."""
    arrays = read(folder / "series" / f"{name}.npz")
    for part in ("train", "test"):
        if f"lengths_{part}" in arrays:
            x, lengths = arrays[f"x_{part}"], arrays[f"lengths_{part}"]
            arrays[f"x_{part}"] = np.where(
                np.arange(x.shape[-1]) < lengths[:, None, None], x, 0
            ).astype(x.dtype)
    train, test = ((arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test"))
    if seed:
        x, y = (np.concatenate(pair) for pair in zip(train, test, strict=True))
        train, test = drawn(x, y, len(test[1]), f"{name} {seed}")
    return split(*train, name) | {"test": cut(*test, "test", name)}


def watch(folder: Path, seed: int) -> dict[str, Split]:
    """Return the windows of the wearable: no subject is in two splits."""
    arrays = read(folder / "series" / "watch.npz")
    x, y, group = (arrays[key] for key in ("x", "y", "group"))
    subjects = (
        np.random.default_rng([seed, *b"watch"]).permutation(np.unique(group))
        if seed
        else np.arange(10, 0, -1)
    )
    rows = {"test": np.isin(group, subjects[:2]), "val": group == subjects[2]}
    rows["train"] = ~(rows["test"] | rows["val"])
    return {part: cut(x[chosen], y[chosen], part, "watch") for part, chosen in rows.items()}


def peptides(table: Path, seed: int) -> dict[str, Split]:
    """Return one-hot peptides [n, 20, 50]; a random third of them is the test split."""
    with open(table, encoding="utf-8", newline="") as file:
        rows = [
            (row["sequence"].strip().upper(), int(row["label"])) for row in csv.DictReader(file)
        ]
    rows = list(dict.fromkeys(rows))  # a peptide that occurs twice must not be in two splits
    x = np.zeros((len(rows), len(AMINO_ACIDS), PEPTIDE_LENGTH), dtype=np.float32)
    for place, (sequence, _) in enumerate(rows):
        for position, letter in enumerate(sequence[:PEPTIDE_LENGTH]):
            if letter in AMINO_ACIDS:
                x[place, AMINO_ACIDS.index(letter), position] = 1
    y = np.array([label for _, label in rows], dtype=np.int64)
    train, test = drawn(x, y, len(y) // 3, f"peptides {seed}" if seed else "peptides")
    return split(*train, "peptides") | {"test": cut(*test, "test", "peptides")}


def images(folder: Path) -> tuple[dict[str, Split], dict[str, Split]]:
    """Return images for a task, and different images for a source."""
    arrays = read(first(folder / "cifar10", "*.npz", "cifar10.npz"))
    x, y = arrays["x_train"], arrays["y_train"]
    source, task = drawn(x, y, min(TASK_IMAGES, len(y) // 2), "cifar10")
    return {"train": task, "test": (arrays["x_test"], arrays["y_test"])}, {"train": source}


def whole(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Return the unchanged arrays of a data set; for the wearable, its two test subjects are the test split."""
    arrays = read(folder / "series" / f"{name}.npz")
    if name != "watch":
        return arrays
    is_test = np.isin(arrays["group"], WATCH_TEST)
    parts = {"train": ~is_test, "test": is_test}
    return {
        f"{key}_{part}": arrays[key][rows] for part, rows in parts.items() for key in ("x", "y")
    }


def frequency() -> dict[str, np.ndarray]:
    """Return noisy sines of 100 steps and their frequencies, 2 to 8 periods; 150 to train on, 200 to test."""
    generator = np.random.default_rng(12)
    arrays = {}
    for part, n in (("train", 150), ("test", 200)):
        y = generator.uniform(2, 8, n)
        phase, size = generator.uniform(0, 2 * np.pi, n), generator.uniform(0.5, 2, n)
        x = size[:, None] * np.sin(2 * np.pi * y[:, None] * np.arange(100) / 100 + phase[:, None])
        x += generator.normal(scale=0.5, size=x.shape)
        arrays |= {f"x_{part}": x[:, None].astype(np.float32), f"y_{part}": y.astype(np.float32)}
    return arrays


def steps(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write series [n, 1, L] as a long table, with a line per step."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["series", "step", "level", "class"])
        x = np.concatenate([arrays["x_train"], arrays["x_test"]])
        y = np.concatenate([arrays["y_train"], arrays["y_test"]])
        for number, (sample, label) in enumerate(zip(x, y, strict=True)):
            for step, level in enumerate(sample[0]):
                writer.writerow([f"s{number}", step, f"{level:.5g}", f"k{label}"])
    print(path)


def photos(folder: Path, to: Path) -> None:
    """Write images as files in a folder for each class, and the same images as arrays."""
    from PIL import Image

    arrays = read(first(folder / "cifar10", "*.npz", "cifar10.npz"))
    parts = {}
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        kept = stratified(y, PHOTOS, f"photos {part}")
        parts |= {f"x_{part}": x[kept], f"y_{part}": y[kept]}
        for number, (image, label) in enumerate(zip(x[kept], y[kept], strict=True)):
            path = to / "photos" / part / f"class{label}" / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.moveaxis(image, 0, -1)).save(path)
    write(to / "photos.npz", parts)


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays to a file, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    np.savez_compressed(temporary, **arrays)
    temporary.replace(path)
    print(f"{path}: {', '.join(f'{key} {array.shape}' for key, array in arrays.items())}")


def by_name(splits: dict[str, Split]) -> dict[str, np.ndarray]:
    """Return the arrays of splits as x_PART and y_PART."""
    return {
        f"{name}_{part}": array
        for part, pair in splits.items()
        for name, array in zip("xy", pair, strict=True)
    }


def main() -> int:
    """Make all data sets whose raw data exist; the exit code is 1 if any are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder with the raw data sets",
    )
    parser.add_argument(
        "--to",
        type=Path,
        default=default_folders()["data"],
        help="folder to write to; default: paths.data",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=SEEDS,
        help=f"number of draws, seeds 0 to SEEDS - 1; default: {SEEDS}",
    )
    arguments = parser.parse_args()
    raw, to = arguments.source, arguments.to
    table = first(raw / "series", "peptides*.csv", "peptides.csv")

    def make_draws(name: str, draw: Callable[[int], dict[str, Split]]) -> None:
        for seed in range(arguments.seeds):
            write(to / "study" / str(seed) / f"{name}.npz", by_name(draw(seed)))

    def make_images() -> None:
        for name, splits in zip(("cifar10", "cifar10_source"), images(raw), strict=True):
            write(to / "study" / f"{name}.npz", by_name(splits))

    def copy(source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        print(shutil.copyfile(source, target))

    jobs: list[tuple[str, Callable[[], None]]] = [
        *((name, partial(make_draws, name, partial(series, raw, name))) for name in SERIES),
        ("watch", partial(make_draws, "watch", partial(watch, raw))),
        ("peptides", partial(make_draws, "peptides", partial(peptides, table))),
        ("cifar10", make_images),
        ("jsb", lambda: copy(raw / "jsb" / "JSB_Chorales.mat", to / "jsb" / "JSB_Chorales.mat")),
        *(
            (name, lambda name=name: write(to / "whole" / f"{name}.npz", whole(raw, name)))
            for name in WHOLE
        ),
        ("peptides", lambda: copy(table, to / "whole" / "peptides.csv")),
        *(
            (
                name,
                lambda name=name: copy(raw / "more" / f"{name}.csv", to / "whole" / f"{name}.csv"),
            )
            for name in TABLES
        ),
        ("steps", lambda: steps(to / "whole" / "steps.csv", whole(raw, "Trace"))),
        ("photos", lambda: photos(raw, to / "whole")),
    ]
    missing = 0
    for name, work in jobs:
        try:
            work()
        except FileNotFoundError as error:
            print(f"{name}: skipped: '{error.filename}' does not exist", file=sys.stderr)
            missing += 1
    write(to / "whole" / "frequency.npz", frequency())
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
