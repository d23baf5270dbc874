"""What `orca run --dry-run` shows: the runs of a command, and which of them are done or left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import experiment, signals, terminal
from orca_cli.commands.summary import build_table
from orca_cli.config.study import absent_lines
from orca_cli.experiment import Summary
from orca_cli.runs import claim
from orca_cli.runs.directory import RunName
from orca_cli.runs.settings import in_words
from orca_cli.terminal import Result, counted

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Composed, Sweep

_WOULD = {"new": "run", "resume": "resume", "completed": "skip", "running": "wait"}  # by `claim.peek`
_MOST_ROWS = 40
_NAMES = ("task", "body", "metric", "finetune", "seed")


@dataclass(frozen=True)
class Planned:
    """A run: what the command would do with it, and its labels in a study."""

    name: RunName
    would: str
    labels: Mapping[str, str]

    def record(self) -> dict[str, Any]:
        """Return it for other programs."""
        return {"would": self.would, **vars(self.name)}


def planned_runs(jobs: Sequence[Composed], *, force: bool) -> list[Planned]:
    """Return what a command, with or without --force, would do with each of its runs."""
    runs = []
    for job in jobs:
        signals.check()
        name = experiment.run_name(job)
        would = _WOULD[claim.peek(Path(job.config.paths.runs or ""), name, force=force)]
        runs.append(Planned(name, would, job.labels))
    return runs


def plan_result(first: Composed, summary: Summary, runs: Sequence[Planned], *, is_sweep: bool) -> Result:
    """Return what a run or a sweep would do, and what stage 1 made of its first run: `summary`, with `output_shape`."""
    records = [one.record() for one in runs]
    left = sum(one.would != "skip" for one in runs)
    expected_s = left * sum((summary.get("expected_s") or {}).values()) or None
    record = {"schema": 1, **({"jobs": records} if is_sweep else {"run": records[0]}), "build": dict(summary)}
    record["expected_s"] = expected_s
    rows = [(one.would, *(str(getattr(one.name, key)) for key in _NAMES)) for one in runs]
    if len(rows) > _MOST_ROWS:
        rows[_MOST_ROWS:] = [("...", *("" for _ in _NAMES))]
    counts = Counter(one.would for one in runs)
    total = f"{counted(len(runs), 'run')}: {', '.join(f'{count} {word}' for word, count in counts.items())}"
    total += f"; about {in_words(expected_s)}" if expected_s else ""
    return Result(record, [build_table(first, summary), terminal.table(("would", *_NAMES), rows), total])


def study_result(sweep: Sweep, runs: Sequence[Planned]) -> Result:
    """Return what a study's command would do; nothing is built."""
    counts = Counter(one.would for one in runs)
    record = {
        "schema": 1,
        "study": sweep.study,
        "runs": len(runs),
        "would": {would: counts[would] for would in _WOULD.values()},
        "left_out": [{"runs": count, "reason": reason} for reason, count in sweep.absent.items()],
        "jobs": [one.record() | {"labels": one.labels} for one in runs],
    }
    left = sum(one.would != "skip" for one in runs)
    total = f"study {sweep.study}: {counted(len(runs), 'run')}, {counts['skip']} done, {left} left"
    return Result(record, [total, *absent_lines(sweep.absent)])
