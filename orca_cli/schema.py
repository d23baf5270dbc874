"""The configuration of a run: its skeleton as dataclasses. Parts (task, body, source, metric) are `_target_` nodes.

The field docstrings are what `orca list settings` shows. Ranges are checked by `check`, so that a wrong value is told
before any data are read.
"""

from __future__ import annotations

import math
import re
import typing
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from orca_cli.exceptions import ConfigError

MISSING = "???"  # OmegaConf's word for a value that has to be given

CHOICES: dict[str, tuple[str, ...]] = {
    "precision": ("fp32", "bf16", "fp16"),
    "embedder.init": ("pretrained", "random"),
    "predictor.pooling": ("mean", "class_token"),
    "align.features": ("tokens", "sequence", "pooled"),
    "align.select": ("last", "validation"),
    "align.dtype": ("float32", "float64"),
    "align.optimizer": ("sgd", "adam", "adamw"),
    "train.optimizer": ("sgd", "adam", "adamw"),
    "train.select": ("best", "last"),
    "train.validate_on": ("validation", "test"),
    "train.accumulation_reduce": ("mean", "sum"),
    "protocol": ("clean", "paper", "release"),
}

# key -> (smallest, largest allowed value); None is no bound. Keys in _ABOVE exclude the smallest.
RANGES: dict[str, tuple[float | None, float | None]] = {
    "seed": (0, 2**31 - 1),
    "embedder.max_tokens": (1, None),
    "source.size": (2, None),
    "align.epochs": (0, None),
    "align.lr": (0, 1e30),  # times ten, as Adam's first step has it, still a float32
    "align.weight_decay": (0, None),
    "align.momentum": (0, 1),
    "align.decay_every": (1, None),
    "align.decay_factor": (0, 1),
    "align.max_samples": (1, None),
    "align.source_points": (2, None),
    "align.classes_per_problem": (0, None),
    "align.check_every": (1, None),
    "align.patience": (1, None),
    "align.probe_epochs": (1, None),
    "align.pseudo_labels": (2, None),
    "train.epochs": (1, None),
    "train.batch_size": (1, None),
    "train.accumulation": (1, None),
    "train.lr": (0, 1e30),
    "train.weight_decay": (0, None),
    "train.momentum": (0, 1),
    "train.warmup_epochs": (0, None),
    "train.decay_epochs": (1, None),
    "train.clip": (0, None),
    "train.eval_batch_size": (1, None),
    "train.error_chunks": (1, None),
    "train.checkpoint_s": (0, None),
}
_ABOVE = {"train.lr", "align.lr", "align.decay_factor", "train.clip"}
_BETAS = ("align.betas", "train.betas")
_BETA_TEXT = "two numbers of 0 to below 1"
_LARGEST = 2**63 - 1  # of whole numbers: what arrays and files can hold
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,4})?")


@dataclass
class Paths:
    """Folders; left out of a run's identity."""

    runs: str | None = None
    """Where run folders go. Default: $ORCA_RUNS, else ./runs."""
    data: str | None = None
    """Where data sets lie. Default: $ORCA_HOME/data, else the user's cache folder."""
    cache: str | None = None
    """Where computed source features and generated data are kept. Default: $ORCA_HOME/cache, else the user's cache folder."""


@dataclass
class Embedder:
    """The input layer (paper 3.1)."""

    init: str = "pretrained"
    """Where its norm, positions and patch filter start: pretrained (copied from the body) or random."""
    max_tokens: int | None = None
    """Upper bound on the tokens of a sample; the body's own maximum by default."""


@dataclass
class Predictor:
    """The output layer (paper 3.1)."""

    pooling: str = "mean"
    """classes and labels: mean over the tokens that are not padding, or class_token (text bodies)."""


