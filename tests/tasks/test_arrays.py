"""Own data without code: what is read, how it is split and normalised."""

import numpy as np
import pytest
import torch

from orca_cli.exceptions import DataError
from tests.tasks.builders import check_apart, every, refused, splits

N = 60
X = np.random.default_rng(0).normal(3, 2, (N, 2, 5)).astype(np.float32)
Y = np.arange(N) % 3


@pytest.fixture
def rng():
    return np.random.default_rng(1)


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


def test_one_file_becomes_three_disjoint_stratified_normalised_splits(read, reporter):
    task = read({"x": X, "y": Y}, normalize=False)
    rows = [rows_of(samples) for samples in splits(task)]
    assert sorted(sum(rows, [])) == list(range(N))
    assert list(map(len, rows)) == [42, 9, 9]
    for samples in splits(task):
        assert np.ptp(np.bincount(samples.targets(), minlength=3)) <= 1
    assert (task.input_shape, task.num_outputs) == ((2, 5), 3)
    assert "2 channels of 5" in reporter.lines[-1]
    assert "3 classes" in task.note

    normalised = read({"x": X, "y": Y})
    batch = every(normalised.train).x
    assert torch.allclose(batch.mean(dim=(0, 2)), torch.zeros(2), atol=1e-4)
    assert torch.allclose(batch.std(dim=(0, 2), correction=0), torch.ones(2), atol=1e-4)
    others = (task, read({"x": X, "y": Y}, split_seed=1), read({"x": X + np.float32(0.5), "y": Y}))
    assert len({normalised.train.digest(), *(other.train.digest() for other in others)}) == 4
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
    for label, target in zip(np.ravel(labels)[rows_of(task.train)], task.train.targets(), strict=True):
        text = label.decode() if isinstance(label, bytes) else label
        assert names[target] == (text if isinstance(text, str) else str(int(text)))


@pytest.mark.parametrize(
    ("shape", "channels_last"), [((7,), False), ((4, 7), True), ((3, 6, 5), True), ((3, 4, 6, 5), False)]
)
def test_shapes_are_inferred(read, shape, channels_last, rng):
    x = rng.normal(size=(N, *shape))
    if len(shape) == 1:
        shape = (1, *shape)
    stored = np.moveaxis(x, 1, -1) if channels_last else x
    task = read({"x": stored, "y": Y}, normalize=False, channels_last=channels_last)
    assert task.input_shape == shape
    batch = every(task.train)
    assert batch.x.dtype == torch.float32
    assert any(np.allclose(sample, batch.x[0]) for sample in x)


def test_dense_targets_are_real_valued_or_a_class_at_every_position(read, rng):
    real = rng.normal(50, 10, (N, 5))
    task = read({"x": X, "y": real}, kind="dense")
    batch = every(task.train)
    assert batch.y.shape == (42, 1, 5)
    assert task.target_scale.mean.item() == pytest.approx(batch.y.mean().item(), rel=1e-5)
    assert task.target_scale.std.item() == pytest.approx(batch.y.std(correction=0).item(), rel=1e-5)
    last = rng.normal(size=(N, 5, 4))
    assert read({"x": X.transpose(0, 2, 1), "y": last}, kind="dense", channels_last=True).num_outputs == 4

    positions = rng.integers(0, 3, (N, 5))
    positions[0, 0] = -100
    task = read({"x": X, "y": positions}, kind="dense")
    assert task.num_outputs == 3
    assert task.target_scale is None
    assert every(task.train).y.dtype == torch.int64


def test_values_are_numbers_a_sample_in_their_own_units(read):
    y = np.arange(N) * 7 % 99
    task = read({"x": X, "y": y}, kind="values", normalize=False)
    batch = every(task.train)
    assert (task.kind, task.num_outputs, batch.y.dtype, batch.y.shape) == ("values", 1, torch.float32, (42, 1))
    rows = rows_of(task.train)
    np.testing.assert_array_equal(batch.y[:, 0], y[rows].astype(np.float32))
    assert task.target_scale.mean.tolist() == pytest.approx([y[rows].mean()], rel=1e-6)
    assert task.target_scale.std.tolist() == pytest.approx([y[rows].std()], rel=1e-6)
    assert "1 number a sample" in task.note


@pytest.mark.parametrize("unit", [[1, 1e-30, 1e-4], 1e30])
def test_several_values_have_a_scale_each_in_any_unit_and_may_be_missing(read, unit, rng):
    y = rng.normal(size=(N, 3)) * unit
    y[::4, 1] = np.nan
    task = read({"x": X, "y": y}, kind="values", missing_targets=True)
    known = every(task.train).y.numpy().astype(np.float64)
    assert task.num_outputs == 3
    assert task.target_scale.std.tolist() == pytest.approx(np.nanstd(known, axis=0).tolist(), rel=1e-5)
    assert np.isnan(known[:, 1]).any()


