"""A preempted SLURM job asks to be requeued."""

from __future__ import annotations

import os
import shutil
import subprocess

from orca_cli import terminal

_TIMEOUT_S = 30.0


def requeue() -> None:
    """Call `scontrol requeue` for the job that this process belongs to; do nothing outside SLURM.

    The job's script runs again with the same command, which resumes in the same run folder.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
    if not job or os.environ.get("SLURM_PROCID", "0") != "0":  # only one of a job's processes asks
        return
    command = shutil.which("scontrol")
    try:
        if command is None:
            raise FileNotFoundError("scontrol not found")
        done = subprocess.run([command, "requeue", job], capture_output=True, text=True, timeout=_TIMEOUT_S)
        failure = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        failure = str(error)
    if failure:
        terminal.log.warning(f"SLURM job {job} could not be requeued ({failure}); submit it again to resume")
    else:
        terminal.log.info(f"SLURM job {job} is requeued and resumes where it stopped")
