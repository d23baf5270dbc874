"""A small Swin transformer trained from scratch on labelled images, as a checkpoint that `body=swin_tiny` takes.

Two stages of 2 and 4 blocks on patches of 4 x 4 pixels, widths 64 and 128: 0.93 M parameters. Its windows of 4 x 4 patches fit
images of 32 pixels a side, or a multiple. Training: AdamW, warm-up over a tenth of the steps, then linearly to 0;
random windows of images padded by an eighth, and mirror images. A draw depends on (seed, name, step) alone, so that a resumed
training ends with the same bits (same machine and number of threads, CPU).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from orca_cli import seeding, signals, storage
from orca_cli.exceptions import ConfigError, NonFiniteError
from orca_cli.interfaces import Reporter
from orca_cli.pretraining.images import ImageSet, Part
from orca_cli.storage import MANIFEST
from orca_cli.training import checkpoint
from orca_cli.training.engine import choose_device
from orca_cli.training.schedule import warmup_then_linear

SIDE = 32  # what the size of an image is a multiple of
RECORD = "training.json"
_PATCH, _WINDOW, _WIDTH, _DEPTHS, _HEADS = 4, 4, 64, (2, 4), (2, 4)
_WEIGHT_DECAY, _WARMUP, _CLIP = 0.05, 0.1, 1.0
_EVAL_BATCH = 512
_SAVE_EVERY_S = 60.0
_SCHEMA = 1


@dataclass(frozen=True)
class Pretraining:
    """Settings of a training.

    Args:
        epochs: passes over the images, 1 or more.
        batch_size: images per step, 1 or more.
        lr: the largest rate, above 0.
        flip: whether steps see mirror images; not for letters or digits.
        seed: of weights, order and augmentation.
    """

    epochs: int = 30
    batch_size: int = 128
    lr: float = 1e-3
    flip: bool = True
    seed: int = 0


def make_model(side: int, num_classes: int, seed: int) -> Any:
    """Return the classifier with random weights, which the seed decides."""
    from transformers import SwinConfig, SwinForImageClassification

    settings: dict[str, Any] = {
        "image_size": side,
        "patch_size": _PATCH,
        "window_size": _WINDOW,
        "embed_dim": _WIDTH,
        "depths": list(_DEPTHS),
        "num_heads": list(_HEADS),
        "drop_path_rate": 0.0,
        "num_labels": num_classes,
    }
    seeding.seed_torch(seed, "pretraining", "weights")
    return SwinForImageClassification(SwinConfig(**settings))


def finished(folder: Path, identity: str) -> dict[str, Any] | None:
    """Return the record of a folder that this very training has written; None where there is no such folder.

    Raises:
        ConfigError: the name is taken by anything else.
        ChecksumError: its files are damaged.
    """
    if not folder.exists():
        return None
    if (folder / MANIFEST).is_file() and storage.verify_folder(folder) == identity:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record
    what = "is there already, and is not the result of this command"
    raise ConfigError(what, where=str(folder), hint="give another folder, or remove this one")


def identity_of(images: ImageSet, settings: Pretraining) -> str:
    """Return what tells a training from others: its images and settings."""
    facts = {"schema": _SCHEMA, "images": images.digest(), "side": images.train.x.shape[2], **asdict(settings)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def train(folder: Path, images: ImageSet, settings: Pretraining, device: str, reporter: Reporter) -> dict[str, Any]:
    """Train, write the checkpoint as a whole, and return its record; an interrupted training is resumed.

    Args:
        folder: gets config.json, model.safetensors, preprocessor_config.json (mean and deviation of the pixels) and the record.
            It appears only when complete; until then a folder beside it holds the files.
        images: what is trained on, and held out.
        settings: see `Pretraining`.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: the folder is something else, or the batch is larger than the set.
        NonFiniteError: the loss diverged.
        InterruptionError: a signal; repeat to resume.
        LockedError: another process trains into this folder.
    """
    identity = identity_of(images, settings)
    if (record := finished(folder, identity)) is not None:
        return record
    if settings.batch_size > len(images.train.y):
        what = f"{settings.batch_size} is more than there are training images ({len(images.train.y)})"
        raise ConfigError(what, where="--batch-size", hint="use a smaller one")
    place = choose_device(device)
    work = folder.with_name(f".{folder.name}.training-{identity[:8]}")
    with storage.lock(work / "lock", what="this training"), signals.deferred():
        model = make_model(images.train.x.shape[2], len(images.class_names), settings.seed).to(place)
        curve = _optimize(
            model, images.train, settings, checkpoint.Saver(work, owner=identity, every_s=_SAVE_EVERY_S), reporter
        )
        accuracy = _accuracy(model, images)
        record = {
            "schema": _SCHEMA,
            "identity": identity,
            **asdict(settings),
            "images": images.where,
            "classes": len(images.class_names),
            "train": len(images.train.y),
            "held_out": len(images.held_out.y),
            "held_out_accuracy": accuracy,
            "parameters": sum(value.numel() for value in model.parameters()),
            "loss": curve,
            "weights_sha256": checkpoint.weights_sha256(model.state_dict()),
        }
        _write(folder, model.cpu(), images, record)
    storage.remove(work)
    return record


def _optimize(
    model: nn.Module, part: Part, settings: Pretraining, saver: checkpoint.Saver, reporter: Reporter
) -> list[float]:
    """Take all steps that are left; returns the mean loss of each epoch."""
    per_epoch = len(part.y) // settings.batch_size  # what is over is left out of this epoch
    total = settings.epochs * per_epoch
    mean, std = _statistics(part)
    device = next(model.parameters()).device
    scale = (mean.to(device), std.to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=_WEIGHT_DECAY)
    start, losses = 0, list[float]()
    if (found := saver.load()) is not None:
        model.load_state_dict(found.weights)
        checkpoint.restore_optimizer(optimizer, found.optimizer)
        start, losses = found.step, list(found.records["losses"])
        reporter.say(f"resuming after step {start} of {total}")
    model.train()
    order = np.empty(0, np.int64)
    with reporter.track("training", total) as advance:
        advance(start)
        for step in range(start, total):
            epoch, place = divmod(step, per_epoch)
            if place == 0 or step == start:
                order = seeding.numpy_generator(settings.seed, "pretraining", "order", epoch).permutation(len(part.y))
            rows = order[place * settings.batch_size : (place + 1) * settings.batch_size]
            x = _augmented(part.x[rows], settings, step)
            rate = warmup_then_linear(step, peak=settings.lr, warmup_steps=_WARMUP * total, decay_steps=total)
            losses.append(_step(model, optimizer, x.to(device), torch.from_numpy(part.y[rows]).to(device), scale, rate))
            if not np.isfinite(losses[-1]):
                hint = "use a smaller --lr"
                raise NonFiniteError(f"the loss is {losses[-1]} at step {step}", where="--lr", hint=hint)
            advance(1, f"epoch {epoch + 1}/{settings.epochs}, loss {losses[-1]:.3f}")
            if signals.pending() is not None or saver.is_due(step + 1):
                state = checkpoint.snapshot(model), checkpoint.optimizer_tensors(optimizer)
                saver.save(checkpoint.Checkpoint(step + 1, *state, records={"losses": losses}))
            signals.check()
    return [float(np.mean(losses[i : i + per_epoch])) for i in range(0, total, per_epoch)]


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    scale: tuple[Tensor, Tensor],
    rate: float,
) -> float:
    """Take one step on images [B, 3, S, S] uint8 and their classes, and return the loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = functional.cross_entropy(_logits(model, x, scale), y)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
    optimizer.step()
    return float(loss.detach())


