"""PSICOV over small files in PDNET's format: channels, windows, masks, the cache, and files that are not what they say."""

import os
import pickle
import tracemalloc

import numpy as np
import pytest
import torch

from orca_cli.exceptions import DataError, UnsafeError
from orca_cli.scoring.distances import LongRangeMAE
from tests.tasks.builders import every, refused

LENGTHS = {"deepcov": [12, 40, 9, 22, 15], "psicov": [14, 40]}  # at W = 32 proteins of 22 residues just fit
WINDOW = 32


def features(length, rng):
    return {
        "seq": "A" * length,
        "ss": rng.random((3, length)),
        "pssm": rng.normal(size=(length, 22)),
        "sa": rng.random(length).astype(np.float32),
        "entropy": rng.random(length),
        "ccmpred": rng.random((length, length), dtype=np.float32),
        "freecon": rng.random((length, length)),
        "potential": rng.random((length, length)).astype(np.float16),
    }


def write(root, lengths=LENGTHS):
    """Write PDNET's layout; returns what lies in it: collection -> id -> (features, distances)."""
    rng = np.random.default_rng(0)
    written = {}
    for collection, sizes in lengths.items():
        for kind in ("features", "distance"):
            (root / collection / kind).mkdir(parents=True, exist_ok=True)
        written[collection] = {}
        for number, length in enumerate(sizes):
            name = f"{number}{collection[0]}xyA"
            values, points = features(length, rng), np.cumsum(rng.normal(size=(length, 3)) * 3, axis=0)
            parts = values, np.linalg.norm(points[:, None] - points, axis=2)
            written[collection][name] = parts
            put(root, collection, name, *parts)
        lines = [f"{name} {len(parts[1])}" for name, parts in written[collection].items()]
        (root / f"{collection}.lst").write_text("\n".join(lines) + "\n\n")
    return written


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
def written(tmp_path):
    return write(tmp_path / "psicov")


def test_channels_and_distances_lie_where_the_format_says(written, read):
    task = read(split_seed=1)
    test = task.open_test()
    batch = test.batch(np.array([0]))
    x, y, valid = (part.numpy() for part in (batch.x, batch.y, batch.valid))
    arrays, distance = written["psicov"][test.proteins[0]]
    inside = slice(5, 5 + 14)
    block = x[0, :, inside, inside]
    profile = np.concatenate([arrays["ss"], arrays["pssm"].T, arrays["sa"][None], arrays["entropy"][None]])
    for number, values in enumerate(profile):
        np.testing.assert_allclose(block[2 * number], np.tile(values, (14, 1)), rtol=1e-6)  # along columns
        np.testing.assert_allclose(block[2 * number + 1], np.tile(values, (14, 1)).T, rtol=1e-6)
    for number, name in enumerate(("ccmpred", "freecon", "potential")):
        np.testing.assert_allclose(block[54 + number], arrays[name], rtol=1e-6)
    assert task.input_shape == x.shape[1:] == (57, WINDOW, WINDOW)
    assert (np.delete(np.delete(x[0], range(5, 19), 1), range(5, 19), 2) == 0).all()
    assert valid[0].sum() == 14 * 14 == (~np.isnan(y)).sum()
    targets = y[0, 0, inside, inside]
    upper = np.triu_indices(14, 1)
    np.testing.assert_allclose(targets[upper], np.maximum(distance, 1)[upper], rtol=1e-6)
    assert targets[0, 0] == targets[0, 1]
    assert targets[6, 6] == pytest.approx((targets[6, 5] + targets[6, 7]) / 2)


def test_training_distances_are_clipped_and_others_are_not_and_padding_counts_on_request(written, read):
    task, released = read(), read(pad_in_loss=True)
    assert np.nanmax(task.train.targets()) == 16
    assert np.nanmax(task.validation.targets()) > 16
    known = task.train.targets()[~np.isnan(task.train.targets())]
    assert float(task.target_scale.mean) == pytest.approx(known.mean(), rel=1e-5)
    batch = every(released.train)
    assert batch.valid is None
    assert not batch.y.isnan().any()
    assert (batch.y[:, 0, :5] == 16).all()
    assert np.isnan(released.validation.targets()[:, 0, :5]).all()  # the error must not count padding


