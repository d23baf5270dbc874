"""The configuration of a run: its skeleton as dataclasses.

Parts (task, body, source, metric, embedder, finetune, tracker) are `_target_` nodes. Each setting
is declared once, with type, bounds or choices (`ranges`), meaning and default. `setting_checks`
enforces the declarations before any data are read, and `orca list settings` prints them.
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

MISSING = "???"  # OmegaConf's mark for a value that the user has to set
# Protocols that train as the released code does (docs/protocols.md): the gradient of a step is the
# sum of its batches' mean gradients, the loss compares targets in the task's own units, and stage 2
# uses the optimizer of stage 3.
AS_PUBLISHED = ("paper", "release")
# Protocol -> number of samples in a chunk. With such a protocol, an error is the mean of the errors
# of the chunks of a split instead of the error of the whole split.
ERROR_CHUNKS = {"release": 1000}

AtLeastTwo = Annotated[int, Ge(2)]
Device = Annotated[
    str, OneOf(("auto", "cpu", "cuda", "cuda:N", "mps"), pattern=r"auto|cpu|mps|cuda(:\d{1,4})?")
]
# Adam's first step may be ten times the rate, and ten times the largest rate is still a float32.
Rate = Annotated[float, Interval(gt=0, le=1e30)]


@dataclass
class Paths:
    """Folders; they are not part of a run's identity."""

    runs: Annotated[
        str | None, "Folder for the run folders. null: $ORCA_RUNS if it is set, else ./runs."
    ] = None
    data: Annotated[
        str | None,
        "Folder of the data sets. null: $ORCA_HOME/data if $ORCA_HOME is set, else a folder in the "
        "user's cache folder.",
    ] = None
    cache: Annotated[
        str | None,
        "Folder for computed source features and generated data. null: $ORCA_HOME/cache if "
        "$ORCA_HOME is set, else a folder in the user's cache folder.",
    ] = None


# The pattern excludes hidden folders, paths to other folders, and names of temporary folders.
DataName = Annotated[
    str,
    OneOf(
        ("a name of letters, digits, - and _ that begins with a letter or digit",),
        r"[^\W_][\w-]{0,99}",
    ),
]


@dataclass
class Task:
    """Settings that every task has in addition to those of its reader."""

    name: Annotated[
        DataName | None,
        "Name of the data set in folders and tables; it changes no result. null: the name of your "
        "file or folder. If that name is general, such as train or data: the name of the folder "
        "around it. If neither gives a name: the name of the task.",
    ] = None
    train_fraction: Annotated[
        Fraction | None,
        "Fraction of the training split to train on (paper, Figure 5). It is drawn with "
        "task.split_seed and keeps the proportions of the classes; validation and test stay "
        "complete. null: the complete training split.",
    ] = None


@dataclass
class Predictor:
    """The output layer (paper 3.1)."""

    pooling: Annotated[
        str,
        OneOf(("mean", "class_token")),
        "How the features of a sample's tokens become one vector; dense targets do not need this. "
        "mean: the mean of the features of all tokens except padding; class_token: the features of "
        "the class token (text bodies only).",
    ] = "mean"
    init: Annotated[
        str,
        OneOf(("random", "ridge", "auto")),
        "Initial weights of the predictor. random: random weights, as in the paper. ridge (kinds "
        "classes, labels and values): weights of a ridge regression on features of the training "
        "samples; if training does not improve on them, the run keeps them. auto: ridge for an "
        "embedder that starts as the body's own input layer, or that has features of the whole "
        "sample, such as the filter bank; random for all others.",
    ] = "random"


