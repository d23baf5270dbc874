"""`orca export`: one folder with all that a finished run needs to predict."""

from __future__ import annotations

import argparse
from pathlib import Path

from orca_cli import terminal
from orca_cli.commands.options import add_allow_module
from orca_cli.commands.predict import add_checkpoint, run_folder
from orca_cli.terminal import Result

EXAMPLES = """\
examples:
  orca export runs/arrays/2026-11-25_... my_model       weights, preprocessing, settings, a model card
  orca export runs/arrays my_model --best               of the run with the lowest validation error
  orca export runs/arrays/2026-11-25_... my_model --onnx    for programs without torch
  orca predict my_model new.npz                         anywhere, without the body's checkpoint and without network"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("run", metavar="RUN", help="a run's folder or name, or a folder of runs with --best")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the new folder")
    parser.add_argument("--best", action="store_true", help="of a folder of runs, take the best by validation")
    text = "write model.onnx as well, checked against onnxruntime (extra `onnx`)"
    parser.add_argument("--onnx", action="store_true", help=text)
    add_checkpoint(parser)
    add_allow_module(parser)


def execute(arguments: argparse.Namespace) -> Result:
    """Write the export, and return where it is."""
    terminal.configure_logging()
    from orca_cli.prediction.export import export
    from orca_cli.prediction.loading import open_model

    folder, chosen = run_folder(arguments.run, best=arguments.best)
    loaded = open_model(folder, arguments.checkpoint)
    target = arguments.folder
    export(loaded, target, onnx=arguments.onnx)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    record = {"schema": 1, "run": loaded.record.name, "chosen": chosen, "folder": str(target), "bytes": size}
    record["onnx"] = arguments.onnx
    return Result(record, [f"exported {loaded.record.name}: {target} ({size / 2**20:.1f} MiB)"])
