"""`orca run`: compose, then build, align and finetune; one run, or a sweep with -m."""

from __future__ import annotations

import argparse
import logging
import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orca_cli import parts, signals, storage, terminal
from orca_cli.commands.summary import error_text
from orca_cli.exceptions import Interrupted, MemoryExhaustedError, OrcaError, Preempted, UsageError, of_processes
from orca_cli.launching import processes, slurm

_LONGEST_NOTE = 2000
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

EXAMPLES = """\
examples:
  orca run                                          the defaults: digits with MiniLM, two minutes on a laptop
  orca run task=listops body=minilm seed=1          another task; any setting is KEY=VALUE (orca list settings)
  orca run task=arrays task.kind=classes task.train=my.npz    your own arrays x and y; shapes and classes inferred
  orca run --dry-run task=darcy body=swin_tiny      shapes, parameters, steps; trains nothing
  orca run -m metric=otdd,none seed=0,1,2           a sweep: six runs; again: only those that are missing
  orca run -m seed='range(5)' finetune='glob(*)'    ranges and all choices of a group
  orca run --config-dir my_conf task=mine           my_conf/task/mine.yaml

Repeating a command never repeats a completed run, and goes on with an interrupted one from its last checkpoint.

Each job of a sweep runs in a process of its own; what ends one does not reach the others. SIGTERM, SIGHUP and Ctrl-C save the
state; a second Ctrl-C ends at once. SIGUSR1 (or the signal in ORCA_PREEMPTION_SIGNAL: USR1, USR2, TERM, HUP or XCPU) means
preemption: the state is saved, the exit code is 75, and inside a SLURM job `scontrol requeue` is called. To run the jobs of
a sweep on a cluster, install a launcher of Hydra and name it: hydra/launcher=submitit_slurm."""


