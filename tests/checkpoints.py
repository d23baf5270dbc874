"""Tiny random checkpoints, saved like users' checkpoints, for tests that load them by the real path."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers as hf

SHARED = Path(os.environ.get("ORCA_TEST_DATA", Path(__file__).parent.parent.parent / "shared"))
_LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]


def _save_tokenizer(
    folder: Path, special: Sequence[str] = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
) -> None:
    words = [
        *special, *_LETTERS, *(f"##{letter}" for letter in _LETTERS), "the", "of", "a", "return",
        "list",
    ]  # fmt: skip
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    hf.BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)


def _save(folder: Path, seed: int, model_class, config) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model_class(config).save_pretrained(folder)
    return folder


def save_tiny_bert(folder: Path, **changes) -> Path:
    """Save a BERT of 2 layers, width 32, 64 positions, with a tokenizer."""
    _save(folder, 1, hf.BertModel, hf.BertConfig(**_BERT | {"pad_token_id": 0} | changes))
    _save_tokenizer(folder, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return folder


def save_tiny_roberta(folder: Path) -> Path:
    """Save a RoBERTa of 2 layers, width 32, 66 positions (64 usable), with a tokenizer whose padding id is 1."""
    _save(
        folder,
        2,
        hf.RobertaModel,
        hf.RobertaConfig(**_BERT | {"max_position_embeddings": 66, "pad_token_id": 1}),
    )
    _save_tokenizer(folder, ["[CLS]", "[PAD]", "[UNK]", "[SEP]", "[MASK]"])
    return folder


def save_tiny_swin(folder: Path) -> Path:
    """Save a Swin of 3 stages, width 16 to 64, 32 x 32 pixels, patch 4."""
    sizes = {
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 16,
        "depths": [1, 1, 1],
        "num_heads": [2, 2, 2],
    }
    return _save(folder, 3, hf.SwinModel, hf.SwinConfig(**sizes, window_size=4, drop_path_rate=0.0))


def save_tiny_vit(folder: Path) -> Path:
    """Save a ViT of 2 layers, width 32, 32 x 32 pixels, patch 8 (16 patches and the classification token)."""
    return _save(folder, 4, hf.ViTModel, hf.ViTConfig(**_IMAGE, hidden_dropout_prob=0.0))


def _save_byte_pairs(folder: Path) -> None:
    """Save a tokenizer that has neither padding nor classification token."""
    words = {word: number for number, word in enumerate([*_LETTERS, "\u0120", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    places = {"vocab": str(folder / "vocab.json"), "merges": str(folder / "merges.txt")}
    hf.GPT2TokenizerFast(**places, unk_token="<|endoftext|>").save_pretrained(folder)


_BERT = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 64,
}  # fmt: skip
_TEXT = _BERT | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_MARKED = _TEXT | {"cls_token_id": 1, "sep_token_id": 2}
_GROUPED = _TEXT | {"num_key_value_heads": 2}
_SIZES = {key: _BERT[key] for key in _BERT if key not in ("vocab_size", "max_position_embeddings")}
_IMAGE = {"image_size": 32, "patch_size": 8, **_SIZES}
_DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 16,
    "share_att_key": True,
}
_DEBERTA |= {"norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0}
_T5 = {"vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
_BIASED = {
    "use_relative_position_bias": True,
    "use_absolute_position_embeddings": False,
    "use_mean_pooling": True,
}
_GPT2 = {
    "vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
    "resid_pdrop": 0.0,
}  # fmt: skip
_ESM = {
    "pad_token_id": 0,
    "mask_token_id": 4,
    "position_embedding_type": "rotary",
    "emb_layer_norm_before": False,
}
_DISTIL = {
    "vocab_size": 100, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48,
    "max_position_embeddings": 64,
}  # fmt: skip
_SIGLIP = {"vision_config": _IMAGE, "text_config": _TEXT | {"projection_size": 32}}
_MODELS = {
    "gpt2": (hf.GPT2Config(**_GPT2 | {"bos_token_id": 1, "eos_token_id": 2}), hf.GPT2Model, _save_byte_pairs),
    "smollm2": (hf.LlamaConfig(**_GROUPED), hf.LlamaModel, _save_byte_pairs),
    "mistral": (hf.MistralConfig(**_GROUPED, sliding_window=7), hf.MistralModel, _save_byte_pairs),
    "qwen2": (hf.Qwen2Config(**_GROUPED), hf.Qwen2Model, _save_byte_pairs),
    "qwen3": (hf.Qwen3Config(**_GROUPED, head_dim=8), hf.Qwen3Model, _save_byte_pairs),
    "modernbert": (hf.ModernBertConfig(**_MARKED, local_attention=8), hf.ModernBertModel, _save_tokenizer),
    "deberta": (hf.DebertaV2Config(**_TEXT | _DEBERTA), hf.DebertaV2Model, _save_tokenizer),
    "t5": (hf.T5Config(**_T5), hf.T5EncoderModel, _save_tokenizer),
    "esm": (hf.EsmConfig(**_TEXT | _ESM), hf.EsmModel, _save_tokenizer),
    "distilbert": (hf.DistilBertConfig(**_DISTIL), hf.DistilBertModel, _save_tokenizer),
    "deit": (hf.DeiTConfig(**_IMAGE), hf.DeiTModel, None),
    "beit": (hf.BeitConfig(**_IMAGE | _BIASED, drop_path_rate=0.0), hf.BeitModel, None),
    "dinov2": (hf.Dinov2Config(**_IMAGE | {"mlp_ratio": 2}), hf.Dinov2Model, None),
    "siglip": (hf.SiglipConfig(**_SIGLIP), hf.SiglipModel, None),
}  # fmt: skip


def save_tiny(name: str, folder: Path) -> Path:
    """Save a tiny model of the family of conf/body/NAME.yaml: 2 layers, width 32, 64 positions or 16 patches."""
    if name in _OWN:
        return _OWN[name](folder)
    config, model_class, save_tokenizer = _MODELS[name]
    _save(folder, 6, model_class, config)
    if save_tokenizer is not None:
        save_tokenizer(folder)
    return folder


_OWN = {
    **dict.fromkeys(("minilm", "bert", "auto", "antiberty"), save_tiny_bert),
    **dict.fromkeys(("swin", "swin_tiny"), save_tiny_swin),
    "dinov2_small": lambda folder: save_tiny("dinov2", folder),
    "roberta": save_tiny_roberta,
    "vit": save_tiny_vit,
}
