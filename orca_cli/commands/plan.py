"""What `orca run --dry-run` shows: the runs of a command, which of them are done or left out, how long the rest takes."""

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
from orca_cli.runs.durations import Expected, History, in_words
from orca_cli.terminal import Result

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Composed, Sweep

_WOULD = {"new": "run", "resume": "resume", "completed": "skip", "running": "wait"}  # by `claim.peek`
_MOST_ROWS = 40
_NAMES = ("task", "body", "metric", "finetune", "seed")


@dataclass(frozen=True)
class Planned:
    """A run: what the command would do with it, the expected time (None: unknown or done), and its labels in a study."""

    name: RunName
    would: str
    expected: Expected | None
    labels: Mapping[str, str]

    def record(self) -> dict[str, Any]:
        """Return it for other programs."""
        return {"would": self.would, **vars(self.name)}


def planned_runs(jobs: Sequence[Composed], *, force: bool) -> list[Planned]:
    """Return what a command, with or without --force, would do with each of its runs."""
    places = [(Path(job.config.paths.runs or ""), experiment.run_name(job)) for job in jobs]
    history = History(name.task_folder(root) for root, name in places)
    runs = []
    for job, (root, name) in zip(jobs, places, strict=True):
        signals.check()
        would = _WOULD[claim.peek(root, name, force=force)]
        runs.append(Planned(name, would, None if would == "skip" else history.expected(name), job.labels))
    return runs


def plan_result(first: Composed, summary: Summary, runs: Sequence[Planned], *, is_sweep: bool) -> Result:
    """Return what a run or a sweep would do, and what stage 1 made of its first run: `summary`, with `output_shape`."""
    records = [one.record() for one in runs]
    left = [one for one in runs if one.would != "skip"]
    seconds = [one.expected.seconds for one in left if one.expected is not None]
    expected_s = sum(seconds) if len(seconds) == len(left) else None
    if expected_s is None and (timed := summary.get("expected_s")):
        expected_s = len(left) * sum(timed.values())
    record = {"schema": 1, **({"jobs": records} if is_sweep else {"run": records[0]}), "build": dict(summary)}
    record["expected_s"] = expected_s
    rows = [(one.would, *(str(getattr(one.name, key)) for key in _NAMES)) for one in runs]
    if len(rows) > _MOST_ROWS:
        rows[_MOST_ROWS:] = [("...", *("" for _ in _NAMES))]
    counts = Counter(one.would for one in runs)
    total = f"{len(runs)} runs: {', '.join(f'{count} {word}' for word, count in counts.items())}"
    total += f"; about {in_words(expected_s)}" if expected_s else ""
    return Result(record, [build_table(first, summary), terminal.table(("would", *_NAMES), rows), total])


def study_result(sweep: Sweep, runs: Sequence[Planned]) -> Result:
    """Return what a study's command would do; nothing is built."""
    left = [one for one in runs if one.would != "skip"]
    estimates = [one.expected for one in left if one.expected is not None]
    seconds = sum(one.seconds for one in estimates) if estimates or not left else None
    unknown = len(left) - len(estimates)
    counts = Counter(one.would for one in runs)
    like = len(frozenset().union(*(one.like for one in estimates)))
    record = {
        "schema": 1,
        "study": sweep.study,
        "runs": len(runs),
        "would": {would: counts[would] for would in _WOULD.values()},
        "left_out": [{"runs": count, "reason": reason} for reason, count in sweep.absent.items()],
        "expected": {"seconds": seconds, "runs": len(estimates), "from_runs": like, "unknown": unknown},
        "jobs": [one.record() | {"labels": one.labels} for one in runs],
    }
    total = f"study {sweep.study}: {len(runs)} runs, {counts['skip']} done, {len(left)} left"
    if left:
        time = "unknown" if seconds is None else f"about {in_words(seconds)} one after the other"
        total += f"; expected time: {time}" + (f", and {unknown} runs of unknown time" if estimates and unknown else "")
    return Result(record, [total, *absent_lines(sweep.absent)])
