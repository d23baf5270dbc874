"""One run, from the claim of its folder to its result, as a call: what `orca run`, sweeps, searches and tests use.

`run` never raises for an expected failure: it records it in the run's folder and returns it. `train` and `test` are the two
halves of a run's work; the test split stays closed until `test`.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orca_cli import parts, signals, storage, terminal
from orca_cli.exceptions import InterruptionError, MemoryExhaustedError, OrcaError, interruption_in, of_processes
from orca_cli.progress import Silent
from orca_cli.runs import claim
from orca_cli.runs.directory import SUMMARY, RunDirectory, RunName, read_or_empty
from orca_cli.runs.preprocessing import write_body_config, write_preprocessing
from orca_cli.tracking.guarded import Guarded
from orca_cli.tracking.json_lines import FILE as JSON_LINES
from orca_cli.tracking.json_lines import JsonLines

if TYPE_CHECKING:  # torch and Hydra take seconds to import, and a completed run needs neither
    from orca_cli.compose import Composed
    from orca_cli.interfaces import Recorder
    from orca_cli.stages.align import Aligned
    from orca_cli.stages.build import Built
    from orca_cli.stages.finetune import Tested, Trained
    from orca_cli.training.engine import Engine
    from orca_cli.training.team import Team

State = Literal["completed", "skipped", "failed", "interrupted", "not started"]
Summary = dict[str, Any]
Recorders = Sequence["Recorder"]


@dataclass(frozen=True)
class Failure:
    """Why a run is not completed.

    Args:
        error: what to print, in one line.
        cause: what it came from, for a traceback; the error itself where there is nothing else.
    """

    error: OrcaError
    cause: BaseException

    def record(self) -> dict[str, str]:
        """Return the failure as recorded in status.json."""
        return {"kind": type(self.error).__name__, "message": str(self.error), "hint": self.error.hint}


@dataclass(frozen=True)
class Outcome:
    """How one run ended.

    Args:
        state: skipped means that it had been completed before.
        code: exit code.
        path: the run's folder; None where none was made.
        result: content of result.json; empty unless completed or skipped.
        failure: None unless failed or interrupted.
    """

    state: State
    code: int = 0
    path: Path | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    failure: Failure | None = None


@dataclass(frozen=True)
class Validated:
    """A trained model that has not seen the test split.

    Args:
        built: task, loss, error and the model with the chosen weights.
        aligned: what stage 2 found.
        trained: what stage 3 found.
        engine: the device.
        seconds: stage -> wall time.
    """

    built: Built
    aligned: Aligned
    trained: Trained
    engine: Engine
    seconds: dict[str, float]


def _ignore(summary: Summary) -> None:
    """Do nothing."""


def run(
    job: Composed,
    *,
    force: bool = False,
    allow_inexact: bool = False,
    on_build: Callable[[Summary], None] = _ignore,
    recorders: Recorders = (),
    team: Team | None = None,
) -> Outcome:
    """Run one composed job, resume it, or find it completed.

    Args:
        job: what to run.
        force: run again, in a new folder, what is already completed.
        allow_inexact: resume although threads, packages, data or weights have changed; the result says so.
        on_build: called with the summary of stage 1.
        recorders: get every line of the curves too; one may end the run by raising PrunedError.
        team: the processes that share the work, which this one leads; None for one.
    """
    name, root = run_name(job), Path(job.config.paths.runs or "")
    try:
        _check_device(job, None if force else claim.look(root, name))
        with (
            signals.deferred(),
            signals.watched(),
            claim.claim(root, name, force=force, allow_inexact=allow_inexact) as folder,
            _logged(folder.log_file),
        ):
            if result := folder.result():
                terminal.log.info(f"already completed, not run again (--force does): {folder.path}")
                return Outcome("skipped", path=folder.path, result=result)
            terminal.log.info(f"{folder.path}")
            return _attempt(job, folder, on_build, recorders, team)
    except OrcaError as error:
        return _ended(Failure(error, error), None)


def run_name(job: Composed) -> RunName:
    """Return what identifies a composed job's run."""
    config = job.config
    choices = {group: job.choices[group] for group in ("task", "body", "source", "metric", "finetune")}
    return RunName(
        **choices,
        seed=config.seed,
        protocol=config.protocol,
        identity=job.identity.run,
        settings=job.identity.settings,
        variant=job.variant,
    )


