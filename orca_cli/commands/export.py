"""`orca export`: one folder with all that a finished run needs to predict."""

import argparse
from pathlib import Path

from orca_cli import storage, terminal
from orca_cli.commands.data import size_text
from orca_cli.commands.predict import add_model, opened
from orca_cli.terminal import Result

EXAMPLES = """\
examples:
  orca export runs/arrays/2026-11-25_... my_model       weights, preprocessing, settings, a model card
  orca export runs/arrays my_model --best               of the run with the lowest validation error
  orca export runs/arrays/2026-11-25_... my_model --onnx    for programs without torch
  orca predict my_model new.npz                         anywhere, without the body's checkpoint and without network"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    add_model(parser)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the new folder")
    text = "write model.onnx as well, checked against onnxruntime (extra `onnx`)"
    parser.add_argument("--onnx", action="store_true", help=text)


def execute(arguments: argparse.Namespace) -> Result:
    """Write the export, and return where it is."""
    terminal.configure_logging()
    from orca_cli.prediction.export import export

    loaded, record = opened(arguments)
    target = arguments.folder
    export(loaded, target, onnx=arguments.onnx)
    size = storage.size(target)
    record |= {"folder": str(target), "bytes": size, "onnx": arguments.onnx}
    return Result(record, [f"exported {record['run']}: {target} ({size_text(size)})"])
