"""Stage 1: read the task, load the body, and build embedder and predictor for the task's shapes (paper 3.1).

`build` is the whole stage; `make_model` also makes further members of stage 3, and `read_task` is what `orca data check` calls.
"""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from orca_cli import seeding
from orca_cli.config import parts
from orca_cli.config.checks import part_node
from orca_cli.config.schema import ERROR_CHUNKS, Config, Train
from orca_cli.data.blocks import blocks
from orca_cli.data.fraction import with_fraction
from orca_cli.exceptions import ConfigError, DataError, OrcaError
from orca_cli.interfaces import Error, Finetune, Loss, Reporter, Samples, SourceData, TaskData
from orca_cli.models.assembly import build_model, describe, load_body
from orca_cli.models.checkpoints import revision
from orca_cli.models.predictors import PooledPredictor
from orca_cli.models.transfer import TransferModel
from orca_cli.scoring.losses import MaskedBCE, MaskedCrossEntropy, counts_targets, default_loss
from orca_cli.scoring.reported import named_error
from orca_cli.stages.plan import Decided, Plan, decide, read_decisions
from orca_cli.training.engine import checkpoint_layers, limit_threads
from orca_cli.training.loop import batches

_FITTED = 2000  # samples that an embedder sees before any training
_FITTED_AT_ONCE = 64
_DRY_TOKENS = 2**18  # that an embedder sees in a dry run, in about a second
_UNEVEN = 4  # ratio of the largest class to the smallest above which a note is due
_CLASSES, _LABELS = "train.class_weights", "train.positive_weight"
_LOSSES = "give a short name, or a class of orca_cli.scoring.losses"


@dataclass(frozen=True)
class Built:
    """What stage 1 hands to the next stages; `build` makes it.

    Args:
        learned: what stage 3 trains on (`TrainPlan.learned`).
        model: on the CPU; the finetune mode is applied.
        embedder: a copy of the model's as it is before any training, the same whatever the metric.
        summary: JSON-able: shapes, kernel, tokens, parameters per part, splits.
        source: what stage 2 compares with; None where nothing is aligned.
    """

    task: TaskData
    learned: Samples
    plan: Plan
    loss: Loss
    error: Error
    model: TransferModel
    embedder: nn.Module
    finetune: Finetune
    summary: dict[str, Any]
    source: SourceData | None = None


def build(
    config: Config,
    reporter: Reporter,
    earlier: Mapping[str, Any] | None = None,
    *,
    is_trained: bool = True,
) -> Built:
    """Read the data and build the transfer model; a small one leaves the process with one thread (`limit_threads`).

    Args:
        config, reporter: as composed, and for messages.
        earlier: what an earlier attempt of the run recorded; its decisions stand as long as the data are the same.
        is_trained: False for a dry run, whose embedder sees fewer samples of very many tokens.

    Raises:
        ConfigError: settings do not fit the data or the body, or the source is of another modality than the body.
        DataError: data or weights are missing or damaged, or a split is empty.
        OrcaError: what else `checkpoints.load_model` raises for weights that cannot be had or trusted.
    """
    # Read the source first: if its files are missing, fail before spending minutes on the task's.
    source = read_source(config, reporter) if has_alignment(config) else None
    task = read_task(config, reporter)
    sizes = counts(task) if task.kind == "classes" else np.ones(1)
    least, most = sizes[sizes > 0].min(initial=sizes.max()), sizes.max()
    if most > _UNEVEN * least:
        advice = "train.class_weights=balanced weighs them alike in the loss, task.error=balanced in the error"
        reporter.say(f"build: classes have {least} to {most} training samples; {advice}")
    model, mode = make_model(config, task, is_trained=is_trained)
    if source is not None and source.modality != model.body.modality:
        what = f"the source holds {source.modality} data, but the body takes {model.body.modality}"
        raise ConfigError(
            what, where="source", hint="use stdlib_docs for text, cifar10 or digits for images"
        )
    limit_threads(
        sum(parameter.numel() for parameter in model.parameters()), model.embedder.layout.tokens
    )
    if config.train.gradient_checkpointing:
        checkpoint_layers(model.body)
    splits = {"train": split_record(task.train), "val": split_record(task.validation)}
    plan = _plan(config, task, model, read_decisions(earlier or {}, splits))
    integer, chunk = (
        not np.issubdtype(task.train.targets().dtype, np.floating),
        ERROR_CHUNKS.get(config.protocol),
    )
    error = named_error(config.task.get("error"), task.kind, integer, chunk, plan.train.batch_size)
    loss = make_loss(config, task)
    summary = _summary(task, model, error) | {"splits": splits} | _training_summary(plan, task)
    first = copy.deepcopy(model.embedder)
    return Built(
        task, plan.train.learned(task), plan, loss, error, model, first, mode, summary, source
    )


