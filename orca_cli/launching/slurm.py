"""A SLURM job that was preempted asks to be put into the queue again."""

from __future__ import annotations

import os
import shutil
import subprocess

from orca_cli import terminal

_TIMEOUT_S = 30.0


def requeue() -> None:
    """Call `scontrol requeue` for the job that this process belongs to; outside SLURM nothing happens.

    The job's script runs again, types the same command, and that goes on in the same run folder.
    """
    job = _job_id()
    if not job or os.environ.get("SLURM_PROCID", "0") != "0":  # of several processes of a job one asks
        return
    command = shutil.which("scontrol")
    try:
        if command is None:
            raise FileNotFoundError("there is no scontrol")
        done = subprocess.run([command, "requeue", job], capture_output=True, text=True, timeout=_TIMEOUT_S)
        failure = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        failure = str(error)
    if failure:
        terminal.log.warning(f"SLURM job {job} could not be requeued ({failure}); submit it again, and it goes on")
    else:
        terminal.log.info(f"SLURM job {job} is requeued and goes on where it stopped")


def _job_id() -> str:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
