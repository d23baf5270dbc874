"""One run as a call, from the claim of its folder to its result.

`run` never raises an expected failure: it records the failure in the run's folder and returns it.
`train` and `test` are the two halves of a run's work; the test split stays closed until `test`.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import signals, storage, terminal
from orca_cli.config import parts
from orca_cli.exceptions import (
    MemoryExhaustedError,
    OrcaError,
    interruption_in,
    is_exhausted,
    process_error,
)
from orca_cli.launching import needs
from orca_cli.runs import claim, program
from orca_cli.runs.directory import (
    CURVE,
    SETTINGS,
    SUMMARY,
    TRACKER,
    RunDirectory,
    RunName,
    read_or_empty,
)
from orca_cli.runs.outcome import Failure, Outcome, State, ended_by
from orca_cli.runs.preprocessing import BODY_CONFIG, write_preprocessing
from orca_cli.runs.settings import flat
from orca_cli.runs.tracking.services import Guarded

if TYPE_CHECKING:  # torch and Hydra take seconds to import, and a completed run needs neither
    from orca_cli.config.composed import Composed
    from orca_cli.stages.build import Built
    from orca_cli.stages.finetune import Tested, Validated
    from orca_cli.training.engine import Engine
    from orca_cli.training.team import Team

OnBuild = Callable[[dict[str, Any]], None]  # takes the summary of stage 1


def run(
    job: Composed,
    *,
    force: bool = False,
    allow_inexact: bool = False,
    on_build: OnBuild = lambda summary: None,
    team: Team | None = None,
) -> Outcome:
    """Run one composed job, resume it, or find it completed; return how it ended.

    Writes one folder below `paths.runs` (docs/ARCHITECTURE.md shows it), whose status.json has the
    outcome as well. A signal ends the work at its next step, whose state is saved. A completed run
    gets the baselines that it lacks.

    Args:
        job: returned by `config.compose` for one set of settings.
        force: run again, in a new folder, a run that is already completed, or resume such a repeat
            if it was interrupted.
        allow_inexact: resume although program, threads, packages, data or weights have changed; the
            result says so.
        on_build: called once the model is built.
        team: the processes that share the work, which this one leads; None for a single process.
    """
    name = run_name(job)
    runs_folder = _runs_folder(job)
    try:
        _check_device(job, runs_folder, force=force)
        _check_files(job, runs_folder, force=force)
        with (
            # Around the claim as well, so that a signal cannot leave it half done.
            signals.deferred(),
            signals.watched(),
            claim.claim(runs_folder, name, force=force, allow_inexact=allow_inexact) as folder,
            _logged(folder.path / "run.log"),
        ):
            # Only now, with the lock: another process may have completed the run during the wait.
            if folder.result():
                return _with_baselines(job, folder)
            terminal.log.info(f"{folder.path}")
            return _attempt(job, folder, on_build, team)
    except OrcaError as error:
        return ended_by(error)


def _check_device(job: Composed, runs_folder: Path, *, force: bool) -> None:
    """Refuse a device or precision that this machine lacks, before any folder is touched.

    A completed run needs no device, and torch takes seconds to import.
    """
    device = job.config.device
    precision = job.config.precision
    is_on_every_machine = device in ("auto", "cpu") and precision != "fp16"
    # The cheap question first; the second one reads folders.
    if is_on_every_machine:
        return
    if claim.peek(runs_folder, run_name(job), force=force) == "completed":
        return
    from orca_cli.training.engine import check_precision, choose_device

    check_precision(choose_device(device), precision)


def _check_files(job: Composed, runs_folder: Path, *, force: bool) -> None:
    """Raise an error that names all data and weights that this machine lacks for a run.

    A completed run needs none.
    """
    if claim.peek(runs_folder, run_name(job), force=force) == "completed":
        return
    missing = needs.missing_error([job], job.overrides, job.config_dir)
    if missing is not None:
        raise missing


def _runs_folder(job: Composed) -> Path:
    """Return the folder of all runs."""
    # `compose` has filled it in; only the schema allows None.
    return Path(job.config.paths.runs or "")


def run_name(job: Composed) -> RunName:
    """Return the name of a composed job's run."""
    return RunName(
        task=job.choices["task"],
        data=job.data_name,
        body=job.choices["body"],
        source=job.choices["source"],
        metric=job.choices["metric"],
        finetune=job.choices["finetune"],
        seed=job.config.seed,
        protocol=job.config.protocol,
        identity=job.identity.run,
        settings=job.identity.settings,
        variant=job.variant,
    )


