"""`orca tune`: a search for settings on validation data, and `orca run tune=asha`, which searches before it runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orca_cli import parts, signals, storage, terminal
from orca_cli.commands import trial
from orca_cli.commands.job import print_traceback
from orca_cli.commands.options import add_allow_module, add_config_dir
from orca_cli.commands.tune_report import Arm, report, shown
from orca_cli.exceptions import OrcaError, SweepError, UsageError
from orca_cli.launching import processes
from orca_cli.schema import Tune
from orca_cli.terminal import Result
from orca_cli.tuning import found, hparams, trials
from orca_cli.tuning import plan as plans
from orca_cli.tuning.search import Search

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.compose import Composed, Session

EXAMPLES = """\
examples:
  orca tune task=digits trials=20                       the defaults, and 19 trials of the space `small`
  orca tune task=digits trials=20 --jobs 2              two trials at a time; they share the threads
  orca tune task=ecg space=paper_roberta trials=50      the paper's space for text bodies; or a YAML file of yours
  orca tune task=digits trials=20 seeds=3               a trial is the mean over three seeds
  orca tune task=digits metric=none,otdd per_arm=true   a search for each metric, with as many trials
  orca tune task=digits --storage postgresql://host/db  trials in a database, for machines without a shared folder
  orca run tune=asha task=digits metric=otdd            the search without alignment, then the run with what it found