def test_missing_targets_are_allowed_on_request_only(read, rng):
    real = rng.normal(size=(N, 5))
    real[::2, 0] = np.nan
    task = read({"x": X, "y": real}, kind="dense", missing_targets=True)
    assert task.target_scale.mean.item() == pytest.approx(np.nanmean(every(task.train).y.numpy()), abs=1e-5)
    labels = rng.integers(0, 2, (N, 4)).astype(float)
    labels[:, 3] = 0
    task = read({"x": X, "y": labels}, kind="labels")
    assert "label 3 has no positive" in task.note
    labels[:, 2] = 1
    assert "label 2 has no negative" in read({"x": X, "y": labels}, kind="labels").note
    assert every(task.train).y.shape == (42, 4)


def test_splits_can_be_marked_named_or_in_files_of_their_own(read, tmp_path):
    rows = {"train": slice(0, 40), "val": slice(40, 50), "test": slice(50, 60)}
    marks = np.repeat(list(rows), [40, 10, 10])
    named = {f"{name}_{part}": array[rows[part]] for part in rows for name, array in (("x", X), ("y", Y))}
    for arrays in ({"x": X, "y": Y, "split": marks}, named):
        for samples, part in zip(splits(read(arrays, normalize=False)), rows.values(), strict=True):
            assert np.array_equal(every(samples).x, X[part])
            assert np.array_equal(samples.targets(), Y[part])

    np.savez(tmp_path / "other.npz", x=X[40:], y=Y[40:])
    files = read({"x": X[:40], "y": Y[:40]}, test="other.npz", normalize=False)
    assert len(files.train) + len(files.validation) == 40
    assert np.array_equal(every(files.open_test()).x, X[40:])
    assert "validation drawn" in files.note


GROUPS = np.arange(N) // 4


def test_groups_of_given_splits_must_not_be_shared(read, tmp_path):
    marks = np.repeat(["train", "val", "test"], 20)
    task = read({"x": X, "y": Y, "group": GROUPS, "split": marks}, group="group")
    assert list(map(len, check_apart(task))) == [5, 5, 5]
    marks[20] = "train"
    with refused(r"\[group\] \(train\): group '5' is also in .*\[group\] \(validation\) \(1 are in both\)", DataError):
        read({"x": X, "y": Y, "group": GROUPS, "split": marks}, group="group")
    named = {f"{name}_train": array[:40] for name, array in (("x", X), ("y", Y), ("group", GROUPS))}
    named |= {f"{name}_test": array[40:] for name, array in (("x", X), ("y", Y), ("group", GROUPS))}
    with refused(r"\[group_train\]: group '9' is also in .*\[group_test\]", DataError):
        read(named | {"group_test": GROUPS[38:58]}, group="group")
    np.savez(tmp_path / "other.npz", x=X[:9], y=Y[:9], group=GROUPS[:9])
    with refused(r"group '0' is also in .*other\.npz\[group\]", DataError):
        read({"x": X, "y": Y, "group": GROUPS}, group="group", test="other.npz")
    for arrays, message in (
        ({}, r"train\.npz: no array 'group'; it holds x, y; task\.group= names another one"),
        ({"group": GROUPS[:-1]}, r"\[group\]: has shape \(59,\), expected \(60,\); one group per sample"),
        ({"group": np.where(np.arange(N) == 7, np.nan, GROUPS)}, r"1 rows have no group, the first is row 8"),
    ):
        with refused(message, DataError):
            read({"x": X, "y": Y} | arrays, group="group")


def test_large_offsets_and_constant_channels_survive_normalisation(read, rng):
    signal = rng.normal(size=(N, 1, 5))
    plain, shifted = (every(read({"x": x, "y": Y}).train).x for x in (signal, signal + 1e9))
    # float32 has steps of 64 at 1e9, float64 of 1e-7.
    assert torch.allclose(plain, shifted, atol=1e-5)
    x = X.astype(np.float64)
    x[:, 1] = 0.1
    task = read({"x": x, "y": Y})
    assert "channel 1 is constant" in task.note
    assert every(task.train).x[:, 1].abs().max() < 1e-5


@pytest.mark.parametrize(
    ("shape", "wrong"), [((100, 6), True), ((32, 32, 3), True), ((3, 32, 32), False), ((12, 12), False)]
)
def test_an_order_of_axes_that_looks_wrong_is_reported_with_what_the_other_would_give(read, shape, wrong):
    x = np.zeros((N, *shape)) + np.arange(N).reshape(N, *[1] * len(shape))
    text = "{} channels of {}"
    read_as, other = (text.format(c, " x ".join(map(str, axes))) for c, *axes in (shape, (shape[-1], *shape[:-1])))
    note = read({"x": x, "y": Y}).note
    assert read_as in note
    assert (f"warning: task.channels_last=true would read {other}" in note) == wrong