@pytest.mark.parametrize("crop", ["diagonal", "independent"])
def test_a_protein_that_does_not_fit_is_cropped_in_step_with_its_features(crop, written, read):
    task = read(crop=crop, train_on_validation=True)
    index = list(task.train.proteins).index("1dxyA")
    arrays, distance = written["deepcov"]["1dxyA"]
    padded = {"x": np.pad(arrays["ccmpred"], 5), "y": np.pad(np.clip(distance, 1, 16), 5, constant_values=np.nan)}
    first = task.train.batch(np.array([index]))
    np.testing.assert_array_equal(first.x[0, 54], padded["x"][:WINDOW, :WINDOW])
    np.testing.assert_array_equal(first.y[0], task.train.targets()[index])
    seen = set()
    for seed in range(40):
        batch = task.train.batch(np.array([0, index]), np.random.default_rng(seed))
        row, column = np.argwhere(padded["x"] == batch.x[1, 54, 16, 16].item())[0] - 16
        np.testing.assert_array_equal(batch.x[1, 54], padded["x"][row : row + WINDOW, column : column + WINDOW])
        seen.add((row, column))
        expected = padded["y"][row : row + WINDOW, column : column + WINDOW].astype(np.float32)
        apart = np.subtract.outer(np.arange(row, row + WINDOW), np.arange(column, column + WINDOW)) != 0
        np.testing.assert_array_equal(batch.y[1, 0].numpy()[apart], expected[apart])
        assert (batch.valid[1].numpy() == ~np.isnan(expected)).all()
        np.testing.assert_array_equal(batch.y[0], task.train.targets()[0])  # a protein that fits stays where it is
    assert {0, 18} <= {row for row, _ in seen}
    assert all(row == column for row, column in seen) == (crop == "diagonal")


def test_splits_are_disjoint_and_test_is_the_official_list(written, tmp_path, read):
    task = read()
    train, validation = set(task.train.proteins), set(task.validation.proteins)
    assert (len(train), len(validation)) == (3, 2)
    assert train | validation == set(written["deepcov"])
    assert task.open_test().proteins == tuple(written["psicov"])
    assert set(read(train_on_validation=True).train.proteins) == train | validation
    (tmp_path / "psicov" / "psicov.lst").write_text("0pxyA\n1dxyA\n")
    for kind in ("features", "distance"):
        source = next((tmp_path / "psicov" / "deepcov" / kind).glob("1dxyA*"))
        (tmp_path / "psicov" / "psicov" / kind / source.name).write_bytes(source.read_bytes())
    shared = read()
    assert "1dxyA" not in shared.train.proteins + shared.validation.proteins


def test_every_protein_is_scored_over_its_own_length(tmp_path, read):
    write(tmp_path / "psicov" / "protein", {"deepcov": [12, 15, 9], "psicov": [9, 20, 14]})  # as in the archive
    batch = every(read(num_validation=1).open_test())
    error = LongRangeMAE(separation=4, threshold=500.0)
    # Off by one Angstrom inside a protein, by a thousand outside: only what is inside counts.
    outputs, targets = torch.where(batch.valid[:, None], batch.y.nan_to_num() + 1, 1000.0).numpy(), batch.y.numpy()
    assert error(outputs, targets).value == pytest.approx(1, abs=1e-4)
    for index in range(3):
        wrong = outputs.copy()
        wrong[index, 0] += 3
        assert error(wrong, targets).value == pytest.approx(2, abs=1e-4)  # every protein has the same weight


def test_unknown_distances_are_no_targets(written, tmp_path, read):
    values, distance = written["psicov"]["0pxyA"]
    distance[3, 9] = np.nan
    put(tmp_path / "psicov", "psicov", "0pxyA", values, distance)
    assert every(read().open_test()).y[0, 0, 5:19, 5:19].isnan().nonzero().tolist() == [[3, 9]]


def test_files_that_are_not_what_they_say_and_lists_that_lead_elsewhere_are_refused(written, tmp_path, read):
    arrays, distance = written["deepcov"]["0dxyA"]
    for values, scale, what in (
        ({"sa": np.zeros(3)}, 1, r"'sa' is float64 \(3,\); expected numbers \(12,\)"),
        ({"entropy": np.full(12, 1e3)}, 1, r"beyond \+-100"),
        ({}, 1e4, "above 500 Angstrom"),
    ):
        put(tmp_path / "psicov", "deepcov", "0dxyA", arrays | values, distance * scale)
        with refused(what, DataError):
            read(train_on_validation=True).train.batch(np.array([0]))
    for line, kind, what in (("../../etc/x", UnsafeError, "not the id"), ("", DataError, "lists no protein")):
        (tmp_path / "psicov" / "psicov.lst").write_text(line + "\n")
        with refused(what, kind):
            read()


def test_proteins_are_read_one_at_a_time(tmp_path, read):
    """A protein takes 15 MB in a window of 256, so that all would take 150 MB."""
    write(tmp_path / "psicov")
    root = tmp_path / "psicov" / "deepcov"
    for number in range(10):
        os.link(root / "features" / "1dxyA.pkl", root / "features" / f"copy{number}.pkl")
        os.link(root / "distance" / "1dxyA-cb.npy", root / "distance" / f"copy{number}-cb.npy")
    (tmp_path / "psicov" / "deepcov.lst").write_text("\n".join(f"copy{number}" for number in range(10)))
    tracemalloc.start()
    task = read(window=256)
    task.train.digest()
    for index in range(len(task.train)):
        task.train.batch(np.array([index]), np.random.default_rng(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6
