"""Own data without code: what is read, how it is split and normalised."""

import numpy as np
import pytest
import torch

from orca_cli.tasks.arrays.reader import load

RNG = np.random.default_rng(0)
N = 60
X = RNG.normal(3, 2, (N, 2, 5)).astype(np.float32)
Y = np.arange(N) % 3


@pytest.fixture
def read(tmp_path, reporter):
    """Write arrays into one .npz and load it; arrays of further files are given as {file: arrays}."""

    def call(arrays, kind="classes", **settings):
        np.savez(tmp_path / "train.npz", **arrays)
        return load(tmp_path, reporter, kind=kind, train=str(tmp_path / "train.npz"), **settings)

    return call


def every(samples):
    return samples.batch(np.arange(len(samples)))


def test_one_file_becomes_three_disjoint_stratified_normalised_splits(read, reporter):
    x = X + np.arange(N, dtype=np.float32)[:, None, None] * 100  # a sample can be told by its values
    task = read({"x": x, "y": Y}, normalize=False)
    splits = [task.train, task.validation, task.open_test()]
    first = np.concatenate([every(samples).x[:, 0, 0].numpy() for samples in splits])
    assert sorted(first) == sorted(x[:, 0, 0])
    assert [len(samples) for samples in splits] == [42, 9, 9]
    for samples in splits:
        assert np.ptp(np.bincount(samples.targets(), minlength=3)) <= 1
    assert task.input_shape == (2, 5)
    assert task.num_outputs == 3
    assert "2 channels of 5" in reporter.lines[-1]
    assert "3 classes" in task.note

    normalised = read({"x": x, "y": Y})
    batch = every(normalised.train).x
    assert torch.allclose(batch.mean(dim=(0, 2)), torch.zeros(2), atol=1e-4)
    assert torch.allclose(batch.std(dim=(0, 2), correction=0), torch.ones(2), atol=1e-4)
    assert normalised.train.digest() != task.train.digest()
    assert every(normalised.validation).x.mean().abs() > 1e-4  # the training set's statistics, not its own


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array(["b", "a", "c"])[Y], ("a", "b", "c")),
        (Y * 2.0 + 1, ("1", "3", "5")),
        (Y.astype(">i2")[:, None], ("0", "1", "2")),
        ((Y == 0), ("0", "1")),
        (np.array(["\u00e4".encode(), b"b", b"c"])[Y], ("b", "c", "\u00e4")),
    ],
)
def test_labels_of_any_name_become_0_to_k(read, labels, names):
    task = read({"x": X, "y": labels}, normalize=False)
    assert tuple(task.class_names) == names
    assert task.num_outputs == len(names)
    batch = every(task.train)
    for sample, target in zip(batch.x.numpy(), batch.y, strict=True):
        row = int(np.flatnonzero((sample == X).all(axis=(1, 2)))[0])
        label = np.ravel(labels)[row]
        text = label.decode() if isinstance(label, bytes) else label
        assert names[target] == (text if isinstance(text, str) else str(int(text)))


@pytest.mark.parametrize(
    ("shape", "settings", "input_shape"),
    [
        ((N, 7), {}, (1, 7)),
        ((N, 7, 4), {"channels_last": True}, (4, 7)),
        ((N, 3, 6, 5), {}, (3, 6, 5)),
        ((N, 6, 5, 3), {"channels_last": True}, (3, 6, 5)),
        ((N, 3, 4, 6, 5), {}, (3, 4, 6, 5)),
        ((N, 4, 6, 5, 3), {"channels_last": True}, (3, 4, 6, 5)),
    ],
)
def test_shapes_are_inferred(read, shape, settings, input_shape):
    x = RNG.normal(size=shape)
    task = read({"x": x, "y": Y}, normalize=False, **settings)
    assert task.input_shape == input_shape
    batch = every(task.train)
    assert batch.x.dtype == torch.float32
    if settings:
        assert any(np.allclose(np.moveaxis(sample, -1, 0), batch.x[0]) for sample in x)


def test_dense_targets_are_real_valued_or_a_class_at_every_position(read):
    real = RNG.normal(50, 10, (N, 5))
    task = read({"x": X, "y": real}, kind="dense")
    batch = every(task.train)
    assert batch.y.shape == (42, 1, 5)
    assert task.target_scale.mean.item() == pytest.approx(batch.y.mean().item(), rel=1e-5)
    assert task.target_scale.std.item() == pytest.approx(batch.y.std(correction=0).item(), rel=1e-5)
    assert read({"x": X, "y": RNG.normal(size=(N, 4, 5))}, kind="dense").num_outputs == 4
    last = RNG.normal(size=(N, 5, 4))
    assert read({"x": X.transpose(0, 2, 1), "y": last}, kind="dense", channels_last=True).num_outputs == 4

    positions = RNG.integers(0, 3, (N, 5))
    positions[0, 0] = -100
    task = read({"x": X, "y": positions}, kind="dense")
    assert task.num_outputs == 3
    assert task.target_scale is None
    assert every(task.train).y.dtype == torch.int64


