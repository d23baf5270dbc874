"""Overlapping patches: as many tokens as `patch`, each of which also sees its neighbours' patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orca_cli.models.embedders.patch import Patch


@dataclass(frozen=True)
class Overlap(Patch):
    """Kernel of three strides, centred on the patch that a token stands for; an Embedder (interfaces).

    Beyond the input's ends a token sees zeros, and so it does where the input is padding. The body's patch filter, if any,
    starts in the centre of the kernel with zeros around it: the first answers are those of `patch`.

    Args:
        init, resolution, max_tokens: as in `patch.Patch`.
    """

    can_be_causal: ClassVar[bool] = False
    reach: ClassVar[int] = 1
