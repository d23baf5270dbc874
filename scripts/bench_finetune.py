"""Measure stage 3 beside the same work in a plain torch loop and in Hugging Face's Trainer; ratios of one run.

    python scripts/bench_finetune.py                    all parts below
    python scripts/bench_finetune.py minilm             64 tokens, batch 32: a step, an epoch, a whole run
    python scripts/bench_finetune.py swin --swin FOLDER    the same on images of 32 x 32 and any Swin checkpoint
    python scripts/bench_finetune.py disk               a small model on 1,000,000 samples that are read from disk: a step
    python scripts/bench_finetune.py size               does a step cost more where there are 1,000 times the samples?

All train the same first weights on the same data at the same precision, with AdamW and without clipping, on one thread unless
--threads says otherwise. They take turns, block by block; ratios are medians over the blocks, since other work on the machine
changes from second to second. Figures above 1 mean that stage 3 is faster than the other: time of the other / time of ours,
by the clock, and in processor time (cpu), which other work changes less and which does not see what overlaps.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from orca_cli import experiment
from orca_cli.config import compose
from orca_cli.config.schema import Config, Train
from orca_cli.runs import claim
from orca_cli.scoring.classification import ZeroOne
from orca_cli.stages import finetune
from orca_cli.stages.build import Built, build
from orca_cli.stages.training_plan import TrainingPlan
from orca_cli.tasks.shared.samples import ArraySamples
from orca_cli.terminal import LogReporter
from orca_cli.training.engine import Engine, choose_device
from orca_cli.training.loop import predict, score
from scripts.benchmarks import Seconds, command_line, medians, now, ratios, since, timed

_BLOCK = 2**16  # samples that are written at once
_EVAL_BATCH = 256


def on_disk(folder: Path, n: int, length: int, classes: int = 10) -> ArraySamples:
    """Return n samples [1, length] in files that are mapped; each class has a mean of its own."""
    x_path, y_path = folder / f"x-{n}.npy", folder / f"y-{n}.npy"
    x = np.lib.format.open_memmap(x_path, "w+", np.float32, (n, 1, length))
    y = np.lib.format.open_memmap(y_path, "w+", np.int64, (n,))
    rng = np.random.default_rng(0)
    means = rng.normal(size=(classes, length)).astype(np.float32)
    for start in range(0, n, _BLOCK):
        rows = slice(start, min(n, start + _BLOCK))
        y[rows] = rng.integers(classes, size=len(y[rows]))
        x[rows, 0] = means[y[rows]] + rng.standard_normal((len(y[rows]), length), dtype=np.float32)
    del x, y
    return ArraySamples(np.load(x_path, mmap_mode="r"), np.load(y_path, mmap_mode="r"))


class Small(nn.Module):
    """A transformer of two layers over tokens of two values."""

    deviation = 1.0

    def __init__(self, classes: int = 10, width: int = 128) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedder = nn.Conv1d(1, width, 2, stride=2)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.predictor = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits [B, K] of inputs [B, 1, L]."""
        return self.predictor(self.body(self.embedder(x).transpose(1, 2)).mean(dim=1))


class Ours:
    """Stage 3's own steps."""

    def __init__(self, built: Any, config: Config, engine: Engine) -> None:
        self._model = copy.deepcopy(built.model).to(engine.device)
        parts: Any = SimpleNamespace(model=self._model, loss=nn.CrossEntropyLoss(), task=built.task)
        self._plan = TrainingPlan(config, parts, engine, steps=10**6)
        self._engine, self._validation, self._next = engine, built.task.validation, 0
        self.per_epoch = self._plan.per_epoch

    def steps(self, count: int) -> None:
        """Take some steps."""
        for _ in range(count):
            self._plan.take(self._next)
            self._next += 1

    def epoch(self) -> None:
        """Take the steps of an epoch and measure the validation error."""
        self.steps(self.per_epoch)
        outputs, targets = predict(self._engine, self._model, self._validation, _EVAL_BATCH)
        score(ZeroOne(), outputs, self._validation, targets)