@dataclass
class Align:
    """Stage 2: train the embedder alone, to bring embedded target data close to the source.

    Paper, section 3.2.
    """

    epochs: Annotated[
        CountOrZero,
        "Number of optimizer steps of the alignment. The paper calls a step an epoch, since a step "
        "uses every target class once. 0: no alignment.",
    ] = 60
    lr: Annotated[Rate, "Initial learning rate of the alignment."] = 1e-2
    largest_step: Annotated[
        Positive | None,
        "Upper bound on the learning rate of each layer, as a multiple of the root mean square of "
        "the layer's initial weights. Without the bound, align.lr would erase the small weights of "
        "the wide filters that long sequences need. If the embedder starts as the body's own input "
        "layer, the bound is divided by 1,000. null: no bound.",
    ] = 0.1
    weight_decay: Annotated[NotNegative, "Weight decay of the alignment."] = 0.0
    decay_every: Annotated[
        Count, "N: the learning rate is multiplied by align.decay_factor after every N epochs."
    ] = 20
    decay_factor: Annotated[
        float,
        Interval(gt=0, le=1),
        "Factor by which the learning rate is multiplied after every align.decay_every epochs.",
    ] = 0.2
    max_samples: Annotated[
        Count | None,
        "Largest number of target points in one comparison with the source. null: 128 if the "
        "comparison covers one class, 256 if it covers several.",
    ] = None
    classes_per_problem: Annotated[
        CountOrZero | None,
        "Number of target classes in one comparison with the source; each class has points in "
        "proportion to its size. 0: all classes; null: one or all, whichever the metric needs. "
        "`otdd` gets all classes, of which it draws up to metric.classes for each random draw of "
        "points.",
    ] = None
    unit_gradient: Annotated[
        bool,
        "Divide all gradients by the norm of the first gradient, so that the same align.lr suits "
        "every metric and optimizer.",
    ] = True
    features: Annotated[
        str,
        OneOf(("tokens", "sequence", "pooled")),
        "Points that the metric compares. tokens: each token of a sample is a point; sequence: all "
        "tokens of a sample form one long vector; pooled: the mean of the tokens of a sample.",
    ] = "tokens"
    source_points: Annotated[
        AtLeastTwo,
        "Number of source points, which are drawn once. If the source has fewer points, all are "
        "used.",
    ] = 3000
    source_seed: Annotated[
        Seed | None,
        "Seed for drawing source examples and points; runs with the same value of this setting "
        "use the same points. null: the seed of the run.",
    ] = 0
    source_cloud: Annotated[
        str,
        OneOf(("embedded", "gaussian")),
        "Source points. embedded: embedded source examples; gaussian (a control): as many points "
        "from a Gaussian distribution with the mean and covariance of the embedded examples.",
    ] = "embedded"
    source_labels: Annotated[
        str,
        OneOf(("given", "clusters", "shuffled")),
        "Classes of the source points. given: the classes of the source; clusters: k-means "
        "clusters of the points, as many as the source has classes; shuffled (a control): the "
        "classes of the source in random order.",
    ] = "given"
    target_labels: Annotated[
        str,
        OneOf(("given", "shuffled")),
        "Classes (or pseudo-labels) of the target samples in the alignment. given: the classes of "
        "the task; shuffled (a control): the same classes in random order within each split.",
    ] = "given"
    pseudo_labels: Annotated[
        AtLeastTwo | None,
        "Number of pseudo-labels, which replace targets other than classes: k-means clusters of "
        "the targets, or quantile bins if each target is a single number. null: the number of "
        "source classes.",
    ] = None
    check_every: Annotated[
        Count,
        "Number of alignment epochs between two measurements on validation data. Each measurement "
        "covers the metric, diagnostics and, with align.exact=true, the exact OTDD.",
    ] = 20
    exact: Annotated[
        bool,
        "Also measure the exact OTDD (optimal transport dataset distance) every align.check_every "
        "epochs, by linear programming (paper, Figure 6). Each measurement takes seconds.",
    ] = False