def train(
    job: Composed,
    folder: RunDirectory,
    on_build: OnBuild = lambda summary: None,
    team: Team | None = None,
) -> Validated:
    """Run the three stages up to the choice of the weights; the test split stays closed.

    Stages that the claimed `folder` has already are continued or read back; the other arguments are
    those of `run`. Writes the folders of the stages, and starts the run's tracker, which is added
    to `folder.trackers`.

    Raises:
        OrcaError: an expected failure of a stage.
        InterruptionError: a signal asked to stop, and the state was saved.
    """
    # Imported only now, since these modules import torch, which takes seconds.
    from orca_cli.stages.align import align
    from orca_cli.stages.finetune import Validated, finetune

    seconds: dict[str, float] = {}
    with _timed(seconds, "build"):
        built, engine = _build(job, folder, team)
    on_build(built.summary)
    _track(job, folder)  # not timed: a budget in minutes counts the time of the stages
    with _timed(seconds, "align"):
        aligned = align(built, engine, folder, terminal.LogReporter())
    with _timed(seconds, "finetune"):
        trained = finetune(built, engine, folder, terminal.LogReporter())
    return Validated(built=built, aligned=aligned, trained=trained, engine=engine, seconds=seconds)


def _build(job: Composed, folder: RunDirectory, team: Team | None) -> tuple[Built, Engine]:
    """Record settings and machine in the run's folder, and build the model.

    FingerprintError if an earlier start of the run had others, so that it cannot resume exactly.
    """
    from orca_cli.config import compose
    from orca_cli.models.checkpoints import shareable_config
    from orca_cli.runs.environment import environment
    from orca_cli.stages.build import build
    from orca_cli.stages.expected_time import planned
    from orca_cli.stages.optimizer_steps import lead
    from orca_cli.stages.plan import is_minutes
    from orca_cli.training.cache import numerics
    from orca_cli.training.engine import Engine, choose_device, choose_precision

    start = time.monotonic()
    config = job.config
    reporter = terminal.LogReporter()
    device = choose_device(config.device)
    # A process of a team computes on the GPU of its number.
    if team is not None:
        device = team.device(device)
    # Settings come first, so that even a run that fails at once shows what it was.
    storage.write_text(folder.path / SETTINGS, compose.to_yaml(job.content))
    overrides = "".join(f"{override}\n" for override in job.overrides)
    storage.write_text(folder.path / "overrides.txt", overrides)
    machine = environment() | {"device": str(device), "files": job.identity.files}
    folder.write_environment(machine)
    folder.set_state("build")
    # An earlier start may have made decisions that this start has to keep, such as the length of
    # training.
    earlier = read_or_empty(folder.stage("build") / SUMMARY)
    # It writes only whole files, so that a signal may end it anywhere.
    with signals.immediate():
        built = build(config, reporter, earlier)
    # The width is known only once the body is loaded.
    precision = choose_precision(config.precision, device, built.model.body.width)
    engine = Engine(device, precision, team)
    if team is not None:
        lead(team, built, engine)
    # A budget in minutes is turned into steps by measuring some, which needs engine and model.
    if is_minutes(config):
        spent_s = time.monotonic() - start
        built = planned(config, built, engine, earlier=earlier, spent_s=spent_s, reporter=reporter)
    fingerprint_facts = {**numerics(device), **_facts(built), "precision": engine.precision}
    # The number of processes decides how sums are split, and with it the last bits.
    if team is not None:
        fingerprint_facts["processes"] = team.rank.size
    # Before the stages, which would otherwise continue with other bits.
    folder.check_fingerprint("build", fingerprint_facts)
    folder.write_summary("build", built.summary | {"precision": engine.precision})
    # A run on own data can predict for new files, which need the same preprocessing.
    if built.task.preprocessing is not None:
        write_preprocessing(folder.stage("build"), built.task.preprocessing)
        checkpoint = getattr(built.model.body, "folder", None)
        if checkpoint is not None:
            storage.write_json(folder.stage("build") / BODY_CONFIG, shareable_config(checkpoint))
    return built, engine


