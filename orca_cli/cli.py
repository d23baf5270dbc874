"""The command line: the first word chooses a command, which is imported only then."""

import argparse
import importlib
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orca_cli import __version__, signals, storage, terminal
from orca_cli.commands.options import Verb
from orca_cli.config import parts
from orca_cli.exceptions import InterruptionError, OrcaError, UsageError, process_error, suggest
from orca_cli.training import ranks

# Command -> its line in the help, in this order. Each command is the module of the same name in
# orca_cli/commands.
COMMANDS = {
    "run": "transfer a body (a pretrained transformer) to a task (a data set), compare the result "
    "with baselines, and measure the test error",
    "get": "fetch the files that a run needs: data sets and body (the pretrained transformer)",
    "tune": "try several settings on validation data within minutes, then run the best ones",
    "predict": "predict for new data with a finished run; show the error if the data have targets",
    "export": "write a folder with all that a finished run needs to predict, and a model card",
    "score": "compute the test error of a finished run again, from its saved predictions",
    "runs": "list, show, compare and remove the folders of runs",
    "report": "show the results of all runs: for each data set, the mean error of each method",
    "data": "list the data sets, or check the content of a data set",
    "body": "list the pretrained bodies",
    "list": "show all choices and settings: tasks, bodies, sources, metrics, embedders, studies "
    "and more",
    "doctor": "check whether this machine can run orca, or whether the files of a run are intact",
}

# These commands import torch and other packages, whose versions are checked first.
_COMPUTING = ("run", "tune", "predict", "export", "score", "data check", "get")
_HELP = ("-h", "--help", "help")
_ABOUT = """\
ORCA transfers a transformer that was pretrained on text or images to data of another kind, such \
as signals, tables, sequences or maps. A run has three stages. It builds a model around the \
pretrained transformer, aligns your data with data of the kind that the transformer was pretrained \
on, and fine-tunes the model. It also fits baselines, such as a random forest, to the same data.

words:
  task       a data set with targets: one of `orca list tasks`, or your own files
  body       the pretrained transformer, such as minilm (text) or swin_tiny (images)
  embedder   the new input layer, which turns a sample into a sequence of tokens for the body
  predictor  the new output layer
  source     data of the kind that the body was pretrained on
  metric     the distance between task and source data that the stage `align` reduces
  recipe     a choice of embedder and of the weights that are fine-tuned
  sweep      the runs of one command that lists several values
  study      a prepared sweep that fills a table or figure of the ORCA paper or the documentation"""
_EXAMPLES = """\
examples:
  orca run                                   \
a first run of about a minute: data set MNIST-1D, body MiniLM
  orca run task=listops body=minilm seed=1   a run of the task ListOps
  orca run -m metric=otdd,none seed=0,1,2    a sweep of six runs
  orca report                                a table of all results
  orca predict RUN new.npz --out p.csv       apply a finished run to new data
  orca run --help                            more examples

Settings are written KEY=VALUE; `orca list settings` explains them. Every command accepts --json. \
Use `orca-transfer` instead of `orca` on desktops where `orca` is the screen reader."""


@dataclass(frozen=True)
class _Call:
    """How the program was called.

    Args:
        wants_traceback: whether the command line has --traceback.
        program: the function `main`; None if another program called it.
    """

    wants_traceback: bool
    program: Callable[..., int] | None


class _Parser(argparse.ArgumentParser):
    # argparse would print the usage and exit; here a usage error is one line like any other error.
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(message, hint=f"see `{self.prog} --help`")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    command_line = list(sys.argv[1:] if argv is None else argv)
    wants_traceback = "--traceback" in command_line
    # Removed before parsing, so that the option also applies to parsing errors.
    command_line = [text for text in command_line if text != "--traceback"]
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names may contain characters that the output's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    _let_waiting_threads_sleep()
    # Whether another process of the same run prints for this one.
    is_follower = False
    try:
        # Inside the block, since the environment variables may contradict each other.
        rank = ranks.from_environment()
        if rank is not None:
            is_follower = not rank.leads
            if is_follower:
                ranks.silence()
            ranks.check_command(command_line, rank)
        program = main if argv is None else None
        call = _Call(wants_traceback=wants_traceback, program=program)
        # Commands that save their state, such as run, replace these handlers (`signals.deferred`).
        with signals.raised():
            code = _dispatch(command_line, call)
        if is_follower:
            # Threads of gloo can make the interpreter abort at its end, and a launcher would then
            # report the whole run as failed.
            os._exit(code)
        return code
    except KeyboardInterrupt as stop:
        # Python raises it for SIGINT without a number; `signals.raised` adds the number of others.
        number = stop.args[0] if stop.args else signal.SIGINT
        failure: OrcaError = InterruptionError.by(number)
    except BrokenPipeError:
        # The reader of a pipe has ended, as in `orca list | head -1`.
        # The interpreter flushes standard output at its end, and would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - a bug is reported in one line, too
        if wants_traceback and not isinstance(error, MemoryError):
            traceback.print_exc()
        failure = _failure(error)
    terminal.print_error(f"orca: error: {failure}")
    if is_follower:
        # torchrun kills the other processes once one exits: the leading process should print first.
        time.sleep(ranks.LAUNCHER_EXITS_S)
    return failure.code


