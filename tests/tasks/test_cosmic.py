"""Cosmic on synthetic files in deepCR's layout: planes, sky, lists, visits, wrong files."""

import shutil
from pathlib import PurePosixPath

import numpy as np
import pytest

from orca_cli.exceptions import DataError, UnsafeError
from tests import benchmark_files
from tests.tasks.builders import every, refused, splits

START = 4
SIZE = 8
CROP = (slice(START, START + SIZE), slice(START, START + SIZE))
STAMP = "npy_train/f435w/10000/00/1_stamp.npy"


@pytest.fixture
def root(tmp_path):
    """Write the files: four visits, of which two have no sky and one has stamps of two planes."""
    benchmark_files.make("cosmic", tmp_path)
    root = tmp_path / "cosmic"
    # Another filter, which is not read.
    shutil.copytree(root / "npy_train/f435w", root / "npy_train/f814w")
    return root


@pytest.fixture
def read(root, build):
    def call(**settings):
        return build("cosmic", crop_start=START, crop_size=SIZE, split_seed=1, **settings)

    return call


def names(samples):
    return [str(stamp) for stamp in samples.stamps]


def visits(samples):
    return {stamp.parent for stamp in samples.stamps}


def draws_of_sky(read, root, seed):
    """Return the counts that a step adds to each training stamp, and the levels of the sky."""
    train = read(normalize=False, train_on_validation=True).train
    rows = np.arange(len(train))
    added = train.batch(rows, np.random.default_rng(seed)).x - train.batch(rows).x
    levels = []
    for stamp in train.stamps:
        sky = (root / stamp).with_name("sky.npy")
        exposure = int(stamp.name[0])
        levels.append(np.load(sky)[exposure - 1] if sky.exists() else 0.0)
    return added.numpy()[:, 0], np.array(levels)


@pytest.mark.parametrize("index", [0, 1, 2], ids=["train", "validation", "test"])
def test_images_and_masks_are_the_crops_of_the_files(index, root, read):
    samples = splits(read(normalize=False))[index]
    batch = every(samples)
    for name, x, y in zip(names(samples), batch.x.numpy(), batch.y.numpy(), strict=True):
        image, mask, *ignore = np.load(root / name)
        np.testing.assert_array_equal(x[0], image[CROP])  # raw counts, no sky added
        expected = mask[CROP]
        if ignore:
            expected = np.where(ignore[0][CROP] == 0, expected, np.nan)
        np.testing.assert_array_equal(y[0], expected)
    np.testing.assert_array_equal(batch.y, samples.targets())


def test_targets_are_mapped(read):
    assert isinstance(read().train.targets(), np.memmap)


def test_counts_are_scaled_by_median_and_its_deviation(read):
    x = every(read().train).x
    assert abs(float(x.median())) < 0.2
    assert 0.8 < float((x - x.median()).abs().median()) * 1.4826 < 1.2


def test_rays_do_not_move_the_scale(read):
    raw = read(normalize=False).train.batch(np.array([0])).x
    x = read().train.batch(np.array([0])).x
    ratio = (raw[0, 0, 0, 0] - raw[0, 0, 0, 1]) / (x[0, 0, 0, 0] - x[0, 0, 0, 1])
    assert 2.4 < float(ratio) < 3.6  # the deviation of the background, 3, not of the rays


def test_a_step_adds_one_share_of_the_sky_to_an_image(read, root):
    added, levels = draws_of_sky(read, root, seed=0)
    assert (np.ptp(added, axis=(1, 2)) < 0.1).all()
    assert (added[levels == 0] == 0).all()
    assert (added[levels > 0] != 0).all()


def test_shares_of_the_sky_are_drawn_from_their_range(read, root):
    shares = []
    for seed in range(20):
        added, levels = draws_of_sky(read, root, seed)
        shares += list(added[levels > 0, 0, 0] / levels[levels > 0])
    assert len(set(shares)) == len(shares) == 120
    assert -0.901 < min(shares) < -0.8
    assert 2.9 < max(shares) < 3.001


def test_a_step_repeats_with_its_generator(read):
    train = read(normalize=False).train
    rows = np.arange(len(train))
    one, again = (train.batch(rows, np.random.default_rng(19)).x for _ in range(2))
    assert (one == again).all()


