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
from orca_cli.exceptions import DataError, MemoryExhaustedError, OrcaError, interruption_in, process_error
from orca_cli.progress import Silent
from orca_cli.runs import claim
from orca_cli.runs.directory import CURVE, SETTINGS, SUMMARY, TRACKER, RunDirectory, RunName, read_or_empty
from orca_cli.runs.outcome import Failure, Outcome, State, ended_by
from orca_cli.runs.preprocessing import BODY_CONFIG, write_preprocessing
from orca_cli.runs.settings import flat
from orca_cli.runs.tracking.services import Guarded

if TYPE_CHECKING:  # torch and Hydra take seconds to import, and a completed run needs neither
    from orca_cli.config.compose import Composed
    from orca_cli.interfaces import Samples
    from orca_cli.stages.build import Built
    from orca_cli.stages.finetune import Tested, Validated
    from orca_cli.training.team import Team

Summary = dict[str, Any]
OnBuild = Callable[[Summary], None]  # what is called with the summary of stage 1


def run(
    job: Composed,
    *,
    force: bool = False,
    allow_inexact: bool = False,
    on_build: OnBuild = lambda summary: None,
    team: Team | None = None,
) -> Outcome:
    """Run one composed job, resume it, or find it completed.

    Args:
        force: run again, in a new folder, what is already completed; resume such a repeat that was interrupted.
        allow_inexact: resume although threads, packages, data or weights have changed; the result says so.
        on_build: called once the model is built.
        team: the processes that share the work, which this one leads; None for one.
    """
    name, root = run_name(job), Path(job.config.paths.runs or "")
    try:
        # Before a folder is made or an earlier one touched; a completed run needs no device, and torch takes seconds to import.
        device, precision = job.config.device, job.config.precision
        is_open = device not in ("auto", "cpu") or precision == "fp16"
        if is_open and not ((earlier := None if force else claim.look(root, name)) and earlier.result()):
            from orca_cli.training.engine import check_precision, choose_device

            check_precision(choose_device(device), precision)
        with (
            signals.deferred(),
            signals.watched(),
            claim.claim(root, name, force=force, allow_inexact=allow_inexact) as folder,
            _logged(folder.path / "run.log"),
        ):
            if folder.result():
                return completed_before(job, folder)
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
    job: Composed, folder: RunDirectory, on_build: OnBuild = lambda summary: None, team: Team | None = None
) -> Validated:
    """Run the three stages up to the choice of the weights; the test split stays closed."""
    from orca_cli.config import compose
    from orca_cli.models.checkpoints import shareable_config
    from orca_cli.runs.environment import environment
    from orca_cli.stages.align import align
    from orca_cli.stages.build import build
    from orca_cli.stages.expected_time import planned
    from orca_cli.stages.finetune import Validated, finetune
    from orca_cli.stages.optimizer_steps import lead
    from orca_cli.stages.plan import is_minutes
    from orca_cli.training.cache import numerics
    from orca_cli.training.engine import Engine, choose_device, choose_precision

    config, reporter = job.config, terminal.LogReporter()
    device = choose_device(config.device)
    device = device if team is None else team.device(device)
    storage.write_text(folder.path / SETTINGS, compose.to_yaml(job.content))
    storage.write_text(folder.path / "overrides.txt", "".join(f"{override}\n" for override in job.overrides))
    folder.write_environment(environment() | {"device": str(device), "files": job.identity.files})
    seconds: dict[str, float] = {}
    start = time.monotonic()
    with _timed(seconds, "build"):
        folder.set_state("build")
        earlier = read_or_empty(folder.stage("build") / SUMMARY)
        with signals.immediate():  # it writes whole files only
            built = build(config, reporter, earlier)
        engine = Engine(device, choose_precision(config.precision, device, built.model.body.width), team)
        if team is not None:
            lead(team, built, engine)
        if is_minutes(config):
            built = planned(config, built, engine, earlier, time.monotonic() - start, reporter)
        facts = numerics(device) | {f"data.{name}": one["sha256"] for name, one in built.summary["splits"].items()}
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
    on_build(built.summary)
    _track(job, folder)  # not timed: a budget in minutes counts the time of the stages
    with _timed(seconds, "align"):
        aligned = align(built, engine, folder, reporter)
    with _timed(seconds, "finetune"):
        trained = finetune(built, engine, folder, reporter)
    return Validated(built, aligned, trained, engine, seconds)


def _track(job: Composed, folder: RunDirectory) -> None:
    """Start the run's tracker, if it has one, with the lines of earlier attempts; accelerate has to be started before."""
    node = job.config.tracker
    if node.get(parts.TARGET) is None:
        return
    arguments = {"name": folder.path.name, "folder": folder.path / TRACKER, "store": folder.path.parent.parent}

    def make() -> Any:
        storage.make_folder(folder.path / TRACKER)
        return parts.build(node, "tracker", settings=dict(flat(job.content)), **arguments)

    tracker = Guarded(make, node[parts.TARGET].rpartition(".")[2])
    tracker.start()
    folder.trackers.append(tracker)
    for stage in ("align", "finetune"):
        folder.show(stage, storage.read_json_lines(folder.stage(stage) / CURVE))


def test(job: Composed, folder: RunDirectory, validated: Validated) -> Tested:
    """Open the test split, once, and measure the chosen weights on it."""
    from orca_cli.stages import finetune

    with _timed(validated.seconds, "test"):
        return finetune.test(validated.built, validated.trained, validated.engine, folder)


def done_before(job: Composed) -> Outcome | None:
    """Return the outcome of a run that is completed with nothing left to do; None for any other."""
    from orca_cli.baselines import completion

    run = claim.look(Path(job.config.paths.runs or ""), run_name(job))
    if run is None or not (result := run.result()) or completion.lacking(job.config, run, result):
        return None
    is_whole = (run.path / storage.MANIFEST).exists() and run.status().get("state") == "completed"
    return Outcome("skipped", path=run.path, result=result) if is_whole else None


