"""What the parts of a run must do, and the few records that they exchange.

Shapes: B samples in a batch, n samples in a split, C input channels, *E the extent (L, or H x W), T tokens, D the body's
width, F the width of its features, K outputs, d the width of a feature that a metric compares.

Missing targets: NaN in real-valued targets and -100 in integer ones mark positions that neither a loss nor an error counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:  # takes seconds to import, and names types only
    from torch import Tensor, nn

Kind = Literal["classes", "labels", "dense"]
KINDS: tuple[Kind, ...] = ("classes", "labels", "dense")
IGNORED_CLASS = -100


@dataclass(frozen=True)
class Batch:
    """Samples as the model takes them.

    Args:
        x: [B, C, *E] float32, finite.
        y: classes: [B] int64 in 0..K-1. labels: [B, K] float32 of 0 and 1. dense: [B, K, *E] float32, in the task's own
            units, or [B, *E] int64 in 0..K-1 for a class at every position.
        valid: [B, *E] bool, False where the input is padding; None where nothing is.
    """

    x: Tensor
    y: Tensor
    valid: Tensor | None = None


class Samples(Protocol):
    """One split of a task. Batches are asked for by index, so that data that do not fit into memory can be read lazily."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return the samples with these indices, in this order.

        Args:
            indices: in 0..n-1.
            augment: what random augmentation draws from, for tasks that have any; None gives the samples as they are.
                Only the optimizer steps of stage 3 give one.
        """

    def targets(self) -> np.ndarray:
        """Return all targets, shaped as Batch.y, without reading the inputs; a memory map where they are large."""

    def groups(self) -> np.ndarray | None:
        """Return [n] int64, the record that each sample is cut from, for errors per record; None where samples stand alone."""

    def digest(self) -> str:
        """Return a SHA-256 over the inputs and targets, or over what determines them."""


@dataclass(frozen=True)
class Scale:
    """An affine map from a model's raw outputs to a task's units: output = raw * std + mean.

    Args:
        mean: broadcasts against [K, *E], float32.
        std: broadcasts against [K, *E], float32, positive.
    """

    mean: Tensor
    std: Tensor


class Preprocessing(Protocol):
    """How raw inputs become the model's; readers of own data build the inputs of all their splits through it.

    A run keeps it beside the weights: a dataclass of plain values, arrays, tuples, and dataclasses of these.
    """

    def inputs(self, raw: Any, where: str = "inputs") -> tuple[Tensor, Tensor | None]:
        """Return raw inputs as Batch.x and Batch.valid.

        Args:
            raw: of B samples, as the task's files hold them; the class says in which form.
            where: their origin, for messages.

        Raises:
            DataError: they do not have the form of the training data.
        """


@dataclass(frozen=True)
class TaskData:
    """A task's data, already split; what a reader in `tasks/` returns.

    Args:
        kind: form of the targets.
        input_shape: (C, L) or (C, H, W).
        num_outputs: K: classes, labels, or channels of a dense output.
        train: what stages 2 and 3 learn from.
        validation: what models are chosen on; disjoint from train and test.
        open_test: reads the test split; called once, at the end of a run.
        synthetic: True for generated data; said in every table.
        size: name of the task's size where it has several, such as "small"; shown in every table.
        target_scale: for real-valued dense targets, the training targets' mean and deviation.
        causal: True where an output may see inputs at its own and at earlier positions only, such as in forecasting.
        class_names: K names, or empty.
        note: one line on what was read, such as files, classes and samples that were left out.
        preprocessing: how raw inputs became those of the splits, so that new data can be treated alike; None where the
            reader keeps no record of it.
    """

    kind: Kind
    input_shape: tuple[int, ...]
    num_outputs: int
    train: Samples
    validation: Samples
    open_test: Callable[[], Samples]
    synthetic: bool = False
    size: str = ""
    target_scale: Scale | None = None
    causal: bool = False
    class_names: Sequence[str] = ()
    note: str = ""
    preprocessing: Preprocessing | None = None


@dataclass(frozen=True)
class SourceData:
    """Labelled examples of the body's own modality; what a reader in `sources/` returns.

    Args:
        modality: "text" or "image".
        inputs: n texts, or an array [n, 3, H, W] float32 in 0..1.
        labels: [n] int64 in 0..k-1, every class with two examples or more.
        class_names: k names.
        digest: SHA-256 over inputs and labels.
    """

    modality: Literal["text", "image"]
    inputs: Sequence[str] | np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    digest: str


@dataclass(frozen=True)
class TokenLayout:
    """How an input is cut into a grid of tokens.

    Args:
        input_shape: (C, L) or (C, H, W), the task's.
        fold: (rows, columns) that a sequence is folded into, row by row; None where nothing is folded.
        canvas: (height, width) that the (folded) map is resized to; None where it keeps its size.
        kernel: k, the positions along every axis that a token stands for.
        extent: what the embedder sees, before padding: (L,), (H, W) or the canvas.
        grid: tokens per axis, ceil(extent / k).
    """

    input_shape: tuple[int, ...]
    fold: tuple[int, int] | None
    canvas: tuple[int, int] | None
    kernel: int
    extent: tuple[int, ...]
    grid: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Return T, the number of tokens of a sample."""
        return math.prod(self.grid)

    @property
    def padded(self) -> tuple[int, ...]:
        """Return the extent after padding its end to a multiple of k."""
        return tuple(self.kernel * size for size in self.grid)


