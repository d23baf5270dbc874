"""Archives: honest ones come out whole, cut off ones leave nothing; damaged and hostile ones are in tests/reliability."""

import io
import os
import tarfile
import zipfile

import pytest

from orca_cli.data.untrusted import archives
from orca_cli.data.untrusted.archives import unpack
from orca_cli.exceptions import DataError, InterruptionError, StorageError, UnsafeError
from tests.tasks.builders import refused
from tests.untrusted.conftest import pending_signal

FILES = {
    "a/b/x.bin": os.urandom(100_000),
    "a/empty": b"",
    "y.txt": b"text",
    "a/" + "n" * 150: b"long name",
    "é": b"1",
}


def tar(path, files=FILES, mode="w", form=tarfile.PAX_FORMAT):
    with tarfile.open(path, mode, format=form) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def zipped(path, files=FILES, **settings):
    with zipfile.ZipFile(
        path, "w", **({"compression": zipfile.ZIP_DEFLATED} | settings)
    ) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    "write", [lambda path: tar(path, mode="w:gz", form=tarfile.GNU_FORMAT), zipped]
)
def test_honest_archives_come_out_whole(write, tmp_path, reporter):
    archive, folder = write(tmp_path / "a"), tmp_path / "out"
    (folder / "a").mkdir(parents=True)
    (folder / "kept").write_bytes(b"kept")
    (folder / "y.txt").write_bytes(b"old")
    assert unpack(archive, folder, reporter) == [folder / name for name in FILES]
    content = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
    assert content == FILES | {"kept": b"kept"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([archive.name, "out"])
    assert unpack(archive, folder, reporter, members=lambda name: name == "y.txt") == [
        folder / "y.txt"
    ]


def assert_refused(archive, reporter, kind, message=r"\w"):
    """The archive is refused, one line says so, and nothing of it is left anywhere in the test's folder."""
    (archive.parent / "there").mkdir(exist_ok=True)
    before = sorted(archive.parent.rglob("*"))
    for name in ("new", "there"):
        with refused(rf"^[^\x1b]*{message}[^\x1b]*$", kind):
            unpack(archive, archive.parent / name, reporter)
        assert sorted(archive.parent.rglob("*")) == before


def test_cut_off_archives_signals_and_full_disks_leave_nothing(tmp_path, reporter, monkeypatch):
    archive = tar(tmp_path / "cut.tar")
    with tarfile.open(archive) as file:
        start = file.getmembers()[2].offset
    os.truncate(archive, start)  # between two members
    assert_refused(archive, reporter, DataError, "cut off")
    archive = tar(tmp_path / "a.tar")
    with pending_signal():
        assert_refused(archive, reporter, InterruptionError)

    def full(path, mode="r", *rest, **settings):
        if "w" in mode:
            raise OSError(28, "No space left on device")
        return open(path, mode, *rest, **settings)

    monkeypatch.setattr(archives, "open", full, raising=False)
    assert_refused(archive, reporter, StorageError, "no space left")


def test_links_that_wait_in_the_folder_are_not_followed(tmp_path, reporter):
    archive = tar(tmp_path / "a.tar")
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").symlink_to(tmp_path / "outside")
    with refused("a link or a file stands where a folder is needed", UnsafeError):
        unpack(archive, tmp_path / "out", reporter)
    assert list((tmp_path / "outside").iterdir()) == []
