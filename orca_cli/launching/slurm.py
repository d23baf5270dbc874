"""The executor of SLURM, by submitit: arrays of jobs.

How long a job may run, its partition, account, memory and more are sbatch's own variables, such as SBATCH_TIMELIMIT and
SBATCH_PARTITION. Ends come back as JSON files in the folder of runs; no result of another machine is unpickled.
"""

from __future__ import annotations

import importlib
import json
import math
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orca_cli import exceptions, signals, storage
from orca_cli.exceptions import need
from orca_cli.launching.process import GRACE_S, Command, Ended, attend, failure_report

ASK_EVERY_S = 10.0  # sacct, for all jobs together
LATE_S = 20.0  # for the record of a job that SLURM calls ended to appear; a needless retry finds the run done
_ALLOCATION_MIN = 240  # unless SBATCH_TIMELIMIT says otherwise; a job that needs longer is submitted again and resumes
_WARNING_S = 120  # from the warning signal to the end of an allocation, for a job to save its state
# SLURM's states of jobs that run, will run or may be started again. PREEMPTED is not one: a job that is not requeued stays so.
_ALIVE = {
    "READY",
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "SUSPENDED",
    "COMPLETING",
    "REQUEUED",
    "RESIZING",
    "UNKNOWN",
}
_CODES = {
    "PREEMPTED": exceptions.PreemptionError.code,
    "TIMEOUT": exceptions.PreemptionError.code,
    "OUT_OF_MEMORY": exceptions.MemoryExhaustedError.code,
}


@dataclass
class _Submitted:
    job: Any
    path: Path
    ended_since: float | None = None


@dataclass
class Slurm:
    """Submits jobs to SLURM."""

    folder: Path  # that exists, for submissions and ends, in the shared folder of runs
    sweep: str  # names the jobs in SLURM's lists, and no others
    threads: int  # of each job
    gpus: float  # of each job
    at_once: float  # jobs that are submitted at a time
    time_limit_s: float | None = None  # of each job
    name: str = "slurm"
    _executor: Any = None
    _last_query: float = -math.inf

    @contextmanager
    def opened(self) -> Iterator[Slurm]:
        """Prepare submissions; what an earlier driver of the sweep left waiting in SLURM's queue is withdrawn.

        Raises:
            UnavailableError: SLURM or submitit is not here.
        """
        submitit = need("submitit", "--on slurm", "slurm")
        if lacking := [one for one in ("sbatch", "srun", "sacct") if not shutil.which(one)]:
            hint = "run it on a machine that can submit SLURM jobs"
            what = f"no SLURM here: {', '.join(lacking)} not found"
            raise exceptions.UnavailableError(what, where="--on slurm", hint=hint)
        self._executor = submitit.AutoExecutor(folder=self.folder, cluster="slurm")
        limit = self.time_limit_s
        minutes = (
            _ALLOCATION_MIN if limit is None else math.ceil((limit + GRACE_S + _WARNING_S) / 60)
        )
        more = {
            "signal": f"{signals.PREEMPTION.name.removeprefix('SIG')}@{_WARNING_S}",
            "requeue": True,
        }
        more |= {"gpus": math.ceil(self.gpus)} if self.gpus else {}
        self._executor.update_parameters(
            timeout_min=minutes,
            slurm_job_name=self.sweep,
            slurm_cpus_per_task=self.threads,
            slurm_additional_parameters=more,
        )
        with ExitStack() as stack:
            with suppress(
                exceptions.LockedError
            ):  # of a driver of the same sweep that lives, whose jobs these are
                stack.enter_context(storage.lock(self.folder.parent / f"{self.sweep}.lock"))
                waiting = ["scancel", "--me", "--state=PENDING", f"--name={self.sweep}"]
                with suppress(
                    OSError, subprocess.TimeoutExpired
                ):  # a needless job finds its run done
                    subprocess.run(waiting, capture_output=True, timeout=30, check=False)
            yield self

    def start(self, commands: Sequence[Command]) -> list[_Submitted]:
        """Submit commands, several as one array.

        Raises:
            SweepError: SLURM refuses.
        """
        submitted, failed = [], importlib.import_module("submitit").core.utils.FailedJobError
        try:
            with self._executor.batch():
                for place, one in enumerate(commands):
                    path = self.folder / f"{storage.timestamp()}-{place}.json"
                    submitted.append(
                        _Submitted(
                            self._executor.submit(attend_and_write, asdict(one), str(path)), path
                        )
                    )
        except (subprocess.CalledProcessError, failed) as error:
            output = getattr(error, "output", None) or str(error)
            text = output.decode(errors="replace") if isinstance(output, bytes) else output
            what = f"SLURM refused the jobs: {' '.join(text.split())[-300:]}"
            hint = "options of sbatch are set by variables such as SBATCH_PARTITION"
            raise exceptions.SweepError(what, where="--on slurm", hint=hint) from error
        return submitted

    def ended(self, handle: _Submitted) -> Ended | None:
        """Return how a job ended; None while it waits or runs, or SLURM is about to start it again."""
        if handle.path.exists():
            end = Ended(**json.loads(handle.path.read_text(encoding="utf-8")))
            storage.remove(handle.path)
            return end
        now, watcher = time.monotonic(), handle.job.watcher
        if now - self._last_query > ASK_EVERY_S:  # for all jobs at once
            watcher.update()
            self._last_query = now
        state = str(watcher.get_state(handle.job.job_id, mode="cache")).partition(" ")[0]
        if state in _ALIVE:
            handle.ended_since = None
            return None
        handle.ended_since = handle.ended_since or now
        if now - handle.ended_since < LATE_S:
            return None
        if state == "CANCELLED" and signals.pending() is not None:
            return Ended(None)  # withdrawn by this driver before it began
        error = exceptions.OrcaError(f"SLURM ended it: {state}")
        if state not in _CODES:
            return Ended(None, lost=error.what)
        error.code = _CODES[state]
        return Ended(error.code, failure_report(error))

    def signal(self, handle: _Submitted, number: int) -> None:
        """Cancel a job, which saves its state. When the terminal is lost (SIGHUP) jobs stay: the next driver finds them."""
        if number != signal.SIGHUP:
            handle.job.cancel(check=False)


def attend_and_write(order: Mapping[str, Any], path: str) -> None:
    """Run a command in a SLURM job, and write how it ended where the driver looks."""
    storage.write_json(Path(path), attend(order))
