"""Bad data end in one line that names file, array and place, before anything large is allocated or executed."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from orca_cli import parts
from orca_cli.exceptions import ConfigError, DataError, MemoryExhaustedError, OrcaError, UnsafeError
from orca_cli.tasks.arrays.reader import load

RNG = np.random.default_rng(0)
N = 40
X = RNG.normal(size=(N, 2, 5)).astype(np.float32)
Y = np.arange(N) % 4


def changed(array, index, value, dtype=None):
    array = array.astype(dtype or array.dtype)
    array[index] = value
    return array


BAD = {
    "channel of nan": (
        {"x": changed(X, (slice(None), 1), np.nan)},
        {},
        r"\[x\]: channel 1 has no known value in the training set, all are NaN; remove it",
    ),
    "infinity in x": ({"x": changed(X, 3, -np.inf)}, {}, r"\[x\]: 10 values .* index \(3, 0, 0\)"),
    "beyond float32": ({"x": changed(X, 3, 1e300, np.float64)}, {}, r"\[x\]: 10 values .* index \(3, 0, 0\)"),
    "no x": ({"x": None, "z": X}, {}, r"no array 'x'; it holds y, z"),
    "lengths": ({"y": Y[:-1]}, {}, r"\[y\]: shape \(39,\) does not match"),
    "rank of x": ({"x": X[:, 0, 0]}, {}, r"inputs have shape \(40,\)"),
    "six axes": ({"x": X[..., None, None, None]}, {}, r"allowed: \(n, L\).*\(n, C, D, H, W\)"),
    "empty extent": ({"x": X[..., :0]}, {}, r"inputs have shape \(40, 2, 0\)"),
    "no samples": ({"x": X[:0], "y": Y[:0]}, {}, "no samples"),
    "complex x": ({"x": X.astype(complex)}, {}, r"\[x\]: inputs have dtype complex128"),
    "string x": ({"x": np.full((N, 2, 5), "a")}, {}, r"inputs have dtype <U1"),
    "invalid characters": (
        {"y": changed(Y + 97, 5, 0x7FFFFFFF, "<u4").view("<U1")},
        {},
        r"\[y\]: .* invalid characters",
    ),
    "too few samples": ({"x": X[:9], "y": Y[:9]}, {}, "too few samples: 9"),
    "one class": ({"y": Y * 0}, {}, "all 28 training labels are 0"),
    "label too large": ({"y": changed(Y, 5, 4)}, {"num_classes": 4}, r"not in 0\.\.3, the first is 4 at index"),
    "negative label": ({"y": changed(Y, 5, -1)}, {"num_classes": 4}, r"not in 0\.\.3, the first is -1 at index"),
    "ignored class": (
        {"y": changed(Y, 5, -100)},
        {},
        "-100, which marks ignored positions, the first is -100 at index 5",
    ),
    "class missing": (
        {"y": Y},
        {"num_classes": 6},
        "class 4, 5 has no training sample; add samples, or leave task.num_classes out",
    ),
    "label beyond classes": ({"y": Y * 3}, {"num_classes": 9}, "not in 0..8, .*; .* leave task.num_classes out"),
    "nan label": ({"y": changed(Y, 2, np.nan, float)}, {}, r"\[y\]: 1 values .* index 2"),
    "broken label": ({"y": changed(Y, 2, 1.5, float)}, {}, "the first is 1.5 at index 2"),
    "one-hot": ({"y": np.eye(4)[Y]}, {}, "store the position of the 1"),
    "numbers as classes": ({"y": np.arange(N)}, {}, "do not look like classes"),
    "index as label set": ({"y": Y}, {"kind": "labels"}, r"expected \(n, K\)"),
    "label set of 2": ({"y": changed(np.eye(4)[Y], (3, 1), 2)}, {"kind": "labels"}, r"first is 2.0 at index \("),
    "nan in label sets": ({"y": changed(np.eye(4)[Y], (3, 1), np.nan)}, {"kind": "labels"}, r"\[y\]: 1 values"),
    "values of maps": ({"y": X}, {"kind": "values"}, r"values have shape \(40, 2, 5\), expected \(n,\) or \(n, K\)"),
    "values that are text": ({"y": Y.astype(str)}, {"kind": "values"}, r"\[y\]: targets have dtype <U"),
    "nan in values": ({"y": changed(Y, 2, np.nan, float)}, {"kind": "values"}, r"\[y\]: 1 values .* index \(2, 0\)"),
    "equal values": ({"y": Y * 0 + 0.5}, {"kind": "values"}, r"all 28 training targets are \[0.5\]"),
    "values beyond float32": ({"y": Y + 1e12}, {"kind": "values"}, "subtract a large offset"),
    "output unknown": (
        {"y": np.stack([Y, np.full(N, np.nan)], axis=1)},
        {"kind": "values", "missing_targets": True},
        "output 1 has no training target",
    ),
    "dense extent": ({"y": np.zeros((N, 6))}, {"kind": "dense"}, r"expected \(n, 5\) or \(n, K, 5\)"),
    "dense per sample": ({"y": np.zeros(N)}, {"kind": "dense"}, "dense targets have shape"),
    "dense nan": ({"y": changed(X, (9, 0, 1), np.nan)}, {"kind": "dense"}, r"\[y\]: 1 values"),
    "dense integer channels": ({"y": np.zeros((N, 3, 5), int)}, {"kind": "dense"}, "store real-valued targets"),
    "dense negative class": (
        {"y": changed(np.arange(N * 5).reshape(N, 5) % 3, (4, 4), -1)},
        {"kind": "dense"},
        r"0 or more, the first is -1 at index \(4, 4\)",
    ),
    "dense channel unknown": (
        {"y": changed(X, (slice(None), 1), np.nan)},
        {"kind": "dense", "missing_targets": True},
        "output channel 1 has no training target",
    ),
    "dense one class": ({"y": np.zeros((N, 5), int)}, {"kind": "dense"}, "all positions have class 0"),
    "dense far class": (
        {"y": changed(np.arange(N * 5).reshape(N, 5) % 2, (slice(None), 0), 2**40)},
        {"kind": "dense"},
        r"class 2, 3, .* and \d+ more has no position",
    ),
    "classes beyond memory": ({}, {"num_classes": 10**13}, r"class 4, 5, .* and \d+ more has no training sample"),
    "label beyond int64": ({"y": Y * 1e30}, {}, r"30 labels are beyond 2\*\*53, the first is 1e\+30 at index 1"),
    "unsigned label": ({"y": Y.astype("u8") + np.uint64(2**63)}, {}, r"40 labels are beyond 2\*\*53"),
    "label of bytes": ({"y": np.array([b"a", b"b", b"c", b"\xff"])[Y]}, {}, r"\[y\]: holds bytes that are not text"),
    "mark of bytes": ({"split": np.full(N, b"\xff")}, {}, r"\[split\]: holds bytes that are not text"),
    "dense gap": (
        {"y": np.arange(N * 5).reshape(N, 5) % 2 * 2},
        {"kind": "dense"},
        "class 1 has .* without gaps; task",
    ),
    "split mark": ({"split": np.full(N, "trian")}, {}, "'trian' at index 0 is not a split"),
    "split length": ({"split": np.full(3, "train")}, {}, r"\[split\]: has shape \(3,\)"),
    "train twice": ({"x_train": X, "y_train": Y}, {}, "holds the train split twice"),
    "only test": ({"split": np.full(N, "test")}, {}, "no training samples"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays_are_named_in_one_line(name, tmp_path, reporter):
    arrays, settings, message = BAD[name]
    arrays = {key: value for key, value in ({"x": X, "y": Y} | arrays).items() if value is not None}
    file = tmp_path / "mine.npz"
    np.savez(file, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path, reporter, **{"kind": "classes", "train": str(file)} | settings)
    assert "mine.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_that_only_another_split_has_is_named(tmp_path, reporter):
    np.savez(tmp_path / "mine.npz", x=X, y=Y, split=np.where(Y == 3, "validation", "train"))
    with pytest.raises(DataError, match=r"10 labels have no training sample, the first is 3 at index 3"):
        load(tmp_path, reporter, kind="classes", train=str(tmp_path / "mine.npz"))


@pytest.mark.parametrize(
    ("kind", "y", "other", "message"),
    [
        ("classes", Y, {"x": X[..., :4]}, r"\[x\]: samples have shape \(2, 4\), those of the training set \(2, 5\)"),
        (
            "classes",
            Y,
            {"y": np.char.add("class ", Y.astype(str))},
            r"\[y\]: labels are strings in one split and numbers in another",
        ),
        ("classes", Y, {"x": changed(X, (7, 1, 2), np.inf)}, r"\[x\]: 1 values .* index \(7, 1, 2\)"),
        ("labels", np.eye(4)[Y], {"y": np.eye(4)[Y][:, :3]}, r"\[y\]: targets have 3 columns, those of the .* set 4"),
        ("values", X[:, 0], {"y": X[:, 0, 0]}, r"\[y\]: targets have 1 columns, those of the training set 5"),
        ("dense", X, {"y": X[:, :1]}, r"\[y\]: targets have 1 columns, those of the training set 2"),
        ("dense", (X[:, 0] > 0).astype(int), {"y": X[:, 0]}, r"\[y\]: targets have dtype float32, those .* integers"),
        ("dense", (X[:, 0] > 0).astype(int), {"y": np.full((N, 5), 2)}, r"\[y\]: 200 classes are not in 0\.\.1"),
    ],
)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_of_another_form_is_named(split, kind, y, other, message, tmp_path, reporter):
    np.savez(tmp_path / "mine.npz", x=X, y=y)
    np.savez(tmp_path / "other.npz", **{"x": X, "y": y} | other)
    with pytest.raises(DataError, match=r"other\.npz" + message):
        load(tmp_path, reporter, kind=kind, train="mine.npz", **{split: "other.npz"}).open_test()


def test_a_split_that_is_given_twice_is_named(tmp_path, reporter):
    file = str(tmp_path / "mine.npz")
    np.savez(file, x=X, y=Y, split=np.array(["train", "train", "val", "test"] * 10))
    np.savez(tmp_path / "other.npz", x=X, y=Y)
    with pytest.raises(ConfigError, match=r"task\.test: the training file already holds this split"):
        load(tmp_path, reporter, kind="classes", train=file, test=str(tmp_path / "other.npz"))


@pytest.mark.parametrize(("first", "second"), [("train", "test"), ("train", "validation"), ("validation", "test")])
def test_one_file_for_two_splits_is_refused(first, second, tmp_path, reporter):
    for name in ("mine", "other"):
        np.savez(tmp_path / f"{name}.npz", x=X, y=Y)
    (tmp_path / "link.npz").symlink_to("other.npz")
    files = {"train": "mine.npz", first: "other.npz", second: "link.npz"}
    with pytest.raises(ConfigError, match=rf"task\.{second}: .*link\.npz' is also the file of task\.{first}"):
        load(tmp_path, reporter, kind="classes", **files)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "class"}, r"task\.kind: 'class' .*allowed: classes, labels, values, dense"),
        ({"train": None}, r"task\.train: None is of the wrong type"),
        ({"labels": "y.npy"}, r"task\.labels: applies to \.npy files"),
        ({"test_labels": "y.npy"}, r"task\.test_labels: given without its inputs"),
        ({"num_classes": 3, "kind": "values"}, r"task\.num_classes: does not apply to task\.kind=values"),
        ({"num_classes": 3, "kind": "labels"}, r"task\.num_classes: does not apply to task\.kind=labels"),
        ({"missing_targets": True}, r"task\.missing_targets: does not apply to task\.kind=classes"),
        ({"test_fraction": 0.9}, r"task\.validation_fraction: .* leave nothing for training"),
        ({"validation_fraction": 0}, r"task\.validation_fraction: 0 is .*allowed: float above 0"),
        ({"test_fraction": 1.0}, r"task\.test_fraction: 1\.0 is "),
        ({"num_classes": 1}, r"task\.num_classes: 1 is .*allowed: int at least 2"),
        ({"num_classes": "3"}, r"task\.num_classes: '3' is of the wrong type"),
        ({"split_seed": -1}, r"task\.split_seed: -1 is "),
        ({"train": 5}, r"task\.train: 5 is of the wrong type"),
    ],
)
def test_bad_settings_are_named(settings, message, tmp_path, reporter):
    np.savez(tmp_path / "mine.npz", x=X, y=Y)
    settings = {"kind": "classes", "train": str(tmp_path / "mine.npz")} | settings
    node = {"_target_": "orca_cli.tasks.arrays.load", **settings}
    with pytest.raises(ConfigError, match=message):
        parts.build(node, "task", data_folder=tmp_path, reporter=reporter)


def header(shape, descr="<f4"):
    """An .npy file that declares a shape and holds four bytes."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + b"\0" * 4


