"""New data are opened as the reader reads its own, in parts, and give the samples of the test split to the bit."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.runs.preprocessing import load_preprocessing, write_preprocessing
from orca_cli.tasks import arrays, images, table
from tests.tasks.test_preprocessing import HUB, hub_rows

RNG = np.random.default_rng(0)
N = 60


def loaded(task, folder):
    """Return a task's preprocessing as a run's files give it."""
    write_preprocessing(folder, task.preprocessing)
    return load_preprocessing(folder)


def in_parts(preprocessing, new, size=7):
    """Return all inputs and masks of new data, read in parts of `size`."""
    parts = [
        preprocessing.inputs(new.inputs(start, min(start + size, len(new))), new.where)
        for start in range(0, len(new), size)
    ]
    masks = [valid for _, valid in parts]
    return torch.cat([x for x, _ in parts]), None if masks[0] is None else torch.cat(masks)


def check_same(preprocessing, new, samples):
    """Compare new data with the split that they are, to the bit."""
    whole = samples.batch(np.arange(len(samples)))
    x, valid = in_parts(preprocessing, new)
    assert torch.equal(x, whole.x)
    assert (valid is None) == (whole.valid is None)
    assert valid is None or torch.equal(valid, whole.valid)
    np.testing.assert_array_equal(new.targets(), samples.targets())


X, Y = RNG.normal(3, 2, (N, 2, 5)), np.array(["b", "a", "c"])[np.arange(N) % 3]


def written(folder, form):
    """Write X and Y in a form; returns settings of the reader, and (file, part) of the test split."""
    if form == "files":
        np.savez(folder / "train.npz", x=X[:40], y=Y[:40])
        np.savez(folder / "test.npz", x=X[40:], y=Y[40:])
        return {"train": "train.npz", "test": "test.npz"}, ("test.npz", "")
    if form == "compressed, other names":
        np.savez_compressed(folder / "train.npz", signal=X[:40], state=Y[:40])
        np.savez_compressed(folder / "test.npz", signal=X[40:], state=Y[40:])
        return {"train": "train.npz", "test": "test.npz", "x": "signal", "y": "state"}, ("test.npz", "")
    if form == "Fortran order":
        np.savez(folder / "train.npz", x=X[:40], y=Y[:40])
        np.savez(folder / "test.npz", x=np.asfortranarray(X[40:]), y=Y[40:])
        return {"train": "train.npz", "test": "test.npz"}, ("test.npz", "")
    if form == "arrays of their own":
        np.savez(folder / "all.npz", x_train=X[:40], y_train=Y[:40], x_test=X[40:], y_test=Y[40:])
        return {"train": "all.npz"}, ("all.npz", "test")
    marks = np.array(["train", "test", "train", "val"])[np.arange(N) % 4]
    np.savez(folder / "all.npz", x=X, y=Y, split=marks)
    return {"train": "all.npz"}, ("all.npz", "test")


@pytest.mark.parametrize(
    "form", ["files", "compressed, other names", "Fortran order", "arrays of their own", "marked rows"]
)
def test_arrays_of_the_test_split(form, tmp_path, reporter):
    settings, (file, part) = written(tmp_path, form)
    task = arrays.load(tmp_path, reporter, kind="classes", **settings)
    found = loaded(task, tmp_path / "run")
    new = found.open(tmp_path / file, "INPUT", part)
    check_same(found, new, task.open_test())
    assert new.ids == ([str(row) for row in range(1, N, 4)] if form == "marked rows" else None)
    again = in_parts(found, new)[0]  # from the start, once the archive was read to its end
    assert torch.equal(again, in_parts(found, new, size=1)[0])


def test_arrays_without_targets_and_in_memory(tmp_path, reporter):
    np.savez(tmp_path / "train.npz", x=X[:40], y=Y[:40])
    np.save(tmp_path / "new.npy", X[40:])
    np.savez(tmp_path / "new.npz", x=X[40:])
    found = loaded(arrays.load(tmp_path, reporter, kind="classes", train="train.npz"), tmp_path / "run")
    expected = found.inputs(X[40:])[0]
    for new in (
        found.open(tmp_path / "new.npy", "INPUT"),
        found.open(tmp_path / "new.npz", "INPUT"),
        found.given(X[40:]),
        found.given(X[40:].tolist()),
    ):
        assert (len(new), new.targets(), new.ids) == (20, None, None)
        assert torch.equal(in_parts(found, new)[0], expected)


def refused(found, path, error, message, part=""):
    with pytest.raises(error, match=message):
        found.open(path, "INPUT", part)


def test_arrays_that_do_not_fit(tmp_path, reporter):
    np.savez(tmp_path / "train.npz", x=X[:40], y=Y[:40])
    found = loaded(arrays.load(tmp_path, reporter, kind="classes", train="train.npz"), tmp_path / "run")
    np.savez(tmp_path / "other.npz", x=X[:, :1])
    refused(found, tmp_path / "other.npz", DataError, r"\(1, 5\), those of the training set \(2, 5\)")
    with pytest.raises(DataError, match="the model takes 2 channels of 5 a sample"):
        found.given(X[:, :, :4])
    with pytest.raises(DataError, match="samples of different shapes"):
        found.given([[1, 2], [3]])
    with pytest.raises(DataError, match="dtype object"):
        found.given(X.astype(object))
    np.savez(tmp_path / "parts.npz", x_train=X, x_test=X[:9])
    refused(found, tmp_path / "parts.npz", DataError, "it holds x_test, x_train; take a part of it by --part test")
    assert len(found.open(tmp_path / "parts.npz", "INPUT", "test")) == 9
    refused(found, tmp_path / "parts.npz", DataError, "has no part 'validation'", "validation")
    np.save(tmp_path / "x.npy", X)
    refused(found, tmp_path / "x.npy", ConfigError, "--part: applies to .npz", "test")
    np.savez(tmp_path / "none.npz", x=X[:0])
    refused(found, tmp_path / "none.npz", DataError, "no samples")
    np.savez(tmp_path / "short.npz", x=X, y=Y[:9])
    refused(found, tmp_path / "short.npz", DataError, r"shape \(9,\) does not match")
    np.savez(tmp_path / "unseen.npz", x=X[:3], y=np.array(["a", "z", "b"]))
    with pytest.raises(DataError, match="1 labels have no training sample, the first is z at index 1"):
        found.open(tmp_path / "unseen.npz", "INPUT").targets()
    content = (tmp_path / "train.npz").read_bytes()
    place = content.index(X[30].tobytes())
    (tmp_path / "damaged.npz").write_bytes(content[:place] + bytes(8) + content[place + 8 :])
    with pytest.raises(DataError, match=r"damaged\.npz\[x\].*CRC"):
        in_parts(found, found.open(tmp_path / "damaged.npz", "INPUT"))


@pytest.mark.parametrize("compressed", [False, True])
def test_a_member_is_not_held_whole(compressed, tmp_path, reporter):
    x = np.zeros((4000, 2, 500))
    x[:40] = RNG.normal(size=(40, 2, 500))
    np.savez(tmp_path / "train.npz", x=x[:40], y=np.arange(40) % 2)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "new.npz", x=x)
    found = loaded(arrays.load(tmp_path, reporter, kind="classes", train="train.npz"), tmp_path / "run")
    new = found.open(tmp_path / "new.npz", "INPUT")
    tracemalloc.start()
    for start in range(0, len(new), 100):
        part = new.inputs(start, start + 100)
        assert part.tobytes() == x[start : start + 100].tobytes()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 4


def frame(n=N):
    i = np.arange(n)
    return pd.DataFrame(
        {
            "weight": np.where(i % 5, i * 7 % 23 + 0.1, np.nan),
            "age": i % 50,
            "colour": np.array(["red", "green", "blue", ""])[i % 4],
            "kind": np.array(["yes", "no"])[i % 2],
        }
    )


SAVE = {
    "csv": lambda rows, path: rows.to_csv(path, index=False),
    "tsv": lambda rows, path: rows.to_csv(path, index=False, sep="\t"),
    "parquet": lambda rows, path: rows.replace("", None).to_parquet(path, row_group_size=9),
}


@pytest.mark.parametrize("ending", SAVE)
def test_rows_of_the_test_split(ending, tmp_path, reporter):
    for name, rows in (("train", frame()[:40]), ("test", frame()[40:])):
        SAVE[ending](rows, tmp_path / f"{name}.{ending}")
    files = {"train": f"train.{ending}", "test": f"test.{ending}"}
    task = table.load(tmp_path, reporter, target="kind", **files)
    found = loaded(task, tmp_path / "run")
    new = found.open(tmp_path / f"test.{ending}", "INPUT")
    check_same(found, new, task.open_test())
    assert torch.equal(in_parts(found, new, size=3)[0], in_parts(found, new, size=20)[0])  # read again
    assert torch.equal(found.inputs(new.inputs(17, 19))[0], in_parts(found, new)[0][17:19])  # some are skipped
    given = frame()[40:]
    for x in (given, given[["colour", "age", "weight"]], {name: list(given[name]) for name in given}):
        assert torch.equal(in_parts(found, found.given(x))[0], in_parts(found, new)[0])
    assert torch.equal(in_parts(found, found.given(given.iloc[:, :3].to_numpy()))[0], in_parts(found, new)[0])


def test_rows_with_columns_missing_added_and_in_another_order(tmp_path, reporter):
    frame().to_csv(tmp_path / "train.csv", index=False)
    found = loaded(table.load(tmp_path, reporter, train="train.csv", target="kind"), tmp_path / "run")
    new = frame(9)[["colour", "age", "weight"]].assign(other=1)
    new.to_csv(tmp_path / "new.csv", index=False, sep=";")
    opened = found.open(tmp_path / "new.csv", "INPUT")
    assert opened.targets() is None
    assert torch.equal(in_parts(found, opened)[0], in_parts(found, found.given(frame(9)))[0])
    new.assign(kind="").to_csv(tmp_path / "empty.csv", index=False)
    assert found.open(tmp_path / "empty.csv", "INPUT").targets() is None
    new.assign(kind=["yes"] * 8 + [""]).to_csv(tmp_path / "some.csv", index=False)
    with pytest.raises(DataError, match="1 rows have no target"):
        found.open(tmp_path / "some.csv", "INPUT").targets()
    trained_on = "the model was trained on weight, age, colour"
    for rows, message in (
        (new.drop(columns="age"), f"has no column 'age'; {trained_on}"),
        (new.rename(columns={"weight": "weigth"}), rf"did you mean 'weigth'\? {trained_on}"),
        (new[["other", "colour"]], "has no column 'weight', 'age'"),
    ):
        rows.to_csv(tmp_path / "bad.csv", index=False)
        refused(found, tmp_path / "bad.csv", DataError, message)
        with pytest.raises(DataError, match="has no column"):
            found.given(rows)
    with pytest.raises(DataError, match="has 2 columns, the model takes 3; in this order: weight, age, colour"):
        found.given(np.zeros((4, 2)))
    for given, message in (
        (new[:0], "has no rows"),
        (pd.concat([new, new["age"]], axis=1), "two columns are named 'age'"),
    ):
        with pytest.raises(DataError, match=message):
            found.given(given)
    refused(found, tmp_path / "train.csv", ConfigError, "does not apply to tables", "test")
    (tmp_path / "header.csv").write_text("weight,age,colour\n")
    refused(found, tmp_path / "header.csv", DataError, "has no rows")
    (tmp_path / "uneven.csv").write_text("weight,age,colour\n1,2,red\n1,2\n")
    refused(found, tmp_path / "uneven.csv", DataError, "line 3 has 2 fields")


def test_one_row_is_a_mapping_or_a_series_and_several_are_records(tmp_path, reporter):
    rows = frame()
    rows.to_csv(tmp_path / "train.csv", index=False)
    found = loaded(table.load(tmp_path, reporter, train="train.csv", target="kind"), tmp_path / "run")
    expected = in_parts(found, found.given(rows[:2]))[0]
    for one in (rows.iloc[0], rows.iloc[0].to_dict()):
        assert torch.equal(in_parts(found, found.given(one))[0], expected[:1])
    assert torch.equal(in_parts(found, found.given(rows[:2].to_dict("records")))[0], expected)
    with pytest.raises(DataError, match="x: is not a table .* give rows with the columns weight, age, colour"):
        found.given({"weight": [1.0, 2.0], "age": [1], "colour": ["red"]})


def test_a_column_whose_texts_are_all_missing_in_a_part(tmp_path, reporter):
    rows = frame()
    rows.loc[10:29, "colour"] = ""
    SAVE["parquet"](rows, tmp_path / "t.parquet")
    found = loaded(table.load(tmp_path, reporter, train="t.parquet", target="kind"), tmp_path / "run")
    new = found.open(tmp_path / "t.parquet", "INPUT")
    assert torch.equal(in_parts(found, new, size=7)[0], in_parts(found, new, size=60)[0])


def pictures(root, parts):
    """Write images, named by split and class; returns them by their names."""
    for part, numbers in parts.items():
        for label, name in enumerate(("cat", "dog")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in numbers:
                pixels = np.random.default_rng(100 * label + i).integers(0, 256, (14, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:02}.png")


def test_images_of_the_test_split_and_others(tmp_path, reporter):
    pictures(tmp_path / "pets", {"train": range(8), "val": range(8, 10), "test": range(10, 12)})
    task = images.load(tmp_path, tmp_path / "cache", reporter, path="pets", flip=True, size=12)
    found = loaded(task, tmp_path / "run")
    new = found.open(tmp_path / "pets", "INPUT", "test")
    check_same(found, new, task.open_test())
    assert list(new.ids) == ["test/cat/10.png", "test/cat/11.png", "test/dog/10.png", "test/dog/11.png"]
    below = found.open(tmp_path / "pets" / "test", "INPUT")
    check_same(found, below, task.open_test())
    assert list(below.ids)[0] == "cat/10.png"
    one = found.open(tmp_path / "pets" / "test" / "dog" / "10.png", "INPUT")
    assert (list(one.ids), one.targets()) == (["10.png"], None)
    assert torch.equal(in_parts(found, one)[0], in_parts(found, new)[0][2:3])
    loose = found.open(tmp_path / "pets" / "test" / "dog", "INPUT")
    assert (len(loose), loose.targets()) == (2, None)
    given = found.given([tmp_path / "pets" / "test" / "dog" / f"{i}.png" for i in (10, 11)])
    assert torch.equal(in_parts(found, given)[0], in_parts(found, loose)[0])
    pictures(tmp_path / "others", {"monday": range(2)})
    assert len(found.open(tmp_path / "others" / "monday", "INPUT")) == 4
    (tmp_path / "others" / "monday" / "dog").rename(tmp_path / "others" / "monday" / "wolf")
    with pytest.raises(DataError, match="2 labels have no training sample, the first is wolf"):
        found.open(tmp_path / "others" / "monday", "INPUT").targets()
    (tmp_path / "others" / "monday" / "cat").rename(tmp_path / "others" / "monday" / "lion")
    assert found.open(tmp_path / "others" / "monday", "INPUT").targets() is None
    refused(found, tmp_path / "none", DataError, "no folder of images")
    deep = found.open(tmp_path / "others", "INPUT")
    assert (list(deep.ids)[0], len(deep), deep.targets()) == ("monday/lion/00.png", 4, None)
    refused(found, tmp_path / "pets", DataError, "holds splits.*take one of them with --part")
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    (tmp_path / "pets" / "val" / "cat" / "08.png").rename(tmp_path / "empty" / ".hidden" / "08.png")
    refused(found, tmp_path / "empty", DataError, "holds no images")
    refused(found, tmp_path / "others", DataError, "no folder of the test split", "test")
    for x in ("pets", [np.zeros((3, 4, 4))]):
        with pytest.raises(DataError, match="not a list of image files"):
            found.given(x)


@pytest.mark.parametrize("name", HUB)
def test_rows_of_the_hub(name, tmp_path, reporter, monkeypatch):
    pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    from orca_cli.tasks import hub

    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))
    x, y, kind, settings = HUB[name]
    rows = hub_rows(pytest.importorskip("datasets"))
    (tmp_path / "data").mkdir()
    rows.select(range(40)).to_parquet(tmp_path / "data" / "train.parquet")
    rows.select(range(40, N)).to_parquet(tmp_path / "data" / "test.parquet")
    task = hub.load(tmp_path, tmp_path / "cache", reporter, dataset="data", x=x, y=y, kind=kind, **settings)
    found = loaded(task, tmp_path / "run")
    new = found.open(tmp_path / "data", "INPUT", "test")
    check_same(found, new, task.open_test())
    refused(found, tmp_path / "data", DataError, "holds 2 splits; it holds .*; name one by --part test")
    refused(found, tmp_path / "data", DataError, "has no split 'validation'", "validation")
    (tmp_path / "new").mkdir()
    rows.select(range(40, N)).remove_columns(y).to_parquet(tmp_path / "new" / "train.parquet")
    plain = found.open(tmp_path / "new", "INPUT")
    assert plain.targets() is None
    assert torch.equal(in_parts(found, plain)[0], in_parts(found, new)[0])
    if x in ("series", "ragged"):
        assert torch.equal(in_parts(found, found.given(rows.select(range(40, N))[x]))[0], in_parts(found, new)[0])
    (tmp_path / "bad").mkdir()
    rows.select(range(40, N)).remove_columns(x).to_parquet(tmp_path / "bad" / "train.parquet")
    refused(found, tmp_path / "bad", DataError, f"has no column '{x}'")
