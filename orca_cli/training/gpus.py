"""One GPU for each job that runs at the same time on a machine, by lock files of that machine.

A process takes a GPU by locking one of its places, and holds the lock until it exits or crashes; from then on it sees only
that GPU. Jobs beyond the number of places wait.
"""

import itertools
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from orca_cli import signals, storage
from orca_cli.exceptions import ConfigError, LockedError, StorageError
from orca_cli.terminal import log

JOBS_PER_GPU = "ORCA_JOBS_PER_GPU"  # environment variable: places of each GPU; default 1
VISIBLE = "CUDA_VISIBLE_DEVICES"
_LOOK_EVERY_S = 0.5
_kept = ExitStack()  # the lock of this process' GPU, which its end frees
_taken: str | None = None


def visible() -> list[str]:
    """Return the names of the GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them; does not start a driver."""
    variable = os.environ.get(VISIBLE)
    if variable is not None:
        return [name for name in map(str.strip, variable.split(",")) if name and name != "-1"]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def take(names: Sequence[str], folder: Path | None = None) -> str | None:
    """Let this process see one GPU that no other job has, and keep it until it ends; waits for one.

    Args:
        names: of the GPUs that may be taken; none takes none. With one already taken by this process, that one is kept.
        folder: of the locks; default: one of this user in the machine's folder for temporary files.

    Returns:
        its name, which is put into CUDA_VISIBLE_DEVICES; None if there is none, or this process computes on a GPU already.

    Raises:
        ConfigError: ORCA_JOBS_PER_GPU is not a number of jobs.
        StorageError: the folder of the locks cannot be made, or belongs to another user.
    """
    global _taken
    torch = sys.modules.get("torch")
    if _taken is not None or not names or (torch is not None and torch.cuda.is_initialized()):
        return _taken
    text = os.environ.get(JOBS_PER_GPU) or "1"
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(
            f"'{text}' is not a number of jobs", where=JOBS_PER_GPU, hint="allowed: 1 or more"
        )
    locks, places = folder or _folder(), int(text)
    is_waiting = False
    while True:
        for place, name in itertools.product(range(places), names):
            try:
                _kept.enter_context(
                    storage.lock(locks / f"{re.sub(r'[^A-Za-z0-9-]', '-', name)}.{place}.lock")
                )
            except LockedError:
                continue
            os.environ[VISIBLE] = _taken = name
            log.info(f"GPU {name}" + (f", place {place + 1} of {places}" if places > 1 else ""))
            return name
        if not is_waiting:
            log.info(
                f"all {len(names) * places} places of the GPUs {', '.join(names)} are taken: waiting for one"
            )
            is_waiting = True
        signals.check()
        time.sleep(_LOOK_EVERY_S)


def _folder() -> Path:
    """Return the folder of the locks, which belongs to this user alone: another could lead the locks elsewhere by a link."""
    # SLURM may number the GPUs of each job from 0, so that two jobs on a machine call different cards alike.
    job = os.environ.get("SLURM_JOB_ID", "")
    name = f"orca-gpus-{os.getuid()}" + (f"-{job}" if job.isdigit() else "")
    path = storage.make_folder(Path(tempfile.gettempdir()) / name)
    facts = path.lstat()
    if path.is_symlink() or facts.st_uid != os.getuid():
        raise StorageError(
            "does not belong to this user", where=str(path), hint="remove it, or set TMPDIR"
        )
    return path
