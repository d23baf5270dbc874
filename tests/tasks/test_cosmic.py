"""Cosmic over small files in deepCR's layout: planes, sky, lists, whole visits, and files that are not what they say."""

import numpy as np
import pytest

from orca_cli.exceptions import ConfigError, DataError, UnsafeError
from orca_cli.tasks.cosmic import reader as cosmic
from orca_cli.tasks.cosmic.reader import load

START, SIZE = 4, 8
VISITS = {"train": ["10_1", "10_2", "11_a3", "12_1", "13_x"], "test": ["20_1"]}
SKIES = np.array([100.0, 200.0])


def write(root, per_visit=2):
    """Write deepCR's layout; returns path relative to root -> planes. Odd visits have no sky.npy and 2 planes."""
    rng = np.random.default_rng(0)
    written = {}
    for part, keys in VISITS.items():
        for place, key in enumerate(keys):
            proposal, visit = key.split("_")
            for band in ("f435w", "f814w"):
                folder = root / f"npy_{part}" / band / proposal / visit
                folder.mkdir(parents=True)
                if place % 2 == 0:
                    np.save(folder / "sky.npy", SKIES)
                for number in range(per_visit):
                    image = rng.normal(1000, 10, (16, 16))
                    image[6, 6] = 1e6  # a star
                    mask, ignore = rng.random((16, 16)) < 0.1, rng.random((16, 16)) < 0.1
                    planes = np.stack([image, mask, ignore][: 3 - place % 2]).astype(np.float32)
                    np.save(folder / f"{number % 2 + 1}_{number}.npy", planes)
                    written[f"npy_{part}/{band}/{proposal}/{visit}/{number % 2 + 1}_{number}.npy"] = planes
    return written


def read(tmp_path, reporter, **settings):
    return load(
        tmp_path, tmp_path / "cache", reporter, **{"crop_start": START, "crop_size": SIZE, "split_seed": 1} | settings
    )


@pytest.fixture
def written(tmp_path):
    return write(tmp_path / "cosmic")


def names(samples):
    return [str(stamp) for stamp in samples.stamps]


def test_images_and_masks_are_the_crops_of_the_files(written, tmp_path, reporter):
    task = read(tmp_path, reporter, normalize=False)
    inside = (slice(START, START + SIZE),) * 2
    for samples in (task.train, task.validation, task.open_test()):
        batch = samples.batch(np.arange(len(samples)))
        for name, x, y in zip(names(samples), batch.x.numpy(), batch.y.numpy(), strict=True):
            planes = written[name]
            np.testing.assert_array_equal(x[0], planes[0][inside])  # raw counts, no sky added
            known = planes[2][inside] == 0 if len(planes) == 3 else np.ones((SIZE, SIZE), bool)
            np.testing.assert_array_equal(y[0], np.where(known, planes[1][inside], np.nan))
        np.testing.assert_array_equal(batch.y, samples.targets())
    assert isinstance(task.train.targets(), np.memmap)
    assert all("f435w" in name for name in names(task.train))


def test_counts_are_scaled_by_statistics_that_stars_do_not_move(written, tmp_path, reporter):
    task = read(tmp_path, reporter)
    raw = read(tmp_path, reporter, normalize=False).train.batch(np.array([0])).x
    x = task.train.batch(np.arange(len(task.train))).x
    assert abs(float(x.median())) < 0.2
    assert 0.8 < float((x - x.median()).abs().median()) * 1.4826 < 1.2
    ratio = (raw[0, 0, 0, 0] - raw[0, 0, 0, 1]) / (x[0, 0, 0, 0] - x[0, 0, 0, 1])
    assert 8 < float(ratio) < 12  # the deviation of the background, not of the stars


