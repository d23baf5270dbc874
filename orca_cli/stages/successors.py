"""Two successors of the paper's alignment; docs/evidence/successors.md says what is theirs and what is chosen here.

MoNA (Ma et al. 2024, arXiv 2406.18864): an embedder with which fine-tuning the body leaves source classes apart. Inner level:
the body takes one gradient step on the target's loss, through the embedder. Outer: the embedder descends the target's loss plus
`align.source_weight` times what the source's features lose by that step. The step is never kept.

PaRe (patch replacement; Cai et al. 2024, arXiv 2406.09003): stage 3 begins on samples part of whose tokens are the source's. A
gate scores tokens. In every sample the target tokens with the lowest scores give their places to the source tokens with the
highest scores of one source example. The body's features of the mixture answer both tasks, and the losses count by the parts of
tokens. The source's part falls to none over the steps.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from orca_cli import seeding, signals
from orca_cli.config.schema import METHOD_SETTINGS, Align
from orca_cli.exceptions import ConfigError, NonFiniteError
from orca_cli.interfaces import Batch, Examples, SourceData, Tokens
from orca_cli.models.bodies.base import Body
from orca_cli.models.predictors import pooled
from orca_cli.stages.build import Built, loss_unit
from orca_cli.stages.source_features import embed_examples
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine
from orca_cli.training.loop import Mixed, Mixer, loss_values

_SIDES = "target", "source"
_SHARPNESS = 2.0  # t of the uniformity, as Wang and Isola have it


def outer(
    target_loss: Callable[[], Tensor],
    source_loss: Callable[[Mapping[str, Tensor]], Tensor],
    body: Mapping[str, Tensor],
    embedder: Sequence[Tensor],
    *,
    rate: float,
    weight: float,
) -> tuple[float, float, Sequence[Tensor | None]]:
    """Return the target's loss before the inner step, the source's after it, and the exact gradient of target + weight * source
    for each parameter of the embedder, None where it has no influence.

    With g the gradient of the target's loss for the body, the source's loss S is taken at body - rate * g. Its gradient for
    the embedder is -rate times that of g . v, where v is the gradient of S there: one product with a second derivative, and
    no graph through the step.

    Args:
        target_loss: of the model as it is; depends on the parameters of body and embedder.
        source_loss: given values for the body's parameters.
    """
    value = target_loss()
    target_gradients = torch.autograd.grad(value, [*body.values(), *embedder], create_graph=True, allow_unused=True)
    steps = dict(zip(body, target_gradients, strict=False))
    moved = {
        name: (parameter if steps[name] is None else parameter - rate * steps[name]).detach().requires_grad_(True)
        for name, parameter in body.items()
    }
    source = source_loss(moved)
    pulls = torch.autograd.grad(source, list(moved.values()), allow_unused=True)
    first = [None if gradient is None else gradient.detach() for gradient in target_gradients[len(body) :]]
    products = [
        (step * pull).sum()
        for step, pull in zip(steps.values(), pulls, strict=True)
        if step is not None and step.requires_grad and pull is not None
    ]
    if products:
        second = torch.autograd.grad(torch.stack(products).sum(), list(embedder), allow_unused=True)
        first = [
            direct if indirect is None else -rate * weight * indirect + (0 if direct is None else direct)
            for direct, indirect in zip(first, second, strict=True)
        ]
    return float(value.detach()), float(source.detach()), first


def discriminability(features: Tensor) -> Tensor:
    """Return how poorly source classes separate: alignment plus uniformity (Wang and Isola 2020); lower is better.

    Of features [2n, F], row i and row n + i are of one class.
    """
    unit = functional.normalize(features, dim=1)
    halves = unit.chunk(2)
    alignment = (halves[0] - halves[1]).square().sum(1).mean()
    rows, columns = torch.triu_indices(len(halves[0]), len(halves[0]), offset=1, device=unit.device)
    squares = [(half[rows] - half[columns]).square().sum(1) for half in halves]
    uniformity = [torch.logsumexp(-_SHARPNESS * square, 0) - math.log(len(rows)) for square in squares]
    return alignment + torch.stack(uniformity).mean()


def pairs_of_classes(labels: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return rows [2, count], fewer where there are fewer examples: some drawn at random, and another of the class of each.

    Of `labels` [n], every class is there at least twice.
    """
    first = generator.choice(len(labels), size=min(count, len(labels)), replace=False)
    members = {int(one): np.flatnonzero(labels == one) for one in np.unique(labels[first])}
    second = [generator.choice(peers[peers != row]) for row in first for peers in (members[int(labels[row])],)]
    return np.stack([first, np.array(second)])


