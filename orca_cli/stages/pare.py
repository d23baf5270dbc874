"""PaRe: stage 3 begins on samples part of whose tokens are the source's (patch replacement; Cai et al. 2024, arXiv 2406.09003).

A gate scores tokens. In every sample the target tokens with the lowest scores give their places to the source tokens with
the highest scores of one source example. The body's features of the mixture answer both tasks, and the losses count by the
parts of tokens. The source's part falls to none over the steps. docs/evidence/successors.md says what is the paper's and what
is chosen here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from orca_cli import seeding
from orca_cli.config.schema import Align
from orca_cli.interfaces import Batch, SourceData, Tokens
from orca_cli.models.bodies.base import Body
from orca_cli.models.predictors import pooled
from orca_cli.stages.source_features import check_modality, embed_examples
from orca_cli.training.loop import Mixed, Mixer


def share_at(settings: Align, step: int, steps: int) -> float:
    """Return the part of a sample's tokens that are the source's at a step: linear from `source_share` to 0, then 0."""
    return settings.source_share * max(0.0, 1 - step / (settings.mixed_until * steps))


def mixed_tokens(
    target: Tokens, source: Tokens, share: float, gate: Callable[[Tensor], Tensor]
) -> tuple[Tokens, Tensor]:
    """Return target sequences with some tokens replaced by those of source sequences, and the parts [B] that are the source's.

    Padding is neither replaced nor taken, and at least one token of the target stays. Tokens that are taken keep their order.
    Every token is multiplied by 1, whose gradient is that of its score: so the gate learns by the tokens that it lets through.

    Args:
        target, source: [B, T, D] and [B, S, D], without prefix.
        share: of the tokens that are not padding, in 0..1; rounded to whole tokens of each sample.
        gate: scores [B, T] of tokens, in 0..1.
    """
    sizes = target.mask.sum(1)
    requested = (share * sizes).round().long()
    counts = torch.minimum(torch.minimum(requested, sizes - 1), source.mask.sum(1)).clamp(min=0)[:, None]
    scores = [gate(tokens.x.detach()) for tokens in (target, source)]
    ones = [((score - score.detach()) + 1).unsqueeze(-1) for score in scores]
    target_x = target.x * ones[0]
    source_x = source.x.to(target_x.dtype) * ones[1]
    lowest = _ranks(scores[0].detach().masked_fill(~target.mask, torch.inf))
    highest = _ranks((-scores[1].detach()).masked_fill(~source.mask, torch.inf))
    x = target_x.clone()
    x[lowest < counts] = source_x[highest < counts]
    return replace(target, x=x), counts[:, 0] / sizes.clamp(min=1)


def _ranks(values: Tensor) -> Tensor:
    """Return the rank of every value in its row, 0 for the lowest; of equal ones the first is lower."""
    return values.argsort(dim=1, stable=True).argsort(dim=1)


class Mixing(nn.Module):
    """The gate, the source's predictor and the schedule: what `align.method=pare` adds to stage 3, and drops after it.

    Args:
        body, source: what embeds which examples.
        settings, steps: of the schedule.
        seed: of the first weights and of the draws of source examples.
    """

    def __init__(self, body: Body, source: SourceData, settings: Align, *, steps: int, seed: int) -> None:
        super().__init__()
        check_modality(body, source)
        self._source, self._settings, self._steps, self._seed = source, settings, steps, seed
        with torch.random.fork_rng(devices=[]):
            seeding.seed_torch(seed, "finetune", "pare")
            self.gate = nn.Linear(body.width, 1)
            self.predictor = nn.Linear(body.feature_width, len(source.examples.class_names))

    def at(self, step: int) -> Mixer | None:
        """Return what computes the outputs of a step's batches; None where nothing is mixed in any more."""
        share = share_at(self._settings, step, self._steps)
        return functools.partial(self._outputs, step, share) if share > 0 else None

    def _outputs(self, step: int, share: float, model: Any, batch: Batch, part: int) -> Mixed:
        """Return the model's outputs for mixtures; uses hooks, so model and finetune modes need no changes."""
        examples = self._source.examples
        generator = seeding.numpy_generator(self._seed, "finetune", "pare", step, part)
        rows = generator.integers(len(examples.labels), size=len(batch.x))
        labels = torch.from_numpy(np.asarray(examples.labels, dtype=np.int64)[rows]).to(batch.x.device)
        shares: list[Tensor] = []
        features: list[Tokens] = []

        def mix(_module: nn.Module, _inputs: Any, tokens: Tokens) -> Tokens:
            source = embed_examples(model.body, examples, rows)
            mixed, parts = mixed_tokens(tokens, source, share, lambda x: self.gate(x.float())[..., 0].sigmoid())
            shares.append(parts.mean())
            return mixed

        def keep(_module: nn.Module, _inputs: Any, output: Tokens) -> None:
            features.append(output)

        hooks = [model.embedder.register_forward_hook(mix), model.body.register_forward_hook(keep)]
        try:
            outputs = model(batch.x, batch.valid)
        finally:
            for hook in hooks:
                hook.remove()
        logits = self.predictor(pooled(features[0]).float()).float()
        return Mixed(outputs, shares[0], functional.cross_entropy(logits, labels))
