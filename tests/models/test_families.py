"""Families agree with transformers' own models; a checkpoint names its family; prompts are seen."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, T5EncoderModel

from orca_cli.config import parts
from orca_cli.exceptions import UnsafeError
from orca_cli.interfaces import Tokens
from orca_cli.models import checkpoints
from orca_cli.models.bodies import auto
from orca_cli.models.finetuning.modes import Prompt
from tests.models.conftest import build

TEXT = [
    "bert", "roberta", "gpt2", "smollm2", "mistral", "qwen2", "qwen3", "modernbert", "deberta",
    "t5", "esm",
]  # fmt: skip


def whole(folder):
    kind = T5EncoderModel if AutoConfig.from_pretrained(folder).model_type == "t5" else AutoModel
    return kind.from_pretrained(folder).eval()


@pytest.mark.parametrize("name", TEXT)
def test_a_body_has_the_features_that_transformers_gives(name, family):
    """Those of images are in test_start.py."""
    body, reference = auto.load(str(family(name))).eval(), whole(family(name))
    numbers = torch.randint(5, 40, (2, 21), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(21) < torch.tensor([[21], [13]])
    with torch.no_grad():
        features = body.encode(body.embeddings(numbers), mask, causal=False)
        expected = reference(numbers, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(features[mask], expected[mask], rtol=1e-4, atol=1e-5)


@pytest.fixture
def write_config(tmp_path):
    """Write the config.json of a model of two towers, of 3 and 4 layers, and return its folder."""
    vision = {"num_hidden_layers": 3, "rope_parameters": {"rope_theta": 10**7}}

    def write(**more):
        content = {"vision_config": vision, "n_layer": 4, **more}
        (tmp_path / "config.json").write_text(json.dumps(content))
        return tmp_path

    return write


def test_layers_of_all_towers_count_and_wavelengths_do_not(write_config):
    """Some models' longest wavelength is in the millions."""
    assert checkpoints.check_modest(write_config(rope_theta=5 * 10**6)) == 7


def test_a_config_with_a_size_of_no_model_is_refused(write_config):
    with pytest.raises(UnsafeError, match="contains the number 5000000"):
        checkpoints.check_modest(write_config(hidden_size=5 * 10**6))


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_every_token_sees_a_prompt(name, family):
    """By hand: transformers' own outputs with the prompt put before the tokens."""
    node = {"_target_": "orca_cli.models.bodies.decoders.load", "checkpoint": str(family(name))}
    model = build(parts.build(node, "body"), kind="dense", input_shape=(2, 9)).eval()
    Prompt(tokens=3).apply(model)
    prompt = model.body.prompt.x.expand(1, -1, -1)
    with torch.no_grad():
        x = model.embed(torch.randn(1, 2, 9, generator=torch.Generator().manual_seed(0))).x
        features = model.body(Tokens(x, torch.ones(1, 9, dtype=torch.bool), (9,))).x[:, 3:]
        expected = whole(family(name))(inputs_embeds=torch.cat([prompt, x], 1)).last_hidden_state[
            :, 3:
        ]
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ("mean", lambda features: features[:, 1:].mean(1)),
        ("class_token", lambda features: features[:, 0]),
    ],
    ids=["mean", "class_token"],
)
@torch.no_grad()
def test_vit_is_pooled_without_its_class_token_or_by_it(load_body, family, pooling, pool):
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = whole(family("vit"))(x).last_hidden_state
    model = build(load_body("vit"), input_shape=(3, 32, 32), pooling=pooling).eval()
    expected = model.predictor.linear(pool(features))
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
