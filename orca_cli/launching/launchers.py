"""What starts jobs on a cluster: the Hydra launchers of this program's extras; and SLURM, which requeues a preempted job."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib import util

from orca_cli import terminal
from orca_cli.exceptions import UnavailableError

_TIMEOUT_S = 30.0
_EXTRAS = {
    "submitit_slurm": ("slurm", "hydra_submitit_launcher"),
    "submitit_local": ("slurm", "hydra_submitit_launcher"),
    "joblib": ("joblib", "hydra_joblib_launcher"),
    "ray": ("ray", "hydra_ray_launcher"),
}


def check_installed(name: str) -> None:
    """Check that a launcher of one of the extras is installed; others are left to Hydra.

    Raises:
        UnavailableError: it is not; the message names the extra.
    """
    extra, module = _EXTRAS.get(name, ("", ""))
    if not extra:
        return
    try:
        found = util.find_spec(f"hydra_plugins.{module}")
    except ModuleNotFoundError:  # no plugins at all
        found = None
    if found is None:
        hint = f"pip install 'orca-transfer[{extra}]'"
        raise UnavailableError(f"the launcher '{name}' is not installed", where="hydra/launcher", hint=hint)


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
