"""The executor of SLURM: arrays of jobs, submitted by submitit.

The time limit of a job, its partition, account, memory and more are set with sbatch's own
environment variables, such as SBATCH_TIMELIMIT and SBATCH_PARTITION. Jobs report how they ended in
JSON files in the folder of runs; no result from another machine is unpickled.
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

# Seconds between queries of sacct, each for all jobs together.
ASK_EVERY_S = 10.0
# Seconds that the record of a job may take to appear after SLURM reports the job's end. If it
# appears later, an unnecessary retry finds the run completed.
LATE_S = 20.0
# Minutes of each job without a time limit, unless SBATCH_TIMELIMIT is set; a job that needs longer
# is submitted again and resumes.
_ALLOCATION_MIN = 240
# Seconds from the warning signal to the end of an allocation, in which a job saves its state.
_WARNING_S = 120
_QUERY_LIMIT_S = 30
_LONGEST_OUTPUT = 300  # largest number of characters of sbatch's message
# SLURM's states of jobs that run, will run or may be started again. PREEMPTED is not among them,
# since a job that is not requeued stays in that state.
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

    # An existing folder for submissions and reports, in the shared folder of runs.
    folder: Path
    # Name that only these jobs have in SLURM's lists.
    sweep: str
    # Numbers of processors and GPUs of each job.
    threads: int
    gpus: float
    # Number of jobs that are submitted at a time.
    at_once: float
    # Time limit of each job.
    time_limit_s: float | None = None
    name: str = "slurm"
    _executor: Any = None
    _last_query: float = -math.inf

    @contextmanager
    def opened(self) -> Iterator[Slurm]:
        """Prepare submissions; withdraw jobs that an earlier driver of the sweep left waiting.

        Raises:
            UnavailableError: SLURM or submitit is missing on this machine.
        """
        submitit = need("submitit", "--on slurm", "slurm")
        programs = ("sbatch", "srun", "sacct")
        missing = ", ".join(program for program in programs if not shutil.which(program))
        if missing:
            raise exceptions.UnavailableError(
                f"SLURM is not on this machine: cannot find {missing}",
                where="--on slurm",
                hint="run the command on a machine that can submit SLURM jobs",
            )
        self._executor = submitit.AutoExecutor(folder=self.folder, cluster="slurm")
        self._executor.update_parameters(
            timeout_min=self._minutes(),
            slurm_job_name=self.sweep,
            slurm_cpus_per_task=self.threads,
            slurm_additional_parameters=self._options(),
        )
        with ExitStack() as stack:
            # If another driver of this sweep runs, it has the lock and needs the waiting jobs.
            with suppress(exceptions.LockedError):
                lock_path = self.folder.parent / f"{self.sweep}.lock"
                stack.enter_context(storage.lock(lock_path))
                self._withdraw_waiting()
            yield self

    def _minutes(self) -> int:
        """Return the length of an allocation in minutes."""
        if self.time_limit_s is None:
            return _ALLOCATION_MIN
        allocation_s = self.time_limit_s + GRACE_S + _WARNING_S
        return math.ceil(allocation_s / 60)

    def _options(self) -> dict[str, Any]:
        """Return additional options of sbatch."""
        warning_signal = signals.PREEMPTION.name.removeprefix("SIG")
        options: dict[str, Any] = {"signal": f"{warning_signal}@{_WARNING_S}", "requeue": True}
        if self.gpus:
            options["gpus"] = math.ceil(self.gpus)
        return options

    def _withdraw_waiting(self) -> None:
        command = ["scancel", "--me", "--state=PENDING", f"--name={self.sweep}"]
        # If this fails, an unnecessary job finds its run completed.
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command, capture_output=True, timeout=_QUERY_LIMIT_S, check=False)

    def start(self, commands: Sequence[Command]) -> list[_Submitted]:
        """Submit commands, several as one array.

        Raises:
            SweepError: SLURM refuses the jobs.
        """
        failed_job_error = importlib.import_module("submitit").core.utils.FailedJobError
        submitted = []
        try:
            with self._executor.batch():
                for position, command in enumerate(commands):
                    moment = storage.timestamp()
                    path = self.folder / f"{moment}-{position}.json"
                    submitted_job = self._executor.submit(
                        attend_and_write, asdict(command), str(path)
                    )
                    submitted.append(_Submitted(submitted_job, path))
        except (subprocess.CalledProcessError, failed_job_error) as error:
            output = getattr(error, "output", None) or str(error)
            output_text = output.decode(errors="replace") if isinstance(output, bytes) else output
            reason = " ".join(output_text.split())[-_LONGEST_OUTPUT:]
            raise exceptions.SweepError(
                f"SLURM refused the jobs: {reason}",
                where="--on slurm",
                hint="set options of sbatch in environment variables such as SBATCH_PARTITION",
            ) from error
        return submitted

    def ended(self, handle: _Submitted) -> Ended | None:
        """Return how a job ended.

        None while the job waits or runs, or SLURM is about to start it again.
        """
        if handle.path.exists():
            fields = json.loads(handle.path.read_text(encoding="utf-8"))
            end = Ended(**fields)
            storage.remove(handle.path)
            return end
        now = time.monotonic()
        watcher = handle.job.watcher
        if now - self._last_query > ASK_EVERY_S:
            watcher.update()
            self._last_query = now
        state_text = str(watcher.get_state(handle.job.job_id, mode="cache"))
        state = state_text.partition(" ")[0]
        if state in _ALIVE:
            handle.ended_since = None
            return None
        handle.ended_since = handle.ended_since or now
        if now - handle.ended_since < LATE_S:
            return None
        if state == "CANCELLED" and signals.pending() is not None:
            # This driver has withdrawn the job before the job began.
            return Ended(status=None)
        error = exceptions.OrcaError(f"SLURM ended the job: {state}")
        if state not in _CODES:
            return Ended(status=None, lost=error.what)
        error.code = _CODES[state]
        return Ended(status=error.code, report=failure_report(error))

    def signal(self, handle: _Submitted, number: int) -> None:
        """Cancel a job, which saves its state.

        Jobs continue when the terminal is lost (SIGHUP); the next driver finds their results.
        """
        if number != signal.SIGHUP:
            handle.job.cancel(check=False)


def attend_and_write(order: Mapping[str, Any], path: str) -> None:
    """Run a command in a SLURM job, and write how it ended to the path that the driver reads."""
    storage.write_json(Path(path), attend(order))
