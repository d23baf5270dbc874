"""Archives and planted links made to write or read elsewhere (rows H6, H14)."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orca_cli import storage
from orca_cli.data.generated import folder_of
from orca_cli.data.untrusted.archives import unpack
from orca_cli.exceptions import OrcaError, UnsafeError
from tests.reliability.test_hostile_files import FIGURE
from tests.untrusted.conftest import Quiet

SECRET = "hunter2"


@pytest.fixture
def outside(tmp_path):
    """A folder that nothing may touch, with a secret in it; what it holds is compared at the end."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text(SECRET)
    before = contents(folder)
    yield folder
    assert contents(folder) == before


def contents(folder: Path) -> dict[Path, bytes | str]:
    def content(path: Path) -> bytes | str:
        return (
            os.readlink(path)
            if path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else "folder"
        )

    return {path: content(path) for path in folder.rglob("*")}


Entry = tuple[str, bytes, str, bytes, int]


def entry(
    name: str,
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
    content: bytes = b"x",
    mode: int = 0o644,
) -> Entry:
    return name, kind, link, content, mode


LONG = "/".join(["d" * 200] * 20)
LINK, HARD, FOLDER = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
# `{out}` is the folder that nothing may touch.
TARS: dict[str, list[Entry]] = {
    "parent": [entry("../outside/new")],
    "parent inside": [entry("a/../../outside/new")],
    "absolute": [entry("{out}/new")],
    "backslash": [entry("..\\outside\\new"), entry("..\\..\\outside/new")],
    "link out and through it": [entry("a", LINK, "{out}"), entry("a/new")],
    "link to the parent": [entry("a", LINK, ".."), entry("a/outside/new")],
    "link over the secret": [entry("a", LINK, "{out}/secret"), entry("a")],
    "hard link": [entry("a", HARD, "{out}/secret"), entry("a")],
    "hard link to a link": [entry("a", LINK, "{out}/secret"), entry("b", HARD, "a"), entry("b")],
    "folder, then link": [entry("a", FOLDER), entry("a", LINK, "{out}"), entry("a/new")],
    "device": [entry("a", tarfile.CHRTYPE)],
    "block device": [entry("a", tarfile.BLKTYPE)],
    "fifo": [entry("a", tarfile.FIFOTYPE)],
    "case clash": [entry("A", LINK, "{out}"), entry("a/new")],
    # CVE-2025-4517: names longer than the system's paths are not resolved, and links among them lead out.
    "long chain": [
        entry(LONG, FOLDER),
        *(entry("/".join(["s"] * i + [f"{i}"]), LINK, LONG) for i in range(1, 17)),
        entry(f"{'s/' * 16}l", LINK, "../" * 40),
        entry("escape", LINK, f"{'s/' * 16}l/../../outside"),
        entry("escape/new"),
    ],
    # CVE-2026-7774: a link whose target is nothing.
    "empty link": [entry("a", LINK, ""), entry("a/new")],
    "empty name": [entry("", LINK, "{out}"), entry("new")],
    "dot": [entry(".", LINK, "{out}"), entry("new")],
    "null in a name": [entry("a\0/../../outside/new")],
    "same name twice": [entry("a"), entry("a", content=b"y")],
    "file as folder": [entry("a"), entry("a/new")],
    "instead of a folder": [entry("a/b"), entry("a")],
    "escape sequence": [entry("\x1b]0;x\x07../outside/new")],
    "drive": [entry("C:new")],
    "another encoding": [entry("\udce9")],
    "sparse": [entry("a", tarfile.GNUTYPE_SPARSE)],
    "unknown kind": [entry("a", b"Z")],
}


def write_tar(path: Path, members: list[Entry], outside: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, link, content, mode in members:
            member = tarfile.TarInfo(name.replace("{out}", str(outside)))
            member.type, member.linkname, member.mode = (
                kind,
                link.replace("{out}", str(outside)),
                mode,
            )
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(content))


# What is written where it belongs, and what is refused only where its members are wanted; the rest is refused in any case.
HARMLESS = ("null in a name", "setuid", "folder and file")
MEETING = ("same name twice", "file as folder", "instead of a folder")


