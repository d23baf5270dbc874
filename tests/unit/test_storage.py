import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from orca_cli import storage
from orca_cli.exceptions import CheckpointError, ChecksumError, InterruptionError, LockedError, StorageError


def committed(path):
    with storage.commit_folder(path) as temporary:
        (temporary / "weights").write_bytes(bytes(range(256)) * 8)
        (temporary / "state.json").write_text("{}")
    return path


def with_manifest(folder, **changes):
    """Write a manifest whose own checksum is right."""
    manifest = storage.read_checked_json(folder / storage.MANIFEST)
    storage.write_checked_json(folder / storage.MANIFEST, manifest | changes)


DAMAGE = {
    f"manifest {text}": (
        lambda folder, text=text: (folder / storage.MANIFEST).write_text(text),
        ChecksumError,
        "MANIFEST|manifest",
    )
    for text in ("", "{", "[]", '{"files": 3}', '{"files": {"weights": 1}}')
} | {
    "a file less": (lambda folder: (folder / "state.json").unlink(), ChecksumError, r"state\.json"),
    "a file more": (lambda folder: storage.write_text(folder / "best" / "more", ""), ChecksumError, "best/more"),
    "a newer program": (lambda folder: with_manifest(folder, schema=2), CheckpointError, "schema 2"),
}
for place in ("../secret", "/etc/passwd", "a/../../secret"):
    DAMAGE[f"names {place}"] = (
        lambda folder, place=place: with_manifest(folder, files={place: {"size": 6, "sha256": "0"}}),
        ChecksumError,
        "names files outside the folder",
    )


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_wrong_with_a_folder_is_reported(tmp_path, name):
    change, error, message = DAMAGE[name]
    folder = committed(tmp_path / "step-1")
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    storage.verify_folder(folder)
    (folder / "best").mkdir()
    change(folder)
    with pytest.raises(error, match=message):
        storage.verify_folder(folder)
    if error is ChecksumError:
        assert any(re.search(message, problem) for problem in storage.folder_problems(folder)[1])
    if name == "a file more":
        storage.verify_folder(folder, extra_allowed=True)


def test_some_files_of_a_sealed_folder_are_verified_alone_and_say_whose_they_are(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    storage.seal(tmp_path, [tmp_path / "a", tmp_path / "b"], owner="me")
    assert storage.verify_folder(tmp_path) == "me"
    (tmp_path / "b").write_text("changed")
    assert storage.verify_folder(tmp_path, only=["a"]) == "me"
    for other, message in (("b", "'b' has changed"), ("c", "'c' is not in its manifest")):
        with pytest.raises(ChecksumError, match=message):
            storage.verify_folder(tmp_path, only=["a", other])


def test_what_cannot_be_read_is_not_called_damage(tmp_path, monkeypatch):
    folder = committed(tmp_path / "step-1")

    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage.folders, "sha256_file", fail)
    with pytest.raises(StorageError, match="cannot be read: Input/output error"):
        storage.verify_folder(folder)


def test_every_bit_of_a_manifest_counts(tmp_path):
    folder = committed(tmp_path / "step-1")
    manifest = folder / storage.MANIFEST
    content = manifest.read_bytes()
    for position in range(len(content)):
        for bit in range(0, 8, 3):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            manifest.write_bytes(changed)
            with pytest.raises(ChecksumError):
                storage.verify_folder(folder)


def test_what_stands_in_the_way_is_reported(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(StorageError, match="file stands where a folder"):
        storage.check_writable(tmp_path / "runs")
    (tmp_path / "lock").mkdir()
    with pytest.raises(StorageError), storage.lock(tmp_path / "lock"):
        pass


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    """Temporary names are unpredictable; a planted link with the right name is an error, and its target stays untouched."""
    target, folder = tmp_path / "mine", tmp_path / "shared"
    target.write_text("old")
    os.utime(target, (0, 0))
    folder.mkdir()
    for foreseen in (f"{os.getpid()}-x", f"clock-{os.uname().nodename}-{os.getpid()}"):
        (folder / f".tmp-{foreseen}").symlink_to(target)
    storage.write_text(folder / "x", "new")
    assert storage.clock(folder) == pytest.approx(time.time(), abs=60)
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    for name in ("x", "clock"):
        (folder / f".tmp-guessed-{name}").symlink_to(target)
    with pytest.raises(StorageError):
        storage.write_text(folder / "x", "new")
    assert storage.clock(folder) is None
    assert (target.read_text(), target.stat().st_mtime) == ("old", 0)


def test_leftovers_are_deleted_and_links_not_followed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    run = tmp_path / "run"
    (run / "a" / ".tmp-1-step-1").mkdir(parents=True)
    (run / "a" / ".tmp-1-step-1" / "weights").touch()
    (run / ".tmp-2-status.json").touch()
    (run / ".tmp-link").symlink_to(tmp_path / "mine")
    storage.clean_temporary(run)
    assert sorted(str(path.relative_to(run)) for path in run.rglob("*")) == ["a"]
    assert (tmp_path / "mine" / "file").exists()


def test_failed_write_keeps_the_old_content(tmp_path):
    folder = committed(tmp_path / "folders" / "step-1")

    def fail():
        with storage.commit_folder(folder) as temporary:
            (temporary / "weights").write_bytes(b"new")
            raise RuntimeError("broken")

    with pytest.raises(StorageError, match="broken"):
        fail()
    storage.verify_folder(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["step-1"]
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
    assert {entry.name for entry in tmp_path.iterdir()} == {"folders", "status.json"}


def test_a_folder_is_claimed_once(tmp_path):
    names = iter(("run-1", "run-1", "run-2"))
    assert [storage.claim_folder(tmp_path, lambda: next(names)).name for _ in range(2)] == ["run-1", "run-2"]


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
    storage.append_json_line(path, {"epoch": 3})
    assert [record["epoch"] for record in storage.read_json_lines(path)] == [1, 2, 3]


def test_waiting_for_a_lock_can_be_ended(tmp_path):
    def stop():
        raise InterruptionError.by(15)

    with (
        storage.lock(tmp_path / "lock"),
        pytest.raises(InterruptionError),
        storage.lock(tmp_path / "lock", timeout_s=60, while_waiting=stop),
    ):
        pass
