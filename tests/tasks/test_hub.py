"""Data sets of the `datasets` library: local folders as they are, the hub where it cannot be reached, and bad columns."""

import builtins

import numpy as np
import pytest
import torch

from orca_cli import parts
from orca_cli.exceptions import ConfigError, DataError, NetworkError, OrcaError, UnavailableError, UnsafeError
from orca_cli.tasks.hub import opening as hub_open
from orca_cli.tasks.images.files import decode

datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
datasets.disable_progress_bars()

N = 40
RNG = np.random.default_rng(0)
SERIES = RNG.normal(3, 2, (N, 2, 6)).astype(np.float32)
MAPS = RNG.normal(50, 9, (N, 6)).astype(np.float32)
FEATURES = datasets.Features(
    {
        "series": datasets.List(datasets.List(datasets.Value("float32"))),
        "flat": datasets.List(datasets.Value("int16")),
        "ragged": datasets.List(datasets.Value("float64")),
        "image": datasets.Image(),
        "name": datasets.ClassLabel(names=["no", "yes"]),
        "word": datasets.Value("string"),
        "tags": datasets.List(datasets.ClassLabel(names=["u", "v", "w"])),
        "words": datasets.List(datasets.Value("string")),
        "bits": datasets.List(datasets.Value("int8")),
        "map": datasets.List(datasets.Value("float32")),
        "person": datasets.Value("int32"),
        "scalar": datasets.Value("float32"),
    }
)