def assert_refused_or_inside(archive: Path, folder: Path, title: str) -> None:
    """Unpack; whatever was written is a plain file or a folder inside, without special permissions."""
    for wanted in (None, lambda name: title in (*MEETING, *HARMLESS)):
        if title in HARMLESS:
            unpack(archive, folder, Quiet(), wanted)
            continue
        with pytest.raises(UnsafeError, match=rf"{archive.name}: member '[^\x1b\n]*$") as caught:
            unpack(archive, folder, Quiet(), wanted)
        assert SECRET not in str(caught.value)
        assert not folder.exists()
    for path in folder.rglob("*"):
        assert not path.is_symlink()
        assert path.is_file() or path.is_dir()
        assert not path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)
        assert SECRET.encode() not in (path.read_bytes() if path.is_file() else b"")


ZIPS = {
    "parent": {"../outside/new": 0},
    "absolute": {"/{out}/new": 0},
    "backslash": {"..\\outside\\new": 0},
    "link": {"a": stat.S_IFLNK},
    "fifo": {"a": stat.S_IFIFO},
    "device": {"a": stat.S_IFCHR},
    "setuid": {"a": stat.S_IFREG | stat.S_ISUID},
    "folder and file": {"a/": 0, "a": 0},
}


def write_zip(path: Path, members: dict[str, int], outside: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, mode in members.items():
            member = zipfile.ZipInfo(name.replace("{out}", str(outside)))
            member.external_attr = (mode | 0o644) << 16
            file.writestr(member, str(outside / "secret"))


# No special permission is taken over.
TARS["setuid"] = [entry("a", mode=0o6777)]
ARCHIVES = [(form, title) for form in ("tar", "tar.gz") for title in TARS] + [
    ("zip", title) for title in ZIPS
]


@pytest.mark.parametrize(("form", "title"), ARCHIVES)
def test_archives_write_nothing_elsewhere(form, title, tmp_path, outside, counted):
    """H6."""
    archive = tmp_path / f"a.{form}"
    if form == "zip":
        write_zip(archive, ZIPS[title], outside)
    else:
        write_tar(archive, TARS[title], outside)
    if form == "tar.gz":
        archive.write_bytes(gzip.compress(archive.read_bytes()))
    assert_refused_or_inside(archive, tmp_path / "target", title)
    assert {path.name for path in tmp_path.iterdir()} - {"target"} == {archive.name, "outside"}
    counted(FIGURE)


@pytest.mark.parametrize(
    "title", ["parent", "absolute", "link out and through it", "link to the parent"]
)
def test_tarfile_itself_would_have_been_led_out(title, tmp_path, outside):
    """The premise: without a filter the same archives reach the folder outside."""
    write_tar(tmp_path / "a.tar", TARS[title], outside)
    (tmp_path / "target").mkdir()
    with tarfile.open(tmp_path / "a.tar") as archive:
        archive.extractall(tmp_path / "target", filter="fully_trusted")
    assert (outside / "new").exists()
    (outside / "new").unlink()


def _commit(path: Path) -> None:
    with storage.commit_folder(path) as temporary:
        (temporary / "secret").write_text("a")


WRITERS: dict[str, Callable[[Path], object]] = {
    "json": lambda path: storage.write_json(path, {"a": 1}),
    "text": lambda path: storage.write_text(path, "a"),
    "bytes": lambda path: storage.write_bytes(path, b"a"),
    "folder": _commit,
    "removal": storage.remove,
}


@pytest.mark.parametrize("action", WRITERS)
@pytest.mark.parametrize("target", ["secret", "."])
def test_links_planted_where_something_is_written_are_not_followed(
    action, target, tmp_path, outside, counted
):
    """H14."""
    link = tmp_path / "out"
    link.symlink_to(outside / target)
    try:
        WRITERS[action](link)
    except (OrcaError, OSError) as error:
        assert SECRET not in str(error)  # noqa: PT017 - refusing is as good as replacing the link
    counted(FIGURE)


def test_links_planted_in_the_cache_are_not_followed(tmp_path, outside):
    """H14."""
    arguments = (
        tmp_path / "cache",
        "x",
        {},
        lambda folder: np.save(folder / "x.npy", np.arange(5)),
        Quiet(),
    )
    copy = folder_of(*arguments)
    shutil.rmtree(copy)
    copy.symlink_to(outside)
    (copy.parent / "other").symlink_to(outside)
    np.testing.assert_array_equal(np.load(folder_of(*arguments) / "x.npy"), np.arange(5))
    assert not copy.is_symlink()
