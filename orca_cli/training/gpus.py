"""One GPU for each job that runs at the same time on a machine, by lock files of that machine.

A process takes a GPU by locking one of its places, and holds the lock until it exits or crashes;
from then on it sees only that GPU. Jobs beyond the number of places wait.
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
_lock = ExitStack()  # of this process' GPU; the end of the process frees it
_taken: str | None = None


def visible() -> list[str]:
    """Return the GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them.

    It does not start a driver.
    """
    variable = os.environ.get(VISIBLE)
    if variable is not None:
        names = [name.strip() for name in variable.split(",")]
        return [name for name in names if name not in ("", "-1")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def take(names: Sequence[str], folder: Path | None = None) -> str | None:
    """Let this process see one GPU that no other job has, and keep it until it ends.

    It waits until there is one.

    Args:
        names: of the GPUs that may be taken; none takes none. With one already taken by this
            process, that one is kept.
        folder: of the locks; default: one of this user in the machine's folder for temporary files.

    Returns:
        its name, which is put into CUDA_VISIBLE_DEVICES; None if there is none, or this process
        computes on a GPU already.

    Raises:
        ConfigError: ORCA_JOBS_PER_GPU is not a number of jobs.
        StorageError: the folder of the locks cannot be made, or belongs to another user.
    """
    global _taken
    # Once torch has started a driver, CUDA_VISIBLE_DEVICES has no effect any more. A process
    # without torch has started none, and need not import it to know.
    torch = sys.modules.get("torch")
    is_computing = torch is not None and torch.cuda.is_initialized()
    if _taken is not None or not names or is_computing:
        return _taken
    slots = _slots_of_a_gpu()
    locks = folder or _folder()
    is_waiting = False
    while True:
        # The first place of every GPU before the second of any.
        for slot, name in itertools.product(range(slots), names):
            if _lock_slot(locks, name, slot):
                _taken = name
                os.environ[VISIBLE] = name
                log.info(f"GPU {name}, place {slot + 1} of {slots}" if slots > 1 else f"GPU {name}")
                return name
        if not is_waiting:
            count = len(names) * slots
            log.info(
                f"all {count} places of the GPUs {', '.join(names)} are taken: waiting for one"
            )
            is_waiting = True
        signals.check()
        time.sleep(_LOOK_EVERY_S)


def _slots_of_a_gpu() -> int:
    """Return how many jobs may share a GPU, by the environment."""
    text = os.environ.get(JOBS_PER_GPU) or "1"
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(
            f"'{text}' is not a number of jobs", where=JOBS_PER_GPU, hint="allowed: 1 or more"
        )
    return int(text)


def _lock_slot(locks: Path, name: str, slot: int) -> bool:
    """Lock one place of a GPU for the life of this process; False where another job has it."""
    file_name = re.sub(r"[^A-Za-z0-9-]", "-", name)
    try:
        _lock.enter_context(storage.lock(locks / f"{file_name}.{slot}.lock"))
    except LockedError:
        return False
    return True


def _folder() -> Path:
    """Return the folder of the locks, which belongs to this user alone.

    Another user could lead the locks elsewhere by a link.
    """
    name = f"orca-gpus-{os.getuid()}"
    # SLURM may number the GPUs of each job from 0, so that two jobs on a machine call different
    # cards alike.
    job = os.environ.get("SLURM_JOB_ID", "")
    if job.isdigit():
        name += f"-{job}"
    path = storage.make_folder(Path(tempfile.gettempdir()) / name)
    is_own = path.lstat().st_uid == os.getuid()
    if path.is_symlink() or not is_own:
        raise StorageError(
            "does not belong to this user", where=str(path), hint="remove it, or set TMPDIR"
        )
    return path
