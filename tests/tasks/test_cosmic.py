"""Cosmic over the synthetic files in deepCR's layout: planes, sky, lists, whole visits, wrong files."""

import shutil

import numpy as np
import pytest

from orca_cli.exceptions import DataError, UnsafeError
from tests import benchmark_files
from tests.tasks.builders import every, refused, splits

START, SIZE = 4, 8


@pytest.fixture
def read(build):
    def call(**settings):
        return build(
            "cosmic", **{"crop_start": START, "crop_size": SIZE, "split_seed": 1} | settings
        )

    return call


@pytest.fixture
def written(tmp_path):
    """Write the files; returns path relative to root -> planes. Two visits of four have no sky, one has two planes."""
    benchmark_files.make("cosmic", tmp_path)
    root = tmp_path / "cosmic"
    shutil.copytree(
        root / "npy_train/f435w", root / "npy_train/f814w"
    )  # another filter, which is not read
    return {
        str(path.relative_to(root)): np.load(path)
        for path in root.glob("npy_*/f435w/*/*/*_stamp.npy")
    }


def names(samples):
    return [str(stamp) for stamp in samples.stamps]


def test_images_and_masks_are_the_crops_of_the_files(written, read):
    task = read(normalize=False)
    inside = (slice(START, START + SIZE),) * 2
    for samples in splits(task):
        batch = every(samples)
        for name, x, y in zip(names(samples), batch.x.numpy(), batch.y.numpy(), strict=True):
            planes = written[name]
            np.testing.assert_array_equal(x[0], planes[0][inside])  # raw counts, no sky added
            known = planes[2][inside] == 0 if len(planes) == 3 else np.ones((SIZE, SIZE), bool)
            np.testing.assert_array_equal(y[0], np.where(known, planes[1][inside], np.nan))
        np.testing.assert_array_equal(batch.y, samples.targets())
    assert isinstance(task.train.targets(), np.memmap)


def test_counts_are_scaled_by_statistics_that_rays_do_not_move(written, read):
    task = read()
    raw = read(normalize=False).train.batch(np.array([0])).x
    x = every(task.train).x
    assert abs(float(x.median())) < 0.2
    assert 0.8 < float((x - x.median()).abs().median()) * 1.4826 < 1.2
    ratio = (raw[0, 0, 0, 0] - raw[0, 0, 0, 1]) / (x[0, 0, 0, 0] - x[0, 0, 0, 1])
    assert 2.4 < float(ratio) < 3.6  # the deviation of the background, not of the rays


def test_a_part_of_the_sky_is_added_in_optimizer_steps_only(written, tmp_path, read):
    task = read(normalize=False, train_on_validation=True)
    everything, draws = np.arange(len(task.train)), []
    plain = task.train.batch(everything).x
    for seed in range(20):
        first = task.train.batch(everything, np.random.default_rng(seed)).x
        for name, shift in zip(names(task.train), (first - plain).numpy()[:, 0], strict=True):
            sky, exposure = (
                (tmp_path / "cosmic" / name).with_name("sky.npy"),
                int(name.split("/")[-1][0]),
            )
            assert np.ptp(shift) < 0.1
            if sky.exists():
                draws.append(shift[0, 0] / np.load(sky)[exposure - 1])
            else:
                assert (shift == 0).all()
    assert len(set(draws)) == len(draws) == 120
    assert (first == task.train.batch(everything, np.random.default_rng(19)).x).all()
    assert -0.901 < min(draws) < -0.8
    assert 2.9 < max(draws) < 3.001


def test_the_released_sky_at_test_is_one_draw_per_file(written, tmp_path, read):
    plain = read(normalize=False).open_test()
    first, second = (read(normalize=False, sky_at_test=True).open_test() for _ in range(2))
    both = np.arange(2)
    sky = np.load(tmp_path / "cosmic/npy_test/f435w/10000/00/sky.npy")[:2]
    draws = (first.batch(both).x - plain.batch(both).x)[:, 0, 0, 0].numpy() / sky
    assert ((draws > -0.901) & (draws < 3.001)).all()
    assert (first.batch(both).x == second.batch(both).x).all()
    assert first.digest() != plain.digest()


def test_whole_visits_are_held_out(written, read):
    task = read(validation_fraction=0.5)
    train, validation = (
        {name.rsplit("/", 1)[0] for name in names(part)} for part in (task.train, task.validation)
    )
    assert len(validation) == 2
    assert len(train) == 2
    assert not train & validation
    one = read(validation_fraction=0.1, validation_unit="exposure")
    assert len(one.validation) == 1


def test_lists_name_the_stamps_where_they_exist(written, tmp_path, read):
    root = tmp_path / "cosmic"
    expected = sorted(name for name in written if "npy_train" in name and "/10003/" not in name)
    others = [name.replace("f435w", "f814w") for name in expected]
    mixed = np.array([f"./cosmic/{name}" for name in [*reversed(expected), *others]], dtype=object)
    np.save(root / "train_dirs.npy", mixed, allow_pickle=True)
    np.save(
        root / "test_dirs.npy", np.array(["/home/them/cosmic/npy_test/f435w/10000/00/1_stamp.npy"])
    )
    task = read(train_on_validation=True)
    assert names(task.train) == expected
    assert names(task.open_test()) == ["npy_test/f435w/10000/00/1_stamp.npy"]


def test_files_that_are_not_what_they_say_are_refused(written, tmp_path, read):
    for file, content, what, error in (
        ("train_dirs.npy", ["./cosmic/npy_train/../../f435w/1/1/x.npy"], "leads out", UnsafeError),
        (
            "train_dirs.npy",
            ["./cosmic/npy_test/f435w/10000/00/1_stamp.npy"],
            "is not a file npy_train",
            DataError,
        ),
        (
            "npy_train/f435w/10000/00/1_stamp.npy",
            np.full((2, 16, 16), 2.0),
            "1_stamp.npy.*a mask has other values",
            DataError,
        ),
    ):
        path = tmp_path / "cosmic" / file
        np.save(path, content)
        with refused(what, error):
            read()
        path.unlink()


def test_broken_pixels_count_nowhere(written, tmp_path, read):
    path = tmp_path / "cosmic/npy_train/f435w/10000/00/1_stamp.npy"
    planes = np.load(path)
    planes[0, 5, 6] = np.nan
    np.save(path, planes)
    task = read(train_on_validation=True)
    batch = task.train.batch(np.array([0]), np.random.default_rng(0))
    assert batch.x[0, 0, 1, 2] == 0
    assert batch.x.isfinite().all()
    assert batch.y[0, 0, 1, 2].isnan()
