"""Data sets of the `datasets` library: local folders as they are, the hub where it cannot be reached, and bad columns."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from orca_cli.data.hub import opening as hub_open
from orca_cli.data.images.files import decode
from orca_cli.exceptions import DataError, NetworkError, UnavailableError, UnsafeError
from tests.tasks import builders
from tests.tasks.builders import every, refused, splits

datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
datasets.disable_progress_bars()

N = 40
ROWS = builders.hub_rows(datasets, N)
SERIES = np.array(ROWS["series"], np.float32)


def rows(n=N):
    return ROWS.select(range(n))


def put(folder, **parts):
    """Write splits as .parquet files; returns the folder."""
    folder.mkdir(exist_ok=True)
    for name, part in parts.items():
        part.to_parquet(folder / f"{name}.parquet")
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    put(root / "one", train=rows())
    parts = {"train": rows(), "validation": rows(12), "test": rows(11)}
    put(root / "two", **{f"{name}-00000-of-00001": part for name, part in parts.items()})
    rows().save_to_disk(root / "saved")
    return root


@pytest.fixture
def read(folder, reporter):
    def call(dataset="one", x="series", y="name", **settings):
        return builders.build("hub", folder, reporter, dataset=dataset, x=x, y=y, **settings)

    return call


def test_a_folder_becomes_three_disjoint_splits_read_from_the_mapped_file(read, reporter):
    task = read(normalize=False)
    assert (task.input_shape, task.num_outputs, task.class_names) == ((2, 6), 2, ("no", "yes"))
    assert list(map(len, splits(task))) == [28, 6, 6]
    series = np.concatenate([every(samples).x.numpy() for samples in splits(task)])
    order = [int(np.flatnonzero((x == SERIES).all(axis=(1, 2)))[0]) for x in series]
    assert sorted(order) == list(range(N))
    assert np.concatenate([samples.targets() for samples in splits(task)]).tolist() == [row % 2 for row in order]
    assert task.train.batch(np.array([5, 2, 5])).x.equal(every(task.train).x[[5, 2, 5]])
    assert "2 channels of 6; 2 classes (no, yes)" in reporter.lines[-1]

    normalised = read()
    x = every(normalised.train).x
    assert torch.allclose(x.mean(dim=(0, 2)), torch.zeros(2), atol=1e-5)
    assert torch.allclose(x.std(dim=(0, 2), correction=0), torch.ones(2), atol=1e-5)
    assert normalised.train.digest() == read().train.digest() == read("saved").train.digest()
    assert normalised.train.digest() != task.train.digest()


def test_numbers_are_values(read):
    task = read(y="scalar", kind="values", normalize=False)
    batch = every(task.train)
    rows = [int(np.flatnonzero((x == SERIES).all(axis=(1, 2)))[0]) for x in batch.x.numpy()]
    assert (task.kind, task.num_outputs, task.class_names) == ("values", 1, ())
    assert batch.y[:, 0].tolist() == rows
    assert task.target_scale.mean.tolist() == pytest.approx([np.mean(rows)])
    assert read(y="name", kind="values").class_names == ()  # classes that the data number, read as numbers


def test_splits_that_there_are_are_taken(read):
    task = read("two", normalize=False)
    assert [len(task.train), len(task.validation), len(task.open_test())] == [40, 12, 11]
    assert np.array_equal(every(task.open_test()).x, SERIES[:11])
    task = read("two", train_split="validation", validation_split="test")
    assert [len(task.train), len(task.validation)] == [10, 11]


def test_images_become_channels(read):
    task = read(x="colour", normalize=False)
    assert task.input_shape == (3, 6, 4)
    x = every(task.train).x
    assert x.amax(dim=(1, 2, 3)).equal(x.amin(dim=(1, 2, 3)))
    assert len(x[:, 0, 0, 0].unique()) == 28
    assert x.max() <= (N - 1) / 255 + 1e-6
    assert read(x="colour", image_size=2).input_shape == (3, 2, 2)
    assert read(x="grey").input_shape == (1, 4, 5)


def test_targets_of_every_kind(read):
    assert read(y="word").class_names == ("blue", "green", "red")
    task = read(y="tags", kind="labels")
    assert task.class_names == ("u", "v", "w")
    assert {tuple(row) for row in task.train.targets().tolist()} == {(0, 0, 0), (1, 0, 1)}
    assert read(y="bits", kind="labels").num_outputs == 2
    task = read(y="map", kind="dense")
    batch = every(task.train)
    assert batch.y.shape == (28, 1, 6)
    assert task.target_scale.mean.item() == pytest.approx(batch.y.mean().item(), rel=1e-5)
    task = read(x="map", y="map", kind="dense", normalize=False)
    assert every(task.train).x.equal(every(task.train).y)


def renamed(dataset, column, names):
    """Return a split whose classes have the same names in another order, or fewer."""
    has_labels = column == "tags"
    old = dataset.features[column].feature.names if has_labels else dataset.features[column].names
    feature = datasets.ClassLabel(names=names)
    number = {name: place for place, name in enumerate(names)}

    def renumber(row):
        value = row[column]
        return {column: [number[old[one]] for one in value] if has_labels else number[old[value]]}

    changed = dataset.features.copy()
    changed[column] = datasets.List(feature) if has_labels else feature
    return dataset.map(renumber, features=changed)


@pytest.mark.parametrize(
    ("column", "kind", "names", "message"),
    [
        ("name", "classes", ["yes", "no"], "class 'x' is none of training"),
        ("tags", "labels", ["w", "u"], "has a label that training does not have"),
    ],
)
def test_classes_that_another_split_numbers_otherwise_are_the_same(read, tmp_path, column, kind, names, message):
    def saved(name, test):
        splits = datasets.DatasetDict(train=rows(), validation=rows(12), test=test)
        splits.save_to_disk(tmp_path / name)
        return read(str(tmp_path / name), y=column, kind=kind)

    plain = read("two", y=column, kind=kind).open_test()
    task = saved("other", renamed(rows(11), column, names))
    assert np.array_equal(task.open_test().targets(), plain.targets())
    new = task.preprocessing.open(tmp_path / "other", "INPUT", "test")
    assert np.array_equal(new.targets(), plain.targets())
    unknown = renamed(rows(11), column, [*names, "x"]).map(lambda row: {column: [2] if kind == "labels" else 2})
    with refused(message, DataError):
        saved("odd", unknown).open_test()


def image_folder(folder, images):
    """Write a data set of images of two classes."""
    columns = {"image": images, "word": ["ab"[k % 2] for k in range(len(images))]}
    features = datasets.Features({"image": datasets.Image(), "word": datasets.Value("string")})
    return put(folder, train=datasets.Dataset.from_dict(columns, features=features))


@pytest.mark.parametrize("grey", [3, N])
def test_images_are_grey_where_all_of_training_are(read, tmp_path, grey):
    colour = [Image.fromarray(np.random.default_rng(_).integers(0, 255, (4, 5, 3)).astype(np.uint8)) for _ in range(N)]
    images = [image.convert("L") if k < grey else image for k, image in enumerate(colour)]
    task = read(image_folder(tmp_path / "mixed", images), x="image", y="word")
    assert task.input_shape == (1 if grey == N else 3, 4, 5)


def test_one_limit_holds_for_images_of_data_sets_and_of_files(read, tmp_path, monkeypatch):
    monkeypatch.setattr("orca_cli.data.images.files.MAX_PIXELS", 20)
    for side, kind, error in ((4, "png", None), (5, "png", UnsafeError), (4, "eps", DataError)):
        file = tmp_path / f"{side}.{kind}"
        Image.new("RGB", (5, side)).save(file)
        folder = image_folder(tmp_path / f"{side}{kind}", [str(file)] * 30)
        for open_one in (lambda path=file: decode(path, None, 3), lambda path=folder: read(path, x="image", y="word")):
            if error is None:
                open_one()
            else:
                with pytest.raises(error):
                    open_one()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"x": "serie"}, r"task\.x: .*\[train\] has no column 'serie'; did you mean 'series'"),
        ({"x": "scalar"}, r"\[scalar\]: holds Value.*allowed: lists of numbers"),
        ({"y": "ragged", "kind": "dense"}, r"\[ragged\]: holds lists of several lengths"),
        ({"y": "words", "kind": "labels"}, r"\[words\]: holds List\(Value\('string'\)\), not .* List\(ClassLabel\("),
        ({"x": "grey", "length": 3}, r"task\.length: applies to sequences"),
        ({"length": 3, "image_size": 3}, r"task\.length: applies to sequences, and task\.image_size to images"),
        ({"dataset": "./nowhere"}, r"task\.dataset: no folder '\./nowhere'"),
        ({"revision": "main"}, r"task\.revision: a folder has no revisions"),
        ({"config": "other"}, r"one: cannot be read: .*other"),
        ({"x": "ragged"}, r"\[ragged\]: row \d+ has shape .* give task\.length="),
        ({"dataset": "two", "test_split": "tset"}, r"task\.test_split: .* no split 'tset'; did you mean 'test'"),
        (
            {"dataset": "two", "validation_split": "validation", "test_split": "validation"},
            r"task\.test_split: 'validation' is also task\.validation_split",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(read, settings, message):
    with refused(message):
        read(**settings)


def test_damaged_files_and_missing_values_are_reported(read, folder):
    (folder / "bad").mkdir()
    (folder / "bad" / "train.parquet").write_bytes(b"PAR1 and then nothing")
    with refused("bad: cannot be read: ", DataError):
        read("bad")
    series = SERIES.tolist()

    def held(place, value, last, **settings):
        """Read the series with another value in row 30, and the class of the last row."""
        series[30][1][2] = value
        columns = {"x": series, "y": [*([0, 1] * (N // 2 - 1)), 0, last]}
        put(folder / place, train=datasets.Dataset.from_dict(columns))
        return read(place, x="x", y="y", **settings)

    with refused(r"unlabelled\[train\]\[y\]", DataError):
        held("unlabelled", None, None)
    with refused(r"infinite\[train\]\[x\], row 30: 1 values are infinite", DataError):
        held("infinite", np.inf, 1, validation_fraction=0.03, test_fraction=0.03)  # row 30 is for training
    task = held("holes", None, 1, normalize=False, gap_indicator=True, gaps="linear")
    assert "1 missing values (0.3 %) in 1 of 2 channels are interpolated in time, flagged by 1 more" in task.note
    assert task.input_shape == (3, 6)
    x = np.concatenate([every(samples).x.numpy() for samples in splits(task)])
    filled = x[x[:, 2].any(1)]
    assert filled[:, 2].tolist() == [[0, 0, 1, 0, 0, 0]]
    expected = SERIES[30].copy()
    expected[1, 2] = (expected[1, 1] + expected[1, 3]) / 2
    np.testing.assert_allclose(filled[0, :2], expected, rtol=1e-6)


def test_scripts_of_a_folder_are_not_executed(read, folder, tmp_path):
    put(folder / "evil", train=rows())
    (folder / "evil" / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nraise SystemExit\n")
    with refused("evil: comes with a script, which is not executed", UnsafeError):
        read("evil")
    assert not (tmp_path / "executed").exists()


def test_a_hub_that_cannot_be_reached_is_one_line(read, monkeypatch):
    monkeypatch.setattr(hub_open, "hub_answers", lambda: False)
    with refused(r"task\.dataset: 'owner/name' is not on this machine and the hub cannot", NetworkError):
        read("owner/name")
    assert not datasets.config.HF_HUB_OFFLINE
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refused(r"pip install 'orca-transfer\[datasets\]'", UnavailableError):
        read()
