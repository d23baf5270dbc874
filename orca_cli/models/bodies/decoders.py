"""Decoder-only language models as bodies: GPT-2, and those built like Llama (Llama, SmolLM2, Mistral, Qwen2, Qwen3)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from orca_cli.config.ranges import Count
from orca_cli.interfaces import Tokens
from orca_cli.models import checkpoints
from orca_cli.models.bodies.base import TextBody

CLASSES = {
    "gpt2": "GPT2Model",
    "llama": "LlamaModel",
    "mistral": "MistralModel",
    "qwen2": "Qwen2Model",
    "qwen3": "Qwen3Model",
}
CausalFix = Literal["none", "flip", "double"]

check_settings = checkpoints.check_name  # before anything is read


def load(
    checkpoint: str,
    max_source_tokens: Annotated[int, Ge(1)] = 32,
    max_tokens: Annotated[Count, "longest sequence, where the model takes it; longer inputs get coarser tokens"] = 512,
    causal_fix: Annotated[CausalFix, "how early tokens learn of later ones"] = "none",
) -> DecoderBody:
    """Load a decoder from a hub id or a local folder; raises what `checkpoints.load_model` does.

    Source texts are cut to `max_source_tokens`.
    """
    model, folder = checkpoints.load_model(CLASSES, checkpoint, attn_implementation="sdpa")
    return DecoderBody(model, folder, max_source_tokens, max_tokens, causal_fix)


class DecoderBody(TextBody):
    """A decoder whose tokens are given in place of word embeddings; it adds its own positions.

    Its attention is causal for every task, as in pretraining, so that early features know nothing of later inputs.
    Garcia-de-Herreros et al. (arXiv 2510.05278) found decoders far behind encoders under ORCA for that reason, and closed the
    gap in two ways, which `causal_fix` selects:

    flip: parallel flipping. The sequence and its reverse are read side by side. A token's feature is the mean of the two
        that it gets. (The paper's abstract gives the idea; the mean over features is this program's choice.)
    double: sequence doubling. The sequence is read twice in a row, and features are those of the second copy, whose tokens
        all see the whole first copy. It takes half as many tokens as the model has positions.

    Padding stays at the end, and a prompt before the tokens: a sample is reversed within its own length, and its second copy
    follows its last real token, so that features do not depend on the room behind it. Both ways cost about twice the time, and
    neither can serve a causal task.
    """

    model: nn.Module
    can_be_causal: bool = True

    def __init__(
        self, model: Any, folder: Path, max_source_tokens: int, max_tokens: int, causal_fix: CausalFix
    ) -> None:
        positions = model.config.max_position_embeddings // (2 if causal_fix == "double" else 1)
        super().__init__(
            model,
            folder,
            model.get_input_embeddings(),
            max_source_tokens=max_source_tokens,
            max_tokens=min(max_tokens, positions),
            width=model.config.hidden_size,
        )
        self.causal_fix = causal_fix
        self.can_be_causal = causal_fix == "none"

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
                    linear.load_state_dict({"weight": child.weight.T.contiguous(), "bias": child.bias}, assign=True)
                    setattr(parent, name, linear.requires_grad_(True))
        return {"model": model}

    def read(self, x: Tensor, mask: Tensor, tokens: Tokens) -> Tensor:
        """Return the last norm's outputs; a prompt stands before the tokens in both readings, so that all of them see it."""
        return self.encode(x, mask, causal=tokens.causal, prefix=tokens.prefix)

    def encode(self, x: Tensor, mask: Tensor, *, causal: bool, prefix: int = 0) -> Tensor:
        """Return the last norm's outputs; the first `prefix` tokens are not reversed."""
        if self.causal_fix == "flip":
            places, lengths = torch.arange(mask.shape[1], device=mask.device).expand_as(mask), _lengths(mask)
            is_reversed = (places >= prefix) & (places < lengths)  # from `prefix` to the last real token
            order = torch.where(is_reversed, prefix + lengths - 1 - places, places)
            features = self._read(torch.cat([x, _in_order(x, order)]), torch.cat([mask, mask.gather(1, order)]))
            batch = x.shape[0]  # neither len nor chunk: an exported graph leaves it open
            return (features[:batch] + _in_order(features[batch:], order)) / 2
        if self.causal_fix == "double":
            length, steps = _lengths(mask), mask.shape[1]
            slots = torch.arange(2 * steps, device=mask.device).expand(mask.shape[0], -1)
            order = torch.where(slots < length, slots, slots - length).clamp(max=steps - 1)
            features = self._read(_in_order(x, order), mask.gather(1, order))
            return _in_order(features, slots[:, :steps] + length)
        return self._read(x, mask)

    def _read(self, x: Tensor, mask: Tensor) -> Tensor:
        arguments = {"inputs_embeds": x, "attention_mask": mask.to(torch.int64), "use_cache": False}
        return self.model(**arguments).last_hidden_state


def _lengths(mask: Tensor) -> Tensor:
    """Return [B, 1] int64, one more than the place of each sample's last real token."""
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (places * mask).amax(1, keepdim=True)


def _in_order(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(1, order.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
