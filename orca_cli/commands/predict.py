"""`orca predict`: apply a finished run to new data."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli.commands.options import ALLOW_MODULE, argument, number
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
  orca predict runs/arrays/2026-11-25_... new.npz                the predictions as csv on standard output
  orca predict my_model new.csv --out predictions.csv            an exported run (orca export)
  orca predict runs/arrays --best new.npz --out p.npz            the run with the lowest validation error
  orca predict my_model pictures/ --out p.csv                    images: a folder, with or without class folders
  orca predict my_model all.npz --part test --out p.npz          x_test, or rows that an array `split` marks

INPUT has the form of the files that the run was trained on; targets are not needed, and where it has them the error is shown.
Nothing is fetched, and no training data are read."""
# What `opened` reads.
_CHECKPOINT = "the body's checkpoint, where the run needs it and it has moved: folder or hub id on this machine"
MODEL = (
    argument(
        "run", metavar="RUN", help="a run's folder or name, an exported folder, or a folder of runs"
    ),
    argument(
        "--best", action="store_true", help="of a folder of runs, take the best by validation"
    ),
    argument("--checkpoint", metavar="PATH", help=_CHECKPOINT),
    ALLOW_MODULE,
)
_BATCH_SIZE = "samples per forward pass; default: the run's train.eval_batch_size, with which bits are the same"
_PART = "of a file that holds several splits, take one"
ARGUMENTS = (
    *MODEL,
    argument("input", metavar="INPUT", help="new data: a file or folder"),
    argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write to FILE.csv or FILE.npz; default: standard output, as csv or within --json",
    ),
    argument("--part", choices=("train", "validation", "test"), default="", help=_PART),
    argument("--no-targets", action="store_true", help="read no targets, and show no error"),
    argument("--batch-size", type=number(int, 1), metavar="N", help=_BATCH_SIZE),
    argument(
        "--device",
        default="auto",
        metavar="D",
        help="auto, cpu, cuda, cuda:N or mps; default: auto",
    ),
)


def opened(arguments: argparse.Namespace) -> tuple[Loaded, dict[str, Any]]:
    """Return the model that a command line with MODEL names; for records, its name, its folder and why it was chosen (--best).

    Errors are those of `loading.best_run`, `claim.named` and `loading.open_model`.
    """
    from orca_cli.prediction.loading import best_run, open_model

    folder, reason = (
        best_run(Path(arguments.run).expanduser())
        if arguments.best
        else (named(arguments.run), None)
    )
    if reason is not None:
        log.info(f"best: {reason}")
    loaded = open_model(folder, arguments.checkpoint)
    return loaded, {"schema": 1, "run": loaded.record.name, "folder": str(folder), "chosen": reason}


def execute(arguments: argparse.Namespace) -> Result:
    """Write the predictions, and return what was predicted and the error."""
    configure_logging()
    from orca_cli.prediction import output
    from orca_cli.prediction.predictor import Predictor

    loaded, record = opened(arguments)
    predictor = Predictor(loaded, arguments.device, arguments.batch_size)
    output.check_output(arguments.out, predictor.decoder, Path(arguments.input))
    new = predictor.opened(arguments.input, arguments.part)
    outputs: Iterable[np.ndarray] = predictor.stream(new, LogReporter())
    targets = None if arguments.no_targets else new.targets()
    kept = output.Kept()
    if targets is not None:
        outputs = kept.passing(outputs)
    predictions: list[dict[str, Any]] | None = None  # in the record, where no file has them
    if arguments.out is not None:
        output.write(arguments.out, outputs, predictor.decoder, new.ids)
    elif arguments.json:
        predictions = list(output.rows(output.parts_of(outputs, predictor.decoder, new.ids)))
    else:
        for text in output.csv_lines(output.parts_of(outputs, predictor.decoder, new.ids)):
            print_text(text)
    record |= {
        "samples": len(new),
        "out": arguments.out,
        "remarks": dict(predictor.remarks),
        "error": None,
        "predictions": predictions,
    }
    lines = [f"{counted(len(new), 'sample')} predicted by {predictor.record.name}"]
    lines += [f"{count} of them {what}" for what, count in predictor.remarks.items()]
    if targets is not None:
        record["error"] = _measured(predictor.measured_error, kept.whole(), targets)
        lines.append(_error_text(record["error"]))
    if arguments.out is None:  # standard output has the predictions
        for line in lines:
            log.info(line)
        return Result(record)
    return Result(record, lines)


def _measured(error: Error, outputs: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Return the error of all outputs, as result.json has that of the test split."""
    from orca_cli.scoring.uncertainty import interval

    score = error(outputs, targets)
    return {
        "name": error.name,
        "percent": error.percent,
        "value": score.value,
        "n": score.n,
        "skipped": score.skipped,
        "interval": interval(error, score, outputs, targets, None),
    }


def _error_text(error: Mapping[str, Any]) -> str:
    shown, within = percent_or_number(error["value"], error["percent"]), interval_text(error)
    if within:
        shown += f" (95 % interval {within})"
    return f"{error['name']}: {shown} on {error['n']}"
