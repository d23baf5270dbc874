"""Decoder-only language models as bodies: GPT-2, and those built like Llama (Llama, SmolLM2, Mistral, Qwen2, Qwen3)."""

from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from orca_cli.config.ranges import Count
from orca_cli.models import checkpoints
from orca_cli.models.bodies.encoders import EncoderBody

CLASSES = {
    "gpt2": "GPT2Model",
    "llama": "LlamaModel",
    "mistral": "MistralModel",
    "qwen2": "Qwen2Model",
    "qwen3": "Qwen3Model",
}

check_settings = checkpoints.check_name  # before anything is read


def load(
    checkpoint: str,
    max_source_tokens: Annotated[int, Ge(1)] = 32,
    max_tokens: Annotated[
        Count, "longest sequence, where the model takes it; longer inputs get coarser tokens"
    ] = 512,
) -> EncoderBody:
    """Load a decoder from a hub id or a local folder; raises what `checkpoints.load_model` does."""
    loaded = checkpoints.load_model(CLASSES, checkpoint, attn_implementation="sdpa")
    return DecoderBody(*loaded, max_source_tokens, max_tokens)


class DecoderBody(EncoderBody):
    """A decoder whose tokens are given in place of word embeddings; it adds its own positions.

    Its attention is causal for every task, as in pretraining, so that early features know nothing of later inputs.
    """

    model: nn.Module

    @staticmethod
    def trained(model: Any) -> dict[str, nn.Module]:
        """Return the model without word embeddings, and with nn.Linear in place of GPT-2's transposed Conv1D."""
        from transformers.pytorch_utils import Conv1D

        model.set_input_embeddings(None)
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, Conv1D):
                    with torch.device("meta"):
                        linear = nn.Linear(*child.weight.shape)
                    linear.load_state_dict(
                        {"weight": child.weight.T.contiguous(), "bias": child.bias}, assign=True
                    )
                    setattr(parent, name, linear.requires_grad_(True))
        return {"model": model}

    def encode(self, x: Tensor, mask: Tensor, *, causal: bool) -> Tensor:
        """Return the last norm's outputs."""
        return self.model(
            inputs_embeds=x, attention_mask=mask.to(torch.int64), use_cache=False
        ).last_hidden_state
