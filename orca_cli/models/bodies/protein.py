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


def load(checkpoint: str, max_source_tokens: Annotated[int, Ge(3)] = 64) -> BertBody:
    """Load a protein encoder from the package `antiberty`, a hub id or a local folder; raises what `load_model` does."""
    model, folder = checkpoints.load_model(
        {"bert": "BertModel"}, checkpoint, attn_implementation="sdpa"
    )
    return ProteinBody(model, folder, max_source_tokens)


class ProteinBody(BertBody):
    """The encoder layers of a BERT whose vocabulary is the letters of amino acids.

    Letters that the vocabulary lacks (for AntiBERTy B, J, O, U, X, Z) are its token for the unknown.
    """

    def embed_source(self, inputs: Sequence[str] | np.ndarray) -> Tokens:
        """Return the embedding layer's outputs [B, T, D] for B sequences of letters, cut to `max_source_tokens`."""
        return super().embed_source([" ".join(str(sequence).upper()) for sequence in inputs])

    @functools.cached_property
    def _tokenizer(self) -> Any:
        # The package antiberty keeps its letters beside the folder of the weights, without any other file of a tokenizer.
        letters = self.folder.parent / "vocab.txt"
        if not letters.is_file() or any(
            (self.folder / name).is_file() for name in ("vocab.txt", "tokenizer.json")
        ):
            return super()._tokenizer
        from transformers import BertTokenizer

        return BertTokenizer(str(letters), do_lower_case=False)
