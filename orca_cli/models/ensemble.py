"""Several trained models as one, whose outputs are averaged."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from orca_cli.models.transfer import TransferModel


class Ensemble(nn.Module):
    """The mean over models of the probabilities of classes or labels, or of numbers.

    What it returns are outputs as those of a single model: the logits of averaged probabilities.

    Args:
        members: models of one task.
        kind: form of their outputs, as `interfaces.Targets` names it: classes, class_maps, labels, values or maps.
    """

    def __init__(self, members: Sequence[TransferModel], kind: str) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.kind = kind

    @property
    def body(self) -> Any:
        """Return the body of the first member, a Body (bodies.base); those of the others have the same form."""
        return self.members[0].body

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return outputs [B, K] or [B, K, *E]; `x` and `valid` as in `interfaces.Batch`."""
        return averaged([member(x, valid).float() for member in self.members], self.kind)


def averaged(outputs: Sequence[Tensor], kind: str) -> Tensor:
    """Return the outputs [B, K, ...] that stand for the mean of several models' ones.

    Of classes the logarithm of the mean probability, of labels its logit: softmax and sigmoid give the mean back.
    """
    joined = torch.stack(list(outputs))
    if kind in ("classes", "class_maps"):
        return functional.log_softmax(joined, dim=2).logsumexp(0) - math.log(len(outputs))
    if kind == "labels":
        return functional.logsigmoid(joined).logsumexp(0) - functional.logsigmoid(-joined).logsumexp(0)
    return joined.mean(0)


def output_kind(kind: str, integer_targets: bool) -> str:
    """Return the form of a task's outputs: its kind, and for dense ones maps or class_maps."""
    if kind != "dense":
        return kind
    return "class_maps" if integer_targets else "maps"


def twin(model: TransferModel, unshared: Iterable[str]) -> TransferModel:
    """Return a copy of a model that has separate tensors for the names in `unshared` and shares all other large ones."""
    names = set(unshared)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shared = [tensor for name, tensor in tensors.items() if name not in names]
    kept = vars(model.body)  # what a body keeps beside its weights, such as its own embedding layer
    shared += [kept[name] for name in ("_aside", "_tokenizer", "config") if name in kept]
    return copy.deepcopy(model, {id(value): value for value in shared})
