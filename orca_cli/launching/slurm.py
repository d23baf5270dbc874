"""The executor of SLURM, by submitit: arrays of jobs; and what a run does for itself inside a SLURM job.

How long a job may run, its partition, account, memory and more are sbatch's own variables, such as SBATCH_TIMELIMIT and
SBATCH_PARTITION. Ends come back as JSON files in the folder of runs; no result of another machine is unpickled.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orca_cli import signals, storage, terminal
from orca_cli.exceptions import (
    LockedError,
    MemoryExhaustedError,
    OrcaError,
    PreemptionError,
    SweepError,
    UnavailableError,
)
from orca_cli.launching.process import GRACE_S, Command, Ended, attend, failure_report

ASK_EVERY_S = 10.0  # sacct, for all jobs together
LATE_S = 20.0  # for the record of a job that SLURM calls ended to appear; a needless retry finds the run done
_TIMEOUT_S = 30.0
_ALLOCATION_MIN = 240  # unless SBATCH_TIMELIMIT says otherwise; a job that needs longer is submitted again and resumes
_WARNING_S = 120  # from the warning signal to the end of an allocation, for a job to save its state
# SLURM's states of jobs that run, will run or may be started again. PREEMPTED is not one: a job that is not requeued stays so.
_ALIVE = {"READY", "PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED", "RESIZING", "UNKNOWN"}
_CODES = {
    "PREEMPTED": PreemptionError.code,
    "TIMEOUT": PreemptionError.code,
    "OUT_OF_MEMORY": MemoryExhaustedError.code,
}


@dataclass
class _Submitted:
    job: Any
    path: Path
    ended_since: float | None = None


@dataclass
class Slurm:
    """Submits jobs to SLURM.

    Args:
        folder: for submissions and ends, in the shared folder of runs.
        sweep: names the jobs in SLURM's lists, and no others.
        threads, gpus: of each job.
        at_once: jobs that are submitted at a time.
        time_limit_s: of each job; None for none.
        cluster: of submitit; its "local" runs jobs on this machine, for tests.
    """

    folder: Path
    sweep: str
    threads: int
    gpus: float
    at_once: float
    time_limit_s: float | None = None
    cluster: str = "slurm"
    name: str = "slurm"
    _executor: Any = None
    _last_query: float = -math.inf

    @contextmanager
    def opened(self) -> Iterator[Slurm]:
        """Prepare submissions; what an earlier driver of the sweep left waiting in SLURM's queue is withdrawn.

        Raises:
            UnavailableError: SLURM or submitit is not here.
        """
        try:
            submitit = importlib.import_module("submitit")
        except ImportError as error:
            hint = "pip install 'orca-transfer[slurm]'"
            raise UnavailableError("submitit is not installed", where="--on slurm", hint=hint) from error
        lacking = [one for one in ("sbatch", "srun", "sacct") if not shutil.which(one)]
        if self.cluster == "slurm" and lacking:
            hint = "type it on a machine that submits SLURM jobs"
            raise UnavailableError(f"no SLURM here: {', '.join(lacking)} not found", where="--on slurm", hint=hint)
        storage.make_folder(self.folder)
        self._executor = submitit.AutoExecutor(folder=self.folder, cluster=self.cluster)
        limit = self.time_limit_s
        minutes = _ALLOCATION_MIN if limit is None else math.ceil((limit + GRACE_S + _WARNING_S) / 60)
        more = {"signal": f"{signals.PREEMPTION.name.removeprefix('SIG')}@{_WARNING_S}", "requeue": True}
        if self.gpus:
            more["gpus"] = math.ceil(self.gpus)
        self._executor.update_parameters(
            timeout_min=minutes,
            slurm_job_name=self.sweep,
            slurm_cpus_per_task=self.threads,
            slurm_additional_parameters=more,
        )
        with ExitStack() as stack:
            with suppress(LockedError):  # of a driver of the same sweep that lives, whose jobs these are
                stack.enter_context(storage.lock(self.folder.parent / f"{self.sweep}.lock"))
                if self.cluster == "slurm":
                    _call("scancel", "--me", "--state=PENDING", f"--name={self.sweep}")
            yield self

    def start(self, commands: Sequence[Command]) -> list[_Submitted]:
        """Submit commands, several as one array.

        Raises:
            SweepError: SLURM refuses.
        """
        submitted = []
        try:
            with self._executor.batch():
                for one in commands:
                    mark = hashlib.sha256(f"{one.identity}{storage.timestamp()}".encode()).hexdigest()[:16]
                    path = self.folder / f"{mark}.json"
                    submitted.append(_Submitted(self._executor.submit(attend_and_write, asdict(one), str(path)), path))
        except subprocess.CalledProcessError as error:
            raise _refused(error.output) from error
        except importlib.import_module("submitit").core.utils.FailedJobError as error:
            raise _refused(str(error)) from error
        return submitted

    def ended(self, handle: _Submitted) -> Ended | None:
        """Return how a job ended; None while it waits or runs, or SLURM is about to start it again."""
        if handle.path.exists():
            end = Ended(**json.loads(handle.path.read_text(encoding="utf-8")))
            storage.remove(handle.path)
            return end
        now, state = time.monotonic(), self._state(handle.job)
        if state in _ALIVE:
            handle.ended_since = None
            return None
        handle.ended_since = handle.ended_since or now
        if now - handle.ended_since < LATE_S:
            return None
        what = f"SLURM ended it: {state}"
        if (code := _CODES.get(state)) is None:
            return Ended(None, lost=what)
        error = OrcaError(what)
        error.code = code
        return Ended(code, failure_report(error))

    def _state(self, job: Any) -> str:
        """Return SLURM's word for a job's state; asks for all jobs at once, and not often."""
        if self.cluster != "slurm":
            return str(job.state)
        if time.monotonic() - self._last_query > ASK_EVERY_S:
            job.watcher.update()
            self._last_query = time.monotonic()
        return str(job.watcher.get_state(job.job_id, mode="cache")).partition(" ")[0]

    def signal(self, handle: _Submitted, number: int) -> None:
        """Cancel a job, which saves its state. When the terminal is lost (SIGHUP) jobs stay: the next driver finds them."""
        if number != signal.SIGHUP:
            handle.job.cancel(check=False)


def attend_and_write(order: Mapping[str, Any], path: str) -> None:
    """Run a command in a SLURM job, and write how it ended where the driver looks."""
    storage.write_json(Path(path), attend(order))


def _refused(text: str | bytes | None) -> SweepError:
    output = text.decode(errors="replace") if isinstance(text, bytes) else text or ""
    return SweepError(
        f"SLURM refused the jobs: {' '.join(output.split())[-300:]}",
        where="--on slurm",
        hint="see SBATCH_... variables",
    )


def requeue() -> None:
    """Call `scontrol requeue` for the job that this process belongs to; do nothing outside SLURM.

    The job's script runs again with the same command, which resumes in the same run folder.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
    if not job or os.environ.get("SLURM_PROCID", "0") != "0":  # only one of a job's processes asks
        return
    if failure := _call("scontrol", "requeue", job):
        terminal.log.warning(f"SLURM job {job} could not be requeued ({failure}); submit it again to resume")
    else:
        terminal.log.info(f"SLURM job {job} is requeued and resumes where it stopped")


def _call(name: str, *words: str) -> str:
    """Call a command of SLURM; returns why that failed, empty if it did not."""
    try:
        done = subprocess.run([name, *words], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        return (done.stderr.strip() or f"exit code {done.returncode}") if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
