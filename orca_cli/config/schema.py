"""The configuration of a run: its skeleton as dataclasses.

Parts (task, body, source, metric, embedder, finetune, tracker) are `_target_` nodes. A setting is
declared once: type, bounds or choices (`ranges`), meaning and default. `setting_checks` enforces
the declarations before any data are read, and `orca list settings` shows them.
"""

import functools
import typing
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from orca_cli.config.ranges import (
    Count,
    CountOrZero,
    Fraction,
    NotNegative,
    OneOf,
    Positive,
    Seed,
    Share,
    Takes,
)

MISSING = "???"  # OmegaConf's mark of a value that has to be given
# Protocols that train as the released code does (docs/protocols.md): the gradient of a step is the
# sum of its batches' mean gradients, targets enter it in the task's own units, and stage 2 has the
# optimizer of stage 3.
AS_PUBLISHED = ("paper", "release")
# Protocol -> samples of a chunk, if errors are means over chunks of a split and not of the whole.
ERROR_CHUNKS = {"release": 1000}

AtLeastTwo = Annotated[int, Ge(2)]
Device = Annotated[
    str, OneOf(("auto", "cpu", "cuda", "cuda:N", "mps"), pattern=r"auto|cpu|mps|cuda(:\d{1,4})?")
]
# Ten times the largest rate, which Adam's first step may take, is still a float32.
Rate = Annotated[float, Interval(gt=0, le=1e30)]


@dataclass
class Paths:
    """Folders; left out of a run's identity."""

    runs: Annotated[str | None, "Where run folders go. Default: $ORCA_RUNS, else ./runs."] = None
    data: Annotated[
        str | None, "Where data sets are. Default: $ORCA_HOME/data, else the user's cache folder."
    ] = None
    cache: Annotated[
        str | None,
        "Where computed source features and generated data go. Default: $ORCA_HOME/cache, else as"
        " above.",
    ] = None


# No hidden folder, no place elsewhere, and no name that the program gives to leftovers.
DataName = Annotated[
    str, OneOf(("letters, digits, - and _, a letter or digit first",), r"[^\W_][\w-]{0,99}")
]


@dataclass
class Task:
    """Settings that every task has besides those of its reader."""

    name: Annotated[
        DataName | None,
        "Name of the data set, for folders and tables; it changes no result. null: that of your "
        "file or folder (its folder's, if it is called train, data or the like), else the task's.",
    ] = None
    train_fraction: Annotated[
        Fraction | None,
        "Part of the training split that is used (paper, Figure 5), drawn by task.split_seed, "
        "every class in proportion; validation and test stay whole. null: all of it.",
    ] = None


@dataclass
class Predictor:
    """The output layer (paper 3.1)."""

    pooling: Annotated[
        str,
        OneOf(("mean", "class_token")),
        "classes and labels: mean over the tokens that are not padding, or the class token (text "
        "bodies).",
    ] = "mean"
    init: Annotated[
        str,
        OneOf(("random", "ridge", "auto")),
        "random (the paper's); or ridge: stage 3 starts from a ridge regression on what the "
        "predictor sees of the training samples before any step, and may choose that start (kinds"
        " classes, labels, values). auto: ridge where the embedder begins as the body's own "
        "layer.",
    ] = "random"


@dataclass
class Align:
    """Stage 2: train the embedder alone, to bring embedded target data close to the source's.

    Paper, section 3.2.
    """

    epochs: Annotated[
        CountOrZero, "Optimizer steps; every step sees all target classes once (Algorithm 1)."
    ] = 60
    lr: Annotated[Rate, "Learning rate at the start."] = 1e-2
    largest_step: Annotated[
        Positive | None,
        "... but for a layer no more than this times the root mean square of its weights: a long "
        "sequence makes a wide filter with small weights, which the same rate would erase. A "
        "thousandth of it for an embedder that begins as the body's own layer. null: no limit.",
    ] = 0.1
    weight_decay: Annotated[NotNegative, "Weight decay."] = 0.0
    decay_every: Annotated[
        Count, "The learning rate is multiplied by decay_factor every N epochs."
    ] = 20
    decay_factor: Annotated[float, Interval(gt=0, le=1), "See decay_every."] = 0.2
    max_samples: Annotated[
        Count | None,
        "Target points per problem and step. Default: 128 where a problem has one class, 256 "
        "where it has several.",
    ] = None
    classes_per_problem: Annotated[
        CountOrZero | None,
        "Target classes compared with the source in one problem, with points by their shares; 0: "
        "all. Default: what the metric asks for, 1 or all (otdd: a sample has up to "
        "metric.classes of them, drawn at every step).",
    ] = None
    unit_gradient: Annotated[
        bool,
        "Divide gradients by the norm of the first one, so that one align.lr suits all metrics "
        "and optimizers.",
    ] = True
    features: Annotated[
        str,
        OneOf(("tokens", "sequence", "pooled")),
        "What a point is: every token of a sample, all its tokens in a row, or their mean "
        "(pooled).",
    ] = "tokens"
    source_points: Annotated[AtLeastTwo, "Source points, drawn once; all if there are fewer."] = (
        3000
    )
    source_seed: Annotated[
        Seed | None,
        "Seed of the draws of source examples and points, which runs then share; null: the run's "
        "own seed.",
    ] = 0
    source_cloud: Annotated[
        str,
        OneOf(("embedded", "gaussian")),
        "Source points: embedded examples, or as many of a Gaussian with their mean and "
        "covariance (a control).",
    ] = "embedded"
    source_labels: Annotated[
        str,
        OneOf(("given", "clusters", "shuffled")),
        "Classes of source points: the source's, as many k-means clusters of the points, or "
        "shuffled (a control).",
    ] = "given"
    target_labels: Annotated[
        str,
        OneOf(("given", "shuffled")),
        "Classes (or pseudo-labels) of target samples in stage 2: the task's, or shuffled within "
        "each split (a control).",
    ] = "given"
    pseudo_labels: Annotated[
        AtLeastTwo | None,
        "Targets that are not classes: how many k-means clusters (of one number a sample: "
        "quantile bins) stand in for them. Default: as many as the source has classes.",
    ] = None
    check_every: Annotated[
        Count,
        "Epochs between measurements on held-out (validation) data: metric, exact OTDD and "
        "diagnostics.",
    ] = 20
    exact: Annotated[
        bool,
        "Measure the exact OTDD at every check as well, by linear programming (paper, Figure 6); "
        "takes seconds.",
    ] = False