def source_tokens(body: Body, examples: Examples, rows: np.ndarray) -> Tokens:
    """Return some source examples as the body takes them: embedded by its own layer, behind the prefix that it needs."""
    tokens = embed_examples(body, examples, rows)
    prefix = body.prefix_tokens() if body.needs_prefix else None
    if prefix is None:
        return tokens
    x = torch.cat([prefix.to(tokens.x).expand(len(tokens.x), -1, -1), tokens.x], dim=1)
    mask = torch.cat([tokens.mask.new_ones(len(tokens.x), len(prefix)), tokens.mask], dim=1)
    return Tokens(x, mask, tokens.grid, tokens.causal, len(prefix))


class Mona:
    """The objective of `align.method=mona`; `name` and `backward` are as those of `problem.Problem`, the other one."""

    name = "outer loss"

    def __init__(self, built: Built, engine: Engine) -> None:
        """Find which of the body's parameters the inner step moves: those that stage 3 trains."""
        assert built.source is not None
        self._plan, self._built, self._source, self._engine = built.plan, built, built.source, engine
        self._body = {name: one for name, one in built.model.body.named_parameters() if one.requires_grad}
        if not (self._body and getattr(built.finetune, "pretrained", True)):
            what = "needs a pretrained body that stage 3 trains, and this finetune mode has none"
            hint = "use finetune=full or layernorm, or align.method=orca"
            raise ConfigError(what, where="align.method=mona", hint=hint)
        if isinstance(built.loss, nn.Module):
            built.loss.to(engine.device)  # weights of classes
        self._unit = loss_unit(built, engine.device)

    def facts(self) -> dict[str, Any]:
        """Return the method's settings and all that the losses of the whole model depend on."""
        plan = self._plan
        return {
            "method": "mona",
            "of_method": {name: getattr(plan.align, name) for name in METHOD_SETTINGS["mona"]},
            "model": checkpoint.weights_sha256(self._built.model.state_dict()),
            "parts": [plan.body, plan.finetune, plan.predictor.pooling],
            "moved": sorted(self._body),
            "causal": self._built.model.causal,
            "loss": [plan.task.get("loss"), repr(self._built.loss), plan.train.class_weights],
            "weights": [plan.train.positive_weight, plan.protocol],
        }

    def backward(self, step: int) -> tuple[float, dict[str, float]]:
        """Set the embedder's gradient; returns the outer loss, and its two parts. Dropout is off."""
        signals.check()
        settings, model, task = self._plan.align, self._built.model, self._built.task
        examples = self._source.examples
        model.eval()
        embedder = [one for one in model.embedder.parameters() if one.requires_grad]
        draws, pairs = (seeding.numpy_generator(self._plan.seed, "align", "mona", side, step) for side in _SIDES)
        size = min(settings.inner_samples, len(task.train))
        batch = self._engine.move(task.train.batch(np.sort(draws.choice(len(task.train), size=size, replace=False))))
        rows = pairs_of_classes(np.asarray(examples.labels), settings.inner_samples, pairs)
        tokens = source_tokens(model.body, examples, rows.ravel())
        # Only the plain kernel of attention has a second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            target, source, gradients = outer(
                lambda: loss_values(self._built.loss, model(batch.x, batch.valid), batch.y, self._unit)[0],
                lambda values: discriminability(pooled(functional_call(model.body, dict(values), (tokens,)))),
                self._body,
                embedder,
                rate=settings.inner_lr,
                weight=settings.source_weight,
            )
        loss = target + settings.source_weight * source
        if not math.isfinite(loss):
            raise NonFiniteError(f"the loss is {target} on the target and {source} on the source")
        for parameter, gradient in zip(embedder, gradients, strict=True):
            parameter.grad = gradient
        return loss, {"target_loss": target, "source_loss": source}


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
    """The gate, the source's predictor and the schedule: what `align.method=pare` adds to stage 3, and drops after it."""

    def __init__(self, body: Body, source: SourceData, settings: Align, *, steps: int, seed: int) -> None:
        super().__init__()
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
