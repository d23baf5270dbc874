import json
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_cli import storage
from orca_cli.exceptions import ChecksumError, Interrupted, LockedError, StorageError


def committed(path):
    with storage.commit_folder(path) as temporary:
        (temporary / "weights").write_bytes(bytes(range(256)) * 8)
        (temporary / "state.json").write_text("{}")
    return path


def test_committed_folder_verifies_and_leaves_no_temporary(tmp_path):
    storage.verify_folder(committed(tmp_path / "step-1"))
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 2047), bit=st.integers(0, 7))
def test_every_flipped_bit_is_detected(tmp_path_factory, position, bit):
    folder = committed(tmp_path_factory.mktemp("flip") / "step-1")
    content = bytearray((folder / "weights").read_bytes())
    content[position] ^= 1 << bit
    (folder / "weights").write_bytes(content)
    with pytest.raises(ChecksumError, match="weights"):
        storage.verify_folder(folder)


@pytest.mark.parametrize("manifest", ["", "{", "[]", '{"files": 3}', '{"files": {"weights": 1}}'])
def test_damaged_manifest_is_detected(tmp_path, manifest):
    folder = committed(tmp_path / "step-1")
    (folder / storage.MANIFEST).write_text(manifest)
    with pytest.raises(ChecksumError):
        storage.verify_folder(folder)


def test_missing_file_is_detected(tmp_path):
    folder = committed(tmp_path / "step-1")
    (folder / "state.json").unlink()
    with pytest.raises(ChecksumError, match=r"state\.json"):
        storage.verify_folder(folder)


def test_failed_commit_leaves_nothing_and_keeps_the_old_folder(tmp_path):
    folder = committed(tmp_path / "step-1")

    def fail():
        with storage.commit_folder(folder) as temporary:
            (temporary / "weights").write_bytes(b"new")
            raise RuntimeError("broken")

    with pytest.raises(StorageError, match="broken"):
        fail()
    storage.verify_folder(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_failed_write_keeps_the_old_content(tmp_path):
    path = tmp_path / "status.json"
    storage.write_json(path, {"state": "old"})
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(path, {"state": float("nan")})

    def half(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="no space left"):
        storage.write_with(path, half)
    assert json.loads(path.read_text()) == {"state": "old"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]


_FULL_DISK = """
import resource, sys
from pathlib import Path
from orca_cli import storage
from orca_cli.exceptions import StorageError
storage.write_text(Path(sys.argv[1]), "old")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    storage.write_bytes(Path(sys.argv[1]), b"x" * 100_000)
except StorageError as error:
    print(error)
    sys.exit(error.code)
"""


def test_full_disk_is_one_clear_line_and_loses_nothing(tmp_path):
    path = tmp_path / "result.json"
    done = subprocess.run([sys.executable, "-c", _FULL_DISK, str(path)], capture_output=True, text=True)
    assert done.returncode == 30
    assert "no space left" in done.stdout
    assert str(path) in done.stdout
    assert path.read_text() == "old"


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(StorageError, match="file stands where a folder"):
        storage.check_writable(tmp_path / "runs")


def _claim(parent, barrier, queue):
    barrier.wait()
    names = iter(f"run-{i}" for i in range(100))
    queue.put(storage.claim_folder(parent, lambda: next(names)).name)


def test_racing_processes_claim_distinct_folders(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(6), context.Queue()
    workers = [context.Process(target=_claim, args=(tmp_path, barrier, queue)) for _ in range(6)]
    for worker in workers:
        worker.start()
    names = {queue.get(timeout=20) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(names) == 6


def test_lock_is_exclusive_and_free_after_a_kill(tmp_path):
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from orca_cli import storage\n"
        "with storage.lock(Path(sys.argv[1])):\n print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline().strip() == "held"
    assert storage.is_locked(path)
    with pytest.raises(LockedError, match="another process works on"), storage.lock(path, what="run 1"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert not storage.is_locked(path)
    with storage.lock(path):
        pass


def test_json_lines_survive_a_torn_last_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    storage.append_json_line(path, {"epoch": 1})
    storage.append_json_line(path, {"epoch": 2})
    with open(path, "a") as file:
        file.write('{"epoch": 3, "lo')
    assert [record["epoch"] for record in storage.read_json_lines(path)] == [1, 2]


def test_waiting_for_a_lock_can_be_ended(tmp_path):
    def stop():
        raise Interrupted.by(15)

    with (
        storage.lock(tmp_path / "lock"),
        pytest.raises(Interrupted),
        storage.lock(tmp_path / "lock", timeout_s=60, while_waiting=stop),
    ):
        pass


def test_lock_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(StorageError), storage.lock(tmp_path / "lock"):
        pass