@dataclass(frozen=True)
class Tokens:
    """A batch of sequences in the body's own space.

    Args:
        x: [B, P + T, D].
        mask: [B, P + T] bool, False where the token is padding.
        grid: extent of the T tokens: (T,) for a sequence, (rows, columns) with rows * columns = T for a map.
        causal: whether a feature may depend on its own and earlier tokens only.
        prefix: P, the tokens that stand before those of the grid.
    """

    x: Tensor
    mask: Tensor
    grid: tuple[int, ...]
    causal: bool = False
    prefix: int = 0


@dataclass(frozen=True)
class EmbedderInit:
    """The weights of a body's own input layer that an embedder can start from; None where the body has none.

    Args:
        norm: a copy of its norm, of any kind (layer norm or RMS norm, with or without a bias).
        positions: [S, D], row t belongs to token t, prefix tokens included.
        position_grid: (rows, columns) of the positions after those of the prefix, where they lie on a map.
        patch_weight: [D, 3, p, p], the filter of an image body's patch embedding.
        patch_bias: [D].
    """

    norm: nn.Module | None = None
    positions: Tensor | None = None
    position_grid: tuple[int, int] | None = None
    patch_weight: Tensor | None = None
    patch_bias: Tensor | None = None


class Embedder(Protocol):
    """What makes the input layer for a task's shapes; the settings of conf/embedder/. Paper 3.1, f.

    The layer is an nn.Module: `layer(x, valid)` takes [B, C, *E] and [B, *E] bool (or None) and returns Tokens of the layout's
    grid, without prefix. It has `layout`, `kernel` (what a token sees along every axis) and `class_token`: the prefix tokens as
    a parameter [P, D], or [D] where P = 1, or None.

    Attributes:
        max_tokens: upper bound on the tokens of a sample; the body's own maximum where None.
        can_be_causal: whether a token sees nothing beyond the positions that it stands for.
    """

    @property
    def max_tokens(self) -> int | None: ...  # noqa: D102
    @property
    def can_be_causal(self) -> bool: ...  # noqa: D102

    def __call__(self, layout: TokenLayout, width: int, body: EmbedderInit, prefix: Tensor | None) -> nn.Module:
        """Return the layer; random weights are drawn from torch's global generator.

        Args:
            layout: how inputs become tokens.
            width: D.
            body: what the layer can start from.
            prefix: [P, D], the body's prefix tokens where they are to stand before the others, else None.
        """


Role = Literal["query", "key", "value", "output", "feed_forward"]


class Body(Protocol):
    """A pretrained transformer between an embedder and a predictor; an nn.Module. Paper 3.1, g.

    Attributes:
        modality: "text" or "image": what its own embedding layer takes.
        width: D, width of the tokens that it takes.
        feature_width: F, width of the features that it returns.
        max_tokens: S, the longest sequence that it takes, prefix tokens included.
        canvas: (height, width) that inputs are brought to before they are cut into tokens; None for bodies that take
            sequences.
        downsampling: how much coarser the grid of its features is than that of its tokens, per axis; 1 for text.
        can_be_causal: whether it can keep a feature from depending on later tokens.
        needs_prefix: True where its prefix tokens always stand before the others, False where only pooling asks for them.
        checkpoint_digest: SHA-256 of the weights as loaded; identifies them in caches and records.
    """

    modality: Literal["text", "image"]
    width: int
    feature_width: int
    max_tokens: int
    canvas: tuple[int, int] | None
    downsampling: int
    can_be_causal: bool
    needs_prefix: bool
    checkpoint_digest: str

    def __call__(self, tokens: Tokens) -> Tokens:
        """Return features [B, P + T', F] with their mask and grid; T' = T / downsampling**2 for maps."""

    def embed_source(self, inputs: Sequence[str] | np.ndarray) -> Tokens:
        """Return its own embedding layer's output for source examples, in evaluation mode, without gradient or prefix."""

    def embedder_init(self) -> EmbedderInit:
        """Return the weights that an embedder can start from, as copies."""

    def prefix_tokens(self) -> Tensor | None:
        """Return the embedded tokens [P, D] that it expects before all others, classification token first, or None."""

    def norms(self) -> list[nn.Module]:
        """Return all normalisation layers, of any kind."""

    def linear_names(self, role: Role) -> list[str]:
        """Return the names, as in `named_modules`, of the nn.Linear layers with a role in attention or feed-forward."""

    def reset_weights(self) -> None:
        """Redraw all weights from torch's global generator, as the architecture's own initialisation does."""