class Plain:
    """What one writes without a library: batches of a shuffled order, forward, backward, step."""

    def __init__(self, built: Any, config: Config, engine: Engine) -> None:
        self.model = copy.deepcopy(built.model).to(engine.device)
        self._task, self._train, self._device = built.task, config.train, engine.device
        is_mixed = engine.precision == "bf16"
        self._context = {"device_type": engine.device.type, "dtype": torch.bfloat16, "enabled": is_mixed}
        self._loss = nn.CrossEntropyLoss()
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=self._train.lr, weight_decay=0.0)
        self._rng = np.random.default_rng(0)
        self._batches = self._endless()

    def _endless(self) -> Iterator[np.ndarray]:
        n, size = len(self._task.train), self._train.batch_size
        while True:
            order = self._rng.permutation(n)
            yield from (order[start : start + size] for start in range(0, n, size))

    def steps(self, count: int) -> None:
        """Take some steps."""
        self.model.train()
        for _ in range(count):
            batch = self._task.train.batch(next(self._batches))
            self._optimizer.zero_grad()
            with torch.autocast(**self._context):
                outputs = self.model(batch.x.to(self._device))
            loss = self._loss(outputs.float(), batch.y.to(self._device))
            loss.backward()
            self._optimizer.step()
            loss.item()

    @torch.no_grad()
    def wrong(self, samples: Any) -> float:
        """Return the 0-1 error on a split."""
        self.model.eval()
        wrong = 0
        for start in range(0, len(samples), _EVAL_BATCH):
            batch = samples.batch(np.arange(start, min(len(samples), start + _EVAL_BATCH)))
            with torch.autocast(**self._context):
                predictions = self.model(batch.x.to(self._device)).argmax(1).cpu()
            wrong += int((predictions != batch.y).sum())
        return wrong / len(samples)

    def epoch(self) -> float:
        """Take the steps of an epoch and measure the validation error."""
        self.steps(-(-len(self._task.train) // self._train.batch_size))
        return self.wrong(self._task.validation)

    def run(self, folder: Path, test: Any) -> None:
        """Train, keep the best epoch's weights in a file, and test with them."""
        best = 2.0
        for _ in range(self._train.epochs):
            error = self.epoch()
            if error < best:
                best = error
                torch.save(self.model.state_dict(), folder / "best.pt")
        self.model.load_state_dict(torch.load(folder / "best.pt", weights_only=True))
        self.wrong(test)


def trainer(built: Any, config: Config, engine: Engine, folder: Path, after: Callable[[int], None], **more: Any) -> Any:
    """Return a Trainer that calls `after` with the number of steps taken, after each."""
    from torch.utils.data import Dataset
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Items(Dataset):
        def __init__(self, samples: Any) -> None:
            self._samples = samples

        def __len__(self) -> int:
            return len(self._samples)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            batch = self._samples.batch(np.array([index]))
            return {"x": batch.x[0], "labels": batch.y[0]}

    class Wrapped(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            outputs = self.model(x)
            return {"loss": nn.functional.cross_entropy(outputs.float(), labels), "logits": outputs}

    class After(TrainerCallback):
        def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
            after(state.global_step)

    usual = {
        "save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True, "max_grad_norm": 0.0,
        "use_cpu": engine.device.type == "cpu", "bf16": engine.precision == "bf16", "learning_rate": config.train.lr,
        "per_device_train_batch_size": config.train.batch_size, "per_device_eval_batch_size": _EVAL_BATCH,
        "lr_scheduler_type": "linear", "remove_unused_columns": False, "output_dir": str(folder / "trainer"),
    }  # fmt: skip
    return Trainer(
        model=Wrapped(copy.deepcopy(built.model)),
        args=TrainingArguments(**usual | more),
        train_dataset=Items(built.task.train),
        eval_dataset=Items(built.task.validation),
        compute_metrics=lambda evaluation: {
            "error": float((evaluation.predictions.argmax(1) != evaluation.label_ids).mean())
        },
        callbacks=[After()],
    )


Times = dict[str, list[Seconds]]  # of blocks, by who took them


def compare(seconds: Times) -> dict[str, Any]:
    """Return the medians of the blocks' seconds and of their ratios to ours."""
    figures: dict[str, Any] = {"ms": {name: round(1000 * medians(times)[0], 1) for name, times in seconds.items()}}
    for name in ("plain", "trainer"):
        clock, processor = ratios(seconds[name], seconds["ours"])
        figures |= {f"ours over {name}": round(clock, 3), f"ours over {name}, cpu": round(processor, 3)}
    return figures | {"blocks": len(seconds["ours"])}


def step(built: Any, config: Config, engine: Engine, block: int, blocks: int) -> dict[str, Any]:
    """Compare the time of a step; the Trainer cannot be left and entered again, so the others take their turns inside it."""
    ours, plain = Ours(built, config, engine), Plain(built, config, engine)
    seconds: Times = {"ours": [], "plain": [], "trainer": []}
    begin = (0.0, 0.0)

    def after(taken: int) -> None:
        nonlocal begin
        if taken % block:
            return
        if taken > block:  # not the first, in which everything is made
            seconds["trainer"].append(since(begin, block))
            with timed(seconds["plain"], block):
                plain.steps(block)
            with timed(seconds["ours"], block):
                ours.steps(block)
        else:
            plain.steps(2)
            ours.steps(2)
        begin = now()

    with tempfile.TemporaryDirectory() as folder:
        trainer(built, config, engine, Path(folder), after, max_steps=block * (blocks + 1)).train()
    return compare(seconds)


def epoch(built: Any, config: Config, engine: Engine, blocks: int) -> dict[str, Any]:
    """Compare an epoch with its validation."""
    ours, plain = Ours(built, config, engine), Plain(built, config, engine)
    seconds: Times = {"ours": [], "plain": [], "trainer": []}
    for _ in range(blocks):
        with timed(seconds["plain"]):
            plain.epoch()
        with timed(seconds["ours"]):
            ours.epoch()
        with tempfile.TemporaryDirectory() as folder:
            more: dict[str, Any] = {"num_train_epochs": 1, "eval_strategy": "epoch"}
            one = trainer(built, config, engine, Path(folder), lambda _: None, **more)
            with timed(seconds["trainer"]):
                one.train()
    return compare(seconds)


def whole(job: Any, built: Built, engine: Engine, blocks: int) -> dict[str, Any]:
    """Compare stage 3 as a whole: epochs, choice of the best one, files, test."""
    config, test = built.config, built.task.open_test()
    seconds: Times = {"ours": [], "plain": [], "trainer": []}
    for _ in range(blocks):
        first = copy.deepcopy(built.model)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with claim.claim(folder, experiment.run_name(job)) as run, timed(seconds["ours"]):
                trained = finetune.finetune(config, built, engine, run, LogReporter(), aligned_steps=0)
                finetune.test(config, built, trained, engine, run)
            built.model.load_state_dict(first.state_dict())
            with timed(seconds["plain"]):
                Plain(built, config, engine).run(folder, test)
            with timed(seconds["trainer"]):
                one = trainer(
                    built, config, engine, folder, lambda _: None, num_train_epochs=config.train.epochs, save_total_limit=1,
                    eval_strategy="epoch", save_strategy="best", metric_for_best_model="error", greater_is_better=False,
                    load_best_model_at_end=True,
                )  # fmt: skip
                one.train()
                one.evaluate(type(one.eval_dataset)(test))
    return compare(seconds)


def task(arguments: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    """Compare step, epoch and whole run on a task, as `orca run` builds it."""
    engine = Engine(choose_device(arguments.device), arguments.precision)
    alike = [  # to the others: the same samples, steps and choice
        "metric=none", "train.epochs=3", "train.warmup_epochs=0.5", "train.batch_size=32", "train.adapt_rate=false",
        "train.weight_decay=0", "train.clip=0", "train.outer_rate=1", "train.select=best",
    ]  # fmt: skip
    with compose.session() as session:
        job = session.compose([*words, *alike, f"precision={arguments.precision}"])
    built = build(job.config, LogReporter())
    figures = {"step": step(built, built.config, engine, 3, arguments.blocks)}
    if not arguments.steps_only:
        figures["epoch"] = epoch(built, built.config, engine, max(3, arguments.blocks // 3))
        figures["run"] = whole(job, built, engine, max(3, arguments.blocks // 5))
    return figures


def minilm(arguments: argparse.Namespace) -> dict[str, Any]:
    """Digits, one token a pixel."""
    sizes = ["task.train_size=160", "task.validation_size=64", "task.test_size=64"]
    return task(arguments, ["task=digits", "body=minilm", *sizes])


def swin(arguments: argparse.Namespace) -> dict[str, Any]:
    """Generated images."""
    if arguments.swin is None:
        return {"left out": "--swin FOLDER is not given"}
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        x = rng.normal(size=(640, 3, 32, 32)).astype(np.float32)
        np.savez(Path(folder) / "images.npz", x=x, y=np.arange(640) % 10)
        words = ["task=arrays", "task.kind=classes", f"task.train={folder}/images.npz", "body=swin_tiny"]
        return task(arguments, [*words, f"body.checkpoint={arguments.swin}"])


def small(folder: str, n: int, length: int, epochs: int) -> tuple[Any, Config]:
    """Return the small model with samples on disk, and settings of stage 3 that leave nothing to the budget."""
    samples = on_disk(Path(folder), n, length)
    fixed: dict[str, Any] = {"weight_decay": 0.0, "warmup_epochs": 0, "clip": 0, "outer_rate": 1, "members": 1}
    config = Config(train=Train(batch_size=32, epochs=epochs, lr=1e-4, **fixed))
    return SimpleNamespace(model=Small(), task=SimpleNamespace(train=samples, validation=samples)), config


def disk(arguments: argparse.Namespace) -> dict[str, Any]:
    """Samples in memory-mapped files, in random order."""
    engine = Engine(choose_device(arguments.device), arguments.precision)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        built, config = small(folder, arguments.samples_read, 64, epochs=3)
        figures = step(built, config, engine, 10, 2 * arguments.blocks)
        return {"samples": len(built.task.train), "step": figures}


def size(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare steps over few and over many samples; an epoch's order, which grows with them, is shared by all its steps."""
    engine = Engine(choose_device(arguments.device), "fp32")
    seconds: list[list[Seconds]] = [[], []]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        kinds: list[Ours] = []
        order: list[Seconds] = []
        for n in arguments.samples:
            kinds.append(Ours(*small(folder, n, 16, epochs=10), engine))
            with timed(order, kinds[-1].per_epoch):
                np.random.default_rng(0).permutation(n)
            kinds[-1].steps(20)
        for turn in range(2 * arguments.blocks):
            for place in (0, 1) if turn % 2 else (1, 0):
                with timed(seconds[place], 20):
                    kinds[place].steps(20)
    few, many = (
        [(one[0] + share[0], one[1] + share[1]) for one in times] for times, share in zip(seconds, order, strict=True)
    )
    clock, processor = ratios(many, few)
    return {
        "samples": arguments.samples,
        "ms a step": [round(1000 * medians(times)[0], 3) for times in (few, many)],
        "of which the order, shared by the steps of an epoch": [round(1000 * share[0], 4) for share in order],
        "many over few": round(clock, 4),
        "many over few, cpu": round(processor, 4),
    }


PARTS = {"minilm": minilm, "swin": swin, "disk": disk, "size": size}


def main() -> None:
    """Run the chosen parts and print one JSON line each."""
    parser = command_line(__doc__, PARTS)
    parser.add_argument("--swin", help="folder of a Swin checkpoint, for part swin")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=15, help="repetitions; the median counts")
    parser.add_argument("--steps-only", action="store_true", help="leave out epochs and whole runs")
    parser.add_argument("--folder", help="where data that are read from disk are written; default: temporary files")
    parser.add_argument("--samples", type=int, nargs=2, default=[10_000, 10_000_000], help="of part size")
    parser.add_argument("--samples-read", type=int, default=1_000_000, help="of part disk")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for part in arguments.parts or PARTS:
        print(json.dumps({part: PARTS[part](arguments)}), flush=True)


if __name__ == "__main__":
    main()
