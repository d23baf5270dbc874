"""A learned border that is added to images, and the predictor, are trained (VP, Bahng et al. 2022; paper A.6)."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import Tensor, nn

from orca_cli.exceptions import ConfigError
from orca_cli.models.finetuning.state import train_parts
from orca_cli.models.transfer import TransferModel

_NAME = "border"


class VisualPrompt:
    """Add a learned border to every image, which is the same for all of them and 0 at first; the body stays as it is.

    The border is added at the task's own resolution, before an image is resized to that of the body. Stage 2 does not see it.

    Args:
        width: of the border, as a share of the image's shorter side; 30 of 224 pixels in the original.
        train_embedder: whether the embedder is trained as well; false is prompting as in the paper.
    """

    pretrained = True

    def __init__(
        self,
        width: Annotated[float, Interval(gt=0, lt=0.5), "Share of the image's shorter side."] = 0.134,
        train_embedder: Annotated[bool, "Whether the embedder is trained too."] = True,
    ) -> None:
        self._width, self._train_embedder = width, train_embedder

    def apply(self, model: TransferModel) -> None:
        """Make border, predictor and, where set, embedder trainable, and nothing else; adds the border where there is none.

        Raises:
            ConfigError: inputs are not images (C, H, W) of at least 3 x 3.
        """
        if not hasattr(model, _NAME):
            shape = model.embedder.layout.input_shape
            if len(shape) != 3 or min(shape[1:]) < 3:
                what = f"a border is for images (C, H, W) of at least 3 x 3, and inputs are {shape}"
                raise ConfigError(what, where="finetune", hint="use finetune=prompt")
            shorter = min(shape[1:])
            width = min(max(1, round(self._width * shorter)), (shorter - 1) // 2)
            model.add_module(_NAME, Border(shape[0], shape[1], shape[2], width))
            model.register_forward_pre_hook(_add_border)
        train_parts(model, [model.get_submodule(_NAME)], embedder=self._train_embedder)


class Border(nn.Module):
    """What is added to the outer w pixels of images [B, C, H, W]: 2 C w (H + W - 2 w) numbers, 0 at first.

    Args:
        channels, height, width: C, H, W.
        border: w, less than half of the shorter side.
    """

    def __init__(self, channels: int, height: int, width: int, border: int) -> None:
        super().__init__()
        inner = height - 2 * border
        self._inside = (channels, inner, width - 2 * border)
        self.top, self.bottom = (nn.Parameter(torch.zeros(channels, border, width)) for _ in range(2))
        self.left, self.right = (nn.Parameter(torch.zeros(channels, inner, border)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the images with the border added."""
        rows = torch.cat([self.left, self.left.new_zeros(self._inside), self.right], dim=2)
        return x + torch.cat([self.top, rows, self.bottom], dim=1)


# A module-level function, so that a copy of the model calls it with its own border.
def _add_border(model: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return (model.border(arguments[0]), *arguments[1:])