@dataclass
class Train:
    """Stage 3: train on the task's loss (paper 3.3)."""

    epochs: Annotated[
        Count | None, "Passes over the training samples. null: decided by the setting `budget`."
    ] = None
    batch_size: Annotated[
        Count | None,
        "Samples per batch (forward pass). An optimizer step uses train.accumulation batches. The "
        "batch size is at most the number of training samples. null: decided by the setting "
        "`budget`.",
    ] = None
    accumulation: Annotated[
        Count,
        "Batches per optimizer step; the step follows the gradient of the mean loss over the "
        "samples of all these batches.",
    ] = 1
    class_weights: Annotated[
        Any,
        Takes(Literal["balanced"] | list[NotNegative] | None),
        "Factor on the loss of each class, if the targets are classes: a list of one number per "
        "class, or balanced (all classes get the same total weight).",
    ] = None
    positive_weight: Annotated[
        Any,
        Takes(Literal["balanced"] | list[Positive] | None),
        "Factor on the loss of each label wherever the label is present, if the targets are "
        "labels: a list of one number per label, or balanced (presence and absence of a label get "
        "the same total weight).",
    ] = None
    optimizer: Annotated[str, OneOf(("sgd", "adam", "adamw")), "Optimizer of the fine-tuning."] = (
        "adamw"
    )
    lr: Annotated[Rate | None, "Peak learning rate. null: decided by the setting `budget`."] = None
    outer_rate: Annotated[
        Positive | None,
        "Factor on train.lr for the parts of embedder and predictor that start with random "
        "weights. null: 1 if train.lr is set, else decided by the setting `budget`.",
    ] = None
    weight_decay: Annotated[
        NotNegative | None, "Weight decay. null: decided by the setting `budget`."
    ] = None
    momentum: Annotated[Share, "Momentum of train.optimizer=sgd."] = 0.9
    warmup_epochs: Annotated[
        NotNegative | None,
        "Epochs over which the learning rate rises linearly from 0 to train.lr. null: decided by "
        "the setting `budget`.",
    ] = None
    warmup_limit: Annotated[
        Fraction | None,
        "Largest fraction of the epochs that the warm-up may take; a longer warm-up is shortened. "
        "null: no limit.",
    ] = 0.5
    decay_epochs: Annotated[
        Annotated[float, Ge(1)] | None,
        "Epoch at which the learning rate, falling linearly from its peak, reaches 0; after this "
        "epoch the learning rate stays 0. null: the number of epochs.",
    ] = None
    clip: Annotated[
        NotNegative | None,
        "Largest norm of the gradient of an optimizer step; a larger gradient is scaled down. 0: "
        "no clipping; null: decided by the setting `budget`.",
    ] = None
    eval_batch_size: Annotated[
        Count, "Samples per forward pass outside training, such as in validation and test."
    ] = 256
    select: Annotated[
        str,
        OneOf(("auto", "best", "last")),
        "Weights to test. best: the weights of the epoch with the lowest validation error or loss "
        "(see train.select_by); last: the weights after the last step; auto: best if the "
        "validation split is large enough for a choice, else last (docs/selection.md).",
    ] = "auto"
    select_by: Annotated[
        str,
        OneOf(("auto", "error", "loss")),
        "Criterion of train.select=best: the lowest validation error or the lowest validation "
        "loss. auto: the loss if the validation split is small, else the error.",
    ] = "auto"
    refit: Annotated[
        Any,
        Takes(Literal["auto"] | bool),
        "Train on the validation samples as well; the run then has no validation error. auto: true "
        "if the validation samples were drawn from the training data and nothing, such as the best "
        "epoch, is chosen on them.",
    ] = "auto"
    folds: Annotated[
        CountOrZero | None,
        "Fine-tune N models by N-fold cross-validation: each fold validates the model that is "
        "trained on the other folds, and the outputs of the models are averaged. 0: one model; "
        "null (default for your own data): 5 if the validation split has fewer than 100 samples, "
        "else 0.",
    ] = 0
    members: Annotated[
        Count | None,
        "Fine-tune N models that differ in all random draws, including the draws of embedder and "
        "alignment, and average their outputs. null: decided by the setting `budget`.",
    ] = None
    validate_on: Annotated[
        str,
        OneOf(("validation", "test")),
        "Split on which the best epoch is chosen. The choice `test`, as in the paper's code, makes "
        "every reported error too low.",
    ] = "validation"
    checkpoint_s: Annotated[
        NotNegative, "Seconds between checkpoints, from which an interrupted run can resume."
    ] = 60.0
    gradient_checkpointing: Annotated[
        bool,
        "Keep only the inputs of the body's layers for the backward pass, and compute the other "
        "activations of these layers again. This needs less memory and more time, and the results "
        "are the same to the last bit.",
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
        "Seed of all random draws except the split of the data, which task.split_seed determines.",
    ] = 0
    device: Annotated[
        Device,
        "Device to compute on. auto: CUDA if this machine has it, else the CPU. The run fails if "
        "the machine lacks the device that you set.",
    ] = "auto"
    precision: Annotated[
        str,
        OneOf(("auto", "fp32", "bf16", "fp16")),
        "Precision of the body in the fine-tuning; embedder, predictor and distances are always "
        "computed in full precision. auto: bf16 if the device supports it and the body is wide "
        "enough to gain speed, else fp32.",
    ] = "auto"
    protocol: Annotated[
        str,
        OneOf(("clean", "paper", "release")),
        "How to train and to measure errors. clean: by sound practice; paper: as the paper "
        "reports; release: as the paper's code does. A protocol overrides settings of the task, "
        "the body and other choices.",
    ] = "clean"
    budget: Annotated[
        Any,
        Takes(Literal["quick", "normal", "thorough"] | Positive),
        "How long to train with protocol=clean. The program then chooses the open (null) settings "
        "of the training, such as train.epochs, from the budget and from the number and length of "
        "the samples (docs/budget.md). If the budget is a number, the run may take this many "
        "minutes on this machine.",
    ] = "normal"
    test: Annotated[
        bool,
        "Read the test split once, at the end of the run. false: the run has a validation error "
        "but no test error, like the trials of a search.",
    ] = True
    baselines: Annotated[
        str,
        OneOf(("none", "simple", "all")),
        "Baselines to fit to the same data (docs/baselines.md). simple: linear, forest, ridges on "
        "the features of embedder and body, boosting for tables and, if the extra `peers` is "
        "installed, MiniRocket for series; all: the same baselines, and MiniRocket for long "
        "series too. Baselines do not change the run; the program adds missing baselines to a "
        "completed run.",
    ] = "simple"
    keep_weights: Annotated[
        bool,
        "Keep the trained weights when the run is completed. false: the run can be compared with "
        "other runs but cannot predict; meant for studies, since the weights of 1,000 runs of a "
        "small body take 80 GB.",
    ] = True