def rows(n=N):
    from PIL import Image

    i = np.arange(n)
    return datasets.Dataset.from_dict(
        {
            "series": SERIES[:n].tolist(),
            "flat": [[k, k + 1, 2 * k] for k in i],
            "ragged": [list(np.arange(k % 4 + 1) + 0.5) for k in i],
            "image": [Image.fromarray(np.full((4, 5, 3), k, np.uint8)) for k in i],
            "name": (i % 2).tolist(),
            "word": [["red", "green", "blue"][k % 3] for k in i],
            "tags": [[0, 2] if k % 2 else [] for k in i],
            "words": [["u", "w"] if k % 2 else ["v", "v"] for k in i],
            "bits": [[k % 2, 1 - k % 2] for k in i],
            "map": MAPS[:n].tolist(),
            "person": (i // 4).tolist(),
            "scalar": i.tolist(),
        },
        features=FEATURES,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    (root / "one").mkdir()
    rows().to_parquet(root / "one" / "train.parquet")
    (root / "two").mkdir()
    rows().to_parquet(root / "two" / "train-00000-of-00001.parquet")
    rows(12).to_parquet(root / "two" / "validation-00000-of-00001.parquet")
    rows(11).to_parquet(root / "two" / "test-00000-of-00001.parquet")
    rows().save_to_disk(root / "saved")
    return root


@pytest.fixture
def read(folder, reporter):
    def call(dataset="one", x="series", y="name", **settings):
        node = {"_target_": "orca_cli.tasks.hub.load", "dataset": dataset, "x": x, "y": y, **settings}
        return parts.build(node, "task", data_folder=folder, cache_folder=folder / "cache", reporter=reporter)

    return call


def every(samples):
    return samples.batch(np.arange(len(samples)))


def test_a_folder_becomes_three_disjoint_splits_read_from_the_mapped_file(read, reporter):
    task = read(normalize=False)
    assert (task.input_shape, task.num_outputs, task.class_names) == ((2, 6), 2, ("no", "yes"))
    splits = [task.train, task.validation, task.open_test()]
    assert [len(samples) for samples in splits] == [28, 6, 6]
    found = np.concatenate([every(samples).x.numpy() for samples in splits])
    order = [int(np.flatnonzero((x == SERIES).all(axis=(1, 2)))[0]) for x in found]
    assert sorted(order) == list(range(N))
    targets = np.concatenate([every(samples).y.numpy() for samples in splits])
    assert targets.tolist() == [row % 2 for row in order]
    picked = task.train.batch(np.array([5, 2, 5]))
    assert picked.x.equal(every(task.train).x[[5, 2, 5]])
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
    several = read(y="map", kind="values")
    assert (several.num_outputs, every(several.train).y.shape) == (6, (28, 6))
    assert read(y="name", kind="values").class_names == ()  # classes that the data number, read as numbers
    with pytest.raises(DataError, match=r"\[word\]: targets have dtype <U5"):
        read(y="word", kind="values")


def test_splits_that_there_are_are_taken(read):
    task = read("two", normalize=False)
    assert [len(task.train), len(task.validation), len(task.open_test())] == [40, 12, 11]
    assert np.array_equal(every(task.open_test()).x, SERIES[:11])
    task = read("two", train_split="validation", validation_split="test")
    assert [len(task.train), len(task.validation)] == [10, 11]
    with pytest.raises(DataError, match=r"task\.test_split: .* has no split 'tset'; did you mean 'test'"):
        read("two", test_split="tset")
    with pytest.raises(ConfigError, match=r"task\.test_split: 'validation' is also task\.validation_split"):
        read("two", validation_split="validation", test_split="validation")


def test_sequences_of_several_lengths_are_padded_on_request(read):
    task = read(x="ragged", length=3, normalize=False)
    batch = every(task.train)
    assert batch.x.shape == (28, 1, 3)
    for x, valid in zip(batch.x[:, 0], batch.valid, strict=True):
        known = int(valid.sum())
        assert x.tolist() == [0.5, 1.5, 2.5][:known] + [0] * (3 - known)
    normalised = every(read(x="ragged", length=3).train)
    known = normalised.x[:, 0][normalised.valid]
    assert known.mean().abs() < 1e-6
    assert known.std(correction=0) == pytest.approx(1)
    assert not normalised.x[:, 0][~normalised.valid].any()
    with pytest.raises(DataError, match=r"\[ragged\]: row \d+ has shape .* give task\.length="):
        read(x="ragged")


def test_what_was_cut_or_filled_is_told(read, reporter):
    task = read("two", x="ragged", length=3)
    assert "longer than 3 steps and cut at the end: 10 of 40 samples (task.length=4 keeps them whole)" in task.note
    task.open_test()
    assert reporter.lines[-1].startswith("test split: longer than 3 steps and cut at the end: 2 of 11 samples")
    found = task.preprocessing.remarks([[1.0], [1.0, 2.0, 3.0, 4.0], [np.nan, 1.0]])
    assert found == {"longer than 3 steps and cut at the end": 1, "with missing values, filled by task.gaps=mean": 1}
    assert read().preprocessing.remarks(SERIES[:3]) == {}


def test_images_become_channels(read):
    task = read(x="image", normalize=False)
    assert task.input_shape == (3, 4, 5)
    x = every(task.train).x
    assert x.amax(dim=(1, 2, 3)).equal(x.amin(dim=(1, 2, 3)))
    assert len(x[:, 0, 0, 0].unique()) == 28
    assert x.max() <= (N - 1) / 255 + 1e-6
    assert read(x="image", image_size=2).input_shape == (3, 2, 2)
    assert len(read(x="image").train.digest()) == 64


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
    of_labels = column == "tags"
    old = dataset.features[column].feature.names if of_labels else dataset.features[column].names
    feature = datasets.ClassLabel(names=names)
    number = {name: place for place, name in enumerate(names)}

    def own(row):
        value = row[column]
        return {column: [number[old[one]] for one in value] if of_labels else number[old[value]]}

    changed = dataset.features.copy()
    changed[column] = datasets.List(feature) if of_labels else feature
    return dataset.map(own, features=changed)


@pytest.mark.parametrize(
    ("column", "kind", "names"), [("name", "classes", ["yes", "no"]), ("tags", "labels", ["w", "u"])]
)
def test_classes_that_another_split_numbers_otherwise_are_the_same(read, folder, tmp_path, column, kind, names):
    plain = read("two", y=column, kind=kind).open_test()
    other = renamed(rows(11), column, names)
    splits = datasets.DatasetDict(train=rows(), validation=rows(12), test=other)
    splits.save_to_disk(tmp_path / "other")
    task = read(str(tmp_path / "other"), y=column, kind=kind)
    assert np.array_equal(task.open_test().targets(), plain.targets())
    new = task.preprocessing.open(tmp_path / "other", "INPUT", "test")
    assert np.array_equal(new.targets(), plain.targets())
    unknown = (
        renamed(rows(11), column, [*names, "x"]) if kind == "classes" else renamed(rows(11), column, ["w", "u", "x"])
    )
    odd = unknown.map(lambda row: {column: [2] if kind == "labels" else 2})
    datasets.DatasetDict(train=rows(), validation=rows(12), test=odd).save_to_disk(tmp_path / "odd")
    with pytest.raises(DataError, match="class 'x' is none of training|has a label that training does not have"):
        read(str(tmp_path / "odd"), y=column, kind=kind).open_test()


def test_images_of_16_bits_and_transparent_ones_are_read_as_by_task_images(read, folder, tmp_path):
    from PIL import Image

    deep = np.linspace(0, 65535, 20).reshape(4, 5).astype(np.uint16)
    clear = np.zeros((4, 5, 4), np.uint8)
    for name, image, wanted in (("deep", deep, (deep >> 8) / 255), ("clear", clear, np.ones((4, 5)))):
        (tmp_path / name).mkdir()
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        own = {"image": [str(tmp_path / f"{name}.png")] * 30, "word": ["a", "b"] * 15}
        made = datasets.Dataset.from_dict(own).cast_column("image", datasets.Image())
        made.to_parquet(tmp_path / name / "train.parquet")
        x = (
            read(str(tmp_path / name), x="image", y="word", kind="classes", normalize=False)
            .train.batch(np.arange(1))
            .x[0]
        )
        assert len(x) == (1 if name == "deep" else 3)
        assert torch.allclose(x, torch.from_numpy(wanted).float().expand_as(x), atol=1e-6)


def of_images(folder, images):
    """Write a data set of images of two classes."""
    folder.mkdir()
    own = {"image": images, "word": [["a", "b"][k % 2] for k in range(len(images))]}
    datasets.Dataset.from_dict(own, features=FEATURES_OF_IMAGES).to_parquet(folder / "train.parquet")
    return str(folder)


FEATURES_OF_IMAGES = datasets.Features({"image": datasets.Image(), "word": datasets.Value("string")})


@pytest.mark.parametrize("grey", [[0, 1, 2], range(N)])
def test_images_are_grey_where_all_of_training_are(read, tmp_path, grey):
    from PIL import Image

    colour = [Image.fromarray(RNG.integers(0, 255, (4, 5, 3)).astype(np.uint8)) for _ in range(N)]
    images = [image.convert("L") if k in grey else image for k, image in enumerate(colour)]
    task = read(of_images(tmp_path / "mixed", images), x="image", y="word")
    assert task.input_shape == (1 if len(grey) == N else 3, 4, 5)


def test_images_are_turned_upright_as_by_task_images(read, tmp_path):
    from PIL import Image

    sideways = Image.Exif()
    sideways[0x112] = 6
    half = np.zeros((8, 12), np.uint8)
    half[:, :6] = 255
    Image.fromarray(half).save(tmp_path / "one.jpg", exif=sideways)
    folder = of_images(tmp_path / "turned", [str(tmp_path / "one.jpg")] * 30)
    x = read(folder, x="image", y="word", normalize=False).train.batch(np.arange(1)).x[0]
    assert torch.equal(x, torch.tensor(decode(tmp_path / "one.jpg", None, 1)).float() / 255)


def test_one_limit_holds_for_images_of_data_sets_and_of_files(read, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr("orca_cli.tasks.images.files.MAX_PIXELS", 20)
    for side, kind, error in ((4, "png", None), (5, "png", UnsafeError), (4, "eps", DataError)):
        file = tmp_path / f"{side}.{kind}"
        Image.new("RGB", (5, side)).save(file)
        folder = of_images(tmp_path / f"{side}{kind}", [str(file)] * 30)
        for open_one in (lambda path=file: decode(path, None, 3), lambda path=folder: read(path, x="image", y="word")):
            if error is None:
                open_one()
            else:
                with pytest.raises(error):
                    open_one()


def test_groups_stay_together(read):
    task = read(x="flat", group="person", normalize=False)
    people = [set((every(s).x[:, 0, 0].numpy() // 4).tolist()) for s in (task.train, task.validation, task.open_test())]
    assert sum(map(len, people)) == len(set.union(*people)) == 10
    assert len(task.train.groups()) == len(task.train)
    with pytest.raises(DataError, match=r"group '0' is also in .*\[validation\]\[person\]"):
        read("two", group="person")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"x": "serie"}, r"task\.x: .*\[train\] has no column 'serie'; did you mean 'series'"),
        ({"y": "zzzz"}, r"task\.y: .* columns: series, flat"),
        ({"x": "scalar"}, r"\[scalar\]: holds Value.*allowed: lists of numbers"),
        ({"x": "word"}, r"\[word\]: holds Value.*allowed: lists of numbers"),
        ({"y": "scalar"}, r"\[scalar\]: 28 different labels in 28 training samples do not look like classes"),
        ({"y": "ragged", "kind": "dense"}, r"\[ragged\]: holds lists of several lengths"),
        ({"y": "flat", "kind": "labels"}, r"\[flat\]: \d+ entries are neither 0 nor 1"),
        ({"y": "words", "kind": "labels"}, r"\[words\]: holds List\(Value\('string'\)\), not .* List\(ClassLabel\("),
        ({"y": "ragged", "kind": "labels"}, r"\[ragged\]: holds List\(Value\('float64'\)\), not .* List\(ClassLabel\("),
        ({"kind": "clases"}, r"task\.kind: 'clases' .*allowed: classes, labels, values, dense"),
        ({"length": 0}, r"task\.length: 0 is .*allowed: int at least 1"),
        ({"x": "image", "length": 3}, r"task\.length: applies to sequences"),
        ({"image_size": 3}, r"task\.image_size: applies to images"),
        ({"length": 3, "image_size": 3}, r"task\.length: applies to sequences, and task\.image_size to images"),
        ({"dataset": ""}, r"task\.dataset: no folder ''"),
        ({"dataset": None}, r"task\.dataset: None is of the wrong type"),
        ({"dataset": "./nowhere"}, r"task\.dataset: no folder '\./nowhere'"),
        ({"revision": "main"}, r"task\.revision: a folder has no revisions"),
        ({"config": "other"}, r"one: cannot be read: .*other"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(read, settings, message):
    with pytest.raises(OrcaError, match=message) as caught:
        read(**settings)
    assert "\n" not in str(caught.value)


def test_damaged_files_and_missing_values_are_told(read, folder):
    bad = folder / "bad"
    bad.mkdir()
    (bad / "train.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"bad: cannot be read: "):
        read("bad")
    holes = folder / "holes"
    holes.mkdir()
    series = [row.tolist() for row in SERIES]
    series[30][1][2] = None
    table = {"x": series, "y": [*([0, 1] * (N // 2 - 1)), 0, None]}
    datasets.Dataset.from_dict(table).to_parquet(holes / "train.parquet")
    with pytest.raises(DataError, match=r"holes\[train\]\[y\]"):
        read("holes", x="x", y="y")
    table["y"][-1] = 1
    datasets.Dataset.from_dict(table).to_parquet(holes / "train.parquet")
    task = read("holes", x="x", y="y", normalize=False, gap_indicator=True, gaps="linear")
    assert (
        "1 missing values (0.3 %) in 1 of 2 channels are interpolated in time, flagged by 1 more channel" in task.note
    )
    assert task.input_shape == (3, 6)
    x = np.concatenate([every(samples).x.numpy() for samples in (task.train, task.validation, task.open_test())])
    found = x[x[:, 2].any(1)]
    assert found[:, 2].tolist() == [[0, 0, 1, 0, 0, 0]]
    expected = SERIES[30].copy()
    expected[1, 2] = (expected[1, 1] + expected[1, 3]) / 2
    np.testing.assert_allclose(found[0, :2], expected, rtol=1e-6)
    series[30][1][2] = np.inf
    datasets.Dataset.from_dict(table).to_parquet(holes / "train.parquet")
    with pytest.raises(DataError, match=r"holes\[train\]\[x\], row 30: 1 values are infinite"):
        read("holes", x="x", y="y", validation_fraction=0.03, test_fraction=0.03)  # row 30 is for training


def test_hidden_classes_are_told(read, folder):
    hidden = folder / "hidden"
    hidden.mkdir()
    for name, label in (("train", None), ("test", -1)):
        table = rows().select_columns(["series", "name"])
        if label is not None:
            table = table.map(lambda row: {"name": -1})
        table.to_parquet(hidden / f"{name}.parquet")
    task = read("hidden")
    with pytest.raises(DataError, match=r"hidden\[test\]\[name\]: 40 samples have no class in 0\.\.1, the first is -1"):
        task.open_test()


def test_scripts_of_a_folder_are_not_executed(read, folder, tmp_path):
    evil = folder / "evil"
    evil.mkdir()
    rows().to_parquet(evil / "train.parquet")
    marker = tmp_path / "executed"
    (evil / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nraise SystemExit\n")
    with pytest.raises(UnsafeError, match="evil: comes with a script, which is not executed"):
        read("evil")
    assert not marker.exists()


def test_a_hub_that_cannot_be_reached_is_one_line(read, monkeypatch):
    monkeypatch.setattr(hub_open, "hub_answers", lambda: False)
    with pytest.raises(
        NetworkError, match=r"task\.dataset: 'owner/name' is not on this machine and the hub cannot"
    ) as caught:
        read("owner/name")
    assert "\n" not in str(caught.value)
    assert not datasets.config.HF_HUB_OFFLINE


def test_without_the_package_the_extra_is_named(read, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **settings):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnavailableError, match=r"pip install 'orca-transfer\[datasets\]'"):
        read()
