"""An image body starts with its own patch layer, positions, class token and pixel statistics."""

import functools
import json

import numpy as np
import pytest
import torch
from transformers import AutoModel, Dinov2Config, Dinov2Model, SwinConfig, SwinModel

from orca_cli.exceptions import DataError
from orca_cli.models.bodies import auto
from orca_cli.models.embedders.patches import Multiscale, Overlap, Patch
from orca_cli.models.geometry import input_grid
from tests.checkpoints import save_tiny
from tests.models.conftest import build

EMBEDDERS = {
    "patch": Patch,
    "overlap": Overlap,
    "multiscale": functools.partial(Multiscale, skip=True, filters=4),
}
CASES = [
    *(("vit", name) for name in EMBEDDERS),
    *((name, "overlap") for name in ("deit", "beit", "dinov2", "siglip")),
]
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
STAGES = {"embed_dim": 16, "depths": [1, 1, 1], "num_heads": [2, 2, 2]}
MEAN, STD = (
    torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def made(body, x, name="patch", **settings):
    """Return a model for images, whose embedder has seen them."""
    embedder = EMBEDDERS[name](resolution="input", **settings)
    model = build(body, input_shape=tuple(x.shape[1:]), embedder=embedder).eval()
    model.embedder.fit([(x[:1], None), (x[1:], None)])
    return model


def whole(folder, pixels):
    """Return what transformers' own model makes of normalised pixels."""
    model = AutoModel.from_pretrained(folder).eval()
    return getattr(model, "vision_model", model)(pixels).last_hidden_state


@torch.no_grad()
@pytest.mark.parametrize(("name", "embedder"), CASES)
def test_step_0_gives_the_body_s_own_features(load_body, family, name, embedder):
    """Of images of its own size in 0..1, which transformers' model gets normalised."""
    body = load_body(name)
    x = images(3, 3, *body.canvas)
    model = made(body, x, embedder, max_tokens=np.prod(body.patch_grid))
    torch.testing.assert_close(
        model.features(x).x, whole(family(name), (x - MEAN) / STD), rtol=1e-4, atol=1e-4
    )


# 16 x 16 of 37 x 37 positions are interpolated; windows need the whole of a small map.
DINO = Dinov2Model(Dinov2Config(**SIZES, mlp_ratio=2, image_size=518, patch_size=14))
SWIN = SwinModel(SwinConfig(**STAGES, image_size=32, patch_size=4, window_size=2))


@torch.no_grad()
@pytest.mark.parametrize(("saved", "size", "tokens"), [(DINO, 224, 256), (SWIN, 32, None)])
def test_an_image_of_another_size_has_its_body_s_features(tmp_path, saved, size, tokens):
    saved.save_pretrained(tmp_path)
    x = images(2, 3, size, size)
    model = made(auto.load(str(tmp_path)), x, max_tokens=tokens)
    torch.testing.assert_close(
        model.features(x).x, whole(tmp_path, (x - MEAN) / STD), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_inputs_that_are_no_pixels_are_taken_as_normalised(load_body):
    body = load_body("vit")
    x = 3 * images(3, 3, *body.canvas) - 1
    plain = build(body, input_shape=tuple(x.shape[1:]), embedder=Patch()).eval()
    torch.testing.assert_close(made(body, x).embed(x).x, plain.embed(x).x, rtol=1e-4, atol=1e-5)


STATISTICS = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}


@pytest.fixture
def start(tmp_path):
    """A function: what an embedder starts from, by the checkpoint's record of its pixels."""
    folder = save_tiny("vit", tmp_path)

    def load(content):
        (folder / "preprocessor_config.json").write_text(json.dumps(content))
        return auto.load(str(folder)).embedder_init()

    return load


def test_pixel_statistics_are_those_of_the_checkpoint(start):
    init = start(STATISTICS)
    assert (init.pixel_mean, init.pixel_std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_pixel_statistics_are_imagenets_without_a_record(start):
    init = start({})
    assert (init.pixel_mean, init.pixel_std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("wrong", [[0.5], [1, 1, 0]], ids=str)
def test_pixel_statistics_of_another_form_are_refused(start, wrong):
    message = r"preprocessor_config\.json: image_mean and image_std must each be"
    with pytest.raises(DataError, match=message):
        start(STATISTICS | {"image_std": wrong})


@pytest.mark.parametrize(
    ("shape", "side"),
    [((3, 64, 64), 8), ((1, 8, 8), 8), ((3, 1000, 1000), 37), ((2, 16, 8, 8), 8)],
    ids=str,
)
def test_an_input_is_worth_as_many_patches_as_it_has_detail(shape, side):
    """With 14-pixel patches and 37 x 37 positions: 64 tokens up to 64 x 64, then more."""
    grid = input_grid(shape, patch=14, largest_grid=(37, 37), smallest_side=1, max_tokens=None)
    assert grid == (side, side)


@torch.no_grad()
def test_source_images_have_the_resolution_of_the_target(family):
    """Of 2 x 2 pixels, each of which becomes a patch; the body's positions are of 4 x 4."""
    body, x = auto.load(str(family("vit"))), images(2, 3, 2, 2)
    body.source_resolution = "input"
    tokens, model = body.embed_source(x.numpy()), made(body, x)
    assert tokens.grid == model.embedder.layout.grid == (2, 2)
    torch.testing.assert_close(tokens.x, model.embed(x).x, rtol=1e-4, atol=1e-4)