def test_the_released_sky_at_test_is_one_draw_per_file(root, read):
    rows = np.arange(2)
    plain = read(normalize=False).open_test()
    one, again = (read(normalize=False, sky_at_test=True).open_test() for _ in range(2))
    sky = np.load(root / "npy_test/f435w/10000/00/sky.npy")[:2]
    shares = (one.batch(rows).x - plain.batch(rows).x)[:, 0, 0, 0].numpy() / sky
    assert ((shares > -0.901) & (shares < 3.001)).all()
    assert (one.batch(rows).x == again.batch(rows).x).all()
    assert one.digest() != plain.digest()


def test_whole_visits_are_held_out(read):
    task = read(validation_fraction=0.5)
    assert len(visits(task.train)) == len(visits(task.validation)) == 2
    assert not visits(task.train) & visits(task.validation)


def test_single_exposures_are_held_out_on_request(read):
    assert len(read(validation_fraction=0.1, validation_unit="exposure").validation) == 1


def test_one_visit_cannot_be_split(root, read):
    for visit in ("10001", "10002", "10003"):
        shutil.rmtree(root / "npy_train/f435w" / visit)
    with refused("task.validation_unit: the data have 1 visit, too few .*=exposure", DataError):
        read()


def test_a_list_names_the_stamps_of_its_filter(root, read):
    listed = [name for name in names(read(train_on_validation=True).train) if "10003" not in name]
    others = [name.replace("f435w", "f814w") for name in listed]
    paths = [f"./cosmic/{name}" for name in [*reversed(listed), *others]]
    np.save(root / "train_dirs.npy", np.array(paths, dtype=object), allow_pickle=True)
    assert names(read(train_on_validation=True).train) == listed


def test_folders_of_the_machine_that_wrote_a_list_do_not_count(root, read):
    stamp = "npy_test/f435w/10000/00/1_stamp.npy"
    np.save(root / "test_dirs.npy", np.array([f"/home/them/cosmic/{stamp}"]))
    assert read().open_test().stamps == (PurePosixPath(stamp),)


@pytest.mark.parametrize(
    ("path", "message", "error"),
    [
        ("./cosmic/npy_train/../../f435w/1/1/x.npy", "leads out", UnsafeError),
        (
            "./cosmic/npy_test/f435w/10000/00/1_stamp.npy",
            "does not end in the path of an existing file npy_train",
            DataError,
        ),
        (
            "./cosmic/npy_train/f435w/10000/00/9_stamp.npy",
            "does not end in the path of an existing file npy_train",
            DataError,
        ),
    ],
    ids=["outside", "of-another-split", "missing"],
)
def test_wrong_paths_in_a_list_are_refused(path, message, error, root, read):
    np.save(root / "train_dirs.npy", np.array([path]))
    with refused(message, error):
        read()


@pytest.mark.parametrize(
    ("planes", "message"),
    [
        (np.full((2, 16, 16), 2.0), "1_stamp.npy.*a mask contains values other than"),
        (np.zeros((4, 16, 16)), r"float64 \(4, 16, 16\), expected numbers \(2 or 3, H, W\)"),
        (np.zeros((2, 11, 16)), "with H and W at least 12; lower task.crop_start"),
    ],
    ids=["mask", "planes", "too-small"],
)
def test_stamps_of_another_form_are_refused(planes, message, root, read):
    np.save(root / STAMP, planes)
    with refused(message, DataError):
        read()


def test_a_stamp_without_a_level_of_the_sky_is_refused(root, read):
    np.save((root / STAMP).with_name("sky.npy"), np.array([1.0]))
    with refused(
        "sky.npy: has no finite sky level for the exposure of '2_stamp.npy'; the array has type float64",
        DataError,
    ):
        read()


def test_broken_pixels_count_nowhere(root, read):
    planes = np.load(root / STAMP)
    planes[0, 5, 6] = np.nan
    np.save(root / STAMP, planes)
    train = read(train_on_validation=True).train
    batch = train.batch(np.array([0]), np.random.default_rng(0))
    assert batch.x[0, 0, 1, 2] == 0
    assert batch.x.isfinite().all()
    assert batch.y[0, 0, 1, 2].isnan()
