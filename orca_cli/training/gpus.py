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
        listed_names = [name.strip() for name in variable.split(",")]
        # "-1" and an empty variable hide all GPUs.
        return [name for name in listed_names if name not in ("", "-1")]
    # Imported only if the variable is not set: torch takes seconds to load.
    import torch

    return list(map(str, range(torch.cuda.device_count())))


def take(names: Sequence[str], folder: Path | None = None) -> str | None:
    """Wait for a GPU with a free slot, and let this process see only that GPU until it ends.

    A process that has taken a GPU keeps it.

    Args:
        names: names of the GPUs that may be taken; may be empty.
        folder: folder of the locks; default: this user's folder among the machine's temporary
            files.

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
    lock_folder = folder or _lock_folder()
    is_waiting = False
    while True:
        # The first slot of every GPU comes before the second slot of any.
        for slot, gpu_name in itertools.product(range(slots), names):
            if _lock_slot(lock_folder, gpu_name, slot):
                _taken = gpu_name
                # Set before torch starts a driver, which reads the variable once.
                os.environ[VISIBLE] = gpu_name
                message = f"GPU {gpu_name}"
                if slots > 1:
                    message += f", place {slot + 1} of {slots}"
                log.info(message)
                return gpu_name
        # The message is logged once, not at every attempt.
        if not is_waiting:
            slot_count = len(names) * slots
            gpu_names = ", ".join(names)
            log.info(
                f"waiting for a GPU: other jobs use all {slot_count} places on GPUs {gpu_names}"
            )
            is_waiting = True
        # A wait may last hours, so it must notice signals.
        signals.check()
        time.sleep(_LOOK_EVERY_S)


def _slots_per_gpu() -> int:
    """Return how many jobs may share a GPU, by the environment."""
    setting = os.environ.get(JOBS_PER_GPU) or "1"
    if not setting.isdigit() or int(setting) < 1:
        raise ConfigError(f"must be an integer of at least 1, got '{setting}'", where=JOBS_PER_GPU)
    return int(setting)


def _lock_slot(lock_folder: Path, gpu_name: str, slot: int) -> bool:
    """Lock one slot of a GPU for the life of this process; False if another job has it."""
    # A name may be a UUID or a MIG device with characters such as "/", which would lead to another
    # folder.
    name_in_file = re.sub(r"[^A-Za-z0-9-]", "-", gpu_name)
    try:
        _lock.enter_context(storage.lock(lock_folder / f"{name_in_file}.{slot}.lock"))
    except LockedError:
        return False
    return True


def _lock_folder() -> Path:
    """Return the folder of the locks; StorageError unless it belongs to this user.

    Through a link, another user could redirect the locks to another folder.
    """
    folder_name = f"orca-gpus-{os.getuid()}"
    # SLURM may number the GPUs of each job from 0: on one machine two jobs then use the same name
    # for different GPUs.
    slurm_job = os.environ.get("SLURM_JOB_ID", "")
    if slurm_job.isdigit():
        folder_name += f"-{slurm_job}"
    lock_folder = storage.make_folder(Path(tempfile.gettempdir(), folder_name))
    is_own_folder = lock_folder.lstat().st_uid == os.getuid()
    if lock_folder.is_symlink() or not is_own_folder:
        raise StorageError(
            "does not belong to this user",
            where=str(lock_folder),
            hint="remove it, or set TMPDIR to another folder",
        )
    return lock_folder