@dataclass(frozen=True)
class Features:
    """A labelled cloud of points that a metric compares.

    Args:
        x: [n, d] floating point.
        labels: [n] int64 in 0..num_classes-1.
        num_classes: number of classes; classes without a point are allowed and carry no weight.
    """

    x: Tensor
    labels: Tensor
    num_classes: int


@dataclass(frozen=True)
class Distance:
    """What a metric returns.

    Args:
        value: scalar, differentiable in the target's features.
        diagnostics: plain numbers beside the value, such as iterations and marginal error.
    """

    value: Tensor
    diagnostics: dict[str, float] = field(default_factory=dict)


class Metric(Protocol):
    """A dataset distance between a fixed source and a target (paper 3.2); it keeps no state between calls."""

    def prepare(self, source: Features) -> dict[str, Tensor]:
        """Return all that depends on the source alone. Computed once, stored on disk, given back to every `distance`."""

    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Distance:
        """Return the distance of the target to the source, differentiable in target.x.

        Raises:
            NonFiniteError: the value is NaN or infinite.
        """


class Loss(Protocol):
    """What stage 3 differentiates; any torch.nn loss that averages is one."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over a batch; outputs [B, K] or [B, K, *E]."""


@dataclass(frozen=True)
class Score:
    """An error over a whole split.

    Args:
        value: the error, lower is better; None where it is undefined.
        n: number of samples (or classes, or positions, as the error says) that it averages over.
        skipped: number of those that were left out because the error is undefined for them.
        others: further errors of the same outputs by name, such as the one per record; for the records, never to choose by.
    """

    value: float | None
    n: int
    skipped: int = 0
    others: Mapping[str, float | None] = field(default_factory=dict)


class Error(Protocol):
    """What is reported for a task: lower is better, always; fractions, never per cent.

    Attributes:
        name: the field's name of it, such as "0-1 error".
        percent: whether tables show it times 100.
    """

    name: str
    percent: bool

    def __call__(self, outputs: Tensor, targets: Tensor, groups: Tensor | None = None) -> Score:
        """Return the error of all outputs [n, K] or [n, K, *E] of a split at once, never averaged over batches.

        Args:
            outputs: of the model.
            targets: shaped as Batch.y.
            groups: [n] int64, the record of each sample, where the split has records; errors per sample take no notice.

        Raises:
            DataError: outputs, targets and records do not fit together.
            NonFiniteError: an output that counts is NaN or infinite, and the error would be.
        """

    def constant(self, train_targets: Tensor, num_outputs: int) -> Tensor:
        """Return the output [K] or [K, *E] of the best constant predictor that the training targets allow."""


class TransferParts(Protocol):
    """A transfer model as finetune modes see it; an nn.Module with three parts."""

    @property
    def embedder(self) -> nn.Module:
        """Return f."""

    @property
    def body(self) -> Any:
        """Return g, a Body."""

    @property
    def predictor(self) -> nn.Module:
        """Return h."""

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Set requires_grad of every parameter."""


class Finetune(Protocol):
    """Which parameters stage 3 trains, and what of them a checkpoint holds.

    Attributes:
        pretrained: whether the body keeps its pretrained weights; else they are drawn at random.
    """

    pretrained: bool

    def apply(self, model: TransferParts) -> None:
        """Set requires_grad on every parameter, adding parameters first where the mode has its own; idempotent."""

    def trainable_state(self, model: nn.Module) -> dict[str, Tensor]:
        """Return copies, on the CPU, of what the pretrained body's checkpoint does not hold."""

    def load_trainable_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Give a model, after `apply`, the state that `trainable_state` returned.

        Raises:
            CheckpointError: it does not fit the model.
        """


class Recorder(Protocol):
    """Takes every line of every curve; JSON lines, trackers and pruning are recorders."""

    def record(self, stage: str, line: Mapping[str, Any]) -> None:
        """Take the next line of a stage's curve: plain values by name."""

    def rewind(self, stage: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Replace a stage's curve so far, when the stage starts or resumes."""


class Reporter(Protocol):
    """How long work reports to the person who waits for it."""

    def say(self, text: str) -> None:
        """Log one line."""

    def track(self, description: str, total: int) -> Any:
        """Return a context manager that gives a function `advance(steps=1, note="")`."""