@dataclass(frozen=True)
class Outcome:
    """How one job ended.

    Args:
        state: completed, skipped, failed, interrupted or not started.
        code: exit code.
        run: name of the run folder; empty where none was made.
        note: why it is not completed, or the error that it reached.
    """

    state: str
    code: int
    run: str = ""
    note: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Transfer a pretrained transformer to a task: build, align, finetune, test."
    parser.epilog = EXAMPLES
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings; groups are task, body, source, metric, finetune, hparams, study",
    )
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="run every combination of comma lists, range() and glob()"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="compose, check, build and do one forward pass; train nothing"
    )
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="folder with your own task/x.yaml, body/x.yaml, ..."
    )
    parser.add_argument("--force", action="store_true", help="run again, in a new folder, what is already completed")
    parser.add_argument(
        "--allow-inexact-resume",
        action="store_true",
        help="go on with a run although threads, packages, data or weights have changed; the result says so",
    )
    parser.add_argument(
        "--allow-module",
        action="append",
        default=[],
        metavar="NAME",
        help="trust a module of your own that a YAML file names",
    )
    parser.add_argument(
        "--at-once", type=int, metavar="N", help="with -m: so many jobs at the same time, which share the threads (1)"
    )
    parser.add_argument(
        "--time-limit",
        metavar="TIME",
        help="with -m: a job that takes longer (90s, 30m, 8h, 2d) is stopped; it saves its state and counts as failed",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    parser.add_argument("-q", "--quiet", action="store_true", help="log warnings only")
    parser.add_argument(processes.OPTION, nargs=4, help=argparse.SUPPRESS)  # given by a sweep to its jobs


def execute(arguments: argparse.Namespace) -> int:
    """Run, and return the exit code."""
    place = processes.Place.read(arguments.job) if arguments.job else None
    if place is not None:
        processes.end_with_parent(place.parent)
    terminal.configure_logging(
        verbose=arguments.verbose,
        quiet=arguments.quiet,
        prefix=f"{place.label} " if place else "",
        bars=place is None or place.is_alone,
    )
    with signals.deferred(insistent=place is None):
        try:
            outcome = _execute(arguments)
        except OrcaError as error:
            _print_failure(error, arguments.traceback)
            outcome = Outcome(
                "interrupted" if isinstance(error, Interrupted) else "failed", error.code, note=str(error)
            )
        if place is not None:
            processes.say(place.pipe, vars(replace(outcome, note=outcome.note[:_LONGEST_NOTE])))
        elif outcome.code == Preempted.code:
            slurm.requeue()
        return outcome.code


def _execute(arguments: argparse.Namespace) -> Outcome:
    for module in arguments.allow_module:
        parts.allow_module(module)
    settings = _of_launcher(arguments)
    from orca_cli import compose

    signals.check()
    with compose.session(arguments.config_dir) as session:
        if not arguments.multirun:
            if arguments.job is None:
                _refuse_sweep_words(arguments.overrides)
            job = session.compose(arguments.overrides)
            signals.check()
            if arguments.dry_run:
                return _dry_run([job])
            return run_job(
                job,
                force=arguments.force,
                allow_inexact=arguments.allow_inexact_resume,
                traceback_wanted=arguments.traceback,
            )
        jobs = session.expand(arguments.overrides)
        if arguments.dry_run:
            return _dry_run(jobs)
        return _sweep(session, jobs, arguments, settings)


def run_job(job: Any, *, force: bool = False, allow_inexact: bool = False, traceback_wanted: bool = False) -> Outcome:
    """Run one composed job from claim to result; catches every failure, records it and prints one line."""
    from orca_cli.runs import directory

    name = run_name(job)
    try:
        _check_device(job.config, None if force else directory.look(Path(job.config.paths.runs), name))
        with (
            signals.deferred(),
            signals.watched(),
            directory.claim(Path(job.config.paths.runs), name, force=force, allow_inexact=allow_inexact) as run,
            _logged(run.log_file),
        ):
            if run.result():
                terminal.log.info(f"already completed, not run again (--force does): {run.path}")
                return Outcome("skipped", 0, run.path.name, error_text(run.result()))
            terminal.log.info(f"{run.path}")
            return _attempt(job, run, traceback_wanted)
    except OrcaError as error:
        _print_failure(error, traceback_wanted)
        return Outcome("interrupted" if isinstance(error, Interrupted) else "failed", error.code, note=str(error))


def _check_device(config: Any, earlier: Any) -> None:
    """Refuse a device that is absent, or a precision that it has not, before a folder is made or an earlier one touched.

    Args:
        config: of the run.
        earlier: the folder of the same run, None where there is none; a completed one needs no device.
    """
    unconditional = config.device in ("auto", "cpu") and config.precision != "fp16"
    if unconditional or (earlier is not None and earlier.result()):
        return  # without torch, whose import takes seconds
    from orca_cli.training.engine import check_precision, choose_device

    check_precision(choose_device(config.device), config.precision)


def run_name(job: Any) -> Any:
    """Return the name of a composed job's run."""
    from orca_cli.runs.directory import RunName
    from orca_cli.runs.identity import identity, settings_hash

    config = job.config
    choices = {group: job.choices[group] for group in ("task", "body", "source", "metric", "finetune")}
    data = Path(config.paths.data)
    return RunName(
        **choices,
        seed=config.seed,
        protocol=config.protocol,
        identity=identity(job.content, job.choices, data),
        settings=settings_hash(job.content, job.choices, data),
        variant=job.variant,
    )


def _attempt(job: Any, run: Any, traceback_wanted: bool) -> Outcome:
    try:
        _stages(job, run)
    except Interrupted as error:
        _record(run, "interrupted", error)
        _print_failure(error, traceback_wanted)
        return Outcome("interrupted", error.code, run.path.name, str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a failure has to be recorded, whatever it is
        failure = _gone(run)
        if failure is None:  # else there is nothing to record it in
            failure = _known(error, run.status().get("stage") or "build") or _bug(run, error)
            _record(run, "failed", failure)
        _print_failure(failure, traceback_wanted, cause=error)
        return Outcome("failed", failure.code, run.path.name, str(failure))
    return Outcome("completed", 0, run.path.name, error_text(run.result()))


def _gone(run: Any) -> OrcaError | None:
    """Return the failure that the run's folder is not there any more, which can show itself in any other; else None."""
    try:
        storage.check_held(run.path)
    except OrcaError as error:
        return error
    return None


def _known(error: BaseException, stage: str) -> OrcaError | None:
    """Return the expected failure that an exception of a stage stands for, or None for a bug."""
    from orca_cli.training.memory import is_exhausted

    if isinstance(error, OrcaError):
        return error
    if is_exhausted(error):
        return MemoryExhaustedError(
            "not enough memory", where=stage, hint="free some, or use a smaller body or less data"
        )
    return of_processes(error) or storage.of_the_disk(error)


def _bug(run: Any, error: BaseException) -> OrcaError:
    """Keep the traceback of an unexpected failure in the run's folder, and return the line to print."""
    path = run.path / "error.log"
    try:
        storage.write_text(path, "".join(traceback.format_exception(error)))
        hint = f"the traceback is in {path}"
    except OrcaError:
        hint = "--traceback shows where"
    return OrcaError(f"unexpected {type(error).__name__}: {error}", where=run.path.name, hint=hint)


def _record(run: Any, state: str, failure: OrcaError) -> None:
    error = {"kind": type(failure).__name__, "message": str(failure), "hint": failure.hint}
    try:
        run.set_state(state, code=failure.code, error=error)
    except OrcaError as error:  # a full disk can neither hold the result nor the word that it failed
        terminal.log.warning(f"that the run {state} could not be recorded: {error}")


def _print_failure(failure: OrcaError, traceback_wanted: bool, cause: BaseException | None = None) -> None:
    if traceback_wanted:
        terminal.print_error("".join(traceback.format_exception(cause or failure)))
    terminal.print_error(f"orca: error: {failure}")


def _stages(job: Any, run: Any) -> None:
    """Run the three stages and write the result."""
    from orca_cli import compose
    from orca_cli.commands.summary import print_build, print_result_of
    from orca_cli.runs.environment import environment
    from orca_cli.runs.identity import data_files
    from orca_cli.stages.align import align
    from orca_cli.stages.build import build
    from orca_cli.stages.finetune import finetune
    from orca_cli.training.engine import Engine, choose_device
    from orca_cli.training.numerics import numerics

    config, reporter = job.config, terminal.LogReporter()
    device = choose_device(config.device)
    engine = Engine(device, config.precision)
    storage.write_text(run.path / "config.yaml", compose.to_yaml(job.stored))
    storage.write_text(run.path / "overrides.txt", "".join(f"{override}\n" for override in job.overrides))
    files = data_files(job.content, job.choices, Path(config.paths.data))
    run.write_environment(environment() | {"device": str(device), "files": files})

    seconds = {}
    clock = storage.monotonic()
    run.set_state("build")
    with signals.immediate():  # what it makes has its name once it is whole
        built = build(config, reporter)
    data = {f"data.{name}": split["sha256"] for name, split in built.summary["splits"].items()}
    run.settle("build", numerics(device) | data | {"weights": built.summary["checkpoint_sha256"]})
    storage.write_json(run.stage("build") / "summary.json", built.summary)
    seconds["build"] = storage.monotonic() - clock
    with terminal.lost_output_allowed():
        print_build(job, built.summary)

    clock = storage.monotonic()
    aligned = align(config, built, engine, run, reporter)
    seconds["align"] = storage.monotonic() - clock

    clock = storage.monotonic()
    tested = finetune(config, built, engine, run, reporter)
    seconds["finetune"] = storage.monotonic() - clock

    result = _result(job, built, aligned, tested, seconds) | {"inexact": run.inexact()}
    run.write_result(result)
    with terminal.lost_output_allowed():
        print_result_of(run, result, tested.curve, tested.chosen_epoch)


def _result(job: Any, built: Any, aligned: Any, tested: Any, seconds: dict[str, float]) -> dict[str, Any]:
    score, error = tested.score, built.error
    return {
        "synthetic": built.task.synthetic,
        "size": built.task.size,
        "error": {
            "name": error.name,
            "value": score.value,
            "reason": None if score.value is not None else f"undefined on all {score.skipped} that it averages over",
            "n": score.n,
            "skipped": score.skipped,
            "percent": error.percent,
            "others": dict(score.others),
        },
        "validation_error": tested.validation_error,
        "trivial_error": tested.trivial,
        "selected": {
            "by": job.config.train.select,
            "epoch": tested.chosen_epoch,
            "on": job.config.train.validate_on,
        },
        "test_reads": tested.test_reads,
        "splits": built.summary["splits"] | {"test": tested.test_split},
        "metric_value": {"before": aligned.before, "after": aligned.after},
        "alignment": {"select": job.config.align.select, "steps": aligned.steps, "tried": aligned.tried}
        | {"collapse": aligned.collapse},
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        "parameters": built.summary["parameters"],
        "weights_sha256": tested.weights_sha256,
    }


def _sweep(session: Any, jobs: list[Any], arguments: argparse.Namespace, settings: list[str]) -> Outcome:
    from orca_cli.commands import sweep

    return sweep.run(session, jobs, arguments, settings)


def _of_launcher(arguments: argparse.Namespace) -> list[str]:
    """Return the options of a sweep as settings of its launcher.

    Raises:
        UsageError: a value out of range, or an option that says nothing here.
    """
    given = {"--at-once": arguments.at_once, "--time-limit": arguments.time_limit}
    for option, value in given.items():
        if value is not None and not arguments.multirun:
            raise UsageError(f"{option} is about sweeps", where=option, hint="add -m")
        if value is not None and any(text.startswith("hydra/launcher=") for text in arguments.overrides):
            raise UsageError(
                "says nothing to another launcher", where=option, hint="orca run -m ... hydra.launcher.KEY=VALUE"
            )
    settings = []
    if arguments.at_once is not None:
        if arguments.at_once < 1:
            raise UsageError(f"{arguments.at_once} is out of range", where="--at-once", hint="allowed: 1 or more")
        settings.append(f"hydra.launcher.at_once={arguments.at_once}")
    if arguments.time_limit is not None:
        settings.append(f"hydra.launcher.time_limit_s={_seconds(arguments.time_limit)}")
    return settings


def _seconds(text: str) -> float:
    number, unit = (text[:-1], text[-1]) if text[-1:] in _SECONDS else (text, "s")
    try:
        seconds = float(number) * _SECONDS[unit]
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(f"'{text}' is no time", where="--time-limit", hint="such as 90s, 30m, 8h or 2d")
    return seconds


def _dry_run(jobs: list[Any]) -> Outcome:
    """Build the first job, do one forward pass, and list what all jobs would do."""
    from orca_cli.commands.summary import print_build, print_plan
    from orca_cli.runs import directory
    from orca_cli.stages.build import build, forward_once
    from orca_cli.training.engine import choose_device

    for job in jobs:
        choose_device(job.config.device)
    built = build(jobs[0].config, terminal.LogReporter())
    shape = forward_once(built, jobs[0].config)
    print_build(jobs[0], built.summary | {"output_shape": shape})
    print_plan(
        [(run_name(job), directory.peek(Path(job.config.paths.runs), run_name(job))) for job in jobs], built.summary
    )
    return Outcome("completed", 0)


def _refuse_sweep_words(overrides: list[str]) -> None:
    for text in overrides:
        key, _, value = text.partition("=")
        plain = not value.startswith(("[", "{", "'", '"'))
        if plain and ("," in value or value.startswith(("range(", "glob(", "choice("))):
            raise UsageError(f"'{text}' names several values", where=key, hint="add -m for a sweep")


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Write the program's log into the run's own file as well."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        terminal.log.warning(f"the log goes to standard error alone: {error}")
        yield
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    terminal.told_once(handler, f"the log {path}")
    terminal.log.addHandler(handler)
    try:
        yield
    finally:
        terminal.log.removeHandler(handler)
        with suppress(OSError):  # lines that a full disk still has no room for
            handler.close()
