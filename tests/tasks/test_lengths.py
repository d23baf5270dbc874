"""Sequences of different lengths in arrays: how ends are marked; nothing after an end matters."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.exceptions import DataError
from tests.properties import examples
from tests.tasks import builders
from tests.tasks.builders import (
    check_inputs,
    check_same,
    every,
    in_parts,
    refused,
    reloaded,
    splits,
)
from tests.untrusted.conftest import Quiet

N, C, W = 60, 2, 9
RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, (N, C, W)).astype(np.float32)
Y = np.arange(N) % 3
ENDS = 1 + np.arange(N) % W
INSIDE = np.arange(W) < ENDS[:, None]


def filled(value):
    """Return the inputs with a value after each end."""
    return np.where(INSIDE[:, None], X, np.float32(value))


def written(folder, arrays, kind="classes", reporter=None, **settings):
    """Write arrays into one .npz and load it."""
    np.savez(folder / "train.npz", **arrays)
    return builders.build(
        "arrays", folder, reporter or Quiet(), kind=kind, train="train.npz", **settings
    )


@pytest.fixture
def read(tmp_path, reporter):
    return lambda *words, **settings: written(tmp_path, *words, reporter=reporter, **settings)


def check_equal(task, expected):
    """Check that two tasks give the same batches, and call their data the same."""
    for samples, expected_samples in zip(splits(task), splits(expected), strict=True):
        batch, expected_batch = every(samples), every(expected_samples)
        assert torch.equal(batch.x, expected_batch.x)
        assert torch.equal(batch.valid, expected_batch.valid)
        np.testing.assert_array_equal(batch.y, expected_batch.y)
        assert samples.digest() == expected_samples.digest()


@pytest.mark.parametrize("index", range(3), ids=["train", "validation", "test"])
def test_lengths_are_used_where_the_file_has_them(index, read):
    task = read({"x": X, "y": Y, "lengths": ENDS}, normalize=False)
    assert task.input_shape == (C, W)
    batch = every(splits(task)[index])
    rows = [
        int(np.flatnonzero(np.isclose(x[0, 0], X[:, 0, 0], atol=0))[0]) for x in batch.x.numpy()
    ]
    np.testing.assert_array_equal(batch.valid, INSIDE[rows])
    np.testing.assert_array_equal(batch.x, filled(0)[rows])


def test_every_sequence_is_in_one_split(read):
    task = read({"x": X, "y": Y, "lengths": ENDS}, normalize=False)
    starts = np.concatenate([every(samples).x[:, 0, 0] for samples in splits(task)])
    assert sorted(starts) == sorted(X[:, 0, 0])


@examples(12)
@given(
    garbage=st.one_of(
        st.sampled_from([np.nan, np.inf, -np.inf, 0.0]), st.floats(-(2.0**99), 2.0**99, width=32)
    ),
    normalize=st.booleans(),
    kind=st.sampled_from(["classes", "dense", "class maps"]),
)
def test_what_stands_after_an_end_does_not_matter(garbage, normalize, kind):
    rng = np.random.default_rng(2)
    real, maps = rng.normal(50, 10, (N, 3, W)).astype(np.float32), rng.integers(0, 3, (N, W))
    y, changed_y = {
        "classes": (Y, Y),
        "dense": (real, np.where(INSIDE[:, None], real, garbage)),
        "class maps": (maps, np.where(INSIDE, maps, 7)),
    }[kind]
    settings = {"kind": "classes" if kind == "classes" else "dense", "normalize": normalize}
    with TemporaryDirectory() as name:
        folder = Path(name)
        expected = written(folder, {"x": X, "y": y, "lengths": ENDS}, **settings)
        changed = {"x": filled(garbage), "y": changed_y, "lengths": ENDS}
        check_equal(written(folder, changed, **settings), expected)


@pytest.mark.parametrize("garbage", [0.0, 2.0**99, np.nan, np.inf])
def test_what_stands_after_an_end_has_no_part_in_the_scale(garbage, read):
    batch = every(read({"x": filled(garbage), "y": Y, "lengths": ENDS}).train)
    known = batch.x.movedim(1, 0)[:, batch.valid]
    torch.testing.assert_close(known.mean(1), torch.zeros(C), atol=1e-5, rtol=0)
    torch.testing.assert_close(known.std(1, correction=0), torch.ones(C), atol=1e-5, rtol=0)


MARKED = {
    "steps of nan": ({"x": filled(np.nan), "y": Y}, {"padding": "nan"}),
    "a name of its own": ({"x": X, "y": Y, "steps": ENDS.astype(float)}, {"lengths": "steps"}),
    "channels last": (
        {"x": X.transpose(0, 2, 1), "y": Y, "lengths": ENDS},
        {"channels_last": True},
    ),
}


@pytest.mark.parametrize("form", MARKED)
def test_all_ways_to_mark_an_end_say_the_same(form, read):
    arrays, settings = MARKED[form]
    check_equal(read(arrays, **settings), read({"x": X, "y": Y, "lengths": ENDS}))


def test_lengths_are_ignored_on_request(read):
    task = read({"x": X, "y": Y, "lengths": ENDS}, padding="none")
    assert every(task.train).valid is None


# Training sequences have 6 steps at most, those of test up to 9.
SHORT = {
    "x_train": X[:40], "y_train": Y[:40], "lengths_train": np.minimum(ENDS, 6)[:40],
    "x_test": X[40:], "y_test": Y[40:], "lengths_test": ENDS[40:],
}  # fmt: skip


def test_longer_samples_than_trained_on_are_cut_and_reported(read, reporter):
    task = read(SHORT, normalize=False)
    assert task.input_shape == (C, 6)
    assert np.array_equal(every(task.open_test()).valid.sum(1), np.minimum(ENDS[40:], 6))
    cut = f"{(ENDS[40:] > 6).sum()} samples with more than 6 steps (the rest is cut off)"
    assert reporter.lines[-1] == f"test split: {cut}"


def test_a_length_that_is_set_leaves_longer_samples_whole(read):
    task = read(SHORT, normalize=False, length=9)
    assert task.input_shape == (C, 9)
    assert np.array_equal(every(task.open_test()).valid.sum(1), ENDS[40:])


BAD = {
    "too long": (
        {"x": X, "y": Y, "lengths": ENDS + 1},
        {},
        r"lengths\]: contains lengths that are not integers in 1\.\.9: 6 in total, the first is 10 at index 8",
    ),
    "maps": (
        {"x": X.reshape(N, C, 3, 3), "y": Y, "lengths": ENDS},
        {},
        r"x\]: .* not sequences, so .*task\.padding=none",
    ),
    "all nan": (
        {"x": np.where((np.arange(N) == 5)[:, None, None], np.nan, X), "y": Y},
        {"padding": "nan"},
        r"x\]: contains sequences of only NaN, which have length 0: 1 in total, the first is 0 at index 5",
    ),
    "of one split": (
        {name: array for name, array in SHORT.items() if name != "lengths_test"},
        {},
        r"x_test\]: has no lengths, although another split has",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lengths_are_named_in_one_line(name, read):
    arrays, settings, message = BAD[name]
    with refused(rf"train\.npz\[{message}", DataError):
        read(arrays, **settings)


@pytest.fixture
def trained(read, tmp_path):
    """Return a function that trains on 40 sequences; it returns preprocessing, and test samples."""

    def call(arrays, **settings):
        named = {f"{name}_train": array[:40] for name, array in arrays.items()}
        named |= {f"{name}_test": array[40:] for name, array in arrays.items()}
        task = read(named, **settings)
        return reloaded(task, tmp_path / "run"), task.open_test()

    return call


MARKED_BY = {
    "lengths": ({"x": filled(7.0), "y": Y, "lengths": ENDS}, {}),
    "nan": ({"x": filled(np.nan), "y": Y}, {"padding": "nan"}),
}


@pytest.mark.parametrize("marked_by", MARKED_BY)
def test_new_files_with_sequences_are_read_as_splits_are(marked_by, trained, tmp_path):
    arrays, settings = MARKED_BY[marked_by]
    preprocessing, test = trained(arrays, **settings)
    check_same(preprocessing, preprocessing.open(tmp_path / "train.npz", "INPUT", "test"), test)


@pytest.mark.parametrize("marked_by", MARKED_BY)
def test_lists_of_sequences_are_read_as_splits_are(marked_by, trained):
    arrays, settings = MARKED_BY[marked_by]
    preprocessing, test = trained(arrays, **settings)
    sequences = [x[:, :end].tolist() for x, end in zip(X[40:], ENDS[40:], strict=True)]
    check_inputs(in_parts(preprocessing, preprocessing.given(sequences)), test)


@pytest.mark.parametrize("form", [np.asarray, torch.from_numpy, np.ndarray.tolist])
def test_arrays_padded_with_nan_are_read_as_splits_are(form, trained):
    preprocessing, test = trained({"x": filled(np.nan), "y": Y}, padding="nan")
    new = preprocessing.given(form(filled(np.nan)[40:]))
    check_inputs(in_parts(preprocessing, new), test)
