"""Decoder-only language models as bodies: GPT-2, and models with Llama's architecture.

Models with Llama's architecture are Llama, SmolLM2, Mistral, Qwen2 and Qwen3.
"""

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
    max_source_tokens: Annotated[int, Ge(1), "maximum number of tokens of a source text"] = 32,
    max_tokens: Annotated[
        Count,
        "maximum number of tokens of a sample, at most the model's own limit; "
        "if an input has more positions, each token covers several positions",
    ] = 512,
) -> EncoderBody:
    """Load a decoder from a hub id or a local folder; raises as `checkpoints.load_model`."""
    model, folder = checkpoints.load_model(CLASSES, checkpoint, attn_implementation="sdpa")
    return DecoderBody(model, folder, max_source_tokens, max_tokens)


class DecoderBody(EncoderBody):
    """A decoder that gets tokens instead of word embeddings, and adds its own positions.

    Its attention is causal for every task, as in pretraining: a feature never depends on later
    inputs.
    """

    model: nn.Module

    @staticmethod
    def submodules(model: Any) -> dict[str, nn.Module]:
        """Return the model without word embeddings, and with nn.Linear for GPT-2's Conv1D."""
        from transformers.pytorch_utils import Conv1D

        # The word embeddings embed the source; `Body` keeps them separately.
        model.set_input_embeddings(None)
        # A list, since the tree of modules changes during the loop.
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                # Conv1D is not an nn.Linear, the class that modes such as LoRA look for.
                if isinstance(child, Conv1D):
                    setattr(parent, name, _as_linear(child))
        return {"model": model}

    def encode(self, x: Tensor, mask: Tensor, *, causal: bool) -> Tensor:
        """Return the outputs of the last norm."""
        # The model gets embedded inputs instead of word numbers; its cache serves generation only.
        outputs = self.model(inputs_embeds=x, attention_mask=mask.to(torch.int64), use_cache=False)
        return outputs.last_hidden_state


def _as_linear(layer: Any) -> nn.Linear:
    """Return transformers' Conv1D, a linear layer with its weight transposed, as nn.Linear."""
    # On "meta", so that no weights are drawn.
    with torch.device("meta"):
        # Conv1D keeps its weight as [inputs, outputs], the order of nn.Linear's arguments.
        linear = nn.Linear(*layer.weight.shape)
    weight = layer.weight.T.contiguous()
    linear.load_state_dict({"weight": weight, "bias": layer.bias}, assign=True)
    return linear.requires_grad_(True)
