"""Images whose targets stand in a table: numbers, labels and classes; how rows name files; what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from orca_cli.exceptions import ConfigError, DataError
from tests.tasks.builders import every, refused, reloaded, splits

N = 40
LEVEL = np.random.default_rng(0).permutation(np.arange(10, 250, 6))[:N]
NAMES = [f"{'left' if i % 2 else 'right'}/{i:03d}.png" for i in range(N)]
TABLE = pd.DataFrame({"image": NAMES, "age": LEVEL / 3})


@pytest.fixture
def read(tmp_path, build):
    """Write grey images, each of one level, and load them with a table of their targets."""
    for name, level in zip(NAMES, LEVEL, strict=True):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6, 3), level, np.uint8)).save(path)

    def call(frame, **settings):
        frame.to_csv(tmp_path / "ages.csv", index=False)
        return build("images", **{"path": "photos", "table": "ages.csv", "normalize": "none"} | settings)

    return call


def levels(samples):
    """Return the level of each image, and its targets."""
    batch = every(samples)
    return np.round(batch.x[:, 0, 0, 0].numpy() * 255).astype(int), batch.y


def test_numbers_of_a_table_are_predicted_from_images(read, tmp_path):
    task = read(TABLE)
    assert (task.kind, task.num_outputs, task.class_names) == ("values", 1, ("age",))
    assert task.input_shape == (3, 6, 6)
    assert "age read as numbers to predict" in task.note
    seen = []
    for samples in splits(task):
        level, y = levels(samples)
        assert (y.dtype, y.shape) == (torch.float32, (len(samples), 1))
        np.testing.assert_allclose(y[:, 0], level / 3, rtol=1e-6)
        seen += level.tolist()
    assert sorted(seen) == sorted(LEVEL)
    assert len({samples.digest() for samples in splits(task)}) == 3
    assert read(TABLE.assign(age=LEVEL / 4)).train.digest() != task.train.digest()
    preprocessing = reloaded(task, tmp_path / "run")
    assert preprocessing.targets.scale.mean.equal(task.target_scale.mean)
    new = preprocessing.open(tmp_path / "photos", "photos")
    assert (len(new), new.targets()) == (N, None)


def test_identical_images_with_other_targets_are_warned_about(read, tmp_path):
    frame = TABLE.assign(age=np.round(LEVEL / 3, 2))
    assert "several targets" not in read(frame).note
    (tmp_path / "photos" / NAMES[1]).write_bytes((tmp_path / "photos" / NAMES[0]).read_bytes())
    values = sorted(f"[{frame['age'][row]}]" for row in (0, 1))
    assert f"warning: 1 images have several targets, such as {', '.join(values)}" in read(frame).note
    frame.loc[1, "age"] = frame.loc[0, "age"]
    assert "several targets" not in read(frame).note


@pytest.mark.parametrize("short", [lambda name: name[:-4], lambda name: name.split("/")[1], lambda name: name[-7:-4]])
def test_a_row_may_name_a_file_by_less_than_its_path(read, short):
    other = TABLE.assign(image=[short(name) for name in NAMES])
    assert read(TABLE).train.digest() == read(other).train.digest()


def test_columns_are_named_or_found_and_splits_are_marked(read):
    marks = np.array(["train"] * 20 + ["val"] * 10 + ["test"] * 10)
    table = TABLE.assign(split=marks, height=LEVEL * 1.5)
    task = read(table, target="height", file="image")
    assert task.class_names == ("height",)
    assert [sorted(levels(samples)[0]) for samples in splits(task)] == [
        sorted(LEVEL[marks == part]) for part in ("train", "val", "test")
    ]
    both = read(table)
    assert (both.num_outputs, both.class_names) == (2, ("age", "height"))


def test_classes_and_labels_stand_in_a_table_too(read):
    table = TABLE.assign(age=np.where(LEVEL > 120, "old", "young"))
    task = read(table)
    assert (task.kind, task.class_names) == ("classes", ("old", "young"))
    for samples in splits(task):
        level, y = levels(samples)
        assert ((level > 120) == (y.numpy() == 0)).all()
    assert "stratified" in task.note
    labels = TABLE.assign(age=LEVEL > 120, even=LEVEL % 2 == 0)
    task = read(labels, kind="labels")
    level, y = levels(task.train)
    assert (task.kind, task.class_names) == ("labels", ("age", "even"))
    assert y.tolist() == np.stack([level > 120, level % 2 == 0], axis=1).astype(float).tolist()


def test_images_without_a_row_are_left_out_and_reported(read):
    task = read(TABLE.iloc[:30])
    assert sum(map(len, splits(task))) == 30
    assert "10 files of photos have no row in ages.csv and are not read" in task.note
    table = TABLE.assign(age=np.where(np.arange(N) % 8, LEVEL, np.nan))
    targets = np.concatenate([samples.targets() for samples in splits(read(table, missing_targets=True))])
    assert np.isnan(targets).sum() == 5


@pytest.mark.parametrize(
    ("table", "settings", "error", "message"),
    [
        (TABLE.assign(image="x.png"), {}, ConfigError, r"no column names files of .*name it with task\.file=COLUMN"),
        (TABLE.replace(NAMES[1], "no/1.png"), {}, DataError, r"\[image\]: 'no/1.png' in row 2 is not an image"),
        (TABLE.replace(NAMES[1], "right/000.png"), {}, DataError, r"\[image\]: names 'right/000.png' twice"),
        (TABLE.iloc[:9], {}, DataError, "too few images: 9"),
        (TABLE, {"target": "agee"}, DataError, r"task\.target: ages\.csv has no column 'agee'; did you mean 'age'"),
        (TABLE, {"kind": "values", "table": None}, ConfigError, r"task\.kind: folders of images are classes, not values"),
        (TABLE, {"target": "age", "table": None}, ConfigError, r"task\.target: names a column of task\.table"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_are_refused_in_one_line(read, table, settings, error, message):
    with refused(message, error):
        read(table, **settings)


def test_one_image_in_two_marked_splits_is_refused(read, tmp_path):
    with refused('write decimal points, or with task=table give "task.decimal', DataError):
        read(TABLE.assign(age=[f"{i},5" for i in range(N)]))
    (tmp_path / "photos" / NAMES[0]).write_bytes((tmp_path / "photos" / NAMES[39]).read_bytes())
    with refused("the same image as 'right/000.png', which is in another split", DataError):
        read(TABLE.assign(split=["train"] * 30 + ["test"] * 10))
