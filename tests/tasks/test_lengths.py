"""Sequences of different lengths in arrays: how their ends are given, and that nothing after an end matters."""

import functools
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.runs.preprocessing import load_preprocessing, write_preprocessing
from orca_cli.tasks.arrays import load
from tests.checkpoints import SHARED
from tests.properties import examples
from tests.tasks.conftest import SilentReporter
from tests.tasks.test_new_data import check_same, in_parts

RNG = np.random.default_rng(0)
N, C, W = 60, 2, 9
X = RNG.normal(3, 2, (N, C, W)).astype(np.float32)
Y = np.arange(N) % 3
ENDS = 1 + np.arange(N) % W
INSIDE = np.arange(W) < ENDS[:, None]


def filled(value, x=X):
    """Return the inputs with a value after each end."""
    return np.where(INSIDE[:, None], x, np.float32(value))


def written(folder, arrays, kind="classes", reporter=None, **settings):
    """Write arrays into one .npz and load it."""
    np.savez(folder / "train.npz", **arrays)
    return load(folder, reporter or SilentReporter(), kind=kind, train=str(folder / "train.npz"), **settings)


@pytest.fixture
def read(tmp_path, reporter):
    return functools.partial(written, tmp_path, reporter=reporter)


def every(samples):
    return samples.batch(np.arange(len(samples)))


def splits(task):
    return [task.train, task.validation, task.open_test()]


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
    found = 0
    for samples in splits(task):
        batch = every(samples)
        assert batch.valid.dtype == torch.bool
        assert (batch.x.masked_select(~batch.valid.unsqueeze(1)) == 0).all()
        for x, valid in zip(batch.x.numpy(), batch.valid.numpy(), strict=True):
            end = valid.sum()
            assert valid[:end].all()
            row = int(np.flatnonzero((x[:, 0] == X[:, :, 0]).all(1))[0])
            assert end == ENDS[row]
            assert np.array_equal(x[:, :end], X[row, :, :end])
            found += 1
    assert found == N


@examples(30)
@given(
    garbage=st.one_of(st.sampled_from([np.nan, np.inf, -np.inf, 0.0]), st.floats(-(2.0**99), 2.0**99, width=32)),
    normalize=st.booleans(),
    kind=st.sampled_from(["classes", "dense", "class maps"]),
)
def test_what_stands_after_an_end_does_not_matter(garbage, normalize, kind):
    real = RNG.normal(50, 10, (N, 3, W)).astype(np.float32)
    maps = RNG.integers(0, 3, (N, W))
    y = {"classes": Y, "dense": real, "class maps": maps}[kind]
    other = {
        "classes": Y,
        "dense": np.where(INSIDE[:, None], real, garbage),
        "class maps": np.where(INSIDE, maps, 7),
    }[kind]
    settings = {"kind": "classes" if kind == "classes" else "dense", "normalize": normalize}
    with TemporaryDirectory() as folder:
        task, again = (
            written(Path(folder), {"x": x, "y": targets, "lengths": ENDS}, **settings)
            for x, targets in ((X, y), (filled(garbage), other))
        )
        assert same(task, again)


def test_mean_and_deviation_are_those_of_the_known_steps(read):
    task = read({"x": filled(1e6), "y": Y, "lengths": ENDS})
    batch = every(task.train)
    known = batch.x.movedim(1, 0)[:, batch.valid]
    torch.testing.assert_close(known.mean(1), torch.zeros(C), atol=1e-5, rtol=0)
    torch.testing.assert_close(known.std(1, correction=0), torch.ones(C), atol=1e-5, rtol=0)


def test_all_ways_to_mark_an_end_say_the_same(read):
    given_lengths = read({"x": X, "y": Y, "lengths": ENDS})
    assert same(given_lengths, read({"x": filled(np.nan), "y": Y}, padding="nan"))
    assert same(given_lengths, read({"x": X, "y": Y, "steps": ENDS.astype(float)}, lengths="steps"))
    last = read({"x": X.transpose(0, 2, 1), "y": Y, "lengths": ENDS}, channels_last=True)
    assert same(given_lengths, last)
    nan_inside = filled(np.nan)
    nan_inside[:, 1] = X[:, 1]  # only one channel is missing there: those steps are data
    assert "missing values" in read({"x": nan_inside, "y": Y}, padding="nan").note


