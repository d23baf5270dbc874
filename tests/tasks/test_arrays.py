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
    return [int(np.flatnonzero((one == X).all(axis=(1, 2)))[0]) for one in every(samples).x.numpy()]


def test_one_file_becomes_three_stratified_splits(read, reporter):
    task = read({"x": X, "y": Y}, normalize=False)
    rows = [rows_of(samples) for samples in splits(task)]
    assert sorted(sum(rows, [])) == list(range(N))
    assert list(map(len, rows)) == [42, 9, 9]
    for samples in splits(task):
        assert np.ptp(np.bincount(samples.targets(), minlength=3)) <= 1
    assert (task.input_shape, task.num_outputs) == ((2, 5), 3)

    normalised = read({"x": X, "y": Y})
    batch = every(normalised.train).x
    assert torch.allclose(batch.mean(dim=(0, 2)), torch.zeros(2), atol=1e-4)
    assert torch.allclose(batch.std(dim=(0, 2), correction=0), torch.ones(2), atol=1e-4)
    others = (task, read({"x": X, "y": Y}, split_seed=1), read({"x": X + np.float32(0.5), "y": Y}))
    assert len({normalised.train.digest(), *(other.train.digest() for other in others)}) == 4
    assert (
        every(normalised.validation).x.mean().abs() > 1e-4
    )  # the training set's statistics, not its own


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        (Y * 2.0 + 1, ("1", "3", "5"), [0, 1, 2]),
        (Y.astype(">i2")[:, None], ("0", "1", "2"), [0, 1, 2]),
        (np.array(["\u00e4".encode(), b"b", b"c"])[Y], ("b", "c", "\u00e4"), [2, 0, 1]),
    ],
    ids=["fractions", "a column of integers", "bytes"],
)
def test_labels_of_any_name_become_0_to_k(read, labels, names, numbers):
    task = read({"x": X, "y": labels}, normalize=False)
    assert tuple(task.class_names) == names
    expected = np.array(numbers)[Y[rows_of(task.train)]]
    assert task.train.targets().tolist() == expected.tolist()


def test_dense_targets_are_numbers_or_classes_of_positions(read):
    real = RNG.normal(50, 10, (N, 5))
    task = read({"x": X, "y": real}, kind="dense")
    batch = every(task.train)
    assert batch.y.shape == (42, 1, 5)
    assert task.target_scale.mean.item() == pytest.approx(batch.y.mean().item(), rel=1e-5)
    assert task.target_scale.std.item() == pytest.approx(batch.y.std(correction=0).item(), rel=1e-5)
    last = RNG.normal(size=(N, 5, 4))
    assert (
        read({"x": X.transpose(0, 2, 1), "y": last}, kind="dense", channels_last=True).num_outputs
        == 4
    )

    positions = RNG.integers(0, 3, (N, 5))
    positions[0, 0] = -100
    task = read({"x": X, "y": positions}, kind="dense")
    assert task.num_outputs == 3
    assert task.target_scale is None
    assert every(task.train).y.dtype == torch.int64


def test_each_of_several_values_has_a_scale_or_is_missing(read):
    y = RNG.normal(size=(N, 3)) * [1e30, 1e-30, 1e-4]
    y[::4, 1] = np.nan
    task = read({"x": X, "y": y}, kind="values", missing_targets=True, normalize=False)
    known, scale = y[rows_of(task.train)], task.target_scale
    np.testing.assert_array_equal(every(task.train).y, known.astype(np.float32))
    for value, statistic in ((scale.mean, np.nanmean), (scale.std, np.nanstd)):
        assert value.tolist() == pytest.approx(statistic(known, axis=0).tolist(), rel=1e-5)


LAYOUTS = {
    # channels last, from Keras and from image files
    (100, 3): (r"read as 100 channels of 3; .*=true reads 3 channels of 100,", (3, 100)),
    (100, 1): ("read as 100 channels of 1;", (1, 100)),
    (60, 100, 3): (r"read as 60 channels of 100 x 3; .*reads 3 channels of 60 x 100", (3, 60, 100)),
    (8, 8, 1): ("read as 8 channels of 8 x 1;", (1, 8, 8)),
    (8, 9, 10, 4): ("read as 8 channels of 9 x 10 x 4;", (4, 8, 9, 10)),
    # channels first, or small enough to be so
    (3,): ("", None),
    (3, 100): ("", None),
    (100, 5): ("", None),
    (7, 3): ("", None),
    (3, 3, 3): ("", None),
    (3, 60, 100): ("", None),
    (1, 128, 3): ("", None),
    (64, 7, 3): ("", None),
    (16, 16, 16): ("", None),
}


@pytest.mark.parametrize("shape", LAYOUTS)
def test_arrays_that_look_channels_last_are_asked_about(read, shape):
    message, last = LAYOUTS[shape]
    arrays = {"x": RNG.normal(size=(N, *shape)), "y": Y}
    first = shape if len(shape) > 1 else (1, *shape)
    assert read(arrays, channels_last=False).input_shape == first
    if not message:
        assert read(arrays).input_shape == first
        return
    with refused(rf"train\.npz\[x\]: inputs .* would be {message}", DataError) as caught:
        read(arrays)
    assert "task.channels_last=false keeps the first" in str(caught.value)
    assert read(arrays, channels_last=True).input_shape == last


@pytest.mark.parametrize("word", ["nan", "NA", ""])
def test_text_labels_that_are_missing_are_refused(read, word):
    labels = np.array(["a", "b", word])[Y]
    with refused(r"train\.npz\[y\]: 20 rows have no target.*, the first is row 3", DataError):
        read({"x": X, "y": labels})


def test_normalisation_keeps_large_offsets_and_constants(read):
    signal = RNG.normal(size=(N, 1, 5))
    plain, shifted = (every(read({"x": x, "y": Y}).train).x for x in (signal, signal + 1e9))
    # float32 has steps of 64 at 1e9, float64 of 1e-7.
    assert torch.allclose(plain, shifted, atol=1e-5)
    x = X.astype(np.float64)
    x[:, 1] = 0.1
    task = read({"x": x, "y": Y})
    assert "channel 1 is constant" in task.note
    assert every(task.train).x[:, 1].abs().max() < 1e-5
