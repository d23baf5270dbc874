"""One composed job, from the claim of its folder to its result: every failure is caught, recorded and told in one line."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli import signals, storage, terminal
from orca_cli.commands.summary import error_text
from orca_cli.exceptions import InterruptionError, MemoryExhaustedError, OrcaError, of_processes


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
        print_failure(error, traceback_wanted)
        return Outcome("interrupted" if isinstance(error, InterruptionError) else "failed", error.code, note=str(error))


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
    except InterruptionError as error:
        _record(run, "interrupted", error)
        print_failure(error, traceback_wanted)
        return Outcome("interrupted", error.code, run.path.name, str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a failure has to be recorded, whatever it is
        failure = _gone(run)
        if failure is None:  # else there is nothing to record it in
            failure = _known(error, run.status().get("stage") or "build") or _bug(run, error)
            _record(run, "failed", failure)
        print_failure(failure, traceback_wanted, cause=error)
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


def print_failure(failure: OrcaError, traceback_wanted: bool, cause: BaseException | None = None) -> None:
    """Print a failure in one line; before it, where wanted, the traceback of what it came from."""
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
