"""`orca data path`: where data are stored, one line, for scripts."""

from __future__ import annotations

import argparse

from orca_cli.commands.data import add_names, select
from orca_cli.terminal import Result

EXAMPLES = """\
examples:
  orca data path                       the folder of all data sets
  orca data path deepsea               of one; it may not exist yet
  ls "$(orca data path deepsea)\""""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Print the folder of a data set, or of all of them: one line, for scripts."
    add_names(parser, "*", "task or source; default: the folder of all")


def execute(arguments: argparse.Namespace) -> Result:
    """Return the folders."""
    chosen = select(arguments.names, arguments.config_dir, needs_name=False)
    names = [entry.name for entry in chosen.entries] if chosen.is_named else [""]
    folders = {name: str(chosen.folder.absolute() / name) for name in names}
    return Result({"schema": 1, "folders": folders}, [*folders.values()])
