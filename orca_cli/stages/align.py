"""Stage 2: train the embedder alone, to bring embedded target data close to embedded source data.

Paper 3.2, A.3.4. The stage minimises the distance `problem.Problem` between f_t(x_t), y_t and
f_s(x_s), y_s: f_t is the embedder, f_s the body's own input layer, which is not trained. One
optimizer step is taken per epoch, on all of `Problem.groups`.

A trajectory (all steps of an alignment, and the embedder after them) depends on data, body, source,
metric, embedder, seed and `align.*`, but not on stage 3 (except for its optimizer with
protocol=paper and protocol=release). So runs that agree in these share a trajectory (`fingerprint`,
`training.cache`). `align` is the stage of a run, with its files; `obtain_trajectory` is the part of
it that members of stage 3 need as well.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from orca_cli import signals, storage
from orca_cli.config.schema import AS_PUBLISHED
from orca_cli.exceptions import InterruptionError, NonFiniteError, governed_by
from orca_cli.interfaces import Reporter
from orca_cli.runs.directory import CHECKPOINTS, RunDirectory, short_curve
from orca_cli.stages.build import Built, Record, cache_folder, has_alignment
from orca_cli.stages.plan import Plan
from orca_cli.stages.problem import Problem, make_problem
from orca_cli.stages.source_features import EmbeddedSource, collapse
from orca_cli.stages.target_points import embed
from orca_cli.terminal import log
from orca_cli.training import checkpoint
from orca_cli.training.cache import Entry, cached, numerics, save_tensors
from orca_cli.training.engine import Engine
from orca_cli.training.schedule import BETAS, make_optimizer, step_decay

_CACHE = "alignments"  # below the cache folder: a trajectory for each fingerprint
_EMBEDDER = "embedder.safetensors"
_COLUMNS = ("epoch", "loss", "heldout", "heldout_exact")
_COLLAPSED = 0.1  # fraction of the earlier variance below which a warning is due
_VERSION = 9  # version of the stored form; a change invalidates every cached entry
# Factor on `Align.largest_step` for an embedder that starts as the body's own layer: larger steps
# destroy what it has learned (decision 0025).
_BODY_LAYER_STEP = 0.001
_COLLAPSE_SAMPLES = 64  # from the validation split; enough for two digits of all diagnostics


def align(built: Built, engine: Engine, run: RunDirectory, reporter: Reporter) -> Record:
    """Train the embedder in place, or load the one that an earlier attempt or another run trained.

    Writes 2_align/metrics.jsonl, embedder.safetensors and summary.json, then seals the folder and
    drops its checkpoints. Logs a warning if the tokens have collapsed: if token_variance falls
    below a tenth of its value before the first step, or the total variance falls below a tenth of
    both its value before the first step and the source's.

    Returns:
        "before" and "after", the metric on a fixed draw of training points, before the first step
        and after the last; "steps"; "collapse": name of a diagnostic (`source_features.collapse`)
        -> its values "before" and "after" on held-out samples, and the value of the "source" if it
        has one; "curve", at most 100 lines; "seconds", the time of the steps in the run that took
        them, which may be another run. Empty without alignment.

    Raises:
        OrcaError: any that `obtain_trajectory` raises.
    """
    if not has_alignment(built.plan):
        return {}
    embedder_file = run.stage("align") / _EMBEDDER
    # The folder is sealed last, so the embedder in a sealed folder has taken all steps.
    summary = run.sealed_summary("align")
    if summary is not None:
        built.model.embedder.load_state_dict(storage.read_tensors(embedder_file))
        return dict(summary["aligned"])
    run.set_state("align", step=0)
    source, trajectory = obtain_trajectory(built, engine, run, reporter)
    trajectory_record = trajectory.record
    step_lines = trajectory_record["lines"]
    # Step 0 is a multiple of every `align.check_every`, so the first line has all diagnostics.
    spread = {}
    for name, after in trajectory_record["collapse"].items():
        spread[name] = {"before": step_lines[0][name], "after": after}
    # The source has the two variances only; token_variance is compared with its earlier value.
    for name, variance in source.spread.items():
        spread[name]["source"] = variance
    if _have_drawn_together(spread):
        log.warning(
            "align: the tokens have collapsed (they differ far less than before alignment), so a "
            "lower distance does not mean a better match; compare with metric=none or lower "
            "align.epochs"
        )
    aligned = {
        "before": trajectory_record["before"],
        "after": trajectory_record["after"],
        "steps": len(step_lines),
        "collapse": spread,
        "curve": short_curve(step_lines, _COLUMNS),
        "seconds": round(sum(line["seconds"] for line in step_lines), 3),
    }
    # A trajectory from the cache has not changed the model's embedder.
    built.model.embedder.load_state_dict(trajectory.tensors)
    storage.write_with(embedder_file, lambda path: save_tensors(path, trajectory.tensors))
    run.write_summary("align", {"aligned": aligned})
    run.seal("align")
    return aligned


def _have_drawn_together(spread: Record) -> bool:
    """Return whether a warning is due: see `align`."""
    token_variance = spread["token_variance"]
    # The two variances add up to the mean squared distance of tokens to their overall mean.
    within = spread["variance_within"]
    between = spread["variance_between"]
    variance = {name: within[name] + between[name] for name in ("before", "after", "source")}
    is_alike = token_variance["after"] < _COLLAPSED * token_variance["before"]
    # Below both bounds: shrinking to the spread of the source is the aim, not a collapse.
    is_shrunk = variance["after"] < _COLLAPSED * min(variance["before"], variance["source"])
    return is_alike or is_shrunk


def obtain_trajectory(
    built: Built, engine: Engine, run: RunDirectory, reporter: Reporter
) -> tuple[EmbeddedSource, Entry]:
    """Return the source and the trajectory (see `Trainer.train`), from the cache or computed now.

    The caller loads the trajectory's weights: one from the cache leaves the model's embedder as it
    was. Writes the stage's fingerprint.json and metrics.jsonl, checkpoints while steps are taken,
    and the cache entry, unless the run is inexact.

    Raises:
        ConfigError: with `align.features=sequence`, too few source examples are long enough, or no
            drawn sample of some class is.
        UnavailableError: the device has no float64.
        FingerprintError: the run began with another trajectory, and the user has not allowed it.
        NonFiniteError: the distance or its gradient is NaN or infinite; the model keeps the weights
            of the last step.
        MemoryExhaustedError: the distance does not fit into memory.
        InterruptionError: a signal asked to stop; the steps so far are in a checkpoint.
    """
    plan = built.plan
    built.model.to(engine.device)
    memory_hint = f"lower align.max_samples or align.source_points (now {plan.align.source_points})"
    with governed_by("align", memory_hint), trainable(built.model.embedder):
        # Nothing is half done before the first step, so a signal may end the preparation anywhere.
        with signals.immediate():
            problem, source = make_problem(built, engine, reporter)
        trajectory_name = fingerprint(built, source.key, engine.device)
        # Checked before the cache: the steps of a resumed run must all belong to one trajectory.
        run.check_fingerprint("align", {"trajectory": trajectory_name})
        trajectory = cached(
            cache_folder(plan) / _CACHE / trajectory_name,
            lambda: Trainer(plan=plan, problem=problem, run=run, reporter=reporter).train(),
            # A run resumed inexactly publishes nothing: others rely on an entry's bits (decision
            # 0012).
            keep=lambda: not run.inexact(),
        )
    # A trajectory from the cache has written no lines in this run.
    run.rewind("align", trajectory.record["lines"])
    return source, trajectory


@contextmanager
def trainable(embedder: nn.Module) -> Iterator[None]:
    """Train the whole embedder inside the block, whichever parameters stage 3 trains.

    Its gradients are dropped at the end.
    """
    # The finetune mode may have frozen some parameters, which concerns stage 3 only.
    earlier_settings = [(parameter, parameter.requires_grad) for parameter in embedder.parameters()]
    embedder.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, requires_grad in earlier_settings:
            parameter.requires_grad_(requires_grad)
            # Stage 3 never clears the gradients of frozen parameters: they would stay in memory.
            parameter.grad = None


def fingerprint(built: Built, source_key: str, device: torch.device) -> str:
    """Return the name of a trajectory, 32 hexadecimal digits.

    Runs with equal names have trajectories with the same bits.
    """
    plan = built.plan
    embedder = built.model.embedder
    splits = built.summary["splits"]
    facts = {
        "version": _VERSION,
        # The kind decides how pseudo-labels are made.
        "kind": built.task.kind,
        # Validation samples count as well: the lines contain their distances.
        "data": [splits["train"]["sha256"], splits["val"]["sha256"]],
        "source": source_key,
        "metric": plan.metric,
        "align": asdict(plan.align),
        "optimizer": _optimizer_settings(plan),
        "embedder": [plan.embedder, repr(embedder.layout)],
        # They depend on the body's layer, random draws, and inputs that the embedder was fitted to.
        "first_weights": checkpoint.weights_sha256(embedder.state_dict()),
        "seed": plan.seed,
        # Versions, threads and device decide the last bits (decision 0012).
        "numerics": numerics(device),
    }
    facts_text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(facts_text.encode()).hexdigest()[:32]


def _optimizer_settings(plan: Plan) -> dict[str, Any]:
    if plan.protocol in AS_PUBLISHED:  # as stage 3 (paper A.3.4)
        return {"kind": plan.train.optimizer, "momentum": plan.train.momentum, "betas": BETAS}
    # Fixed, so that runs that differ in `train.optimizer` share a trajectory; torch's own betas.
    return {"kind": "adamw", "momentum": 0.0, "betas": (0.9, 0.999)}


def limited_rates(
    optimizer: torch.optim.Optimizer,
    embedder: nn.Module,
    *,
    lr: float,
    largest_step: float | None,
) -> list[float]:
    """Give every parameter its own group, and return the factors on their rates, in (0, 1].

    With its factor, no rate exceeds `Align.largest_step` times the root mean square of the
    parameter before the first step, that is, at the call. A bias has the factor of its layer's
    weight, since it starts at 0; any other parameter that is 0 has no limit.

    Args:
        optimizer: optimizer with one group: all parameters of the embedder, in their order.
        embedder: an `InputLayer`.
        lr, largest_step: as in `Align`.
    """
    (group,) = optimizer.param_groups
    parameter_sizes = {}
    for name, parameter in embedder.named_parameters():
        parameter_sizes[name] = float(parameter.detach().float().square().mean().sqrt())
    optimizer.param_groups[:] = [group | {"params": [parameter]} for parameter in group["params"]]
    # Groups are split even without a limit, since `_epoch` expects a group for each parameter.
    if largest_step is None:
        return [1.0 for _ in parameter_sizes]
    if embedder.is_body_layer:
        largest_step *= _BODY_LAYER_STEP
    # A long sequence makes a wide filter with small weights, which a common rate would erase.
    factors = []
    for name, parameter_size in parameter_sizes.items():
        # For a bias, the size of its layer's weight; for other parameters, their own size.
        limiting_size = parameter_sizes.get(f"{name.removesuffix('bias')}weight", parameter_size)
        factor = 1.0
        if limiting_size > 0:
            factor = min(1.0, largest_step * limiting_size / lr)
        factors.append(factor)
    return factors


@dataclass(kw_only=True)
class Trainer:
    """The steps of one alignment; it is needed only if the cache has no trajectory.

    It resumes from the run's last checkpoint or, without a checkpoint, measures the distance before
    the first step.

    Args:
        plan: plan of the run; its `align.*` says how many steps are taken, and how.
        problem: distance to minimise; the embedder of its model is trained.
        run, reporter: receivers of checkpoints, curve and messages.
    """

    plan: Plan
    problem: Problem
    run: RunDirectory
    reporter: Reporter

    def __post_init__(self) -> None:
        settings = self.plan.align
        self._embedder = self.problem.model.embedder
        self._optimizer = make_optimizer(
            parameters=self._embedder.parameters(),
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            **_optimizer_settings(self.plan),
        )
        # Before a checkpoint is loaded, so that a resumed run has the limits of the first weights.
        self._rate_factors = limited_rates(
            self._optimizer, self._embedder, lr=settings.lr, largest_step=settings.largest_step
        )
        self._saver = checkpoint.Saver(
            self.run.stage("align") / CHECKPOINTS,
            owner=self.run.name.identity,
            every_s=self.plan.train.checkpoint_s,
        )
        self._lines: list[Record] = []  # one for each step taken
        last_checkpoint = self._saver.load()
        # Measured once: the embedder of a checkpoint has been trained already.
        if last_checkpoint is None:
            self._before = self.problem.value(self.problem.train)
        else:
            self._embedder.load_state_dict(last_checkpoint.weights)
            checkpoint.restore_optimizer(self._optimizer, last_checkpoint.optimizer)
            self._before = last_checkpoint.records["before"]
            self._lines = last_checkpoint.records["lines"]
            self.reporter.say(f"align: resumed at step {last_checkpoint.step} of {settings.epochs}")
        # Lines after the checkpoint are dropped, since their steps are taken again.
        self.run.rewind("align", self._lines)

    def train(self) -> Entry:
        """Take the remaining steps; raises as `obtain_trajectory`.

        Returns:
            The embedder's state and a record: "before" and "after" as in `align`; "collapse", its
            values after the last step; and "lines", the lines of metrics.jsonl, one for each step.
            A line has epoch (from 0), loss (the distance that was differentiated), lr (before
            `limited_rates`), gradient_norm (before `align.unit_gradient`) and seconds; iterations
            and marginal_error if the metric has them. Every `align.check_every` epochs it also has
            values of validation samples before the step: heldout (their distance), heldout_exact
            (with `align.exact`) and the values of `source_features.collapse`.
        """
        lines = self._lines
        epochs = self.plan.align.epochs
        try:
            with self.reporter.track("align", epochs) as advance:
                advance(len(lines))
                while len(lines) < epochs:
                    line = self._epoch(len(lines))
                    lines.append(line)
                    self.run.record("align", line)
                    advance(1, f"distance {line['loss']:.4g}")
                    # Saved before the check below raises, so that an interruption repeats no step.
                    if signals.pending() or self._saver.is_due(len(lines)):
                        self._save()
                    signals.check()
            self._save()  # so that a run that is killed from here on does not repeat the steps
            trajectory_record = {
                "before": self._before,
                "after": self.problem.value(self.problem.train),
                "collapse": self._diagnose(),
                "lines": lines,
            }
            return Entry(checkpoint.snapshot(self._embedder), trajectory_record)
        except InterruptionError:
            # Between two groups of classes the model still has the weights of the last step.
            self._save()
            raise

    def _save(self) -> None:
        new_checkpoint = checkpoint.Checkpoint(
            step=len(self._lines),
            weights=checkpoint.snapshot(self._embedder),
            optimizer=checkpoint.optimizer_tensors(self._optimizer),
            records={"before": self._before, "lines": self._lines},
        )
        if self._saver.save(new_checkpoint):
            self.run.set_state("align", step=new_checkpoint.step)

    def _epoch(self, step: int) -> Record:
        """Take one optimizer step; returns its line.

        Raises:
            NonFiniteError: a number is NaN or infinite; the weights are unchanged.
        """
        start = time.monotonic()
        problem = self.problem
        settings = self.plan.align
        rate = step_decay(
            step, start=settings.lr, every=settings.decay_every, factor=settings.decay_factor
        )
        for group, factor in zip(self._optimizer.param_groups, self._rate_factors, strict=True):
            group["lr"] = rate * factor
        try:
            line: Record = {"epoch": step}
            # Before the step, so that the first line shows the embedder as it was made.
            if step % settings.check_every == 0:
                line |= self._diagnose()
                line["heldout"] = problem.value(problem.heldout)
                if settings.exact:
                    line["heldout_exact"] = problem.exact_value()
            # `_diagnose` leaves the model in evaluation mode.
            problem.model.train()
            self._optimizer.zero_grad()
            loss, diagnostics = problem.backward(step)
            parameters = self._embedder.parameters()
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            gradient_norm = float(nn.utils.get_total_norm(gradients))
            # Checked before the step: a NaN would get into the weights and stay there.
            if not math.isfinite(gradient_norm):
                raise NonFiniteError(f"the gradient of the distance is {gradient_norm}")
        except NonFiniteError as error:
            raise NonFiniteError(
                f"{error.what}, with a learning rate of {rate:g}; the step was not taken",
                where=f"align, epoch {step}",
                hint="try a smaller align.lr",
            ) from error
        # A resumed run has the first norm in its first line.
        first_norm = self._lines[0]["gradient_norm"] if self._lines else gradient_norm
        # One align.lr suits metrics whose gradients differ by orders of magnitude.
        if settings.unit_gradient and first_norm > 0:
            torch._foreach_mul_(gradients, 1 / first_norm)
        self._optimizer.step()
        line |= {"loss": loss, "lr": rate, "gradient_norm": gradient_norm, **diagnostics}
        seconds = time.monotonic() - start
        line["seconds"] = round(seconds, 3)
        return line

    @torch.no_grad()
    def _diagnose(self) -> dict[str, float]:
        """Return how the tokens of fixed held-out samples are spread."""
        samples = self.problem.heldout.samples
        rows = np.arange(min(len(samples), _COLLAPSE_SAMPLES))
        model = self.problem.model.eval()
        return collapse(embed(model, self.problem.engine, samples, rows))
