"""What `orca tune` shows: the trials, the history, what mattered, the best settings, and how the next run takes them."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from orca_cli import terminal
from orca_cli.commands.summary import percent_or_number
from orca_cli.exceptions import OrcaError
from orca_cli.runs.settings import as_typed
from orca_cli.terminal import Result
from orca_cli.tuning import found, trials
from orca_cli.tuning.found import Found, Row
from orca_cli.tuning.plan import Plan
from orca_cli.tuning.search import Search

SCHEMA = 1


@dataclass
class Arm:
    """One search of a command.

    Args:
        plan, search: of it.
        folder: of settings, for what is found.
        path: of the file of settings.
        written: the file holds what was found.
    """

    plan: Plan
    search: Search
    folder: Path
    path: Path
    written: bool = False


def report(
    arms: Sequence[Arm], rest: Sequence[str], arguments: argparse.Namespace, failures: list[OrcaError]
) -> Result:
    """Return what was found.

    Args:
        arms: the searches.
        rest: what was typed, without what concerns the search: the next run has it too.
        arguments: the command line.
        failures: why some trials are not done.
    """
    states = [found.of(arm.search) for arm in arms]
    record = {
        "schema": SCHEMA,
        "searches": [_record(arm, state, rest, arguments) for arm, state in zip(arms, states, strict=True)],
    }
    shown_: list[RenderableType] = []
    for arm, state in zip(arms, states, strict=True):
        shown_ += [*shown(arm, state), Text(_next(arm, state, rest, arguments)), Text("")]
    return Result(record, shown_[:-1], failures)


def shown(arm: Arm, state: Found) -> Iterator[RenderableType]:
    """Yield the tables and the verdict of a search."""
    keys = list(arm.plan.space.params)
    headers = ("trial", "state", "validation", *(key.removeprefix("train.") for key in keys), "note")
    yield terminal.table(headers, [_cells(row, keys, row is state.best) for row in state.rows])
    history = [error for error in state.history() if error is not None]
    if len(history) > 1:
        yield Text(f"lowest so far: {_error(state, history[0])}, then {_error(state, history[-1])}")
    if state.importance:
        shares = ", ".join(f"{key} {100 * share:.0f} %" for key, share in state.importance.items())
        yield Text(f"importance for the validation error of completed trials (PED-ANOVA): {shares}")
    yield Text(verdict(state), style="bold")


def _cells(row: Row, keys: Sequence[str], is_best: bool) -> list[Text]:
    style = "bold" if is_best else "red" if row.state == "failed" else "dim" if row.state == "stopped" else ""
    error = "" if row.error is None else percent_or_number(row.error, row.facts.get("percent", True))
    drawn = (
        ["as they are", *[""] * (len(keys) - 1)]
        if row.settings is None
        else [as_typed(row.settings.get(k)) for k in keys]
    )
    return [Text(cell, style=style) for cell in (str(row.number), row.state, error, *drawn, row.note)]


def _facts(state: Found) -> dict[str, Any]:
    return next((row.facts for row in state.rows if "error" in row.facts), {})


def _error(state: Found, value: float) -> str:
    return percent_or_number(value, bool(_facts(state).get("percent")))


def verdict(state: Found) -> str:
    """Return in a sentence whether the search was worth it."""
    best, plain, facts = state.best, state.defaults, _facts(state)
    counts = f"{len(state.rows)} trials: {state.count('completed')} completed, {state.count('stopped')} stopped early"
    for word in ("failed", "running", "waiting"):
        counts += f", {state.count(word)} {word}" if state.count(word) else ""
    if best is None or best.error is None or plain is None or plain.error is None:
        return f"{counts}. Nothing can be said before the settings as they are have run (trial 0)."
    on = f"validation {facts['error']} on {facts['n']} samples"
    if best.settings is None:
        return f"{counts}. No trial beats the settings as they are: {on} {_error(state, plain.error)}."
    settings = " ".join(f"{key}={as_typed(value)}" for key, value in best.settings.items())
    return (
        f"{counts}. Best: trial {best.number}, {settings}: {on} {_error(state, best.error)}, with the settings as they are"
        f" {_error(state, plain.error)}. The lowest of many on the same samples is likely too low; the test error tells."
    )


def _next(arm: Arm, state: Found, rest: Sequence[str], arguments: argparse.Namespace) -> str:
    if not arm.written:
        if state.best is not None and state.best.settings is None:
            return f"Nothing is written. Next: {_command(arm, rest, arguments, None)}"
        return "Nothing is written yet. Next: the same command again."
    return f"Written to {arm.path}. Next: {_command(arm, rest, arguments, arm.path.stem)}"


def _command(arm: Arm, rest: Sequence[str], arguments: argparse.Namespace, name: str | None) -> str:
    words = ["orca", "run", *([] if name is None else ["--config-dir", str(arm.folder)])]
    typed = [text for text in rest if not (arm.plan.tune.per_arm and text.startswith("metric="))]
    words += [*typed, *([f"metric={arm.plan.arm}"] if arm.plan.tune.per_arm else [])]
    words += [word for module in arguments.allow_module for word in ("--allow-module", module)]
    chosen = [text for text in arguments.overrides if text.startswith("hparams=")]
    return shlex.join([*words, *(chosen if name is None else [f"hparams={name}"])])


def _record(arm: Arm, state: Found, rest: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    best, plain = state.best, state.defaults
    return {
        "name": arm.plan.name,
        "arm": arm.plan.arm,
        "space": arm.plan.space.name,
        "storage": trials.shown(arm.search.address),
        "runs": str(arm.plan.folder / "runs"),
        "error": _facts(state).get("error"),
        "validation_samples": _facts(state).get("n"),
        "trials": [row.record() for row in state.rows],
        "history": state.history(),
        "importance": state.importance,
        "best": None if best is None else best.record(),
        "defaults": None if plain is None else plain.error,
        "verdict": verdict(state),
        "hparams": str(arm.path) if arm.written else None,
        "next": _command(arm, rest, arguments, arm.path.stem if arm.written else None),
    }
