"""A SLURM of one machine for tests: sbatch, srun, sacct, scancel and scontrol, as far as submitit asks.

Each job is a folder FOLDER/jobs/ID with `script`, `name`, `state` and, once it runs, `pid`. A job's supervisor starts it when
fewer than SLOTS others run and the queue is not held by a file FOLDER/held.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = "FAKE_SLURM"
SLOTS = 2
HELD = "held"


def install(folder: Path) -> dict[str, str]:
    """Write the commands into a folder; returns the variables that put them on the path."""
    (folder / "bin").mkdir(parents=True)
    (folder / "jobs").mkdir()
    for name in ("sbatch", "srun", "sacct", "scancel", "scontrol"):
        path = folder / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -P {__file__} {name} "$@"\n')
        path.chmod(0o755)
    return {ROOT: str(folder), "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def jobs(folder: Path, state: str = "") -> list[str]:
    """Return the ids of all jobs, or of those in a state."""
    return [job.name for job in (folder / "jobs").iterdir() if state in ("", read(job, "state"))]


def job_of(folder: Path, pid: int) -> str:
    session = str(os.getsid(pid))
    return next(
        job for job in jobs(folder, "RUNNING") if read(folder / "jobs" / job, "pid") == session
    )


def end(folder: Path, job: str, state: str) -> None:
    """End a job as SLURM does when its node fails, or when a site cancels what it preempts."""
    write(folder / "jobs" / job, "state", state)
    os.killpg(int(read(folder / "jobs" / job, "pid")), signal.SIGKILL)


def close(folder: Path) -> None:
    for job in jobs(folder, "PENDING"):
        write(folder / "jobs" / job, "state", "CANCELLED")
    for job in jobs(folder, "RUNNING"):
        with suppress(ProcessLookupError):
            end(folder, job, "CANCELLED")


def read(job: Path, name: str) -> str:
    try:
        return (job / name).read_text()
    except FileNotFoundError:
        return ""


def write(job: Path, name: str, text: str) -> None:
    (job / f".{name}").write_text(text)
    (job / f".{name}").rename(job / name)


def sbatch(root: Path, words: list[str]) -> int:
    script = Path(words[-1]).read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script, flags=re.M))
    number = str(1000 + len({job.name.split("_")[0] for job in (root / "jobs").iterdir()}))
    size = re.match(
        r"0-(\d+)", options.get("array", "").strip("'\"")
    )  # submitit submits one job without an array
    names = [f"{number}_{task}" for task in range(int(size[1]) + 1)] if size else [number]
    for name in names:
        job = root / "jobs" / name
        job.mkdir()
        write(job, "script", script)
        write(job, "name", options["job-name"].strip("'\""))
        write(job, "state", "PENDING")
    for name in names:
        command = [sys.executable, "-P", __file__, "supervise", name]
        subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    print(f"Submitted batch job {number}")  # noqa: T201
    return 0


def supervise(root: Path, words: list[str]) -> int:
    job = root / "jobs" / words[0]
    while True:
        with open(root / "slots", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if read(job, "state") != "PENDING":
                return 0
            if not (root / HELD).exists() and len(jobs(root, "RUNNING")) < SLOTS:
                write(job, "state", "RUNNING")
                break
        time.sleep(0.1)
    array, _, task = job.name.partition("_")
    variables = {
        "SLURM_JOB_ID": array,
        "SLURM_NTASKS": "1",
        "SLURM_PROCID": "0",
        "SLURM_JOB_NUM_NODES": "1",
    }
    variables |= {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task} if task else {}
    process = subprocess.Popen(
        ["bash", str(job / "script")], env=os.environ | variables, start_new_session=True
    )
    write(job, "pid", str(process.pid))
    code = process.wait()
    if read(job, "state") == "RUNNING":
        write(job, "state", "COMPLETED" if code == 0 else "FAILED")
    return 0


def srun(root: Path, words: list[str]) -> int:
    while words[0].startswith("--"):
        words = words[1 if "=" in words[0] or words[0] == "--unbuffered" else 2 :]
    return os.execvp(words[0], words)


def sacct(root: Path, words: list[str]) -> int:
    ids = {value for option, value in zip(words, words[1:], strict=False) if option == "-j"}
    print("JobID|State|NodeList")  # noqa: T201
    for job in sorted((root / "jobs").iterdir()):
        if job.name.split("_")[0] in ids:
            print(f"{job.name}|{read(job, 'state')}|here")  # noqa: T201
    return 0


def scancel(root: Path, words: list[str]) -> int:
    name = next((word.partition("=")[2] for word in words if word.startswith("--name=")), "")
    for job in (root / "jobs").iterdir():
        if (
            name and read(job, "name") == name and read(job, "state") == "PENDING"
        ) or job.name in words:
            before = read(job, "state")
            write(job, "state", "CANCELLED by 0")
            if before == "RUNNING":
                os.killpg(int(read(job, "pid")), signal.SIGTERM)
    return 0


def scontrol(root: Path, words: list[str]) -> int:
    return 0


if __name__ == "__main__":
    here = Path(os.environ[ROOT])
    sys.exit(globals()[sys.argv[1]](here, sys.argv[2:]))