def test_lengths_of_named_splits_are_found_and_longer_samples_are_cut_and_told(read, reporter):
    ends = np.minimum(ENDS, 6)
    arrays = {"x_train": X[:40], "y_train": Y[:40], "lengths_train": ends[:40]}
    arrays |= {"x_test": X[40:], "y_test": Y[40:], "lengths_test": ENDS[40:]}
    task = read(arrays, normalize=False)
    assert task.input_shape == (C, 6)
    batch = every(task.open_test())
    cut = int((ENDS[40:] > 6).sum())
    assert reporter.lines[-1] == (
        f"test split: longer than 6 steps and cut at the end: {cut} of 20 samples (task.length=9 keeps them whole)"
    )
    assert np.array_equal(batch.valid.sum(1), np.minimum(ENDS[40:], 6))
    longest = read(arrays, normalize=False, length=9)
    assert np.array_equal(every(longest.open_test()).valid.sum(1), ENDS[40:])
    assert longest.input_shape == (C, 9)
    assert "cut at the end" in read({"x": X, "y": Y, "lengths": ENDS}, length=4).note
    del arrays["lengths_test"]
    with pytest.raises(DataError, match=r"x_test\]: has no lengths, but the train split has"):
        read(arrays)


def test_arrays_that_nothing_reads_are_told(read):
    assert "not read: mask, weight" in read({"x": X, "y": Y, "mask": INSIDE, "weight": ENDS, "lengths": ENDS}).note
    assert "not read: lengths" in read({"x": X, "y": Y, "lengths": ENDS}, padding="none").note
    arrays = {f"{name}_train": values for name, values in (("x", X), ("y", Y), ("lengths", ENDS))}
    assert "not read" not in read(arrays).note


def test_dense_targets_after_an_end_are_unknown(read):
    real = RNG.normal(50, 10, (N, W))
    real[~INSIDE] = np.nan
    task = read({"x": X, "y": real, "lengths": ENDS}, kind="dense")
    batch = every(task.train)
    assert torch.equal(batch.y.isnan()[:, 0], ~batch.valid)
    known = batch.y[~batch.y.isnan()]
    assert task.target_scale.mean.item() == pytest.approx(known.mean().item(), rel=1e-5)
    holes = np.where(np.arange(W) == 0, np.nan, real)
    with pytest.raises(DataError, match=r"\[y\]: 60 values are NaN"):
        read({"x": X, "y": holes, "lengths": ENDS}, kind="dense")
    read({"x": X, "y": holes, "lengths": np.maximum(ENDS, 2)}, kind="dense", missing_targets=True)
    last = RNG.normal(size=(N, W, 4))
    dense = read({"x": X.transpose(0, 2, 1), "y": last, "lengths": ENDS}, kind="dense", channels_last=True)
    batch = every(dense.train)
    assert torch.equal(batch.y.isnan(), ~batch.valid.unsqueeze(1).expand(-1, 4, -1))


def test_what_was_learned_takes_new_data_in_every_form(read, tmp_path):
    arrays = {"x_train": X[:40], "y_train": Y[:40], "lengths_train": np.minimum(ENDS[:40], 7)}
    task = read(arrays | {"x_test": X[40:], "y_test": Y[40:], "lengths_test": ENDS[40:]})
    write_preprocessing(tmp_path / "run", task.preprocessing)
    found = load_preprocessing(tmp_path / "run")
    new, ends = X[40:], ENDS[40:]
    x, valid = found.inputs((new, ends))
    assert x.shape == (20, C, 7)
    assert np.array_equal(valid.sum(1), np.minimum(ends, 7))
    listed = found.inputs([one[:, :end] for one, end in zip(new, ends, strict=True)])
    assert torch.equal(listed[0], x)
    assert torch.equal(listed[1], valid)
    with pytest.raises(DataError, match=r"has no lengths, and the model was trained with them; give x and lengths, by"):
        found.inputs(new[:, :, :5])
    assert found.inputs(list(new[:, :, :5]))[1].sum(1).eq(5).all()
    cut = int((ends > 7).sum())
    assert found.remarks((new, ends)) == {"longer than 7 steps and cut at the end": cut}
    assert found.remarks((new[:, :, :5], np.minimum(ends, 5))) == {}
    wanted = every(task.open_test())
    assert torch.equal(x, wanted.x)
    assert torch.equal(valid, wanted.valid)
    with pytest.raises(DataError, match=r"samples have shape \(3, 9\), those of the training set \(2, any\)"):
        found.inputs((RNG.normal(size=(4, 3, 9)), np.full(4, 9)))
    with pytest.raises(DataError, match=r"sample 1: holds no steps"):
        found.inputs([np.ones((2, 3)), np.ones((2, 0))])
    whole = read({"x": X, "y": Y}).preprocessing
    with pytest.raises(DataError, match=r"those of the training set one length; give one array \(n, 2, 9\)"):
        whole.inputs((X, ENDS))