def test_a_part_of_the_sky_is_added_in_optimizer_steps_only(written, tmp_path, reporter):
    task = read(tmp_path, reporter, normalize=False, train_on_validation=True)
    everything = np.arange(len(task.train))
    plain = task.train.batch(everything).x
    draws = []
    for seed in range(20):
        added = task.train.batch(everything, np.random.default_rng(seed)).x - plain
        assert (added == task.train.batch(everything, np.random.default_rng(seed)).x - plain).all()
        for name, shift in zip(names(task.train), added.numpy()[:, 0], strict=True):
            has_sky = VISITS["train"].index("_".join(name.split("/")[2:4])) % 2 == 0
            level = SKIES[int(name.split("/")[-1][0]) - 1] if has_sky else 0  # exposures count from 1
            assert np.ptp(shift) < 0.1
            if has_sky:
                draws.append(shift[0, 0] / level)
            else:
                assert (shift == 0).all()
    assert len(set(draws)) == len(draws) == 120
    assert -0.901 < min(draws) < -0.8
    assert 2.9 < max(draws) < 3.001
    assert 0.8 < np.mean(draws) < 1.3


def test_the_released_sky_at_test_is_one_draw_per_file(written, tmp_path, reporter):
    plain = read(tmp_path, reporter, normalize=False).open_test()
    first, second = (read(tmp_path, reporter, normalize=False, sky_at_test=True).open_test() for _ in range(2))
    both = np.arange(2)
    draws = (first.batch(both).x - plain.batch(both).x)[:, 0, 0, 0].numpy() / SKIES
    assert ((draws > -0.901) & (draws < 3.001)).all()
    assert abs(draws[0] - draws[1]) > 0.01
    assert (first.batch(both).x == second.batch(both).x).all()
    assert (first.batch(both[1:]).x[0] == second.batch(both).x[1]).all()
    assert first.digest() != plain.digest()


def test_whole_visits_are_held_out(written, tmp_path, reporter):
    task = read(tmp_path, reporter, validation_fraction=0.4)
    train, validation = ({name.rsplit("/", 1)[0] for name in names(part)} for part in (task.train, task.validation))
    assert len(validation) == 2
    assert len(train) == 3
    assert not train & validation
    groups = task.validation.groups()
    assert sorted(groups.tolist()) == [0, 0, 1, 1]
    one = read(tmp_path, reporter, validation_fraction=0.1, validation_unit="exposure")
    assert len(one.validation) == 1
    assert not set(names(one.validation)) & set(names(one.train))
    assert len(read(tmp_path, reporter, train_on_validation=True).train) == 10
    assert len(task.open_test()) == 2


def test_ignored_pixels_can_be_taken_for_no_hit(written, tmp_path, reporter):
    missing, zero = (read(tmp_path, reporter, ignored=word).train.targets() for word in ("missing", "zero"))
    assert np.isnan(missing).any()
    assert (zero[np.isnan(missing)] == 0).all()
    assert (zero[~np.isnan(missing)] == missing[~np.isnan(missing)]).all()


@pytest.mark.parametrize("kind", [str, object])
def test_lists_name_the_stamps_where_they_exist(kind, written, tmp_path, reporter):
    root = tmp_path / "cosmic"
    wanted = sorted(name for name in written if "npy_train/f435w/1" in name and "/13/" not in name)
    others = [name for name in written if "f814w/10" in name and "train" in name]
    mixed = np.array([f"./cosmic/{name}" for name in [*reversed(wanted), *others]], dtype=kind)
    np.save(root / "train_dirs.npy", mixed, allow_pickle=True)
    np.save(root / "test_dirs.npy", np.array(["/home/them/cosmic/npy_test/f435w/20/1/1_0.npy"], dtype=kind))
    task = read(tmp_path, reporter, train_on_validation=True)
    assert names(task.train) == wanted
    assert names(task.open_test()) == ["npy_test/f435w/20/1/1_0.npy"]
    assert "train_dirs.npy" in task.note


def test_visits_can_be_named_with_their_field_type(written, tmp_path, reporter):
    (tmp_path / "cosmic" / "fields.txt").write_text("10_1 GAL\n11_a3 EX\n12_1 GAL\n\n20_1 GAL\n")
    task = read(tmp_path, reporter, keys="fields.txt", field="GAL", train_on_validation=True)
    assert {name.split("/")[2] for name in names(task.train)} == {"10", "12"}
    assert len(names(task.train)) == 4
    with pytest.raises(DataError, match="field type GC"):
        read(tmp_path, reporter, keys="fields.txt", field="GC")
    with pytest.raises(ConfigError, match="task.field"):
        read(tmp_path, reporter, field="GAL")