@dataclass
class Align:
    """Stage 2: train the embedder alone, so that embedded target data come close to embedded source data (paper 3.2)."""

    epochs: int = 60
    """Optimizer steps; every step sees all target classes once (paper, Algorithm 1)."""
    optimizer: str = "adamw"
    """sgd, adam or adamw."""
    lr: float = 1e-2
    """Learning rate at the start."""
    weight_decay: float = 0.0
    """Weight decay."""
    momentum: float = 0.9
    """Momentum of sgd."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Betas of adam and adamw."""
    decay_every: int = 20
    """The learning rate is multiplied by decay_factor after every so many epochs."""
    decay_factor: float = 0.2
    """See decay_every."""
    max_samples: int = 128
    """Target points per class and step."""
    classes_per_problem: int = 1
    """Target classes that are compared with the source in one problem, as many points of each; 0 takes all."""
    features: str = "tokens"
    """What a point is: every token of a sample (tokens), all its tokens in a row (sequence), or their mean (pooled)."""
    source_points: int = 3000
    """Source points, drawn once per run; all where there are fewer."""
    pseudo_labels: int | None = None
    """dense and multi-label targets: number of k-means clusters that stand in for classes. Default: the source's classes."""
    dtype: str = "float32"
    """What distances are computed in: float32 or float64."""
    check_every: int = 20
    """Epochs between measurements on held-out (validation) data: the metric, and the exact OTDD."""
    patience: int | None = None
    """Stop after so many measurements without a lower held-out distance; off by default."""
    select: str = "validation"
    """Which embedder goes on: the candidate from which stage 3 begins best (validation), or the last one."""
    candidates: list[int] = field(default_factory=lambda: [0, 5, 20, 60])
    """select=validation: alignment steps after which the embedder is a candidate; the last step always is."""
    probe_epochs: int = 5
    """select=validation: the first epochs of stage 3 that judge a candidate."""


@dataclass
class Train:
    """Stage 3: train on the task's loss (paper 3.3)."""

    epochs: int = 60
    """Passes over the training data."""
    batch_size: int = 32
    """Samples per forward pass; times `accumulation` per optimizer step."""
    accumulation: int = 1
    """Batches per optimizer step; the gradient is that of the mean over all their samples."""
    accumulation_reduce: str = "mean"
    """mean over all samples of a step, or (sum) of the means of its batches, as the released code has it."""
    optimizer: str = "adamw"
    """sgd, adam or adamw."""
    lr: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Weight decay."""
    momentum: float = 0.9
    """Momentum of sgd."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Betas of adam and adamw."""
    warmup_epochs: float = 5
    """The learning rate rises linearly from 0 over so many epochs ..."""
    decay_epochs: float | None = None
    """... and falls linearly to 0 at this epoch, and stays there. Default: `epochs`."""
    clip: float | None = None
    """Largest norm of the gradient, per optimizer step; no clipping by default."""
    eval_batch_size: int = 256
    """Samples per forward pass where nothing is trained."""
    select: str = "best"
    """Which weights are tested: best (lowest validation error) or last (epoch)."""
    validate_on: str = "validation"
    """validation, or test: what the released code chose by; it makes every reported error too low."""
    error_chunks: int | None = None
    """Errors are means over chunks of so many samples, as the released code has them; off by default: over a whole split."""
    checkpoint_s: float = 60.0
    """Seconds between checkpoints to resume from."""


@dataclass
class Config:
    """One run."""

    task: Any = MISSING
    body: Any = MISSING
    source: Any = MISSING
    metric: Any = MISSING
    finetune: Any = MISSING
    tracker: Any = MISSING
    embedder: Embedder = field(default_factory=Embedder)
    predictor: Predictor = field(default_factory=Predictor)
    align: Align = field(default_factory=Align)
    train: Train = field(default_factory=Train)
    paths: Paths = field(default_factory=Paths)
    seed: int = 0
    """Seed of everything that is drawn, except the split of the data, which has its own (task.split_seed)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps; one that is asked for and absent is an error."""
    precision: str = "fp32"
    """fp32, bf16 or fp16 (stage 3; distances are always computed in fp32)."""
    protocol: str = "clean"
    """How errors are measured: clean, paper or release; a group of its own, and the last word on what it names."""


# Groups of conf/ whose chosen file names a run, a table row or a column.
GROUPS = ("task", "body", "source", "metric", "finetune")


