"""Every augmentation: forms, padding and targets stay right, equal generators give equal batches, and known answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.config import parts
from orca_cli.config.checks import check_augmentation
from orca_cli.config.configuration import config_dir
from orca_cli.data.samples import ArraySamples
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import KINDS, Batch, InputFacts
from orca_cli.models.augmentation.transforms import (
    Augmented,
    ChannelDropout,
    Crop,
    Flip,
    Jitter,
    Mixup,
    Scale,
    Several,
    TimeMask,
    WindowSlice,
    measure,
)
from tests.properties import examples

FILES = [path for path in sorted((config_dir() / "augment").glob("*.yaml")) if path.stem != "none"]
NODES = {path.stem: yaml.safe_load(path.read_text()) for path in FILES}
K = 3


def drawn(part, batch, facts, seed=0):
    return part(batch, np.random.default_rng(seed), facts)


def case(kind, shape, *, padded=False, seed=0):
    """Return random samples and their facts; padding at the end of the first axis of the extent."""
    rng, count = np.random.default_rng(seed), shape[0]
    x, valid = rng.normal(3.0, 2.0, size=shape).astype(np.float32), None
    if padded:
        lengths = rng.integers(0, shape[2] + 1, count).reshape(-1, *(1,) * (len(shape) - 2))
        valid = np.indices((count, *shape[2:]))[1] < lengths
        x, valid = np.where(valid[:, None], x, np.float32(0)), torch.from_numpy(valid)
    if kind == "classes":
        y = rng.integers(0, K, count)
    elif kind == "labels":
        y = rng.integers(0, 2, (count, K)).astype(np.float32)
    else:
        y = rng.normal(size=(count, K, *shape[2:]) if kind == "dense" else (count, K)).astype(np.float32)
    facts = InputFacts(kind, np.full(shape[1], 3.0), np.full(shape[1], 2.0))
    return Batch(torch.from_numpy(x), torch.from_numpy(y), valid), facts


ONE, TWO = ([st.integers(1, most) for most in (5, 4, *extent)] for extent in ((12,), (9, 9)))
SHAPES = st.tuples(*ONE) | st.tuples(*TWO)


@pytest.mark.parametrize("name", NODES)
@given(st.sampled_from(KINDS), SHAPES, st.booleans(), st.integers(0, 99))
@examples(25)
def test_forms_padding_and_the_given_batch_stay_and_the_generator_decides(name, kind, shape, padded, seed):
    part = parts.build(NODES[name], "augment")
    try:
        check_augmentation(part, kind, shape[2:])
    except ConfigError:
        assert kind == "dense" or len(shape) - 2 not in getattr(part, "dimensions", (1, 2, 3))
        return
    batch, facts = case(kind, shape, padded=padded, seed=seed)
    before = {key: value.clone() for key, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    augmented, again = drawn(part, batch, facts, seed), drawn(part, batch, facts, seed)
    for key, value in before.items():
        assert torch.equal(getattr(batch, key), value), key  # the task's arrays in memory are not modified
        new = getattr(augmented, key)
        assert (new.shape, new.dtype) == (value.shape, value.dtype)
    for key in ("x", "y", "valid", "partner", "share"):
        one, other = getattr(augmented, key), getattr(again, key)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, key
    assert torch.isfinite(augmented.x).all()
    if padded:  # it holds zeros, as readers leave it
        assert not augmented.x[~augmented.valid[:, None].expand_as(augmented.x)].any()
    if name not in ("crop", "flip", "images"):
        assert augmented.valid is batch.valid is None or torch.equal(augmented.valid, batch.valid)
    if name != "mixup":
        assert augmented.partner is None
        assert kind == "dense" or torch.equal(augmented.y, batch.y)


def test_what_would_make_targets_wrong_is_refused_in_one_line():
    for name, kind, extent, message in (
        ("window_slice", "dense", (8,), "task.kind=dense: targets at positions would not move.*augment=none"),
        ("flip", "classes", (8,), "does not apply to series.*augment=none"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_augmentation(parts.build(NODES[name], "augment"), kind, extent)


def test_noise_and_scaling_have_the_strength_in_units_of_each_channel():
    facts = InputFacts("classes", np.zeros(3), np.array([1.0, 50.0, 0.0]))
    noise = drawn(Jitter(0.2), Batch(torch.zeros(64, 3, 500), torch.zeros(64, dtype=torch.int64)), facts).x
    assert noise.std(dim=(0, 2)).tolist() == pytest.approx([0.2, 10, 0], rel=0.02)
    assert noise.mean(dim=(0, 2)).abs().max() < 0.2
    # Scaling is by one positive factor for each channel, about its mean.
    batch, facts = case("classes", (20, 3, 30))
    ratios = (drawn(Scale(0.3), batch, facts).x - 3) / (batch.x - 3)
    assert torch.allclose(ratios, ratios[..., :1].expand_as(ratios), rtol=1e-2)
    factors = ratios.median(dim=2).values
    assert (factors > 0).all()
    assert factors.log().std().item() == pytest.approx(0.3, rel=0.3)


def test_a_window_is_a_stretch_of_the_data_without_its_padding():
    """A straight line has straight windows: the slope is the window's share, and the ends lie inside the line."""
    line = torch.arange(101.0).repeat(40, 2, 1)
    facts = InputFacts("values", np.zeros(2), np.ones(2))
    windows = drawn(WindowSlice(0.5), Batch(line, torch.zeros(40, 1)), facts).x
    slopes = windows.diff(dim=2)
    assert (slopes - slopes[..., :1]).abs().max() < 1e-3
    assert 0.5 <= slopes.min() < 0.6
    assert 0.9 < slopes.max() <= 1.0001
    assert 0 <= windows.min() < windows.max() <= 100
    assert torch.equal(windows[:, 0], windows[:, 1])  # all channels are cut alike
    valid = torch.arange(20).repeat(30, 1) < 11
    x = torch.where(valid[:, None], torch.arange(100.0, 120.0), 0.0)
    windows = drawn(WindowSlice(0.5), Batch(x, torch.zeros(30), valid), facts).x
    assert windows[:, :, :11].min() >= 100  # no padding zeros were mixed in
    assert not windows[:, :, 11:].any()


