"""DistilBERT as a body."""

import copy
from typing import Any

from torch import Tensor, nn

from orca_cli.interfaces import EmbedderInit
from orca_cli.models import checkpoints
from orca_cli.models.bodies.base import TextBody

CLASSES = {"distilbert": "DistilBertModel"}

check_settings = checkpoints.check_name


def load(checkpoint: str, max_source_tokens: int = 32) -> TextBody:
    """Load a DistilBERT model."""
    model, folder = checkpoints.load_model(CLASSES, checkpoint, attn_implementation="sdpa")
    return DistilBertBody(model, folder, max_source_tokens)


class DistilBertBody(TextBody):
    """DistilBERT's layers."""

    can_be_causal = True
    linears = {
        "query": r"\.q_lin",
        "key": r"\.k_lin",
        "value": r"\.v_lin",
        "output": r"\.out_lin",
        "feed_forward": r"\.ffn\.lin\d",
    }

    @staticmethod
    def submodules(model: Any) -> dict[str, nn.Module]:
        """Return the layers."""
        return {"transformer": model.transformer}

    def encode(self, x: Tensor, mask: Tensor, *, causal: bool) -> Tensor:
        """Return features."""
        return self.transformer(x, self.attention_mask(x, mask, causal=causal)).last_hidden_state

    def embedder_init(self) -> EmbedderInit:
        """Return norm and positions."""
        positions = self.embeddings.position_embeddings.weight.detach().clone()
        return EmbedderInit(norm=copy.deepcopy(self.embeddings.LayerNorm), positions=positions)
