"""Stage 1: read the task, load the body, and build embedder and predictor for the task's shapes.

Paper 3.1. `build` is the whole stage; `make_model` also makes further members of stage 3, and
`orca data check` calls `read_task`.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from orca_cli import seeding
from orca_cli.config import parts
from orca_cli.config.schema import ERROR_CHUNKS, Config, has_alignment
from orca_cli.config.setting_checks import part_node
from orca_cli.data.fraction import with_fraction
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Error, Finetune, Loss, Reporter, Samples, SourceData, TaskData
from orca_cli.models.assembly import build_model, describe, load_body
from orca_cli.models.checkpoints import revision
from orca_cli.models.predictors import PooledPredictor
from orca_cli.models.transfer import TransferModel
from orca_cli.scoring.reported import named_error
from orca_cli.stages.plan import RECIPE, Decided, Facts, Plan, decide, read_decisions
from orca_cli.stages.recipe import with_recipe
from orca_cli.stages.task_loss import is_real_valued, make_loss, target_counts
from orca_cli.training.engine import checkpoint_layers, limit_threads
from orca_cli.training.loop import batches

_FITTED = 2000  # maximum number of samples that an embedder is fitted to before any training
_FITTED_AT_ONCE = 64
_DRY_TOKENS = 2**18  # number of tokens that an embedder is fitted to in a dry run, in a second
_UNEVEN = 4  # ratio of the largest class to the smallest above which a note is due

Record = dict[str, Any]  # plain values by name, as a run writes them down as JSON


@dataclass(frozen=True)
class Built:
    """The output of stage 1, which the next stages use; `build` makes it.

    Args:
        task: the data with their splits.
        learned: samples that stage 3 trains on (`TrainPlan.learned`).
        plan: settings of the run with everything decided.
        loss, error: the loss that stage 3 minimises, and the error that is reported.
        model: the transfer, on the CPU; the finetune mode is applied.
        embedder: copy of the model's embedder before any training, so the same for all metrics.
        summary: JSON-able: shapes, kernel, tokens, parameters per part, splits.
        source: source data that stage 2 compares with; None without alignment.
    """

    task: TaskData
    learned: Samples
    plan: Plan
    loss: Loss
    error: Error
    model: TransferModel
    embedder: nn.Module
    summary: Record
    source: SourceData | None = None


def build(
    config: Config,
    reporter: Reporter,
    earlier: Mapping[str, Any] | None = None,
    *,
    is_trained: bool = True,
) -> Built:
    """Read the data and build the transfer model.

    After building a small model, the process has one thread (`limit_threads`).

    Args:
        config: the settings, as composed.
        reporter: receiver of messages.
        earlier: record of an earlier attempt of the run; its decisions are reused if the data are
            the same.
        is_trained: False for a dry run, which fits the embedder to fewer samples if these have very
            many tokens.

    Raises:
        ConfigError: settings do not fit the data or the body, or the source is of another modality
            than the body.
        DataError: data or weights are missing or damaged, or a split is empty.
        OrcaError: any other that `checkpoints.load_model` raises.
    """
    # Read the source first: if its files are missing, fail before spending minutes on the task's.
    source = read_source(config, reporter) if has_alignment(config) else None
    task = read_task(config, reporter)
    # These hashes show whether recorded decisions belong to the same data.
    splits = {"train": split_record(task.train), "val": split_record(task.validation)}
    recorded = read_decisions(earlier or {}, splits)
    config, recipe = with_recipe(config, task, recorded)
    _note_uneven_classes(task, reporter)
    model, _ = make_model(config, task, is_trained=is_trained)
    body = model.body
    # The body's own input layer embeds the source, so it must accept such examples.
    if source is not None and source.modality != body.modality:
        raise ConfigError(
            f"the source contains {source.modality} data, but the body needs {body.modality} data",
            where="source",
            hint="use source=stdlib_docs for text, source=cifar10 or source=digits for images",
        )
    # Threads speed up a small model a little, but slow down runs side by side (decision 0022).
    limit_threads(_count_parameters(model), model.embedder.layout.tokens)
    if config.train.gradient_checkpointing:
        checkpoint_layers(body)
    # Made after the model, since rules read its size and the number of its tokens.
    plan = _plan(config, task, model, recorded={**recorded, **recipe})
    has_real_targets = is_real_valued(task.train.targets())
    error = named_error(
        config.task.get("error"),
        task.kind,
        integer_targets=not has_real_targets,
        chunk=ERROR_CHUNKS.get(config.protocol),
        batch=plan.train.batch_size,
    )
    loss = make_loss(config, task)
    summary = (
        _summary(config, task, model, error=error, recipe=recipe)
        | {"splits": splits}
        | _training_summary(plan, task)
    )
    return Built(
        task=task,
        learned=plan.train.learned(task),
        plan=plan,
        loss=loss,
        error=error,
        model=model,
        embedder=copy.deepcopy(model.embedder),
        summary=summary,
        source=source,
    )


def _note_uneven_classes(task: TaskData, reporter: Reporter) -> None:
    """Print a note if one class has far more training samples than another."""
    if task.kind != "classes":
        return
    class_sizes = target_counts(task)
    largest = class_sizes.max()
    # Classes without a training sample are left out: no weight can help them.
    smallest = class_sizes[class_sizes > 0].min(initial=largest)
    if largest > _UNEVEN * smallest:
        reporter.say(
            f"build: the classes have {smallest} to {largest} training samples; "
            "for equal weight of all classes, set train.class_weights=balanced (in the loss) or "
            "task.error=balanced (in the error)"
        )


def make_model(
    settings: Config, task: TaskData, *, is_trained: bool = True
) -> tuple[TransferModel, Finetune]:
    """Return a transfer for the task's shapes, and the finetune mode, which is applied to it.

    An embedder that learns from inputs (`fit`) sees at most 2,000 training samples, drawn with the
    seed. An embedder that starts as the body's own layer, with a ridge regression as predictor, is
    frozen if the mode freezes any part of the body; its norm is trained if all norms of the body
    are trained.

    Raises:
        OrcaError: any that `checkpoints.load_model`, `build_model` or `Finetune.apply` raises.
    """
    finetune_mode: Finetune = parts.build(settings.finetune, "finetune")
    body = load_body(settings.body, settings.seed, pretrained=finetune_mode.pretrained)
    # Source and target are embedded at one resolution.
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
    _fit_embedder(model, task.train, settings.seed, is_trained=is_trained)
    # Modes such as LoRA add weights, which libraries draw from torch's own generator.
    seeding.seed_torch(settings.seed, "build", "finetune")
    finetune_mode.apply(model)
    if starts_with_features(settings, model) and not _is_trained(model.body):
        # The embedder is the body's own layer: it is frozen as the body is, and its norm is trained
        # if the body's norms are.
        model.embedder.requires_grad_(False)
        body_norms = model.body.norms()
        if all(map(_is_trained, body_norms)):
            model.embedder.norm.requires_grad_(True)
    return model, finetune_mode


def _fit_embedder(model: TransferModel, samples: Samples, seed: int, *, is_trained: bool) -> None:
    """Show training samples to an embedder that learns from inputs; others do not read them."""
    num_fitted = _FITTED
    if not is_trained:
        # A dry run keeps no model, so bounded work matters more than a good fit.
        dry_samples = _DRY_TOKENS // model.embedder.layout.tokens
        num_fitted = max(_FITTED_AT_ONCE, min(_FITTED, dry_samples))
    generator = seeding.numpy_generator(seed, "build", "fit")
    # All samples if there are fewer.
    fitted_rows = np.sort(generator.permutation(len(samples))[:num_fitted])
    # Read on demand: an embedder that does not learn from inputs reads none.
    fitted_batches = map(samples.batch, batches(fitted_rows, _FITTED_AT_ONCE))
    model.embedder.fit((batch.x, batch.valid) for batch in fitted_batches)


def _is_trained(module: nn.Module) -> bool:
    """Return whether all parameters of a module are trained."""
    return all(parameter.requires_grad for parameter in module.parameters())


def _count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def starts_as_ridge(settings: Config, model: TransferModel) -> bool:
    """Return whether a run's predictor starts as a ridge regression (`predictor.init`)."""
    # Only this predictor has a linear layer for each table of features, as the ridge needs.
    if not isinstance(model.predictor, PooledPredictor):
        return False
    if settings.predictor.init == "auto":
        embedder = model.embedder
        return bool(embedder.is_body_layer or embedder.sample_width)
    return settings.predictor.init == "ridge"


