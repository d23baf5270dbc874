"""What the readers return of the synthetic files of scripts/make_fixtures.py is what was written, traps included."""

import importlib
import inspect
import pickle
import random

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from orca_cli.exceptions import UnsafeError
from orca_cli.scoring.multilabel import MeanAUROC
from orca_cli.tasks.fsd50k import log_mel, wav
from orca_cli.tasks.fsd50k import reader as fsd50k
from orca_cli.tasks.psicov import reader as psicov
from scripts import make_fixtures
from tests.tasks.conftest import SilentReporter

SMALL = {
    "psicov": {"window": 64, "num_validation": 2},
    "spherical": {"validation_size": 100},
    "cifar100": {"validation_size": 100},
    "domainnet": {"validation_size": 40},
    "listops": {"origin": "files"},
    "darcy": {"origin": "files", "num_train": 16, "num_validation": 8, "num_test": 6},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def written(folder):
    return {task: make_fixtures.make(task, folder) for task in make_fixtures.TASKS}


@pytest.fixture
def read(folder, written):
    def call(task, data_folder=folder, **settings):
        load = importlib.import_module(f"orca_cli.tasks.{task}").load
        given = {"data_folder": data_folder, "cache_folder": data_folder / "cache", "reporter": SilentReporter()}
        taken = {name: value for name, value in given.items() if name in inspect.signature(load).parameters}
        return load(**taken, **SMALL.get(task, {}) | settings)

    return call


def every(samples):
    return samples.batch(np.arange(len(samples)))


def splits(task):
    return task.train, task.validation, task.open_test()


def pixels(images, mean, std):
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (mean, std))
    return (images / 255 - mean) / std


