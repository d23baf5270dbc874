"""C1, C2: the disk fills at many sizes, by a limit on files and by a small file system; then space is freed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch

from orca_cli import storage
from orca_cli.exceptions import StorageError
from orca_cli.training import checkpoint
from tests.reliability.conftest import SHORT, completed, error_line
from tests.tiers import count

FIGURE = "full disks (small file system) / code 30, then exact"


@pytest.mark.slow
def test_files_that_may_not_grow(fork, small, expected, tmp_path, scorecard):
    """C1: RLIMIT_FSIZE at many sizes: 30, what was committed is intact, and without the limit it ends exactly."""
    cases = count(pr=2, nightly=30)
    for number in range(cases):
        runs = tmp_path / f"runs-{number}"
        # From the size of a record to that of half a checkpoint; what a process prints has to go into a file as well.
        limit = int(2_000 * (60_000 / 2_000) ** (number / max(cases - 1, 1)))
        case = fork("run", *small, *SHORT, f"paths.runs={runs}", limits={"RLIMIT_FSIZE": limit})
        assert re.search(r"no space left.* free", error_line(case, 30))
        for manifest in runs.rglob(storage.MANIFEST):
            storage.verify_folder(manifest.parent, extra_allowed=True)
        assert completed(fork, [*small, *SHORT], runs) == expected, limit
    scorecard.add(
        "full disks (file size limit) / code 30, then exact", cases=cases, passed=cases, target=30
    )


@pytest.fixture
def small_disk(tmp_path, mounted):
    """Return a function that gives a file system of so many bytes; it is unmounted at the end."""

    def call(size: int) -> Path:
        folder = tmp_path / f"disk-{size}"
        folder.mkdir()
        mounted(FIGURE, folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")
        return folder

    return call


@pytest.mark.slow
def test_a_disk_that_fills(fork, small, expected, small_disk, scorecard):
    """C1: a file system of many sizes: 30, and once it has grown the run ends exactly."""
    cases = count(pr=1, nightly=30)
    passed = 0
    for case in range(cases):
        size = 64 * 1024 * (2 + case)
        disk = small_disk(size)
        limited = fork("run", *small, *SHORT, f"paths.runs={disk}")
        if limited.wait(600) == 0:  # there was room for all of it; nothing was tested
            continue
        assert re.search(r"no space left.* free", error_line(limited, 30))
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert completed(fork, [*small, *SHORT], disk) == expected
        passed += 1
    scorecard.add(FIGURE, cases=passed, passed=passed, target=15)
    assert passed


def test_a_checkpoint_without_room_is_not_begun(small_disk, monkeypatch, counted):
    """C2: half the room of a checkpoint is free: refused before anything is written, with what is needed and what is free."""
    monkeypatch.setattr(checkpoint, "save_tensors", None)
    for size in (1, 4, 16):
        disk = small_disk((size * 2**20) // 2 + 2**19)
        big = {"w": torch.zeros(size * 2**20 // 4)}
        with pytest.raises(
            StorageError, match=r"no space left: [\d.]+ MiB needed, [\d.]+ MiB free"
        ):
            checkpoint.save(disk / "checkpoints", checkpoint.Checkpoint(1, big, {}))
        counted("saves without room / refused before writing", not list(disk.rglob("*")))
