"""Archives: honest ones come out whole, damaged ones leave nothing; hostile ones are in tests/reliability."""

import io
import os
import struct
import tarfile
import zipfile

import pytest

from orca_cli.data.untrusted import archives
from orca_cli.data.untrusted.archives import unpack
from orca_cli.exceptions import DataError, InterruptionError, StorageError, UnsafeError
from tests.tasks.builders import refused
from tests.untrusted.conftest import pending_signal

FILES = {"a/b/x.bin": os.urandom(100_000), "a/empty": b"", "y.txt": b"text", "a/" + "n" * 150: b"long name", "é": b"1"}


def tar(path, files=FILES, mode="w", form=tarfile.PAX_FORMAT):
    with tarfile.open(path, mode, format=form) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def zipped(path, files=FILES, **settings):
    with zipfile.ZipFile(path, "w", **({"compression": zipfile.ZIP_DEFLATED} | settings)) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


HONEST = {
    "tar": lambda folder: tar(folder / "a.tgz", mode="w:gz", form=tarfile.GNU_FORMAT),
    "zip": lambda folder: zipped(folder / "a.zip"),
}


def folder_content(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("form", HONEST)
def test_honest_archives_come_out_whole(form, tmp_path, reporter):
    archive, folder = HONEST[form](tmp_path), tmp_path / "out"
    (folder / "a").mkdir(parents=True)
    (folder / "kept").write_bytes(b"kept")
    (folder / "y.txt").write_bytes(b"old")
    assert unpack(archive, folder, reporter) == [folder / name for name in FILES]
    assert folder_content(folder) == FILES | {"kept": b"kept"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([archive.name, "out"])
    assert unpack(archive, folder, reporter, members=lambda name: name == "y.txt") == [folder / "y.txt"]


def assert_refused(archive, reporter, kind, message=r"\w"):
    """The archive is refused, one line says so, and nothing of it is left anywhere in the test's folder."""
    top = archive.parent
    (top / "there").mkdir(exist_ok=True)
    (top / "there/kept").write_bytes(b"kept")
    before = sorted(path.relative_to(top) for path in top.rglob("*"))
    for folder in (top / "new", top / "there"):
        with refused(rf"^[^\x1b]*{message}[^\x1b]*$", kind):
            unpack(archive, folder, reporter)
        assert sorted(path.relative_to(top) for path in top.rglob("*")) == before


@pytest.mark.parametrize(
    ("offset", "form", "value", "kind", "message"),
    [
        (24, "<I", 2**31, UnsafeError, "declares 2,147,483,648 bytes, more than its 2,048 can hold"),
        (20, "<I", 2**31, UnsafeError, "lie over one another"),
        (24, "<I", 2047, DataError, "damaged archive"),
        (10, "<H", 12, DataError, "unusual compression"),
    ],
)
def test_zips_that_lie_are_refused(offset, form, value, kind, message, tmp_path, reporter):
    archive = zipped(tmp_path / "a.zip", {"x": bytes(range(256)) * 8}, compression=zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    struct.pack_into(form, content, content.index(b"PK\x01\x02") + offset, value)
    archive.write_bytes(content)
    assert_refused(archive, reporter, kind, message)


def test_a_tar_that_ends_between_members_is_cut_off(tmp_path, reporter):
    archive = tar(tmp_path / "a.tar")
    with tarfile.open(archive) as file:
        start = file.getmembers()[2].offset
    os.truncate(archive, start)
    assert_refused(archive, reporter, DataError, "cut off")


def test_signals_and_full_disks_leave_nothing(tmp_path, reporter, monkeypatch):
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
