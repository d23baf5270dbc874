"""`orca score`: compute the errors of a finished run again from its saved predictions."""

import argparse

from orca_cli.commands.options import add_allow_module, add_run
from orca_cli.commands.runs import one_run
from orca_cli.exceptions import ChecksumError, DataError
from orca_cli.runs.claim import named
from orca_cli.terminal import Result, percent_or_number

EXAMPLES = """\
examples:
  orca score runs/digits/2026-...       by the run's folder
  orca score 1e791e76                   by the eight digits that its name ends with

Neither the model nor the data are read: 3_finetune/predictions.npz has outputs and targets of the test split. Numbers are
equal where they agree to six digits, since another number of threads adds in another order.

exit codes: 0 equal; 11 the run is not completed, or its predictions do not suffice; 13 an error is not that of
result.json, or a file is damaged"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    add_run(parser, "run")
    add_allow_module(parser)


def execute(arguments: argparse.Namespace) -> Result:
    """Return the recorded and the computed error of a run."""
    from orca_cli.prediction.recomputed import recompute
    from orca_cli.prediction.record import is_export

    if is_export(path := named(arguments.run)):
        raise DataError("an export has no saved predictions", where=str(path), hint="give the run that it was made of")
    run = one_run(arguments.run)
    if run.state != "completed":
        raise DataError(f"is not completed (state: {run.state})", where=str(run.path), hint="rerun its command")
    recomputed = recompute(run.path)
    error, n, skipped, *others = recomputed.numbers
    different = [one.name for one in recomputed.numbers if not one.equal]
    record = {
        "schema": 1,
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
    recorded, computed = (percent_or_number(value, recomputed.percent) for value in (error.recorded, error.computed))
    missing = f"; not saved for: {', '.join(recomputed.missing)}" if recomputed.missing else ""
    verdict = f"in result.json {recorded}: {'different' if different else 'equal'}{missing}"
    failures = []
    if different:
        what = f"not as in result.json: {', '.join(different)}"
        failures.append(ChecksumError(what, where=run.path.name, hint="orca doctor RUN says which files changed"))
    return Result(record, [run.path.name, f"{error.name} {computed}, {verdict}"], failures)
