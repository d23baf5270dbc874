"""PSICOV over the synthetic files in PDNET's format: channels, windows, masks, wrong files."""

import pickle

import numpy as np
import pytest
import torch

from orca_cli.exceptions import DataError, UnsafeError
from orca_cli.scoring.dense import LongRangeMAE
from tests import benchmark_files
from tests.tasks.builders import every, refused

WINDOW = 64


def put(root, collection, name, values, distance):
    (root / collection / "features" / f"{name}.pkl").write_bytes(pickle.dumps(values, protocol=2))
    held = np.empty(3, object)
    held[:] = len(distance), "A" * len(distance), distance
    np.save(root / collection / "distance" / f"{name}-cb.npy", held)


@pytest.fixture
def read(build):
    def call(**settings):
        return build("psicov", **{"window": WINDOW, "num_validation": 2} | settings)

    return call


@pytest.fixture
def root(tmp_path):
    benchmark_files.make("psicov", tmp_path)
    return tmp_path / "psicov" / "protein"


def held(root, collection, name):
    """Return the features and distances of a protein."""
    distance = np.load(root / collection / "distance" / f"{name}-cb.npy", allow_pickle=True)[2]
    return pickle.loads((root / collection / "features" / f"{name}.pkl").read_bytes()), distance


def test_channels_and_distances_lie_where_the_format_says(root, read):
    task = read(split_seed=1)
    test = task.open_test()
    batch = test.batch(np.array([0]))
    x, y, valid = (part.numpy() for part in (batch.x, batch.y, batch.valid))
    arrays, distance = held(root, "psicov", test.proteins[0])
    inside = slice(5, 5 + 44)
    block = x[0, :, inside, inside]
    profile = np.concatenate(
        [arrays["ss"], arrays["pssm"].T, arrays["sa"][None], arrays["entropy"][None]]
    )
    for number, values in enumerate(profile):
        np.testing.assert_allclose(
            block[2 * number], np.tile(values, (44, 1)), rtol=1e-6
        )  # along columns
        np.testing.assert_allclose(block[2 * number + 1], np.tile(values, (44, 1)).T, rtol=1e-6)
    for number, name in enumerate(("ccmpred", "freecon", "potential")):
        np.testing.assert_allclose(block[54 + number], arrays[name], rtol=1e-6)
    assert task.input_shape == x.shape[1:] == (57, WINDOW, WINDOW)
    assert (np.delete(np.delete(x[0], range(5, 49), 1), range(5, 49), 2) == 0).all()
    assert valid[0].sum() == 44 * 44 == (~np.isnan(y)).sum()
    targets = y[0, 0, inside, inside]
    upper = np.triu_indices(44, 1)
    np.testing.assert_allclose(targets[upper], np.maximum(distance, 1)[upper], rtol=1e-6)
    assert targets[0, 0] == targets[0, 1]
    assert targets[6, 6] == pytest.approx((targets[6, 5] + targets[6, 7]) / 2)
    distance[3, 9] = np.nan  # not known, so no target
    put(root, "psicov", "ps0A", arrays, distance)
    assert every(read().open_test()).y[0, 0, 5:49, 5:49].isnan().nonzero().tolist() == [[3, 9]]


def test_training_is_clipped_and_counts_padding_on_request(root, read):
    task, released = read(), read(pad_in_loss=True)
    assert np.nanmax(task.train.targets()) == 16
    assert np.nanmax(task.validation.targets()) > 16
    known = task.train.targets()[~np.isnan(task.train.targets())]
    assert task.target_scale.mean.item() == pytest.approx(known.mean(), rel=1e-5)
    batch = every(released.train)
    assert batch.valid is None
    assert not batch.y.isnan().any()
    assert (batch.y[:, 0, :5] == 16).all()
    assert np.isnan(
        released.validation.targets()[:, 0, :5]
    ).all()  # the error must not count padding


