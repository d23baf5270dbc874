"""Families compute what transformers' own models compute; the family by the checkpoint; what sees a prompt."""

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
    "bert",
    "roberta",
    "gpt2",
    "smollm2",
    "mistral",
    "qwen2",
    "qwen3",
    "modernbert",
    "deberta",
    "t5",
    "esm",
]


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


def test_sizes_of_all_towers_count_and_wavelengths_do_not(tmp_path):
    """Limits on an untrusted config.json; some models' longest wavelength is in the millions."""
    towers = {
        "vision_config": {"num_hidden_layers": 3, "rope_parameters": {"rope_theta": 10**7}},
        "n_layer": 4,
    }
    (tmp_path / "config.json").write_text(json.dumps(towers | {"rope_theta": 5 * 10**6}))
    assert checkpoints.check_modest(tmp_path) == 7
    (tmp_path / "config.json").write_text(json.dumps(towers | {"hidden_size": 5 * 10**6}))
    with pytest.raises(UnsafeError, match="holds the number 5000000"):
        checkpoints.check_modest(tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_every_token_sees_a_prompt(name, family):
    """By hand: what transformers gives where the prompt stands before the tokens; of a run with a setting of before."""
    node = {
        "_target_": "orca_cli.models.bodies.decoders.load",
        "checkpoint": str(family(name)),
        "causal_fix": "none",
    }
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


def test_vit_is_pooled_with_its_class_token_left_out_or_alone(load_body, family):
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = whole(family("vit"))(x).last_hidden_state
        for pooling, expected in (
            ("mean", features[:, 1:].mean(1)),
            ("class_token", features[:, 0]),
        ):
            model = build(load_body("vit"), input_shape=(3, 32, 32), pooling=pooling).eval()
            torch.testing.assert_close(
                model(x), model.predictor.linear(expected), rtol=1e-4, atol=1e-5
            )
