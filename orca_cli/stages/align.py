"""Stage 2: train the embedder alone, so that embedded target data come close to embedded source data (paper 3.2).

Source features and the embedder's trajectory are fingerprinted and cached separately; runs that agree on one share it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from orca_cli import signals
from orca_cli.config.schema import Config
from orca_cli.exceptions import UnavailableError
from orca_cli.interfaces import Reporter
from orca_cli.runs.directory import RunDirectory
from orca_cli.stages.build import Built, has_alignment
from orca_cli.stages.compared import Compared, compare
from orca_cli.stages.trajectory import Trainer, Trajectory, fingerprint, objective_of
from orca_cli.terminal import log
from orca_cli.tracking.json_lines import short_curve
from orca_cli.training import checkpoint
from orca_cli.training.cache import cached
from orca_cli.training.engine import Engine
from orca_cli.training.memory import governed_by

_EMBEDDER = "embedder.safetensors"
_COLUMNS = ("epoch", "loss", "heldout", "heldout_exact")
_COLLAPSED = 0.1  # share of the earlier variance, or of the source's, below which a warning is due
_BELOW_FLOOR = 2.0  # deviations of the floor: a warning beyond


@dataclass(frozen=True)
class Aligned:
    """What stage 2 found.

    Args:
        before: the metric on a fixed draw of training points, before the first step; None where nothing was minimised.
        after: the same after the last step.
        steps: taken.
        collapse: name of a diagnostic (`stages/collapse.py`) -> its values "before" and "after" on held-out samples, and that
            of the "source" where it has one.
        floor: what as many fresh source points score: "mean", "deviation", "points"; empty where that is unknown.
        curve: distances per step, at most 100 lines.
        seconds: time for the steps, in the run that took them; may be another run (training/cache.py).
    """

    before: float | None = None
    after: float | None = None
    steps: int = 0
    collapse: dict[str, dict[str, float]] = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def align(config: Config, built: Built, engine: Engine, run: RunDirectory, reporter: Reporter) -> Aligned:
    """Train the embedder, or load the one that an earlier attempt or another run trained.

    Writes 2_align/metrics.jsonl, embedder.safetensors and summary.json. The model's embedder is changed in place.

    Raises:
        NonFiniteError: the distance or its gradient is NaN or infinite.
        MemoryExhaustedError: the distance does not fit into memory.
    """
    if not has_alignment(config):
        return Aligned()
    summary = run.sealed_summary("align")
    if summary is not None:
        built.model.embedder.load_state_dict(checkpoint.read_weights(run.stage("align") / _EMBEDDER))
        return Aligned(**summary["aligned"])
    run.set_state("align", step=0)
    if not built.finetune.pretrained or config.body.get("weights") == "random":
        log.info(
            "align: the body is random, but its own embedding layer is not: the embedder is aligned with source data as the "
            "pretrained body embeds them, and is then not trained from scratch (metric=none leaves this out)"
        )
    start = time.monotonic()
    compared, trajectory, key = trained(config, built, engine, run, reporter)
    aligned = _aligned(compared, trajectory)
    _report(aligned)
    built.model.embedder.load_state_dict(trajectory.weights)
    checkpoint.write_weights(run.stage("align") / _EMBEDDER, trajectory.weights)
    run.write_summary(
        "align",
        {
            "aligned": asdict(aligned),
            "trajectory": key,
            "embedder_sha256": checkpoint.weights_sha256(trajectory.weights),
            "seconds": time.monotonic() - start,
        },
    )
    run.seal("align")
    return aligned


def trained(
    config: Config, built: Built, engine: Engine, run: RunDirectory, reporter: Reporter
) -> tuple[Compared, Trajectory, str]:
    """Return what is compared, the trajectory, from the cache or made here, and its fingerprint.

    Raises:
        UnavailableError: the device has no float64.
        NonFiniteError, MemoryExhaustedError: as `align`.
    """
    if engine.device.type == "mps":
        raise UnavailableError("mps has no float64", where="device", hint="use device=cpu, or metric=none")
    built.model.to(engine.device)
    hint = f"lower align.max_samples or align.source_points ({config.align.source_points} now)"
    with governed_by("align", hint), trainable(built.model.embedder):
        with signals.immediate():
            compared = compare(config, built, engine, reporter)
        objective = objective_of(config, built, compared, engine)
        key = fingerprint(config, built, compared, objective, engine.device)
        run.check_fingerprint("align", {"trajectory": key})
        assert config.paths.cache is not None
        entry = cached(
            Path(config.paths.cache) / "alignments" / key,
            lambda: Trainer(config, built, compared, objective, engine, run, reporter).train().to_entry(),
            keep=lambda: not run.inexact(),
        )
    trajectory = Trajectory.from_entry(entry)
    run.rewind("align", trajectory.lines)
    return compared, trajectory, key


def _aligned(compared: Compared, trajectory: Trajectory) -> Aligned:
    first = trajectory.lines[0]
    collapse = {name: {"before": first[name], "after": value} for name, value in trajectory.collapse.items()}
    for name, value in compared.source.spread.items():
        collapse[name]["source"] = value
    return Aligned(
        trajectory.before,
        trajectory.after,
        len(trajectory.lines),
        collapse,
        floor={} if compared.floor is None else asdict(compared.floor),
        curve=short_curve(trajectory.lines, _COLUMNS),
        seconds=round(sum(line["seconds"] for line in trajectory.lines), 3),
    )


def _report(aligned: Aligned) -> None:
    """Warn where the distance fell too far, or the tokens became alike."""
    before, after, floor = aligned.before, aligned.after, aligned.floor
    assert before is not None
    assert after is not None
    if floor and after < min(before, floor["mean"] - _BELOW_FLOOR * floor["deviation"]):
        log.warning(
            "align: the distance is below what fresh source points score, so lower is not closer; the tokens have drawn "
            "together: compare with metric=none, or lower align.epochs"
        )
    share = aligned.collapse["token_variance"]
    if share["after"] < _COLLAPSED * share["before"]:
        log.warning(
            f"align: the tokens of a sample have become alike (share of variance {share['before']:.2g} before, "
            f"{share['after']:.2g} after); compare with metric=none, or lower align.epochs"
        )
    spread = [aligned.collapse[name] for name in ("variance_within", "variance_between")]
    total = {when: sum(values[when] for values in spread) for when in ("before", "after", "source")}
    if total["after"] < _COLLAPSED * min(total["before"], total["source"]):
        log.warning(
            f"align: the tokens have drawn together (variance {total['before']:.3g} before, {total['after']:.3g} after; "
            f"the source's is {total['source']:.3g}); compare with metric=none, or lower align.epochs"
        )


@contextmanager
def trainable(embedder: nn.Module) -> Iterator[None]:
    """Train the whole embedder inside the block, whichever parameters stage 3 trains."""
    before = [(parameter, parameter.requires_grad) for parameter in embedder.parameters()]
    embedder.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, trained in before:
            parameter.requires_grad_(trained)
            parameter.grad = None