DENSE = RNG.normal(50, 10, (N, W)).astype(np.float32)


@pytest.mark.parametrize("kind", ["classes", "dense"])
@pytest.mark.parametrize("padding", [None, "nan"])
def test_new_files_of_different_lengths_are_opened(read, tmp_path, kind, padding):
    y = Y if kind == "classes" else DENSE
    x = filled(np.nan if padding else 7.0)
    ends = {} if padding else {"lengths": ENDS}
    parts = {"train": slice(0, 40), "test": slice(40, N)}
    rows = {"x": x, "y": y} | ends
    task = read(
        {f"{k}_{part}": v[some] for k, v in rows.items() for part, some in parts.items()}, kind, padding=padding
    )
    found = task.preprocessing
    check_same(found, found.open(tmp_path / "train.npz", "INPUT", "test"), task.open_test())
    np.savez(tmp_path / "new.npz", **{name: values[parts["test"]] for name, values in rows.items()})
    check_same(found, found.open(tmp_path / "new.npz", "INPUT"), task.open_test())
    wanted = every(task.open_test())
    listed = [one[:, :end] for one, end in zip(X[40:], ENDS[40:], strict=True)]
    forms = [listed, tuple(listed), {"x": X[40:], "lengths": ENDS[40:]}] + ([x[40:]] if padding else [])
    for form in forms:
        given_x, valid = in_parts(found, found.given(form))
        assert torch.equal(given_x, wanted.x)
        assert torch.equal(valid, wanted.valid)
    with pytest.raises(DataError, match=r"holds no 'lengths'; give x and lengths, or a list of arrays"):
        found.given({"x": X[40:]})
    np.save(tmp_path / "bare.npy", X[40:, :, :4])
    bare = [found.open(tmp_path / "bare.npy", "INPUT"), *map(found.given, (X[40:], torch.from_numpy(X[40:])))]
    for new in bare if padding is None else []:  # one array does not say where its sequences end
        with pytest.raises(DataError, match="has no lengths, and the model was trained with them"):
            in_parts(found, new)
    if padding:
        assert in_parts(found, bare[0])[1].sum(1).eq(4).all()
    np.savez(tmp_path / "bare.npz", x=X[40:])
    if padding is None:
        with pytest.raises(DataError, match=r"no array 'lengths'.*trained on sequences with an array of lengths"):
            found.open(tmp_path / "bare.npz", "INPUT")
        np.savez(tmp_path / "bare.npz", x=X[40:], lengths=ENDS[41:])
        with pytest.raises(DataError, match=r"\[lengths\]: has shape \(19,\), expected \(20,\)"):
            found.open(tmp_path / "bare.npz", "INPUT")


