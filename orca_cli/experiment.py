"""One run, from the claim of its folder to its result, as a call: what `orca run`, sweeps, searches and tests use.

`run` never raises for an expected failure: it records it in the run's folder and returns it. `train` and `test` are the two
halves of a run's work; the test split stays closed until `test`.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import signals, storage, terminal
from orca_cli.config import parts
from orca_cli.exceptions import (
    DataError,
    MemoryExhaustedError,
    OrcaError,
    interruption_in,
    is_exhausted,
    process_error,
)
from orca_cli.progress import Silent
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
    from orca_cli.baselines.inputs import Subject
    from orca_cli.config.compose import Composed
    from orca_cli.stages.build import Built
    from orca_cli.stages.finetune import Tested, Validated
    from orca_cli.training.engine import Engine
    from orca_cli.training.team import Team

OnBuild = Callable[[dict[str, Any]], None]  # what is called with the summary of stage 1


def run(
    job: Composed,
    *,
    force: bool = False,
    allow_inexact: bool = False,
    on_build: OnBuild = lambda summary: None,
    team: Team | None = None,
) -> Outcome:
    """Run one composed job, resume it, or find it completed; returns how it ended, also where it failed.

    Writes one folder below `paths.runs` (docs/ARCHITECTURE.md shows it), whose status.json has the outcome as well. A signal
    ends the work at its next step, whose state is saved. A completed run gets the baselines that it lacks.

    Args:
        job: what `config.compose` returns for one set of settings.
        force: run again, in a new folder, what is already completed; resume such a repeat that was interrupted.
        allow_inexact: resume although program, threads, packages, data or weights have changed; the result says so.
        on_build: called once the model is built.
        team: the processes that share the work, which this one leads; None for one.
    """
    name, root = run_name(job), Path(job.config.paths.runs or "")
    try:
        # Before a folder is made or an earlier one touched; a completed run needs no device, and torch takes seconds to import.
        device, precision = job.config.device, job.config.precision
        is_open = device not in ("auto", "cpu") or precision == "fp16"
        if is_open and claim.peek(root, name, force=force) != "completed":
            from orca_cli.training.engine import check_precision, choose_device

            check_precision(choose_device(device), precision)
        with (
            signals.deferred(),
            signals.watched(),
            claim.claim(root, name, force=force, allow_inexact=allow_inexact) as folder,
            _logged(folder.path / "run.log"),
        ):
            if folder.result():
                return _with_baselines(job, folder)
            terminal.log.info(f"{folder.path}")
            return _attempt(job, folder, on_build, team)
    except OrcaError as error:
        return ended_by(error)


def run_name(job: Composed) -> RunName:
    """Return what identifies a composed job's run."""
    return RunName(
        **{group: job.choices[group] for group in ("task", "body", "source", "metric", "finetune")},
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

    Stages that the claimed `folder` has already are continued or read back; the other arguments are those of `run`. Writes the
    folders of the stages, and starts the run's tracker, which is added to `folder.trackers`.

    Raises:
        OrcaError: an expected failure of a stage, or a signal asked to stop (InterruptionError) and the state was saved.
    """
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
    return Validated(built, aligned, trained, engine, seconds)


def _build(job: Composed, folder: RunDirectory, team: Team | None) -> tuple[Built, Engine]:
    """Record what runs and on what, and build; FingerprintError where that differs from an earlier start of the run."""
    from orca_cli.config import compose
    from orca_cli.models.checkpoints import shareable_config
    from orca_cli.runs.environment import environment
    from orca_cli.stages.build import build
    from orca_cli.stages.expected_time import planned
    from orca_cli.stages.optimizer_steps import lead
    from orca_cli.stages.plan import is_minutes
    from orca_cli.training.cache import numerics
    from orca_cli.training.engine import Engine, choose_device, choose_precision

    start, config, reporter = time.monotonic(), job.config, terminal.LogReporter()
    device = choose_device(config.device)
    device = device if team is None else team.device(device)
    storage.write_text(folder.path / SETTINGS, compose.to_yaml(job.content))
    storage.write_text(
        folder.path / "overrides.txt", "".join(f"{override}\n" for override in job.overrides)
    )
    folder.write_environment(environment() | {"device": str(device), "files": job.identity.files})
    folder.set_state("build")
    earlier = read_or_empty(folder.stage("build") / SUMMARY)
    with signals.immediate():  # it writes whole files only
        built = build(config, reporter, earlier)
    engine = Engine(
        device, choose_precision(config.precision, device, built.model.body.width), team
    )
    if team is not None:
        lead(team, built, engine)
    if is_minutes(config):
        built = planned(config, built, engine, earlier, time.monotonic() - start, reporter)
    facts = numerics(device) | {
        f"data.{name}": one["sha256"] for name, one in built.summary["splits"].items()
    }
    facts |= {"weights": built.summary["checkpoint_sha256"], "precision": engine.precision}
    facts |= {key: decision.value for key, decision in built.plan.decided.items()}
    if team is not None:
        facts["processes"] = team.rank.size
    folder.check_fingerprint("build", facts)
    folder.write_summary("build", built.summary | {"precision": engine.precision})
    if built.task.preprocessing is not None:
        write_preprocessing(folder.stage("build"), built.task.preprocessing)
        if (checkpoint := getattr(built.model.body, "folder", None)) is not None:
            storage.write_json(folder.stage("build") / BODY_CONFIG, shareable_config(checkpoint))
    return built, engine


def _track(job: Composed, folder: RunDirectory) -> None:
    """Start the run's tracker, if it has one, with the lines of earlier attempts; accelerate has to be started before."""
    node = job.config.tracker
    if node.get(parts.TARGET) is None:
        return

    def make() -> Any:
        path = storage.make_folder(folder.path / TRACKER)
        names = {"name": folder.path.name, "folder": path, "store": folder.path.parent.parent}
        return parts.build(node, "tracker", settings=dict(flat(job.content)), **names)

    tracker = Guarded(make, node[parts.TARGET].rpartition(".")[2])
    tracker.start()
    folder.trackers.append(tracker)
    for stage in ("align", "finetune"):
        folder.show(stage, storage.read_json_lines(folder.stage(stage) / CURVE))


def test(job: Composed, folder: RunDirectory, validated: Validated) -> Tested:
    """Open the test split, once, and measure the chosen weights and the best constant on it; adds to `validated.seconds`.

    Raises:
        OrcaError: an expected failure, such as a test split that is missing.
    """
    from orca_cli.stages import finetune

    with _timed(validated.seconds, "test"):
        return finetune.test(validated.built, validated.trained, validated.engine, folder)


def done_before(job: Composed) -> Outcome | None:
    """Return the outcome of a run that is completed with nothing left to do; None for any other. Nothing is claimed."""
    from orca_cli.baselines import completion

    run = claim.look(Path(job.config.paths.runs or ""), run_name(job))
    if (
        run is None
        or not (run.path / storage.MANIFEST).exists()
        or run.status().get("state") != "completed"
    ):
        return None
    result = run.result()
    is_done = result and not completion.lacking(job.config, run, result)
    return Outcome("skipped", path=run.path, result=result) if is_done else None


def _with_baselines(
    job: Composed,
    folder: RunDirectory,
    validated: Validated | None = None,
    tested: Tested | None = None,
) -> Outcome:
    """Return the outcome of a completed run, after computing the baselines that it lacks (docs/baselines.md).

    Without `validated` another process has completed it; `tested` has the test split where this one has opened it.
    """
    from orca_cli.baselines import completion

    before = folder.result()
    state: State = "skipped" if validated is None else "completed"
    names = completion.lacking(job.config, folder, before)
    if validated is None:
        what = (
            f"computing the baselines that it lacks, {', '.join(names)}"
            if names
            else "not run again (--force does)"
        )
        terminal.log.info(f"already completed, {what}: {folder.path}")
    if not names:
        return Outcome(state, path=folder.path, result=before)

    def subject() -> Subject:
        from orca_cli.baselines.inputs import Subject
        from orca_cli.stages.build import make_model
        from orca_cli.stages.finetune import best_constant
        from orca_cli.training.engine import choose_device

        built = _rebuilt(job, folder) if validated is None else validated.built
        digests = {name: split["sha256"] for name, split in before["splits"].items()}
        if any(split["sha256"] != digests[name] for name, split in built.summary["splits"].items()):
            raise DataError("the data are not those of the run any more", where=folder.path.name)
        task, outputs = built.task, completion.saved(folder)
        return Subject(
            task,
            built.error,
            built.learned,
            len(built.learned) == len(task.train) and built.plan.train.validate_on != "test",
            built.embedder,
            lambda: make_model(built.plan, task)[0].to(choose_device(built.plan.device)),
            lambda: (
                completion.opened(folder, task.open_test, digests["test"])
                if tested is None
                else tested.samples
            ),
            *outputs[1:],
            digests,
            best_constant(built),
        )

    stop, result = completion.complete(job.config, folder, names, subject), folder.result()
    if result.get("baselines") != before.get("baselines"):
        state = "completed"
    return Outcome(
        state, stop.code if stop else 0, folder.path, result, Failure(stop, stop) if stop else None
    )


def _rebuilt(job: Composed, folder: RunDirectory) -> Built:
    """Return what stage 1 of a completed run built, on the CPU."""
    from orca_cli.baselines import completion
    from orca_cli.stages.build import build
    from orca_cli.training.engine import same_threads_after

    if job.config.train.validate_on == "test":
        completion.count_read(folder)
    train = replace(job.config.train, gradient_checkpointing=False)
    with signals.immediate(), same_threads_after():
        return build(replace(job.config, train=train, device="cpu"), Silent(), folder.result())


def _attempt(job: Composed, folder: RunDirectory, on_build: OnBuild, team: Team | None) -> Outcome:
    """Complete a run, or record in its folder why it failed, tell its trackers, and return how it ended."""
    from orca_cli.training.engine import same_threads_after

    try:
        with same_threads_after():
            return _complete(job, folder, on_build, team)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a failure has to be recorded, whatever it is
        failure: OrcaError | None = interruption_in(error)
        try:
            if failure is None:
                storage.check_pinned(folder.path)
        except (
            OrcaError
        ) as gone:  # which can cause any other failure, and leaves no place to record it
            return ended_by(gone, error, folder.path)
        failure = failure or _explained(error, folder)
        outcome = ended_by(failure, error, folder.path)
        try:
            folder.set_state(
                outcome.state, code=outcome.code, error=Failure(failure, error).record()
            )
        except (
            OrcaError
        ) as full:  # a full disk can hold neither the result nor the record that it failed
            terminal.log.warning(f"the state '{outcome.state}' could not be recorded: {full}")
        folder.ended(outcome.state, {})
        return outcome


def _explained(error: BaseException, folder: RunDirectory) -> OrcaError:
    """Return the expected failure that an error means; one of a bug, whose traceback goes into error.log, for any other."""
    if isinstance(error, OrcaError):
        return error
    if is_exhausted(error):
        where, hint = (
            folder.status().get("stage") or "build",
            "free some, or use a smaller body or less data",
        )
        return MemoryExhaustedError("not enough memory", where=where, hint=hint)
    if known := process_error(error) or storage.disk_error(error):
        return known
    path, hint = folder.path / "error.log", "--traceback shows where"
    with suppress(OrcaError):
        storage.write_text(path, "".join(traceback.format_exception(error)))
        hint = f"the traceback is in {path}"
    return OrcaError(
        f"unexpected {type(error).__name__}: {error}", where=folder.path.name, hint=hint
    )


def _complete(job: Composed, folder: RunDirectory, on_build: OnBuild, team: Team | None) -> Outcome:
    """Train, test, write the result, and add baselines to it; without the test split where the settings say so."""
    from orca_cli.stages.finetune import result_of

    validated, tested = train(job, folder, on_build, team), None
    if job.config.test:
        tested = test(job, folder, validated)
    further: dict[str, Any] = {"baselines": {}, "comparison": None, "inexact": folder.inexact()}
    further |= {"program": program.record()}
    folder.write_result(result_of(validated, tested) | further)
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
def _logged(path: Path) -> Iterator[None]:
    """Write the program's log into the run's own file as well."""
    with storage.guarded(path):
        handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    terminal.warn_once(handler, f"the log {path}")
    terminal.log.addHandler(handler)
    try:
        yield
    finally:
        terminal.log.removeHandler(handler)
        with suppress(OSError):  # lines that a full disk still has no room for
            handler.close()
