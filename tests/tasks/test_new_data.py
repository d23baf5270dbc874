"""What readers of own data learned is rebuilt from the files of a run alone, and gives new data the bits of the test split."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from orca_cli import storage
from orca_cli.exceptions import ConfigError, DataError, UnsafeError
from orca_cli.runs.preprocessing import load_preprocessing, write_preprocessing
from tests.tasks.builders import check_inputs, check_same, every, hub_rows, in_parts, refused, reloaded

N = 60


def rebuilt(task, folder):
    """Write a task's preprocessing and return what the files alone give."""
    preprocessing = reloaded(task, folder)
    files = sorted(folder.iterdir())
    assert [path.name for path in files] == ["preprocessing.json", "preprocessing.safetensors"]
    assert preprocessing is not task.preprocessing
    write_preprocessing(folder / "again", preprocessing)
    assert [(folder / "again" / path.name).read_bytes() for path in files] == [path.read_bytes() for path in files]
    assert tuple(preprocessing.targets.names) == tuple(task.class_names)
    assert preprocessing.input_shape == task.input_shape
    assert (preprocessing.targets.scale is None) == (task.target_scale is None)
    if task.target_scale is not None:
        assert preprocessing.targets.scale.mean.equal(task.target_scale.mean)
        assert preprocessing.targets.scale.std.equal(task.target_scale.std)
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
    "as they are": (X, CLASSES, {"normalize": False}),
    "two-dimensional": (drawn(3, 6, 5, whole=255).astype(np.uint8), CLASSES, {"num_classes": 3}),
    "text": (X, np.array(["b", "ä", "c"])[CLASSES], {}),
    "channels last": (drawn(6, 5, 3), drawn(6, 5, 2), {"channels_last": True, "kind": "dense"}),
    "labels": (drawn(7), drawn(4, whole=2), {"kind": "labels"}),
    "class maps": (X, drawn(5, whole=3), {"kind": "dense"}),
    "gaps": (with_gaps(drawn(2, 5)), CLASSES, {}),
    "gaps in time": (with_gaps(drawn(2, 5)), CLASSES, {"gaps": "linear", "gap_indicator": True}),
    "values": (X, drawn(3), {"kind": "values"}),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name, tmp_path, build):
    x, y, settings = ARRAYS[name]
    for part, rows in (("train", slice(40)), ("test", slice(40, N))):
        np.savez(tmp_path / f"{part}.npz", x=x[rows], y=y[rows])
    task = build("arrays", **{"kind": "classes", "train": "train.npz", "test": "test.npz"} | settings)
    preprocessing, test = rebuilt(task, tmp_path / "run"), task.open_test()
    check_same(preprocessing, preprocessing.open(tmp_path / "test.npz", "INPUT"), test)
    check_inputs(preprocessing.inputs(x[40:]), test)
    np.testing.assert_array_equal(preprocessing.targets.encode(y[40:], "y"), test.targets())
    with refused("new: samples have shape .* those of the training set", DataError):
        preprocessing.inputs(x[40:, ..., :1], "new")
    with refused(r"new: 1 values are infinite, the first is inf at index \(3, 0", DataError):
        preprocessing.inputs(
            np.where(np.arange(x[40:].size).reshape(x[40:].shape) == 3 * x[0].size, np.inf, x[40:]), "new"
        )


@pytest.mark.parametrize("form", ["Fortran order, other names", "arrays of their own", "marked rows"])
def test_forms_of_an_npz_file(form, tmp_path, build):
    settings, file, part = {"train": "all.npz"}, "all.npz", "test"
    if form == "arrays of their own":
        np.savez(tmp_path / "all.npz", x_train=X[:40], y_train=Y[:40], x_test=X[40:], y_test=Y[40:])
    elif form == "marked rows":
        np.savez(tmp_path / "all.npz", x=X, y=Y, split=np.array(["train", "test", "train", "val"] * 15))
    else:
        for name, rows in (("train", slice(40)), ("test", slice(40, N))):
            np.savez_compressed(tmp_path / f"{name}.npz", signal=np.asfortranarray(X[rows]), state=Y[rows])
        settings, file, part = {"train": "train.npz", "test": "test.npz", "x": "signal", "y": "state"}, "test.npz", ""
    task = build("arrays", kind="classes", **settings)
    preprocessing = reloaded(task, tmp_path / "run")
    new = preprocessing.open(tmp_path / file, "INPUT", part)
    check_same(preprocessing, new, task.open_test())
    assert new.ids == ([str(row) for row in range(1, N, 4)] if form == "marked rows" else None)
    again = in_parts(preprocessing, new)[0]  # from the start, once the archive was read to its end
    assert torch.equal(again, in_parts(preprocessing, new, size=1)[0])


