"""Random crops and flips of images, and samples over uint8 images that are augmented in batches.

Shapes: B images of a batch, N images of the arrays, C channels, H x W pixels.
"""

import hashlib

import numpy as np

from orca_cli.data.blocks import read
from orca_cli.data.samples import ArraySamples
from orca_cli.interfaces import Batch

# Mean and standard deviation of red, green and blue over ImageNet, for pixels in 0..1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def random_crop(
    images: np.ndarray, size: tuple[int, int], padding: int, generator: np.random.Generator
) -> np.ndarray:
    """Return a random window of each image [B, C, H, W] as [B, C, *size].

    Each image is padded with `padding` zeros on every side first. All windows that fit are equally
    likely.
    """
    padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    # Every window that fits: [B, C, tops, lefts, *size].
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=(2, 3))
    tops = generator.integers(0, windows.shape[2], size=len(images))
    lefts = generator.integers(0, windows.shape[3], size=len(images))
    # Only the chosen windows are copied; the view of all windows needs no memory.
    return windows[np.arange(len(images)), :, tops, lefts]


def random_flip(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the images [B, C, H, W], each mirrored left to right with probability 1/2."""
    is_mirrored = generator.random(len(images)) < 0.5
    mirror_images = images[..., ::-1]
    return np.where(is_mirrored[:, None, None, None], mirror_images, images)


def augmented(
    images: np.ndarray,
    size: tuple[int, int],
    padding: int,
    flip: bool,
    generator: np.random.Generator,
) -> np.ndarray:
    """Return images [B, C, H, W] cropped to `size` at random, and with `flip` mirrored at random.

    Images that have this size already are not cropped if `padding` is 0.
    """
    # Otherwise the only window is the complete image.
    if padding or images.shape[2:] != size:
        images = random_crop(images, size, padding, generator)
    if flip:
        images = random_flip(images, generator)
    return images


def normalised(
    images: np.ndarray, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
) -> np.ndarray:
    """Return uint8 images [B, C, H, W] as float32 in 0..1.

    With `mean` and `std` [C], these pixels become (pixel - mean) / std. `std` is positive.
    """
    pixels = images.astype(np.float32) / np.float32(255)
    if mean is not None and std is not None:
        # In float32, because float64 numbers would make the whole batch float64.
        means = np.array(mean, np.float32)  # [C]
        deviations = np.array(std, np.float32)
        pixels = (pixels - means[:, None, None]) / deviations[:, None, None]
    return np.ascontiguousarray(pixels)


class PixelSamples(ArraySamples):
    """Samples (see interfaces) over the n `rows` of uint8 images x [N, C, H, W]; y is [N] int64.

    Images are in memory or in a mapped file. `mean` and `std` are passed to `normalised`, `padding`
    and `flip` to `augmented`, which crops to H x W.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        rows: np.ndarray | None = None,
        *,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        padding: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__(x, y, rows=rows)
        self._pixel_mean = mean
        self._pixel_std = std
        self._padding = padding
        self._flip = flip

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices.

        They are cropped and flipped at random if a generator `augment` is given.
        """
        rows = self._rows[indices]
        # Pixels stay uint8 until they are augmented: float32 needs four times the memory.
        images, _ = read(self._x, rows)
        if augment is not None:
            images = augmented(
                images,
                size=images.shape[2:],
                padding=self._padding,
                flip=self._flip,
                generator=augment,
            )
        inputs = normalised(images, self._pixel_mean, self._pixel_std)
        return Batch.from_arrays(inputs, self._y[rows])

    def digest(self) -> str:
        """Return a SHA-256 over images, targets and normalisation."""
        # The word None is part of the digests that existing runs have recorded.
        text = f"{super().digest()} {self._pixel_mean} {self._pixel_std} None"
        return hashlib.sha256(text.encode()).hexdigest()
