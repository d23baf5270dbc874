"""Tasks of images: readers give the content of files, augment where asked to, and name faults."""

import gzip
import pickle
import shutil
import tarfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from orca_cli.benchmarks import cifar100, domainnet, spherical
from orca_cli.data.images.files import decode
from orca_cli.data.pixels import PixelSamples, random_crop, random_flip
from orca_cli.exceptions import DataError, UnsafeError
from tests import benchmark_files
from tests.tasks.builders import every, refused, splits


def test_cifar100_is_read_as_its_files_hold_it(tmp_path):
    benchmark_files.make("cifar100", tmp_path)
    with tarfile.open(tmp_path / "cifar100" / "cifar-100-python.tar.gz") as archive:
        record = pickle.load(archive.extractfile("cifar-100-python/test"), encoding="latin1")
    task = cifar100.load(tmp_path)
    assert (len(task.train), len(task.validation), task.class_names[3]) == (180, 20, "fine_3")
    batch = task.open_test().batch(np.array([5, 2]))
    pixels = record["data"][[5, 2]].reshape(2, 3, 32, 32) / 255
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (cifar100.MEAN, cifar100.STD))
    np.testing.assert_allclose(batch.x.numpy(), (pixels - mean) / std, atol=1e-5)
    assert batch.y.tolist() == [5, 2]
    both = np.concatenate([every(part).x for part in (task.train, task.validation)])
    assert len(np.unique(both.reshape(200, -1), axis=0)) == 200


def test_cifar100_is_projected_on_request(tmp_path, reporter):
    benchmark_files.make("cifar100", tmp_path)
    task = spherical.load(
        tmp_path, tmp_path / "cache", reporter, origin="cifar100", validation_size=20
    )
    assert (task.num_outputs, task.class_names[3], task.synthetic) == (100, "fine_3", True)


def test_augmentation_is_drawn_from_the_given_generator_only():
    rng = np.random.default_rng(0)
    x = rng.integers(1, 256, (6, 3, 32, 32), dtype=np.uint8)
    samples = PixelSamples(x, np.arange(6), np.arange(6), padding=4, flip=True)
    rows = np.array([4, 1, 4, 4])
    plain = (samples.batch(rows).x.numpy() * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(plain, x[rows])
    first, second = (
        (samples.batch(rows, np.random.default_rng(7)).x.numpy() * 255).round().astype(np.uint8)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first[2], first[3])  # drawn for each sample, not for the batch
    padded = np.pad(x[rows], ((0, 0), (0, 0), (4, 4), (4, 4)))
    for image, wide in zip(first, padded, strict=True):
        mirrored = image[..., ::-1]
        num_origins = 0
        for top, left in np.ndindex(9, 9):
            window = wide[:, top : top + 32, left : left + 32]
            num_origins += np.array_equal(window, image) or np.array_equal(window, mirrored)
        assert num_origins == 1


def seen(image: np.ndarray, polar: float, azimuth: float) -> np.ndarray:
    """The recipe for one point, written out by similar triangles."""
    x, y, z = np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar) + 1
    top = 2.001
    row, column = ((p * top / (top - z) + 1.5) / 3 * image.shape[-1] for p in (x, y))
    total = np.zeros(len(image))
    for r, row_weight in ((int(row) - 1, int(row) + 1 - row), (int(row) + 1, row - int(row) + 1)):
        for c, column_weight in (
            (int(column) - 1, int(column) + 1 - column),
            (int(column) + 1, column - int(column) + 1),
        ):
            if 0 <= r < image.shape[1] and 0 <= c < image.shape[2]:
                total += row_weight * column_weight * image[:, r, c]
    return total


