"""Samples with identical inputs, or of one group, stay in one split, whatever form the data have."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.data import contents
from tests.properties import examples
from tests.tasks.builders import every, splits

N = 80  # distinct inputs, of which every fourth is there three times
RNG = np.random.default_rng(0)  # for the arrays below
COPIED = np.arange(0, N, 4)
ROWS = RNG.permutation(np.concatenate([np.arange(N), COPIED, COPIED]))
Y = ROWS % 2
PATIENTS = np.array([f"p{row // 4}" for row in ROWS])  # four distinct inputs each
X = RNG.normal(size=(N, 2, 6)).astype(np.float32)
LENGTHS = np.arange(N) % 3 + 4


def mapped(folder):
    np.save(folder / "x.npy", X[ROWS])
    np.save(folder / "y.npy", Y)
    return "arrays", {"train": "x.npy", "labels": "y.npy", "kind": "classes", "normalize": False}


def lengths(folder):
    """Write sequences whose copies differ behind their ends."""
    x = X[ROWS]
    for i, (row, steps) in enumerate(zip(x, LENGTHS[ROWS], strict=True)):
        row[:, steps:] = i
    np.savez(folder / "a.npz", x=x, y=Y, lengths=LENGTHS[ROWS], patient=PATIENTS)
    return "arrays", {"train": "a.npz", "kind": "classes", "normalize": False}


def table(folder):
    """Write numbers that copies spell in another way."""
    first = [f"{X[row, 0, 0]:.6f}" + "0" * (i % 2) for i, row in enumerate(ROWS)]
    pd.DataFrame({"a": first, "patient": PATIENTS, "y": Y}).to_csv(folder / "t.csv", index=False)
    return "table", {
        "train": "t.csv",
        "kind": "classes",
        "target": "y",
        "features": ["a"],
        "normalize": False,
    }


def identified(folder):
    """Write names that tell copies apart; they are not inputs."""
    name, settings = table(folder)
    rows = pd.read_csv(folder / "t.csv", dtype=str).drop(columns="patient")
    rows.assign(name=[f"p{i}" for i in range(len(rows))]).to_csv(folder / "t.csv", index=False)
    del settings["features"]
    return name, settings


def series(folder):
    columns = {
        "id": np.arange(len(ROWS)).repeat(6),
        "a": X[ROWS, 0].ravel(),
        "b": X[ROWS, 1].ravel(),
    }
    pd.DataFrame(columns | {"y": Y.repeat(6)}).to_csv(folder / "t.csv", index=False)
    return "table", {
        "train": "t.csv", "kind": "classes", "target": "y", "id": "id", "normalize": False,
    }  # fmt: skip


@pytest.mark.parametrize("form", [mapped, lengths, table, identified, series])
def test_identical_inputs_are_in_one_split_and_counted(form, build, tmp_path):
    name, settings = form(tmp_path)
    task = build(name, **settings, validation_fraction=0.2, test_fraction=0.2)
    inputs_by_split = [{x.tobytes() for x in every(samples).x.numpy()} for samples in splits(task)]
    assert sum(len(samples) for samples in splits(task)) == len(ROWS)
    assert sum(map(len, inputs_by_split)) == len(set.union(*inputs_by_split)) == N
    assert (
        f"{3 * len(COPIED)} samples have the same inputs as another sample; samples with the same inputs stay in one split"
        in task.note
    )


@pytest.mark.parametrize("other", [-0.0, -np.float32(np.nan)])
def test_numbers_with_several_bit_patterns_are_one_input(other, build, tmp_path):
    x = np.arange(2 * 40, dtype=np.float32).reshape(40, 1, 2).repeat(2, axis=0)
    x[::2, 0, 1] = other
    x[1::2, 0, 1] = -other
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(80) // 2 % 2)
    task = build("arrays", train="a.npz", kind="classes")
    assert (
        "80 samples have the same inputs as another sample; samples with the same inputs stay in one split"
        in task.note
    )


@pytest.mark.parametrize("form", [lengths, table])
def test_groups_are_in_one_split_and_counted(form, build, tmp_path):
    name, settings = form(tmp_path)
    task = build(name, **settings, group="patient")
    groups = [set(samples.groups()) for samples in splits(task)]
    assert all(groups)
    assert sum(map(len, groups)) == len(set.union(*groups)) == N // 4
    for samples, split_groups in zip(splits(task), groups, strict=True):
        assert len({x.tobytes() for x in every(samples).x.numpy()}) == 4 * len(split_groups)
    assert f"{N // 4} groups kept together" in task.note


@examples(20)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=60, max_size=80))
def test_groups_and_identical_inputs_are_joined_where_they_meet(pairs):
    groups, copies = np.array(pairs).T
    joined, _ = contents.joined(groups, copies)
    are_together = (groups[:, None] == groups) | (copies[:, None] == copies)
    for _ in range(7):  # what can be reached in up to 2^7 steps
        steps = are_together.astype(np.float32)
        are_together = steps @ steps > 0
    repeat_by_nature = len(set(copies)) < 30 and 2 * len(set(copies)) < len(copies)
    expected = groups[:, None] == groups if repeat_by_nature else are_together
    assert np.array_equal(joined[:, None] == joined, expected)