@pytest.mark.parametrize("crop", ["diagonal", "independent"])
def test_a_long_proteins_features_and_target_share_a_window(crop, root, read):
    arrays, distance = held(root, "deepcov", "de2A")
    arrays["ccmpred"] = np.random.default_rng(0).random((80, 80))  # each value once
    put(root, "deepcov", "de2A", arrays, distance)
    task = read(crop=crop, train_on_validation=True)
    index = list(task.train.proteins).index("de2A")
    padded = {
        "x": np.pad(arrays["ccmpred"].astype(np.float32), 5),
        "y": np.pad(np.clip(distance, 1, 16), 5, constant_values=np.nan),
    }
    first = task.train.batch(np.array([index]))
    np.testing.assert_array_equal(first.x[0, 54], padded["x"][:WINDOW, :WINDOW])
    np.testing.assert_array_equal(first.y[0], task.train.targets()[index])
    seen = set()
    for seed in range(40):
        batch = task.train.batch(np.array([0, index]), np.random.default_rng(seed))
        row, column = np.argwhere(padded["x"] == batch.x[1, 54, 32, 32].item())[0] - 32
        np.testing.assert_array_equal(
            batch.x[1, 54], padded["x"][row : row + WINDOW, column : column + WINDOW]
        )
        seen.add((row, column))
        expected = padded["y"][row : row + WINDOW, column : column + WINDOW].astype(np.float32)
        apart = (
            np.subtract.outer(np.arange(row, row + WINDOW), np.arange(column, column + WINDOW)) != 0
        )
        np.testing.assert_array_equal(batch.y[1, 0].numpy()[apart], expected[apart])
        assert (batch.valid[1].numpy() == ~np.isnan(expected)).all()
        np.testing.assert_array_equal(
            batch.y[0], task.train.targets()[0]
        )  # a protein that fits stays where it is
    assert min(row for row, _ in seen) <= 2
    assert 24 <= max(row for row, _ in seen) <= 26
    assert all(row == column for row, column in seen) == (crop == "diagonal")


def test_splits_are_disjoint_and_test_is_the_official_list(root, read):
    task = read()
    train, validation = set(task.train.proteins), set(task.validation.proteins)
    assert (len(train), len(validation)) == (4, 2)
    assert train | validation == {f"de{number}A" for number in range(6)}
    assert task.open_test().proteins == ("ps0A", "ps1A")
    assert set(read(train_on_validation=True).train.proteins) == train | validation
    (root / "psicov.lst").write_text("ps0A\nde2A\n")
    put(root, "psicov", "de2A", *held(root, "deepcov", "de2A"))
    for path in list(root.iterdir()):
        path.rename(root.parent / path.name)  # the other layout
    shared = read()
    assert "de2A" not in shared.train.proteins + shared.validation.proteins


def test_every_protein_is_scored_over_its_own_length(root, read):
    batch = every(read().open_test())
    error = LongRangeMAE(separation=4, threshold=500.0)
    # Off by one Angstrom inside a protein, by a thousand outside: only what is inside counts.
    outputs, targets = (
        torch.where(batch.valid[:, None], batch.y.nan_to_num() + 1, 1000.0).numpy(),
        batch.y.numpy(),
    )
    assert error(outputs, targets).value == pytest.approx(1, abs=1e-4)
    for index in range(2):
        wrong = outputs.copy()
        wrong[index, 0] += 3
        assert error(wrong, targets).value == pytest.approx(
            2.5, abs=1e-4
        )  # every protein has the same weight


def test_wrong_files_and_lists_that_lead_elsewhere_are_refused(root, read):
    arrays, distance = held(root, "deepcov", "de0A")
    for values, scale, what in (
        ({"sa": np.zeros(3)}, 1, r"'sa' has .* shape \(3,\); expected numbers of shape \(30,\)"),
        ({"entropy": np.full(30, 1e3)}, 1, "above 100 or below -100"),
        ({}, 1e4, "above 500 Angstrom"),
    ):
        put(root, "deepcov", "de0A", arrays | values, distance * scale)
        with refused(what, DataError):
            read(train_on_validation=True).train.batch(np.array([0]))
    for line, kind, what in (
        ("../../etc/x", UnsafeError, "not the id"),
        ("", DataError, "lists no proteins"),
    ):
        (root / "psicov.lst").write_text(line + "\n")
        with refused(what, kind):
            read()
