"""The transfer model, predictor(body(embedder(x))) (paper 3.1).

An `Ensemble` averages the outputs of several trained models.
"""

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
    """Embedder, body and predictor, with the task's scale at the end.

    `assembly.build_model` makes it.

    Args:
        embedder: f, an `InputLayer` (interfaces) that an Embedder returned.
        body: g, a Body (bodies.base).
        predictor: h.
        scale: maps raw outputs to the task's units, as in `TaskData` (interfaces).
        causal: whether an output sees inputs at its own and earlier positions only.
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
        self.embedder = embedder
        self.body = body
        self.predictor = predictor
        self.has_scale = scale is not None
        # Buffers move with the model, and are stored with it.
        if scale is not None:
            self.register_buffer("scale_mean", torch.tensor(scale.mean))
            self.register_buffer("scale_std", torch.tensor(scale.std))

    @property
    def deviation(self) -> float | Tensor:
        """Return the deviation of the training targets in the task's units; 1 without a scale.

        The K numbers of a sample may have different units, so each has its own deviation, [K]. The
        channels of a map share one: the root mean square over them.
        """
        if not self.has_scale:
            return 1.0
        if self.scale_std.ndim == 1 and len(self.scale_std) > 1:
            return self.scale_std.clone()
        # In float64: squares of large units exceed float32.
        deviations = self.scale_std.double()
        mean_square = deviations.square().mean()
        return float(mean_square.sqrt())

    def embed(self, x: Tensor, valid: Tensor | None = None) -> Tokens:
        """Return the embedder's tokens [B, T, D] for inputs [B, C, *E]; stage 2 compares them."""
        return self.embedder(x, valid)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return outputs [B, K] or [B, K, *E] in the task's units, for `x` and `valid` as in Batch.

        Outputs have the dtype of the scale, or float32 without a scale. Under autocast only the
        body computes in half precision: bfloat16 has three digits, too few for the inputs and
        outputs of a regression, and embedder and predictor are a small part of the work.
        """
        features = self.features(x, valid)
        with _full_precision(x.device):
            outputs = self.predictor(features)
        if self.has_scale:
            # Outside the block: the scale may be float64, which autocast does not concern.
            outputs = outputs * self.scale_std + self.scale_mean
        return outputs

    def features(self, x: Tensor, valid: Tensor | None = None) -> Tokens:
        """Return the body's features [B, P + T', F] in full precision, 0 at padding.

        Features of the prefix come first.
        """
        with _full_precision(x.device):
            # Inputs of a regression need more digits than bfloat16 has.
            tokens = self.embed(x, valid)
            sequences = self._with_class_token(tokens)
        features = self.body(sequences)
        outputs = features.x
        if _is_mixed(x.device):
            outputs = outputs.float()
        # A body's features at padding depend on the batch's other samples; outputs must not.
        if valid is not None:
            is_padding = ~features.mask.unsqueeze(-1)
            outputs = outputs.masked_fill(is_padding, 0.0)
        return replace(features, x=outputs, samples=tokens.samples)

    def _with_class_token(self, tokens: Tokens) -> Tokens:
        """Return the body's inputs, [B, P + T, D]: the prefix, then the embedder's tokens."""
        class_token = self.embedder.class_token
        if class_token is None:
            return Tokens(x=tokens.x, mask=tokens.mask, grid=tokens.grid, causal=self.causal)
        batch_size, _, width = tokens.x.shape
        prefix = class_token.view(-1, width)  # [P, D]
        prefix_length = len(prefix)
        repeated = prefix.expand(batch_size, -1, -1)  # [B, P, D]
        # Class tokens are never padding.
        is_token = tokens.mask.new_ones(batch_size, prefix_length)
        return Tokens(
            x=torch.cat([repeated, tokens.x], dim=1),
            mask=torch.cat([is_token, tokens.mask], dim=1),
            grid=tokens.grid,
            causal=self.causal,
            prefix=prefix_length,
        )


class Ensemble(nn.Module):
    """The mean over models, of probabilities of classes or labels (as logits) or of numbers.

    Args:
        members: models of one task.
        kind: form of their outputs: classes, class_maps, labels, values or maps, as in
            `interfaces.Targets`.
    """

    def __init__(self, members: Sequence[TransferModel], kind: str) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.kind = kind

    @property
    def body(self) -> Any:
        """Return the first member's body, a Body (bodies.base); all members' have the same form."""
        return self.members[0].body

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return outputs [B, K] or [B, K, *E]; `x` and `valid` as in `interfaces.Batch`."""
        outputs = [member(x, valid) for member in self.members]
        return averaged(outputs, self.kind)


def averaged(outputs: Sequence[Tensor], kind: str) -> Tensor:
    """Return the average [B, K, ...] of the outputs of several models; `kind` as in `Ensemble`.

    For numbers it is the mean. For classes it is the logarithm of the mean probability, for labels
    its logit: softmax and sigmoid then return the mean probability.
    """
    joined = torch.stack(list(outputs))  # [models, B, K, ...]
    # In logarithms, so that the small probabilities of confident models do not underflow.
    if kind in ("classes", "class_maps"):
        log_sum = functional.log_softmax(joined, dim=2).logsumexp(0)
        return log_sum - math.log(len(outputs))
    if kind == "labels":
        present = functional.logsigmoid(joined).logsumexp(0)
        absent = functional.logsigmoid(-joined).logsumexp(0)
        # The number of models cancels in the odds.
        return present - absent
    return joined.mean(0)


def twin(model: TransferModel, unshared: Iterable[str]) -> TransferModel:
    """Return a copy of a model that shares with it all tensors except the `unshared` tensors.

    In this way several models share one frozen body in memory. `unshared` has names of parameters
    and buffers, as in `trained_state`.
    """
    unshared_names = set(unshared)
    tensors = (*model.named_parameters(), *model.named_buffers())
    shared: list[Any] = [tensor for name, tensor in tensors if name not in unshared_names]
    # These attributes are large, although they are neither parameters nor buffers.
    attributes = vars(model.body)
    for name in ("embeddings", "_tokenizer", "config"):
        if name in attributes:
            shared.append(attributes[name])
    # deepcopy does not copy an object that is in its memo under the object's id.
    memo = {id(original): original for original in shared}
    return copy.deepcopy(model, memo)


def _is_mixed(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def _full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which autocast, if it is on, does nothing."""
    if _is_mixed(device):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
