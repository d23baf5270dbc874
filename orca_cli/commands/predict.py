"""`orca predict`: apply a finished run to new data."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from orca_cli.commands.options import ALLOW_MODULE, Record, argument, number
from orca_cli.report.collect import interval_text
from orca_cli.runs.claim import named
from orca_cli.terminal import (
    LogReporter,
    Result,
    configure_logging,
    counted,
    log,
    percent_or_number,
    print_text,
)

if TYPE_CHECKING:  # imports torch
    import numpy as np

    from orca_cli.interfaces import Error
    from orca_cli.prediction.loading import Loaded

EXAMPLES = """\
examples:
  orca predict runs/my/2026-11-25_... new.npz                \
print the predictions as csv
  orca predict my_model new.csv --out predictions.csv            use an exported run (orca export)
  orca predict runs/my --best new.npz --out p.npz            \
use the model with the lowest validation error of all runs in runs/my
  orca predict runs/my/2026-11-25_... new.npz --model forest     \
use a baseline that the run kept
  orca predict my_model pictures/ --out p.csv                    \
images in a folder, with or without a subfolder for each class
  orca predict my_model all.npz --part test --out p.npz          \
predict only the test split: the array x_test, or the rows that the array `split` marks as test

INPUT must have the same form as the files that the run was trained on. It does not need targets; \
if it has targets, the error is shown. The command fetches no files and reads no training data."""
# Arguments that select the model of `orca predict` and `orca export`; `open_chosen` opens it.
MODEL = (
    argument(
        "run",
        metavar="RUN",
        help="a run's folder or name, an exported folder, or (with --best) a folder of runs",
    ),
    argument(
        "--best",
        action="store_true",
        help="use the model with the lowest validation error of all runs in the folder RUN",
    ),
    argument(
        "--model",
        metavar="NAME",
        help="name of a model that the run kept, such as `forest`. Default for a run: the transfer "
        "(the model that the run trained); for an export: its only model; with --best: the best "
        "model",
    ),
    argument(
        "--checkpoint",
        metavar="PATH",
        help="where the body's checkpoint is now, if the checkpoint was moved after the run: a "
        "folder, or an id on the model hub whose files this machine already has",
    ),
    ALLOW_MODULE,
)
ARGUMENTS = (
    *MODEL,
    argument("input", metavar="INPUT", help="new data: a file or folder"),
    argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write the predictions to FILE.csv or FILE.npz; default: print them as csv, or with "
        "--json as JSON",
    ),
    argument(
        "--part",
        choices=("train", "validation", "test"),
        default="",
        help="use only this split of a file that contains several splits",
    ),
    argument("--no-targets", action="store_true", help="ignore targets in INPUT, compute no error"),
    argument(
        "--batch-size",
        type=number(int, lowest=1),
        metavar="N",
        help="samples per forward pass; default: train.eval_batch_size of the run, which gives "
        "exactly the predictions that the run itself computed",
    ),
    argument(
        "--device",
        default="auto",
        metavar="D",
        help="device: auto, cpu, cuda, cuda:N or mps; default: auto",
    ),
)


def open_chosen(arguments: argparse.Namespace) -> tuple[Loaded, Record]:
    """Return the model that the arguments MODEL select, and the first fields of the record.

    The record has the run's name and folder, the model's name, and with --best the reason for the
    choice.

    Raises:
        OrcaError: raised by `choice.best_model`, `claim.named` or `loading.open_model`.
    """
    # Imported late: these modules need scikit-learn, and --help does not.
    from orca_cli.prediction.choice import best_model
    from orca_cli.prediction.loading import open_model

    candidate = arguments.model
    reason: str | None = None
    if arguments.best:
        folder, candidate, reason = best_model(Path(arguments.run).expanduser(), candidate)
        # On standard error, since standard output may contain the predictions.
        log.info(f"best: {reason}")
    else:
        folder = named(arguments.run)
    loaded = open_model(folder, arguments.checkpoint, candidate)
    record = {
        "schema": 1,
        "run": loaded.record.name,
        "model": loaded.record.candidate,
        "folder": str(folder),
        "chosen": reason,
    }
    return loaded, record


def execute(arguments: argparse.Namespace) -> Result:
    """Write the predictions, and return their number and error."""
    configure_logging()
    from orca_cli.prediction import output
    from orca_cli.prediction.predictor import Predictor

    loaded, record = open_chosen(arguments)
    predictor = Predictor(loaded, arguments.device, arguments.batch_size)
    # Before the data are opened: predictions that cannot be written are not computed.
    output.check_output(arguments.out, predictor.decoder, Path(arguments.input))
    samples = predictor.opened(arguments.input, arguments.part)
    # Outputs [B, K] or [B, K, *E] of each batch, which are computed only when they are needed.
    outputs: Iterable[np.ndarray] = predictor.stream(samples, LogReporter())
    targets = None if arguments.no_targets else samples.targets()
    # In a temporary file: outputs are written part by part, but the error needs all of them.
    collected = output.Kept()
    if targets is not None:
        # The error is computed after all outputs have been written.
        outputs = collected.passing(outputs)
    # Predictions are in the record only if they are not in a file.
    predictions: list[Record] | None = None
    if arguments.out is not None:
        output.write(arguments.out, outputs, predictor.decoder, samples.ids)
    else:
        columns = output.parts_of(outputs, predictor.decoder, samples.ids)
        if arguments.json:
            # JSON is one document, so all rows are needed at once.
            predictions = list(output.rows(columns))
        else:
            # Printed part by part, so that the whole text is never in memory.
            for text in output.csv_lines(columns):
                print_text(text)
    error = None
    if targets is not None:
        error = _error_record(predictor.measured_error, collected.whole(), targets)
    # Last, since remarks are counted while samples are read.
    record |= {
        "samples": len(samples),
        "out": arguments.out,
        "remarks": dict(predictor.remarks),
        "error": error,
        "predictions": predictions,
    }
    lines = list(_lines(record))
    if arguments.out is not None:
        return Result(record, lines)
    # Standard output has the predictions.
    for line in lines:
        log.info(line)
    return Result(record)


def _lines(record: Record) -> Iterator[str]:
    """Yield the lines about the predictions, for people."""
    samples = counted(record["samples"], "sample")
    yield f"{samples} predicted by the model {record['model']} of {record['run']}"
    for remark, count in record["remarks"].items():
        yield f"{count} of them {remark}"
    error = record["error"]
    if error is not None:
        text = percent_or_number(error["value"], error["percent"])
        interval = interval_text(error)
        if interval:
            text += f" (95 % interval {interval})"
        yield f"{error['name']}: {text} on {error['n']}"


def _error_record(error: Error, outputs: np.ndarray, targets: np.ndarray) -> Record:
    """Return the error of all outputs, in the same form as the test error in result.json."""
    from orca_cli.scoring.uncertainty import interval

    score = error(outputs, targets)
    return {
        "name": error.name,
        "percent": error.percent,
        "value": score.value,
        "n": score.n,
        "skipped": score.skipped,
        "interval": interval(error, score, outputs, targets, groups=None),
    }