def _facts(built: Built) -> dict[str, Any]:
    """Return the data, weights and decisions that a run's bits depend on."""
    facts: dict[str, Any] = {}
    for name, split in built.summary["splits"].items():
        facts[f"data.{name}"] = split["sha256"]
    facts["weights"] = built.summary["checkpoint_sha256"]
    for setting_name, decision in built.plan.decided.items():
        facts[setting_name] = decision.value
    return facts


def _track(job: Composed, folder: RunDirectory) -> None:
    """Start the run's tracker, if it has one, and show it the lines of earlier attempts.

    Accelerate has to be started before.
    """
    tracker_node = job.config.tracker
    if tracker_node.get(parts.TARGET) is None:
        return

    # A function: `Guarded` calls it in a thread, where a failure does not end the run.
    def make() -> Any:
        return parts.build(
            tracker_node,
            "tracker",
            settings=dict(flat(job.content)),
            name=folder.path.name,
            folder=storage.make_folder(folder.path / TRACKER),
            store=folder.path.parent.parent,
        )

    _, _, class_name = tracker_node[parts.TARGET].rpartition(".")
    tracker = Guarded(make, class_name)
    # Started before the stages: what it imports must not meet imports of the run.
    tracker.start()
    folder.trackers.append(tracker)
    for stage in ("align", "finetune"):
        curve_file = folder.stage(stage) / CURVE
        folder.show(stage, storage.read_json_lines(curve_file))


def test(job: Composed, folder: RunDirectory, validated: Validated) -> Tested:
    """Open the test split, once, and measure the chosen weights and the best constant on it.

    Adds to `validated.seconds`.

    Raises:
        OrcaError: an expected failure, such as a test split that is missing.
    """
    from orca_cli.stages import finetune

    with _timed(validated.seconds, "test"):
        return finetune.test(validated.built, validated.trained, validated.engine, folder)


def done_before(job: Composed) -> Outcome | None:
    """Return the outcome of a run that is completed and lacks no baseline; None for any other.

    Nothing is claimed.
    """
    from orca_cli.baselines import completion

    folder = claim.look(_runs_folder(job), run_name(job))
    if folder is None:
        return None
    manifest = folder.path / storage.MANIFEST
    if not manifest.exists() or folder.status().get("state") != "completed":
        return None
    result = folder.result()
    if not result or completion.lacking(job.config, folder, result):
        return None
    return Outcome("skipped", path=folder.path, result=result)


def _with_baselines(
    job: Composed,
    folder: RunDirectory,
    validated: Validated | None = None,
    tested: Tested | None = None,
) -> Outcome:
    """Return the outcome of a completed run, after computing its missing baselines.

    `validated` is None if an earlier process has completed the run; `tested` has the test split if
    this process has opened it.
    """
    from orca_cli.baselines import completion

    earlier_result = folder.result()
    lacking_names = completion.lacking(job.config, folder, earlier_result)
    state: State = "completed"
    built = None
    if validated is None:
        # Unless baselines are added below.
        state = "skipped"
        work = "not run again (--force does)"
        if lacking_names:
            work = f"computing the baselines that it lacks, {', '.join(lacking_names)}"
        terminal.log.info(f"already completed, {work}: {folder.path}")
    else:
        built = validated.built
    if not lacking_names:
        return Outcome(state, path=folder.path, result=earlier_result)
    stop = completion.complete(
        job.config,
        folder,
        lacking_names,
        built=built,
        test=None if tested is None else tested.samples,
    )
    result = folder.result()
    # Baselines were added, so the run was not merely skipped.
    if result.get("baselines") != earlier_result.get("baselines"):
        state = "completed"
    if stop is None:
        return Outcome(state, path=folder.path, result=result)
    # The run has its result, and yet the exit code says why its baselines are missing.
    return Outcome(
        state, code=stop.code, path=folder.path, result=result, failure=Failure(stop, stop)
    )