def follow(team: Team, compose: Callable[[], Composed]) -> int:
    """Share the work of a run that another process leads; returns the exit code once it is over.

    Args:
        team: the processes of the run.
        compose: composes the same job; called once the first process has read the data, and so has made what others share.
    """
    from orca_cli.stages import following
    from orca_cli.stages.build import build
    from orca_cli.training.engine import Engine, choose_device

    order = team.listen()
    if order["name"] == "end":
        return int(order["code"])
    made: list[tuple[Built, Engine]] = []

    def make() -> dict[int, float]:
        config = compose().config
        device = team.device(choose_device(config.device))
        built = build(config, Silent())
        following.check_built(order, built, team.rank.number)
        made.append((built, Engine(device, order["precision"], team)))
        return {}

    with suppress(OrcaError):  # the first process has been told
        team.gathered(make, 0)
    if made:
        return following.follow(team, *made[0])
    while (order := team.listen())["name"] != "end":
        continue
    return int(order["code"])


def train(
    job: Composed,
    folder: RunDirectory,
    on_build: Callable[[Summary], None] = _ignore,
    recorders: Recorders = (),
    team: Team | None = None,
) -> Validated:
    """Run the three stages up to the choice of the weights; the test split stays closed.

    Raises:
        OrcaError: an expected failure of a stage.
    """
    from orca_cli.models.bodies.checkpoints import shareable_config
    from orca_cli.stages.align import align
    from orca_cli.stages.build import build
    from orca_cli.stages.finetune import finetune
    from orca_cli.stages.following import lead
    from orca_cli.stages.minutes import planned
    from orca_cli.training.engine import Engine, choose_device, choose_precision
    from orca_cli.training.numerics import numerics

    config, reporter = job.config, terminal.LogReporter()
    device = choose_device(config.device)
    device = device if team is None else team.device(device)
    _write_settings(job, folder, str(device))
    folder.attach(JsonLines(folder.stage))
    for recorder in recorders:
        folder.attach(recorder)
    seconds: dict[str, float] = {}
    start = time.monotonic()
    with _timed(seconds, "build"):
        folder.set_state("build")
        with signals.immediate():  # it writes whole files only
            built = build(config, reporter)
        data = {f"data.{name}": split["sha256"] for name, split in built.summary["splits"].items()}
        engine = Engine(device, choose_precision(config.precision, device, built.model.body.width), team)
        if team is not None:
            lead(team, built, engine)
        earlier, spent_s = read_or_empty(folder.stage("build") / SUMMARY), time.monotonic() - start
        built = planned(config, built, engine, earlier, spent_s, reporter)
        config = built.config
        facts = numerics(device) | data | {"weights": built.summary["checkpoint_sha256"], "precision": engine.precision}
        facts |= {key: decision.value for key, decision in built.decided.items()}
        if team is not None:
            facts["processes"] = team.rank.size
        folder.check_fingerprint("build", facts)
        folder.write_summary("build", built.summary | {"precision": engine.precision})
        if built.task.preprocessing is not None:
            write_preprocessing(folder.stage("build"), built.task.preprocessing)
            if (checkpoint := getattr(built.model.body, "folder", None)) is not None:
                write_body_config(folder.stage("build"), shareable_config(checkpoint))
    on_build(built.summary)
    _track(job, folder)  # outside of what is timed, since a budget in minutes counts that
    with _timed(seconds, "align"):
        aligned = align(config, built, engine, folder, reporter)
    with _timed(seconds, "finetune"):
        trained = finetune(config, built, engine, folder, reporter)
    return Validated(built, aligned, trained, engine, seconds)


def _track(job: Composed, folder: RunDirectory) -> None:
    """Start the run's tracker, if it has one, with the lines of earlier attempts; accelerate has to be started before."""
    node = job.config.tracker
    if node.get(parts.TARGET) is None:
        return
    given = {"name": folder.path.name, "folder": folder.tracker, "store": folder.path.parent.parent}

    def make() -> Any:
        storage.make_folder(folder.tracker)
        return parts.build(node, "tracker", settings=job.stored, **given)

    tracker = Guarded(make, node[parts.TARGET].rpartition(".")[2])
    tracker.start()
    for stage in ("align", "finetune"):
        if lines := storage.read_json_lines(folder.stage(stage) / JSON_LINES):
            tracker.rewind(stage, lines)
    folder.attach(tracker)


