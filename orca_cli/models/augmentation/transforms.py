"""The augmentations (interfaces): of any input, of series, of images and volumes, several of them; samples that they change.

Only the optimizer steps of stage 3 see these, and nothing else does.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from orca_cli import seeding
from orca_cli.config.ranges import Fraction, Positive, Share
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Augmentation, Batch, InputFacts, Kind, Samples

_MEASURED = 512  # samples that means and deviations are taken over
_AT_ONCE = 32
_CONSTANT = 1e-6  # deviation, as a part of the mean, below which a channel is constant


@dataclass(frozen=True)
class Augmented:
    """A split whose batches are augmented, after its own augmentation, when they are requested with a generator.

    Only optimizer steps give one, so validation, test, alignment and folds that are held out see the samples as they are.
    """

    whole: Samples
    part: Augmentation
    facts: InputFacts

    def __len__(self) -> int:
        return len(self.whole)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices, augmented where there is a generator."""
        batch = self.whole.batch(indices, augment)
        return batch if augment is None else self.part(batch, augment, self.facts)

    def targets(self) -> np.ndarray:
        """Return those of the split."""
        return self.whole.targets()

    def groups(self) -> np.ndarray | None:
        """Return those of the split."""
        return self.whole.groups()

    def digest(self) -> str:
        """Return that of the split."""
        return self.whole.digest()


def measure(samples: Samples, kind: Kind, seed: int) -> InputFacts:
    """Return the mean and deviation of each input channel, over at most 512 training samples drawn by the seed."""
    generator = seeding.numpy_generator(seed, "augment", "facts")
    rows = np.sort(generator.permutation(len(samples))[:_MEASURED])

    def mean_of(power: int, centre: np.ndarray) -> np.ndarray:
        total, count = np.zeros(1), 0.0
        for start in range(0, len(rows), _AT_ONCE):
            batch = samples.batch(rows[start : start + _AT_ONCE])
            x = batch.x.flatten(2).double().numpy()
            valid = np.ones(x[:, 0].shape, bool) if batch.valid is None else batch.valid.flatten(1).numpy()
            total = total + (np.where(valid[:, None], x - centre[:, None], 0) ** power).sum(axis=(0, 2))
            count += float(valid.sum())
        return total / max(count, 1)

    mean = mean_of(1, np.zeros(1))
    deviation = np.sqrt(mean_of(2, mean))
    return InputFacts(kind, mean, np.where(deviation <= _CONSTANT * np.abs(mean), 0.0, deviation))


def as_array(batch: Batch) -> np.ndarray:
    """Return the inputs [B, C, *E] float32 as a copy."""
    return batch.x.numpy().copy()


def with_inputs(batch: Batch, x: np.ndarray) -> Batch:
    """Return a batch with other inputs of the same shape; where the input is padding, the old ones stay."""
    if batch.valid is not None:
        x = np.where(batch.valid.numpy()[:, None], x, batch.x.numpy())
    return replace(batch, x=torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)))


