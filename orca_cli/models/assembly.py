"""Make a transfer model for a task's shapes, and describe it."""

from collections.abc import Mapping
from typing import Any, cast

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
    """Return the body that its settings name, with the checkpoint's weights or with drawn ones.

    With `pretrained=False`, or weights=random among the settings, they are drawn by the architecture's own initialisation and
    the seed; the embedding layer is the checkpoint's in any case. Raises as `checkpoints.load_model`.
    """
    settings = {key: value for key, value in node.items() if key != "weights"}
    body: Body = parts.build(settings, "body")
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

    The first weights of embedder and predictor depend on the seed, the embedder and the shapes alone, so that all arms of an
    ablation start from the same point.

    Args:
        body, kind, input_shape, num_outputs, seed: g, those of the task's data, and the run's.
        embedder: what makes the input layer; `Patch()` by default.
        pooling: "mean" or "class_token" (the first prefix token); without effect on dense outputs.
        target_scale: maps raw outputs to the task's units.
        causal: whether an output may see inputs at its own and at earlier positions only.

    Raises:
        ConfigError: more tokens are asked for than the body takes, it has no prefix token to pool, or a part cannot keep the
            future out of a causal task.
    """
    embedder = embedder or cast("Embedder", Patch())
    pools_prefix = pooling == "class_token" and kind != "dense"
    prefix = body.prefix_tokens() if pools_prefix or body.needs_prefix else None
    if pools_prefix and prefix is None:
        raise ConfigError(
            "this body has no classification token", where="predictor.pooling", hint="use mean"
        )
    largest = body.max_tokens - (0 if prefix is None else len(prefix))
    if embedder.max_tokens is not None and embedder.max_tokens > largest:
        what = f"{embedder.max_tokens} is more than the body takes"
        raise ConfigError(what, where="embedder.max_tokens", hint=f"allowed: 1 to {largest}")
    is_cut_small = kind != "dense" and body.canvas is None
    enough = min(largest, getattr(embedder, "pooled_tokens", largest)) if is_cut_small else largest
    canvas, tokens = body.canvas, embedder.max_tokens
    if embedder.resolution == "input" and isinstance(body, ImageBody):
        canvas, tokens = body.canvas_for(input_shape, tokens)
    cut = layout(input_shape, max_tokens=tokens or enough, canvas=canvas)
    if causal:
        _check_causal(kind, cut, embedder, body)
    seeding.seed_torch(seed, "build", "embedder")
    first = embedder(cut, body.width, body.embedder_init(), prefix)
    seeding.seed_torch(seed, "build", "predictor")
    if kind == "dense":
        predictor: Any = DensePredictor(body.feature_width, num_outputs, cut, body.downsampling)
    else:
        predictor = PooledPredictor(
            body.feature_width, num_outputs, pooling, getattr(first, "sample_width", 0)
        )
    return TransferModel(first, body, predictor, scale=target_scale, causal=causal)


def _check_causal(kind: Kind, cut: TokenLayout, embedder: Embedder, body: Body) -> None:
    """Refuse what would let an output see inputs after its own position."""
    steps = cut.input_shape[1]
    # Whether it does, what is wrong, where, and what to do.
    leaks = (
        (kind != "dense" or len(cut.input_shape) != 2, "a causal task needs dense outputs along a sequence", "task", ""),
        (not body.can_be_causal, "this body sees the whole input at once", "body", "use body=minilm, or a decoder"),
        (not getattr(embedder, "can_be_causal", False), "a token of this embedder sees beyond its own step", "embedder",
         "use embedder=patch"),
        (cut.kernel > 1, f"{steps} steps in {cut.tokens} tokens would show a step those that follow it",
         "embedder.max_tokens", f"use a body that takes at least {steps} tokens"),
    )  # fmt: skip
    for is_leak, what, where, hint in leaks:
        if is_leak:
            raise ConfigError(f"this task forecasts: {what}", where=where, hint=hint)


def describe(model: TransferModel) -> dict[str, Any]:
    """Return shapes, kernel, stride, tokens and parameters per part, JSON-able."""
    cut, body = model.embedder.layout, model.body
    parts = {"embedder": model.embedder, "body": body, "predictor": model.predictor}
    return {
        "input_shape": list(cut.input_shape),
        "fold": None if cut.fold is None else list(cut.fold),
        "canvas": None if cut.canvas is None else list(cut.canvas),
        "kernel": model.embedder.kernel,
        "stride": cut.kernel,
        "grid": list(cut.grid),
        "tokens": cut.tokens,
        "max_tokens": body.max_tokens,
        "width": body.width,
        "feature_width": body.feature_width,
        "parameters": {
            name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()
        },
    }