def test(job: Composed, folder: RunDirectory, validated: Validated) -> Tested:
    """Open the test split, once, and measure the chosen weights on it.

    Raises:
        OrcaError: an expected failure, such as a test split that is missing.
    """
    from orca_cli.stages import finetune

    with _timed(validated.seconds, "test"):
        built = validated.built
        return finetune.test(built.config, built, validated.trained, validated.engine, folder)


def compare(validated: Validated, tested: Tested) -> dict[str, Any]:
    """Compute the run's baselines on the test samples that it has opened, and what its error is worth beside them.

    Returns:
        entries of result.json: baselines, and comparison, None where nothing can be compared.
    """
    from orca_cli.baselines import compute, verdict

    built, samples = validated.built, tested.samples
    config = built.config
    if config.baselines == "none":
        return {"baselines": {}, "comparison": None}
    splits = built.summary["splits"] | {"test": tested.split}
    digests = {name: split["sha256"] for name, split in splits.items()}
    with _timed(validated.seconds, "baselines"):
        found = compute.compute(
            config.baselines,
            built.task,
            compute.Tested(samples, tested.targets, digests, tested.trivial, tested.constant),
            built.error,
            Path(config.paths.cache or ""),
            terminal.LogReporter(),
            with_validation=len(built.learned) > len(built.task.train),
        )
        ways = verdict.ways(config, built.task)
        value, groups = tested.score.value, samples.groups()
        told = verdict.verdict(built.error, value, tested.outputs, tested.targets, groups, found, ways)
    return {"baselines": {name: one.record() for name, one in found.items()}, "comparison": told}


def _attempt(
    job: Composed,
    folder: RunDirectory,
    on_build: Callable[[Summary], None],
    recorders: Recorders,
    team: Team | None,
) -> Outcome:
    try:
        _complete(job, folder, on_build, recorders, team)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a failure has to be recorded, whatever it is
        if stop := interruption_in(error):
            failure = Failure(stop, error)
            _record(folder, "interrupted", failure)
            folder.ended("interrupted", {})
            return _ended(failure, folder.path)
        if failed := _gone(folder):  # nowhere left to record it
            return _ended(Failure(failed, error), folder.path)
        stage = folder.status().get("stage") or "build"
        failure = Failure(_known(error, stage) or _bug(folder, error), error)
        _record(folder, "failed", failure)
        folder.ended("failed", {})
        return _ended(failure, folder.path)
    return Outcome("completed", path=folder.path, result=folder.result())


def _complete(
    job: Composed,
    folder: RunDirectory,
    on_build: Callable[[Summary], None],
    recorders: Recorders,
    team: Team | None,
) -> None:
    """Train, test, compare with baselines and write the result; without the test split where the settings say so."""
    validated = train(job, folder, on_build, recorders, team)
    inexact = {"inexact": folder.inexact()}
    if not job.config.test:
        folder.write_result(_result(validated, None) | {"baselines": {}, "comparison": None} | inexact)
        return
    tested = test(job, folder, validated)
    compared = compare(validated, tested)
    _draw(folder)
    result = _result(validated, tested) | compared | inexact
    folder.write_result(result)
    folder.ended("completed", result)


def _draw(folder: RunDirectory) -> None:
    """Draw what the run predicted into its folder; dense outputs have no such picture."""
    from orca_cli.report.answer import numbers, svg

    if (answer := numbers.read(folder.path)) is not None:
        storage.write_text(folder.stage("finetune") / svg.FILE, svg.draw(answer, folder.name.task))


def _ended(failure: Failure, path: Path | None) -> Outcome:
    state: State = "interrupted" if isinstance(failure.error, InterruptionError) else "failed"
    return Outcome(state, failure.error.code, path, failure=failure)


def _check_device(job: Composed, earlier: RunDirectory | None) -> None:
    """Refuse a device that is absent, or a precision that it lacks, before a folder is made or an earlier one touched.

    Args:
        job: what to run.
        earlier: the folder of the same run, if any; a completed one needs no device.
    """
    config = job.config
    unconditional = config.device in ("auto", "cpu") and config.precision != "fp16"
    if unconditional or (earlier is not None and earlier.result()):
        return  # without torch, whose import takes seconds
    from orca_cli.training.engine import check_precision, choose_device

    check_precision(choose_device(config.device), config.precision)