class Payload:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


FILES = {
    "missing": (None, DataError, r"task\.train: no file"),
    "empty": (b"", DataError, "the file is empty"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", DataError, "Git LFS pointer"),
    "web page": (b"<!DOCTYPE html><html></html>", DataError, "web page"),
    "gzip": (b"\x1f\x8b\x08\0\0\0", DataError, "gzip"),
    "text": (b"1,2,3\n", DataError, "not a NumPy array"),
    "raw pickle": (pickle.dumps(list(range(100))), DataError, "not a NumPy array"),
    "1.5 TiB declared": (header((2**28, 1500)), DataError, "declares 1,610,612,736,000 bytes, the file holds 4"),
    "overflow": (header((2**62, 2**62)), DataError, "declares"),
    "negative": (header((-1, 4)), DataError, r"shape \(-1, 4\)"),
    "fields": (header((1,), [("a", "<f4")]), DataError, "fields"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_arrays_are_named(name, tmp_path, reporter):
    content, error, message = FILES[name]
    file = tmp_path / "x.npy"
    if content is not None:
        file.write_bytes(content)
    np.save(tmp_path / "y.npy", Y)
    with pytest.raises(error, match=message):
        load(tmp_path, reporter, kind="classes", train=str(file), labels=str(tmp_path / "y.npy"))


@pytest.mark.parametrize(("name", "message"), [("x.csv", r"allowed: \.npz"), ("folder", "is a folder")])
def test_other_formats_are_refused_with_what_is_allowed(name, message, tmp_path, reporter):
    (tmp_path / "folder").mkdir()
    (tmp_path / "x.csv").write_text("1,2\n")
    with pytest.raises(DataError, match=message):
        load(tmp_path, reporter, kind="classes", train=str(tmp_path / name))


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_objects_are_refused_and_never_executed(form, tmp_path, reporter):
    canary = tmp_path / "canary"
    evil = np.array([Payload(canary)] * N, dtype=object)
    if form == "npy":
        np.save(tmp_path / "x.npy", evil, allow_pickle=True)
        np.save(tmp_path / "y.npy", Y)
        settings = {"train": str(tmp_path / "x.npy"), "labels": str(tmp_path / "y.npy")}
    else:
        np.savez(tmp_path / "mine.npz", x=X, y=evil)
        settings = {"train": str(tmp_path / "mine.npz")}
    with pytest.raises(UnsafeError, match="Python objects"):
        load(tmp_path, reporter, kind="classes", **settings)
    assert not canary.exists()
    # The premise: NumPy's own reader does execute it.
    loaded = np.load(settings["train"], allow_pickle=True)
    loaded = loaded if form == "npy" else loaded["y"]
    assert canary.exists()


def test_an_array_of_arrays_is_refused_with_the_forms_that_lengths_may_have(tmp_path, reporter):
    x = np.empty(N, dtype=object)
    for i in range(N):
        x[i] = np.zeros(3 + i % 4)
    np.savez(tmp_path / "mine.npz", x=x, y=Y)
    with pytest.raises(UnsafeError, match=r"mine\.npz\[x\]: .*one padded array beside their `lengths`"):
        load(tmp_path, reporter, kind="classes", train="mine.npz")


def npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def test_a_member_larger_than_the_archive_or_the_memory_is_refused(tmp_path, reporter, monkeypatch):
    file = tmp_path / "mine.npz"
    npz(file, x=header((N, 10**9)), y=header((N,)))
    with pytest.raises(DataError, match=r"mine\.npz\[x\]: the header declares 160,000,000,000 bytes"):
        load(tmp_path, reporter, kind="classes", train=str(file))
    np.savez(file, x=X, y=Y)
    monkeypatch.setattr("orca_cli.untrusted.memory._free_memory", lambda: 1000)
    with pytest.raises(MemoryExhaustedError, match=r"mine\.npz\[x\].*GiB"):
        load(tmp_path, reporter, kind="classes", train=str(file))


def test_the_index_of_a_bad_value_counts_from_the_start_of_the_file(tmp_path, reporter, monkeypatch):
    monkeypatch.setattr("orca_cli.tasks.shared.blocks._BLOCK_BYTES", 400)  # ten samples
    np.savez(tmp_path / "mine.npz", x=changed(X, (37, 1, 2), np.inf), y=Y)
    with pytest.raises(DataError, match=r"1 values are infinite, the first is inf at index \(37, 1, 2\)"):
        load(tmp_path, reporter, kind="classes", train="mine.npz")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_numpy_does_not_write_are_refused(tmp_path, reporter):
    names = {"two arrays are named 'x'": ["x", "x"], "1001 members": [f"x{i}" for i in range(1001)]}
    for message, members in names.items():
        with zipfile.ZipFile(tmp_path / "mine.npz", "w") as archive:
            for name in members:
                archive.writestr(f"{name}.npy", header((1,)))
        with pytest.raises(UnsafeError, match=message):
            load(tmp_path, reporter, kind="classes", train="mine.npz")


def test_every_flipped_or_cut_byte_ends_in_one_of_our_errors(tmp_path, reporter):
    good, file = tmp_path / "good.npz", tmp_path / "mine.npz"
    np.savez_compressed(good, x=X, y=Y)
    content = good.read_bytes()
    generator = np.random.default_rng(0)
    whole = load(tmp_path, reporter, kind="classes", train=str(good)).train.digest()
    for _ in range(150):
        damaged = bytearray(content)
        if generator.random() < 0.3:
            del damaged[generator.integers(len(damaged)) :]
        else:
            damaged[generator.integers(len(damaged))] ^= 1 << int(generator.integers(8))
        file.write_bytes(damaged)
        try:
            task = load(tmp_path, reporter, kind="classes", train=str(file))
        except OrcaError as error:
            assert "\n" not in str(error)  # noqa: PT017 - any of our errors will do
        else:
            assert task.train.digest() == whole  # a byte that means nothing, such as a time stamp
