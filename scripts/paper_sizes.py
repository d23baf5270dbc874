"""What stage 2 costs beside stage 3 at the paper's sizes, projected from single steps; part d of bench_metric.py.

A whole run of these sizes takes weeks on a CPU. So each kind of work is done once, warm, at the paper's shapes, with bodies of
the paper's form and random weights, and its seconds are multiplied by how often a run does it, which its composed settings
say. Inputs are random and in memory: the time to read data is left out of both stages, and so is the validation after every
epoch of stage 3. Of a step of stage 3 some samples are measured, as few as make a second or so, and scaled up to the whole
batch; the optimizer's update is measured apart. Targets are spread evenly over the classes.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from orca_cli import compose, parts
from orca_cli.interfaces import Batch, Features
from orca_cli.losses.masked import default_loss
from orca_cli.metrics.otdd_exact import OTDDExact
from orca_cli.models.assembly import build_model
from orca_cli.models.bodies import swin, text
from orca_cli.schema import Config, settled
from orca_cli.seeding import torch_generator
from orca_cli.stages.build import steps_per_epoch
from orca_cli.stages.collapse import collapse
from orca_cli.stages.problem import Labelled, Problem, embed
from orca_cli.stages.training_plan import TrainingPlan
from orca_cli.training.engine import Engine, choose_precision

LIMIT = 0.02  # of stage 3, that stage 2 may take
SOURCE_CLASSES = 10  # CIFAR-10's, and as many clusters where targets are not classes
_KEPT = 4  # samples that are in memory, and stand for all
_EXACT = (500, 200)  # source and target points of the exact distance on held-out data
_DIAGNOSED = 64  # held-out samples whose tokens are looked at
_TOKENS = {"swin": 2 * 3136, "roberta": 512}  # of the samples of one measured batch, about


@dataclass(frozen=True)
class Task:
    """Sizes of one of the paper's tasks, as NAS-Bench-360 and the other sources of the data have them."""

    name: str
    body: str
    kind: str
    input_shape: tuple[int, ...]
    outputs: int
    train: int
    validation: int

    @property
    def classes(self) -> int:
        """Return the number of classes or clusters of targets."""
        return self.outputs if self.kind == "classes" else SOURCE_CLASSES


TASKS = (
    Task("cifar100", "swin", "classes", (3, 32, 32), 100, 40_000, 10_000),
    Task("spherical", "swin", "classes", (3, 60, 60), 100, 40_000, 10_000),
    Task("darcy", "swin", "dense", (3, 85, 85), 1, 900, 100),
    Task("psicov", "swin", "dense", (57, 512, 512), 1, 3_356, 100),
    Task("cosmic", "swin", "dense", (1, 128, 128), 1, 4_347, 483),
    Task("ninapro", "swin", "classes", (1, 16, 52), 18, 2_638, 659),
    Task("fsd50k", "swin", "labels", (1, 96, 102), 200, 36_796, 4_170),
    Task("ecg", "roberta", "classes", (1, 1000), 4, 260_000, 33_000),
    Task("satellite", "roberta", "classes", (1, 46), 24, 800_000, 100_000),
    Task("deepsea", "roberta", "labels", (4, 1000), 36, 71_753, 2_490),
    Task("jsb", "roberta", "dense", (88, 159), 88, 229, 76),
    Task("listops", "roberta", "classes", (17, 1024), 10, 53_670, 2_000),
    Task("homology", "roberta", "classes", (30, 1419), 1_195, 12_312, 736),
)


