"""BERT encoders over amino acids as bodies: one residue is one token."""

import functools
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from orca_cli.interfaces import Tokens
from orca_cli.models import checkpoints
from orca_cli.models.bodies.text import BertBody

check_settings = checkpoints.check_name  # before anything is read


def load(
    checkpoint: str,
    max_source_tokens: Annotated[int, Ge(3), "maximum number of tokens of a source sequence"] = 64,
) -> BertBody:
    """Load a protein encoder from the package `antiberty`, a hub id or a local folder.

    Raises as `checkpoints.load_model`.
    """
    classes = {"bert": "BertModel"}
    model, folder = checkpoints.load_model(classes, checkpoint, attn_implementation="sdpa")
    return ProteinBody(model, folder, max_source_tokens)


class ProteinBody(BertBody):
    """The encoder layers of a BERT whose vocabulary is the letters of amino acids.

    Letters that the vocabulary lacks (B, J, O, U, X, Z for AntiBERTy) become its unknown token.
    """

    def embed_source(self, inputs: Sequence[str] | np.ndarray) -> Tokens:
        """Return the embedding layer's outputs [B, T, D] for B sequences of letters.

        Sequences are truncated to `max_source_tokens`.
        """
        # The tokenizer separates words at spaces, and its words are letters.
        # The letters of amino acids are upper case in the vocabulary.
        spaced = [" ".join(str(sequence).upper()) for sequence in inputs]
        return super().embed_source(spaced)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        # The only tokenizer file of the package antiberty is its list of letters, next to the
        # folder of the weights.
        letters = self.folder.parent / "vocab.txt"
        own_files = [self.folder / name for name in ("vocab.txt", "tokenizer.json")]
        has_tokenizer = any(file.is_file() for file in own_files)
        # A checkpoint of the hub has its own tokenizer, which is preferred.
        if has_tokenizer or not letters.is_file():
            return super()._tokenizer
        from transformers import BertTokenizer

        return BertTokenizer(str(letters), do_lower_case=False)
