"""What readers of own data learned is rebuilt from the files of a run alone, and gives new data the same bits."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from orca_cli import storage
from orca_cli.exceptions import ChecksumError, DataError, UnsafeError
from orca_cli.runs.preprocessing import load_preprocessing, write_preprocessing
from orca_cli.tasks import arrays, images, table
from orca_cli.tasks.table.files import open_table

RNG = np.random.default_rng(0)
N = 60


def rebuilt(task, folder):
    """Write a task's preprocessing and return what the files alone give."""
    write_preprocessing(folder, task.preprocessing)
    files = sorted(folder.iterdir())
    assert [path.name for path in files] == ["preprocessing.json", "preprocessing.safetensors"]
    found = load_preprocessing(folder)
    assert found is not task.preprocessing
    assert type(found) is type(task.preprocessing)
    again = folder / "again"
    write_preprocessing(again, found)
    assert [(again / path.name).read_bytes() for path in files] == [path.read_bytes() for path in files]
    assert tuple(found.targets.names) == tuple(task.class_names)
    assert (found.targets.scale is None) == (task.target_scale is None)
    if task.target_scale is not None:
        assert found.targets.scale.mean.equal(task.target_scale.mean)
        assert found.targets.scale.std.equal(task.target_scale.std)
    return found


def check_inputs(found, samples):
    """Compare rebuilt inputs with those of a split, to the bit."""
    x, valid = found
    batch = samples.batch(np.arange(len(samples)))
    assert x.dtype == batch.x.dtype == torch.float32
    assert torch.equal(x, batch.x)
    assert (valid is None) == (batch.valid is None)
    assert valid is None or torch.equal(valid, batch.valid)


def check_targets(found, samples):
    assert found.dtype == samples.targets().dtype
    np.testing.assert_array_equal(found, samples.targets())


def with_gaps(x):
    x[np.random.default_rng(3).random(x.shape) < 0.2] = np.nan
    return x


CLASSES = np.arange(N) % 3
ARRAYS = {
    "constant channel": (RNG.normal(3, 2, (N, 2, 5)) * [[1], [0]] + 0.1, CLASSES, {}),
    "large offset": (RNG.normal(size=(N, 1, 5)) + 1e9, CLASSES, {}),
    "as they are": (RNG.normal(size=(N, 2, 5)), CLASSES, {"normalize": False}),
    "two-dimensional": (RNG.integers(0, 255, (N, 3, 6, 5), dtype=np.uint8), CLASSES, {"num_classes": 3}),
    "flat": (RNG.normal(size=(N, 7)).astype(np.float32), CLASSES * 10 - 5, {}),
    "text": (RNG.normal(size=(N, 2, 5)), np.array(["b", "ä", "c"])[CLASSES], {}),
    "channels last": (RNG.normal(size=(N, 6, 5, 3)), RNG.normal(5, 2, (N, 6, 5, 2)), {"channels_last": True}),
    "labels": (RNG.normal(size=(N, 2, 5)), RNG.integers(0, 2, (N, 4)), {}),
    "class maps": (RNG.normal(size=(N, 2, 5)), RNG.integers(0, 3, (N, 5)), {}),
    "gaps": (with_gaps(RNG.normal(3, 2, (N, 2, 5))), CLASSES, {}),
    "gaps in time": (with_gaps(RNG.normal(3, 2, (N, 2, 5))), CLASSES, {"gaps": "linear", "gap_indicator": True}),
    "values": (RNG.normal(3, 2, (N, 2, 5)), RNG.normal(3, 2, (N, 3)), {}),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name, tmp_path, reporter):
    x, y, settings = ARRAYS[name]
    kind = {"labels": "labels", "values": "values", "class maps": "dense", "channels last": "dense"}.get(
        name, "classes"
    )
    np.savez(tmp_path / "train.npz", x=x[:40], y=y[:40])
    np.savez(tmp_path / "test.npz", x=x[40:], y=y[40:])
    task = arrays.load(tmp_path, reporter, kind=kind, train="train.npz", test="test.npz", **settings)
    found = rebuilt(task, tmp_path / "run")
    test = task.open_test()
    check_inputs(found.inputs(x[40:]), test)
    check_targets(found.targets.encode(y[40:], "y"), test)
    assert found.input_shape == task.input_shape
    with pytest.raises(DataError, match=r"new: samples have shape .* those of the training set"):
        found.inputs(x[40:, ..., :1], "new")
    with pytest.raises(DataError, match=r"new: 1 values are infinite, the first is inf at index \(3, 0"):
        found.inputs(np.where(np.arange(x[40:].size).reshape(x[40:].shape) == 3 * x[0].size, np.inf, x[40:]), "new")


