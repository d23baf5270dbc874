"""Make a transfer model for a task's shapes, and describe it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from orca_cli import seeding
from orca_cli.config import parts
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Embedder, Kind, Scale, TokenLayout
from orca_cli.models.bodies.base import Body, ImageBody
from orca_cli.models.embedders.patches import Patch
from orca_cli.models.geometry import layout
from orca_cli.models.predictors import DensePredictor, PooledPredictor
from orca_cli.models.transfer import TransferModel


def load_body(node: Mapping[str, Any], seed: int, *, pretrained: bool = True) -> Body:
    """Return the body that the settings name, with the checkpoint's weights or random weights.

    With `pretrained=False`, or with weights=random in the settings, the architecture's own
    initialisation draws the weights with the seed. The embedding layer always has the checkpoint's
    weights. Raises as `checkpoints.load_model`.
    """
    # `weights` chooses between pretrained and random weights; it is not an argument of the part.
    settings = {key: setting for key, setting in node.items() if key != "weights"}
    body: Body = parts.build(settings, "body")
    # Drawn after loading, because digests and embedding layer always come from the checkpoint.
    if not pretrained or node.get("weights") == "random":
        seeding.seed_torch(seed, "build", "body")
        body.reset_weights()
    return body


def build_model(
    *,
    body: Body,
    kind: Kind,
    input_shape: tuple[int, ...],
    num_outputs: int,
    seed: int,
    embedder: Embedder | None = None,
    pooling: str = "mean",
    target_scale: Scale | None = None,
    causal: bool = False,
) -> TransferModel:
    """Return a transfer model whose embedder and predictor fit the task and the body.

    The initial weights of embedder and predictor depend only on the seed, the embedder and the
    shapes, so that all arms of an ablation start from the same point.

    Args:
        body: g, the pretrained transformer.
        kind, input_shape, num_outputs: as in the `TaskData` of the task.
        seed: seed of the run.
        embedder: makes the input layer; `Patch()` by default.
        pooling: "mean" or "class_token" (the first prefix token); without effect on dense outputs.
        target_scale: maps raw outputs to the task's units.
        causal: whether an output may depend only on inputs at its own and at earlier positions.

    Raises:
        ConfigError: the embedder's `max_tokens` is more than the body accepts, the body has no
            prefix token to pool, or a part lets a causal task see the future.
    """
    # The default is the paper's embedder.
    embedder = embedder or Patch()
    prefix = _prefix(body, kind, pooling)
    # The prefix occupies positions of the body's sequence, which the input then cannot use.
    prefix_length = 0 if prefix is None else len(prefix)
    token_layout = _layout(
        input_shape,
        embedder,
        body,
        available_tokens=body.max_tokens - prefix_length,
        is_pooled=kind != "dense",
    )
    # Checked before anything is drawn or built.
    if causal:
        _check_causal(kind, token_layout, embedder, body)
    # Each part has its own draw, so another embedder does not change the predictor's initial
    # weights.
    seeding.seed_torch(seed, "build", "embedder")
    input_layer: Any = embedder(token_layout, body.width, body.embedder_init(), prefix)
    seeding.seed_torch(seed, "build", "predictor")
    predictor: nn.Module
    if kind == "dense":
        predictor = DensePredictor(body.feature_width, num_outputs, token_layout, body.downsampling)
    else:
        predictor = PooledPredictor(
            body.feature_width, num_outputs, pooling, input_layer.sample_width
        )
    return TransferModel(input_layer, body, predictor, scale=target_scale, causal=causal)


def _prefix(body: Body, kind: Kind, pooling: str) -> Tensor | None:
    """Return the body's tokens [P, D] that come before the tokens of the input, or None."""
    # A dense task has an output at every position, so nothing is pooled.
    is_pooled = pooling == "class_token" and kind != "dense"
    if not (is_pooled or body.needs_prefix):
        return None
    prefix = body.prefix_tokens()
    if is_pooled and prefix is None:
        raise ConfigError(
            "this body has no classification token",
            where="predictor.pooling",
            hint="use predictor.pooling=mean",
        )
    return prefix