Trials are runs whose test split stays closed; those that fall behind on validation data are stopped early (ASHA). Typed again,
the command goes on where it was stopped or killed; with more trials it adds to those that are done. The same command on
another machine with the same folder of runs, or the same --storage, works on the same search."""
_SHORT = tuple(name for name in vars(Tune()) if name != "algorithm")  # settings that `orca tune` takes without `tune.`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Search for settings on validation data: ASHA, as in the paper's Appendix A.3.3."
    parser.epilog = EXAMPLES
    text = f"settings, as of `orca run`; {', '.join(_SHORT)} are those of the search"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=text)
    add_config_dir(parser, "space/x.yaml, task/x.yaml, ...; what is found is written there")
    add_allow_module(parser)
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="trials at a time, which share the threads; default: 1"
    )
    text = f"where trials are kept: a journal file or a database's address; default: ${trials.VARIABLE}, else below the runs"
    parser.add_argument("--storage", metavar="URL", help=text)
    text = "folder of settings for what is found; default: that of --config-dir, else .tuned below the runs"
    parser.add_argument("--to", type=Path, metavar="DIR", help=text)
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    parser.add_argument("-q", "--quiet", action="store_true", help="log warnings only")
    parser.add_argument(
        processes.OPTION, nargs=4, help=argparse.SUPPRESS
    )  # given by a command to its workers and trials
    parser.add_argument(trial.OPTION, nargs=3, help=argparse.SUPPRESS)


def execute(arguments: argparse.Namespace) -> Result:
    """Search, and return what was found."""
    for module in arguments.allow_module:
        parts.allow_module(module)
    if arguments.trial:
        return trial.execute(arguments)
    place = processes.Place.read(arguments.job) if arguments.job else None
    if place is not None:
        processes.end_with_parent(place.parent)
    if arguments.jobs < 1:
        raise UsageError(f"{arguments.jobs} is out of range", where="--jobs", hint="allowed: 1 or more")
    trials.check_installed()
    if arguments.storage is not None:
        trials.check_address(arguments.storage)
    terminal.configure_logging(verbose=arguments.verbose, quiet=arguments.quiet)
    from orca_cli import compose

    with signals.deferred(insistent=place is None), compose.session(arguments.config_dir) as session:
        arms = _arms(session, _in_full(arguments.overrides), arguments)
        if place is not None:
            return _worker(arms, arguments, place)
        storage.check_writable(arms[0].plan.folder.parent)
        for arm in arms:
            arm.search.prepare()
            _say_start(arm)
        _search(arms, arguments)
        for arm in arms:
            _keep(arm)
        failures: list[OrcaError] = []
        if lost := sum(found.of(arm.search).count("failed") for arm in arms):
            text = f"{lost} trials failed"
            failures.append(
                SweepError(text, where="tune", hint="fix the cause and rerun the command, which tries them again")
            )
        return report(arms, plans.without(arguments.overrides, *_SHORT, "tune", "hparams"), arguments, failures)


def tuned(session: Session, arguments: argparse.Namespace) -> Composed:
    """Search as the settings of `orca run tune=asha` say, and return the run with what was found.

    The search comes before stage 1 and not after it, as in the paper; that makes no difference, since stage 1 depends on
    nothing that is searched for but the seed and the settings themselves.

    Raises:
        InterruptionError: a signal asked to stop; the search goes on when the command is typed again.
        OrcaError: nothing was found, since the settings as they are cannot be run.
    """
    trials.check_installed()
    arguments.storage = arguments.to = None
    (arm,) = _arms(session, arguments.overrides, arguments)
    arm.search.prepare()
    _say_start(arm)
    trial.work(arm.plan, arm.search, arguments, wait=True)
    signals.check()
    _keep(arm)
    with terminal.lost_output_allowed():
        terminal.print_result(*shown(arm, found.of(arm.search)))
    best = found.of(arm.search).best
    if best is None or best.settings is None:
        return session.compose(arguments.overrides)
    return session.compose(plans.applied(arguments.overrides, arm.plan, best.settings))


def _in_full(overrides: Sequence[str]) -> list[str]:
    """Return overrides of `orca tune` as those of `orca run`: trials=20 is tune.trials=20."""
    words = [f"tune.{text}" if text.partition("=")[0] in _SHORT else text for text in overrides]
    return [*(word for word in words if word.partition("=")[0] not in ("tune", "tune.algorithm")), "tune=asha"]


def _arms(session: Session, overrides: Sequence[str], arguments: argparse.Namespace) -> list[Arm]:
    """Return the searches, opened, each with where its settings will be written."""
    made = plans.make(session, overrides, arguments.config_dir)
    address = arguments.storage or os.environ.get(trials.VARIABLE)
    arms = []
    for plan in made:
        folder = arguments.to or arguments.config_dir or plan.folder.parent.parent / hparams.FOLDER
        name = f"{plan.run}-{plan.arm}" if plan.tune.per_arm else plan.run
        path = hparams.path_of(folder, name)
        search = Search(plan.name, address or plan.address, plan.folder, plan.space, plan.tune)
        arms.append(Arm(plan, search, folder, path))
    return arms


def _say_start(arm: Arm) -> None:
    state, tune = found.of(arm.search), arm.plan.tune
    done = state.count("completed", "stopped")
    terminal.log.info(
        f"search {arm.plan.name}: {tune.trials} trials of space={arm.plan.space.name}, {done} done;"
        f" in {trials.shown(arm.search.address)}"
    )


def _search(arms: Sequence[Arm], arguments: argparse.Namespace) -> None:
    """Run all trials here, or in as many workers as --jobs says; raises InterruptionError where a signal asks to stop."""
    if arguments.jobs == 1:
        for arm in arms:
            trial.work(arm.plan, arm.search, arguments)
            signals.check()
        return
    words = ["tune", *arguments.overrides]
    words += [f"--{flag}" for flag in ("verbose", "quiet", "traceback") if getattr(arguments, flag)]
    words += [] if arguments.config_dir is None else ["--config-dir", str(arguments.config_dir)]
    words += [] if arguments.to is None else ["--to", str(arguments.to)]
    words += [word for module in arguments.allow_module for word in ("--allow-module", module)]
    if arguments.storage is not None:
        os.environ[trials.VARIABLE] = arguments.storage
    workers = [processes.Job(f"[{number}]", words) for number in range(1, arguments.jobs + 1)]
    ends = processes.run_all(workers, main=arguments.program, at_once=arguments.jobs)
    signals.check()
    failed = [end for end in ends if end.status]
    if failed and not any(arm.search.is_finished() and found.of(arm.search).best for arm in arms):
        raise SweepError("the workers failed", where="tune", hint="see the errors above; rerun the command to go on")


def _worker(arms: Sequence[Arm], arguments: argparse.Namespace, place: processes.Place) -> Result:
    """Work on the searches, as one of several processes."""
    code = 0
    try:
        for arm in arms:
            trial.work(arm.plan, arm.search, arguments)
        signals.check()
    except OrcaError as error:
        code = error.code
        print_traceback(arguments, error)
        if signals.pending() is None:
            terminal.print_error(f"orca: error: {error}")
    processes.say(place.pipe, {"state": "ended", "code": code})
    return Result({}, code=code)


def _keep(arm: Arm) -> None:
    """Write the settings found, where they are better than those that were there."""
    state = found.of(arm.search)
    best = state.best
    if best is None or best.settings is None or state.defaults is None:
        return
    about = f"search {arm.plan.name}, trial {best.number} of {len(state.rows)}, on validation data only"
    hparams.write(arm.path, about, arm.plan.before, arm.plan.found(best.settings))
    arm.written = True