def same_rows(found, expected, atol):
    """Hold samples of unknown order against those that were written; returns which each of them is."""
    found, expected = (np.asarray(a, np.float32).reshape(len(a), -1) for a in (found, expected))
    some = slice(None, None, found.shape[1] // 50)  # tells samples apart
    rows = np.abs(found[:, None, some] - expected[None, :, some]).max(-1).argmin(1)
    np.testing.assert_allclose(found, expected[rows], atol=atol)
    assert sorted(rows) == list(range(len(expected)))
    return rows


def test_cifar100(read, written):
    task = read("cifar100")
    test = every(task.open_test())
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    np.testing.assert_allclose(test.x, pixels(written["cifar100"]["test"]["images"], mean, std), atol=1e-5)
    assert test.y.tolist() == written["cifar100"]["test"]["labels"].tolist()
    x, y = (np.concatenate([getattr(every(part), name) for part in (task.train, task.validation)]) for name in "xy")
    rows = same_rows(x, pixels(written["cifar100"]["train"]["images"], mean, std), 1e-4)
    assert (y == written["cifar100"]["train"]["labels"][rows]).all()


def test_spherical(read, written):
    task = read("spherical")
    test = every(task.open_test())
    np.testing.assert_allclose(test.x * 255, written["spherical"]["test"]["images"], atol=1e-4)
    x, y = (np.concatenate([getattr(every(part), name) for part in (task.train, task.validation)]) for name in "xy")
    rows = same_rows(x, written["spherical"]["train"]["images"] / 255, 1e-5)
    assert (y == written["spherical"]["train"]["labels"][rows]).all()


def test_darcy_of_both_forms_of_mat_files(read, written):
    task = read("darcy")
    train, test = written["darcy"]["smooth1"], written["darcy"]["smooth2"]  # MATLAB 5, HDF5
    kept = {name: values[:, ::5, ::5] for name, values in train.items()}
    mean, std = kept["coeff"][:16].mean(0), kept["coeff"][:16].std(0, ddof=1) + 1e-5
    for samples, content, rows in zip(
        splits(task), (train, train, test), (range(16), range(16, 24), range(6)), strict=True
    ):
        batch = every(samples)
        coeff, sol = (content[name][rows][:, ::5, ::5] for name in ("coeff", "sol"))
        np.testing.assert_allclose(batch.x[:, 0], (coeff - mean) / std, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(batch.y[:, 0], sol, rtol=1e-6)


def test_psicov_proteins_below_at_and_above_the_window(read, written):
    task = read("psicov")
    lengths = []
    for samples in splits(task):
        batch = every(samples)
        for name, x, y, valid in zip(samples.proteins, batch.x.numpy(), batch.y.numpy(), batch.valid, strict=True):
            features, distances = written["psicov"][name]["features"], written["psicov"][name]["distances"]
            length = len(distances)
            lengths.append(length)
            seen = min(length, 64 - 5)
            inside = slice(5, 5 + seen)
            np.testing.assert_allclose(x[54, inside, inside], features["ccmpred"][:seen, :seen], rtol=1e-6)
            np.testing.assert_allclose(x[50, 7, inside], features["sa"][:seen], rtol=1e-6)
            apart = ~np.eye(seen, dtype=bool)
            expected = np.maximum(distances, 1)[:seen, :seen]
            if samples is task.train:
                expected = np.minimum(expected, 16)
            np.testing.assert_allclose(y[0, inside, inside][apart], expected[apart], rtol=1e-6)
            assert valid.sum() == seen**2 == (~np.isnan(y)).sum()
    assert {54, 70, 80} <= set(lengths)  # 54 and its margins just fit


def test_cosmic_stamps_of_two_and_three_planes(read, written):
    task = read("cosmic", normalize=False)
    inside = (slice(64, 192),) * 2
    planes = set()
    for samples in splits(task):
        batch = every(samples)
        for name, x, y in zip(samples.stamps, batch.x.numpy(), batch.y.numpy(), strict=True):
            stamp = written["cosmic"][str(name)]
            planes.add(len(stamp))
            np.testing.assert_array_equal(x[0], stamp[0][inside])
            mask = np.where(stamp[2][inside] == 1, np.nan, stamp[1][inside]) if len(stamp) == 3 else stamp[1][inside]
            np.testing.assert_array_equal(y[0], mask)
    assert planes == {2, 3}


def test_ninapro(read, written):
    task = read("ninapro", normalize="none")
    for samples, part in zip(splits(task), ("train", "val", "test"), strict=True):
        batch = every(samples)
        np.testing.assert_array_equal(batch.x[:, 0], written["ninapro"][part]["data"].transpose(0, 2, 1))
        np.testing.assert_array_equal(batch.y, written["ninapro"][part]["labels"])


def test_fsd50k_chunks_clips_and_labels(read, folder, written):
    task = read("fsd50k")
    names = list(task.class_names)
    for samples, split in zip(splits(task)[1:], ("val", "eval"), strict=True):
        clips = {name: clip for name, clip in written["fsd50k"].items() if clip["split"] == split}
        groups = samples.groups()
        assert np.bincount(groups).tolist() == [clip["chunks"] for clip in clips.values()]
        targets = samples.targets()
        for number, clip in enumerate(clips.values()):
            assert {names[k] for k in np.flatnonzero(targets[groups == number][0])} == set(clip["labels"])
        first = next(iter(clips))
        _, sound = wavfile.read(folder / "fsd50k" / "chunks" / split / f"{first}_0.wav")
        expected = log_mel.log_mel(sound[None] / np.float32(32768))
        np.testing.assert_allclose(samples.batch(np.array([0])).x[0, 0, :, :101], expected[0], atol=1e-3)
    assert len(task.train) == sum(clip["split"] == "tr" for clip in written["fsd50k"].values())


def test_ecg_records_of_the_lengths_that_are_traps(read, written):
    task = read("ecg")
    records = [np.asarray(record, float) for record in written["ecg"]["data"]]
    assert {900, 1000, 1500} <= {len(record) for record in records}
    seen = set()
    for samples in splits(task):
        batch, groups = every(samples), samples.groups()
        for row in np.unique(groups):
            seen.add(int(row))
            record = records[row]
            scores = (record - record.mean()) / (record.std() or 1)
            first = batch.x[np.flatnonzero(groups == row)[0], 0].numpy()
            size = min(1000, len(record))
            np.testing.assert_allclose(first[:size], scores[:1000], atol=1e-4)
            assert not first[size:].any()
            assert "NAO~"[batch.y[np.flatnonzero(groups == row)[0]]] == written["ecg"]["labels"][row]
            last = batch.x[np.flatnonzero(groups == row)[-1], 0].numpy()
            if len(record) == 1500 and samples is not task.train:  # the second window ends with the record
                np.testing.assert_allclose(last, scores[500:], atol=1e-4)
    assert seen == set(range(len(records)))


def test_satellite(read, written):
    task = read("satellite", normalize="none")
    test = every(task.open_test())
    np.testing.assert_allclose(test.x[:, 0], written["satellite"]["test"]["data"], rtol=1e-6)
    np.testing.assert_array_equal(test.y, written["satellite"]["test"]["label"] - 1)
    assert set(task.train.targets()) == set(range(24))


def test_deepsea_and_a_label_that_is_never_present(read, written):
    task = read("deepsea")
    for samples, part in zip(splits(task), ("train", "val", "test"), strict=True):
        batch = every(samples)
        np.testing.assert_array_equal(batch.x, written["deepsea"][f"x_{part}"].transpose(0, 2, 1))
        np.testing.assert_array_equal(batch.y, written["deepsea"][f"y_{part}"])
    score = MeanAUROC()(torch.rand(batch.y.shape), batch.y)
    assert (score.n, score.skipped) == (35, 1)


def test_jsb(read, written):
    task = read("jsb")
    for samples, part in zip(splits(task), ("traindata", "validdata", "testdata"), strict=True):
        batch = every(samples)
        for x, y, valid, piece in zip(batch.x, batch.y, batch.valid, written["jsb"][part], strict=True):
            size = len(piece) - 1
            np.testing.assert_array_equal(x[:, :size].T, piece[:-1])
            np.testing.assert_array_equal(y[:, :size].T, piece[1:])
            assert y[:, size:].isnan().all()
            assert int(valid.sum()) == size


def test_listops_and_expressions_beyond_the_input(read, written):
    from orca_cli.tasks.listops import VOCABULARY

    dropped = read("listops", over_length="drop")
    for samples, kept, part in zip(splits(read("listops")), splits(dropped), ("train", "val", "test"), strict=True):
        rows = written["listops"][part]
        batch = every(samples)
        assert batch.y.tolist() == [value for _, value in rows]
        for x, valid, (source, _) in zip(batch.x, batch.valid, rows, strict=True):
            words = source.replace("(", "").replace(")", "").split()
            assert [VOCABULARY[i] for i in x.argmax(0)[valid]] == words[:1024]
        assert len(kept) == len(rows) - 1  # the last one has more than 1,024 tokens


def test_homology_in_both_forms(read, written):
    from orca_cli.tasks.homology import VOCABULARY

    tasks = read("homology"), read("homology", path="homology/json")
    for database, twin in zip(*map(splits, tasks), strict=True):
        assert database.digest() == twin.digest()
    for samples, part in zip(splits(tasks[0]), ("train", "valid", "test_fold_holdout"), strict=True):
        batch = every(samples)
        for x, y, valid, protein in zip(batch.x, batch.y, batch.valid, written["homology"][part], strict=True):
            assert y == protein["fold_label"]
            found = [VOCABULARY[i] for i in x.argmax(0)[valid]]
            assert found == ["cls", *protein["primary"][:1417], "sep"]
    assert "1 of 40 in train" in tasks[0].note


def test_domainnet(read, written):
    task = read("domainnet")
    test = every(task.open_test())
    assert test.x.shape == (40, 3, 224, 224)
    assert test.y.tolist() == written["domainnet"]["test"]["labels"].tolist()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = pixels(written["domainnet"]["test"]["images"].mean((1, 2))[:, :, None, None], mean, std)
    np.testing.assert_allclose(test.x.mean((2, 3)), expected[:, :, 0, 0], atol=0.05)


def some(task):
    """Use a task as a run does."""
    task.train.digest()
    for samples in splits(task):
        samples.targets()
        samples.batch(np.arange(2), np.random.default_rng(0) if samples is task.train else None)


@pytest.mark.parametrize("task", make_fixtures.TASKS)
def test_no_reader_moves_the_global_generators(read, task):
    states = np.random.get_state()[1].copy(), torch.get_rng_state(), random.getstate()
    some(read(task))
    assert (np.random.get_state()[1] == states[0]).all()
    assert torch.equal(torch.get_rng_state(), states[1])
    assert random.getstate() == states[2]


@pytest.mark.parametrize("task", make_fixtures.TASKS)
def test_samples_do_not_depend_on_who_else_is_asked_for(read, task):
    samples = read(task).validation
    every_one = every(samples)
    for index in (len(samples) - 1, 0):
        alone = samples.batch(np.array([index]))
        torch.testing.assert_close(alone.x[0], every_one.x[index], equal_nan=True)
        torch.testing.assert_close(alone.y[0], every_one.y[index], equal_nan=True)


def test_classes_are_known_without_reading_the_items(read, monkeypatch):
    tasks = read("fsd50k"), read("psicov"), read("domainnet")
    for module, name in ((wav, "read"), (fsd50k.wav, "read"), (psicov, "read_features")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("an item was read"))
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("an image was opened"))
    assert [len(task.train.targets()) for task in tasks] == [12, 4, 40]


class Attack:
    """What a hostile pickle asks for; it would make a file."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return open, (self.canary, "w")


@pytest.mark.parametrize(
    ("task", "file"),
    [
        ("spherical", "s2_cifar100"),
        ("psicov", "protein/deepcov/features/de0A.pkl"),
        ("psicov", "protein/deepcov/distance/de0A-cb.npy"),
        ("cosmic", "npy_train/f435w/10000/00/sky.npy"),
        ("cosmic", "npy_train/f435w/10000/00/1_stamp.npy"),
        ("cosmic", "train_dirs.npy"),
        ("ninapro", "label_train.npy"),
        ("ninapro", "ninapro_train.npy"),
        ("ecg", "challenge2017.pkl"),
        ("satellite", "satellite_train.npy"),
        ("deepsea", "deepsea_filtered.npz"),
    ],
)
def test_files_that_ask_for_code_are_refused_by_every_task(task, file, tmp_path, read):
    make_fixtures.make(task, tmp_path)
    canary, path = tmp_path / "canary", tmp_path / task / file
    (path.parent / "s2_cifar100.gz").unlink(missing_ok=True)
    if file.endswith(".npy"):
        content = np.empty(2, dtype=object)
        content[:] = [Attack(canary)] * 2
        np.save(path, content, allow_pickle=True)
    elif file.endswith(".npz"):
        np.savez(path, x_train=np.array([Attack(canary)], dtype=object))
    else:
        path.write_bytes(pickle.dumps({"data": Attack(canary), "label": Attack(canary), "seq": Attack(canary)}))
    with pytest.raises(UnsafeError):
        some(read(task, tmp_path, train_on_validation=True))
    assert not canary.exists()
