"""Sequences of different lengths in arrays: how ends are marked; nothing after an end matters."""

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


def filled(value, x=X):
    """Return the inputs with a value after each end."""
    return np.where(INSIDE[:, None], x, np.float32(value))


def written(folder, arrays, kind="classes", reporter=None, **settings):
    """Write arrays into one .npz and load it."""
    np.savez(folder / "train.npz", **arrays)
    return builders.build(
        "arrays", folder, reporter or Quiet(), kind=kind, train="train.npz", **settings
    )


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
    rows = []
    for samples in splits(task):
        batch = every(samples)
        batch_rows = [
            int(np.flatnonzero(np.isclose(x[0, 0], X[:, 0, 0], atol=0))[0]) for x in batch.x.numpy()
        ]
        np.testing.assert_array_equal(batch.valid, INSIDE[batch_rows])
        np.testing.assert_array_equal(batch.x, filled(0)[batch_rows])
        rows += batch_rows
    assert sorted(rows) == list(range(N))


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
    assert same(
        given_lengths,
        read({"x": X.transpose(0, 2, 1), "y": Y, "lengths": ENDS}, channels_last=True),
    )
    assert every(read({"x": X, "y": Y, "lengths": ENDS}, padding="none").train).valid is None


def test_longer_samples_than_trained_on_are_cut_and_reported(read, reporter):
    arrays = {"x_train": X[:40], "y_train": Y[:40], "lengths_train": np.minimum(ENDS, 6)[:40]}
    arrays |= {"x_test": X[40:], "y_test": Y[40:], "lengths_test": ENDS[40:]}
    task = read(arrays, normalize=False)
    assert task.input_shape == (C, 6)
    assert np.array_equal(every(task.open_test()).valid.sum(1), np.minimum(ENDS[40:], 6))
    cut = f"{(ENDS[40:] > 6).sum()} samples longer than 6 steps and cut at the end"
    assert reporter.lines[-1] == f"test split: {cut}"
    longest = read(arrays, normalize=False, length=9)
    assert np.array_equal(every(longest.open_test()).valid.sum(1), ENDS[40:])
    del arrays["lengths_test"]
    with refused(r"x_test\]: has no lengths, but another split has", DataError):
        read(arrays)


def test_bad_lengths_are_named_in_one_line(read):
    nothing = np.where((np.arange(N) == 5)[:, None, None], np.nan, X)
    for arrays, settings, message in (
        ({"lengths": ENDS + 1}, {}, r"lengths are not in 1\.\.9, the first is 10 at index 8"),
        (
            {"x": X.reshape(N, C, 3, 3), "lengths": ENDS},
            {},
            r"not sequences, so .*task\.padding=none",
        ),
        ({"x": nothing}, {"padding": "nan"}, "at index 5"),
    ):
        with refused(message, (DataError, ConfigError)):
            read({"x": X, "y": Y} | arrays, **settings)


@pytest.mark.parametrize("padding", [None, "nan"])
def test_new_data_of_different_lengths_are_taken_in_every_form(read, tmp_path, padding):
    arrays = (
        {"x": filled(np.nan), "y": Y} if padding else {"x": filled(7.0), "y": Y, "lengths": ENDS}
    )
    parts = {"train": slice(0, 40), "test": slice(40, N)}
    named = {
        f"{k}_{part}": values[rows] for k, values in arrays.items() for part, rows in parts.items()
    }
    task = read(named, padding=padding)
    preprocessing, test = reloaded(task, tmp_path / "run"), task.open_test()
    check_same(preprocessing, preprocessing.open(tmp_path / "train.npz", "INPUT", "test"), test)
    x, ends = arrays["x"][40:], ENDS[40:]
    forms = [[one[:, :end].tolist() for one, end in zip(x, ends, strict=True)]]
    forms += [x, torch.from_numpy(x), x.tolist()] if padding else []
    for form in forms:
        check_inputs(in_parts(preprocessing, preprocessing.given(form)), test)
