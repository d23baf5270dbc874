"""Vision transformers as bodies: ViT, DeiT, BEiT, DINOv2, SigLIP's vision tower."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Tokens
from orca_cli.models import checkpoints
from orca_cli.models.bodies.base import ImageBody

CLASSES = {
    "vit": "ViTModel",
    "deit": "DeiTModel",
    "beit": "BeitModel",
    "dinov2": "Dinov2Model",
    "siglip": "SiglipVisionModel",  # for a checkpoint with both towers
    "siglip_vision_model": "SiglipVisionModel",
}
# Names of a family's layers and of its last norm, if they are not "layers" and "layernorm".
_LAYERS = {"dinov2": "encoder.layer", "siglip_vision_model": "encoder.layers"}
_NORMS = {"siglip_vision_model": "post_layernorm"}

check_settings = checkpoints.check_name  # before anything is read


def load(checkpoint: str) -> ImageBody:
    """Load a vision transformer from a hub id or a folder; raises as `checkpoints.load_model`."""
    model, folder = checkpoints.load_model(CLASSES, checkpoint, attn_implementation="sdpa")
    if getattr(model, "shared_position_bias", None) is not None:
        raise ConfigError(
            f"'{folder}' is a BEiT model whose layers share position biases; this body needs a "
            "fine-tuned BEiT model, in which each layer has its own position biases",
            where=checkpoints.KEY,
            hint="use for example body.checkpoint=microsoft/beit-base-patch16-224",
        )
    classes: dict[str, type[ViTBody]] = {"beit": BeitBody, "siglip_vision_model": SiglipBody}
    body_class = classes.get(model.config.model_type, ViTBody)
    return body_class(model, folder)


class ViTBody(ImageBody):
    """The layers and the last norm of a vision transformer.

    Classification and distillation tokens, if the model has them, always come before the patches.
    """

    layers: nn.ModuleList
    norm: nn.Module
    layer_list = "layers"

    def __init__(self, model: Any, folder: Path) -> None:
        prefix_length = len(_prefix(model.embeddings))
        # The tokens of the prefix have positions too, so they count.
        max_tokens = prefix_length + model.embeddings.patch_embeddings.num_patches
        super().__init__(model, folder, max_tokens=max_tokens, width=model.config.hidden_size)
        self.needs_prefix = prefix_length > 0

    @staticmethod
    def submodules(model: Any) -> dict[str, nn.Module]:
        """Return layers and last norm."""
        family = model.config.model_type
        try:
            layers = model.get_submodule(_LAYERS.get(family, "layers"))
        except AttributeError as error:
            raise ConfigError(
                f"the installed version of transformers is too old for {type(model).__name__}",
                where="body",
                hint="upgrade transformers: pip install -U transformers",
            ) from error
        norm = model.get_submodule(_NORMS.get(family, "layernorm"))
        return {"layers": layers, "norm": norm}

    def forward(self, tokens: Tokens) -> Tokens:
        """Return features; no token attends to padding."""
        mask = self.attention_mask(tokens.x, tokens.mask)
        features = self.norm(self.run(tokens, mask))
        return Tokens(features, tokens.mask, tokens.grid, prefix=tokens.prefix)

    def run(self, tokens: Tokens, mask: Tensor | None) -> Tensor:
        """Return the last layer's outputs [B, T, D]."""
        hidden = tokens.x
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return hidden

    @torch.no_grad()
    def prefix_tokens(self) -> Tensor | None:
        """Return the prefix tokens [P, D] with positions added; None if the model has none."""
        prefix = _prefix(self.embeddings)
        if not prefix:
            return None
        tokens = torch.cat(prefix, 1)[0]
        positions = self.embeddings.position_embeddings
        # BEiT, for example, has relative positions only.
        if positions is None:
            return tokens.clone()
        return tokens + positions[0, : len(tokens)]


class BeitBody(ViTBody):
    """BEiT, whose layers have biases by relative position for the grid of patches.

    For a coarser grid they are interpolated. Models that pool by the mean have no last norm.
    """

    # The layers have biases only for the classification token and the patches.
    takes_prefix = False

    def run(self, tokens: Tokens, mask: Tensor | None) -> Tensor:
        """Return the last layer's outputs [B, T, D]."""
        hidden = tokens.x
        # The layers add the mask to their biases, so it must contain numbers.
        if mask is not None and mask.dtype == torch.bool:
            # As small as the type allows, so that softmax gives padding no weight; infinity would
            # give NaN in a row without tokens.
            lowest = torch.finfo(hidden.dtype).min
            zeros = torch.zeros_like(mask, dtype=hidden.dtype)
            mask = zeros.masked_fill(~mask, lowest)
        rows, columns = tokens.grid
        patch_size = self.config.patch_size
        # In pixels, from which the layers compute the grid for their biases.
        resolution = (rows * patch_size, columns * patch_size)
        for layer in self.layers:
            hidden = layer(hidden, mask, resolution=resolution)
        return hidden


class SiglipBody(ViTBody):
    """SigLIP's vision tower, without the layer that pools; it has no classification token."""

    def __init__(self, model: Any, folder: Path) -> None:
        # In transformers, the embedding layer of this family uses other names.
        embeddings = model.embeddings
        # The names under which `ImageBody` looks for filter and positions.
        embeddings.patch_embeddings = nn.Module()
        embeddings.patch_embeddings.projection = embeddings.patch_embedding
        embeddings.patch_embeddings.num_patches = embeddings.num_patches
        positions = embeddings.position_embedding.weight.detach()  # [S, D]
        embeddings.position_embeddings = nn.Parameter(positions.unsqueeze(0))
        super().__init__(model, folder)


def _prefix(embeddings: Any) -> list[Tensor]:
    """Return the tokens [1, 1, D] that the model puts before the patches, in order."""
    candidates = [getattr(embeddings, name, None) for name in ("cls_token", "distillation_token")]
    return [token for token in candidates if token is not None]
