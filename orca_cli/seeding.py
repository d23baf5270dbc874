"""Seeds: every random draw has a generator of its own, named by its purpose.

A draw is a function of (seed, names), and does not depend on earlier draws. Neither a resumed run,
nor another order of stages, nor one more draw elsewhere changes it, and checkpoints need no state
of a generator.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: str | int) -> int:
    """Return a seed in 0..2**63-1 for a named draw, such as ("finetune", "order", epoch)."""
    draw = "/".join([str(seed), *map(str, names)])
    digest = hashlib.sha256(draw.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return the NumPy generator of one named draw."""
    return np.random.default_rng(derive(seed, *names))


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """Return the torch generator (CPU) of one named draw."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


def seed_torch(seed: int, *names: str | int) -> None:
    """Seed torch's global generators for one named draw.

    Dropout and the initialisation of layers draw from them.
    """
    import torch

    derived = derive(seed, *names)
    # torch.manual_seed would look for every kind of device: a millisecond at each step.
    torch.default_generator.manual_seed(derived)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(derived)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(derived)
