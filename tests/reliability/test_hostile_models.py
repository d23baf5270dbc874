"""Rows H9 and H10: weight files and model folders of strangers run nothing, and are what was asked for."""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from orca_cli.exceptions import ConfigError, DataError, NetworkError, OrcaError, UnsafeError
from orca_cli.models import checkpoints
from orca_cli.models.bodies import text
from tests.checkpoints import save_tiny_bert
from tests.reliability.test_hostile_files import FIGURE

SECRET = "hunter2"


def safetensors(
    header: dict[str, Any] | bytes, content: bytes = b"", size: int | None = None
) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if size is None else size) + encoded + content


def tensor(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


SAFETENSORS = {
    "header of 2**60 bytes": safetensors({}, size=2**60),
    "header of 2 GB": safetensors({}, size=2**31),
    "no JSON": safetensors(b"{'a': os.system}"),
    "cut off": safetensors({"a": tensor([4], 0, 16)})[:20],
    "overlap": safetensors({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)),
    "hole": safetensors({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, bytes(12)),
    "shape of terabytes": safetensors({"a": tensor([2**40], 0, 2**42)}, bytes(8)),
    "shape that overflows": safetensors({"a": tensor([2**32, 2**32], 0, 0)}),
    "negative": safetensors(b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}'),
    "unknown type": safetensors({"a": tensor([1], 0, 4, "PICKLE")}, bytes(4)),
    "same name twice": safetensors(
        b'{"a": %s, "a": %s}' % ((json.dumps(tensor([1], 0, 4)).encode(),) * 2), bytes(4)
    ),
    "deep": safetensors(b"[" * 100_000 + b"]" * 100_000),
    "pickle": pickle.dumps({"a": 1}),
    "zip": b"PK\x03\x04" + bytes(100),
    "web page": b"<!doctype html><html></html>",
    "weights of others": safetensors({"a": tensor([1], 0, 4)}, bytes(4)),
}


@pytest.mark.parametrize("title", SAFETENSORS)
def test_hostile_safetensors_are_refused(title, tmp_path, counted):
    """H9."""
    folder = save_tiny_bert(tmp_path / "bert")
    (folder / "model.safetensors").write_bytes(SAFETENSORS[title])
    with pytest.raises((DataError, UnsafeError), match="bert") as caught:
        text.load(str(folder))
    assert "\n" not in str(caught.value)
    counted(FIGURE)


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


def _pickled(folder: Path, canary: Path, *names: str) -> None:
    for name in names or ("pytorch_model.bin",):
        (folder / name).write_bytes(pickle.dumps(Payload(canary)))


def _only_bin(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": Payload(canary)}, folder / "pytorch_model.bin")


def _changed(name: str, *, with_code: bool = False, **changes: Any) -> Callable[[Path, Path], None]:
    """Return the change of a JSON file, with a module beside it that leaves a trace when it is imported."""

    def change(folder: Path, canary: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        if with_code:
            code = f"import os\nos.mkdir({str(canary)!r})\nclass Model: pass\nclass Config: pass\n"
            (folder / "evil.py").write_text(code)

    return change


def _tokenizer_pickle(folder: Path, canary: Path) -> None:
    for path in (*folder.glob("*token*"), folder / "vocab.txt"):
        path.unlink()
    names = (
        "tokenizer.pkl", "vocab.pkl", "vocab.bin", "added_tokens.pkl", "pretrained_vocab_file.bin",
    )  # fmt: skip
    _pickled(folder, canary, *names)


def _index(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    weights = {"embeddings.word_embeddings.weight": "../secret.bin", "a": "pytorch_model.bin"}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weights})
    )
    _pickled(folder, canary, "pytorch_model.bin", "../secret.bin")


def _links(folder: Path, canary: Path) -> None:
    secret = folder.parent / "secret"
    secret.write_text(SECRET)
    for name in ("model.safetensors", "vocab.txt"):
        (folder / name).unlink()
        (folder / name).symlink_to(secret)


REPOSITORIES = {
    "only .bin": (_only_bin, UnsafeError),
    "a .bin beside safetensors": (_pickled, None),
    "code for the model": (
        _changed("config.json", with_code=True, auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}),
        UnsafeError,
    ),
    "code for the tokenizer": (
        _changed("tokenizer_config.json", with_code=True, auto_map={"AutoTokenizer": ["evil.Model", "evil.Model"]}),
        None,
    ),
    "pickles for the tokenizer": (_tokenizer_pickle, DataError),
    "a kernel of the hub": (
        _changed("config.json", attn_implementation="someone/kernel"),
        UnsafeError,
    ),
    "a quantiser": (
        _changed("config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        UnsafeError,
    ),
    "another family": (_changed("config.json", with_code=True, model_type="../../evil"), OrcaError),
    "an index to other files": (_index, DataError),
    "links": (_links, DataError),
}  # fmt: skip


@pytest.mark.parametrize("title", REPOSITORIES)
def test_model_folders_run_nothing(title, tmp_path, counted):
    """H10."""
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Payload(canary)))  # the premise: it fires
    canary.rmdir()
    folder = save_tiny_bert(tmp_path / "bert")
    change, expected = REPOSITORIES[title]
    change(folder, canary)
    if expected is None:
        text.load(str(folder)).embed_source(["a list"])
    else:
        with pytest.raises(expected) as caught:
            text.load(str(folder)).embed_source(["a list"])
        assert SECRET not in str(caught.value)
    assert not canary.exists()
    assert "evil" not in sys.modules
    counted(FIGURE)


def test_missing_weights_are_reported(tmp_path):
    """transformers draws them at random and goes on."""
    folder = save_tiny_bert(tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        DataError, match=r"1 of the model's weights .*encoder\.layer\.1\.output\.dense\.weight"
    ):
        text.load(str(folder))


def test_a_pinned_revision_is_the_one_that_is_read(tmp_path, monkeypatch):
    """H10: two commits are in the hub's cache, and a tag; what is pinned is read, and recorded."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--own--model"
    (repository / "refs").mkdir(parents=True)
    for name, digit in {"first": "1", "second": "2", "main": "2"}.items():
        save_tiny_bert(repository / "snapshots" / (digit * 40))
        (repository / "refs" / name).write_text(digit * 40)
    for suffix, digit in {"": "2", "@first": "1", f"@{'1' * 40}": "1", "@second": "2"}.items():
        assert checkpoints.revision(checkpoints.resolve(f"own/model{suffix}")) == digit * 40
    for elsewhere in (tmp_path / "snapshots" / ("1" * 40), repository / "snapshots" / "main"):
        assert checkpoints.revision(elsewhere) is None
    with pytest.raises(NetworkError, match="own/model@third"):
        checkpoints.resolve("own/model@third")
    with pytest.raises(ConfigError, match="neither an existing folder"):
        checkpoints.check_name("own/model@a b")
