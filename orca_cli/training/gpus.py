"""One GPU for each job that runs at the same time on a machine, by lock files of that machine.

Each GPU has as many slots as jobs may share it (messages call them places). A process takes a GPU
by locking one of its slots, and holds the lock until it exits or crashes; from then on it sees only
that GPU. A job that finds no free slot waits.
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

JOBS_PER_GPU = "ORCA_JOBS_PER_GPU"  # environment variable: slots of each GPU; default 1
VISIBLE = "CUDA_VISIBLE_DEVICES"
_LOOK_EVERY_S = 0.5
# Holds the lock of this process's slot; the end of the process frees it.
_lock = ExitStack()
_taken: str | None = None  # name of this process's GPU


def visible() -> list[str]:
    """Return the GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them.

    Asking does not start a driver of CUDA.
    """
    variable = os.environ.get(VISIBLE)
    if variable is not None:
        names = [name.strip() for name in variable.split(",")]
        # "-1" and an empty variable hide all GPUs.
        return [name for name in names if name not in ("", "-1")]
    # Imported only where the variable does not answer: torch takes seconds to load.
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def take(names: Sequence[str], folder: Path | None = None) -> str | None:
    """Wait for a GPU with a free slot, and let this process see only that GPU until it ends.

    A process that has taken a GPU keeps it.

    Args:
        names: of the GPUs that may be taken, possibly none.
        folder: of the locks; default: one of this user in the machine's folder for temporary files.

    Returns:
        the name of the GPU, which is put into CUDA_VISIBLE_DEVICES; None if `names` is empty, or
        this process already computes on a GPU that it has not taken.

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
    # The environment is read before the wait, so that a bad number fails at once.
    slots = _slots_per_gpu()
    locks = folder or _folder()
    is_waiting = False
    while True:
        # The first slot of every GPU comes before the second slot of any.
        for slot, name in itertools.product(range(slots), names):
            if _lock_slot(locks, name, slot):
                _taken = name
                # Set before torch starts a driver, which reads the variable once.
                os.environ[VISIBLE] = name
                slot_text = f", place {slot + 1} of {slots}" if slots > 1 else ""
                log.info(f"GPU {name}{slot_text}")
                return name
        # The message is said once, not at every look.
        if not is_waiting:
            count = len(names) * slots
            log.info(
                f"all {count} places of the GPUs {', '.join(names)} are taken: waiting for one"
            )
            is_waiting = True
        # A wait may last hours, so it has to notice signals.
        signals.check()
        time.sleep(_LOOK_EVERY_S)


def _slots_per_gpu() -> int:
    """Return how many jobs may share a GPU, by the environment."""
    text = os.environ.get(JOBS_PER_GPU) or "1"
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(
            f"'{text}' is not a number of jobs", where=JOBS_PER_GPU, hint="allowed: 1 or more"
        )
    return int(text)


def _lock_slot(locks: Path, name: str, slot: int) -> bool:
    """Lock one slot of a GPU for the life of this process; False where another job has it."""
    # A name may be a UUID or a MIG device with characters such as "/", which would lead to another
    # folder.
    file_name = re.sub(r"[^A-Za-z0-9-]", "-", name)
    try:
        _lock.enter_context(storage.lock(locks / f"{file_name}.{slot}.lock"))
    except LockedError:
        return False
    return True


def _folder() -> Path:
    """Return the folder of the locks; StorageError unless it belongs to this user.

    By a link, another user could lead the locks elsewhere.
    """
    name = f"orca-gpus-{os.getuid()}"
    # SLURM may number the GPUs of each job from 0: on one machine two jobs then use the same name
    # for different GPUs.
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
