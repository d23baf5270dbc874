"""The transfer model, predictor(body(embedder(x))) (paper 3.1), and several trained ones as one, whose outputs are averaged."""

import copy
import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from orca_cli.interfaces import Scale, Tokens


class TransferModel(nn.Module):
    """Embedder, body and predictor, with the task's scale at the end; `assembly.build_model` makes it.

    Args:
        embedder, body, predictor: f, which an Embedder (interfaces) returned, g, a Body (bodies.base), and h.
        scale, causal: as in `TaskData` (interfaces).
    """

    scale_mean: Tensor
    scale_std: Tensor

    def __init__(
        self,
        embedder: Any,
        body: Any,
        predictor: nn.Module,
        *,
        scale: Scale | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.causal = causal
        self.embedder, self.body, self.predictor = embedder, body, predictor
        self.has_scale = scale is not None
        if scale is not None:
            self.register_buffer("scale_mean", scale.mean)
            self.register_buffer("scale_std", scale.std)

    @property
    def deviation(self) -> float | Tensor:
        """Return the training targets' deviation in the task's units; 1 without a scale.

        Several numbers a sample may be of different units, and each has its own, [K]. The channels of a map share one, root
        mean square over them.
        """
        if not self.has_scale:
            return 1.0
        if self.scale_std.ndim == 1 and len(self.scale_std) > 1:
            return self.scale_std.clone()
        return float(self.scale_std.double().square().mean().sqrt())

    def embed(self, x: Tensor, valid: Tensor | None = None) -> Tokens:
        """Return the embedder's tokens [B, T, D] for inputs [B, C, *E]; what stage 2 compares with the source."""
        return self.embedder(x, valid)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return outputs [B, K] or [B, K, *E] in the task's units, in the dtype of the scale, float32 without one.

        `x` and `valid` are as in `interfaces.Batch`.

        Under autocast only the body computes in half precision: bfloat16 has three digits, too few for the inputs and
        outputs of a regression, and embedder and predictor are a small part of the work.
        """
        features = self.features(x, valid)
        with _full_precision(x.device):
            outputs = self.predictor(features)
        return outputs * self.scale_std + self.scale_mean if self.has_scale else outputs

    def features(self, x: Tensor, valid: Tensor | None = None) -> Tokens:
        """Return the body's features [B, P + T', F] in full precision, those of the prefix first; 0 at padding."""
        with _full_precision(x.device):
            tokens = self.embed(x, valid)
            joined, mask, length = tokens.x, tokens.mask, 0
            if self.embedder.class_token is not None:
                prefix = self.embedder.class_token.view(-1, joined.shape[-1])
                length = len(prefix)
                joined = torch.cat([prefix.expand(x.shape[0], -1, -1), joined], dim=1)
                mask = torch.cat([mask.new_ones(x.shape[0], length), mask], dim=1)
        features = self.body(Tokens(joined, mask, tokens.grid, self.causal, length))
        outputs = features.x.float() if _is_mixed(x.device) else features.x
        if (
            valid is not None
        ):  # what a body computes at padding depends on the batch's other samples; outputs must not
            outputs = outputs.masked_fill(~features.mask.unsqueeze(-1), 0.0)
        return replace(features, x=outputs, samples=tokens.samples)


class Ensemble(nn.Module):
    """The mean over models of the probabilities of classes or labels (as logits), or of numbers.

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
        return averaged([member(x, valid) for member in self.members], self.kind)


def averaged(outputs: Sequence[Tensor], kind: str) -> Tensor:
    """Return outputs [B, K, ...] for those of several models: of numbers the mean, else what stands for a mean probability.

    That is its logarithm for classes and its logit for labels: softmax and sigmoid give it back. `kind` is as in `Ensemble`.
    """
    joined = torch.stack(list(outputs))
    if kind in ("classes", "class_maps"):
        return functional.log_softmax(joined, dim=2).logsumexp(0) - math.log(len(outputs))
    if kind == "labels":
        return functional.logsigmoid(joined).logsumexp(0) - functional.logsigmoid(
            -joined
        ).logsumexp(0)
    return joined.mean(0)


def twin(model: TransferModel, unshared: Iterable[str]) -> TransferModel:
    """Return a copy of a model with tensors of its own for the names in `unshared`; it shares the others with the model.

    These are names of parameters and buffers, such as `trained_state` has. Several models then hold a frozen body once.
    """
    names, kept = (
        set(unshared),
        vars(model.body),
    )  # among these are large objects that are no parameters
    tensors = (*model.named_parameters(), *model.named_buffers())
    shared: list[Any] = [tensor for name, tensor in tensors if name not in names]
    shared += [kept[name] for name in ("embeddings", "_tokenizer", "config") if name in kept]
    return copy.deepcopy(model, {id(value): value for value in shared})


def _is_mixed(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def _full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which autocast, where it is on, does nothing."""
    return torch.autocast(device.type, enabled=False) if _is_mixed(device) else nullcontext()