@pytest.mark.parametrize("y", [RNG.normal(50, 10, N), RNG.integers(0, 99, N)], ids=["fractions", "whole numbers"])
def test_values_are_numbers_a_sample_in_their_own_units(read, y):
    task = read({"x": X, "y": y}, kind="values", normalize=False)
    batch = every(task.train)
    assert (task.kind, task.num_outputs, batch.y.dtype, batch.y.shape) == ("values", 1, torch.float32, (42, 1))
    rows = [int(np.flatnonzero((sample == X).all(axis=(1, 2)))[0]) for sample in batch.x.numpy()]
    np.testing.assert_array_equal(batch.y[:, 0], y[rows].astype(np.float32))
    assert task.target_scale.mean.tolist() == pytest.approx([y[rows].mean()], rel=1e-6)
    assert task.target_scale.std.tolist() == pytest.approx([y[rows].std()], rel=1e-6)
    assert "1 number a sample" in task.note


def test_several_values_have_a_scale_each_and_may_be_missing(read):
    y = RNG.normal(size=(N, 3)) * [1, 100, 1e-4]
    y[::4, 1] = np.nan
    task = read({"x": X, "y": y}, kind="values", missing_targets=True)
    known = every(task.train).y.numpy()
    assert task.num_outputs == 3
    assert task.target_scale.std.tolist() == pytest.approx(np.nanstd(known, axis=0).tolist(), rel=1e-5)
    assert np.isnan(known[:, 1]).any()


def test_missing_targets_are_allowed_on_request_only(read):
    real = RNG.normal(size=(N, 5))
    real[::2, 0] = np.nan
    task = read({"x": X, "y": real}, kind="dense", missing_targets=True)
    assert task.target_scale.mean.item() == pytest.approx(np.nanmean(every(task.train).y.numpy()), abs=1e-5)
    labels = RNG.integers(0, 2, (N, 4)).astype(float)
    labels[:, 3] = 0
    task = read({"x": X, "y": labels}, kind="labels")
    assert "label 3 has no positive" in task.note
    labels[:, 2] = 1
    assert "label 2 has no negative" in read({"x": X, "y": labels}, kind="labels").note
    assert every(task.train).y.shape == (42, 4)


def test_splits_can_be_marked_named_or_in_files_of_their_own(read, tmp_path):
    marks = np.array(["train"] * 40 + ["val"] * 10 + ["test"] * 10)
    marked = read({"x": X, "y": Y, "split": marks}, normalize=False)
    assert np.array_equal(every(marked.train).x, X[:40])
    assert np.array_equal(every(marked.open_test()).x, X[50:])

    parts = {"train": slice(0, 40), "val": slice(40, 50), "test": slice(50, 60)}
    named = read(
        {f"{name}_{part}": array[rows] for part, rows in parts.items() for name, array in (("x", X), ("y", Y))},
        normalize=False,
    )
    assert np.array_equal(every(named.validation).x, X[40:50])
    assert np.array_equal(every(named.open_test()).y, Y[50:])

    np.savez(tmp_path / "other.npz", x=X[40:], y=Y[40:])
    files = read({"x": X[:40], "y": Y[:40]}, test=str(tmp_path / "other.npz"), normalize=False)
    assert len(files.train) + len(files.validation) == 40
    assert np.array_equal(every(files.open_test()).x, X[40:])
    assert "validation drawn" in files.note


def test_the_test_file_is_read_at_the_end_only(read, tmp_path):
    other = tmp_path / "test.npz"
    np.savez(other, x=X, y=np.full(N, 9))  # a label that training does not have
    task = read({"x": X, "y": Y}, test=str(other))
    with pytest.raises(Exception, match=r"test\.npz\[y\].*first is 9 at index 0"):
        task.open_test()


def test_npy_pairs_are_mapped_and_equal_their_npz(read, tmp_path, reporter):
    np.save(tmp_path / "x.npy", np.asfortranarray(X))
    np.save(tmp_path / "y.npy", Y)
    pair = load(tmp_path, reporter, kind="classes", train="x.npy", labels="y.npy")  # found in the data folder
    one = read({"x": X, "y": Y})
    assert pair.train.digest() == one.train.digest()
    assert torch.equal(every(pair.validation).x, every(one.validation).x)
    assert read({"x": X, "y": Y}, split_seed=1).train.digest() != one.train.digest()
    changed = X.copy()
    changed += 0.5
    assert read({"x": changed, "y": Y}).train.digest() != one.train.digest()


def test_a_small_signal_on_a_large_offset_survives_normalisation(read):
    signal = RNG.normal(size=(N, 1, 5))
    plain, shifted = (every(read({"x": x, "y": Y}).train).x for x in (signal, signal + 1e9))
    # float32 has steps of 64 at 1e9, float64 of 1e-7.
    assert torch.allclose(plain, shifted, atol=1e-5)


def test_a_constant_channel_stays_finite_and_is_named(read):
    x = X.copy()
    x[:, 1] = 0.1
    task = read({"x": x, "y": Y})
    assert "channel 1 is constant" in task.note
    assert torch.isfinite(every(task.train).x).all()
    assert every(task.train).x[:, 1].abs().max() < 1e-5
