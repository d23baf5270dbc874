"""What every family gives: roles, norms, prefix tokens; and that ViT computes what transformers' own model computes."""

import pytest
import torch

from orca_cli.interfaces import Tokens
from orca_cli.models.assembly import build_model
from orca_cli.models.embedders.patch import Patch

LAYERS = {"bert": 2, "roberta": 2, "swin": 3, "vit": 2}
BODIES = list(LAYERS)


@pytest.mark.parametrize("name", BODIES)
def test_every_layer_has_all_roles_and_no_linear_layer_has_two(load_body, name):
    body = load_body(name)
    found = {role: body.linear_names(role) for role in ("query", "key", "value", "output", "feed_forward")}
    wanted = LAYERS[name]
    assert {role: len(names) for role, names in found.items()} == {
        "query": wanted,
        "key": wanted,
        "value": wanted,
        "output": wanted,
        "feed_forward": 2 * wanted,
    }
    names = [one for several in found.values() for one in several]
    assert len(names) == len(set(names))
    linears = {one for one, module in body.named_modules() if isinstance(module, torch.nn.Linear)}
    others = linears - set(names)
    assert not [
        one for one in others if not one.endswith("downsample.reduction")
    ]  # patch merging has none of the roles


@pytest.mark.parametrize("name", BODIES)
def test_all_norms_are_found(load_body, name):
    body = load_body(name)
    wanted = [module for module in body.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(wanted) >= 2 * LAYERS[name]
    assert body.norms() == wanted


def whole_vit(folders):
    from transformers import ViTModel

    return ViTModel.from_pretrained(folders["vit"]).eval()


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_vit_features_are_those_of_transformers(load_body, folders):
    """The embedder that starts from ViT's own patch embedding is that patch embedding."""
    body = load_body("vit")
    model = build_model(body=body, kind="classes", input_shape=(3, 32, 32), num_outputs=2, seed=0).eval()
    x = images(2, 3, 32, 32)
    whole = whole_vit(folders)
    with torch.no_grad():
        tokens = model.embed(x)
        features = body(Tokens(*_with_prefix(model, tokens), tokens.grid, prefix=1))
        wanted = whole(x)
        torch.testing.assert_close(tokens.x, whole.embeddings(x)[:, 1:], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(features.x, wanted.last_hidden_state, rtol=1e-4, atol=1e-5)
        pooled = model.predictor.linear(wanted.last_hidden_state[:, 1:].mean(1))
        torch.testing.assert_close(model(x), pooled, rtol=1e-4, atol=1e-5)
    first = build_model(
        body=body, kind="classes", input_shape=(3, 32, 32), num_outputs=2, seed=0, pooling="class_token"
    ).eval()
    wanted_logits = first.predictor.linear(wanted.last_hidden_state[:, 0])
    torch.testing.assert_close(first(x), wanted_logits, rtol=1e-4, atol=1e-5)


def _with_prefix(model, tokens):
    first = model.embedder.class_token.expand(len(tokens.x), 1, -1)
    return torch.cat([first, tokens.x], 1), torch.ones(len(tokens.x), 1 + tokens.x.shape[1], dtype=torch.bool)


def test_vit_embeds_its_source_as_transformers_does(load_body, folders):
    tokens = load_body("vit").embed_source(images(2, 3, 32, 32).numpy())
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        wanted = whole_vit(folders).embeddings((images(2, 3, 32, 32) - mean) / std)[:, 1:]
    torch.testing.assert_close(tokens.x, wanted)
    assert (tokens.grid, tokens.prefix) == ((4, 4), 0)


@pytest.mark.parametrize("kind", ["classes", "dense"])
@pytest.mark.parametrize("shape", [(2, 50), (3, 20, 20)], ids=str)
def test_vit_learns(load_body, kind, shape):
    model = build_model(body=load_body("vit"), kind=kind, input_shape=shape, num_outputs=2, seed=0)
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(2):
        loss = (model(x) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


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