class Made:
    """Samples [C, *E] of random numbers: as many as there are to be, of which a few are in memory."""

    def __init__(self, task: Task, n: int) -> None:
        """Draw the inputs and targets that are kept."""
        generator = torch_generator(0, task.name)
        self._n, self._x = n, torch.randn(_KEPT, *task.input_shape, generator=generator)
        extent = task.input_shape[1:] if task.kind == "dense" else ()
        if task.kind == "classes":
            self._y = torch.arange(_KEPT) % task.outputs
        else:
            self._y = (torch.rand(_KEPT, task.outputs, *extent, generator=generator) < 0.1).float()

    def __len__(self) -> int:
        return self._n

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return some samples; every fourth one is the same."""
        chosen = torch.from_numpy(np.asarray(indices) % _KEPT)
        return Batch(self._x[chosen], self._y[chosen])


@dataclass(frozen=True)
class Counts:
    """How often a run does each kind of work.

    Args:
        problems: distances with a gradient, one for each group of target classes and step.
        values: distances without, of all groups: at the start, at every check, and for every candidate.
        checks: measurements of the exact distance and of the spread of tokens.
        steps: optimizer steps of stage 3.
        samples: samples that they see.
        probes: how often stage 3 is begun to judge a candidate, in whole runs of stage 3.
    """

    problems: int
    values: int
    checks: int
    steps: int
    samples: int
    probes: float

    @classmethod
    def of(cls, config: Config, task: Task, groups: int) -> Counts:
        """Count from a run's settings, for a number of groups of target classes."""
        align, epochs = config.align, settled(config.train.epochs)
        checks = math.ceil(align.epochs / align.check_every)
        candidates = len({*(step for step in align.candidates if step < align.epochs), align.epochs})
        probed = candidates if align.select == "validation" else 0
        return cls(
            problems=align.epochs * groups,
            values=(1 + checks + candidates) * groups,
            checks=checks + candidates,
            steps=epochs * steps_per_epoch(config, task.train),
            samples=epochs * task.train,
            probes=probed * min(align.probe_epochs, epochs) / epochs,
        )


@dataclass(frozen=True)
class Seconds:
    """What each kind of work takes once; fields as in `Counts`."""

    problem: float
    value: float
    check: float
    step: float
    sample: float
    prepare: float  # of the metric, once for a source: with a cold cache


def projected(counts: Counts, seconds: Seconds) -> dict[str, Any]:
    """Return hours of both stages, stage 2 as a percentage of stage 3, and whether that is within the limit."""
    align = counts.problems * seconds.problem + counts.values * seconds.value + counts.checks * seconds.check
    finetune = counts.steps * seconds.step + counts.samples * seconds.sample
    share = align / finetune
    return {
        "align, h": align / 3600,
        "finetune, h": finetune / 3600,
        "align / finetune, %": 100 * share,
        "with probes, %": 100 * (share + counts.probes),
        "with a cold cache, %": 100 * (share + seconds.prepare / finetune),
        "within the limit": "yes" if share + counts.probes <= LIMIT else "NO" if share > LIMIT else "not with probes",
    }


def composed(task: Task, metric: str | None) -> Config:
    """Return the settings that a run of a task has."""
    words = [f"task={task.name}", f"body={task.body}"] + ([f"metric={metric}"] if metric else [])
    with compose.session() as session:
        return session.compose(words).config


@contextmanager
def bodies(small: bool = False) -> Iterator[Callable[[str], Any]]:
    """Give a function that returns a body of the paper's form, by its name in conf/body, with random weights.

    `small` keeps the form of the inputs and shrinks what is behind it, for tests.
    """
    from transformers import RobertaConfig, RobertaModel, SwinConfig, SwinModel

    kept: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:

        def body(name: str) -> Any:
            if name not in kept:
                kept.clear()
                path = Path(folder) / name
                torch.manual_seed(0)
                if name == "swin":
                    sizes = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]} if small else _SWIN
                    SwinModel(SwinConfig(**sizes)).save_pretrained(path)
                else:
                    few = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
                    sizes = {"vocab_size": 100, "max_position_embeddings": 514} | (few if small else {})
                    RobertaModel(RobertaConfig(type_vocab_size=1, pad_token_id=1, **sizes)).save_pretrained(path)
                kept[name] = swin.load(str(path)) if name == "swin" else text.load(str(path))
            return kept[name]

        yield body


_SWIN = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}


