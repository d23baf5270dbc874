"""A split of a task whose images are in files: decoded in batches, identified by their content.

Only the formats in this module are tried, because some decoders of Pillow run other programs, such
as the decoder of EPS. An image is rotated upright by its EXIF orientation, transparent areas become
white, and 16-bit grey is cut to 8 bits. Files that cannot be decoded raise DataError, and images
with too many pixels raise UnsafeError.

Shapes: n files, B images of a batch, C channels, S pixels per side.
"""

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli import signals, storage
from orca_cli.data.pixels import augmented, normalised
from orca_cli.exceptions import DataError, OrcaError, UnsafeError, need
from orca_cli.interfaces import Batch, Reporter
from orca_cli.seeding import numpy_generator

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# 300 MB at 3 bytes per pixel.
MAX_PIXELS = 10**8
_THREADS = 8


@dataclass(frozen=True)
class View:
    """The settings with which image files become inputs of S pixels per side."""

    side: int
    channels: int = 3  # or 1 for grey
    crop: bool = False  # True takes the largest square in the middle, False stretches the image
    mean: tuple[float, ...] | None = None  # mean and std are arguments of `pixels.normalised`
    std: tuple[float, ...] | None = None
    larger: int | None = None  # side of the image that augmentation crops to S; None: S itself
    padding: int = 0  # pixels of zeros on every side before augmentation crops
    flip: bool = False  # whether augmentation mirrors images with probability 1/2
    # Seed of an augmentation that is drawn once for each file; None draws again in every step.
    frozen_seed: int | None = None

    def inputs(self, paths: Sequence[Path]) -> np.ndarray:
        """Return the images of files as [B, C, S, S] float32, without augmentation."""
        images = decode_all(paths, self.side, self.channels, self.crop)
        return normalised(images, self.mean, self.std)

    def augment(self, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return images [B, C, S', S'] uint8 cropped and mirrored at random, as [B, C, S, S]."""
        return augmented(
            images,
            size=(self.side, self.side),
            padding=self.padding,
            flip=self.flip,
            generator=generator,
        )


@dataclass(frozen=True)
class FileSamples:
    """Samples (see interfaces) over n image files, which become inputs as `view` describes."""

    paths: Sequence[Path]
    names: Sequence[str]  # for the digest, which does not depend on the location of the files
    y: np.ndarray  # [n, ...], shaped as Batch.y
    hashes: Sequence[str]  # n SHA-256 of the contents
    view: View

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return x [B, C, S, S] and y; with a generator `augment`, the view's augmentation applies.

        A frozen augmentation always applies.
        """
        view = self.view
        indices = np.asarray(indices, dtype=np.int64)
        # The B files of the batch.
        paths = [self.paths[index] for index in indices]
        y = self.y[indices]
        if view.frozen_seed is None and augment is None:
            return Batch.from_arrays(view.inputs(paths), y)
        side = view.larger or view.side
        # Larger than S if the view has a larger side; then cropped to S below.
        images = decode_all(paths, side, view.channels, view.crop)  # [B, C, side, side]
        if view.frozen_seed is not None:
            # A generator for each file, so that augmentation does not depend on the batch.
            frozen_images = []
            for image, index in zip(images, indices, strict=True):
                generator = numpy_generator(view.frozen_seed, "images", "frozen", int(index))
                frozen_images.append(view.augment(image[None], generator))
            images = np.concatenate(frozen_images)
        elif augment is not None:
            images = view.augment(images, augment)
        return Batch.from_arrays(normalised(images, view.mean, view.std), y)

    def targets(self) -> np.ndarray:
        """Return all targets [n, ...], shaped as Batch.y."""
        return self.y

    def groups(self) -> None:
        """Return None: images have no groups."""

    def digest(self) -> str:
        """Return a SHA-256 over names, contents and targets of the files, and the view."""
        # The view is included, because the same files with another size are different samples.
        first_line = f"{self.view}\n"
        digest = hashlib.sha256(first_line.encode())
        for name, content, target in zip(self.names, self.hashes, self.y, strict=True):
            # Classes are written as numbers, rows of labels and values as their bytes in hex.
            target_text = target if self.y.ndim == 1 else target.tobytes().hex()
            line = f"{name!r} {content} {target_text}\n"
            digest.update(line.encode())
        return digest.hexdigest()


def decode_all(paths: Sequence[Path], side: int, channels: int, crop: bool = False) -> np.ndarray:
    """Return the images of files as [B, C, side, side] uint8, decoded in parallel."""
    num_threads = min(_THREADS, os.cpu_count() or 1, max(1, len(paths)))
    # Threads suffice, because Pillow releases the interpreter's lock while it decodes.
    with ThreadPoolExecutor(num_threads) as thread_pool:
        images = thread_pool.map(lambda path: decode(path, side, channels, crop), paths)
        return np.stack(list(images))


def decode(path: Path, side: int | None, channels: int, crop: bool = False) -> np.ndarray:
    """Return an image as [C, S, S] uint8 with S=`side`, or unresized as [C, H, W] without `side`.

    The image is resized bilinearly, with antialiasing.

    Raises:
        DataError: the image cannot be decoded, or has more than 16 bits per pixel.
        UnsafeError: the image has more than 10^8 pixels.
        UnavailableError: Pillow is not installed.
    """
    image_module, operations = pillow()
    with _opened(path) as image:
        # Decoded inside this block, where `_opened` turns errors of decoders into OrcaErrors.
        image.load()
        image = _in_8_bits(operations.exif_transpose(image), path)
        # Otherwise `convert` would show the colours that are hidden in transparent areas.
        if image.has_transparency_data:
            on_white = image_module.new("RGBA", image.size, "white")
            on_white.alpha_composite(image.convert("RGBA"))
            image = on_white
        image = image.convert("RGB" if channels == 3 else "L")
        if side is not None:
            # `fit` crops the largest square in the middle, `resize` stretches the whole image.
            resized = operations.fit if crop else image_module.Image.resize
            image = resized(image, (side, side), image_module.Resampling.BILINEAR)
        pixels = np.asarray(image)  # [H, W] if grey, else [H, W, 3]
    if channels == 1:
        return pixels[None]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _in_8_bits(image: Any, path: Path) -> Any:
    """Return a Pillow image with 16-bit grey cut to 8 bits; DataError for more than 16 bits."""
    if image.mode in ("I", "F"):
        raise DataError(
            f"has pixels of more than 16 bits (mode {image.mode})",
            where=str(path),
            hint="store pixels of 8 or 16 bits, or use task=arrays",
        )
    if not image.mode.startswith("I;16"):
        return image
    image_module, _ = pillow()
    upper_bytes = np.asarray(image) >> 8
    return image_module.fromarray(upper_bytes.astype(np.uint8))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an image and read its header only.

    UnsafeError if the image has too many pixels. Other errors of Pillow inside the block become
    DataError.
    """
    image_module, _ = pillow()
    where = str(path)
    try:
        with image_module.open(path, formats=_FORMATS) as image:
            # From the header, before memory is allocated for pixels.
            if image.width * image.height > MAX_PIXELS:
                raise image_module.DecompressionBombError(f"{image.width} x {image.height} pixels")
            yield image
    # Neither error means that the image is damaged.
    except (OrcaError, MemoryError):
        raise
    except image_module.DecompressionBombError as error:
        raise UnsafeError(
            f"has more pixels than the limit of {MAX_PIXELS:,} ({error})",
            where=where,
            hint="make the image smaller, or remove it",
        ) from error
    except Exception as error:  # noqa: BLE001 - decoders raise almost anything for damaged images
        reason = error or type(error).__name__
        message = f"cannot be decoded ({reason})"
        if isinstance(error, image_module.UnidentifiedImageError):
            message = "is not a readable image"
        hint = f"save the image in one of the formats {', '.join(_FORMATS)}, or remove it"
        raise DataError(message, where=where, hint=hint) from error


def pillow() -> tuple[Any, Any]:
    """Return Pillow's modules Image and ImageOps.

    UnavailableError if Pillow is not installed.
    """
    image_module = need("PIL.Image", "task", "images")
    operations = need("PIL.ImageOps", "task", "images")
    # Pillow's limit for a warning is below our limit.
    warnings.filterwarnings("ignore", category=image_module.DecompressionBombWarning)
    return image_module, operations


def content_hashes(paths: Sequence[Path], reporter: Reporter) -> list[str]:
    """Return the SHA-256 of each file, in the order of `paths`.

    DataError if a file cannot be read.
    """
    hashes = []
    with reporter.track("reading image files", len(paths)) as advance:
        for image_path in paths:
            # A large folder takes minutes, and a signal must end the run before.
            signals.check()
            try:
                hashes.append(storage.sha256_file(image_path))
            except OSError as error:
                raise DataError(
                    f"cannot be read ({error.strerror})", where=str(image_path)
                ) from error
            advance()
    return hashes


def by_content(hashes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the first file of each content, and the number of the content of each file.

    The indices of the first files are [u], ascending. Contents are numbered in the order of their
    first files; the numbers are [n], in 0..u-1.
    """
    # Contents are first numbered in the order of their hashes, then renumbered below.
    _, first_files, content_of_file = np.unique(
        np.asarray(hashes), return_index=True, return_inverse=True
    )
    order = np.argsort(first_files)  # contents in the order of their first files
    # The argsort of a permutation is its inverse: old number -> new number.
    new_number = np.argsort(order)
    return first_files[order], new_number[content_of_file]
