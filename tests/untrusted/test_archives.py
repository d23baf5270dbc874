"""Archives: honest ones come out whole, cut off ones leave nothing.

Damaged and hostile ones are in tests/reliability.
"""

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


def tar_gz(path):
    return tar(path, mode="w:gz", form=tarfile.GNU_FORMAT)


@pytest.mark.parametrize("write", [tar_gz, zipped])
def test_honest_archives_come_out_whole(write, tmp_path, reporter):
    archive = write(tmp_path / "a")
    folder = tmp_path / "out"
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


@pytest.mark.parametrize("write", [tar_gz, zipped])
def test_unwanted_members_are_not_written(write, tmp_path, reporter):
    folder = tmp_path / "out"
    files = unpack(write(tmp_path / "a"), folder, reporter, members=lambda name: name == "y.txt")
    assert files == [folder / "y.txt"]
    assert list(folder.rglob("*")) == files


@pytest.fixture(params=["new", "existing"])
def assert_refused(request, reporter):
    """Return a check that an archive is refused in one line, and nothing of it is left anywhere."""

    def check(archive, kind, message=r"\w"):
        folder = archive.parent / request.param
        if request.param == "existing":
            folder.mkdir()
        before = sorted(archive.parent.rglob("*"))
        with refused(rf"^[^\x1b]*{message}[^\x1b]*$", kind):
            unpack(archive, folder, reporter)
        assert sorted(archive.parent.rglob("*")) == before

    return check


def test_an_archive_cut_off_between_members_leaves_nothing(tmp_path, assert_refused):
    archive = tar(tmp_path / "cut.tar")
    with tarfile.open(archive) as file:
        start = file.getmembers()[2].offset
    os.truncate(archive, start)
    assert_refused(archive, DataError, "cut off")


def test_a_signal_leaves_nothing(tmp_path, assert_refused):
    archive = tar(tmp_path / "a.tar")
    with pending_signal():
        assert_refused(archive, InterruptionError)


def test_a_full_disk_leaves_nothing(tmp_path, assert_refused, monkeypatch):
    archive = tar(tmp_path / "a.tar")

    def full(path, mode="r", *arguments, **settings):
        if "w" in mode:
            raise OSError(28, "No space left on device")
        return open(path, mode, *arguments, **settings)

    monkeypatch.setattr(archives, "open", full, raising=False)
    assert_refused(archive, StorageError, "no space left")


def test_links_that_wait_in_the_folder_are_not_followed(tmp_path, reporter):
    archive = tar(tmp_path / "a.tar")
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").symlink_to(tmp_path / "outside")
    with refused("a link, file or folder at this path blocks it", UnsafeError):
        unpack(archive, tmp_path / "out", reporter)
    assert list((tmp_path / "outside").iterdir()) == []