class Exploit:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("listed", "kind", "what"),
    [
        (["./cosmic/npy_train/../../f435w/1/1/x.npy"], UnsafeError, "leads out"),
        (
            ["./cosmic/npy_test/f435w/20/1/1_0.npy"],
            DataError,
            "is not npy_train",
        ),  # the test set must not be trained on
        (["./cosmic/npy_train/f435w/10/1/9_9.npy"], DataError, "1 missing files"),
        ([Exploit(), "x"], UnsafeError, "nothing of it was run|nothing was run"),
    ],
)
def test_lists_that_lead_elsewhere_are_refused(listed, kind, what, written, tmp_path, reporter):
    np.save(tmp_path / "cosmic" / "train_dirs.npy", np.array(listed, dtype=object), allow_pickle=True)
    with pytest.raises(kind, match=what):
        read(tmp_path, reporter)


@pytest.mark.parametrize(
    ("planes", "what"),
    [
        (np.zeros((1, 16, 16)), "expected numbers"),
        (np.zeros((3, 16, 11)), "too few"),
        (np.full((2, 16, 16), 2.0), "mask has other values"),
    ],
)
def test_stamps_that_are_not_what_they_say_are_refused(planes, what, written, tmp_path, reporter):
    np.save(tmp_path / "cosmic" / "npy_train/f435w/10/1/1_0.npy", planes)
    with pytest.raises(DataError, match=f"1_0.npy.*{what}"):
        read(tmp_path, reporter)


@pytest.mark.parametrize(("name", "skies"), [("1_0.npy", [1.0]), ("5_0.npy", SKIES), ("x.npy", SKIES)])
def test_an_exposure_without_a_sky_level_is_named(name, skies, written, tmp_path, reporter):
    folder = tmp_path / "cosmic" / "npy_train/f435w/10/1"
    (folder / "2_1.npy").rename(folder / name.replace("1_0", "2_0"))
    np.save(folder / "sky.npy", skies)
    with pytest.raises(DataError, match="sky.npy.*numbered from 1"):
        read(tmp_path, reporter)


def test_broken_pixels_count_nowhere(written, tmp_path, reporter):
    path = tmp_path / "cosmic" / "npy_train/f435w/10/1/1_0.npy"
    planes = np.load(path)
    planes[0, 5, 6] = np.nan
    np.save(path, planes)
    task = read(tmp_path, reporter, ignored="zero", train_on_validation=True)
    batch = task.train.batch(np.array([0]), np.random.default_rng(0))
    assert batch.x[0, 0, 1, 2] == 0
    assert batch.x.isfinite().all()
    assert batch.y.isnan().nonzero().tolist() == [[0, 0, 1, 2]]
    assert "1 pixels" in task.note or "2 pixels" in task.note  # the file may be in both splits here


def test_masks_are_read_once_and_again_when_a_file_changes(written, tmp_path, reporter, monkeypatch):
    first = read(tmp_path, reporter)
    with monkeypatch.context() as patch:
        patch.setattr(cosmic, "read_sky", lambda path: pytest.fail("read again"))
        assert read(tmp_path, reporter).train.digest() == first.train.digest()
    path = tmp_path / "cosmic" / names(first.train)[0]
    np.save(path, np.load(path) * np.array([2, 1, 1], np.float32)[: len(np.load(path)), None, None])
    assert read(tmp_path, reporter).train.digest() != first.train.digest()


@pytest.mark.parametrize(
    "settings",
    [
        {"ignored": "no"},
        {"crop_size": 0},
        {"crop_start": -1},
        {"sky_high": -2.0},
        {"validation_fraction": 1.0},
        {"validation_unit": "pixel"},
        {"kind": "classes"},
    ],
)
def test_impossible_settings_are_refused(settings, check):
    with pytest.raises(ConfigError, match=f"task.{next(iter(settings))}"):
        check("cosmic", **settings)


def test_filters_and_lists_that_do_not_exist_are_named(written, tmp_path, reporter):
    with pytest.raises(DataError, match="f606w"):
        read(tmp_path, reporter, filter="f606w")
    with pytest.raises(ConfigError, match="task.keys"):
        read(tmp_path, reporter, keys="nothere.txt")
