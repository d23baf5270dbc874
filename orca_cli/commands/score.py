"""`orca score`: compute the errors of a finished run again from its saved predictions."""

import argparse

from orca_cli.commands.options import ALLOW_MODULE, run_argument
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
ARGUMENTS = (run_argument("run"), ALLOW_MODULE)


def execute(arguments: argparse.Namespace) -> Result:
    """Return the recorded and the computed error of a run."""
    from orca_cli.prediction.recomputed import recompute
    from orca_cli.prediction.record import is_export

    if is_export(path := named(arguments.run)):
        raise DataError(
            "an export has no saved predictions",
            where=str(path),
            hint="give the run that it was made of",
        )
    recomputed = recompute(path)
    different, missing = (
        recomputed.different,
        [name for name in recomputed.recorded if name not in recomputed.computed],
    )
    numbers = [
        {"name": name, "recorded": recomputed.recorded[name], "computed": value}
        for name, value in recomputed.computed.items()
    ]
    record = {
        "schema": 1,
        "run": path.name,
        "path": str(path),
        "equal": not different,
        "percent": recomputed.percent,
    }
    record |= dict(zip(("error", "n", "skipped"), numbers, strict=False))
    record |= {"others": numbers[3:], "different": different, "missing": missing}
    name, computed = next(iter(recomputed.computed.items()))
    recorded, shown = (
        percent_or_number(value, recomputed.percent)
        for value in (recomputed.recorded[name], computed)
    )
    verdict = f"{name} {shown}, in result.json {recorded}: {'different' if different else 'equal'}"
    verdict += f"; not saved for: {', '.join(missing)}" if missing else ""
    failures = []
    if different:
        what = f"not as in result.json: {', '.join(different)}"
        failures.append(
            ChecksumError(what, where=path.name, hint="orca doctor RUN says which files changed")
        )
    return Result(record, [path.name, verdict], failures)
