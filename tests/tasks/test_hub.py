"""Data sets of the `datasets` library: local folders as they are, the hub where it cannot be reached, and bad columns."""

import numpy as np
import pytest

from orca_cli.exceptions import DataError, UnsafeError
from tests.tasks import builders
from tests.tasks.builders import every, refused, splits

datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
datasets.disable_progress_bars()

N = 40
ROWS = builders.hub_rows(datasets, N)
SERIES = np.array(ROWS["series"], np.float32)


def put(folder, rows):
    """Write rows as a .parquet file of training."""
    folder.mkdir(exist_ok=True)
    rows.to_parquet(folder / "train.parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    put(root / "one", ROWS)
    ROWS.save_to_disk(root / "saved")
    return root


@pytest.fixture
def read(folder, reporter):
    def call(dataset="one", x="series", y="name", **settings):
        return builders.build("hub", folder, reporter, dataset=dataset, x=x, y=y, **settings)

    return call


def test_a_folder_becomes_three_disjoint_splits_read_from_the_mapped_file(read):
    task = read(normalize=False)
    assert (task.input_shape, task.num_outputs, task.class_names) == ((2, 6), 2, ("no", "yes"))
    assert list(map(len, splits(task))) == [28, 6, 6]
    series = np.concatenate([every(samples).x.numpy() for samples in splits(task)])
    order = [int(np.flatnonzero((x == SERIES).all(axis=(1, 2)))[0]) for x in series]
    assert sorted(order) == list(range(N))
    assert np.concatenate([samples.targets() for samples in splits(task)]).tolist() == [row % 2 for row in order]
    assert task.train.batch(np.array([5, 2, 5])).x.equal(every(task.train).x[[5, 2, 5]])

    assert read().train.digest() == read("saved").train.digest() != task.train.digest()


def test_columns_of_every_kind_are_inputs_or_targets(read):
    task = read(x="colour", normalize=False)
    assert task.input_shape == (3, 6, 4)
    x = every(task.train).x
    assert x.amax(dim=(1, 2, 3)).equal(x.amin(dim=(1, 2, 3)))
    assert read(x="colour", image_size=2).input_shape == (3, 2, 2)
    assert read(x="grey").input_shape == (1, 4, 5)
    assert read(y="word").class_names == ("blue", "green", "red")
    task = read(y="tags", kind="labels")
    assert task.class_names == ("u", "v", "w")
    assert {tuple(row) for row in task.train.targets().tolist()} == {(0, 0, 0), (1, 0, 1)}


def test_classes_that_another_split_numbers_otherwise_are_refused(read, tmp_path):
    parts = {"train": ROWS, "validation": ROWS.select(range(12)), "test": ROWS.select(range(11))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "two")
    assert list(map(len, splits(read(str(tmp_path / "two"), y="tags", kind="labels")))) == [40, 12, 11]
    features = datasets.Features({"series": ROWS.features["series"], "tags": [datasets.ClassLabel(names=["w", "u"])]})
    other = datasets.Dataset.from_dict({"series": ROWS["series"][:11], "tags": [[1, 0]] * 11}, features=features)
    datasets.DatasetDict(parts | {"test": other}).save_to_disk(tmp_path / "other")
    with refused("numbers its classes otherwise than training; cast it to u, v, w", DataError):
        read(str(tmp_path / "other"), y="tags", kind="labels").open_test()


def test_damaged_files_and_missing_values_are_reported(read, folder):
    (folder / "bad").mkdir()
    (folder / "bad" / "train.parquet").write_bytes(b"PAR1 and then nothing")
    with refused("bad: cannot be read: ", DataError):
        read("bad")
    series = SERIES.tolist()
    series[30][1][2] = np.inf
    columns = {"x": series, "y": [0, 1] * (N // 2), "gap": [*([0, 1] * (N // 2 - 1)), 0, None]}
    put(folder / "odd", datasets.Dataset.from_dict(columns))
    for y, message in (("gap", r"odd\[train\]\[gap\]"), ("y", r"odd\[train\]\[x\], row 30: 1 values are infinite")):
        with refused(message, DataError):  # row 30 is for training
            read("odd", x="x", y=y, validation_fraction=0.03, test_fraction=0.03)
    with refused(r"task\.x: .*\[train\] has no column 'serie'; did you mean 'series'"):
        read(x="serie")


def test_scripts_of_a_folder_are_not_executed(read, folder, tmp_path):
    put(folder / "evil", ROWS)
    (folder / "evil" / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nraise SystemExit\n")
    with refused("evil: comes with a script, which is not executed", UnsafeError):
        read("evil")
    assert not (tmp_path / "executed").exists()