def _let_waiting_threads_sleep() -> None:
    """Make waiting threads of torch's OpenMP sleep after some microseconds.

    If waiting threads spin for long, two runs on the same cores slow each other down tenfold. If
    they sleep at once, a single run takes twice the time (docs/decisions/0022-waiting-threads.md).
    Variables that the user has set take precedence. The variables are set before torch is imported,
    and change no result.
    """
    if "OMP_WAIT_POLICY" in os.environ:
        return
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    # GNU's OpenMP, which torch uses on Linux: spin briefly, then sleep.
    # Measured: with 0, a single run takes 36 s instead of 19.5 s; with 10,000, two runs at once
    # take 198 s instead of 47 s.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _failure(error: Exception) -> OrcaError:
    """Return an exception as a one-line error: an expected failure, a lack of memory, or a bug."""
    if isinstance(error, OrcaError):
        return error
    message = f"unexpected {type(error).__name__}: {error}"
    return process_error(error) or OrcaError(
        message, hint="add --traceback to see where the error occurred"
    )


def _dispatch(command_line: Sequence[str], call: _Call) -> int:
    """Run the command that the first words name, or print help; return the exit code."""
    if not command_line or command_line[0] in _HELP:
        _print_commands("orca", _ABOUT, COMMANDS, _EXAMPLES)
        return 0
    if command_line[0] == "--version":
        terminal.print_result(f"orca {__version__}")
        return 0
    name, *arguments = command_line
    if name not in COMMANDS:
        raise UsageError(f"unknown command '{name}'", hint=suggest(name, COMMANDS))
    # Only the chosen command is imported: help and light commands load neither torch nor Hydra.
    command = importlib.import_module(f"orca_cli.commands.{name}")
    verbs: Mapping[str, Verb] | None = getattr(command, "VERBS", None)
    if verbs is None:
        # A command without verbs is treated as a single verb.
        verb = Verb(
            about=COMMANDS[name],
            examples=command.EXAMPLES,
            arguments=command.ARGUMENTS,
            execute=command.execute,
        )
        return _execute(name, verb, arguments, call)
    if not arguments or arguments[0] in _HELP:
        descriptions = {verb_name: verb.about for verb_name, verb in verbs.items()}
        examples = f"options and examples: orca {name} COMMAND --help"
        _print_commands(f"orca {name}", COMMANDS[name], descriptions, examples)
        return 0
    verb_name, *arguments = arguments
    if verb_name not in verbs:
        raise UsageError(f"unknown command '{name} {verb_name}'", hint=suggest(verb_name, verbs))
    return _execute(f"{name} {verb_name}", verbs[verb_name], arguments, call)


def _execute(name: str, verb: Verb, arguments: Sequence[str], call: _Call) -> int:
    """Parse the arguments after a command's name, execute the command, and print its result."""
    # Options may also appear between the settings.
    options = _parser(name, verb).parse_intermixed_args(arguments)
    # Needed by commands that print tracebacks, quote their command line, or fork the program.
    options.traceback = call.wants_traceback
    options.typed = ["orca", *name.split(), *arguments]
    options.program = call.program
    # Commands that build no parts of a model lack this option.
    for module in getattr(options, "allow_module", ()):
        parts.allow_module(module)
    # `orca doctor` reports wrong versions as a finding, and so is not among these commands.
    if name in _COMPUTING:
        from orca_cli.runs.environment import check_requirements

        check_requirements()
        storage.check_temporary()
    result = verb.execute(options)
    if name != "run":
        return terminal.render(result, as_json=options.json)
    # A run's records are in its folder, so no result is lost if the output is.
    with terminal.lost_output_allowed():
        terminal.render(result, as_json=options.json)
    return result.code


def _parser(name: str, verb: Verb) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"orca {name}",
        description=terminal.folded(verb.about),
        epilog=terminal.folded(verb.examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for add_argument in verb.arguments:
        add_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the program an error occurred"
    )
    return parser


def _print_commands(program: str, about: str, commands: Mapping[str, str], examples: str) -> None:
    """Print the help of the program or of a command with verbs.

    `commands` maps each name to its text.
    """
    lines = "\n".join(f"  {name:<8}  {text}" for name, text in commands.items())
    text = f"usage: {program} COMMAND ...\n\n{about}\n\ncommands:\n{lines}\n\n{examples}"
    terminal.print_result(terminal.folded(text))