@pytest.mark.parametrize("indicator", [False, True])
def test_a_table_with_gaps_and_unknown_categories(indicator, tmp_path, reporter):
    i = np.arange(N)
    frame = pd.DataFrame(
        {
            "weight": np.where(i % 5, i * 7 % 23 + 0.1, np.nan),
            "height": [f"{value},5" for value in i % 9],
            "same": 3,
            "colour": np.array(["red", "green", "blue", "?"])[i % 4],
            "town": [f"town {min(k % 10, 7)}" for k in i],
            "empty": "",
            "kind": np.array(["yes", "no"])[i % 2],
        }
    )
    frame[:40].to_csv(tmp_path / "train.csv", index=False)
    new = frame[40:].assign(colour="violet")
    new.iloc[0, 0], new.iloc[1, 4], new.iloc[2, 1] = np.nan, "nowhere", ""
    new.to_csv(tmp_path / "test.csv", index=False)
    settings = {"decimal": ",", "max_categories": 3, "target": "kind", "train": "train.csv", "test": "test.csv"}
    settings["gap_indicator"] = indicator
    task = table.load(tmp_path, reporter, **settings)
    found = rebuilt(task, tmp_path / "run")
    test = task.open_test()
    raw = open_table(tmp_path / "test.csv", "new", None, None).read([*new.columns])
    check_inputs(found.inputs(raw), test)
    check_targets(found.encoded_targets(raw, "new"), test)
    assert found.input_shape == task.input_shape
    raw["weight"][3] = "heavy"
    with pytest.raises(DataError, match=r"new\[weight\]: 'heavy' in row 4 is not a number"):
        found.inputs(raw, "new")


