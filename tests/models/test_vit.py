"""ViT pools, embeds its source and places its patches as transformers' own model does."""

import torch

from orca_cli.models.assembly import build_model


def whole_vit(family):
    from transformers import ViTModel

    return ViTModel.from_pretrained(family("vit")).eval()


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_vit_is_pooled_with_its_class_token_left_out_or_alone(load_body, family):
    x = images(2, 3, 32, 32)
    with torch.no_grad():
        features = whole_vit(family)(x).last_hidden_state
        for pooling, expected in (("mean", features[:, 1:].mean(1)), ("class_token", features[:, 0])):
            settings = {"kind": "classes", "input_shape": (3, 32, 32), "num_outputs": 2, "seed": 0, "pooling": pooling}
            model = build_model(body=load_body("vit"), **settings).eval()
            torch.testing.assert_close(model(x), model.predictor.linear(expected), rtol=1e-4, atol=1e-5)


def test_vit_embeds_its_source_as_transformers_does(load_body, family):
    tokens = load_body("vit").embed_source(images(2, 3, 32, 32).numpy())
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = whole_vit(family).embeddings((images(2, 3, 32, 32) - mean) / std)[:, 1:]
    torch.testing.assert_close(tokens.x, expected)
    assert (tokens.grid, tokens.prefix) == ((4, 4), 0)