def starts_with_features(settings: Config, model: TransferModel) -> bool:
    """Return whether a transfer starts with its body's own features and a ridge on them.

    Such a transfer needs fewer steps (decision 0025).
    """
    return model.embedder.is_body_layer and starts_as_ridge(settings, model)


def with_train(built: Built, **changes: Any) -> Built:
    """Return a copy of `built` with other settings of stage 3."""
    train = replace(built.plan.train, **changes)
    return replace(built, plan=replace(built.plan, train=train))


def replanned(built: Built, config: Config, recorded: Decided) -> Built:
    """Return a copy of `built` whose plan takes the recorded decisions.

    All other open settings are decided again, with these decisions given.
    """
    recipe = {name: built.plan.decided[name] for name in RECIPE if name in built.plan.decided}
    with_parts = replace(config, embedder=built.plan.embedder, finetune=built.plan.finetune)
    plan = _plan(with_parts, built.task, built.model, recorded={**recorded, **recipe})
    return replace(built, plan=plan, summary=built.summary | _training_summary(plan, built.task))


def _plan(config: Config, task: TaskData, model: TransferModel, *, recorded: Decided) -> Plan:
    facts = Facts(
        config=config,
        task=task,
        tokens=model.embedder.layout.tokens,
        parameters=_count_parameters(model),
        starts_as_ridge=starts_as_ridge(config, model),
        starts_with_features=starts_with_features(config, model),
    )
    return decide(facts, recorded)