def test_several_labels_of_a_table(tmp_path, reporter):
    bits = RNG.integers(0, 2, (N, 2))
    frame = pd.DataFrame({"row": np.arange(N), "a": bits[:, 0], "b": np.array(["no", "yes"])[bits[:, 1]]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    task = table.load(tmp_path, reporter, train="t.csv", test=None, kind="labels", targets=["a", "b"])
    found = rebuilt(task, tmp_path / "run")
    rows = np.argsort(task.open_test().batch(np.arange(9)).x[:, 0, 0].numpy())
    raw = open_table(tmp_path / "t.csv", "new", None, None).read(["row", "a", "b"])
    every = found.inputs(raw)[0]
    for k in rows:
        x = task.open_test().batch(np.array([k])).x
        place = int(np.flatnonzero((every == x).all(dim=(1, 2)).numpy())[0])
        assert (found.encoded_targets(raw, "new")[place] == task.open_test().targets()[k]).all()


@pytest.mark.parametrize("settings", [{}, {"channels": 1, "size": 12, "fit": "crop"}, {"normalize": "none"}])
def test_image_files(settings, tmp_path, reporter):
    for part, start, stop in (("train", 0, 8), ("val", 8, 10), ("test", 10, 12)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / "pets" / part / name
            folder.mkdir(parents=True)
            for i in range(start, stop):
                pixels = np.random.default_rng(100 * label + i).integers(0, 256, (14, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels if i % 2 else pixels[..., 0]).save(folder / f"{i:02}.png")
    task = images.load(tmp_path, tmp_path / "cache", reporter, path="pets", flip=True, padding=2, **settings)
    found = rebuilt(task, tmp_path / "run")
    files = sorted((tmp_path / "pets" / "test").rglob("*.png"))
    test = task.open_test()
    check_inputs(found.inputs(files), test)
    check_targets(found.targets.encode(np.array([file.parent.name for file in files]), "new"), test)
    assert found.input_shape == task.input_shape


def hub_rows(datasets, n=N):
    i = np.arange(n)
    grey, colour = ([Image.fromarray(np.full(shape, k, np.uint8)) for k in i] for shape in ((4, 5), (6, 4, 3)))
    features = {
        "series": datasets.List(datasets.List(datasets.Value("float32"))),
        "ragged": datasets.List(datasets.Value("float64")),
        "grey": datasets.Image(),
        "colour": datasets.Image(),
        "name": datasets.ClassLabel(names=["no", "yes"]),
        "word": datasets.Value("string"),
        "tags": datasets.List(datasets.ClassLabel(names=["u", "v", "w"])),
        "map": datasets.List(datasets.Value("float32")),
    }
    values = {
        "series": (np.random.default_rng(1).normal(3, 2, (n, 2, 6)) * [[1], [0]]).tolist(),
        "ragged": [list(np.arange(k % 4 + 1) + 0.5) for k in i],
        "grey": grey,
        "colour": colour,
        "name": (i % 2).tolist(),
        "word": [["red", "green", "blue"][k % 3] for k in i],
        "tags": [[0, 2] if k % 2 else [] for k in i],
        "map": np.random.default_rng(2).normal(50, 9, (n, 6)).tolist(),
    }
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


HUB = {
    "lists with a constant channel": ("series", "name", "classes", {}),
    "channels last": ("series", "word", "classes", {"channels_last": True}),
    "sequences": ("ragged", "word", "classes", {"length": 3}),
    "grey images": ("grey", "tags", "labels", {"normalize": False}),
    "colour images": ("colour", "word", "classes", {"image_size": 3}),
    "maps": ("series", "map", "dense", {}),
}


@pytest.mark.parametrize("name", HUB)
def test_columns_of_the_hub(name, tmp_path, reporter):
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    from orca_cli.tasks import hub
    from orca_cli.tasks.hub.columns import raw_targets

    x, y, kind, settings = HUB[name]
    rows = hub_rows(datasets)
    (tmp_path / "data").mkdir()
    rows.select(range(40)).to_parquet(tmp_path / "data" / "train.parquet")
    rows.select(range(40, N)).to_parquet(tmp_path / "data" / "test.parquet")
    task = hub.load(tmp_path, tmp_path / "cache", reporter, dataset="data", x=x, y=y, kind=kind, **settings)
    found = rebuilt(task, tmp_path / "run")
    test, new = task.open_test(), rows.select(range(40, N))
    raw = new.cast_column(x, datasets.Image(decode=False))[x] if x in ("grey", "colour") else new[x]
    check_inputs(found.inputs(list(raw)), test)
    check_targets(found.targets.encode(raw_targets(kind, new, y, "new"), "new"), test)


@pytest.fixture
def written(tmp_path, reporter):
    x, y, _ = ARRAYS["text"]
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    write_preprocessing(tmp_path, arrays.load(tmp_path, reporter, kind="classes", train="mine.npz").preprocessing)
    return tmp_path


def test_changed_files_are_refused(written):
    arrays_file = written / "preprocessing.safetensors"
    content = bytearray(arrays_file.read_bytes())
    content[-3] ^= 1
    arrays_file.write_bytes(content)
    with pytest.raises(ChecksumError, match=r"preprocessing\.safetensors: is damaged"):
        load_preprocessing(written)
    arrays_file.unlink()
    with pytest.raises(ChecksumError, match=r"preprocessing\.safetensors: is missing"):
        load_preprocessing(written)
    (written / "preprocessing.json").write_text("{}")
    with pytest.raises(ChecksumError, match=r"preprocessing\.json: is damaged"):
        load_preprocessing(written)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": "shutil.rmtree"}, UnsafeError, "'shutil.rmtree' is outside"),
        ({"target": "orca_cli.tasks.arrays.load"}, DataError, "does not accept this record"),
        ({"target": "orca_cli.tasks.shared.targets.TargetForm"}, DataError, "does not accept this record"),
        ({"values": {}}, DataError, "does not accept this record"),
        ({"schema": 2}, DataError, "has schema 2, expected 1"),
    ],
)
def test_records_of_others_are_not_trusted(written, change, error, message):
    path = written / "preprocessing.json"
    storage.write_checked_json(path, storage.read_checked_json(path) | change)
    with pytest.raises(error, match=message):
        load_preprocessing(written)
