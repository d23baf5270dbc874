"""Images projected onto the sphere, as the spherical CIFAR-100 of NAS-Bench-360 (Tu et al. 2022) is made.

The recipe is that of the generator of spherical MNIST (Cohen et al. 2018), applied to each channel: a Driscoll-Healy grid
is turned at random, each of its points is sent along the ray from just above the north pole onto the plane below the
sphere, and the image that lies there is sampled. The southern hemisphere sees the image, the northern one zeros. Two
traits of the generator are kept, since the published file has them: it interpolates between the pixels before and after
a point's own, which blurs, and it stretches each channel to 0..255. It names no seed, so that the published file cannot
be made again bit for bit; here every rotation has a generator of its own.

Shapes: b bandwidth, grid 2b x 2b, n images of C x S x S pixels.
"""

from __future__ import annotations

import numpy as np

from orca_cli import signals
from orca_cli.interfaces import Reporter
from orca_cli.seeding import numpy_generator

BANDWIDTH = 30
CHUNK = 500  # consecutive images that share one rotation
_ORIGIN = 2 + 1e-3  # height of the centre of projection; the sphere touches the plane at height 0
_EXTENT = 1.5  # the image covers -1.5..1.5 of the plane along both axes


def grid(bandwidth: int = BANDWIDTH) -> np.ndarray:
    """Return the points of the Driscoll-Healy grid on the unit sphere, [3, 2b, 2b]: x, y, z by polar angle and azimuth.

    Row j has the polar angle pi j / 2b (row 0 is the north pole), column k the azimuth pi k / b.
    """
    steps = np.arange(2 * bandwidth)
    polar, azimuth = np.meshgrid(np.pi * steps / (2 * bandwidth), np.pi * steps / bandwidth, indexing="ij")
    return np.stack([np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)])


def random_rotation(generator: np.random.Generator) -> np.ndarray:
    """Return a rotation matrix [3, 3], uniform over all rotations (Arvo 1992): a turn about z, then z to a random point."""
    turn, direction, height = generator.random(3)
    angle, towards = 2 * np.pi * turn, 2 * np.pi * direction
    about_z = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    radius = np.sqrt(2 * height)
    axis = np.array([np.sin(towards) * radius, np.cos(towards) * radius, np.sqrt(2 - 2 * height)])
    return (np.outer(axis, axis) - np.eye(3)) @ about_z


def positions(points: np.ndarray) -> np.ndarray:
    """Return where on the image points of the sphere [3, *] lie, [2, *]: fractions of the rows and of the columns.

    Values outside 0..1 lie outside the image. The south pole is sent to the centre (0.5, 0.5), and so is the north pole
    itself, which lies straight below the centre of projection.
    """
    height = points[2] + 1
    reach = 1 + height / (_ORIGIN - height)
    return (points[:2] * reach + _EXTENT) / (2 * _EXTENT)


def sample(images: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return four times the images' values at positions inside pixels, [n, C, *]; zeros lie around an image.

    Args:
        images: [n, C, S, S].
        where: [2, *] fractions of rows and columns.
    """
    side = images.shape[-1]
    # Beyond the image by more than a pixel all is zero; the bound keeps far points from overflowing.
    places = np.clip(where * side, -2.0, side + 2.0).reshape(2, -1)
    own = places.astype(np.int64)
    flat = images.reshape(*images.shape[:2], side * side)
    result = np.zeros((*images.shape[:2], places.shape[1]), dtype=np.float32)
    for row_step in (-1, 1):
        for column_step in (-1, 1):
            row, column = own[0] + row_step, own[1] + column_step
            # The weight of one neighbour is the distance to the opposite one.
            weight = np.abs(own[0] - row_step - places[0]) * np.abs(own[1] - column_step - places[1])
            inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
            index = np.where(inside, row * side + column, 0)
            result += flat[..., index].astype(np.float32) * np.where(inside, weight, 0).astype(np.float32)
    return result.reshape(*images.shape[:2], *where.shape[1:])


def stretch(values: np.ndarray, per_channel: bool = True) -> np.ndarray:
    """Return values [n, C, H, W] stretched to 0..255 and cut to uint8; what is constant becomes 0.

    Args:
        values: real numbers.
        per_channel: whether each channel is stretched by its own smallest and largest value, or an image by its own.
    """
    axes = (2, 3) if per_channel else (1, 2, 3)
    low, high = values.min(axis=axes, keepdims=True), values.max(axis=axes, keepdims=True)
    span = np.where(high > low, high - low, 1)
    return ((values - low) / span * 255).astype(np.uint8)


def project(
    images: np.ndarray, rotation: np.ndarray | None = None, bandwidth: int = BANDWIDTH, per_channel: bool = True
) -> np.ndarray:
    """Return images [n, C, S, S] as seen on the sphere, [n, C, 2b, 2b] uint8; all turned by one rotation [3, 3]."""
    points = grid(bandwidth)
    if rotation is not None:
        points = np.einsum("ij,jab->iab", rotation, points)
    return stretch(sample(images, positions(points)), per_channel)


def project_split(
    images: np.ndarray,
    result: np.ndarray,
    names: tuple[str, ...],
    seed: int,
    rotate: bool,
    per_channel: bool,
    reporter: Reporter,
) -> None:
    """Project a whole split, with a new rotation for every CHUNK images.

    Args:
        images: [n, C, S, S] uint8.
        result: [n, C, 2b, 2b] uint8, is filled.
        names: of the draw, such as the split's.
        seed: of the rotations.
        rotate: False leaves the sphere as it is.
        per_channel: as in `stretch`.
        reporter: shows progress.
    """
    with reporter.track(f"projecting {' '.join(names)}", len(images)) as advance:
        for chunk, start in enumerate(range(0, len(images), CHUNK)):
            signals.check()
            part = images[start : start + CHUNK]
            rotation = random_rotation(numpy_generator(seed, "spherical", *names, chunk)) if rotate else None
            result[start : start + CHUNK] = project(part, rotation, result.shape[-1] // 2, per_channel)
            advance(len(part))
