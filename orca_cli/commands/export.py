"""`orca export`: write a folder with all that a finished run needs to predict."""

import argparse
from pathlib import Path

from orca_cli import storage, terminal
from orca_cli.commands.options import argument
from orca_cli.commands.predict import MODEL, open_chosen
from orca_cli.terminal import Result, size_text

EXAMPLES = """\
examples:
  orca export runs/my/2026-11-25_... my_model       \
write weights, preprocessing, settings and a model card to my_model
  orca export runs/my my_model --best               \
the model with the lowest validation error of all runs in runs/my
  orca export runs/my/2026-11-25_... my_forest --model forest    \
a baseline that the run kept
  orca predict my_model new.npz                         \
use the export on any machine, without the body's checkpoint and without a network"""
ARGUMENTS = (*MODEL, argument("folder", type=Path, metavar="DIR", help="the folder to write"))


def execute(arguments: argparse.Namespace) -> Result:
    """Write the export, and return its folder and size."""
    terminal.configure_logging()
    # Imported late: --help does not need it.
    from orca_cli.prediction.export import export

    loaded, record = open_chosen(arguments)
    folder = arguments.folder
    export(loaded, folder)
    n_bytes = storage.size(folder)
    record |= {"folder": str(folder), "bytes": n_bytes}
    line = f"exported {record['model']} of {record['run']} to {folder} ({size_text(n_bytes)})"
    return Result(record, [line])