@pytest.fixture
def arrays(tmp_path, build):
    """The preprocessing of a task of arrays."""
    np.savez(tmp_path / "train.npz", x=X[:40], y=Y[:40])
    return reloaded(build("arrays", kind="classes", train="train.npz"), tmp_path / "run")


def test_arrays_without_targets_and_in_memory(arrays, tmp_path):
    np.save(tmp_path / "new.npy", X[40:])
    np.savez(tmp_path / "new.npz", x=X[40:])
    expected = arrays.inputs(X[40:])[0]
    opened = [arrays.open(tmp_path / f"new.{ending}", "INPUT") for ending in ("npy", "npz")]
    for new in (*opened, arrays.given(X[40:]), arrays.given(X[40:].tolist())):
        assert (len(new), new.targets(), new.ids) == (20, None, None)
        assert torch.equal(in_parts(arrays, new)[0], expected)


FILES = {
    "another shape": ({"x": X[:, :1]}, "", DataError, r"\(1, 5\), those of the training set \(2, 5\)"),
    "parts": ({"x_train": X, "x_test": X[:9]}, "", DataError, "holds x_test, x_train; take a part of it by --part test"),
    "no such part": ({"x_train": X, "x_test": X[:9]}, "validation", DataError, "has no part 'validation'"),
    "an unseen class": ({"x": X[:3], "y": np.array(["a", "z", "b"])}, "", DataError, "the first is z at index 1"),
    "a part of an npy": (X, "test", ConfigError, "--part: applies to .npz"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_arrays_that_do_not_fit(name, arrays, tmp_path):
    content, part, error, message = FILES[name]
    file = tmp_path / ("new.npz" if isinstance(content, dict) else "new.npy")
    if isinstance(content, dict):
        np.savez(file, **content)
    else:
        np.save(file, content)
    with refused(message, error):
        arrays.open(file, "INPUT", part).targets()


def test_values_that_do_not_fit_and_damaged_members(arrays, tmp_path):
    for inputs, message in (
        (X[:, :, :4], "the model takes 2 channels of 5 a sample"),
        ([[1, 2], [3]], "samples of different shapes"),
    ):
        with refused(message, DataError):
            arrays.given(inputs)
    np.savez(tmp_path / "parts.npz", x_train=X, x_test=X[:9])
    assert len(arrays.open(tmp_path / "parts.npz", "INPUT", "test")) == 9
    content = (tmp_path / "train.npz").read_bytes()
    place = content.index(X[30].tobytes())
    (tmp_path / "damaged.npz").write_bytes(content[:place] + bytes(8) + content[place + 8 :])
    with refused(r"damaged\.npz\[x\].*CRC", DataError):
        in_parts(arrays, arrays.open(tmp_path / "damaged.npz", "INPUT"))


def test_a_member_is_not_held_whole(tmp_path, build):
    x = np.zeros((4000, 2, 500))
    x[:40] = np.random.default_rng(0).normal(size=(40, 2, 500))
    np.savez(tmp_path / "train.npz", x=x[:40], y=np.arange(40) % 2)
    np.savez_compressed(tmp_path / "new.npz", x=x)
    preprocessing = build("arrays", kind="classes", train="train.npz").preprocessing
    new = preprocessing.open(tmp_path / "new.npz", "INPUT")
    tracemalloc.start()
    for start in range(0, len(new), 100):
        assert new.inputs(start, start + 100).tobytes() == x[start : start + 100].tobytes()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 4


def frame(n=N):
    i = np.arange(n)
    return pd.DataFrame(
        {
            "weight": np.where(i % 5, i * 7 % 23 + 0.1, np.nan),
            "age": i % 50,
            "height": [f"{value},5" for value in i % 9],
            "same": 3,
            "colour": np.array(["red", "green", "blue", ""])[i % 4],
            "town": [f"town {min(k % 10, 7)}" for k in i],
            "empty": "",
            "kind": np.array(["yes", "no"])[i % 2],
        }
    )


SAVE = {
    "csv": lambda rows, path: rows.to_csv(path, index=False),
    "tsv": lambda rows, path: rows.to_csv(path, index=False, sep="\t"),
    "parquet": lambda rows, path: rows.replace("", None).to_parquet(path, row_group_size=9),
}
TRAINED_ON = ["weight", "age", "height", "same", "colour", "town"]
TABLE = {"target": "kind", "decimal": ",", "max_categories": 3}


@pytest.mark.parametrize(("ending", "indicator"), [("csv", True), ("tsv", False), ("parquet", True)])
def test_tables_with_gaps_and_unknown_categories(ending, indicator, tmp_path, build):
    new = frame()[40:]
    new.iloc[0, 0], new.iloc[1, 5], new.iloc[2, 2], new.iloc[3, 4] = np.nan, "nowhere", "", "violet"
    for name, rows in (("train", frame()[:40]), ("test", new)):
        SAVE[ending](rows, tmp_path / f"{name}.{ending}")
    task = build("table", train=f"train.{ending}", test=f"test.{ending}", gap_indicator=indicator, **TABLE)
    preprocessing = rebuilt(task, tmp_path / "run")
    opened = preprocessing.open(tmp_path / f"test.{ending}", "INPUT")
    check_same(preprocessing, opened, task.open_test())
    whole = in_parts(preprocessing, opened)[0]
    assert torch.equal(
        in_parts(preprocessing, opened, size=3)[0], in_parts(preprocessing, opened, size=20)[0]
    )  # read again
    assert torch.equal(preprocessing.inputs(opened.inputs(17, 19))[0], whole[17:19])  # some are skipped
    rows = new[TRAINED_ON]
    for x in (new, rows[rows.columns[::-1]], {name: list(new[name]) for name in new}, rows.to_numpy()):
        assert torch.equal(in_parts(preprocessing, preprocessing.given(x))[0], whole)
    with refused(r"\[weight\]: 'heavy' in row 1 is not a number", DataError):
        in_parts(preprocessing, preprocessing.given(new.assign(weight="heavy")))


@pytest.fixture
def table(tmp_path, build):
    """The preprocessing of a table."""
    frame().to_csv(tmp_path / "train.csv", index=False)
    return reloaded(build("table", train="train.csv", features=["weight", "age", "colour"], **TABLE), tmp_path / "run")


NEW = frame(9)[["colour", "age", "weight"]].assign(other=1)


def test_rows_in_other_forms_and_orders(table, tmp_path):
    expected = in_parts(table, table.given(NEW))[0]
    for name, rows, targets in (("new", NEW, None), ("empty", NEW.assign(kind=""), None)):
        rows.to_csv(tmp_path / f"{name}.csv", index=False, sep=";")
        opened = table.open(tmp_path / f"{name}.csv", "INPUT")
        assert opened.targets() is targets
        assert torch.equal(in_parts(table, opened)[0], expected)
    for one in (NEW.iloc[0], NEW.iloc[0].to_dict()):
        assert torch.equal(in_parts(table, table.given(one))[0], expected[:1])
    assert torch.equal(in_parts(table, table.given(NEW[:2].to_dict("records")))[0], expected[:2])
    for rows, message in (
        (NEW.rename(columns={"weight": "weigth"}), r"did you mean 'weigth'\? the model was trained on"),
        (NEW[["other", "colour"]], "has no column 'weight', 'age'"),
        (NEW[:0], "has no rows"),
    ):
        rows.to_csv(tmp_path / "odd.csv", index=False)
        for read in (table.given, lambda rows: table.open(tmp_path / "odd.csv", "INPUT")):
            with refused(message, DataError):
                read(rows)
    for inputs, message in (
        ({"weight": [1.0, 2.0], "age": [1], "colour": ["red"]}, "x: is not a table .* with the columns weight, age, col"),
        (np.zeros((4, 2)), "has 2 columns, the model takes 3; in this order: weight, age, colour"),
        (pd.concat([NEW, NEW["age"]], axis=1), "two columns are named 'age'"),
    ):  # fmt: skip
        with refused(message, DataError):
            table.given(inputs)
    with refused("does not apply to tables", ConfigError):
        table.open(tmp_path / "train.csv", "INPUT", "test")
    for text, message in (
        ("\n1,2,red,yes\n1,2", "line 3 has 2 fields"),
        ("\n1,2,red,yes\n1,2,red,", "1 rows have no t"),
    ):
        (tmp_path / "bad.csv").write_text(f"weight,age,colour,kind{text}\n")
        with refused(message, DataError):
            table.open(tmp_path / "bad.csv", "INPUT").targets()  # fmt: skip


def pictures(root, parts):
    """Write images by split and class, every other one grey."""
    for part, numbers in parts.items():
        for label, name in enumerate(("cat", "dog")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in numbers:
                pixels = np.random.default_rng(100 * label + i).integers(0, 256, (14, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels if i % 2 else pixels[..., 0]).save(folder / f"{i:02}.png")


@pytest.mark.parametrize("settings", [{"channels": 1, "size": 12, "fit": "crop"}, {"normalize": "none"}], ids=str)
def test_images_of_the_test_split(settings, tmp_path, build):
    pictures(tmp_path / "pets", {"train": range(8), "val": range(8, 10), "test": range(10, 12)})
    task = build("images", path="pets", flip=True, padding=2, **settings)
    preprocessing, test = rebuilt(task, tmp_path / "run"), tmp_path / "pets" / "test"
    new = preprocessing.open(tmp_path / "pets", "INPUT", "test")
    assert list(new.ids) == ["test/cat/10.png", "test/cat/11.png", "test/dog/10.png", "test/dog/11.png"]
    below = preprocessing.open(test, "INPUT")
    assert list(below.ids)[0] == "cat/10.png"
    for opened in (new, below):
        check_same(preprocessing, opened, task.open_test())
    whole = in_parts(preprocessing, new)[0]
    one, loose = (preprocessing.open(path, "INPUT") for path in (test / "dog" / "10.png", test / "dog"))
    listed = preprocessing.given([test / "dog" / f"{i}.png" for i in (10, 11)])
    for part, rows in ((one, whole[2:3]), (loose, whole[2:]), (listed, whole[2:])):
        assert (len(part), part.targets()) == (len(rows), None)
        assert torch.equal(in_parts(preprocessing, part)[0], rows)
    assert list(one.ids) == ["10.png"]


def test_images_of_other_folders(tmp_path, build):
    pictures(tmp_path / "pets", {"train": range(8), "val": range(8, 10), "test": range(10, 12)})
    preprocessing = build("images", path="pets").preprocessing
    others = tmp_path / "others"
    pictures(others, {"monday": range(2)})
    assert len(preprocessing.open(others / "monday", "INPUT")) == 4
    (others / "monday" / "dog").rename(others / "monday" / "wolf")
    with refused("2 labels have no training sample, the first is wolf", DataError):
        preprocessing.open(others / "monday", "INPUT").targets()
    (others / "monday" / "cat").rename(others / "monday" / "lion")
    deep = preprocessing.open(others, "INPUT")
    assert (list(deep.ids)[0], len(deep), deep.targets()) == ("monday/lion/00.png", 4, None)
    for folder, part, message in (
        ("none", "", "no folder of images"),
        ("pets", "", "holds splits.*take one of them with --part"),
        ("others", "test", "no folder of the test split"),
    ):
        with refused(message, DataError):
            preprocessing.open(tmp_path / folder, "INPUT", part)
    for x in ("pets", [np.zeros((3, 4, 4))]):
        with refused("not a list of image files", DataError):
            preprocessing.given(x)


HUB = {
    "channels last": ("series", "word", "classes", {"channels_last": True}),
    "sequences": ("ragged", "word", "classes", {"length": 3}),
    "grey images": ("grey", "tags", "labels", {"normalize": False}),
    "colour images": ("colour", "word", "classes", {"image_size": 3}),
    "maps": ("series", "map", "dense", {}),
}


@pytest.mark.parametrize("name", HUB)
def test_rows_of_the_hub(name, tmp_path, build, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))
    x, y, kind, settings = HUB[name]
    rows = hub_rows(datasets, N)
    test = rows.select(range(40, N))

    def write(folder, split, part):
        (tmp_path / folder).mkdir(exist_ok=True)
        part.to_parquet(tmp_path / folder / f"{split}.parquet")

    write("data", "train", rows.select(range(40)))
    write("data", "test", test)
    task = build("hub", dataset="data", x=x, y=y, kind=kind, **settings)
    preprocessing = rebuilt(task, tmp_path / "run")
    new = preprocessing.open(tmp_path / "data", "INPUT", "test")
    check_same(preprocessing, new, task.open_test())
    write("new", "train", test.remove_columns(y))
    plain = preprocessing.open(tmp_path / "new", "INPUT")
    assert plain.targets() is None
    assert torch.equal(in_parts(preprocessing, plain)[0], every(task.open_test()).x)
    if x in ("series", "ragged"):
        check_inputs(in_parts(preprocessing, preprocessing.given(test[x])), task.open_test())
    write("bad", "train", test.remove_columns(x))
    for folder, message in (("data", "holds 2 splits; .*; name one by --part test"), ("bad", f"has no column '{x}'")):
        with refused(message, DataError):
            preprocessing.open(tmp_path / folder, "INPUT")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": "shutil.rmtree"}, UnsafeError, "'shutil.rmtree' is outside"),
        ({"target": "orca_cli.data.targets.TargetForm"}, DataError, "does not accept this record"),
        ({"schema": 2}, DataError, "has schema 2, expected 1"),
    ],
)
def test_records_of_others_are_not_trusted(arrays, tmp_path, change, error, message):
    path = tmp_path / "run" / "preprocessing.json"
    storage.write_checked_json(path, storage.read_checked_json(path) | change)
    with refused(message, error):
        load_preprocessing(tmp_path / "run")