def make_model(
    settings: Config, task: TaskData, *, is_trained: bool = True
) -> tuple[TransferModel, Finetune]:
    """Load the body and build embedder and predictor for the task's shapes; the finetune mode is applied.

    An embedder that learns from inputs (`fit`) sees at most 2,000 training samples, drawn by the seed. One that begins as the
    body's own layer, with a ridge as predictor, is frozen where the mode freezes any part of the body; its norm is trained
    where all of the body's are. Raises as `checkpoints.load_model`, `build_model` and `Finetune.apply`.
    """
    mode: Finetune = parts.build(settings.finetune, "finetune")
    body = load_body(settings.body, settings.seed, pretrained=mode.pretrained)
    body.source_resolution = settings.embedder.get("resolution", body.source_resolution)
    model = build_model(
        body=body,
        kind=task.kind,
        input_shape=task.input_shape,
        num_outputs=task.num_outputs,
        embedder=parts.build(settings.embedder, "embedder"),
        pooling=settings.predictor.pooling,
        target_scale=task.target_scale,
        causal=task.causal,
        seed=settings.seed,
    )
    rows, most = np.arange(len(task.train)), _FITTED
    if not is_trained:
        most = max(_FITTED_AT_ONCE, min(_FITTED, _DRY_TOKENS // model.embedder.layout.tokens))
    if len(rows) > most:
        rows = np.sort(
            seeding.numpy_generator(settings.seed, "build", "fit").permutation(len(rows))[:most]
        )
    read = map(task.train.batch, batches(rows, _FITTED_AT_ONCE))
    model.embedder.fit((batch.x, batch.valid) for batch in read)
    seeding.seed_torch(settings.seed, "build", "finetune")
    mode.apply(model)
    if is_started(settings, model) and not all(
        parameter.requires_grad for parameter in model.body.parameters()
    ):
        # An embedder that is the body's own layer is frozen as the body is; its norm is trained where the body's are.
        model.embedder.requires_grad_(False)
        if all(
            parameter.requires_grad
            for norm in model.body.norms()
            for parameter in norm.parameters()
        ):
            model.embedder.norm.requires_grad_(True)
    return model, mode


def is_ridge_wanted(settings: Config, model: TransferModel) -> bool:
    """Return whether a run's predictor is to begin as a ridge (`predictor.init`)."""
    is_known = settings.predictor.init == "auto" and model.embedder.is_body_layer
    return isinstance(model.predictor, PooledPredictor) and (
        is_known or settings.predictor.init == "ridge"
    )


def is_started(settings: Config, model: TransferModel) -> bool:
    """Return whether a model starts with its body's own features and a ridge on them; such a model needs fewer steps."""
    return model.embedder.is_body_layer and is_ridge_wanted(settings, model)


def make_loss(config: Config, task: TaskData) -> Loss:
    """Return what stage 3 minimises: `task.loss` or, where that is null, the default of the task's kind of targets.

    ConfigError where what is named is not a loss of such targets, where there are unknown targets and the loss would count
    them, and where weights are set that it does not take.
    """
    targets = task.train.targets()
    integer = not np.issubdtype(targets.dtype, np.floating)
    node = parts.named("loss", config.task.get("loss"), task.kind, integer)
    if node is None:
        loss: Loss = default_loss(task.kind, integer)
    else:
        loss = parts.build(node, "task.loss")
        _check_loss(loss, task)
    counts_all = not (
        integer or counts_targets(loss)
    )  # such as torch's, NaN at the first sample without a target
    if counts_all and any(
        np.isnan(block).any() for block in blocks(targets, np.arange(len(targets)))
    ):
        what = f"{type(loss).__name__} does not leave out unknown targets"
        raise ConfigError(what, where="task.loss", hint=_LOSSES)
    return weighted(loss, task, config.train)


def _check_loss(loss: Any, task: TaskData) -> None:
    """Raise ConfigError unless a call with outputs of zero and targets of the task returns one number with a gradient."""
    # As many samples as outputs would let shapes pass that do not fit.
    num_samples = 3 if task.num_outputs == 2 else 2
    targets = torch.from_numpy(np.array(task.train.targets()[:num_samples]))
    extent = targets.shape[2:] if targets.is_floating_point() else targets.shape[1:]
    outputs = torch.zeros(len(targets), task.num_outputs, *extent, requires_grad=True)
    name = type(loss).__name__
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message="Using a target size")  # torch broadcasts
            value = loss(outputs, targets)
    except OrcaError:
        raise
    except Exception as error:  # noqa: BLE001 - what is called may be a module of the user's own
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{name} is not a loss of this task's outputs and targets: {reason}",
            where="task.loss",
            hint=_LOSSES,
        ) from error
    if not (isinstance(value, torch.Tensor) and value.ndim == 0 and value.requires_grad):
        raise ConfigError(
            f"{name} does not return one number with a gradient", where="task.loss", hint=_LOSSES
        )


