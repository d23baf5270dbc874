"""One run as a function call, from the claim of its folder to its result.

`run` never raises an expected failure, but records it in the run's folder and returns it. `train`
and `test` are the two parts of a run; the test split is not read before `test`.
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

if TYPE_CHECKING:  # torch and Hydra take seconds to import; a completed run needs neither of them
    from orca_cli.config.composed import Composed
    from orca_cli.stages.build import Built
    from orca_cli.stages.finetune import Tested, Validated
    from orca_cli.training.engine import Engine
    from orca_cli.training.team import Team

OnBuild = Callable[[dict[str, Any]], None]  # is called with the summary of stage 1


def run(
    job: Composed,
    *,
    force: bool = False,
    allow_inexact: bool = False,
    on_build: OnBuild = lambda summary: None,
    team: Team | None = None,
) -> Outcome:
    """Start or resume the run of a composed job, or find it completed; return how it ended.

    Writes one folder below `paths.runs` (docs/ARCHITECTURE.md shows its content); its status.json
    also has the outcome. After a signal, the run saves its state at the next step and stops. If a
    completed run lacks baselines, they are computed.

    Args:
        job: composed settings of one run, from `config.compose`.
        force: whether to run a completed run again, in a new folder, or to resume such a repetition
            if it was interrupted.
        allow_inexact: whether to resume even if program, threads, packages, data or weights have
            changed; the result records that.
        on_build: called once the model is built.
        team: processes that share the work, led by this process; None for a single process.
    """
    name = run_name(job)
    runs_folder = _runs_folder(job)
    try:
        _check_device(job, runs_folder, force=force)
        _check_files(job, runs_folder, force=force)
        with (
            # Around the claim as well, so that a signal cannot interrupt the claim.
            signals.deferred(),
            signals.watched(),
            claim.claim(runs_folder, name, force=force, allow_inexact=allow_inexact) as folder,
            _logged(folder.path / "run.log"),
        ):
            # Checked with the lock, since another process may have completed the run meanwhile.
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
    # The cheap check comes first; the second check reads folders.
    if is_on_every_machine:
        return
    if claim.peek(runs_folder, run_name(job), force=force) == "completed":
        return
    from orca_cli.training.engine import check_precision, choose_device

    check_precision(choose_device(device), precision)


def _check_files(job: Composed, runs_folder: Path, *, force: bool) -> None:
    """Raise an error that names all data and weights that this machine lacks for a run.

    A completed run needs no files.
    """
    if claim.peek(runs_folder, run_name(job), force=force) == "completed":
        return
    missing = needs.missing_error([job], job.overrides, job.config_dir)
    if missing is not None:
        raise missing


def _runs_folder(job: Composed) -> Path:
    """Return the folder of all runs."""
    # `compose` always sets it; only the schema allows None.
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
    """Run the three stages up to the choice of the weights, without reading the test split.

    Stages that are already in the claimed `folder` are continued or read; for the other arguments
    see `run`. Writes the folders of the stages, and starts the run's tracker, which is added to
    `folder.trackers`.

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

    Raises:
        FingerprintError: an earlier start of the run had other settings or another machine, so the
            run cannot resume exactly.
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
    # A process of a team computes on the GPU with its own number.
    if team is not None:
        device = team.device(device)
    # Settings are written first, so that even a run that fails at once has them.
    storage.write_text(folder.path / SETTINGS, compose.to_yaml(job.content))
    overrides = "".join(f"{override}\n" for override in job.overrides)
    storage.write_text(folder.path / "overrides.txt", overrides)
    machine = environment() | {"device": str(device), "files": job.identity.files}
    folder.write_environment(machine)
    folder.set_state("build")
    # This start has to keep the decisions of an earlier start, such as the length of training.
    earlier = read_or_empty(folder.stage("build") / SUMMARY)
    # `build` writes only complete files, so a signal may end it anywhere.
    with signals.immediate():
        built = build(config, reporter, earlier)
    # The width is known only once the body is loaded.
    precision = choose_precision(config.precision, device, built.model.body.width)
    engine = Engine(device, precision, team)
    if team is not None:
        lead(team, built, engine)
    # A budget in minutes is converted to steps by timing some steps, with engine and model.
    if is_minutes(config):
        spent_s = time.monotonic() - start
        built = planned(config, built, engine, earlier=earlier, spent_s=spent_s, reporter=reporter)
    fingerprint_facts = {**numerics(device), **_facts(built), "precision": engine.precision}
    # The number of processes determines how sums are split, and so the last bits.
    if team is not None:
        fingerprint_facts["processes"] = team.rank.size
    # Before the stages, which would otherwise continue with different bits.
    folder.check_fingerprint("build", fingerprint_facts)
    folder.write_summary("build", built.summary | {"precision": engine.precision})
    # A run on the user's own data can predict for new files, which need the same preprocessing.
    if built.task.preprocessing is not None:
        write_preprocessing(folder.stage("build"), built.task.preprocessing)
        checkpoint = getattr(built.model.body, "folder", None)
        if checkpoint is not None:
            storage.write_json(folder.stage("build") / BODY_CONFIG, shareable_config(checkpoint))
    return built, engine


def _facts(built: Built) -> dict[str, Any]:
    """Return the checksums and decisions that a run's bits depend on."""
    facts: dict[str, Any] = {}
    for name, split in built.summary["splits"].items():
        facts[f"data.{name}"] = split["sha256"]
    facts["weights"] = built.summary["checkpoint_sha256"]
    for setting_name, decision in built.plan.decided.items():
        facts[setting_name] = decision.value
    return facts