@dataclass
class Train:
    """Stage 3: train on the task's loss (paper 3.3)."""

    epochs: Annotated[Count | None, "Passes over the training data. null: by the budget."] = None
    batch_size: Annotated[
        Count | None,
        "Samples per forward pass; times `accumulation` per optimizer step. Smaller where there "
        "are fewer training samples. null: by the budget.",
    ] = None
    accumulation: Annotated[
        Count,
        "Batches per optimizer step; the gradient is that of the mean over all their samples.",
    ] = 1
    class_weights: Annotated[
        Any,
        Takes(Literal["balanced"] | list[NotNegative] | None),
        "kind classes: factor on the loss of each class: a list, or balanced, which makes all "
        "classes weigh alike.",
    ] = None
    positive_weight: Annotated[
        Any,
        Takes(Literal["balanced"] | list[Positive] | None),
        "kind labels: factor on the loss of each label where it is present: a list, or balanced, "
        "which makes present and absent weigh alike.",
    ] = None
    optimizer: Annotated[str, OneOf(("sgd", "adam", "adamw")), "The optimizer."] = "adamw"
    lr: Annotated[Rate | None, "Peak learning rate. null: by the budget."] = None
    outer_rate: Annotated[
        Positive | None,
        "What starts at random of embedder and predictor learns at this multiple of `lr`. null: "
        "by the budget, and 1 where `lr` is set.",
    ] = None
    weight_decay: Annotated[NotNegative | None, "Weight decay. null: by the budget."] = None
    momentum: Annotated[Share, "Momentum of sgd."] = 0.9
    warmup_epochs: Annotated[
        NotNegative | None,
        "The learning rate rises linearly from 0 over N epochs (null: by the budget) ...",
    ] = None
    warmup_limit: Annotated[
        Fraction | None,
        "... but over no larger part of the epochs than this: a longer warm-up is shortened. "
        "null: no limit.",
    ] = 0.5
    decay_epochs: Annotated[
        Annotated[float, Ge(1)] | None,
        "Then it falls linearly to 0 at this epoch, and stays there. Default: `epochs`.",
    ] = None
    clip: Annotated[
        NotNegative | None,
        "Largest norm of the gradient, per optimizer step. 0: no clipping; null: by the budget.",
    ] = None
    eval_batch_size: Annotated[Count, "Samples per forward pass when nothing is trained."] = 256
    select: Annotated[
        str,
        OneOf(("auto", "best", "last")),
        "Which weights are tested: those that validate best, or the last; auto: the best where "
        "validation is large enough to choose (docs/selection.md).",
    ] = "auto"
    select_by: Annotated[
        str,
        OneOf(("auto", "error", "loss")),
        "select=best: what is lowest on validation, the task's error or its loss; auto: the loss "
        "where validation is small.",
    ] = "auto"
    refit: Annotated[
        Any,
        Takes(Literal["auto"] | bool),
        "Train on the validation samples as well, which leaves no validation error; auto: where "
        "they choose nothing and were drawn from the training data.",
    ] = "auto"
    folds: Annotated[
        CountOrZero | None,
        "Fine-tune N models, each on all samples but an N-th, which judges it; their outputs are "
        "averaged. 0: one model; null, as for your own data: 5 where validation has fewer than "
        "100 samples.",
    ] = 0
    members: Annotated[
        Count | None,
        "Fine-tune N models that differ in all random draws, those of embedder and alignment "
        "included; their outputs are averaged. null: by the budget.",
    ] = None
    validate_on: Annotated[
        str,
        OneOf(("validation", "test")),
        "Where the best epoch is chosen; test, as in the released code, makes every reported "
        "error too low.",
    ] = "validation"
    checkpoint_s: Annotated[NotNegative, "Seconds between checkpoints to resume from."] = 60.0
    gradient_checkpointing: Annotated[
        bool,
        "Keep only the inputs of the body's layers for the backward pass and compute the rest "
        "again: less memory, more time, the same bits.",
    ] = False


