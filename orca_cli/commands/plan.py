"""`orca run --dry-run`: the runs of a command, what it would do with each, and what stage 1 makes of the first."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from orca_cli import experiment, signals, terminal
from orca_cli.commands.summary import build_table
from orca_cli.config.study import absent_lines
from orca_cli.runs import claim
from orca_cli.runs.settings import in_words
from orca_cli.terminal import Result, counted

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Composed, Sweep

_WOULD = {"new": "run", "resume": "resume", "completed": "skip", "running": "wait"}  # by `claim.peek`
_MOST_ROWS = 40
_NAMES = ("task", "body", "metric", "finetune", "seed")


def dry_run(sweep: Sweep, *, force: bool) -> Result:
    """Return what a command, with or without --force, would do; of a study nothing is built."""
    jobs, records = sweep.experiments, []
    summary = {} if sweep.study else _built(jobs)
    for job in jobs:
        signals.check()
        name = experiment.run_name(job)
        peeked = claim.peek(Path(job.config.paths.runs or ""), name, force=force)
        records.append({"would": _WOULD[peeked], **vars(name), "labels": job.labels})
    counts = Counter(one["would"] for one in records)
    expected_s = (len(jobs) - counts["skip"]) * sum((summary.get("expected_s") or {}).values()) or None
    record = {
        "schema": 1,
        "study": sweep.study,
        "would": {would: counts[would] for would in _WOULD.values()},
        "left_out": [{"runs": count, "reason": reason} for reason, count in sweep.absent.items()],
        "jobs": records,
        "build": summary,
        "expected_s": expected_s,
    }
    rows = [[str(one[key]) for key in ("would", *_NAMES)] for one in records[:_MOST_ROWS]]
    rows += [["..."] * (1 + len(_NAMES))] * (len(jobs) > _MOST_ROWS)
    would = ", ".join(f"{word} {count}" for word, count in counts.items())
    total = f"{counted(len(jobs), 'run')}: would {would or 'do nothing'}"
    total += f"; about {in_words(expected_s)}" if expected_s else ""
    shown: list[RenderableType] = [build_table(jobs[0], summary)] if summary else []
    return Result(record, [*shown, terminal.table(("would", *_NAMES), rows), total, *absent_lines(sweep.absent)])


def _built(jobs: list[Composed]) -> dict[str, Any]:
    """Build the first job and time some of its steps; returns the summary of stage 1 with `expected_s`."""
    from orca_cli.stages.build import build
    from orca_cli.stages.expected_time import planned
    from orca_cli.training.engine import Engine, choose_device, choose_precision

    devices = [choose_device(job.config.device) for job in jobs]  # one that is absent is refused
    config, device, start, reporter = jobs[0].config, devices[0], time.monotonic(), terminal.LogReporter()
    built = build(config, reporter, is_trained=False)
    engine = Engine(device, choose_precision(config.precision, device, built.model.body.width))
    return planned(config, built, engine, {}, time.monotonic() - start, reporter).summary
