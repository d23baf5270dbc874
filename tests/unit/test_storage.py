"""Files and folders that are whole or absent, and locks."""

import json
import os
import re
import time

import pytest

from orca_cli import storage
from orca_cli.exceptions import (
    CheckpointError,
    ChecksumError,
    InterruptionError,
    LockedError,
    StorageError,
)


def committed(path):
    with storage.commit_folder(path) as temporary:
        (temporary / "weights").write_bytes(bytes(range(256)) * 8)
        (temporary / "state.json").write_text("{}")
    return path


def with_manifest(**changes):
    """Return a function that writes a manifest whose own checksum is right."""

    def change(folder):
        path = folder / storage.MANIFEST
        storage.write_checked_json(path, storage.read_checked_json(path) | changes)

    return change


FILE = {"size": 6, "sha256": "0"}
DAMAGE = [
    (lambda folder: (folder / storage.MANIFEST).write_text("[]"), ChecksumError, "manifest"),
    (lambda folder: (folder / "state.json").unlink(), ChecksumError, r"state\.json"),
    (lambda folder: storage.write_text(folder / "best" / "more", ""), ChecksumError, "best/more"),
    (with_manifest(schema=2), CheckpointError, "schema 2"),
    (with_manifest(files={"/etc/passwd": FILE}), ChecksumError, "names files outside the folder"),
    (with_manifest(files={"a/../../secret": FILE}), ChecksumError, "names files outside the folder"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), DAMAGE)
def test_damage_to_a_folder_is_reported(tmp_path, change, error, message):
    """Every kind of damage to checkpoints is in tests/reliability/test_damage.py."""
    folder = committed(tmp_path / "step-0")
    storage.verify_folder(folder)
    (folder / "best").mkdir()
    change(folder)
    with pytest.raises(error, match=f"(?i){message}"):
        storage.verify_folder(folder)
    if error is ChecksumError:
        _, problems = storage.folder_problems(folder)
        assert any(re.search(f"(?i){message}", problem) for problem in problems)
    if message == "best/more":
        storage.verify_folder(folder, extra_allowed=True)


def test_some_files_of_a_sealed_folder_are_verified_alone(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    storage.seal(tmp_path, [tmp_path / "a", tmp_path / "b"], owner="me")
    (tmp_path / "b").write_text("changed")
    assert storage.verify_folder(tmp_path, only=["a"]) == "me"
    for other, message in (("b", "'b' has changed"), ("c", "manifest does not list the file 'c'")):
        with pytest.raises(ChecksumError, match=message):
            storage.verify_folder(tmp_path, only=["a", other])
    monkeypatch.setattr(storage.disk, "sha256_file", lambda path: os.listdir(tmp_path / "a"))
    with pytest.raises(
        StorageError, match="cannot be read: Not a directory"
    ):  # which is not called damage
        storage.verify_folder(tmp_path, only=["a"])


def test_planted_links_and_those_of_leftovers_stay_unfollowed(tmp_path, monkeypatch):
    """Temporary names are unpredictable; a planted link with the right name is an error, and its target stays untouched."""
    target, folder = tmp_path / "mine" / "file", tmp_path / "run"
    for path in (target.parent, folder / "a" / ".tmp-1-step-1"):
        path.mkdir(parents=True)
    target.write_text("old")
    os.utime(target, (0, 0))
    assert storage.clock(folder) == pytest.approx(time.time(), abs=60)
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    for name in ("x", "clock"):
        (folder / f".tmp-guessed-{name}").symlink_to(target)
    with pytest.raises(StorageError):
        storage.write_text(folder / "x", "new")
    assert storage.clock(folder) is None
    assert (target.read_text(), target.stat().st_mtime) == ("old", 0)
    (folder / "a" / ".tmp-1-step-1" / "weights").touch()
    (folder / ".tmp-2-status.json").touch()
    (folder / ".tmp-link").symlink_to(target.parent)
    storage.clean_temporary(folder)
    assert [path.name for path in folder.rglob("*")] == ["a"]
    assert target.exists()


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
    assert json.loads(path.read_text()) == {"state": "old"}
    assert {entry.name for entry in tmp_path.iterdir()} == {"folders", "status.json"}


def test_json_lines_survive_a_torn_last_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for epoch in (1, 2):
        storage.append_json_line(path, {"epoch": epoch})
    with open(path, "a") as file:
        file.write('{"epoch": 3, "lo')
    assert [record["epoch"] for record in storage.read_json_lines(path)] == [1, 2]
    storage.append_json_line(path, {"epoch": 3})
    assert [record["epoch"] for record in storage.read_json_lines(path)] == [1, 2, 3]


def test_lock_is_exclusive_and_waiting_for_it_can_be_ended(tmp_path):
    def stop():
        raise InterruptionError.by(15)

    with storage.lock(tmp_path / "lock"):
        assert storage.is_locked(tmp_path / "lock")
        with (
            pytest.raises(LockedError, match="another process works on"),
            storage.lock(tmp_path / "lock", what="run 1"),
        ):
            pass
        with (
            pytest.raises(InterruptionError),
            storage.lock(tmp_path / "lock", timeout_s=60, while_waiting=stop),
        ):
            pass
    assert not storage.is_locked(tmp_path / "lock")
