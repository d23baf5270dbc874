"""Tiny random checkpoints, saved as users' checkpoints are, for tests that load them by the real path."""

import json
import os
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    GPT2Config,
    GPT2Model,
    GPT2TokenizerFast,
    RobertaConfig,
    RobertaModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTModel,
)

SHARED = Path(os.environ.get("ORCA_TEST_DATA", Path(__file__).parent.parent.parent / "shared"))
_LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]


def _save_tokenizer(folder: Path, special: list[str]) -> None:
    words = [*special, *_LETTERS, *(f"##{letter}" for letter in _LETTERS), "the", "of", "a", "return", "list"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)


def save_tiny_bert(folder: Path, **changes) -> Path:
    """Save a BERT of 2 layers, width 32, 64 positions, with a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    settings = {
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    BertModel(BertConfig(**settings | changes)).save_pretrained(folder)
    _save_tokenizer(folder, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return folder


def save_tiny_roberta(folder: Path) -> Path:
    """Save a RoBERTa of 2 layers, width 32, 66 positions (64 usable), with a tokenizer whose padding id is 1."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(2)
    config = RobertaConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=66,
        pad_token_id=1,
    )
    RobertaModel(config).save_pretrained(folder)
    _save_tokenizer(folder, ["[CLS]", "[PAD]", "[UNK]", "[SEP]", "[MASK]"])
    return folder


def save_tiny_gpt2(folder: Path) -> Path:
    """Save a GPT-2 of 2 layers, width 32, 64 positions, whose tokenizer has neither padding nor classification token."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(5)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0)
    GPT2Model(config).save_pretrained(folder)
    words = {word: number for number, word in enumerate([*_LETTERS, "\u0120", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    GPT2TokenizerFast(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), unk_token="<|endoftext|>"
    ).save_pretrained(folder)
    return folder


def save_tiny_swin(folder: Path) -> Path:
    """Save a Swin of 3 stages, width 16 to 64, 32 x 32 pixels, patch 4."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(3)
    config = SwinConfig(
        image_size=32,
        patch_size=4,
        embed_dim=16,
        depths=[1, 1, 1],
        num_heads=[2, 2, 2],
        window_size=4,
        drop_path_rate=0.0,
    )
    SwinModel(config).save_pretrained(folder)
    return folder


def save_tiny_vit(folder: Path) -> Path:
    """Save a ViT of 2 layers, width 32, 32 x 32 pixels, patch 8 (16 patches and the classification token)."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(4)
    config = ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        hidden_dropout_prob=0.0,
    )
    ViTModel(config).save_pretrained(folder)
    return folder
