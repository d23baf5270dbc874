"""What `orca run --dry-run` shows: the runs of a command, and which of them are done or left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from orca_cli import experiment, signals, terminal
from orca_cli.commands.summary import build_table
from orca_cli.config.study import SET, absent_lines
from orca_cli.experiment import Summary
from orca_cli.runs import claim
from orca_cli.runs.directory import RunName
from orca_cli.runs.settings import in_words
from orca_cli.terminal import Result

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Composed, Sweep

_WOULD = {"new": "run", "resume": "resume", "completed": "skip", "running": "wait"}  # by `claim.peek`
_SHOWN = {"skip": "skip (completed)", "wait": "wait (it is running)"}
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
    left = _left(runs)
    expected_s = left * sum((summary.get("expected_s") or {}).values()) or None
    source = "if each takes as long as the first on this machine" if left > 1 else "on this machine"
    record = {"schema": 1, **({"jobs": records} if is_sweep else {"run": records[0]}), "build": dict(summary)}
    record["expected_s"] = expected_s
    words = [_SHOWN.get(one.would, one.would) for one in runs]
    rows = [(word, *(str(getattr(one.name, key)) for key in _NAMES)) for word, one in zip(words, runs, strict=True)]
    if len(rows) > _MOST_ROWS:
        rows[_MOST_ROWS:] = [("...", *("" for _ in _NAMES))]
    total = f"{_count(runs)}: {', '.join(f'{count} {word}' for word, count in Counter(words).items())}"
    total += f"; about {in_words(expected_s)}, {source}" if expected_s else ""
    files = terminal.facts([("files", _files(first, summary))])
    return Result(record, [build_table(first, summary), terminal.table(("would", *_NAMES), rows), files, total])


def _left(runs: Sequence[Planned]) -> int:
    """Return the number of runs that are still to be done."""
    return sum(one.would != "skip" for one in runs)


def _count(runs: Sequence[Any]) -> str:
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'}"


def _files(job: Composed, summary: Summary) -> str:
    """Return the files that a run will write."""
    aligned = ["2_align/{metrics.jsonl,embedder.safetensors,summary.json}"] if summary["steps"]["align"] else []
    folders = "fold-*/" if job.config.train.folds else "member-*/" if summary["members"] > 1 else "best/,last/"
    always = ("config.yaml overrides.txt env.json status.json result.json run.log", "1_build/summary.json")
    return ", ".join((*always, *aligned, f"3_finetune/{{metrics.jsonl,{folders},predictions.npz,answer.svg}}"))


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
    shown: list[RenderableType] = []
    if runs:
        shown.append(terminal.table(("set", "runs", "done", "left"), _rows(runs)))
    total = f"study {sweep.study}: {_count(runs)}, {counts['skip']} done, {_left(runs)} left"
    if counts["resume"] or counts["wait"]:
        total += f" ({counts['resume']} to resume, {counts['wait']} running)"
    shown += [Text(total), *map(Text, absent_lines(sweep.absent))]
    return Result(record, shown)


def _rows(runs: Sequence[Planned]) -> list[tuple[str, ...]]:
    """Return a row for each set, or task where the study has no sets."""
    sets: dict[str, list[Planned]] = {}
    for one in runs:
        sets.setdefault(one.labels.get(SET, one.name.task), []).append(one)
    rows: list[tuple[str, ...]] = []
    for name, members in sets.items():
        left = _left(members)
        rows.append((name, str(len(members)), str(len(members) - left), str(left)))
    return rows
