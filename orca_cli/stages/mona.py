"""MoNA: an embedder with which fine-tuning the body leaves source classes apart (Ma et al. 2024, arXiv 2406.18864).

Two levels. Inner: the body takes one gradient step on the target's loss, through the embedder. Outer: the embedder descends
the target's loss plus `align.source_weight` times what the source's features lose by that step. The step is never kept, so
the body's weights stay as they are. docs/evidence/successors.md says what is the paper's and what is chosen here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from orca_cli import seeding, signals
from orca_cli.config.schema import METHOD_SETTINGS
from orca_cli.exceptions import ConfigError, NonFiniteError
from orca_cli.interfaces import Examples, SourceData, Tokens
from orca_cli.models.bodies.base import Body
from orca_cli.models.predictors import pooled
from orca_cli.stages.build import Built
from orca_cli.stages.optimizer_steps import loss_unit
from orca_cli.stages.source_features import embed_examples
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine
from orca_cli.training.loop import loss_values

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
    """Return the outer loss and its exact gradient for the embedder.

    With g the gradient of the target's loss for the body, the source's loss S is taken at body - rate * g. Its gradient for
    the embedder is -rate times that of g . v, where v is the gradient of S there: one product with a second derivative, and
    no graph through the step.

    Args:
        target_loss: of the model as it is; depends on body and embedder.
        source_loss: given values for the body's parameters.
        body, embedder: the parameters.
        rate: of the inner step.
        weight: of the source's loss.

    Returns:
        the target's loss before the inner step; the source's after it; the gradient of target + weight * source for each
        parameter of the embedder, None where it has no influence.
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
    if not products:
        return float(value.detach()), float(source.detach()), first
    product = torch.stack(products).sum()
    second = torch.autograd.grad(product, list(embedder), allow_unused=True)
    gradients = [
        direct if indirect is None else -rate * weight * indirect + (0 if direct is None else direct)
        for direct, indirect in zip(first, second, strict=True)
    ]
    return float(value.detach()), float(source.detach()), gradients


def discriminability(features: Tensor) -> Tensor:
    """Return how poorly source classes separate: alignment plus uniformity (Wang and Isola 2020); lower is better.

    Args:
        features: [2n, F]; row i and row n + i are of one class.
    """
    unit = functional.normalize(features, dim=1)
    halves = unit.chunk(2)
    alignment = (halves[0] - halves[1]).square().sum(1).mean()
    rows, columns = torch.triu_indices(len(halves[0]), len(halves[0]), offset=1, device=unit.device)
    squares = [(half[rows] - half[columns]).square().sum(1) for half in halves]
    uniformity = [torch.logsumexp(-_SHARPNESS * square, 0) - math.log(len(rows)) for square in squares]
    return alignment + torch.stack(uniformity).mean()


def pairs_of_classes(labels: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return rows [2, count]: examples drawn at random, and another one of the class of each.

    Args:
        labels: [n], every class at least twice.
        count: pairs; fewer where there are fewer examples.
        generator: of the draws.
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
    """The objective of `align.method=mona`; `name` and `backward` are as those of `problem.Problem`, the other one.

    Raises:
        ConfigError: stage 3 trains nothing of the body, or a body that is random.
    """

    name = "outer loss"

    def __init__(self, built: Built, source: SourceData, engine: Engine) -> None:
        """Find which of the body's parameters the inner step moves: those that stage 3 trains."""
        self._plan, self._built, self._source, self._engine = built.plan, built, source, engine
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
        plan, task = self._plan, self._plan.task
        return {
            "method": "mona",
            "of_method": {name: getattr(plan.align, name) for name in METHOD_SETTINGS["mona"]},
            "model": checkpoint.weights_sha256(self._built.model.state_dict()),
            "parts": [plan.body, plan.finetune, plan.predictor.pooling],
            "moved": sorted(self._body),
            "causal": self._built.model.causal,
            "loss": [task.get("loss"), repr(self._built.loss), plan.train.class_weights],
            "weights": [plan.train.positive_weight, plan.protocol],
        }

    def backward(self, step: int) -> tuple[float, dict[str, float]]:
        """Set the embedder's gradient; returns the outer loss, and its two parts. Dropout is off."""
        signals.check()
        settings, model = self._plan.align, self._built.model
        model.eval()
        embedder = [one for one in model.embedder.parameters() if one.requires_grad]
        # Only the plain kernel of attention has a second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            target, source, gradients = outer(
                lambda: self._target_loss(step),
                self._source_loss(step),
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

    def _target_loss(self, step: int) -> Tensor:
        train = self._built.task.train
        generator = seeding.numpy_generator(self._plan.seed, "align", "mona", "target", step)
        size = min(self._plan.align.inner_samples, len(train))
        rows = np.sort(generator.choice(len(train), size=size, replace=False))
        batch = self._engine.move(train.batch(rows))
        return loss_values(self._built.loss, self._built.model(batch.x, batch.valid), batch.y, self._unit)[0]

    def _source_loss(self, step: int) -> Callable[[Mapping[str, Tensor]], Tensor]:
        generator = seeding.numpy_generator(self._plan.seed, "align", "mona", "source", step)
        examples, body = self._source.examples, self._built.model.body
        rows = pairs_of_classes(np.asarray(examples.labels), self._plan.align.inner_samples, generator)
        tokens = source_tokens(body, examples, rows.ravel())
        return lambda values: discriminability(pooled(functional_call(body, dict(values), (tokens,))))