def per_channel(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return one float32 number for each channel, [C], so that it broadcasts against inputs [B, C, *E]."""
    return values.astype(np.float32).reshape(-1, *(1,) * (x.ndim - 2))


def positions(batch: Batch, sample: int) -> np.ndarray:
    """Return the positions of a series (n, C, L) that are data, ascending."""
    if batch.valid is None:
        return np.arange(batch.x.shape[2])
    return np.flatnonzero(batch.valid[sample].numpy())


@dataclass(frozen=True)
class Jitter:
    """Adds independent Gaussian noise to every value.

    Args:
        strength: deviation of the noise, in units of each channel's own.
    """

    strength: Positive = 0.1

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch with noise on its inputs."""
        x = as_array(batch)
        noise = generator.standard_normal(x.shape, dtype=np.float32)
        return with_inputs(batch, x + noise * per_channel(self.strength * facts.deviation, x))


@dataclass(frozen=True)
class Scale:
    """Multiplies each channel of each sample by a factor of its own, about the channel's mean.

    Args:
        strength: deviation of the factor's logarithm: 0.1 makes most factors 0.8 to 1.2.
    """

    strength: Positive = 0.1

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch with its channels scaled."""
        x = as_array(batch)
        drawn = generator.standard_normal(x.shape[:2])
        factors = np.exp(self.strength * np.clip(drawn, -3, 3)).astype(np.float32)
        mean = per_channel(facts.mean, x)
        return with_inputs(batch, mean + (x - mean) * factors.reshape(*x.shape[:2], *(1,) * (x.ndim - 2)))


@dataclass(frozen=True)
class ChannelDropout:
    """Replaces whole channels by their means.

    A sample keeps one channel at least, so inputs of one channel stay as they are.

    Args:
        probability: of each channel of each sample.
    """

    probability: Fraction = 0.1

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch with some channels hidden."""
        x = as_array(batch)
        drawn = generator.random(x.shape[:2])
        hidden = drawn < self.probability
        hidden[np.arange(len(x)), drawn.argmax(axis=1)] = False  # that which is the last to be hidden
        hidden = hidden.reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
        return with_inputs(batch, np.where(hidden, per_channel(facts.mean, x), x))


@dataclass(frozen=True)
class Mixup:
    """Mixes each sample with another one of its batch.

    One share is drawn for a batch, from a Beta distribution; a sample's own part is the larger one. Numbers are mixed as the
    inputs are. For classes and labels the loss is the mean of both targets' losses by the same shares, which serves every
    loss. A sample keeps its length: beyond the end of the other one, the channels' means are mixed in.

    Args:
        alpha: both parameters of the distribution; small ones make most mixtures nearly pure.
    """

    alpha: Positive = 0.2
    whole_batch: ClassVar[bool] = True
    refused: ClassVar[Mapping[str, str]] = {"dense": "the map of a mixture is not the mixture of maps"}

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch mixed, with the partners' targets unless the targets are mixed too."""
        share = float(generator.beta(self.alpha, self.alpha))
        share = max(share, 1 - share)
        order = torch.from_numpy(generator.permutation(len(batch.x)))
        x = as_array(batch)
        partner = batch.x[order].numpy()
        if batch.valid is not None:
            partner = np.where(batch.valid[order].numpy()[:, None], partner, per_channel(facts.mean, x))
        mixed = with_inputs(batch, np.float32(share) * x + np.float32(1 - share) * partner)
        if facts.kind == "values":
            return replace(mixed, y=share * batch.y + (1 - share) * batch.y[order])
        return replace(mixed, partner=batch.y[order], share=share)


@dataclass(frozen=True)
class TimeMask:
    """Replaces a stretch of each series by its channels' means.

    Args:
        longest: of a stretch, as a part of the series; each is drawn from 0 to there.
    """

    longest: Fraction = 0.2
    dimensions: ClassVar[tuple[int, ...]] = (1,)

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch with a stretch of each series hidden."""
        x = as_array(batch)
        mean = facts.mean.astype(np.float32)[:, None]
        for sample, (size, start) in enumerate(generator.random((len(x), 2))):
            places = positions(batch, sample)
            length = round(self.longest * size * len(places))
            first = int(start * (len(places) - length + 1))
            x[sample][:, places[first : first + length]] = mean
        return with_inputs(batch, x)


@dataclass(frozen=True)
class WindowSlice:
    """Cuts a window out of each series and resizes it to the series' own length.

    All channels are cut alike. Values between two steps are interpolated linearly, so it is for measurements and not for
    symbols. Of padded series only the data are cut and stretched.

    Args:
        least: smallest window, as a part of the series; each is drawn from there to the whole.
    """

    least: Fraction = 0.8
    dimensions: ClassVar[tuple[int, ...]] = (1,)
    refused: ClassVar[Mapping[str, str]] = {"dense": "targets at positions would not move with the inputs"}

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch with a window of each series in its place."""
        x = as_array(batch)
        drawn = generator.random((len(x), 2))
        for sample, (size, start) in enumerate(drawn):
            places = positions(batch, sample)
            last = len(places) - 1
            if last < 1:
                continue
            span = last * (self.least + (1 - self.least) * size)
            sampled = (last - span) * start + np.linspace(0, span, len(places))
            below = np.minimum(sampled.astype(np.int64), last - 1)
            part = (sampled - below).astype(np.float32)
            series = x[sample][:, places]
            x[sample][:, places] = series[:, below] * (1 - part) + series[:, below + 1] * part
        return with_inputs(batch, x)


@dataclass(frozen=True)
class Crop:
    """Moves each image by a random offset: a crop of it after padding with its channels' means.

    Where inputs are padded, what is padding moves with the image.

    Args:
        padding: largest offset along each axis, as a part of its length; 0.125 are 4 of 32 pixels.
    """

    padding: Fraction = 0.125
    dimensions: ClassVar[tuple[int, ...]] = (2, 3)
    refused: ClassVar[Mapping[str, str]] = {"dense": "there is no target for what the crop adds at the border"}

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch with its images moved."""
        x = as_array(batch)
        extent = np.array(x.shape[2:])
        most = np.round(self.padding * extent).astype(np.int64)
        offsets = generator.integers(-most, most + 1, size=(len(x), len(extent)))
        moved = np.zeros_like(x)  # what is padding holds zeros
        valid = None if batch.valid is None else torch.zeros_like(batch.valid)
        if valid is None:
            moved[:] = per_channel(facts.mean, x)
        for sample, offset in enumerate(offsets):
            target, source = (tuple(map(slice, np.maximum(0, d), extent + np.minimum(0, d))) for d in (offset, -offset))
            moved[sample][(slice(None), *target)] = x[sample][(slice(None), *source)]
            if valid is not None and batch.valid is not None:
                valid[sample][target] = batch.valid[sample][source]
        return replace(batch, x=torch.from_numpy(moved), valid=valid)


@dataclass(frozen=True)
class Flip:
    """Mirrors images from left to right, and dense targets with them.

    It is for images whose mirror image is as good an example: not for text, digits, or maps with a direction.

    Args:
        probability: of each image.
    """

    probability: Share = 0.5
    dimensions: ClassVar[tuple[int, ...]] = (2, 3)

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch with some images mirrored."""
        chosen = torch.from_numpy(generator.random(len(batch.x)) < self.probability)

        def mirrored(value: Tensor) -> Tensor:
            return torch.where(chosen.reshape(-1, *(1,) * (value.ndim - 1)), value.flip(-1), value)

        y = mirrored(batch.y) if facts.kind == "dense" else batch.y
        valid = None if batch.valid is None else mirrored(batch.valid)
        return replace(batch, x=mirrored(batch.x), y=y, valid=valid)


class Several:
    """Applies its parts to each sample in their order, each with the same probability; null leaves one out.

    A part that works on whole batches, such as mixup, is always applied. Each part draws for itself: leaving one out
    changes no other's draws.

    Args:
        probability: that a part is applied to a sample.
        parts: name -> augmentation.
    """

    def __init__(self, probability: Share = 0.5, **parts: Augmentation | None) -> None:
        if wrong := [name for name, part in parts.items() if not (part is None or callable(part))]:
            hint = "give a `_target_` node, or null"
            raise ConfigError(f"{parts[wrong[0]]!r} is not an augmentation", where=f"augment.{wrong[0]}", hint=hint)
        mixing = [name for name, part in parts.items() if getattr(part, "whole_batch", False)]
        if len(mixing) > 1:
            what = f"{' and '.join(mixing)} would mix what is mixed already"
            raise ConfigError(what, where="augment", hint=f"leave one out: augment.{mixing[-1]}=null")
        self._probability = probability
        self._parts = {name: part for name, part in parts.items() if part is not None}

    @property
    def refused(self) -> Mapping[str, str]:
        """Return the kinds that a part is not for."""
        parts = self._parts.items()
        return {kind: f"{name}: {why}" for name, part in parts for kind, why in getattr(part, "refused", {}).items()}

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Return those that all parts are for."""
        each = [set(getattr(part, "dimensions", (1, 2, 3))) for part in self._parts.values()]
        return tuple(sorted(set.intersection({1, 2, 3}, *each)))

    def __call__(self, batch: Batch, generator: np.random.Generator, facts: InputFacts) -> Batch:
        """Return the batch with each part applied to some of its samples."""
        seed = int(generator.integers(2**62))
        for name, part in self._parts.items():
            part_generator = seeding.numpy_generator(seed, name)
            rows = torch.from_numpy(np.flatnonzero(part_generator.random(len(batch.x)) < self._probability))
            if getattr(part, "whole_batch", False):
                batch = part(batch, part_generator, facts)
            elif len(rows):
                changed = vars(part(batch.mapped(operator.itemgetter(rows)), part_generator, facts))
                tensors = {key: value for key, value in vars(batch).items() if isinstance(value, torch.Tensor)}
                joined: Any = {key: value.index_copy(0, rows, changed[key]) for key, value in tensors.items()}
                batch = replace(batch, **joined)
        return batch
