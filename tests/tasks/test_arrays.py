"""Own data without code: what is read, how it is split and normalised."""

import numpy as np
import pytest
import torch

from orca_cli.exceptions import DataError
from tests.tasks.builders import every, refused, splits

N = 60
RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, (N, 2, 5)).astype(np.float32)
Y = np.arange(N) % 3


@pytest.fixture
def read(tmp_path, build):
    """Write arrays into one .npz and load it."""

    def call(arrays, kind="classes", **settings):
        np.savez(tmp_path / "train.npz", **arrays)
        return build("arrays", kind=kind, train="train.npz", **settings)

    return call


def rows_of(samples):
    """Return the indices in X of a split's samples."""
    return [int(np.flatnonzero((x == X).all(axis=(1, 2)))[0]) for x in every(samples).x.numpy()]


def test_one_file_becomes_three_disjoint_splits(read):
    task = read({"x": X, "y": Y}, normalize=False)
    rows = [rows_of(samples) for samples in splits(task)]
    assert sorted(sum(rows, [])) == list(range(N))
    assert list(map(len, rows)) == [42, 9, 9]
    assert (task.input_shape, task.num_outputs) == ((2, 5), 3)


@pytest.mark.parametrize("index", range(3), ids=["train", "validation", "test"])
def test_splits_are_stratified(index, read):
    samples = splits(read({"x": X, "y": Y}))[index]
    assert np.ptp(np.bincount(samples.targets(), minlength=3)) <= 1


def test_inputs_are_scaled_by_the_training_set(read):
    task = read({"x": X, "y": Y})
    x = every(task.train).x
    assert torch.allclose(x.mean(dim=(0, 2)), torch.zeros(2), atol=1e-4)
    assert torch.allclose(x.std(dim=(0, 2), correction=0), torch.ones(2), atol=1e-4)
    # Validation has the statistics of the training set, not its own.
    assert every(task.validation).x.mean().abs() > 1e-4


RAW = {"normalize": False}


@pytest.mark.parametrize(
    ("shift", "settings"),
    [(0.0, {}), (0.0, RAW | {"split_seed": 1}), (0.5, RAW)],
    ids=["scale", "split", "inputs"],
)
def test_the_digest_changes_with_what_is_read(shift, settings, read):
    plain = read({"x": X, "y": Y}, **RAW)
    changed = read({"x": X + np.float32(shift), "y": Y}, **settings)
    assert changed.train.digest() != plain.train.digest()


NAMED = {
    "odd floats": (Y * 2.0 + 1, ("1", "3", "5"), [0, 1, 2]),
    "a column": (Y.astype(">i2")[:, None], ("0", "1", "2"), [0, 1, 2]),
    "bytes": (np.array(["\u00e4".encode(), b"b", b"c"])[Y], ("b", "c", "\u00e4"), [2, 0, 1]),
}


@pytest.mark.parametrize("form", NAMED)
def test_labels_of_any_name_become_0_to_k(form, read):
    labels, names, order = NAMED[form]
    task = read({"x": X, "y": labels}, normalize=False)
    assert tuple(task.class_names) == names
    assert task.train.targets().tolist() == np.array(order)[Y[rows_of(task.train)]].tolist()


def test_real_dense_targets_have_a_scale(read):
    task = read({"x": X, "y": RNG.normal(50, 10, (N, 5))}, kind="dense")
    y = every(task.train).y
    assert y.shape == (42, 1, 5)
    assert task.target_scale.mean.item() == pytest.approx(y.mean().item(), rel=1e-5)
    assert task.target_scale.std.item() == pytest.approx(y.std(correction=0).item(), rel=1e-5)


def test_dense_targets_may_have_their_channels_last(read):
    y = RNG.normal(size=(N, 5, 4))
    task = read({"x": X.transpose(0, 2, 1), "y": y}, kind="dense", channels_last=True)
    assert task.num_outputs == 4
    rows = np.concatenate([samples.targets() for samples in splits(task)])
    assert sorted(rows.ravel()) == sorted(y.astype(np.float32).ravel())