def _layout(
    input_shape: tuple[int, ...],
    embedder: Embedder,
    body: Body,
    *,
    available_tokens: int,
    is_pooled: bool,
) -> TokenLayout:
    """Return how an input is cut into at most as many tokens as embedder and body allow.

    Args:
        input_shape: shape of the task's inputs.
        embedder: its `max_tokens`, `resolution` or `pooled_tokens` limits the number of tokens.
        body: its canvas is used, if it has one.
        available_tokens: number of tokens that the body accepts in addition to the prefix.
        is_pooled: whether features are pooled into one output vector per sample.
    """
    # A `max_tokens` that the user set is never lowered silently.
    max_tokens = embedder.max_tokens
    if max_tokens is not None and max_tokens > available_tokens:
        raise ConfigError(
            f"must be between 1 and {available_tokens} for this body, got {max_tokens}",
            where="embedder.max_tokens",
            hint="lower it or remove it",
        )
    canvas = body.canvas
    # A small image is not enlarged to the size of pretraining (docs/decisions/0025).
    if embedder.resolution == "input" and isinstance(body, ImageBody):
        canvas, max_tokens = body.canvas_for(input_shape, max_tokens)
    if max_tokens is None:
        max_tokens = available_tokens
        # If features are pooled, fewer tokens suffice, and a step costs less.
        if is_pooled and body.canvas is None and embedder.pooled_tokens is not None:
            max_tokens = min(available_tokens, embedder.pooled_tokens)
    return layout(input_shape, max_tokens=max_tokens, canvas=canvas)


def _check_causal(kind: Kind, token_layout: TokenLayout, embedder: Embedder, body: Body) -> None:
    """Raise ConfigError if an output would depend on inputs after its own position."""
    # Pooling mixes all positions, and only a sequence has earlier and later positions.
    if kind != "dense" or len(token_layout.input_shape) != 2:
        raise ConfigError(
            "this task forecasts, so it needs dense outputs along a sequence", where="task"
        )
    if not body.can_be_causal:
        raise ConfigError(
            "this task forecasts, but this body sees the whole input at once",
            where="body",
            hint="use body=minilm or a decoder such as body=gpt2",
        )
    if not embedder.can_be_causal:
        raise ConfigError(
            "this task forecasts, but with this embedder a token depends on later steps",
            where="embedder",
            hint="use embedder=patch",
        )
    # Every output of a token depends on all steps of the token, including later steps.
    if token_layout.kernel > 1:
        steps = token_layout.input_shape[1]
        raise ConfigError(
            f"this task forecasts, but with {token_layout.tokens} tokens for {steps} steps, a "
            "token has several steps, so an output would depend on later steps",
            where="embedder.max_tokens",
            hint=f"use a body that takes at least {steps} tokens",
        )


def describe(model: TransferModel) -> dict[str, Any]:
    """Return shapes, kernel, stride, tokens and parameters per part, JSON-able."""
    token_layout = model.embedder.layout
    body = model.body
    modules = {"embedder": model.embedder, "body": body, "predictor": model.predictor}
    # The body's embedding layer is left out, since it is not one of its submodules.
    parameter_counts = {}
    for name, module in modules.items():
        parameter_counts[name] = sum(parameter.numel() for parameter in module.parameters())
    return {
        "input_shape": list(token_layout.input_shape),
        "fold": None if token_layout.fold is None else list(token_layout.fold),
        "canvas": None if token_layout.canvas is None else list(token_layout.canvas),
        "kernel": model.embedder.kernel,
        "stride": token_layout.kernel,
        "grid": list(token_layout.grid),
        "tokens": token_layout.tokens,
        "max_tokens": body.max_tokens,
        "width": body.width,
        "feature_width": body.feature_width,
        "parameters": parameter_counts,
    }
