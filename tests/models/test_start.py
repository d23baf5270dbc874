"""An image body begins with its own features: patch layer, positions, class token and pixel statistics are its own."""

import functools

import numpy as np
import pytest
import torch
from transformers import AutoModel

from orca_cli.models.bodies import auto
from orca_cli.models.embedders.patches import Multiscale, Overlap, Patch
from orca_cli.models.geometry import input_grid
from tests.checkpoints import SHARED
from tests.models.conftest import build

CASES = [("vit", "patch"), ("vit", "overlap"), ("vit", "multiscale")]
CASES += [(name, "overlap") for name in ("deit", "beit", "dinov2", "siglip")]
SWIN = SHARED / "models" / "swin-micro-cifar10"
EMBEDDERS = {"patch": Patch, "overlap": Overlap, "multiscale": functools.partial(Multiscale, skip=True, filters=4)}
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def made(body, x, embedder="patch", **settings):
    """Return a model for images, whose embedder has seen them."""
    one = EMBEDDERS[embedder](resolution="input", **settings)
    model = build(body, input_shape=tuple(x.shape[1:]), embedder=one).eval()
    model.embedder.fit([(x[:1], None), (x[1:], None)])
    return model


def whole(family, folder, pixels, **settings):
    """Return what transformers' own model makes of normalised pixels."""
    model = AutoModel.from_pretrained(folder).eval()
    return getattr(model, "vision_model", model)(pixels, **settings).last_hidden_state


@torch.no_grad()
@pytest.mark.parametrize(("name", "embedder"), CASES)
def test_step_0_gives_the_body_s_own_features(load_body, family, name, embedder):
    """Of images of its own size in 0..1, which transformers' model gets normalised."""
    body = load_body(name)
    x = images(3, 3, *body.canvas)
    model = made(body, x, embedder, max_tokens=np.prod(body.patch_grid))
    expected = whole(name, family(name), (x - MEAN) / STD)
    torch.testing.assert_close(model.features(x).x, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.skipif(not SWIN.exists(), reason=f"no {SWIN}")
def test_a_swin_begins_with_its_own_features():
    """Of images of 32 x 32, whose 8 x 8 patches its windows need."""
    x = images(3, 3, 32, 32)
    model = made(auto.load(str(SWIN)), x)
    torch.testing.assert_close(model.features(x).x, whole("swin", SWIN, (x - MEAN) / STD), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_at_another_size_positions_are_those_that_transformers_interpolates(load_body, family):
    body = load_body("dinov2")
    size = 2 * body.patch
    x = images(2, 3, size, size)
    assert (size, size) != body.canvas
    model = made(body, x, max_tokens=4)
    torch.testing.assert_close(
        model.features(x).x, whole("dinov2", family("dinov2"), (x - MEAN) / STD), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_inputs_that_are_no_pixels_are_taken_as_normalised(load_body):
    body = load_body("vit")
    x = 3 * images(3, 3, *body.canvas) - 1
    plain = build(body, input_shape=tuple(x.shape[1:]), embedder=Patch()).eval()
    torch.testing.assert_close(made(body, x).embed(x).x, plain.embed(x).x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "grid"),
    [((3, 64, 64), (8, 8)), ((1, 8, 8), (8, 8)), ((3, 1000, 1000), (37, 37)), ((2, 16, 8, 8), (8, 8))],
    ids=str,
)
def test_an_input_is_worth_as_many_patches_as_it_has_detail(shape, grid):
    """For patches of 14 and 37 x 37 positions: at most 64 up to 64 x 64, and never fewer pixels than there are, if they fit."""
    assert input_grid(shape, patch=14, most=(37, 37), least=1, max_tokens=None) == grid


@torch.no_grad()
def test_source_images_are_embedded_at_the_resolution_of_the_target(load_body):
    body = load_body("vit")
    x = images(2, 3, 8, 8)
    body.source_resolution = "input"
    try:
        tokens = body.embed_source(x.numpy())
    finally:
        body.source_resolution = "body"
    model = made(body, x)
    assert tokens.grid == model.embedder.layout.grid
    torch.testing.assert_close(tokens.x, model.embed(x).x, rtol=1e-4, atol=1e-4)


def test_features_of_whole_samples_reach_the_predictor_past_the_body_and_train(load_body):
    body, x = load_body("vit"), torch.randn(4, 2, 20)
    model = build(body, embedder=Multiscale(skip=True)).eval()
    with torch.no_grad():
        assert model.predictor.skip.weight.eq(0).all()
        model.predictor.skip.weight.normal_()
        features = model.features(x)
        expected = model.predictor.linear(model.predictor.pool(features))
        expected += model.embedder.sample_features(x, None) @ model.predictor.skip.weight.T
        torch.testing.assert_close(model(x), expected)
    model(x).square().sum().backward()
    assert model.predictor.skip.weight.grad.abs().sum() > 0
    assert [name for name, _ in model.embedder.named_parameters() if name.startswith("beside.")] == []