def counts(task: TaskData) -> np.ndarray:
    """Return the number of training targets of each class, [K], or of zeros and ones of each output, [2, K], int64.

    The latter is for real-valued targets, such as labels. Every position of a dense target counts, unknown targets do not.
    """
    targets, k = task.train.targets(), task.num_outputs
    real = np.issubdtype(targets.dtype, np.floating)
    totals = np.zeros((2, k) if real else k, dtype=np.int64)
    for block in blocks(targets, np.arange(len(targets))):
        if real:
            flat = block.reshape(len(block), k, -1)
            totals += np.stack([(flat == value).sum(axis=(0, 2)) for value in (0, 1)])
        else:
            totals += np.bincount(block[block >= 0].ravel(), minlength=k)
    return totals


def weighted(loss: Loss, task: TaskData, train: Train) -> Loss:
    """Return a loss with the weights of `train.class_weights` or `train.positive_weight`; the loss itself where both are null.

    By "balanced" a class with n_k of n training targets gets n / (K n_k), where K classes occur, as in scikit-learn; a label
    gets the number of samples without it over that of samples with it. Where a factor would be 0 or infinite it is 1.

    Raises:
        ConfigError: there are not as many weights as outputs, or they do not suit the targets or the loss.
    """
    of_classes = train.class_weights is not None
    key, setting = (
        (_CLASSES, train.class_weights) if of_classes else (_LABELS, train.positive_weight)
    )
    if setting is None:
        return loss
    if setting != "balanced":
        weights = [float(weight) for weight in setting]
        if len(weights) != task.num_outputs:
            what = f"{len(weights)} weights, but {task.num_outputs} outputs"
            raise ConfigError(what, where=key, hint="give one for each, in their order")
    else:
        sizes = counts(task)
        if (sizes.ndim > 1) == of_classes:
            hint = f"{_CLASSES} is for classes, {_LABELS} for labels"
            raise ConfigError("does not fit the targets of this task", where=key, hint=hint)
        absent, present = (sizes.sum(), (sizes > 0).sum() * sizes) if of_classes else sizes
        weights = np.where(
            (absent > 0) & (present > 0), absent / np.maximum(present, 1), 1.0
        ).tolist()
    if of_classes and isinstance(loss, MaskedCrossEntropy) and loss.weight is None:
        return MaskedCrossEntropy(weights)
    if (
        of_classes
        and type(loss) is nn.CrossEntropyLoss
        and loss.weight is None
        and loss.reduction == "mean"
    ):
        smoothing = loss.label_smoothing
        return nn.CrossEntropyLoss(
            torch.tensor(weights), ignore_index=loss.ignore_index, label_smoothing=smoothing
        )
    if not of_classes and isinstance(loss, MaskedBCE) and loss.positive_weight == 1:
        return MaskedBCE(weights, loss.count_missing)
    what = f"does not apply to the loss {type(loss).__name__}, or that has weights of its own"
    raise ConfigError(
        what, where=key, hint="use task.loss=cross_entropy for classes, task.loss=bce for labels"
    )


def with_train(built: Built, **changes: Any) -> Built:
    """Return what was built with other settings of stage 3."""
    return replace(built, plan=replace(built.plan, train=replace(built.plan.train, **changes)))