def read_task(config: Config, reporter: Reporter) -> TaskData:
    """Read and split the task's data.

    The test split stays closed, unless the protocol validates on it.

    Raises:
        DataError: data are missing or damaged, or a split is empty.
        ConfigError: the data do not have the kind `task.kind`.
    """
    kind = config.task.get("kind")
    task: TaskData = parts.build(
        part_node(config, "task"), "task", kind=kind, reporter=reporter, **_folders(config)
    )
    if kind and task.kind != kind:
        raise ConfigError(f"must be {task.kind} for these data, got '{kind}'", where="task.kind")
    if config.task.get("train_on_validation"):
        task_note = "warning: the training samples include the validation samples"
        if task.note:
            task_note = f"{task.note}; {task_note}"
        task = replace(task, note=task_note)
    # Drawn with the seed of the splits, so that runs with all seeds learn from the same part.
    task = with_fraction(task, config.task.get("train_fraction"), config.task.get("split_seed", 0))
    # The released code validates on the test split (docs/selection.md).
    if config.train.validate_on == "test":
        task = replace(task, validation=task.open_test(), validation_drawn=False)
    # Checked last: fraction and protocol have decided the splits by now.
    for name, split in (("training", task.train), ("validation", task.validation)):
        if len(split) == 0:
            raise DataError(
                f"the {name} split is empty",
                where="task",
                hint="give more data or other split sizes",
            )
    return task


def read_source(settings: Config, reporter: Reporter) -> SourceData:
    """Return the labelled examples of the body's own modality.

    They take the place of its pretraining data (paper 4, A.3.4), and are read on first use
    (`SourceData.examples`).
    """
    return parts.build(
        part_node(settings, "source"),
        "source",
        seed=source_seed(settings),
        reporter=reporter,
        **_folders(settings),
    )


def source_seed(settings: Config) -> int:
    """Return the seed of the draw of source examples."""
    return settings.seed if settings.align.source_seed is None else settings.align.source_seed


def split_record(samples: Samples) -> Record:
    """Return a split's size and content hash, as in result.json."""
    return {"n": len(samples), "sha256": samples.digest()}


def cache_folder(settings: Config) -> Path:
    """Return the folder of cached source features, alignments and generated data."""
    return Path(settings.paths.cache or "")


def _folders(settings: Config) -> dict[str, Path]:
    return {"data_folder": Path(settings.paths.data or ""), "cache_folder": cache_folder(settings)}


def _summary(
    config: Config, task: TaskData, model: TransferModel, *, error: Error, recipe: Decided
) -> Record:
    """Return stage 1's record of the data and the model."""
    num_trained = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            num_trained += parameter.numel()
    model_shapes = describe(model)
    checkpoint_folder = getattr(model.body, "folder", None)
    return {
        "kind": task.kind,
        "num_outputs": task.num_outputs,
        "class_names": list(task.class_names),
        "error": error.name,
        "note": task.note,
        "synthetic": task.synthetic,
        "size": task.size,
        "checkpoint_sha256": model.body.checkpoint_digest,
        "checkpoint_revision": None if checkpoint_folder is None else revision(checkpoint_folder),
        # The number of threads decides the last bits of sums (decision 0012).
        "threads": torch.get_num_threads(),
        **model_shapes,
        "parts": {name: getattr(config, name) for name in recipe},
        "parameters": model_shapes["parameters"] | {"trained": num_trained},
    }


def _training_summary(plan: Plan, task: TaskData) -> Record:
    """Return stage 1's record of the plan."""
    train = plan.train
    align_steps = plan.align.epochs if has_alignment(plan) else 0
    # With folds, this is an upper bound: every member counts with the largest training split.
    member_steps = train.epochs * train.steps_per_epoch(train.count_learned(task))
    return {
        "steps": {"align": align_steps, "finetune": train.models * member_steps},
        "members": train.models,
        "warmup_epochs": train.warmup_length,
        "decided": {key: decision._asdict() for key, decision in plan.decided.items()},
    }