def _logits(model: Callable[..., Any], x: Tensor, scale: tuple[Tensor, Tensor]) -> Tensor:
    logits: Tensor = model(pixel_values=(x.float() / 255 - scale[0]) / scale[1]).logits
    return logits


def _augmented(x: np.ndarray, settings: Pretraining, step: int) -> Tensor:
    """Return random windows of the images [B, 3, S, S] padded by an eighth, half of them mirrored."""
    generator = seeding.numpy_generator(settings.seed, "pretraining", "augment", step)
    side, pad = x.shape[2], x.shape[2] // 8
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    corners = generator.integers(0, 2 * pad + 1, (len(x), 2))
    mirrored = generator.random(len(x)) < 0.5
    out = np.empty_like(x)
    for index, (top, left) in enumerate(corners):
        window = padded[index, :, top : top + side, left : left + side]
        out[index] = window[:, :, ::-1] if settings.flip and mirrored[index] else window
    return torch.from_numpy(out)


@torch.no_grad()
def _accuracy(model: nn.Module, images: ImageSet) -> float:
    """Return the share of held-out images whose class is found."""
    model.eval()
    device = next(model.parameters()).device
    mean, std = (one.to(device) for one in _statistics(images.train))
    right, part = 0, images.held_out
    for start in range(0, len(part.y), _EVAL_BATCH):
        signals.check()
        x = torch.from_numpy(np.ascontiguousarray(part.x[start : start + _EVAL_BATCH])).to(device)
        found = _logits(model, x, (mean, std)).argmax(-1).cpu().numpy()
        right += int((found == part.y[start : start + _EVAL_BATCH]).sum())
    return right / len(part.y)


def _statistics(part: Part) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each channel in 0..1, [3, 1, 1]."""
    counts = np.stack([np.bincount(part.x[:, channel].ravel(), minlength=256) for channel in range(3)])
    levels = np.arange(256) / 255
    mean = counts @ levels / counts.sum(1)
    variance = counts @ levels**2 / counts.sum(1) - mean**2
    std = np.sqrt(np.maximum(variance, 1e-4))
    first, second = (torch.tensor(values, dtype=torch.float32).view(3, 1, 1) for values in (mean, std))
    return first, second


def _write(folder: Path, model: Any, images: ImageSet, record: dict[str, Any]) -> None:
    from transformers.utils import logging

    mean, std = _statistics(images.train)
    size = {"height": images.train.x.shape[2], "width": images.train.x.shape[3]}
    pixels = {"image_mean": mean.flatten().tolist(), "image_std": std.flatten().tolist(), "size": size}
    model.config.id2label = dict(enumerate(images.class_names))
    model.config.label2id = {name: number for number, name in enumerate(images.class_names)}
    logging.disable_progress_bar()
    with storage.commit_folder(folder, owner=record["identity"]) as temporary:
        model.save_pretrained(temporary)
        (temporary / "model.safetensors").chmod(0o644)  # other accounts may use it, as the rest of the folder
        storage.write_json(temporary / "preprocessor_config.json", pixels)
        storage.write_json(temporary / RECORD, record)