def test_projection_has_the_known_answers():
    points = spherical.grid()
    np.testing.assert_allclose(points[:, 0, 0], [0, 0, 1])
    # The equator, a quarter round.
    np.testing.assert_allclose(points[:, 30, 15], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(points[:, 15, 0], [np.sqrt(0.5), 0, np.sqrt(0.5)])
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    values = spherical.sample(images, spherical.positions(points))
    for j, k in ((59, 0), (50, 17), (44, 33), (41, 52), (37, 3), (20, 20)):
        expected = seen(images[1], np.pi * j / 60, np.pi * k / 30)
        np.testing.assert_allclose(values[1, :, j, k], expected, rtol=1e-4, atol=1e-2)
    assert not values[:, :, 1:25].any()
    unturned = spherical.project(images, np.eye(3))
    assert (unturned.max(axis=(2, 3)) == 255).all()
    # A turn about the axis by seven steps of azimuth moves the columns by seven.
    angle = 7 * np.pi / 30
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    moved = np.roll(unturned, -7, axis=3) != spherical.project(images, turn)
    assert moved.mean() < 0.01


def test_rotations_are_uniform():
    rng = np.random.default_rng(0)
    turns = np.stack([spherical.random_rotation(rng) for _ in range(3000)])
    np.testing.assert_allclose(
        turns @ turns.transpose(0, 2, 1), np.tile(np.eye(3), (3000, 1, 1)), atol=1e-9
    )
    np.testing.assert_allclose(np.linalg.det(turns), 1)
    # Uniform over rotations: entries have mean 0 and mean square 1/3, the trace mean square 1.
    assert np.abs(turns.mean(axis=0)).max() < 0.05
    assert np.abs((turns**2).mean(axis=0) - 1 / 3).max() < 0.03


def test_spherical_is_read_from_its_file(tmp_path, build):
    benchmark_files.make("spherical", tmp_path)
    packed = (tmp_path / "spherical" / "s2_cifar100.gz").read_bytes()
    record = pickle.loads(gzip.decompress(packed))["test"]
    test = build("spherical", validation_size=20).open_test()
    batch = test.batch(np.array([3, 19]), np.random.default_rng(0))
    np.testing.assert_allclose(batch.x.numpy() * 255, record["images"][[3, 19]], atol=1e-4)
    assert batch.y.tolist() == [3, 19]


def test_spherical_is_projected_from_images(tmp_path, build):
    x = np.random.default_rng(0).integers(0, 256, (80, 3, 32, 32), np.uint8)
    y = np.arange(80) % 10
    np.savez(tmp_path / "small.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    settings = {"origin": "cifar10", "images": "small.npz"}
    task, again, other = (build("spherical", **settings, data_seed=seed) for seed in (0, 0, 1))
    assert task.train.digest() == again.train.digest() != other.train.digest()
    test = task.open_test()
    np.testing.assert_array_equal(test.targets(), np.arange(20) % 10)
    # The images of a chunk share a rotation, so the same directions lie outside all of them: about
    # half of the sphere.
    assert 0.3 < (every(test).x.numpy() == 0).all(axis=(0, 1)).mean() < 0.7


@pytest.fixture
def domain(tmp_path):
    benchmark_files.make("domainnet", tmp_path)
    folder = tmp_path / "domainnet" / "sketch"
    shutil.copy(folder / "class_02/sketch_train_002.jpg", folder / "class_02/sketch_train_042.jpg")
    return folder


def test_domainnet_is_read_from_its_lists(tmp_path, reporter, domain):
    task = domainnet.load(tmp_path, reporter, validation_size=10)
    assert (task.num_outputs, task.input_shape) == (40, (3, 224, 224))
    test = task.open_test()
    assert test.targets().tolist() == list(range(40))
    with Image.open(domain / "class_04/sketch_test_004.jpg") as image:
        resized = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))
    expected = (resized / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(
        test.batch(np.array([4])).x[0].permute(1, 2, 0).numpy(), expected, atol=1e-5
    )
    train, validation = (
        [x.tobytes() for x in every(part).x.numpy()] for part in (task.train, task.validation)
    )
    assert not set(train) & set(validation)  # the two identical ones are in the same split


def test_domainnet_augmentation_is_fresh_unless_frozen(tmp_path, reporter, domain):
    rows = np.array([2, 0])
    fresh, frozen, none = (
        domainnet.load(tmp_path, reporter, validation_size=10, augment=how).train
        for how in ("fresh", "frozen", "none")
    )
    np.testing.assert_array_equal(fresh.batch(rows).x, none.batch(rows).x)

    def drawn(samples, seed):
        return samples.batch(rows, np.random.default_rng(seed)).x.numpy()

    assert not np.array_equal(drawn(fresh, 1), drawn(fresh, 2))
    np.testing.assert_array_equal(drawn(frozen, 1), drawn(frozen, 2))
    assert not np.array_equal(drawn(frozen, 1), none.batch(rows).x.numpy())


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("../outside.png 0", UnsafeError, "line 1 names a file outside"),
        ("sketch/class_02/sketch_test_002.jpg 2", DataError, "also in the training list"),
    ],
)
def test_domainnet_lists_are_not_trusted(build, domain, line, error, message):
    (domain.parent / "sketch_train_mini.txt").write_text(line)
    with refused(message, error):
        build("domainnet", validation_size=1, train_size=1)


