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

# Command -> its line in the help, in this order. The module of a command in orca_cli/commands has
# its name.
COMMANDS = {
    "run": "transfer a pretrained transformer to a task: build, align, finetune, test",
    "get": "fetch all that a run needs: its data, its source and its body",
    "tune": "try recipes or other settings on validation data within minutes, then run the best",
    "predict": "new data by a finished run: csv or npz; the error where there are targets",
    "export": "one folder with all that a finished run needs to predict, and a model card",
    "score": "the error of a finished run once more, from its saved predictions, without the model",
    "runs": "the folders of runs: list, show, diff, rm, gc",
    "report": "the results by data set: each method with its mean error over seeds",
    "data": "the data sets: list, check",
    "body": "the pretrained bodies: list",
    "list": "what you can choose from: tasks, bodies, sources, metrics, embedders, studies, "
    "settings and more",
    "doctor": "check this machine: versions, devices, folders, extras; check the files of a run",
}

# These import torch and other packages, whose versions are checked first.
_COMPUTING = ("run", "tune", "predict", "export", "score", "data check", "get")
_HELP = ("-h", "--help", "help")
_ABOUT = "Cross-modal transfer of pretrained transformers (ORCA)."
_EXAMPLES = """\
examples:
  orca run                                   \
a first transfer, less than a minute: MNIST-1D with MiniLM
  orca run task=listops body=minilm seed=1   another task
  orca run -m metric=otdd,none seed=0,1,2    a sweep
  orca report                                the table of all results
  orca predict RUN new.npz --out p.csv       apply a run to new data
  orca run --help                            more examples

Settings are KEY=VALUE; `orca list` shows them. Every command takes --json. On desktops where \
`orca` is the
screen reader, type `orca-transfer` instead."""


@dataclass(frozen=True)
class _Call:
    """How the program was called.

    Args:
        wants_traceback: whether --traceback is among the words.
        program: the function `main`; None if another program called it.
    """

    wants_traceback: bool
    program: Callable[..., int] | None


class _Parser(argparse.ArgumentParser):
    # argparse would print the usage and exit by itself; here an error is one line like any other.
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(message, hint=f"see {self.prog} --help")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    command_line = list(sys.argv[1:] if argv is None else argv)
    wants_traceback = "--traceback" in command_line
    # Taken out before anything is parsed, so that it also counts for errors of parsing.
    command_line = [text for text in command_line if text != "--traceback"]
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names may have characters that the output lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    _let_waiting_threads_sleep()
    # Whether this is one of several processes of a run, of which another one prints.
    is_follower = False
    try:
        # Inside the block, since the environment may contradict itself.
        rank = ranks.from_environment()
        if rank is not None:
            is_follower = not rank.leads
            if is_follower:
                ranks.silence()
            ranks.check_command(command_line, rank)
        program = main if argv is None else None
        call = _Call(wants_traceback=wants_traceback, program=program)
        # Commands that save a state, such as run, replace these handlers (`signals.deferred`).
        with signals.raised():
            code = _dispatch(command_line, call)
        if is_follower:
            # Threads of gloo can make the interpreter abort at its end, and a launcher would call
            # the whole run failed.
            os._exit(code)
        return code
    except KeyboardInterrupt as stop:
        # Python raises it for SIGINT, without a number; `signals.raised` for the others.
        number = stop.args[0] if stop.args else signal.SIGINT
        failure: OrcaError = InterruptionError.by(number)
    except BrokenPipeError:
        # The reader of a pipe has gone, as in `orca list | head -1`.
        # The interpreter flushes standard output at its end, and would fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - a bug is one line, too
        if wants_traceback and not isinstance(error, MemoryError):
            traceback.print_exc()
        failure = _failure(error)
    terminal.print_error(f"orca: error: {failure}")
    if is_follower:
        # torchrun kills the other processes once one exits: the leading one should print first.
        time.sleep(ranks.LAUNCHER_EXITS_S)
    return failure.code


def _let_waiting_threads_sleep() -> None:
    """Make waiting threads of torch's OpenMP sleep after some microseconds.

    If they spin for long, two runs on the same cores slow each other down tenfold; if they sleep at
    once, a run alone takes twice the time (docs/decisions/0022-waiting-threads.md). The environment
    takes precedence. It is set before torch is imported, and changes no result.
    """
    if "OMP_WAIT_POLICY" in os.environ:
        return
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    # GNU's OpenMP, as in torch on Linux: spin briefly, then sleep.
    # Measured: with 0 a run alone takes 36 s instead of 19.5 s; with 10,000 two runs at once take
    # 198 s instead of 47 s.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _failure(error: Exception) -> OrcaError:
    """Return an exception as an error in one line: expected, a lack of memory, or a bug."""
    if isinstance(error, OrcaError):
        return error
    message = f"unexpected {type(error).__name__}: {error}"
    return process_error(error) or OrcaError(message, hint="--traceback shows where")


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
        raise UsageError(f"no such command: '{name}'", hint=suggest(name, COMMANDS))
    # Only the chosen command is imported: help and light commands load neither torch nor Hydra.
    command = importlib.import_module(f"orca_cli.commands.{name}")
    verbs: Mapping[str, Verb] | None = getattr(command, "VERBS", None)
    if verbs is None:
        # A command without verbs is treated as its only verb.
        verb = Verb(
            about=COMMANDS[name],
            examples=command.EXAMPLES,
            arguments=command.ARGUMENTS,
            execute=command.execute,
        )
        return _execute(name, verb, arguments, call)
    if not arguments or arguments[0] in _HELP:
        descriptions = {verb_name: verb.about for verb_name, verb in verbs.items()}
        examples = f"examples: orca {name} COMMAND --help"
        _print_commands(f"orca {name}", COMMANDS[name], descriptions, examples)
        return 0
    verb_name, *arguments = arguments
    if verb_name not in verbs:
        raise UsageError(f"no such command: '{name} {verb_name}'", hint=suggest(verb_name, verbs))
    return _execute(f"{name} {verb_name}", verbs[verb_name], arguments, call)


def _execute(name: str, verb: Verb, arguments: Sequence[str], call: _Call) -> int:
    """Parse the arguments behind a command's name, carry it out, and print its result."""
    # Options may also come between the settings.
    options = _parser(name, verb).parse_intermixed_args(arguments)
    # For commands that print tracebacks themselves, quote their command line, or fork the program.
    options.traceback = call.wants_traceback
    options.typed = ["orca", *name.split(), *arguments]
    options.program = call.program
    # Commands that build no parts lack this option.
    for module in getattr(options, "allow_module", ()):
        parts.allow_module(module)
    # `orca doctor` is not among them: it reports the same as a finding.
    if name in _COMPUTING:
        from orca_cli.runs.environment import check_requirements

        check_requirements()
        storage.check_temporary()
    result = verb.execute(options)
    if name != "run":
        return terminal.render(result, as_json=options.json)
    # A run's records are in its folder, so that losing the output loses nothing.
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
        "--traceback", action="store_true", help="show where in the program an error was raised"
    )
    return parser


def _print_commands(program: str, about: str, commands: Mapping[str, str], examples: str) -> None:
    """Print the help of the program or of a command with verbs; `commands` has a text for each."""
    lines = "\n".join(f"  {name:<8}  {text}" for name, text in commands.items())
    text = f"usage: {program} COMMAND ...\n\n{about}\n\ncommands:\n{lines}\n\n{examples}"
    terminal.print_result(terminal.folded(text))
