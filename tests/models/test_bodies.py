"""ViT: its source, pooling, padding and positions; what it computes of images is compared in test_families.py."""

import pytest
import torch
from transformers import ViTModel

from orca_cli.interfaces import Tokens
from orca_cli.models.assembly import build_model
from orca_cli.models.embedders.patch import Patch


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def whole_vit(family):
    return ViTModel.from_pretrained(family("vit")).eval()


@pytest.mark.parametrize(("pooling", "pooled"), [("mean", slice(1, None)), ("class_token", slice(1))])
def test_vit_is_read_at_its_patches_or_at_its_class_token(load_body, whole_vit, pooling, pooled):
    settings = {"body": load_body("vit"), "kind": "classes", "input_shape": (3, 32, 32), "num_outputs": 2, "seed": 0}
    model, x = build_model(**settings, pooling=pooling).eval(), images(2, 3, 32, 32)
    with torch.no_grad():
        wanted = model.predictor.linear(whole_vit(x).last_hidden_state[:, pooled].mean(1))
        torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-5)


def test_vit_embeds_its_source_as_transformers_does(load_body, whole_vit):
    tokens = load_body("vit").embed_source(images(2, 3, 32, 32).numpy())
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        wanted = whole_vit.embeddings((images(2, 3, 32, 32) - mean) / std)[:, 1:]
    torch.testing.assert_close(tokens.x, wanted)
    assert (tokens.grid, tokens.prefix) == ((4, 4), 0)


def test_vit_ignores_padding(load_body):
    model = build_model(body=load_body("vit"), kind="classes", input_shape=(2, 64), num_outputs=2, seed=0).eval()
    x = torch.randn(1, 2, 64, generator=torch.Generator().manual_seed(0))
    valid = (torch.arange(64) < 20)[None]
    tokens = model.embed(x, valid)
    assert 0 < tokens.mask.sum() < tokens.mask.numel()
    features = model.body(tokens).x
    other = model.body(Tokens(torch.where(tokens.mask[..., None], tokens.x, 7.0), tokens.mask, tokens.grid)).x
    torch.testing.assert_close(features[tokens.mask], other[tokens.mask])


def test_positions_of_a_map_are_resized_to_a_coarser_grid(load_body):
    body = load_body("vit")
    settings = {"body": body, "kind": "classes", "input_shape": (3, 32, 32), "num_outputs": 2, "seed": 0}
    own = build_model(**settings).embedder.positions.detach()
    coarse = build_model(**settings, embedder=Patch(max_tokens=4)).embedder
    assert coarse.layout.grid == (2, 2)
    wanted = torch.nn.functional.interpolate(own.T.reshape(1, 32, 4, 4), size=(2, 2), mode="bicubic")[0]
    torch.testing.assert_close(coarse.positions.detach(), wanted.flatten(1).T)
