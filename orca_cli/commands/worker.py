"""`orca worker`: take the jobs of a sweep that lies in a shared folder, one after the other, until none is left."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from orca_cli import signals, terminal
from orca_cli.commands.options import add_allow_module, add_config_dir
from orca_cli.configuration import default_folders
from orca_cli.exceptions import OrcaError, PreemptionError, UsageError
from orca_cli.launching import launchers, queue
from orca_cli.terminal import Result

_KINDS: tuple[queue.Kind, ...] = ("todo", "leased", "done", "failed")

EXAMPLES = """\
examples:
  orca run -m task=digits seed='range(40)' --enqueue     puts 40 jobs into ./runs (or $ORCA_RUNS) and says their name
  orca worker digits-1e791e76                       on each machine that sees that folder, as often as you want
  orca worker digits-1e791e76 --wait                stays until all jobs have ended, and takes over those of dead workers
  orca worker --list                                all sweeps: jobs to do, leased, done, failed
  orca worker --list digits-1e791e76                each job: by whom it is leased, why it failed

A worker leases the next job, runs it as `orca run` does, in a process of its own, and goes on. It renews the lease meanwhile;
one that is not renewed for --lease seconds, by the clock of the shared file system, is taken over, and the run resumes from its
last checkpoint. SIGTERM, SIGHUP and Ctrl-C save the job's state and give the job back (143, 129, 130); SIGUSR1, or the signal
in ORCA_PREEMPTION_SIGNAL, does so with exit code 75, and inside a SLURM job `scontrol requeue` is called. Exit code 3: some
jobs failed. Typing the command with --enqueue again lets failed jobs be tried again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Take the jobs of a sweep that lies in a shared folder, until none is left."
    parser.epilog = EXAMPLES
    text = "the name that `orca run -m ... --enqueue` said, or the folder RUNS/.sweeps/NAME"
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help=text)
    parser.add_argument(
        "--list", action="store_true", help="show the state of the sweeps, or of the jobs of one; run nothing"
    )
    parser.add_argument("--wait", action="store_true", help="stay until the jobs that others have leased have ended")
    text = "how often a job that failed is tried again; default: 1"
    parser.add_argument("--retries", type=int, default=1, metavar="N", help=text)
    text = f"others may take a job over when its lease was not renewed for this time; default: {queue.LEASE_S:g}"
    parser.add_argument("--lease", type=float, default=queue.LEASE_S, metavar="SECONDS", help=text)
    add_config_dir(parser)
    add_allow_module(parser)
    text = "resume although threads, packages, data or weights have changed; the result says so"
    parser.add_argument("--allow-inexact-resume", action="store_true", help=text)
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    parser.add_argument("-q", "--quiet", action="store_true", help="log warnings only")


def execute(arguments: argparse.Namespace) -> Result:
    """Show the state of sweeps, or work."""
    root = Path(default_folders()["runs"]).absolute()
    if arguments.retries < 0:
        raise UsageError(f"{arguments.retries} is out of range", where="--retries", hint="allowed: 0 or more")
    if not 1 <= arguments.lease < float("inf"):
        raise UsageError(f"{arguments.lease:g} is out of range", where="--lease", hint="allowed: 1 or more")
    if arguments.list:
        return _of_sweep(queue.find(root, arguments.sweep)) if arguments.sweep else _of_sweeps(root)
    if arguments.sweep is None:
        known = queue.names(root)
        hint = f"in {root}: {', '.join(known)}" if known else "orca run -m ... --enqueue makes one"
        raise UsageError("the name of a sweep is needed", where="SWEEP", hint=hint)
    found = queue.find(root, arguments.sweep)
    terminal.configure_logging(verbose=arguments.verbose, quiet=arguments.quiet)
    with signals.deferred():
        code = 1
        try:
            from orca_cli.commands import work

            result = work.work(found, arguments)
            code = result.code
            return result
        except PreemptionError as stop:
            code = stop.code
            raise
        finally:
            if code == PreemptionError.code:
                launchers.requeue()


def _of_sweeps(root: Path) -> Result:
    """Return how many jobs of each sweep are where."""
    records: list[dict[str, Any]] = []
    for name in queue.names(root):
        try:
            counts = Counter(state.kind for state in queue.find(root, name).states())
        except OrcaError as error:  # the others are to be seen
            terminal.log.warning(f"{error}")
            continue
        records.append({"sweep": name, "jobs": counts.total(), **{kind: counts[kind] for kind in _KINDS}})
    rows = [[record["sweep"], *(str(record[key]) for key in ("jobs", *_KINDS))] for record in records]
    shown: list[RenderableType] = [terminal.table(("sweep", "jobs", *_KINDS), rows)]
    return Result({"schema": 1, "sweeps": records}, shown if records else [f"no sweeps in {root} (ORCA_RUNS)"])


def _of_sweep(found: queue.Queue) -> Result:
    """Return the state of each job of a sweep."""
    ages = found.renewed_s_ago()
    states = found.states()
    records: list[dict[str, Any]] = []
    for number, (job, state) in enumerate(zip(found.jobs, states, strict=True), start=1):
        record = {"job": number, "settings": job.settings, "state": state.kind, "identity": job.identity}
        record |= {"attempts": state.attempt, "failed": state.failures, "lost": state.losses}
        record |= {key: state.last.get(key) if state.kind != "todo" else None for key in ("host", "pid", "error")}
        records.append(record | {"renewed_s_ago": ages.get(number) if state.kind == "leased" else None})
    counts = Counter(state.kind for state in states)
    text = f"sweep {found.name}: {', '.join(f'{counts[kind]} {kind}' for kind in _KINDS)}"
    return Result({"schema": 1, "sweep": found.name, "jobs": records}, _table(records, text))


def _table(records: list[dict[str, Any]], text: str) -> Iterator[RenderableType]:
    rows = []
    for record in records:
        who = f"process {record['pid']} on {record['host']}" if record["host"] else ""
        notes = [f"renewed {record['renewed_s_ago']:.0f} s ago"] if record["renewed_s_ago"] is not None else []
        notes += [f"failed {record['failed']} times"] * (record["failed"] > 1)
        notes += [f"its worker died {record['lost']} times"] * (record["lost"] > 0)
        notes += [str(record["error"])] if record["error"] else []
        style = "red" if record["state"] == "failed" else ""
        cells = (str(record["job"]), record["settings"], record["state"], who, "; ".join(notes))
        rows.append([Text(cell, style=style) for cell in cells])
    yield terminal.table(("job", "settings", "state", "by", ""), rows)
    yield text