def test_dense_integers_are_a_class_at_every_position(read):
    positions = RNG.integers(0, 3, (N, 5))
    positions[0, 0] = -100  # ignored
    task = read({"x": X, "y": positions}, kind="dense")
    assert task.num_outputs == 3
    assert task.target_scale is None
    assert every(task.train).y.dtype == torch.int64


def test_several_values_have_a_scale_each_in_any_unit(read):
    y = RNG.normal(size=(N, 3)) * [1e30, 1e-30, 1e-4]
    y[::4, 1] = np.nan  # missing
    task = read({"x": X, "y": y}, kind="values", missing_targets=True, normalize=False)
    known = y[rows_of(task.train)]
    np.testing.assert_array_equal(every(task.train).y, known.astype(np.float32))
    mean, std = np.nanmean(known, axis=0), np.nanstd(known, axis=0)
    assert task.target_scale.mean.tolist() == pytest.approx(mean.tolist(), rel=1e-5)
    assert task.target_scale.std.tolist() == pytest.approx(std.tolist(), rel=1e-5)


# Channels last, from Keras and from image files: how they would be read, and how with channels last.
LAST = {
    (100, 3): ("=true to read 3 channels of 100, .*=false to read 100 channels of 3", (3, 100)),
    (100, 1): ("=false to read 100 channels of 1", (1, 100)),
    (60, 100, 3): ("read 3 channels of 60 x 100, .*read 60 channels of 100 x 3", (3, 60, 100)),
    (8, 8, 1): ("=false to read 8 channels of 8 x 1", (1, 8, 8)),
    (8, 9, 10, 4): ("=false to read 8 channels of 9 x 10 x 4", (4, 8, 9, 10)),
}
# Channels first, or small enough to be so.
FIRST = [
    *((3,), (3, 100), (100, 5), (7, 3), (3, 3, 3)),
    *((3, 60, 100), (1, 128, 3), (64, 7, 3), (16, 16, 16)),
]


@pytest.mark.parametrize("shape", LAST)
def test_arrays_that_look_channels_last_are_asked_about(read, shape):
    message, _ = LAST[shape]
    with refused(rf"train\.npz\[x\]: has inputs .*; set .*{message}", DataError):
        read({"x": RNG.normal(size=(N, *shape)), "y": Y})


@pytest.mark.parametrize("shape", LAST)
def test_a_setting_says_where_channels_are(read, shape):
    arrays = {"x": RNG.normal(size=(N, *shape)), "y": Y}
    assert read(arrays, channels_last=False).input_shape == shape
    assert read(arrays, channels_last=True).input_shape == LAST[shape][1]


@pytest.mark.parametrize("shape", FIRST)
def test_arrays_that_look_channels_first_are_read_so(read, shape):
    arrays = {"x": RNG.normal(size=(N, *shape)), "y": Y}
    expected = shape if len(shape) > 1 else (1, *shape)
    assert read(arrays).input_shape == expected
    assert read(arrays, channels_last=False).input_shape == expected


@pytest.mark.parametrize("word", ["nan", "NA", ""])
def test_text_labels_that_are_missing_are_refused(read, word):
    labels = np.array(["a", "b", word])[Y]
    with refused(r"\[y\]: has rows without a target.*: 20 in total, the first is row 3", DataError):
        read({"x": X, "y": labels})


def test_large_offsets_survive_normalisation(read):
    signal = RNG.normal(size=(N, 1, 5))
    plain = every(read({"x": signal, "y": Y}).train).x
    shifted = every(read({"x": signal + 1e9, "y": Y}).train).x
    # float32 has steps of 64 at 1e9, float64 of 1e-7.
    assert torch.allclose(plain, shifted, atol=1e-5)


def test_constant_channels_become_0_and_are_named(read):
    x = X.astype(np.float64)
    x[:, 1] = 0.1
    task = read({"x": x, "y": Y})
    assert "channels that are constant in the training split: 1" in task.note
    assert every(task.train).x[:, 1].abs().max() < 1e-5
