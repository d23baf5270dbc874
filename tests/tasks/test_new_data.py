"""What readers of own data learned is rebuilt from the files of a run alone, and gives new data the bits of the test split."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from orca_cli import storage
from orca_cli.exceptions import DataError, UnsafeError
from orca_cli.runs.preprocessing import load_preprocessing, write_preprocessing
from tests.tasks.builders import check_inputs, check_same, in_parts, refused, reloaded

N = 60


def rebuilt(task, folder):
    """Write a task's preprocessing and return what the files alone give."""
    preprocessing = reloaded(task, folder)
    write_preprocessing(folder / "again", preprocessing)
    for name in ("preprocessing.json", "preprocessing.safetensors"):
        assert (folder / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert tuple(preprocessing.targets.names) == tuple(task.class_names)
    assert preprocessing.input_shape == task.input_shape
    scale, expected = preprocessing.targets.scale, task.target_scale
    assert (scale is None) == (expected is None)
    assert scale is None or (
        np.array_equal(scale.mean, expected.mean) and np.array_equal(scale.std, expected.std)
    )
    return preprocessing


def with_gaps(x):
    x[np.random.default_rng(3).random(x.shape) < 0.2] = np.nan
    return x


def drawn(*shape, whole=0):
    """Return numbers, or whole ones below a bound."""
    rng = np.random.default_rng(sum(shape))
    return rng.integers(0, whole, (N, *shape)) if whole else rng.normal(3, 2, (N, *shape))


X, Y = drawn(2, 5), np.array(["b", "a", "c"])[np.arange(N) % 3]
CLASSES = np.arange(N) % 3
ARRAYS = {
    "constant channel": (X * [[1], [0]] + 0.1, CLASSES * 10 - 5, {}),
    "channels last": (drawn(6, 5, 3), drawn(6, 5, 2), {"channels_last": True, "kind": "dense"}),
    "labels": (drawn(7), drawn(4, whole=2), {"kind": "labels"}),
    "class maps": (X, drawn(5, whole=3), {"kind": "dense"}),
    "gaps in time": (with_gaps(drawn(2, 5)), Y, {"gaps": "linear", "gap_indicator": True}),
    "values": (X.astype(np.float32), drawn(3), {"kind": "values", "normalize": False}),
}


@pytest.fixture
def trained(tmp_path, build):
    """Return a function that trains on 40 samples; it returns preprocessing, and test samples."""

    def call(x, y, **settings):
        np.savez(tmp_path / "train.npz", x=x[:40], y=y[:40])
        np.savez(tmp_path / "test.npz", x=x[40:], y=y[40:])
        settings = {"kind": "classes"} | settings
        task = build("arrays", train="train.npz", test="test.npz", **settings)
        return rebuilt(task, tmp_path / "run"), task.open_test()

    return call


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name, tmp_path, trained):
    x, y, settings = ARRAYS[name]
    preprocessing, test = trained(x, y, **settings)
    check_same(preprocessing, preprocessing.open(tmp_path / "test.npz", "INPUT"), test)
    check_inputs(preprocessing.inputs(x[40:]), test)
    np.testing.assert_array_equal(preprocessing.targets.encode(y[40:], "y"), test.targets())


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_another_shape_are_refused(name, trained):
    x, y, settings = ARRAYS[name]
    preprocessing, _ = trained(x, y, **settings)
    with refused("new: has samples of shape .* the training samples' shape", DataError):
        preprocessing.inputs(x[40:, ..., :1], "new")


def test_marked_rows_of_an_npz_file(tmp_path, build):
    marks = np.array(["train", "test", "train", "val"] * 15)
    np.savez_compressed(tmp_path / "all.npz", signal=np.asfortranarray(X), state=Y, split=marks)
    task = build("arrays", kind="classes", train="all.npz", x="signal", y="state")
    preprocessing = reloaded(task, tmp_path / "run")
    new = preprocessing.open(tmp_path / "all.npz", "INPUT", "test")
    check_same(preprocessing, new, task.open_test())
    assert new.ids == [str(row) for row in range(1, N, 4)]
    again = in_parts(preprocessing, new)[0]  # from the start, once the archive was read to its end
    assert np.array_equal(again, in_parts(preprocessing, new, size=1)[0])


SPLIT_ARRAYS = {"x_train": X, "x_test": X[:9]}


@pytest.mark.parametrize(
    ("content", "part", "message"),
    [
        (SPLIT_ARRAYS, "", "it has: x_test, x_train; .* use --part"),
        (SPLIT_ARRAYS, "validation", "has no validation split"),
        ({"x": X[:3], "y": np.array(["a", "z", "b"])}, "", "the first is z at index 1"),
    ],
    ids=["several splits", "no such split", "a new class"],
)
def test_arrays_that_do_not_fit(content, part, message, tmp_path, trained):
    preprocessing, _ = trained(X, Y)
    np.savez(tmp_path / "new.npz", **content)
    with refused(message, DataError):
        preprocessing.open(tmp_path / "new.npz", "INPUT", part).targets()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": "shutil.rmtree"}, UnsafeError, "'shutil.rmtree' is not allowed"),
        ({"target": "orca_cli.data.targets.TargetForm"}, UnsafeError, "TargetForm' is not allowed"),
        ({"target": "orca_cli.data.images.reader.ImagePreprocessing"}, DataError, "not accept"),
        ({"schema": 2}, DataError, "has schema 2, expected 1"),
    ],
    ids=["a function", "another class", "another preprocessing", "a later schema"],
)
def test_records_that_are_not_trusted(change, error, message, tmp_path, trained):
    trained(X, Y)
    path = tmp_path / "run" / "preprocessing.json"
    storage.write_checked_json(path, storage.read_checked_json(path) | change)
    with refused(message, error):
        load_preprocessing(tmp_path / "run")


