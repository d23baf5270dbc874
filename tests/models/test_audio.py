"""Audio bodies: their input layers and features are those of transformers' own models; what their settings do."""

import json

import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor, AutoModel, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from orca_cli.interfaces import Tokens
from orca_cli.models.bodies import auto, spectrogram, speech
from tests.checkpoints import save_tiny
from tests.models.conftest import build


def sounds(count, length):
    """Return sounds with an offset and of different loudness, so that it matters whether they are normalised."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (count, length)) * np.arange(1, count + 1)[:, None] / count
    return (noise + 0.2).astype(np.float32)


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2_large", "hubert"])
def test_waveforms_have_the_features_that_transformers_gives_them(name, family):
    body, x = speech.load(str(family(name))).eval(), sounds(3, 3000)
    values = Wav2Vec2FeatureExtractor()(list(x), sampling_rate=16_000, return_tensors="pt").input_values
    with torch.no_grad():
        tokens = body.embed_source(x)
        expected = AutoModel.from_pretrained(family(name)).eval()(values).last_hidden_state
        torch.testing.assert_close(body(tokens).x, expected, rtol=1e-4, atol=1e-5)
    assert tokens.mask.all()
    assert tokens.grid == (expected.shape[1],)


def test_no_layer_is_left_out_and_no_token_replaced_in_training(family, tmp_path):
    """Dropout apart: a body in training mode computes what it computes in evaluation."""
    folder = save_tiny("wav2vec2", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    off = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0)
    settings = config | off | {"layerdrop": 0.9, "mask_time_prob": 0.9, "apply_spec_augment": True}
    (folder / "config.json").write_text(json.dumps(settings))
    body = speech.load(str(folder))
    tokens = Tokens(torch.randn(2, 9, 32), torch.arange(9) < torch.tensor([[9], [5]]), (9,))
    kept = tokens.x.clone()
    assert torch.equal(body.train()(tokens).x, body.eval()(tokens).x)
    assert torch.equal(tokens.x, kept)  # the encoder would write into its inputs


def test_checkpoints_that_were_fine_tuned_for_recognition_are_taken(family, tmp_path):
    """Those of wav2vec 2.0 lack the token that stands for masked ones, and have a head."""
    model = Wav2Vec2ForCTC.from_pretrained(family("wav2vec2"))
    state = {name: value for name, value in model.state_dict().items() if "masked_spec_embed" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    body, x = auto.load(str(tmp_path), max_tokens=7).eval(), sounds(1, 2000)
    torch.testing.assert_close(body.embed_source(x).x, speech.load(str(family("wav2vec2"))).embed_source(x).x)


@pytest.mark.parametrize("name", ["ast", "ast_overlapping"])
def test_spectrograms_have_the_features_that_transformers_gives_them(name, family):
    """Of sounds that fill the longest spectrogram; its two prefix tokens stand before the patches."""
    body, x = spectrogram.load(str(family(name))).eval(), sounds(2, 160 * 31 + 400)
    values = ASTFeatureExtractor(num_mel_bins=32, max_length=32)(list(x), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        tokens, prefix = body.embed_source(x), body.prefix_tokens()
        joined = torch.cat([prefix.expand(2, -1, -1), tokens.x], 1)
        mask = torch.ones(joined.shape[:2], dtype=torch.bool)
        expected = AutoModel.from_pretrained(family(name)).eval()(values["input_values"]).last_hidden_state
        features = body(Tokens(joined, mask, tokens.grid, prefix=len(prefix))).x
    assert len(prefix) == 2
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "columns"), [("ast", 2), ("ast_overlapping", 3)])
def test_a_short_sound_has_those_tokens_that_see_some_of_it(name, columns, tmp_path):
    """They are the ones that the model makes of the sound filled up with silence, by the checkpoint's statistics."""
    folder, x = save_tiny(name, tmp_path), sounds(2, 160 * 12 + 400)  # 13 frames of 32
    (folder / "preprocessor_config.json").write_text('{"mean": -3.0, "std": 2.0, "do_normalize": true}')
    body = spectrogram.load(str(folder))
    extract = ASTFeatureExtractor(num_mel_bins=32, max_length=32, mean=-3.0, std=2.0)
    values = extract(list(x), sampling_rate=16_000, return_tensors="pt")["input_values"]
    with torch.no_grad():
        whole = AutoModel.from_pretrained(folder).eval().embeddings(values)[:, 2:].unflatten(1, body.patch_grid)
    tokens = body.embed_source(x)
    assert tokens.grid == (body.patch_grid[0], columns)
    torch.testing.assert_close(tokens.x, whole[:, :, :columns].flatten(1, 2), rtol=1e-4, atol=1e-5)


def test_a_map_of_one_channel_starts_as_a_spectrogram_does(family):
    """The embedder starts as the model's own patch embedding, positions included."""
    body = spectrogram.load(str(family("ast"))).eval()
    model = build(body, input_shape=(1, 32, 32)).eval()
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = AutoModel.from_pretrained(family("ast")).eval()(x[:, 0].transpose(1, 2)).last_hidden_state
        torch.testing.assert_close(model.features(x).x, expected, rtol=1e-4, atol=1e-5)