def _write_settings(job: Composed, folder: RunDirectory, device: str) -> None:
    """Write the run's settings and environment."""
    from orca_cli import compose
    from orca_cli.runs.environment import environment

    storage.write_text(folder.path / "config.yaml", compose.to_yaml(job.stored))
    storage.write_text(folder.path / "overrides.txt", "".join(f"{override}\n" for override in job.overrides))
    folder.write_environment(environment() | {"device": device, "files": job.identity.files})


def _gone(folder: RunDirectory) -> OrcaError | None:
    """Return the failure that the run's folder is gone, which can cause any other; else None."""
    try:
        storage.check_held(folder.path)
    except OrcaError as error:
        return error
    return None


def _known(error: BaseException, stage: str) -> OrcaError | None:
    """Return an exception of a stage as an expected failure, None for a bug."""
    from orca_cli.training.memory import is_exhausted

    if isinstance(error, OrcaError):
        return error
    if is_exhausted(error):
        return MemoryExhaustedError(
            "not enough memory", where=stage, hint="free some, or use a smaller body or less data"
        )
    return of_processes(error) or storage.of_the_disk(error)


def _bug(folder: RunDirectory, error: BaseException) -> OrcaError:
    """Keep the traceback of an unexpected failure in the run's folder, and return the line to print."""
    path = folder.path / "error.log"
    try:
        storage.write_text(path, "".join(traceback.format_exception(error)))
        hint = f"the traceback is in {path}"
    except OrcaError:
        hint = "--traceback shows where"
    return OrcaError(f"unexpected {type(error).__name__}: {error}", where=folder.path.name, hint=hint)


def _record(folder: RunDirectory, state: State, failure: Failure) -> None:
    try:
        folder.set_state(state, code=failure.error.code, error=failure.record())
    except OrcaError as error:  # a full disk can hold neither the result nor the record that it failed
        terminal.log.warning(f"the state '{state}' could not be recorded: {error}")


def _result(validated: Validated, tested: Tested | None) -> dict[str, Any]:
    """Return the result record of a completed run; `tested` is None where the test split stays closed."""
    built, aligned, trained = validated.built, validated.aligned, validated.trained
    config = built.config
    seconds = dict(validated.seconds)
    seconds["finetune"] += seconds.pop("test", 0.0)
    return {
        "synthetic": built.task.synthetic,
        "size": built.task.size,
        "error": _error(built, tested),
        "validation_error": trained.validation_error,
        "trivial_error": None if tested is None else tested.trivial,
        "selected": trained.selected,
        "decided": built.summary["decided"],
        "augment": config.augment if config.augment.get(parts.TARGET) is not None else None,
        "training": {
            "warmup_epochs": built.summary["warmup_epochs"],
            "precision": validated.engine.precision,
            "processes": validated.engine.cuts.processes,
            "micro_batches": validated.engine.cuts.splits,
            "gradient_checkpointing": config.train.gradient_checkpointing,
            "compile": config.train.compile,
            "rate_change": None if trained.rate is None else trained.rate.plain(),
        },
        "test_reads": 0 if tested is None else tested.reads,
        "splits": built.summary["splits"] | ({} if tested is None else {"test": tested.split}),
        "metric_value": {"before": aligned.before, "after": aligned.after, "floor": aligned.floor or None},
        "alignment": {
            "method": config.align.method,
            "select": config.align.select,
            "steps": aligned.steps,
            "tried": aligned.tried,
            "collapse": aligned.collapse,
        },
        "curves": {"align": aligned.curve, "finetune": trained.curve},
        "expected_s": built.summary.get("expected_s"),
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        "trajectory_s": aligned.seconds,
        "parameters": built.summary["parameters"],
        "weights_sha256": trained.weights_sha256,
    }


def _error(built: Built, tested: Tested | None) -> dict[str, Any]:
    """Return the test error as result.json has it."""
    error, score = built.error, None if tested is None else tested.score
    reason = "the test split stayed closed (test=false)"
    if score is not None:
        reason = "" if score.value is not None else f"undefined on all {score.skipped} that it averages over"
    return {
        "name": error.name,
        "value": None if score is None else score.value,
        "reason": reason or None,
        "n": 0 if score is None else score.n,
        "skipped": 0 if score is None else score.skipped,
        "percent": error.percent,
        "others": {} if score is None else dict(score.others),
    }


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note how long a block took."""
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
    terminal.told_once(handler, f"the log {path}")
    terminal.log.addHandler(handler)
    try:
        yield
    finally:
        terminal.log.removeHandler(handler)
        with suppress(OSError):  # lines that a full disk still has no room for
            handler.close()
