"""The command line: the first word chooses a command, which is imported only then."""

import argparse
import importlib
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext

from orca_cli import __version__, signals, storage, terminal
from orca_cli.config import parts
from orca_cli.exceptions import InterruptionError, OrcaError, UsageError, process_error, suggest
from orca_cli.training import ranks

COMMANDS = {
    "run": "transfer a pretrained transformer to a task: build, align, finetune, test",
    "tune": "a search for settings on validation data, with trials that are stopped early (ASHA)",
    "predict": "new data by a finished run: csv or npz; the error where there are targets",
    "export": "one folder with all that a finished run needs to predict, and a model card",
    "score": "the error of a finished run once more, from its saved predictions, without the model",
    "runs": "the folders of runs: list, show, diff, rm, gc",
    "report": "a table of the results: methods as rows, tasks as columns",
    "data": "the data sets: list, get, check",
    "body": "the pretrained bodies: list, get for offline machines",
    "list": "what you can choose from: tasks, bodies, sources, metrics, embedders, studies, settings and more",
    "doctor": "check this machine: versions, devices, folders, extras; check the files of a run",
}

# These import torch and other packages, whose versions are checked first.
_COMPUTING = ("run", "tune", "predict", "export", "score", "data check", "body get")

_EXAMPLES = """\
examples:
  orca run                                   a first transfer, less than a minute: digits with MiniLM
  orca run task=listops body=minilm seed=1   another task
  orca run -m metric=otdd,none seed=0,1,2    a sweep
  orca report                                the table of all results
  orca predict RUN new.npz --out p.csv       apply a run to new data
  orca run --help                            more examples

Settings are KEY=VALUE; `orca list` shows them. Every command takes --json. On desktops where `orca` is the
screen reader, type `orca-transfer` instead."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(message, hint=f"see {self.prog} --help")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    wants_traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # for names with characters that the output lacks
    # Waiting threads of torch's OpenMP sleep after some microseconds; the environment takes precedence. Where they spin for
    # long, two runs on the same cores slow each other down tenfold; where they sleep at once, a run alone takes twice the
    # time (docs/decisions/0022-waiting-threads.md). It is set before torch is imported, and changes no result.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault(
            "GOMP_SPINCOUNT", "1000"
        )  # GNU's OpenMP, as in torch on Linux: spin briefly, then sleep
    follows = False  # whether rank 0 of the run speaks for this process
    try:
        if (rank := ranks.from_environment()) is not None:
            follows = not rank.leads
            if follows:
                ranks.silence()
            ranks.check_command(words, rank)
        with signals.raised():
            code = _dispatch(words, wants_traceback, main if argv is None else None)
        if follows:
            # Threads of gloo can make the interpreter abort at its end, and a launcher would call the whole run failed.
            os._exit(code)
        return code
    except KeyboardInterrupt as stop:
        failure: OrcaError = InterruptionError.by(stop.args[0] if stop.args else signal.SIGINT)
    except BrokenPipeError:  # the reader of a pipe has gone, as in `orca list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - an expected failure or a bug: one line, and the traceback on request
        if wants_traceback and not isinstance(error, MemoryError):
            traceback.print_exc()
        bug = OrcaError(
            f"unexpected {type(error).__name__}: {error}", hint="--traceback shows where"
        )
        failure = error if isinstance(error, OrcaError) else process_error(error) or bug
    terminal.print_error(f"orca: error: {failure}")
    if follows:
        time.sleep(
            ranks.LAUNCHER_EXITS_S
        )  # torchrun kills the other ranks once one exits: let rank 0 print first
    return failure.code


def _dispatch(words: list[str], wants_traceback: bool, program: Callable[..., int] | None) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        return _print_commands(
            "orca", "Cross-modal transfer of pretrained transformers (ORCA).", COMMANDS, _EXAMPLES
        )
    if words[0] == "--version":
        terminal.print_result(f"orca {__version__}")
        return 0
    if words[0] not in COMMANDS:
        raise UsageError(f"no such command: '{words[0]}'", hint=suggest(words[0], COMMANDS))
    name, words = words[0], words[1:]
    about = COMMANDS[name]
    command = importlib.import_module(f"orca_cli.commands.{name}")
    if hasattr(command, "VERBS"):  # a command of several, such as `orca data get`
        if not words or words[0] in ("-h", "--help", "help"):
            verbs = {word: verb.about for word, verb in command.VERBS.items()}
            return _print_commands(
                f"orca {name}", about, verbs, f"examples: orca {name} COMMAND --help"
            )
        if words[0] not in command.VERBS:
            raise UsageError(
                f"no such command: '{name} {words[0]}'", hint=suggest(words[0], command.VERBS)
            )
        about, examples, arguments_of, execute = command.VERBS[words[0]]
        name, words = f"{name} {words[0]}", words[1:]
    else:
        examples, arguments_of, execute = command.EXAMPLES, command.ARGUMENTS, command.execute
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog=f"orca {name}", description=about, epilog=examples, formatter_class=raw)
    for add in arguments_of:
        add(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the program an error was raised"
    )
    arguments = parser.parse_intermixed_args(words)
    arguments.traceback = wants_traceback
    arguments.typed = ["orca", *name.split(), *words]
    arguments.program = program  # the function `main`; None when another program called it
    for module in getattr(arguments, "allow_module", ()):
        parts.allow_module(module)
    if name in _COMPUTING:
        from orca_cli.runs.environment import check_requirements

        check_requirements()
        storage.check_temporary()
    result = execute(arguments)
    # A run's records are in its folder, so that losing the output loses nothing.
    with terminal.lost_output_allowed() if name == "run" else nullcontext():
        return terminal.render(result, as_json=arguments.json)
    return result.code  # the output was lost


def _print_commands(name: str, about: str, commands: dict[str, str], examples: str) -> int:
    lines = "\n".join(f"  {word:<8} {text}" for word, text in commands.items())
    terminal.print_result(
        f"usage: {name} COMMAND ...\n\n{about}\n\ncommands:\n{lines}\n\n{examples}"
    )
    return 0