def completed_before(job: Composed, folder: RunDirectory) -> Outcome:
    """Return the outcome of a run that is completed; baselines that it lacks are computed first (docs/baselines.md)."""
    from orca_cli.baselines import completion

    if not (names := completion.lacking(job.config, folder, folder.result())):
        terminal.log.info(f"already completed, not run again (--force does): {folder.path}")
        return Outcome("skipped", path=folder.path, result=folder.result())
    terminal.log.info(f"already completed; computing the baselines that it lacks, {', '.join(names)}: {folder.path}")

    def rebuilt() -> Built:
        from orca_cli.stages.build import build
        from orca_cli.training.engine import same_threads_after

        if job.config.train.validate_on == "test":
            completion.count_read(folder)
        train = replace(job.config.train, gradient_checkpointing=False)
        with signals.immediate(), same_threads_after():
            return build(replace(job.config, train=train, device="cpu"), Silent(), folder.result())

    return _with_baselines(job, folder, names, rebuilt, None)


def _with_baselines(
    job: Composed, folder: RunDirectory, names: list[str], make: Callable[[], Built], samples: Samples | None
) -> Outcome:
    """Compute baselines of a completed run, on what `make` builds, and the test split where this process has opened it."""
    from orca_cli.baselines import completion
    from orca_cli.baselines.inputs import Subject
    from orca_cli.stages.build import make_model
    from orca_cli.stages.finetune import best_constant
    from orca_cli.training.engine import choose_device

    before = folder.result()
    digests = {name: split["sha256"] for name, split in before["splits"].items()}

    def subject() -> Subject:
        built = make()
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
            lambda: completion.opened(folder, task.open_test, digests["test"]) if samples is None else samples,
            *outputs[1:],
            digests,
            best_constant(built),
        )

    stop, result = completion.complete(job.config, folder, names, subject), folder.result()
    state: State = "skipped" if samples is None and result["baselines"] == before["baselines"] else "completed"
    return Outcome(state, stop.code if stop else 0, folder.path, result, Failure(stop, stop) if stop else None)


def _attempt(job: Composed, folder: RunDirectory, on_build: OnBuild, team: Team | None) -> Outcome:
    """Complete a run, or record in its folder why it failed; the traceback of a bug goes into error.log."""
    from orca_cli.training.engine import same_threads_after
    from orca_cli.training.memory import is_exhausted

    try:
        with same_threads_after():
            return _complete(job, folder, on_build, team)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a failure has to be recorded, whatever it is
        if stop := interruption_in(error):
            return _recorded(folder, ended_by(stop, error, folder.path))
        try:
            storage.check_held(folder.path)
        except OrcaError as gone:  # which can cause any other failure, and leaves no place to record it
            return ended_by(gone, error, folder.path)
        failure: OrcaError | None = error if isinstance(error, OrcaError) else None
        if failure is None and is_exhausted(error):
            where, hint = folder.status().get("stage") or "build", "free some, or use a smaller body or less data"
            failure = MemoryExhaustedError("not enough memory", where=where, hint=hint)
        failure = failure or process_error(error) or storage.disk_error(error)
        if failure is None:
            path, hint = folder.path / "error.log", "--traceback shows where"
            with suppress(OrcaError):
                storage.write_text(path, "".join(traceback.format_exception(error)))
                hint = f"the traceback is in {path}"
            failure = OrcaError(f"unexpected {type(error).__name__}: {error}", where=folder.path.name, hint=hint)
        return _recorded(folder, ended_by(failure, error, folder.path))


def _complete(job: Composed, folder: RunDirectory, on_build: OnBuild, team: Team | None) -> Outcome:
    """Train, test, write the result, and add baselines to it; without the test split where the settings say so."""
    from orca_cli.baselines import completion
    from orca_cli.report.answer import numbers, svg
    from orca_cli.stages.finetune import result_of

    validated, tested = train(job, folder, on_build, team), None
    if job.config.test:
        tested = test(job, folder, validated)
        if (answer := numbers.read(folder.path)) is not None:  # dense outputs have no such picture
            storage.write_text(folder.stage("finetune") / svg.FILE, svg.draw(answer, folder.name.task))
    further: dict[str, Any] = {"baselines": {}, "comparison": None, "inexact": folder.inexact()}
    folder.write_result(result_of(validated, tested) | further)
    outcome = Outcome("completed", path=folder.path, result=folder.result())
    # The run is completed before its baselines are: whatever ends them, it keeps its result.
    if tested is not None and (names := completion.lacking(job.config, folder, outcome.result)):
        outcome = _with_baselines(job, folder, names, lambda: validated.built, tested.samples)
    folder.ended("completed", outcome.result)
    return outcome


def _recorded(folder: RunDirectory, outcome: Outcome) -> Outcome:
    """Write how a run ended into its folder, tell its trackers, and return it."""
    assert outcome.failure is not None
    try:
        folder.set_state(outcome.state, code=outcome.code, error=outcome.failure.record())
    except OrcaError as error:  # a full disk can hold neither the result nor the record that it failed
        terminal.log.warning(f"the state '{outcome.state}' could not be recorded: {error}")
    folder.ended(outcome.state, {})
    return outcome


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - start


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Write the program's log into the run's own file as well."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        terminal.log.warning(f"the log goes to standard error only: {error}")
        yield
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    terminal.warn_once(handler, f"the log {path}")
    terminal.log.addHandler(handler)
    try:
        yield
    finally:
        terminal.log.removeHandler(handler)
        with suppress(OSError):  # lines that a full disk still has no room for
            handler.close()
