"""`orca data path`: where data lie, in one line, for scripts."""

from __future__ import annotations

import argparse
from pathlib import Path

from orca_cli import terminal
from orca_cli.commands.data import chosen, refuse_settings

EXAMPLES = """\
examples:
  orca data path                       the folder of all data sets
  orca data path deepsea               of one; it need not exist yet
  ls "$(orca data path deepsea)\""""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Print the folder of a data set, or of all of them: one line, for scripts."
    parser.epilog = EXAMPLES
    parser.add_argument("names", nargs="*", metavar="NAME", help="task or source; default: the folder of all")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="folder with your own task/x.yaml, ...")


def execute(arguments: argparse.Namespace) -> int:
    """Print the folders, a line each, and return the exit code."""
    found, folder, settings = chosen(arguments.names, arguments.config_dir)
    refuse_settings(settings)
    names = dict.fromkeys(entry.name for entry in found) if len(arguments.names) > len(settings) else [""]
    for name in names:
        terminal.print_text(f"{folder.absolute() / name}\n")
    return 0
