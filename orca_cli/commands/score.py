"""`orca score`: compute the errors of a finished run again from its saved predictions."""

import argparse

from orca_cli.commands.options import ALLOW_MODULE, Record, run_argument
from orca_cli.exceptions import ChecksumError, DataError
from orca_cli.runs.claim import named
from orca_cli.terminal import Result, percent_or_number

EXAMPLES = """\
examples:
  orca score runs/digits/2026-...       by the run's folder
  orca score 1e791e76                   by the eight digits that its name ends with

Neither the model nor the data are read: 3_finetune/predictions.npz has outputs and targets of the \
test split. Numbers are
equal where they agree to six digits, since another number of threads adds in another order.

exit codes: 0 equal; 11 the run is not completed, or its predictions do not suffice; 13 an error \
is not that of
result.json, or a file is damaged"""
ARGUMENTS = (run_argument("run"), ALLOW_MODULE)


def execute(arguments: argparse.Namespace) -> Result:
    """Return the recorded and the computed errors of a run."""
    from orca_cli.prediction.recomputed import recompute
    from orca_cli.prediction.record import is_export

    path = named(arguments.run)
    # An export has weights and preprocessing only.
    if is_export(path):
        raise DataError(
            "an export has no saved predictions",
            where=str(path),
            hint="give the run that it was made of",
        )
    recomputed = recompute(path)
    recorded = recomputed.recorded
    computed = recomputed.computed
    # Further errors, for which the saved predictions do not suffice.
    missing = [name for name in recorded if name not in computed]
    # The run's error is first; n and skipped follow where they are computed.
    numbers = [
        {"name": name, "recorded": recorded[name], "computed": computed[name]} for name in computed
    ]
    record: Record = {
        "schema": 1,
        "run": path.name,
        "path": str(path),
        "equal": not recomputed.different,
        "percent": recomputed.percent,
        # `numbers` goes on behind these three with the further errors.
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
        verdict += f"; not saved for: {', '.join(missing)}"
    failures = []
    if recomputed.different:
        message = f"not as in result.json: {', '.join(recomputed.different)}"
        hint = "orca doctor RUN says which files changed"
        failures.append(ChecksumError(message, where=path.name, hint=hint))
    return Result(record, [path.name, verdict], failures)
