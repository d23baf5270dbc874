"""Cosmic over small files in deepCR's layout: planes, sky, lists, whole visits, and files that are not what they say."""

import numpy as np
import pytest

from orca_cli.exceptions import DataError, UnsafeError
from tests.tasks.builders import every, refused, splits

START, SIZE = 4, 8
VISITS = {"train": ["10_1", "10_2", "11_a3", "12_1", "13_x"], "test": ["20_1"]}
SKIES = np.array([100.0, 200.0])


@pytest.fixture
def read(build):
    def call(**settings):
        return build("cosmic", **{"crop_start": START, "crop_size": SIZE, "split_seed": 1} | settings)

    return call


@pytest.fixture
def written(tmp_path):
    """Write deepCR's layout; returns path relative to root -> planes. Odd visits have no sky.npy and 2 planes."""
    root, rng, written = tmp_path / "cosmic", np.random.default_rng(0), {}
    for part, keys in VISITS.items():
        for place, key in enumerate(keys):
            for band in ("f435w", "f814w"):
                folder = root / f"npy_{part}" / band / key.replace("_", "/")
                folder.mkdir(parents=True)
                if place % 2 == 0:
                    np.save(folder / "sky.npy", SKIES)
                for number in range(2):
                    image = rng.normal(1000, 10, (16, 16))
                    image[6, 6] = 1e6  # a star
                    mask, ignore = rng.random((16, 16)) < 0.1, rng.random((16, 16)) < 0.1
                    planes = np.stack([image, mask, ignore][: 3 - place % 2]).astype(np.float32)
                    path = folder / f"{number + 1}_{number}.npy"
                    np.save(path, planes)
                    written[str(path.relative_to(root))] = planes
    return written


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
    assert all("f435w" in name for name in names(task.train))


def test_counts_are_scaled_by_statistics_that_stars_do_not_move(written, read):
    task = read()
    raw = read(normalize=False).train.batch(np.array([0])).x
    x = every(task.train).x
    assert abs(float(x.median())) < 0.2
    assert 0.8 < float((x - x.median()).abs().median()) * 1.4826 < 1.2
    ratio = (raw[0, 0, 0, 0] - raw[0, 0, 0, 1]) / (x[0, 0, 0, 0] - x[0, 0, 0, 1])
    assert 8 < float(ratio) < 12  # the deviation of the background, not of the stars


def test_a_part_of_the_sky_is_added_in_optimizer_steps_only(written, read):
    task = read(normalize=False, train_on_validation=True)
    everything, draws = np.arange(len(task.train)), []
    plain = task.train.batch(everything).x
    for seed in range(20):
        first = task.train.batch(everything, np.random.default_rng(seed)).x
        for name, shift in zip(names(task.train), (first - plain).numpy()[:, 0], strict=True):
            assert np.ptp(shift) < 0.1
            if VISITS["train"].index("_".join(name.split("/")[2:4])) % 2 == 0:
                draws.append(shift[0, 0] / SKIES[int(name.split("/")[-1][0]) - 1])  # exposures count from 1
            else:
                assert (shift == 0).all()
    assert len(set(draws)) == len(draws) == 120
    assert (first == task.train.batch(everything, np.random.default_rng(19)).x).all()
    assert -0.901 < min(draws) < -0.8
    assert 2.9 < max(draws) < 3.001


def test_the_released_sky_at_test_is_one_draw_per_file(written, read):
    plain = read(normalize=False).open_test()
    first, second = (read(normalize=False, sky_at_test=True).open_test() for _ in range(2))
    both = np.arange(2)
    draws = (first.batch(both).x - plain.batch(both).x)[:, 0, 0, 0].numpy() / SKIES
    assert ((draws > -0.901) & (draws < 3.001)).all()
    assert (first.batch(both).x == second.batch(both).x).all()
    assert first.digest() != plain.digest()


def test_whole_visits_are_held_out(written, read):
    task = read(validation_fraction=0.4)
    train, validation = ({name.rsplit("/", 1)[0] for name in names(part)} for part in (task.train, task.validation))
    assert len(validation) == 2
    assert len(train) == 3
    assert not train & validation
    one = read(validation_fraction=0.1, validation_unit="exposure")
    assert len(one.validation) == 1


def test_lists_name_the_stamps_where_they_exist(written, tmp_path, read):
    root = tmp_path / "cosmic"
    expected = sorted(name for name in written if "npy_train/f435w/1" in name and "/13/" not in name)
    others = [name for name in written if "f814w/10" in name and "train" in name]
    mixed = np.array([f"./cosmic/{name}" for name in [*reversed(expected), *others]], dtype=object)
    np.save(root / "train_dirs.npy", mixed, allow_pickle=True)
    np.save(root / "test_dirs.npy", np.array(["/home/them/cosmic/npy_test/f435w/20/1/1_0.npy"]))
    task = read(train_on_validation=True)
    assert names(task.train) == expected
    assert names(task.open_test()) == ["npy_test/f435w/20/1/1_0.npy"]


def test_files_that_are_not_what_they_say_are_refused(written, tmp_path, read):
    for file, content, what, error in (
        ("train_dirs.npy", ["./cosmic/npy_train/../../f435w/1/1/x.npy"], "leads out", UnsafeError),
        ("train_dirs.npy", ["./cosmic/npy_test/f435w/20/1/1_0.npy"], "is not a file npy_train", DataError),
        ("npy_train/f435w/10/1/1_0.npy", np.full((2, 16, 16), 2.0), "1_0.npy.*a mask has other values", DataError),
    ):
        path = tmp_path / "cosmic" / file
        np.save(path, content)
        with refused(what, error):
            read()
        path.unlink()


def test_broken_pixels_count_nowhere(written, tmp_path, read):
    path = tmp_path / "cosmic" / "npy_train/f435w/10/1/1_0.npy"
    planes = np.load(path)
    planes[0, 5, 6] = np.nan
    np.save(path, planes)
    task = read(train_on_validation=True)
    batch = task.train.batch(np.array([0]), np.random.default_rng(0))
    assert batch.x[0, 0, 1, 2] == 0
    assert batch.x.isfinite().all()
    assert batch.y[0, 0, 1, 2].isnan()
