"""Images to pretrain on: every form gives the same images; what is held out; malformed files."""

import numpy as np
import pytest
from PIL import Image

from orca_cli.exceptions import DataError
from orca_cli.pretraining.images import load
from orca_cli.progress import Silent

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
Y = np.arange(40) % 2


def npz(folder, **arrays):
    np.savez(folder / "own.npz", **arrays)
    return folder / "own.npz"


def read(path, data_folder, side=32, limit=None, seed=0):
    return load(path, data_folder, side, limit, seed, Silent())


def rows(part):
    return {image.tobytes(): int(label) for image, label in zip(part.x, part.y, strict=True)}


def test_all_forms_of_the_same_images_are_the_same(tmp_path):
    plain = read(npz(tmp_path, x_train=X, y_train=Y + 5), tmp_path)
    assert plain.class_names == ("5", "6")
    last = read(npz(tmp_path, x=X.transpose(0, 2, 3, 1), y=Y), tmp_path)
    for number, image in enumerate(X):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:02}.png")
    files = read(tmp_path / "photos", tmp_path)
    assert files.class_names == ("a", "b")
    wanted = {image.tobytes(): int(label) for image, label in zip(X, Y, strict=True)}
    for found in (plain, last, files):
        assert rows(found.train) | rows(found.held_out) == wanted
    assert plain.digest() == last.digest()


def test_a_tenth_of_each_class_is_held_out_by_the_seed(tmp_path):
    path = npz(tmp_path, x=X, y=Y)
    found = read(path, tmp_path)
    assert np.bincount(found.held_out.y).tolist() == [2, 2]
    assert not rows(found.train).keys() & rows(found.held_out).keys()
    assert read(path, tmp_path).digest() == found.digest()
    assert read(path, tmp_path, seed=1).digest() != found.digest()


def test_a_test_split_is_held_out_and_a_limit_is_on_training_images(tmp_path):
    path = npz(tmp_path, x_train=X[:30], y_train=Y[:30], x_test=X[30:], y_test=Y[30:])
    found = read(path, tmp_path, limit=12)
    assert len(found.train.y) == 12
    assert (found.held_out.x == X[30:]).all()
    assert rows(found.train).items() <= rows(read(path, tmp_path).train).items()
    for part, numbers in (("train", range(30)), ("test", range(30, 40))):
        for number in numbers:
            folder = tmp_path / "photos" / part / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(X[number].transpose(1, 2, 0)).save(folder / f"{number:02}.png")
    assert rows(read(tmp_path / "photos", tmp_path).held_out) == rows(found.held_out)


def test_cifar10_of_the_data_folder_grey_images_and_other_sizes(tmp_path):
    (tmp_path / "cifar10").mkdir()
    np.savez(tmp_path / "cifar10" / "cifar10.npz", x_train=X, y_train=Y, x_test=X[:10], y_test=Y[:10])
    found = read(None, tmp_path)
    assert found.class_names[:2] == ("airplane", "automobile")
    assert (found.train.x == X).all()
    flat = np.full((8, 16, 16), 77, np.uint8)
    grey = read(npz(tmp_path, x=flat, y=np.arange(8) % 2), tmp_path, side=64)
    assert grey.train.x.shape == (6, 3, 64, 64)
    assert (grey.train.x == 77).all()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X.astype(np.float32), "y": Y}, r"images are float32 .*allowed: uint8"),
        ({"x": X[:, :2], "y": Y}, r"images are uint8 \(40, 2, 32, 32\)"),
        ({"x": X, "y": Y[:39]}, r"labels are int64 \(39,\)"),
        ({"x": X, "y": np.zeros(40, int)}, "only one class"),
        ({"x": X, "y": np.arange(40) // 39}, "a class has 1 image"),
        ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1}, "class 2 has no training images"),
    ],
)
def test_malformed_arrays_are_one_line(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message) as caught:
        read(npz(tmp_path, **arrays), tmp_path)
    assert "own.npz" in str(caught.value)


def test_missing_data_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"CIFAR-10 is not there.*--data FILE\.npz"):
        read(None, tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        read(tmp_path / "gone", tmp_path)
