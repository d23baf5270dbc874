"""The protein body: all weights of a package's torch file; residues as tokens; real AntiBERTy."""

import dataclasses
import sys

import pytest
import torch

from orca_cli.exceptions import ChecksumError, DataError, UnavailableError
from orca_cli.models import checkpoints
from orca_cli.models.bodies import protein
from orca_cli.storage import sha256_file
from tests.checkpoints import save_tiny_bert
from tests.tasks.builders import Attack

FOLDER = "trained_models/tiny"
LETTERS = "ACDEFGHIKLMNPQRSTVWY"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package like antiberty with a tiny BERT; a function changes and pins its weights."""
    root = tmp_path / "tiny_antiberty"
    folder = root / FOLDER
    saved = save_tiny_bert(tmp_path / "saved", vocab_size=len(WORDS))
    model, _ = checkpoints.load_model({"bert": "BertModel"}, str(saved))
    folder.mkdir(parents=True)
    (root / "__init__.py").write_text("raise RuntimeError('code of the package is never run')")
    (folder / "config.json").write_bytes((saved / "config.json").read_bytes())
    (folder.parent / "vocab.txt").write_text("\n".join(WORDS))
    monkeypatch.syspath_prepend(str(tmp_path))
    tensors = {f"bert.{name}": value.clone() for name, value in model.state_dict().items()}
    heads = {"bert.pooler.dense.weight": torch.zeros(32, 32), "cls.species.bias": torch.zeros(6)}
    buffer = {"bert.embeddings.position_ids": torch.arange(64)[None]}

    def write(change=lambda content: content):
        file = folder / "pytorch_model.bin"
        torch.save(change(tensors | heads | buffer), file)
        entry = checkpoints.PACKAGED["antiberty"]
        changes = {"package": root.name, "folder": FOLDER, "sha256": sha256_file(file)}
        monkeypatch.setitem(
            checkpoints.PACKAGED, "antiberty", dataclasses.replace(entry, **changes)
        )
        return file

    write.model = model
    return write


def test_every_tensor_of_the_file_is_in_the_body(package):
    package()
    body = protein.load("antiberty")
    expected = package.model.state_dict()
    tensors = body.state_dict() | {
        f"embeddings.{name}": tensor for name, tensor in body.embeddings.state_dict().items()
    }
    torch.testing.assert_close(dict(tensors), dict(expected), rtol=0, atol=0)


def test_the_package_of_the_weights_is_not_imported(package):
    package()
    protein.load("antiberty")
    assert "tiny_antiberty" not in sys.modules


VALUE = "encoder.layer.1.attention.self.value.weight"


def without_value(content):
    return {name: tensor for name, tensor in content.items() if name != f"bert.{VALUE}"}


def with_a_layer_more(content):
    return content | {"bert.encoder.layer.2.more": torch.ones(2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [(without_value, VALUE), (with_a_layer_more, r"Unexpected key.*encoder\.layer\.2")],
)
def test_a_file_with_other_tensors_is_refused(package, change, message):
    package(change)
    with pytest.raises(DataError, match=message):
        protein.load("antiberty")


@pytest.fixture
def trap(tmp_path):
    """An object whose unpickling writes a file; it must not be there after the test."""
    canary = tmp_path / "canary"
    yield Attack(canary)
    assert not canary.exists()


def test_a_pickle_that_runs_code_is_refused(package, trap):
    """Even if its checksum is the recorded one."""
    package(lambda content: content | {"trap": trap})
    with pytest.raises(DataError, match="does not contain the model's weights"):
        protein.load("antiberty")


def test_a_file_with_another_checksum_is_not_opened(package, trap):
    torch.save({"trap": trap}, package())
    message = r"pytorch_model\.bin: .*differs from the published checksum"
    with pytest.raises(ChecksumError, match=message):
        protein.load("antiberty")


def test_a_package_without_weights_is_refused(package):
    package().unlink()  # as in release 1.0 of antiberty
    message = r"not on this machine.*pip install 'orca-transfer\[protein\]'"
    with pytest.raises(UnavailableError, match=message):
        protein.load("antiberty")


@torch.no_grad()
def test_residues_are_tokens_and_others_are_unknown(package):
    package()
    body = protein.load("antiberty", max_source_tokens=6)
    tokens = body.embed_source(["ACY", "aB", "ACDEFGHIK"])
    numbers = torch.tensor([[2, 5, 6, 24, 3, 0], [2, 5, 1, 3, 0, 0], [2, 5, 6, 7, 8, 3]])
    torch.testing.assert_close(tokens.x, body.embeddings(input_ids=numbers))
    assert tokens.mask.sum(1).tolist() == [5, 4, 6]


@torch.no_grad()
def test_the_prefix_of_a_protein_is_its_classification_token(package):
    package()
    body = protein.load("antiberty")
    expected = body.embeddings(input_ids=torch.tensor([[2]]))[0]
    torch.testing.assert_close(body.prefix_tokens(), expected)


@pytest.mark.skipif(
    checkpoints.packaged_folder(checkpoints.PACKAGED["antiberty"]) is None,
    reason="needs the extra `protein`",
)
def test_the_genuine_antiberty_tells_residues_apart():
    tokens = protein.load("antiberty").embed_source(["EVQLV", "EVQLB"])
    assert tokens.x.shape == (2, 7, 512)
    assert [torch.equal(*pair) for pair in zip(*tokens.x, strict=True)] == [True] * 5 + [
        False,
        True,
    ]
