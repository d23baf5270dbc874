"""`orca doctor`: whether `orca run` works on this machine, whether a run's files are intact, whether runs resume exactly."""

from __future__ import annotations

import argparse

from orca_cli.terminal import Result

EXAMPLES = """\
examples:
  orca doctor                            a report; the last line says whether orca run can work, and if not, why
  orca doctor --json                     for bug reports and other programs
  orca doctor runs/digits/2026-...       compare all files of a run with their checksums; restore a lost status
  orca doctor --resume-test              kill a short run at random points, resume it, and compare the result
  orca doctor --resume-test task=ecg     the same with your own settings

exit codes: 0 orca run can work, the run is intact, it resumes exactly; 13 files of the run are damaged; 14 a package
or the default body's weights are missing; 20 the run is in use; 21 a newer program made it; 22 a resumed run ended with
other bits; 30 a folder cannot be written"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Check this machine, or the files of runs, or that a killed run resumes with the same bits."
    parser.epilog = EXAMPLES
    text = "run folders or their names; with --resume-test: KEY=VALUE settings"
    parser.add_argument("words", nargs="*", metavar="RUN", help=text)
    parser.add_argument("--resume-test", action="store_true", help="kill a short run, resume it, compare the bits")
    parser.add_argument("--kills", type=int, default=3, metavar="N", help="with --resume-test: how often; default: 3")


def execute(arguments: argparse.Namespace) -> Result:
    """Return what the check found."""
    if arguments.resume_test:
        from orca_cli.commands.doctor.resume import resume_test

        return resume_test(arguments.words, kills=arguments.kills)
    if arguments.words:
        from orca_cli.commands.doctor.runs import check_runs

        return check_runs(arguments.words)
    from orca_cli.commands.doctor.machine import check_machine

    return check_machine()