def _attempt(job: Composed, folder: RunDirectory, on_build: OnBuild, team: Team | None) -> Outcome:
    """Complete a run, or record in its folder why it failed; return how it ended."""
    from orca_cli.training.engine import same_threads_after

    try:
        with same_threads_after():
            return _complete(job, folder, on_build, team)
    # SystemExit too, which Rich raises for a closed pipe.
    except (Exception, SystemExit) as error:  # noqa: BLE001 - every failure has to be recorded
        # Looked for first: a signal inside a library appears as an error of that library.
        failure: OrcaError | None = interruption_in(error)
        if failure is None:
            try:
                storage.check_pinned(folder.path)
            except OrcaError as lost:
                # A lost folder can cause any other failure, and leaves no place to record it.
                return ended_by(lost, error, folder.path)
            failure = _explained(error, folder)
        outcome = ended_by(failure, error, folder.path)
        failure_record = Failure(failure, error).record()
        try:
            folder.set_state(outcome.state, code=outcome.code, error=failure_record)
        except OrcaError as full:
            # A full disk can hold neither the result nor the record that the run failed.
            terminal.log.warning(f"the state '{outcome.state}' could not be recorded: {full}")
        folder.ended(outcome.state, {})
        return outcome


def _explained(error: BaseException, folder: RunDirectory) -> OrcaError:
    """Return the expected failure that an error means.

    Any other error is a bug: its failure says so, and its traceback goes into error.log.
    """
    if isinstance(error, OrcaError):
        return error
    if is_exhausted(error):
        stage = folder.status().get("stage") or "build"
        hint = "free some, or use a smaller body or less data"
        return MemoryExhaustedError("not enough memory", where=stage, hint=hint)
    expected = process_error(error) or storage.disk_error(error)
    if expected is not None:
        return expected
    error_log = folder.path / "error.log"
    hint = "--traceback shows where"
    # A full disk must not hide the bug: then the hint says how to see the traceback.
    with suppress(OrcaError):
        storage.write_text(error_log, "".join(traceback.format_exception(error)))
        hint = f"the traceback is in {error_log}"
    return OrcaError(
        f"unexpected {type(error).__name__}: {error}", where=folder.path.name, hint=hint
    )


def _complete(job: Composed, folder: RunDirectory, on_build: OnBuild, team: Team | None) -> Outcome:
    """Train, test unless the settings leave that out, write the result, and add baselines to it.

    Returns how the run ended.
    """
    from orca_cli.baselines.leaderboard import leaderboard
    from orca_cli.stages.finetune import result_of

    # The test split is opened after all choices are made; test=false keeps it closed.
    validated = train(job, folder, on_build, team)
    tested = test(job, folder, validated) if job.config.test else None
    result = result_of(validated, tested)
    # These are filled in once the run is completed.
    result["baselines"] = {}
    result["comparison"] = None
    result |= leaderboard(result)
    result["inexact"] = folder.inexact()
    result["program"] = program.record()
    folder.write_result(result)
    # The run is completed before its baselines are: whatever ends them, it keeps its result.
    outcome = _with_baselines(job, folder, validated, tested)
    folder.ended("completed", outcome.result)
    return outcome


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - start


@contextmanager
def _logged(log_file: Path) -> Iterator[None]:
    """Write the program's log into the run's own file as well."""
    with storage.guarded(log_file):
        handler = logging.FileHandler(log_file, encoding="utf-8")
    # With times, unlike the lines on the terminal: run.log is read long after.
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    terminal.warn_once(handler, f"the log {log_file}")
    terminal.log.addHandler(handler)
    try:
        yield
    finally:
        # Removed before it is closed: a line that comes meanwhile would open the file again.
        terminal.log.removeHandler(handler)
        with suppress(OSError):  # lines that a full disk still has no room for
            handler.close()