@pytest.mark.parametrize("padding", [None, "nan"])
@pytest.mark.parametrize("form", ["list", "tensor", "nested lists", "folder"])
def test_an_end_is_the_same_in_every_form_of_new_data(read, tmp_path, padding, form):
    x = filled(np.nan if padding else 7.0)
    task = read({"x": x, "y": Y} | ({} if padding else {"lengths": ENDS}), padding=padding)
    found = task.preprocessing
    wanted = found.inputs(x if padding else (x, ENDS))
    if form == "folder":
        (tmp_path / "new").mkdir()
        for row, (one, end) in enumerate(zip(x, ENDS, strict=True)):
            np.save(tmp_path / "new" / f"{row:02}.npy", one if padding else one[:, :end])
        new = found.open(tmp_path / "new", "INPUT")
    else:
        held = {"list": list(x), "tensor": torch.from_numpy(x), "nested lists": x.tolist()}[form]
        new = found.given(held if padding else {"x": held, "lengths": ENDS.tolist()})
    got = in_parts(found, new)
    assert torch.equal(got[1], wanted[1])
    torch.testing.assert_close(got[0], wanted[0])


def test_lengths_of_new_sequences_have_to_be_theirs(read):
    found = read({"x": X, "y": Y, "lengths": ENDS}).preprocessing
    with pytest.raises(DataError, match=r"x\[lengths\]: has shape \(61,\), expected \(60,\)"):
        found.given({"x": X, "lengths": [*ENDS, 1]})
    rows = [one[:, :end] for one, end in zip(X, ENDS, strict=True)]
    with pytest.raises(DataError, match=r"lengths are not in 1\.\.1, the first is 2 at index 0"):
        in_parts(found, found.given({"x": rows, "lengths": ENDS + 1}))


BAD = {
    "zero": ({"lengths": np.where(ENDS == 3, 0, ENDS)}, {}, r"\[lengths\]: 7 lengths .* the first is 0 at index 2"),
    "too long": ({"lengths": ENDS + 1}, {}, r"lengths are not in 1\.\.9, the first is 10 at index 8"),
    "broken": ({"lengths": ENDS + 0.5}, {}, r"the first is 1\.5 at index 0"),
    "of another number": ({"lengths": ENDS[:-1]}, {}, r"lengths have shape \(59,\)"),
    "text": ({"lengths": ENDS.astype(str)}, {}, r"lengths have shape \(60,\) and dtype <U"),
    "absent": ({}, {"lengths": "steps"}, r"no array 'steps'; it holds x, y"),
    "maps": ({"x": X.reshape(N, C, 3, 3), "lengths": ENDS}, {}, r"not sequences, so .*task\.padding=none"),
    "whole numbers": ({"x": X.astype(int)}, {"padding": "nan"}, r"dtype int64, which has no NaN"),
    "nothing but NaN": ({"x": X * np.where(np.arange(N) == 5, np.nan, 1)[:, None, None]}, {"padding": "nan"}, "at index 5"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_lengths_are_named_in_one_line(read, name):
    arrays, settings, message = BAD[name]
    with pytest.raises(DataError, match=message) as caught:
        read({"x": X, "y": Y} | arrays, **settings)
    assert "\n" not in str(caught.value)


def test_contradicting_settings_are_refused(read, check, tmp_path, reporter):
    with pytest.raises(ConfigError, match=r"task\.lengths: does not go with task\.padding=nan"):
        check("arrays", kind="classes", train="x.npz", lengths="steps", padding="nan")
    with pytest.raises(ConfigError, match=r"task\.length: applies to sequences of different lengths"):
        read({"x": X, "y": Y}, length=5)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    with pytest.raises(ConfigError, match=r"x\.npy is one array, which has no lengths"):
        load(tmp_path, reporter, kind="classes", train="x.npy", labels="y.npy", lengths="steps")
    ignored = read({"x": X, "y": Y, "lengths": ENDS}, padding="none")
    assert every(ignored.train).valid is None


@pytest.mark.skipif(not (SHARED / "data" / "series").is_dir(), reason="ORCA_TEST_DATA has no data/series")
def test_japanese_vowels(reporter, tmp_path):
    file = SHARED / "data" / "series" / "JapaneseVowels.npz"
    task = load(tmp_path, reporter, kind="classes", train=str(file))
    assert task.input_shape == (12, 26)
    assert "12 channels of 7 to 26 steps" in task.note
    with np.load(file) as arrays:
        lengths = np.minimum(arrays["lengths_test"], 26)
    assert np.array_equal(every(task.open_test()).valid.sum(1), lengths)