def lookup(config: Any, key: str) -> Any:
    """Return the value at a dotted key of nested dataclasses and dictionaries; None where a part of it is absent."""
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
    return config


def hint_of(key: str) -> Any:
    """Return the type of the setting at a dotted key; None where it is no single setting of the schema."""
    hint: Any = Config
    for name in key.split("."):
        hint = typing.get_type_hints(hint).get(name) if is_dataclass(hint) else None
    return None if hint is Any or is_dataclass(hint) else hint


def is_section(key: str) -> bool:
    """Return whether a dotted key names a group of the schema's settings, such as `train`."""
    hint: Any = Config
    for name in key.split("."):
        hint = typing.get_type_hints(hint).get(name) if is_dataclass(hint) else None
    return is_dataclass(hint)


def bounds_of(key: str) -> str:
    """Return in words what choices or bounds a setting has; empty where it has none."""
    if key in CHOICES:
        return ", ".join(CHOICES[key])
    if key in _BETAS:
        return _BETA_TEXT
    return range_text(key, *RANGES[key]).removeprefix("allowed: ") if key in RANGES else ""


def check(config: Config) -> None:
    """Check choices and ranges, and that no two settings contradict each other.

    Raises:
        ConfigError: the first value that is not allowed, with what is.
    """
    for key, allowed in CHOICES.items():
        value = lookup(config, key)
        if value not in allowed:
            raise ConfigError(f"'{value}' is not allowed", where=key, hint=f"allowed: {', '.join(allowed)}")
    for key, (low, high) in RANGES.items():
        value = lookup(config, key)
        if value is None:
            continue
        # A learning rate may be absurd; a count that no array can hold is a slip.
        number = isinstance(value, float) and math.isfinite(value) or isinstance(value, int) and value <= _LARGEST
        if isinstance(value, bool) or not number:
            raise ConfigError(f"{value!r} is not a number in range", where=key, hint=range_text(key, low, high))
        too_low = low is not None and (value <= low if key in _ABOVE else value < low)
        if too_low or (high is not None and value > high):
            raise ConfigError(f"{value} is out of range", where=key, hint=range_text(key, low, high))
    for key in _BETAS:
        _check_betas(key, lookup(config, key))
    if any(step < 0 for step in config.align.candidates):
        raise ConfigError(
            f"{config.align.candidates} is not allowed", where="align.candidates", hint="allowed: numbers of 0 or more"
        )
    if not _DEVICE.fullmatch(config.device):
        raise ConfigError(
            f"'{config.device}' is not a device", where="device", hint="allowed: auto, cpu, cuda, cuda:N, mps"
        )
    _check_together(config)


def _check_together(config: Config) -> None:
    """Refuse settings of which one makes the other senseless."""
    train, align = config.train, config.align
    if config.precision == "fp16" and config.device == "cpu":
        raise ConfigError("fp16 needs a GPU, not device=cpu", where="precision", hint="use precision=fp32 or bf16")
    if train.decay_epochs is not None and train.decay_epochs < train.warmup_epochs:
        raise ConfigError(
            f"{train.decay_epochs:g} is before the end of train.warmup_epochs={train.warmup_epochs:g}",
            where="train.decay_epochs",
            hint="allowed: train.warmup_epochs or more",
        )
    if align.patience is not None and align.check_every > align.epochs > 0:
        raise ConfigError(
            f"never measures within align.epochs={align.epochs}, and align.patience={align.patience} waits for it",
            where=f"align.check_every={align.check_every}",
            hint="lower align.check_every, or leave align.patience out",
        )


def _check_betas(key: str, betas: Any) -> None:
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ConfigError(f"{list(betas)} is not allowed", where=key, hint=f"allowed: {_BETA_TEXT}")


def range_text(key: str, low: float | None, high: float | None) -> str:
    """Return what a key's bounds allow, in words."""
    lower = "" if low is None else f"{'above' if key in _ABOVE else 'at least'} {low}"
    upper = "" if high is None else f"at most {high}"
    return "allowed: " + " and ".join(part for part in (lower, upper) if part)