def measured(task: Task, config: Config, body: Any) -> tuple[Counts, Seconds, dict[str, Any]]:
    """Do each kind of work at a task's shapes; returns how often a run does it, its seconds, and what was measured on."""
    model = build_model(
        body=body,
        kind=task.kind,
        input_shape=task.input_shape,
        num_outputs=task.outputs,
        embedder=parts.build(config.embedder, "embedder"),
        causal=task.name == "jsb",
        seed=0,
    )
    cpu = torch.device("cpu")
    engine = Engine(cpu, choose_precision(config.precision, cpu, body.width))
    train, heldout = (
        Labelled.of(samples, np.arange(len(samples)) % task.classes)
        for samples in (Made(task, task.train), Made(task, task.validation))
    )
    source = _source(config.align.source_points, body.width)
    metric = parts.build(config.metric, "metric")
    prepared: dict[str, torch.Tensor] = {}
    prepare = _seconds(lambda: prepared.update(metric.prepare(source)), warm=False)
    problem = Problem(metric, source, prepared, train, config.align, 0)
    groups = problem.groups(train)

    together = len(next(problem.parts(model, engine, train, 0)))  # problems that are embedded together

    def learn() -> None:
        some = next(problem.parts(model, engine, train, 0))
        torch.stack([weight * distance.value for weight, distance in some]).sum().backward()

    @torch.no_grad()
    def value() -> None:
        next(problem.parts(model, engine, train, "fixed"))

    seconds = Seconds(
        problem=_seconds(learn, warm=False) / together,
        value=_seconds(value, warm=False) / together,
        check=_check(problem, model, engine, heldout),
        prepare=prepare,
        **_training(task, config, model, engine, train.samples),
    )
    facts = {"precision": engine.precision, "groups": len(groups), "tokens": model.embedder.layout.tokens}
    return Counts.of(config, task, len(groups)), seconds, facts


def _check(problem: Problem, model: Any, engine: Engine, heldout: Labelled) -> float:
    """Return the seconds of one look at held-out data: one class and an eighth of the samples are measured, and scaled up."""
    few = np.arange(min(len(heldout.samples), _DIAGNOSED // 8))
    first = min(heldout.members)
    clouds = [_source(points, problem.source.x.shape[1]) for points in _EXACT]
    with torch.no_grad():
        diagnosis = _seconds(lambda: collapse(embed(model, engine, heldout.samples, few)), warm=False)
        points = _seconds(lambda: problem.points(model, engine, heldout, [(first,)], "exact"), warm=False)
        exact = _seconds(lambda: OTDDExact().distance(clouds[0], {}, clouds[1]), warm=False)
    return diagnosis * min(len(heldout.samples), _DIAGNOSED) / len(few) + points * len(heldout.members) + exact


def _training(task: Task, config: Config, model: Any, engine: Engine, samples: Any) -> dict[str, float]:
    """Return the seconds of an optimizer's update, and those of one sample, from a batch of some samples."""
    few = max(1, min(config.train.batch_size, _TOKENS[task.body] // model.embedder.layout.tokens))
    settings = dataclasses.replace(config.train, batch_size=few, accumulation=1, outer_rate=1.0)
    built: Any = SimpleNamespace(
        model=model, loss=default_loss(task.kind, task.kind == "classes"), task=SimpleNamespace(train=samples)
    )
    with TrainingPlan(dataclasses.replace(config, train=settings), built, engine, steps=1) as plan:
        step = _seconds(lambda: plan.take(0))
        update = _seconds(plan.optimizer.step)
    return {"step": update, "sample": max(step - update, 0.0) / few}


def _source(points: int, width: int) -> Features:
    """Return layer-normed points around the centres of their classes."""
    labels = torch.arange(points) % SOURCE_CLASSES
    centres = torch.randn(SOURCE_CLASSES, width, generator=torch_generator(0, "centres"))
    x = centres[labels] + torch.randn(points, width, generator=torch_generator(0, "points", points))
    return Features(torch.nn.functional.layer_norm(x, (width,)), labels, SOURCE_CLASSES)


def _seconds(work: Callable[[], object], *, warm: bool = True) -> float:
    """Return the processor's seconds of some work, the second time where it is to be warm."""
    if warm:
        work()
    begin = time.process_time()  # other work on the machine does not count
    work()
    return time.process_time() - begin


def rows(metrics: list[str | None], names: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield a row for every task and metric; None is the metric that a run has by default."""
    torch.set_num_threads(1)
    with bodies() as body:
        for task in TASKS:
            if names and task.name not in names:
                continue
            for metric in metrics:
                config = composed(task, metric)
                counts, seconds, facts = measured(task, config, body(task.body))
                name = metric or config.metric["_target_"].rpartition(".")[2]
                yield {"task": task.name, "metric": name} | facts | _facts(counts, seconds) | projected(counts, seconds)


def _facts(counts: Counts, seconds: Seconds) -> dict[str, Any]:
    return {
        "problems": counts.problems,
        "s a problem": seconds.problem,
        "s a check": seconds.check,
        "steps": counts.steps,
        "samples": counts.samples,
        "s a sample": seconds.sample,
        "s an update": seconds.step,
    }
