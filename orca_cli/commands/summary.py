"""What `orca run` shows: shapes before the work, the result after it, how the jobs of a sweep ended, the plan of a dry run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from orca_cli import terminal
from orca_cli.exceptions import OrcaError
from orca_cli.experiment import Outcome, Summary
from orca_cli.runs.directory import RunName

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.compose import Composed

_CURVE_POINTS = 6
_STATES = {
    "completed": "completed",
    "skipped": "already completed (not run again)",
    "failed": "failed",
    "interrupted": "interrupted",
    "not started": "not started",
}
_WOULD = {"new": "run", "resume": "resume", "completed": "skip (completed)", "running": "wait (it is running)"}
_NAMES = ("task", "body", "metric", "finetune", "seed")


@dataclass(frozen=True)
class Ran:
    """How one run ended."""

    outcome: Outcome

    @property
    def code(self) -> int:
        """Exit code."""
        return self.outcome.code

    @property
    def failures(self) -> Sequence[OrcaError]:
        """Why it is not completed."""
        return [] if self.outcome.failure is None else [self.outcome.failure.error]

    def record(self) -> dict[str, Any]:
        """Return the outcome with the content of result.json."""
        return {"schema": 1, "run": _record(self.outcome)}

    def show(self) -> Iterator[RenderableType]:
        """Yield distance, validation curve, test error, folder, what to type next; nothing unless it was completed now."""
        if self.outcome.state == "completed" and self.outcome.result:
            yield terminal.facts(_result_rows(self.outcome))


@dataclass(frozen=True)
class Swept:
    """How the jobs of a sweep ended.

    Args:
        labels: of the jobs, such as [1/6].
        settings: what distinguishes each job from the others.
        outcomes: how each ended.
        failures: why the sweep is not completed.
    """

    labels: list[str]
    settings: list[str]
    outcomes: list[Outcome]
    failures: Sequence[OrcaError]

    @property
    def code(self) -> int:
        """Exit code."""
        return self.failures[0].code if self.failures else 0

    def record(self) -> dict[str, Any]:
        """Return the outcome of each job."""
        pairs = zip(self.settings, self.outcomes, strict=True)
        return {"schema": 1, "jobs": [{"settings": settings, **_record(outcome)} for settings, outcome in pairs]}

    def show(self) -> Iterator[RenderableType]:
        """Yield a table of the jobs, and counts."""
        rows = []
        for label, settings, outcome in zip(self.labels, self.settings, self.outcomes, strict=True):
            code = f" ({outcome.code})" if outcome.code > 0 else ""
            cells = (label, settings, f"{outcome.state}{code}", _note(outcome))
            rows.append([Text(cell, style="red" if outcome.code else "") for cell in cells])
        yield terminal.table(("job", "settings", "ended", ""), rows)
        counts: Counter[str] = Counter(outcome.state for outcome in self.outcomes)
        words = [f"{counts[state]} {word}" for state, word in _STATES.items() if counts[state]]
        yield f"sweep of {len(self.outcomes)} runs: {', '.join(words)}. Next: orca report"


@dataclass(frozen=True)
class Planned:
    """What a command would do without --dry-run.

    Args:
        first: the job that was built.
        summary: of its stage 1, with `output_shape`.
        jobs: name of each run, and what would become of it; see `claim.peek`.
        is_sweep: with -m.
    """

    first: Composed
    summary: Summary
    jobs: list[tuple[RunName, str]]
    is_sweep: bool
    code: int = 0
    failures: Sequence[OrcaError] = ()

    def record(self) -> dict[str, Any]:
        """Return the names of the runs, what would become of each, and the summary of stage 1 of the first."""
        jobs = [{"would": _WOULD[state].partition(" ")[0], **vars(name)} for name, state in self.jobs]
        return {"schema": 1, **({"jobs": jobs} if self.is_sweep else {"run": jobs[0]}), "build": dict(self.summary)}

    def show(self) -> Iterator[RenderableType]:
        """Yield shapes and sizes of the first job, the jobs, and the files that a run leaves."""
        yield build_table(self.first, self.summary)
        rows = [(_WOULD[state], *(str(getattr(name, key)) for key in _NAMES)) for name, state in self.jobs]
        yield terminal.table(("would", *_NAMES), rows)
        align = ["2_align/{metrics.jsonl,embedder.safetensors,summary.json}"] if self.summary["steps"]["align"] else []
        files = [
            "config.yaml overrides.txt env.json status.json result.json run.log",
            "1_build/summary.json",
            *align,
            "3_finetune/{metrics.jsonl,best/,last/,predictions.npz}",
        ]
        yield terminal.facts([("files", ", ".join(files))])


def build_table(job: Composed, summary: Summary) -> RenderableType:
    """Return what stage 1 made: shapes, kernel, tokens, parameters per part, splits, steps."""
    return terminal.facts(_build_rows(job.choices, summary))


def _build_rows(names: Mapping[str, str], summary: Summary) -> Iterable[tuple[str, str]]:
    parameters, splits = summary["parameters"], summary["splits"]
    sizes = ", ".join(f"{part} {parameters[part]:,}" for part in ("embedder", "body", "predictor"))
    kernel = f"kernel {summary['kernel']}, {summary['tokens']} tokens ({_shape(summary['grid'])})"
    data = f"{splits['train']['n']} training, {splits['val']['n']} validation samples"
    data += ", synthetic" if summary["synthetic"] else ""
    data += f", {summary['size']} size" if summary["size"] else ""
    data += f"; {summary['note']}" if summary["note"] else ""
    kind = f"{summary['kind']}, {summary['num_outputs']} outputs"
    yield "task", f"{names['task']} ({kind}), input {_shape(summary['input_shape'])}"
    yield "data", data
    yield "body", f"{names['body']}, width {summary['width']}, finetune={names['finetune']}"
    yield "embedder", f"{kernel} of at most {summary['max_tokens']}"
    yield "parameters", f"{sizes}; trained {parameters['trained']:,}"
    yield "steps", f"align {summary['steps']['align']} ({names['metric']}), finetune {summary['steps']['finetune']}"
    if "output_shape" in summary:
        yield "forward", f"one random batch gives outputs {_shape(summary['output_shape'])}"


def _result_rows(outcome: Outcome) -> Iterator[tuple[str, str | Text]]:
    result = outcome.result
    error, distance = result["error"], result["metric_value"]
    percent = error["percent"]
    if distance["before"] is not None:
        values = f"{distance['before']:.4g} before alignment, {distance['after']:.4g} after"
        yield "distance", f"{values} ({result['metric']})"
    curve = _short_curve([line["validation_error"] for line in result["curves"]["finetune"]], percent)
    yield "validation", f"{error['name']}, by epoch: {curve}; chosen: epoch {result['selected']['epoch']}"
    skipped = f", {error['skipped']} skipped" if error["skipped"] else ""
    test = Text(error_text(result), style="bold")
    trivial = _number(result["trivial_error"], percent)
    test.append(
        f" on {result['splits']['test']['n']} samples{skipped} (best constant predictor: {trivial})", "not bold"
    )
    yield "test", test
    yield "time", ", ".join(f"{stage} {value:.0f} s" for stage, value in result["seconds"].items())
    yield "folder", str(outcome.path)
    yield "next", "orca report | orca run seed=1 | orca run -m metric=otdd,none seed=0,1,2 | orca list"


def error_text(result: Mapping[str, Any]) -> str:
    """Return the test error of a result record, with its name; empty if it has none."""
    error = result.get("error")
    return f"{error['name']} {_number(error['value'], error['percent'])}" if error else ""


def _record(outcome: Outcome) -> dict[str, Any]:
    failure = outcome.failure
    return {
        "state": outcome.state,
        "code": outcome.code,
        "path": None if outcome.path is None else str(outcome.path),
        "result": dict(outcome.result),
        "failure": None if failure is None else failure.record(),
    }


def _note(outcome: Outcome) -> str:
    return error_text(outcome.result) if outcome.failure is None else str(outcome.failure.error)


def _number(value: float | None, percent: bool) -> str:
    """Return an error in per cent with two decimals, or with four significant digits."""
    if value is None:
        return "undefined"
    return f"{100 * value:.2f} %" if percent else f"{value:.4g}"


def _short_curve(curve: list[float | None], percent: bool) -> str:
    """Return at most six points of a curve, evenly spread, including the first and the last."""
    count = min(_CURVE_POINTS, len(curve))
    places = sorted({round(i * (len(curve) - 1) / max(count - 1, 1)) for i in range(count)})
    return " > ".join(f"{_number(curve[place], percent)} ({place + 1})" for place in places)


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))
