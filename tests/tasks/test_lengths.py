"""Sequences of different lengths in arrays: how their ends are given, and that nothing after an end matters."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.exceptions import ConfigError, DataError
from tests.properties import examples
from tests.tasks import builders
from tests.tasks.builders import check_inputs, check_same, every, in_parts, refused, reloaded, splits
from tests.untrusted.conftest import Quiet

N, C, W = 60, 2, 9
X = np.random.default_rng(0).normal(3, 2, (N, C, W)).astype(np.float32)
Y = np.arange(N) % 3
ENDS = 1 + np.arange(N) % W
INSIDE = np.arange(W) < ENDS[:, None]
DENSE = np.random.default_rng(1).normal(50, 10, (N, W)).astype(np.float32)


def filled(value, x=X):
    """Return the inputs with a value after each end."""
    return np.where(INSIDE[:, None], x, np.float32(value))


def written(folder, arrays, kind="classes", reporter=None, **settings):
    """Write arrays into one .npz and load it."""
    np.savez(folder / "train.npz", **arrays)
    return builders.build("arrays", folder, reporter or Quiet(), kind=kind, train="train.npz", **settings)


@pytest.fixture
def read(tmp_path, reporter):
    return lambda *words, **settings: written(tmp_path, *words, reporter=reporter, **settings)


def same(first, second):
    """Return whether two tasks give the same batches, and call their data the same."""
    pairs = list(zip(splits(first), splits(second), strict=True))
    batches = [(every(a), every(b)) for a, b in pairs]
    return all(
        torch.equal(a.x, b.x)
        and torch.equal(a.valid, b.valid)
        and np.array_equal(a.y, b.y, equal_nan=a.y.is_floating_point())
        for a, b in batches
    ) and all(a.digest() == b.digest() for a, b in pairs)


def test_lengths_are_used_where_the_file_has_them(read):
    task = read({"x": X, "y": Y, "lengths": ENDS}, normalize=False)
    assert task.input_shape == (C, W)
    assert "2 channels of 1 to 9 steps" in task.note
    rows = []
    for samples in splits(task):
        batch = every(samples)
        batch_rows = [int(np.flatnonzero(np.isclose(x[0, 0], X[:, 0, 0], atol=0))[0]) for x in batch.x.numpy()]
        np.testing.assert_array_equal(batch.valid, INSIDE[batch_rows])
        np.testing.assert_array_equal(batch.x, filled(0)[batch_rows])
        rows += batch_rows
    assert sorted(rows) == list(range(N))


@examples(30)
@given(
    garbage=st.one_of(st.sampled_from([np.nan, np.inf, -np.inf, 0.0]), st.floats(-(2.0**99), 2.0**99, width=32)),
    normalize=st.booleans(),
    kind=st.sampled_from(["classes", "dense", "class maps"]),
)
def test_what_stands_after_an_end_does_not_matter(garbage, normalize, kind):
    rng = np.random.default_rng(2)
    real, maps = rng.normal(50, 10, (N, 3, W)).astype(np.float32), rng.integers(0, 3, (N, W))
    y, other = {
        "classes": (Y, Y),
        "dense": (real, np.where(INSIDE[:, None], real, garbage)),
        "class maps": (maps, np.where(INSIDE, maps, 7)),
    }[kind]
    settings = {"kind": "classes" if kind == "classes" else "dense", "normalize": normalize}
    with TemporaryDirectory() as folder:
        task, again = (
            written(Path(folder), {"x": x, "y": targets, "lengths": ENDS}, **settings)
            for x, targets in ((X, y), (filled(garbage), other))
        )
        assert same(task, again)
        if normalize:
            known = every(again.train).x.movedim(1, 0)[:, every(again.train).valid]
            torch.testing.assert_close(known.mean(1), torch.zeros(C), atol=1e-5, rtol=0)
            torch.testing.assert_close(known.std(1, correction=0), torch.ones(C), atol=1e-5, rtol=0)


def test_all_ways_to_mark_an_end_say_the_same(read):
    given_lengths = read({"x": X, "y": Y, "lengths": ENDS})
    assert same(given_lengths, read({"x": filled(np.nan), "y": Y}, padding="nan"))
    assert same(given_lengths, read({"x": X, "y": Y, "steps": ENDS.astype(float)}, lengths="steps"))
    last = read({"x": X.transpose(0, 2, 1), "y": Y, "lengths": ENDS}, channels_last=True)
    assert same(given_lengths, last)
    assert every(read({"x": X, "y": Y, "lengths": ENDS}, padding="none").train).valid is None
    assert "not read: lengths" in read({"x": X, "y": Y, "lengths": ENDS}, padding="none").note
    nan_inside = filled(np.nan)
    nan_inside[:, 1] = X[:, 1]  # only one channel is missing there: those steps are data
    assert "missing values" in read({"x": nan_inside, "y": Y}, padding="nan").note


def test_lengths_of_named_splits_are_found_and_longer_samples_are_cut_and_reported(read, reporter):
    ends = np.minimum(ENDS, 6)
    arrays = {"x_train": X[:40], "y_train": Y[:40], "lengths_train": ends[:40]}
    arrays |= {"x_test": X[40:], "y_test": Y[40:], "lengths_test": ENDS[40:]}
    task = read(arrays, normalize=False)
    assert task.input_shape == (C, 6)
    batch = every(task.open_test())
    cut = f"cut at the end: {(ENDS[40:] > 6).sum()} of 20 samples (task.length=9 keeps them whole)"
    assert reporter.lines[-1] == f"test split: longer than 6 steps and {cut}"
    assert np.array_equal(batch.valid.sum(1), np.minimum(ENDS[40:], 6))
    longest = read(arrays, normalize=False, length=9)
    assert np.array_equal(every(longest.open_test()).valid.sum(1), ENDS[40:])
    assert longest.input_shape == (C, 9)
    del arrays["lengths_test"]
    with refused(r"x_test\]: has no lengths, but the train split has", DataError):
        read(arrays)


def test_dense_targets_after_an_end_are_unknown(read):
    real = np.where(INSIDE, DENSE, np.nan)
    task = read({"x": X, "y": real, "lengths": ENDS}, kind="dense")
    batch = every(task.train)
    assert torch.equal(batch.y.isnan()[:, 0], ~batch.valid)
    assert task.target_scale.mean.item() == pytest.approx(np.nanmean(batch.y), rel=1e-5)
    holes = np.where(np.arange(W) == 0, np.nan, real)
    with refused(r"\[y\]: 60 values are NaN", DataError):
        read({"x": X, "y": holes, "lengths": ENDS}, kind="dense")
    read({"x": X, "y": holes, "lengths": np.maximum(ENDS, 2)}, kind="dense", missing_targets=True)
    last = np.random.default_rng(3).normal(size=(N, W, 4))
    dense = read({"x": X.transpose(0, 2, 1), "y": last, "lengths": ENDS}, kind="dense", channels_last=True)
    batch = every(dense.train)
    assert torch.equal(batch.y.isnan(), ~batch.valid.unsqueeze(1).expand(-1, 4, -1))


BAD = {
    "too long": ({"lengths": ENDS + 1}, {}, r"lengths are not in 1\.\.9, the first is 10 at index 8"),
    "text": ({"lengths": ENDS.astype(str)}, {}, r"lengths have shape \(60,\) and dtype <U"),
    "maps": ({"x": X.reshape(N, C, 3, 3), "lengths": ENDS}, {}, r"not sequences, so .*task\.padding=none"),
    "nothing but NaN": ({"x": X * np.where(np.arange(N) == 5, np.nan, 1)[:, None, None]}, {"padding": "nan"}, "at index 5"),
    "one length": ({}, {"length": 5}, r"task\.length: applies to sequences of different lengths"),
    "one array": ({}, {"train": "x.npy", "labels": "y.npy", "lengths": "n"}, r"x\.npy is one array, which has no lengths"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_lengths_are_named_in_one_line(build, tmp_path, name):
    arrays, settings, message = BAD[name]
    np.savez(tmp_path / "train.npz", **{"x": X, "y": Y} | arrays)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    with refused(message, (DataError, ConfigError)):
        build("arrays", **{"kind": "classes", "train": "train.npz"} | settings)


def test_new_data_are_cut_and_those_that_do_not_fit_refused(read):
    preprocessing = read({"x": X, "y": Y, "lengths": np.minimum(ENDS, 7)}).preprocessing
    assert np.array_equal(preprocessing.inputs((X, ENDS))[1].sum(1), np.minimum(ENDS, 7))
    assert preprocessing.remarks((X, ENDS)) == {"longer than 7 steps and cut at the end": int((ENDS > 7).sum())}
    for inputs, message in (
        ((X[:4, [0, 0, 0]], np.full(4, 9)), r"shape \(3, 9\), those of the training set \(2, any\)"),
        ([np.ones((2, 3)), np.ones((2, 0))], "sample 1: holds no steps"),
    ):
        with refused(message, DataError):
            preprocessing.inputs(inputs)
    for arrays, message in (
        ({"x": X}, "holds no 'lengths'; give x and lengths, or a list of arrays"),
        ({"x": X, "lengths": [*ENDS, 1]}, r"x\[lengths\]: has shape \(61,\), expected \(60,\)"),
    ):
        with refused(message, DataError):
            preprocessing.given(arrays)
    with refused(r"those of the training set one length; give one array \(n, 2, 9\)", DataError):
        read({"x": X, "y": Y}).preprocessing.inputs((X, ENDS))


@pytest.mark.parametrize(("kind", "padding"), [("classes", None), ("dense", "nan")])
def test_new_data_of_different_lengths_are_taken_in_every_form(read, tmp_path, kind, padding):
    x = filled(np.nan if padding else 7.0)
    arrays = {"x": x, "y": Y if kind == "classes" else DENSE} | ({} if padding else {"lengths": ENDS})
    parts = {"train": slice(0, 40), "test": slice(40, N)}
    named = {f"{k}_{part}": values[rows] for k, values in arrays.items() for part, rows in parts.items()}
    task = read(named, kind, padding=padding)
    preprocessing, test = reloaded(task, tmp_path / "run"), task.open_test()
    check_same(preprocessing, preprocessing.open(tmp_path / "train.npz", "INPUT", "test"), test)
    np.savez(tmp_path / "new.npz", **{name: values[40:] for name, values in arrays.items()})
    check_same(preprocessing, preprocessing.open(tmp_path / "new.npz", "INPUT"), test)
    listed = [one[:, :end] for one, end in zip(X[40:], ENDS[40:], strict=True)]
    (tmp_path / "folder").mkdir()
    for row, one in enumerate(listed):
        np.save(tmp_path / "folder" / f"{row:02}.npy", one)
    forms = [listed, [one.tolist() for one in listed]]
    forms += [x[40:], list(x[40:]), torch.from_numpy(x[40:]), x[40:].tolist()] if padding else []
    forms += [{"x": held, "lengths": ENDS[40:].tolist()} for held in (X[40:], list(X[40:]), torch.from_numpy(X[40:]))]
    for new in (preprocessing.open(tmp_path / "folder", "INPUT"), *map(preprocessing.given, forms)):
        check_inputs(in_parts(preprocessing, new), test)
    np.save(tmp_path / "bare.npy", X[40:, :, :4])  # which does not say where its sequences end
    bare = preprocessing.open(tmp_path / "bare.npy", "INPUT")
    if padding:
        assert in_parts(preprocessing, bare)[1].sum(1).eq(4).all()
        return
    for new in (bare, preprocessing.given(X[40:])):
        with refused("has no lengths, and the model was trained with them; give x and lengths", DataError):
            in_parts(preprocessing, new)
    np.savez(tmp_path / "bare.npz", x=X[40:])
    with refused(r"no array 'lengths'.*trained on sequences with an array of lengths", DataError):
        preprocessing.open(tmp_path / "bare.npz", "INPUT")
