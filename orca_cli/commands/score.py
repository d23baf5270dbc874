"""`orca score`: compute the errors of finished runs again from their saved predictions."""

from __future__ import annotations

import argparse
from typing import Any

from orca_cli import terminal
from orca_cli.commands.options import add_allow_module, add_run
from orca_cli.commands.runs import one_run
from orca_cli.commands.summary import percent_or_number
from orca_cli.exceptions import ChecksumError, DataError, OrcaError
from orca_cli.terminal import Result

EXAMPLES = """\
examples:
  orca score runs/digits/2026-...       by the run's folder
  orca score 1e791e76 66f1304e          several, by the eight digits that their names end with
  orca score 1e791e76 --json            for other programs

Neither the model nor the data are read: 3_finetune/predictions.npz has outputs and targets of the test split. Numbers are
equal where they agree to six digits, since another number of threads adds in another order.

exit codes: 0 equal; 11 the run is not completed, or its predictions do not suffice; 13 an error is not that of
result.json, or a file is damaged"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = (
        "Compute the error of finished runs again from their predictions, and compare with result.json."
    )
    add_run(parser, "runs", "+")
    add_allow_module(parser)


def execute(arguments: argparse.Namespace) -> Result:
    """Return the recorded and the computed error of each run."""
    records, rows, failures = [], [], []
    for word in arguments.runs:
        try:
            record = _scored(word)
        except OrcaError as error:
            failures.append(error)
            continue
        records.append(record)
        different = ", ".join(record["different"])
        if different:
            what = f"not as in result.json: {different}"
            failures.append(ChecksumError(what, where=record["run"], hint="orca doctor RUN says which files changed"))
        texts = [percent_or_number(record["error"][key], record["percent"]) for key in ("recorded", "computed")]
        verdict = f"different: {different}" if different else "equal"
        verdict += f"; not saved for: {', '.join(record['missing'])}" if record["missing"] else ""
        rows.append((record["run"], record["error"]["name"], *texts, verdict))
    shown = [terminal.table(("run", "error", "result.json", "computed", ""), rows)] if rows else []
    return Result({"schema": 1, "runs": records}, shown, failures)


def _scored(word: str) -> dict[str, Any]:
    from orca_cli.prediction.recomputed import recompute

    run = one_run(word)
    if run.state != "completed":
        raise DataError(f"is not completed (state: {run.state})", where=str(run.path), hint="rerun its command")
    recomputed = recompute(run.path)
    error, n, skipped, *others = recomputed.numbers
    different = [one.name for one in recomputed.numbers if not one.equal]
    return {
        "run": run.path.name,
        "path": str(run.path),
        "equal": not different,
        "percent": recomputed.percent,
        "different": different,
        "missing": list(recomputed.missing),
        "error": vars(error),
        "n": vars(n),
        "skipped": vars(skipped),
        "others": [vars(one) for one in others],
    }
