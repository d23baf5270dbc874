"""Bad data end in one line that names file, array and place, before anything large is allocated or executed."""

import numpy as np
import pytest

from orca_cli.exceptions import ConfigError, DataError, MemoryExhaustedError
from tests.tasks.builders import refused

N = 40
X = np.random.default_rng(0).normal(size=(N, 2, 5)).astype(np.float32)
Y = np.arange(N) % 4


def changed(array, index, value, dtype=None):
    array = array.astype(dtype or array.dtype)
    array[index] = value
    return array


MAPS = np.arange(N * 5).reshape(N, 5)
FAR = changed(MAPS % 2, (slice(None), 0), 2**40)
KNOWN = {"kind": "values", "missing_targets": True}
BAD = {
    "channel of nan": (
        {"x": changed(X, (slice(None), 1), np.nan)},
        {},
        r"\[x\]: has channels with only NaN in the training split: 1",
    ),
    "infinity in x": ({"x": changed(X, 3, -np.inf)}, {}, r"\[x\]: contains infinite values: 10 .* index \(3, 0, 0\)"),
    "no x": ({"x": None, "z": X}, {}, r"has no array 'x'; it has: y, z"),
    "lengths": ({"y": Y[:-1]}, {}, r"\[y\]: has shape \(39,\), which does not match"),
    "rank of x": ({"x": X[:, 0, 0]}, {}, r"has inputs of shape \(40,\)"),
    "no samples": ({"x": X[:0], "y": Y[:0]}, {}, "no samples"),
    "complex x": ({"x": X.astype(complex)}, {}, r"\[x\]: has samples .* dtype complex128"),
    "invalid characters": ({"y": changed(Y + 97, 5, 0x7FFFFFFF, "<u4").view("<U1")}, {}, r"\[y\]: .* invalid char"),
    "too few samples": ({"x": X[:9], "y": Y[:9]}, {}, "needs at least 10 samples for training, has 9"),
    "one class": ({"y": Y * 0}, {}, "all 28 training targets are 0"),
    "negative label": (
        {"y": changed(Y, 5, -1)},
        {"num_classes": 5},
        "labels from -1 to 3, expected task.num_classes=5 classes numbered from 0",
    ),
    "ignored class": ({"y": changed(Y, 5, -100)}, {}, "the first is -100 at index 5; .* except -100, which marks"),
    "nan label": ({"y": changed(Y, 2, np.nan, float)}, {}, r"\[y\]: contains labels that cannot name a class: 1 .* index 2"),
    "broken label": ({"y": changed(Y, 2, 1.5, float)}, {}, "the first is 1.5 at index 2"),
    "one-hot": ({"y": np.eye(4)[Y]}, {}, "store the position of its 1"),
    "numbers as classes": ({"y": np.arange(N)}, {}, "too many for classes"),
    "label set of 2": ({"y": changed(np.eye(4)[Y], (3, 1), 2)}, {"kind": "labels"}, r"first is 2.0 at index \("),
    "values of maps": ({"y": X}, {"kind": "values"}, r"values have shape \(40, 2, 5\) .* shape \(n,\) or \(n, K\)"),
    "nan in values": (
        {"y": changed(Y, 2, np.nan, float)},
        {"kind": "values"},
        r"\[y\]: contains NaN or infinite values: 1 in total, .* index \(2, 0\)",
    ),
    "equal values": ({"y": Y * 0 + 0.5}, {"kind": "values"}, "all 28 training targets are 0.5"),
    "output unknown": ({"y": np.stack([Y, Y * np.nan], 1)}, KNOWN, "output 1 has no training target"),
    "dense extent": ({"y": np.zeros((N, 6))}, {"kind": "dense"}, r"of shape \(n, 5\) or \(n, K, 5\)"),
    "dense integer channels": ({"y": np.zeros((N, 3, 5), int)}, {"kind": "dense"}, "if the targets are real"),
    "dense negative class": (
        {"y": changed(MAPS % 3, (4, 4), -1)},
        {"kind": "dense"},
        r"first is -1 at index \(4, 4\)",
    ),
    "dense one class": ({"y": np.zeros((N, 5), int)}, {"kind": "dense"}, "all 140 training targets are 0"),
    "dense far class": ({"y": FAR}, {"kind": "dense"}, r"\d+ of the classes 0\.\.\d+ do not occur"),
    "classes beyond memory": ({}, {"num_classes": 10**13}, "num_classes=10000000000000 classes numbered from 0"),
    "label beyond int64": ({"y": Y * 1e30}, {}, r"class: 30 in total, the first is 1e\+30 at index 1"),
    "label of bytes": ({"y": np.array([b"a", b"b", b"c", b"\xff"])[Y]}, {}, r"\[y\]: contains bytes that are not UTF-8"),
    "dense gap": ({"y": MAPS % 2 * 2}, {"kind": "dense"}, "1 of the classes 0..2 do not .* without gaps; task"),
    "split mark": ({"split": np.full(N, "trian")}, {}, "'trian' in row 1 is not the name of a split"),
    "split length": ({"split": np.full(3, "train")}, {}, r"\[split\]: has shape \(3,\), which does not match"),
    "class of one split": (
        {"split": np.where(Y == 3, "val", "train")},
        {},
        r"labels that do not occur in training: 10 in total, .*3",
    ),
    "train twice": ({"x_train": X, "y_train": Y}, {}, "contains the train split twice"),
    "only test": ({"split": np.full(N, "test")}, {}, "has no training row; mark rows with 'train'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays_are_named_in_one_line(name, tmp_path, build):
    arrays, settings, message = BAD[name]
    arrays = {key: value for key, value in ({"x": X, "y": Y} | arrays).items() if value is not None}
    np.savez(tmp_path / "mine.npz", **arrays)
    with refused(rf"mine\.npz.*{message}", DataError):
        build("arrays", **{"kind": "classes", "train": "mine.npz"} | settings)


OTHERS = [
    ("test", "classes", Y, {"x": X[..., :4]}, r"\[x\]: has samples of shape \(2, 4\) .* shape \(2, 5\)"),
    (
        "test",
        "classes",
        Y,
        {"y": np.char.add("a", Y.astype(str))},
        r"\[y\]: contains labels that do not occur in training: 40 in total, the first is a0",
    ),
    ("validation", "classes", Y, {"x": changed(X, (7, 1, 2), np.inf)}, r".*infinite values: 1 in .* index \(7, 1, 2\)"),
    ("validation", "dense", MAPS % 2, {"y": np.full((N, 5), 2)}, r"\[y\]: contains class numbers outside 0\.\.1: 200"),
]  # fmt: skip


@pytest.mark.parametrize(("split", "kind", "y", "other", "message"), OTHERS)
def test_a_split_of_another_form_is_named(split, kind, y, other, message, tmp_path, build):
    np.savez(tmp_path / "mine.npz", x=X, y=y)
    np.savez(tmp_path / "other.npz", **{"x": X, "y": y} | other)
    with refused(r"other\.npz" + message, DataError):
        build("arrays", kind=kind, train="mine.npz", **{split: "other.npz"}).open_test()


CONTRADICTIONS = [
    ({"validation": "link.npz"}, "validation: .*link.npz' is also the file of task.train"),
    ({"train": "x.npy"}, "labels: must be set, because 'x.npy' contains the inputs only; set task.labels=FILE.npy"),
    ({"labels": "y.npy"}, "labels: does not apply to 'mine.npz', .* its own targets; remove it"),
    ({"validation_labels": "y.npy"}, "validation_labels: needs task.validation; set task.validation=FILE.npy"),
    ({"kind": "values", "num_classes": 4}, "num_classes: applies only to classes, .*; remove it, .* outputs"),
    ({"padding": "nan", "lengths": "n"}, "lengths: cannot be combined with task.padding=nan"),
    ({"padding": "lengths"}, "padding: must be one of nan, none or null; got 'lengths'"),
    ({"group": "x"}, "group: 'x' is the array of inputs; name the array that has the group"),
    (
        {"validation_fraction": 0.6, "test_fraction": 0.4},
        r"validation_fraction: the sizes \(16 for test, 24 .* more than the 40 available",
    ),
    ({"group": "two"}, r"group: the sizes \(1 for test, 1 .* more than the 2 available"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), CONTRADICTIONS)
def test_contradicting_settings_are_refused_by_name(settings, message, tmp_path, build):
    np.savez(tmp_path / "mine.npz", x=X, y=Y, two=np.arange(N) % 2)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    (tmp_path / "link.npz").symlink_to("mine.npz")
    with refused(rf"task\.{message}", (ConfigError, DataError)):
        build("arrays", **{"kind": "classes", "train": "mine.npz"} | settings)


def test_what_cannot_be_held_is_refused(tmp_path, build, little_memory):
    np.savez(tmp_path / "mine.npz", x=X, y=Y)
    with refused(r"mine\.npz\[x\].*GiB", MemoryExhaustedError):
        build("arrays", kind="classes", train="mine.npz")