@pytest.fixture
def pets(tmp_path):
    folder = tmp_path / "pets"
    for label, name in enumerate(("cat", "dog", "eel")):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.random.default_rng(100 * label + i).integers(
                0, 256, (14, 20, 3), dtype=np.uint8
            )
            Image.fromarray(pixels).save(folder / name / f"{i:02}.{'jpg' if i % 2 else 'png'}")
    return folder


def test_a_folder_of_images_is_a_task(tmp_path, reporter, pets, build):
    task = build("images", path="pets", normalize="none")
    assert task.input_shape == (3, 20, 20)  # the longest side
    for samples in (task.validation, task.open_test()):
        count = np.bincount(samples.targets())
        assert (count.sum(), np.ptp(count)) == (5, 1)  # stratified: 2, 2 and 1
    assert sum(map(len, splits(task))) == 36


def test_images_are_known_by_content(tmp_path, reporter, pets, build):
    digest = build("images", path="pets", normalize="none").train.digest()
    pets.rename(tmp_path / "moved")
    assert build("images", path="moved", normalize="none").train.digest() == digest
    assert sum("image_survey" in line for line in reporter.lines) == 1  # decoded once


def test_images_may_be_grey_and_cropped(pets, build):
    task = build("images", path="pets", channels=1, size=14, fit="crop")
    assert every(task.validation).x.shape == (5, 1, 14, 14)


@pytest.mark.parametrize("augmentation", [{"flip": True}, {"padding": 2}])
def test_only_optimizer_steps_see_augmented_images(pets, build, augmentation):
    plain = every(build("images", path="pets", normalize="none").train).x
    samples = build("images", path="pets", normalize="none", **augmentation).train
    assert every(samples).x.equal(plain)
    rows = np.arange(len(samples))
    assert not samples.batch(rows, np.random.default_rng(0)).x.equal(plain)


@pytest.fixture
def split_pets(tmp_path, pets):
    """Return a folder with the images of each class in given splits: 8, 2 and 2."""
    folder = tmp_path / "split"
    names = np.repeat(["train", "val", "test"], [8, 2, 2])
    for path in pets.glob("*/*"):
        class_folder = folder / names[int(path.stem)] / path.parent.name
        class_folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, class_folder)
    return folder


def test_given_splits_are_taken_as_they_are(pets, split_pets, build):
    task = build("images", path="split", normalize="none")
    pixels = np.asarray(
        Image.open(pets / "dog" / "08.png").resize((20, 20), Image.Resampling.BILINEAR)
    )
    batch = task.validation.batch(np.array([2]))
    np.testing.assert_allclose(batch.x[0].permute(1, 2, 0).numpy() * 255, pixels, atol=1e-4)
    assert (len(task.train), batch.y.tolist(), len(task.open_test())) == (24, [1], 6)


def test_an_image_in_two_splits_is_refused(split_pets, build):
    shutil.copy(split_pets / "train" / "cat" / "03.jpg", split_pets / "test" / "cat" / "again.jpg")
    with refused(r"again\.jpg: is the same image as 'train/cat/03\.jpg'", DataError):
        build("images", path="split")


def test_a_class_without_training_images_is_refused(split_pets, build):
    (split_pets / "test" / "eel").rename(split_pets / "test" / "ell")
    with refused("labels that do not occur in training: 2 in total, the first is ell", DataError):
        build("images", path="split")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[: len(content) // 2], "cannot be decoded"),
        (lambda content: b"<html>", "is not a readable image"),
    ],
    ids=["cut", "a web page"],
)
def test_damaged_images_are_named(pets, build, damage, message):
    path = pets / "dog" / "04.png"
    path.write_bytes(damage(path.read_bytes()))
    with refused(rf"dog/04\.png: {message}", DataError):
        build("images", path="pets")


def test_16_bits_are_cut_to_8(tmp_path):
    path = tmp_path / "image.png"
    deep = np.array([[0, 256 * 100], [65535, 256 * 7 + 3]], dtype=np.uint16)
    Image.fromarray(deep).save(path)
    assert decode(path, None, 1).tolist() == [[[0, 100], [255, 7]]]