def frame(n=N):
    i = np.arange(n)
    columns = {
        "weight": np.where(i % 5, i * 7 % 23 + 0.1, np.nan),
        "age": i % 50,
        "height": [f"{value},5" for value in i % 9],
        "same": 3,
        "colour": np.array(["red", "green", "blue", ""])[i % 4],
        "town": [f"town {min(k % 10, 7)}" for k in i],
        "on": i % 3 == 0,
        "empty": "",
        "kind": np.array(["yes", "no"])[i % 2],
    }
    return pd.DataFrame(columns)


SAVE = {
    "csv": lambda rows, path: rows.to_csv(path, index=False, sep=";", decimal=","),
    "parquet": lambda rows, path: rows.replace("", None).to_parquet(path, row_group_size=9),
}
TRAINED_ON = ["weight", "age", "height", "same", "colour", "town", "on"]
TABLE = {"target": "kind", "decimal": ",", "max_categories": 3}


@pytest.mark.parametrize(("ending", "indicator"), [("csv", True), ("parquet", False)])
def test_tables_with_gaps_and_unknown_categories(ending, indicator, tmp_path, build):
    new = frame()[40:]
    new.iloc[0, 0], new.iloc[1, 5], new.iloc[2, 2], new.iloc[3, 4] = np.nan, "nowhere", "", "violet"
    files = [tmp_path / f"{name}.{ending}" for name in ("train", "test", "bare")]
    tables = [frame()[:40], new, new[TRAINED_ON[::-1]].assign(other=1)]
    for path, rows in zip(files, tables, strict=True):
        SAVE[ending](rows, path)
    task = build("table", train=files[0].name, test=files[1].name, gap_indicator=indicator, **TABLE)
    preprocessing = rebuilt(task, tmp_path / "run")
    opened, bare = (preprocessing.open(path, "INPUT") for path in files[1:])
    check_same(preprocessing, opened, task.open_test())
    assert bare.targets() is None
    # The most frequent town has a category of its own.
    assert preprocessing.columns[5].categories[2:] == ("town 7", "(other)")
    whole = in_parts(preprocessing, opened)[0]
    for size in (3, 20):  # read again
        assert np.array_equal(in_parts(preprocessing, bare, size)[0], whole)
    # The samples before these are skipped.
    assert np.array_equal(preprocessing.inputs(opened.inputs(17, 19))[0], whole[17:19])
    rows = new[TRAINED_ON]
    for x in (
        new,
        rows[rows.columns[::-1]],
        {name: list(new[name]) for name in new},
        rows.to_numpy(),
    ):
        assert np.array_equal(in_parts(preprocessing, preprocessing.given(x))[0], whole)
    for x in (new.iloc[5], new[5:6].to_dict("records")):
        assert np.array_equal(in_parts(preprocessing, preprocessing.given(x))[0], whole[5:6])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            frame(9)[["colour", "age", "weight"]].rename(columns={"weight": "weigth"}),
            r"x: 'x' has no column 'weight'; did you mean 'weigth'\?",
        ),
        (
            np.zeros((4, 2)),
            "has 2 columns, expected 3; pass columns in this order: weight, age, colour",
        ),
    ],
    ids=["a misspelt column", "too few columns"],
)
def test_rows_that_do_not_fit(rows, message, tmp_path, build):
    SAVE["csv"](frame(), tmp_path / "train.csv")
    task = build("table", train="train.csv", features=["weight", "age", "colour"], **TABLE)
    with refused(message, DataError):
        reloaded(task, tmp_path).given(rows)


def test_images_of_the_test_split(tmp_path, build):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 14, 20, 3), dtype=np.uint8)
    folders = np.repeat(["train", "val", "test"], [16, 4, 4])
    for i, (image, folder) in enumerate(zip(pixels, folders, strict=True)):
        path = tmp_path / "pets" / folder / ("dog" if i % 4 > 1 else "cat") / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Every second image is grey.
        Image.fromarray(image if i % 2 else image[..., 0]).save(path)
    task = build("images", path="pets", flip=True, padding=2, channels=1, size=12, fit="crop")
    preprocessing, test = rebuilt(task, tmp_path / "run"), tmp_path / "pets" / "test"
    new = preprocessing.open(tmp_path / "pets", "INPUT", "test")
    assert list(new.ids) == [
        "test/cat/20.png",
        "test/cat/21.png",
        "test/dog/22.png",
        "test/dog/23.png",
    ]
    for opened in (new, preprocessing.open(test, "INPUT")):
        check_same(preprocessing, opened, task.open_test())
    whole = in_parts(preprocessing, new)[0]
    single = preprocessing.open(test / "dog" / "22.png", "INPUT")
    loose = preprocessing.open(test / "dog", "INPUT")
    listed = preprocessing.given([test / "dog" / f"{i}.png" for i in (22, 23)])
    for images, inputs in ((single, whole[2:3]), (loose, whole[2:]), (listed, whole[2:])):
        assert (len(images), images.targets()) == (len(inputs), None)
        assert np.array_equal(in_parts(preprocessing, images)[0], inputs)
