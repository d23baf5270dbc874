"""`orca score`: compute the errors of a finished run again from its saved predictions."""

import argparse

from orca_cli.commands.options import ALLOW_MODULE, Record, run_argument
from orca_cli.exceptions import ChecksumError, DataError
from orca_cli.runs.claim import named
from orca_cli.terminal import Result, percent_or_number

EXAMPLES = """\
examples:
  orca score runs/digits/2026-...       a run by its folder
  orca score 1e791e76                   a run by the end of its name

The command reads the outputs and targets of the test split from 3_finetune/predictions.npz. It \
reads neither the model nor the data. Numbers count as equal if they agree to six digits, since \
the last digits of a sum depend on the number of threads.

exit codes:
  0   the errors are equal to those in result.json
  11  the run is not completed, or its saved predictions are not enough to compute the error
  13  an error differs from result.json, or a file is damaged"""
ARGUMENTS = (run_argument("run"), ALLOW_MODULE)


def execute(arguments: argparse.Namespace) -> Result:
    """Return the recorded and the recomputed errors of a run."""
    from orca_cli.prediction.recomputed import recompute
    from orca_cli.prediction.record import is_export

    path = named(arguments.run)
    # An export has weights and preprocessing only.
    if is_export(path):
        raise DataError(
            "is an export, which has no saved predictions",
            where=str(path),
            hint="name the run that was exported",
        )
    recomputed = recompute(path)
    recorded = recomputed.recorded
    computed = recomputed.computed
    # Additional errors that cannot be computed from the saved predictions.
    missing = [name for name in recorded if name not in computed]
    # The run's error comes first; n and skipped follow if they are computed.
    numbers = [
        {"name": name, "recorded": recorded[name], "computed": computed[name]} for name in computed
    ]
    record: Record = {
        "schema": 1,
        "run": path.name,
        "path": str(path),
        "equal": not recomputed.different,
        "percent": recomputed.percent,
        # After these three, `numbers` has the additional errors.
        **dict(zip(("error", "n", "skipped"), numbers, strict=False)),
        "others": numbers[3:],
        "different": recomputed.different,
        "missing": missing,
    }
    # The error that the run reports comes first.
    error_name = next(iter(computed))
    computed_text = percent_or_number(computed[error_name], recomputed.percent)
    recorded_text = percent_or_number(recorded[error_name], recomputed.percent)
    comparison = "different" if recomputed.different else "equal"
    verdict = f"{error_name} {computed_text}, in result.json {recorded_text}: {comparison}"
    if missing:
        verdict += f"; the saved predictions are not enough to compute {', '.join(missing)}"
    failures = []
    if recomputed.different:
        message = f"differs from result.json: {', '.join(recomputed.different)}"
        hint = "`orca doctor RUN` shows which files have changed"
        failures.append(ChecksumError(message, where=path.name, hint=hint))
    return Result(record, [path.name, verdict], failures)
