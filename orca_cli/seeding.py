"""Seeds: every random draw has its own generator, named by its purpose.

A draw is a function of (seed, names), and does not depend on earlier draws. It stays the same if a
run resumes, if stages change their order, or if a draw is added elsewhere. Checkpoints need not
store the states of generators.
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
    """Return the NumPy generator of a named draw."""
    return np.random.default_rng(derive(seed, *names))


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """Return the torch generator (on the CPU) of a named draw."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


def seed_torch(seed: int, *names: str | int) -> None:
    """Seed torch's global generators for a named draw.

    Dropout and the initialisation of layers draw from these generators.
    """
    import torch

    derived = derive(seed, *names)
    # torch.manual_seed would check for every kind of device, which costs a millisecond per step.
    torch.default_generator.manual_seed(derived)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(derived)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(derived)