def replanned(built: Built, config: Config, recorded: Decided) -> Built:
    """Return what was built with a plan in which these decisions stand; what else is open is decided anew around them."""
    plan = _plan(config, built.task, built.model, recorded)
    return replace(built, plan=plan, summary=built.summary | _training_summary(plan, built.task))


def _plan(config: Config, task: TaskData, model: TransferModel, recorded: Decided) -> Plan:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tokens, is_known = model.embedder.layout.tokens, is_started(config, model)
    return decide(
        config, task, tokens, parameters=parameters, is_started=is_known, recorded=recorded
    )


def read_task(config: Config, reporter: Reporter) -> TaskData:
    """Read and split the task's data; the test split stays closed, unless the protocol validates on it.

    DataError where data are missing or damaged, or a split is empty; ConfigError where they are not of `task.kind`.
    """
    reader, kind = part_node(config, "task"), config.task.get("kind")
    task: TaskData = parts.build(reader, "task", kind=kind, reporter=reporter, **_folders(config))
    if task.kind != (kind or task.kind):
        raise ConfigError(f"the data are of kind '{task.kind}', not {kind}", where="task.kind")
    if config.task.get("train_on_validation"):
        warning = "warning: the validation samples are trained on"
        task = replace(task, note=f"{task.note}; {warning}" if task.note else warning)
    task = with_fraction(task, config.task.get("train_fraction"), config.task.get("split_seed", 0))
    if config.train.validate_on == "test":
        task = replace(task, validation=task.open_test(), validation_drawn=False)
    for name, split in (("training", task.train), ("validation", task.validation)):
        if len(split) == 0:
            raise DataError(
                f"the {name} split is empty",
                where="task",
                hint="give more data or other split sizes",
            )
    return task


def read_source(settings: Config, reporter: Reporter) -> SourceData:
    """Return the labelled examples of the body's own modality, a stand-in for its pretraining data (paper 4, A.3.4).

    The examples are read when they are first asked for (`SourceData.examples`).
    """
    given = {"seed": source_seed(settings), "reporter": reporter, **_folders(settings)}
    source: SourceData = parts.build(part_node(settings, "source"), "source", **given)
    return source


def source_seed(settings: Config) -> int:
    """Return the seed of the draw of source examples."""
    return settings.seed if settings.align.source_seed is None else settings.align.source_seed


def has_alignment(settings: Config) -> bool:
    """Return whether stage 2 takes any step: there is a metric, and `align.epochs` is not 0."""
    return settings.metric.get(parts.TARGET) is not None and settings.align.epochs > 0


def split_record(samples: Samples) -> dict[str, Any]:
    """Return a split's size and content hash, as result.json holds them."""
    return {"n": len(samples), "sha256": samples.digest()}


def cache_folder(settings: Config) -> Path:
    """Return where computed source features, alignments and generated data are kept."""
    return Path(settings.paths.cache or "")


def _folders(settings: Config) -> dict[str, Path]:
    return {"data_folder": Path(settings.paths.data or ""), "cache_folder": cache_folder(settings)}


def _summary(task: TaskData, model: TransferModel, error: Error) -> dict[str, Any]:
    trained, shapes = (
        sum(one.numel() for one in model.parameters() if one.requires_grad),
        describe(model),
    )
    return {
        "kind": task.kind,
        "num_outputs": task.num_outputs,
        "class_names": list(task.class_names),
        "error": error.name,
        "note": task.note,
        "synthetic": task.synthetic,
        "size": task.size,
        "checkpoint_sha256": model.body.checkpoint_digest,
        "checkpoint_revision": revision(model.body.folder)
        if hasattr(model.body, "folder")
        else None,
        "threads": torch.get_num_threads(),
        **shapes,
        "parameters": dict(shapes["parameters"]) | {"trained": trained},
    }


def _training_summary(plan: Plan, task: TaskData) -> dict[str, Any]:
    train = plan.train
    steps = train.epochs * train.steps_per_epoch(train.count_learned(task))
    return {
        "steps": {
            "align": plan.align.epochs if has_alignment(plan) else 0,
            "finetune": train.models * steps,
        },
        "members": train.models,
        "warmup_epochs": train.warmup_length,
        "decided": {key: decision._asdict() for key, decision in plan.decided.items()},
    }