def test_a_mask_hides_one_stretch_of_all_channels_up_to_its_longest():
    batch, facts = case("classes", (200, 2, 50))
    masked = drawn(TimeMask(0.4), batch, facts).x
    hidden = masked != batch.x
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    assert (masked[hidden] == 3).all()
    lengths = hidden[:, 0].sum(dim=1)
    assert (lengths.min(), lengths.max()) == (0, 20)
    assert hidden[:, 0].int().diff(dim=1).abs().sum(dim=1).max() <= 2  # one stretch
    assert hidden[:, 0, 0].any()
    assert hidden[:, 0, -1].any()


def test_whole_channels_are_hidden_but_never_all():
    batch, facts = case("classes", (500, 3, 4))
    hidden = drawn(ChannelDropout(0.5), batch, facts).x == 3
    assert torch.equal(hidden.all(dim=2), hidden.any(dim=2))
    assert hidden[..., 0].sum(dim=1).max() == 2
    assert hidden[..., 0].float().mean().item() == pytest.approx(0.5 - 0.125 / 3, abs=0.03)


def test_mirroring_takes_dense_targets_along():
    batch, facts = case("dense", (30, 1, 5, 6), padded=True)
    batch = replace(batch, y=batch.x * 10)
    mirrored = drawn(Flip(), batch, facts)
    assert torch.equal(mirrored.y, mirrored.x * 10)
    turned = (mirrored.x != batch.x).flatten(1).any(dim=1)
    assert torch.equal(mirrored.x[turned], batch.x[turned].flip(-1))
    assert 5 < turned.sum() < 25


def test_a_crop_moves_an_image_and_fills_with_the_mean():
    batch, facts = case("classes", (60, 2, 8, 16))
    offsets = set()
    for new, old in zip(drawn(Crop(0.25), batch, facts).x, batch.x, strict=True):
        wide = torch.nn.functional.pad(old, (4, 4, 2, 2), value=3.0)
        places = [(d, e) for d in range(5) for e in range(9) if torch.equal(new, wide[:, d : d + 8, e : e + 16])]
        assert len(places) == 1
        offsets |= set(places)
    assert ({d for d, _ in offsets}, {e for _, e in offsets}) == (set(range(5)), set(range(9)))


@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_classes_and_labels_are_given_a_partners_and_numbers_are_mixed_as_their_inputs_are(kind):
    batch, facts = case(kind, (16, 1, 4))
    mixed = drawn(Mixup(0.5), batch, facts)
    assert torch.equal(mixed.y, batch.y)
    assert 0.5 <= mixed.share <= 1
    others = (mixed.x - mixed.share * batch.x) / (1 - mixed.share)
    order = torch.cdist(others.flatten(1), batch.x.flatten(1)).argmin(dim=1)
    assert torch.allclose(others, batch.x[order], atol=1e-4)
    assert torch.equal(mixed.partner, batch.y[order])
    batch, facts = replace(batch, y=batch.x.sum(dim=2)), replace(facts, kind="values")
    numbers = drawn(Mixup(0.5), batch, facts)
    assert torch.allclose(numbers.y, numbers.x.sum(dim=2), atol=1e-4)
    assert numbers.partner is None


def test_parts_draw_for_themselves_and_can_be_left_out():
    batch, facts = case("classes", (12, 3, 20))
    both, one = (Several(1.0, dropout=part, mask=TimeMask()) for part in (ChannelDropout(0.5), None))
    masked = drawn(one, batch, facts).x == 3
    assert masked.any()
    assert (drawn(both, batch, facts).x == 3)[masked].all()  # the same stretches, and channels
    some = drawn(Several(0.5, mask=Jitter()), batch, facts).x
    assert 0 < int((some == batch.x).all(dim=2).all(dim=1).sum()) < 12


def test_only_batches_with_a_generator_are_augmented_and_padding_is_not_measured():
    rng = np.random.default_rng(0)
    x = rng.normal([[[5.0], [-2.0], [7.0]]], [[[3.0], [0.5], [0.0]]], size=(700, 3, 12))
    samples = ArraySamples(x, np.zeros(700, np.int64), rng.random((700, 12)) < 0.5)
    facts = measure(samples, "classes", 0)
    assert facts.mean.tolist() == pytest.approx([5, -2, 7], abs=0.2)
    assert facts.deviation.tolist() == pytest.approx([3, 0.5, 0], rel=0.05)
    augmented, rows = Augmented(samples, Jitter(), facts), np.arange(5)
    assert torch.equal(augmented.batch(rows).x, samples.batch(rows).x)
    assert not torch.equal(augmented.batch(rows, np.random.default_rng(0)).x, samples.batch(rows).x)
    assert (len(augmented), augmented.digest()) == (700, samples.digest())
