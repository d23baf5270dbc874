"""Families compute what transformers' own models compute; the family by the checkpoint; what decoders know of later tokens."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, T5EncoderModel

from orca_cli.exceptions import ConfigError, UnsafeError
from orca_cli.interfaces import Tokens
from orca_cli.models import checkpoints
from orca_cli.models.bodies import auto, decoders
from orca_cli.models.finetuning.prompts import Prompt
from tests.models.conftest import build

TEXT = ["bert", "roberta", "gpt2", "smollm2", "mistral", "qwen2", "qwen3", "modernbert", "deberta", "t5", "esm"]


def whole(folder):
    kind = T5EncoderModel if AutoConfig.from_pretrained(folder).model_type == "t5" else AutoModel
    return kind.from_pretrained(folder).eval()


@pytest.mark.parametrize("name", TEXT)
def test_a_body_has_the_features_that_transformers_gives(name, family):
    """Those of images are in test_start.py, of sounds in test_audio.py."""
    body, reference = auto.load(str(family(name))).eval(), whole(family(name))
    numbers = torch.randint(5, 40, (2, 21), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(21) < torch.tensor([[21], [13]])
    with torch.no_grad():
        features = body.encode(body.embeddings(numbers), mask, causal=False)
        expected = reference(numbers, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(features[mask], expected[mask], rtol=1e-4, atol=1e-5)


def test_sizes_of_all_towers_count_and_wavelengths_do_not(tmp_path):
    """Limits on an untrusted config.json; some models' longest wavelength is in the millions."""
    towers = {"vision_config": {"num_hidden_layers": 3, "rope_parameters": {"rope_theta": 10**7}}, "n_layer": 4}
    (tmp_path / "config.json").write_text(json.dumps(towers | {"rope_theta": 5 * 10**6}))
    assert checkpoints.check_modest(tmp_path) == 7
    (tmp_path / "config.json").write_text(json.dumps(towers | {"hidden_size": 5 * 10**6}))
    with pytest.raises(UnsafeError, match="holds the number 5000000"):
        checkpoints.check_modest(tmp_path)


@pytest.mark.parametrize("fix", ["flip", "double"])
def test_the_room_behind_a_sample_does_not_matter(fix, family):
    """A sample is reversed, and read again, from its own end and not from that of the batch."""
    body = decoders.load(str(family("qwen3")), causal_fix=fix).eval()
    x = 0.1 * torch.randn(2, 15, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(15) < torch.tensor([[15], [4]])
    with torch.no_grad():
        together = body(Tokens(torch.where(mask[..., None], x, 9.0), mask, (15,))).x[1, :4]
        alone = body(Tokens(x[1:, :4], mask[1:, :4], (4,))).x[0]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
@pytest.mark.parametrize("fix", ["none", "flip", "double"])
def test_every_token_sees_a_prompt_in_every_reading(name, fix, family):
    """By hand: what transformers gives where the prompt stands before the tokens, and before their reverse."""
    body = decoders.load(str(family(name)), causal_fix=fix)
    model = build(body, kind="dense", input_shape=(2, 9)).eval()
    Prompt(tokens=3).apply(model)
    reference, prompt = whole(family(name)), model.body.prompt.x.expand(1, -1, -1)

    def read(*parts):
        return reference(inputs_embeds=torch.cat(parts, 1)).last_hidden_state

    with torch.no_grad():
        x = model.embed(torch.randn(1, 2, 9, generator=torch.Generator().manual_seed(0))).x
        features = model.body(Tokens(x, torch.ones(1, 9, dtype=torch.bool), (9,))).x[:, 3:]
        expected = {
            "none": lambda: read(prompt, x)[:, 3:],
            "flip": lambda: (read(prompt, x)[:, 3:] + read(prompt, x.flip(1))[:, 3:].flip(1)) / 2,
            "double": lambda: read(prompt, x, prompt, x)[:, 15:],
        }[fix]()
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_a_doubled_sequence_has_half_the_room_and_no_fix_forecasts(family):
    assert decoders.load(str(family("gpt2")), causal_fix="double").max_tokens == 32
    with pytest.raises(ConfigError, match="body.causal_fix=none"):
        build(decoders.load(str(family("gpt2")), causal_fix="flip"), kind="dense", causal=True)


def test_vit_is_pooled_with_its_class_token_left_out_or_alone(load_body, family):
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = whole(family("vit"))(x).last_hidden_state
        for pooling, expected in (("mean", features[:, 1:].mean(1)), ("class_token", features[:, 0])):
            model = build(load_body("vit"), input_shape=(3, 32, 32), pooling=pooling).eval()
            torch.testing.assert_close(model(x), model.predictor.linear(expected), rtol=1e-4, atol=1e-5)
