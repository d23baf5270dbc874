"""`orca run`: compose, then build, align and finetune; one run, or a sweep with -m."""

from __future__ import annotations

import argparse
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli import parts, signals, storage, terminal
from orca_cli.exceptions import Interrupted, MemoryExhaustedError, OrcaError, SweepError

EXAMPLES = """\
examples:
  orca run                                          the defaults: digits with MiniLM, two minutes on a laptop
  orca run task=listops body=minilm seed=1          another task; any setting is KEY=VALUE (orca list settings)
  orca run task=arrays task.kind=classes task.train=my.npz    your own arrays x and y; shapes and classes inferred
  orca run --dry-run task=darcy body=swin_tiny      shapes, parameters, steps; trains nothing
  orca run -m metric=otdd,none seed=0,1,2           a sweep: six runs; again: only those that are missing
  orca run -m seed='range(5)' finetune='glob(*)'    ranges and all choices of a group
  orca run --config-dir my_conf task=mine           my_conf/task/mine.yaml

Repeating a command never repeats a completed run, and goes on with an interrupted one from its last checkpoint."""


@dataclass(frozen=True)
class Outcome:
    """How one job ended.

    Args:
        state: completed, skipped, failed or interrupted.
        code: exit code.
        run: name of the run folder; empty where none was made.
    """

    state: str
    code: int
    run: str = ""


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
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    parser.add_argument("-q", "--quiet", action="store_true", help="log warnings only")


def execute(arguments: argparse.Namespace) -> int:
    """Run, and return the exit code."""
    terminal.configure_logging(verbose=arguments.verbose, quiet=arguments.quiet)
    for module in arguments.allow_module:
        parts.allow_module(module)
    from orca_cli import compose

    with compose.session(arguments.config_dir) as session:
        if not arguments.multirun:
            _refuse_sweep_words(arguments.overrides)
            job = session.compose(arguments.overrides)
            if arguments.dry_run:
                return _dry_run([job])
            return run_job(
                job,
                force=arguments.force,
                allow_inexact=arguments.allow_inexact_resume,
                traceback_wanted=arguments.traceback,
            ).code
        jobs = session.expand(arguments.overrides)
        if arguments.dry_run:
            return _dry_run(jobs)
        return _sweep(session, jobs, arguments)


def run_job(
    job: Any,
    *,
    force: bool = False,
    allow_inexact: bool = False,
    traceback_wanted: bool = False,
    prefix: str = "",
) -> Outcome:
    """Run one composed job from claim to result; catches every failure, records it and prints one line."""
    from orca_cli.runs import directory

    name = run_name(job)
    try:
        with (
            signals.deferred(),
            directory.claim(Path(job.config.paths.runs), name, force=force, allow_inexact=allow_inexact) as run,
            _logged(run.log_file),
        ):
            if run.result():
                terminal.log.info(f"{prefix}already completed, not run again (--force does): {run.path}")
                return Outcome("skipped", 0, run.path.name)
            terminal.log.info(f"{prefix}{run.path}")
            return _attempt(job, run, traceback_wanted)
    except OrcaError as error:
        _print_failure(error, traceback_wanted)
        return Outcome("interrupted" if isinstance(error, Interrupted) else "failed", error.code)


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
        return Outcome("interrupted", error.code, run.path.name)
    except Exception as error:  # noqa: BLE001 - a job of a sweep must not end the others
        known = _known(error)
        failure = known or _bug(run, error)
        _record(run, "failed", failure)
        _print_failure(failure, traceback_wanted, cause=error)
        return Outcome("failed", failure.code, run.path.name)
    return Outcome("completed", 0, run.path.name)


def _known(error: Exception) -> OrcaError | None:
    """Return the expected failure that an exception stands for, or None for a bug."""
    if isinstance(error, OrcaError):
        return error
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
        return MemoryExhaustedError(
            "not enough memory", where="train.batch_size", hint="use a smaller train.batch_size with train.accumulation"
        )
    return storage.of_the_disk(error)


def _bug(run: Any, error: Exception) -> OrcaError:
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
    run.write_environment(environment() | {"device": str(device)})

    seconds = {}
    clock = storage.monotonic()
    run.set_state("build")
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


def _sweep(session: Any, jobs: list[Any], arguments: argparse.Namespace) -> int:
    """Run all jobs, one after the other or by the launcher that hydra/launcher names; say how each ended."""
    from orca_cli.commands.summary import print_sweep

    terminal.log.info(f"sweep of {len(jobs)} runs")
    root = Path(jobs[0].config.paths.runs)
    count = iter(range(1, len(jobs) + 1))
    outcomes: list[Outcome] = []

    def job(composed: Any) -> Outcome:
        outcome = run_job(
            composed,
            force=arguments.force,
            allow_inexact=arguments.allow_inexact_resume,
            traceback_wanted=arguments.traceback,
            prefix=f"[{next(count, '?')}/{len(jobs)}] ",
        )
        outcomes.append(outcome)
        code = outcome.code if outcome.state == "interrupted" else signals.exit_code()
        if code:
            raise SystemExit(code)  # the one thing that Hydra's launcher does not catch
        return outcome

    storage.check_writable(root)
    try:
        returned = session.launch(arguments.overrides, job, root / ".sweeps" / storage.timestamp())
    except SystemExit as stop:
        with terminal.lost_output_allowed():
            print_sweep(outcomes, len(jobs))
        return int(stop.code or 0)
    outcomes = [outcome for outcome in returned if isinstance(outcome, Outcome)] or outcomes
    with terminal.lost_output_allowed():
        print_sweep(outcomes, len(jobs))
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if failed:
        error = SweepError(
            f"{len(failed)} of {len(jobs)} runs failed", where="sweep", hint="mend and repeat the command"
        )
        terminal.print_error(f"orca: error: {error}")
        return error.code
    return 0


def _dry_run(jobs: list[Any]) -> int:
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
    return 0


def _refuse_sweep_words(overrides: list[str]) -> None:
    from orca_cli.exceptions import UsageError

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
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full log disk must not end the run
    terminal.log.addHandler(handler)
    try:
        yield
    finally:
        terminal.log.removeHandler(handler)
        handler.close()