@dataclass
class Config:
    """One run."""

    task: Any = field(default_factory=lambda: asdict(Task()))
    body: Any = MISSING
    source: Any = MISSING
    metric: Any = MISSING
    embedder: Any = MISSING
    finetune: Any = MISSING
    tracker: Any = MISSING
    predictor: Predictor = field(default_factory=Predictor)
    align: Align = field(default_factory=Align)
    train: Train = field(default_factory=Train)
    paths: Paths = field(default_factory=Paths)
    seed: Annotated[
        Seed,
        "Seed of all random draws but the split of the data, which has its own (task.split_seed).",
    ] = 0
    device: Annotated[
        Device, "Where to compute; a device that is asked for and absent is an error."
    ] = "auto"
    precision: Annotated[
        str,
        OneOf(("auto", "fp32", "bf16", "fp16")),
        "Of the body in stage 3; embedder, predictor and distances are always computed in full "
        "precision. auto: bf16 where the device computes in it and the body is wide enough to "
        "gain, else fp32.",
    ] = "auto"
    protocol: Annotated[
        str,
        OneOf(("clean", "paper", "release")),
        "How errors are measured; a group of its own that overrides other files in what it sets.",
    ] = "clean"
    budget: Annotated[
        Any,
        Takes(Literal["quick", "normal", "thorough"] | Positive),
        "How long to train in stage 3: the optimizer steps, and what else of train is null, by "
        "the number of samples and their length (protocol=clean). A number is minutes on this "
        "machine. Settings of train that are given take precedence.",
    ] = "normal"
    test: Annotated[
        bool,
        "Open the test split once, at the end. false: the run ends with its validation error, and"
        " has no test error, as the trials of a search.",
    ] = True
    baselines: Annotated[
        str,
        OneOf(("none", "simple", "all")),
        "Models to show beside the test error (docs/baselines.md): linear, forest, a ridge on the"
        " embedder's features, boosting for tables, and MiniRocket for series where the extra "
        "peers is installed; all: for long series too. They change nothing about the run, and a "
        "completed run gets those that it lacks.",
    ] = "simple"
    keep_weights: Annotated[
        bool,
        "Keep what was trained once the run is completed. false: the run can be compared with "
        "others and cannot predict; for studies, since the weights of 1,000 runs of a small body "
        "take 80 GB.",
    ] = True


# Groups whose choices name a run, and rows and columns of tables.
GROUPS = ("task", "body", "source", "metric", "finetune")
# Groups of which every run needs exactly one choice.
NEEDED_GROUPS = (*GROUPS, "embedder")
# Keys, or sections of them, that cannot change a result; `tune` is a section of older runs.
WITHOUT_EFFECT = (
    "paths",
    "device",
    "tracker",
    "baselines",
    "tune",
    "keep_weights",
    "train.checkpoint_s",
    "train.gradient_checkpointing",
    "task.name",
)


def is_without_effect(key: str) -> bool:
    """Return whether a dotted key is one of `WITHOUT_EFFECT`, or below one."""
    return is_within(key, WITHOUT_EFFECT)


def is_within(name: str, roots: Iterable[str]) -> bool:
    """Return whether a dotted name is one of some names, or below one."""
    for root in roots:
        # With the dot: `database` is not below `data`.
        is_below = name.startswith(f"{root}.")
        if is_below or name == root:
            return True
    return False


def has_alignment(settings: Config) -> bool:
    """Return whether stage 2 takes any step: there is a metric, and `align.epochs` is not 0."""
    return settings.metric.get("_target_") is not None and settings.align.epochs > 0


def lookup(config: Any, key: str) -> Any:
    """Return the value at a dotted key of nested dataclasses and dictionaries.

    None if a section on the way, or the last name, is absent.
    """
    node = config
    for name in key.split("."):
        # Parts are dictionaries, sections are dataclasses.
        node = node.get(name) if isinstance(node, dict) else getattr(node, name, None)
    return node


@functools.cache
def declared() -> dict[str, Any]:
    """Return dotted key -> annotation of every single setting of the schema, in order."""
    annotations: dict[str, Any] = {}
    for name, annotation in typing.get_type_hints(Config, include_extras=True).items():
        # A task is a dictionary in a run, but some of its settings are declared here.
        section = Task if name == "task" else annotation
        if is_dataclass(section):
            for key, inner in typing.get_type_hints(section, include_extras=True).items():
                annotations[f"{name}.{key}"] = inner
        # Parts are Any; their settings are declared by their signatures.
        elif annotation is not Any:
            annotations[name] = annotation
    return annotations