def test_transparent_pixels_are_white(tmp_path):
    path = tmp_path / "image.png"
    pixels = np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(path)
    assert decode(path, None, 3)[:, 0].T.tolist() == [[255, 255, 255], [10, 20, 30]]


def test_turned_images_are_upright(tmp_path):
    upright = Image.new("RGB", (3, 2))
    exif = upright.getexif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    upright.save(tmp_path / "turned.jpg", exif=exif)
    assert decode(tmp_path / "turned.jpg", None, 3).shape == (3, 3, 2)


def test_crops_and_flips_are_uniform():
    rng = np.random.default_rng(0)
    ramp = np.arange(12 * 14).reshape(1, 1, 12, 14).repeat(6000, axis=0)
    corners, counts = np.unique(random_crop(ramp, (10, 13), 0, rng)[:, 0, 0, 0], return_counts=True)
    assert corners.tolist() == [0, 1, 14, 15, 28, 29]
    assert np.abs(counts - 1000).max() < 120
    assert abs(float((random_flip(ramp, rng)[:, 0, 0, 0] == 13).mean()) - 0.5) < 0.03


LEVEL = np.random.default_rng(0).permutation(np.arange(10, 250, 6))
NAMES = [f"{'left' if i % 2 else 'right'}/{i:03d}.png" for i in range(len(LEVEL))]
TABLE = pd.DataFrame({"image": NAMES, "age": LEVEL / 3})


@pytest.fixture
def labelled(tmp_path, build):
    """Write grey images, each of one level, and load them with a table of their targets."""
    for name, level in zip(NAMES, LEVEL, strict=True):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6, 3), level, np.uint8)).save(path)

    def call(frame, **settings):
        frame.to_csv(tmp_path / "ages.csv", index=False)
        return build("images", path="photos", table="ages.csv", normalize="none", **settings)

    return call


def levels(samples):
    """Return the level of each image, and its targets."""
    batch = every(samples)
    return np.round(batch.x[:, 0, 0, 0].numpy() * 255).astype(int), batch.y


def test_numbers_of_a_table_are_predicted_from_images(labelled):
    task = labelled(TABLE)
    assert (task.kind, task.num_outputs, task.class_names) == ("values", 1, ("age",))
    read = [levels(samples) for samples in splits(task)]
    level = np.concatenate([level for level, _ in read])
    targets = np.concatenate([y[:, 0] for _, y in read])
    assert sorted(level) == sorted(LEVEL)
    np.testing.assert_allclose(targets, level / 3, rtol=1e-6)
    assert labelled(TABLE.assign(age=LEVEL / 4)).train.digest() != task.train.digest()


def test_classes_of_a_table_are_predicted_from_images(labelled):
    task = labelled(TABLE.assign(age=np.where(LEVEL > 120, "old", "young")))
    assert (task.kind, task.class_names) == ("classes", ("old", "young"))
    for samples in splits(task):
        level, y = levels(samples)
        assert ((level > 120) == (y.numpy() == 0)).all()


def test_labels_of_a_table_are_predicted_from_images(labelled):
    task = labelled(TABLE.assign(age=LEVEL > 120, even=LEVEL % 2 == 0), kind="labels")
    level, y = levels(task.train)
    assert (task.kind, task.class_names) == ("labels", ("age", "even"))
    assert y.tolist() == np.stack([level > 120, level % 2 == 0], axis=1).astype(float).tolist()


@pytest.mark.parametrize("settings", [{}, {"table": "ages.csv"}], ids=["classes", "a table"])
def test_a_file_in_place_of_the_folder_is_refused(pets, build, tmp_path, settings):
    TABLE.to_csv(tmp_path / "ages.csv", index=False)
    with refused(r"^task\.path: '.*/pets/dog/04\.png' is a file; name the folder", DataError):
        build("images", path="pets/dog/04.png", **settings)


def test_a_table_without_names_of_columns_is_refused(labelled):
    with refused(r"ages\.csv: has no column names", DataError):
        labelled(TABLE.set_axis(["", " "], axis=1))


def test_files_of_a_table_that_do_not_exist_are_named(labelled):
    with refused(r"\[image\]: 'no/1.png' in row 2 is not an image", DataError):
        labelled(TABLE.replace(NAMES[1], "no/1.png"))