# Groups whose choices name a run, and the rows and columns of tables.
GROUPS = ("task", "body", "source", "metric", "finetune")
# Groups of which every run needs exactly one choice.
NEEDED_GROUPS = (*GROUPS, "embedder")
# Keys and sections that cannot change a result; `tune` is a section that only older runs have.
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
    """Return whether a dotted key is in `WITHOUT_EFFECT`, or below an entry of it."""
    return is_within(key, WITHOUT_EFFECT)


def is_within(name: str, roots: Iterable[str]) -> bool:
    """Return whether a dotted name is one of `roots`, or below one of them."""
    for root in roots:
        # With the dot: `database` is not below `data`.
        is_below = name.startswith(f"{root}.")
        if is_below or name == root:
            return True
    return False


def has_alignment(settings: Config) -> bool:
    """Return whether stage 2 has any steps: the run has a metric, and `align.epochs` is not 0."""
    return settings.metric.get("_target_") is not None and settings.align.epochs > 0


def lookup(config: Any, key: str) -> Any:
    """Return the value at a dotted key of nested dataclasses and dictionaries.

    The value is None if a section on the way, or the last name, does not exist.
    """
    node = config
    for name in key.split("."):
        # Parts are dictionaries, sections are dataclasses.
        node = node.get(name) if isinstance(node, dict) else getattr(node, name, None)
    return node


@functools.cache
def declared() -> dict[str, Any]:
    """Return dotted key -> annotation of every setting of the schema, in the schema's order."""
    annotations: dict[str, Any] = {}
    for name, annotation in typing.get_type_hints(Config, include_extras=True).items():
        # A task is a dictionary in a run, but some of its settings are declared here.
        section = Task if name == "task" else annotation
        if is_dataclass(section):
            for key, inner in typing.get_type_hints(section, include_extras=True).items():
                annotations[f"{name}.{key}"] = inner
        # The schema declares parts as Any; their signatures declare their settings.
        elif annotation is not Any:
            annotations[name] = annotation
    return annotations