def _track(job: Composed, folder: RunDirectory) -> None:
    """Start the run's tracker, if any, and send it the curves of earlier attempts.

    Accelerate must already be running.
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
    # Started before the stages, so that its imports do not coincide with imports of the run.
    tracker.start()
    folder.trackers.append(tracker)
    for stage in ("align", "finetune"):
        curve_file = folder.stage(stage) / CURVE
        folder.show(stage, storage.read_json_lines(curve_file))


def test(job: Composed, folder: RunDirectory, validated: Validated) -> Tested:
    """Read the test split, once, and measure the chosen weights and the best constant on it.

    Adds its time to `validated.seconds`.

    Raises:
        OrcaError: an expected failure, such as a missing test split.
    """
    from orca_cli.stages import finetune

    with _timed(validated.seconds, "test"):
        return finetune.test(validated.built, validated.trained, validated.engine, folder)


def done_before(job: Composed) -> Outcome | None:
    """Return the outcome of a run that is completed and lacks no baseline; None for other runs.

    The run's folder is not claimed.
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
    this process has read it.
    """
    from orca_cli.baselines import completion

    earlier_result = folder.result()
    lacking_names = completion.lacking(job.config, folder, earlier_result)
    state: State = "completed"
    built = None
    if validated is None:
        # The state becomes "completed" if baselines are added below.
        state = "skipped"
        work = "so this run is skipped (--force starts the run again)"
        if lacking_names:
            work = f"computing the run's missing baselines {', '.join(lacking_names)}"
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
    # The run has its result, but the exit code shows why its baselines are missing.
    return Outcome(
        state, code=stop.code, path=folder.path, result=result, failure=Failure(stop, stop)
    )


def _attempt(job: Composed, folder: RunDirectory, on_build: OnBuild, team: Team | None) -> Outcome:
    """Complete a run, or record in its folder why it failed; return how it ended."""
    from orca_cli.training.engine import same_threads_after

    try:
        with same_threads_after():
            return _complete(job, folder, on_build, team)
    # Also SystemExit, which Rich raises for a closed pipe.
    except (Exception, SystemExit) as error:  # noqa: BLE001 - every failure has to be recorded
        # Checked first, since a signal inside a library appears as an error of that library.
        failure: OrcaError | None = interruption_in(error)
        if failure is None:
            try:
                storage.check_pinned(folder.path)
            except OrcaError as lost:
                # A lost folder can cause any failure, which then cannot be recorded.
                return ended_by(lost, error, folder.path)
            failure = _explained(error, folder)
        outcome = ended_by(failure, error, folder.path)
        failure_record = Failure(failure, error).record()
        try:
            folder.set_state(outcome.state, code=outcome.code, error=failure_record)
        except OrcaError as full:
            # On a full disk, even the failure of the run cannot be recorded.
            terminal.log.warning(f"the run's state '{outcome.state}' could not be recorded: {full}")
        folder.ended(outcome.state, {})
        return outcome


def _explained(error: BaseException, folder: RunDirectory) -> OrcaError:
    """Return the expected failure that corresponds to an error.

    Any other error is a bug: the failure says so, and the traceback is written to error.log.
    """
    if isinstance(error, OrcaError):
        return error
    if is_exhausted(error):
        stage = folder.status().get("stage") or "build"
        hint = "free memory, or use a smaller body or less data"
        return MemoryExhaustedError("not enough memory", where=stage, hint=hint)
    expected = process_error(error) or storage.disk_error(error)
    if expected is not None:
        return expected
    error_log = folder.path / "error.log"
    hint = "run the command again with --traceback to see where it failed"
    # A full disk must not hide the bug; in that case this hint says how to see the traceback.
    with suppress(OrcaError):
        storage.write_text(error_log, "".join(traceback.format_exception(error)))
        hint = f"the traceback is in {error_log}"
    return OrcaError(
        f"unexpected {type(error).__name__}: {error}", where=folder.path.name, hint=hint
    )


def _complete(job: Composed, folder: RunDirectory, on_build: OnBuild, team: Team | None) -> Outcome:
    """Train, test (unless test=false), write the result, and add baselines to it.

    Returns how the run ended.
    """
    from orca_cli.baselines.leaderboard import leaderboard
    from orca_cli.stages.finetune import result_of

    # The test split is read after all choices have been made; with test=false it is never read.
    validated = train(job, folder, on_build, team)
    tested = test(job, folder, validated) if job.config.test else None
    result = result_of(validated, tested)
    # These two are set once the run is completed.
    result["baselines"] = {}
    result["comparison"] = None
    result |= leaderboard(result)
    result["inexact"] = folder.inexact()
    result["program"] = program.record()
    folder.write_result(result)
    # The run is completed before its baselines, so it has a result even if they fail.
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
    """Also write the program's log to the run's log file."""
    with storage.guarded(log_file):
        handler = logging.FileHandler(log_file, encoding="utf-8")
    # With times, unlike the lines on the terminal, since run.log may be read much later.
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    terminal.warn_once(handler, f"the log {log_file}")
    terminal.log.addHandler(handler)
    try:
        yield
    finally:
        # Removed before it is closed, since a further line would open the file again.
        terminal.log.removeHandler(handler)
        with suppress(OSError):  # the disk may be too full for the last lines
            handler.close()
