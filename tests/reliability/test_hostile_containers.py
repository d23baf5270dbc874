"""Archives, HDF5 and planted links made to write or read elsewhere (rows H6, H7, H14)."""

from __future__ import annotations

import gzip
import io
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orca_cli import storage
from orca_cli.data.untrusted import arrays, matlab
from orca_cli.data.untrusted.archives import unpack
from orca_cli.exceptions import DataError, OrcaError, UnsafeError
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


def contents(folder: Path) -> dict[Path, object]:
    files = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    return files | {path: path.readlink() for path in files if path.is_symlink()}


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"x", mode: int = 0o644) -> Any:
    return name, kind, link, content, mode


LONG = "/".join(["d" * 200] * 20)
LINK, HARD, FOLDER = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
# `{out}` is the folder that nothing may touch.
TARS: dict[str, list[Any]] = {
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
    "setuid": [entry("a", mode=0o6777)],  # no special permission is taken over
}


def write_tar(path: Path, members: list[Any], outside: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, link, content, mode in members:
            member = tarfile.TarInfo(name.replace("{out}", str(outside)))
            member.type, member.linkname, member.mode = kind, link.replace("{out}", str(outside)), mode
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(content))


# What is written where it belongs, and what is refused only where its members are wanted; the rest is refused in any case.
HARMLESS = ("null in a name", "setuid", "folder and file")
MEETING = ("same name twice", "file as folder", "instead of a folder")
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


LED_OUT = [("tar", title) for title in ("parent", "absolute", "link out and through it", "link to the parent")]
ARCHIVES = [(form, title) for form in ("tar", "tar.gz") for title in TARS] + [("zip", title) for title in ZIPS]


@pytest.mark.parametrize(("form", "title"), ARCHIVES)
def test_archives_write_nothing_elsewhere(form, title, tmp_path, outside, counted):
    """H6: whatever was written is a plain file or a folder inside, without special permissions."""
    archive, folder = tmp_path / f"a.{form}", tmp_path / "target"
    if form == "zip":
        write_zip(archive, ZIPS[title], outside)
    else:
        write_tar(archive, TARS[title], outside)
    if (form, title) in LED_OUT:  # the premise: tarfile itself reaches the folder outside
        folder.mkdir()
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="fully_trusted")
        (outside / "new").unlink()
        shutil.rmtree(folder)
    if form == "tar.gz":
        archive.write_bytes(gzip.compress(archive.read_bytes()))
    for wanted in (None, lambda name: title in (*MEETING, *HARMLESS)):
        if title in HARMLESS:
            unpack(archive, folder, Quiet(), wanted)
            continue
        with pytest.raises(UnsafeError, match=rf"{archive.name}: member '[^\x1b\n]*$") as caught:
            unpack(archive, folder, Quiet(), wanted)
        assert SECRET not in str(caught.value)
        assert not folder.exists()
    for path, content in contents(folder).items():
        assert isinstance(content, bytes) or (content is False and path.is_dir())
        assert not path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)
        assert SECRET.encode() not in (content or b"")
    assert {path.name for path in tmp_path.iterdir()} - {"target"} == {archive.name, "outside"}
    counted(FIGURE)


h5py = pytest.importorskip("h5py")


def _virtual(file: Any, outside: Path) -> None:
    layout = h5py.VirtualLayout((4, 4), "u1")
    layout[:] = h5py.VirtualSource(outside / "secret.h5", "x", (4, 4))
    file.create_virtual_dataset("x", layout)


def _with_filter(file: Any, outside: Path) -> None:
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((4, 4))
    plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_UINT8, h5py.h5s.create_simple((4, 4)), plan)


def _linked_group(file: Any, outside: Path) -> None:
    file["x"] = h5py.SoftLink("/g/x")
    file["g"] = h5py.ExternalLink(str(outside / "secret.h5"), "/")


HDF5: dict[str, Callable[[Any, Path], Any]] = {
    "external link": lambda file, out: file.__setitem__("x", h5py.ExternalLink(str(out / "secret.h5"), "/x")),
    "soft link": lambda file, out: file.__setitem__("x", h5py.SoftLink("/y")),
    "soft link through another file": _linked_group,
    "links in a circle": lambda file, out: file.update(x=h5py.SoftLink("/y"), y=h5py.SoftLink("/x")),
    "external storage": lambda file, out: file.create_dataset("x", (7,), "u1", external=[(out / "secret", 0, 7)]),
    "virtual data": _virtual,
    "a filter to be loaded": _with_filter,
    "text of variable length": lambda file, out: file.create_dataset("x", data=["a" * 10**6]),
    "region of an array": lambda file, out: file.create_dataset("x", (2**20,), h5py.regionref_dtype),
}


@pytest.mark.parametrize("title", HDF5)
def test_hdf5_reads_nothing_elsewhere(title, tmp_path, outside, counted):
    """H7."""
    secret, path = tmp_path / "elsewhere", tmp_path / "a.mat"
    shutil.copytree(outside, secret)
    with h5py.File(secret / "secret.h5", "w") as file:
        file["x"] = np.frombuffer((SECRET * 3)[:16].encode(), np.uint8).reshape(4, 4)
    with h5py.File(path, "w") as file:
        HDF5[title](file, secret)
    if title in ("external link", "soft link through another file", "external storage", "virtual data"):
        with h5py.File(path) as file:  # the premise: h5py follows it
            assert SECRET.encode()[:7] in file["x"][()].tobytes()
    for read in (matlab.read, lambda place, names: matlab.read_here(str(place), names)):
        with pytest.raises((UnsafeError, DataError), match=r"a\.mat") as caught:
            read(path, ["x"])
        assert SECRET not in str(caught.value)
    counted(FIGURE)


def _commit(path: Path) -> None:
    with storage.commit_folder(path) as temporary:
        (temporary / "secret").write_text("a")


@pytest.mark.parametrize("write", [lambda path: storage.write_json(path, {"a": 1}), _commit, storage.remove])
@pytest.mark.parametrize("target", ["secret", "."])
def test_links_planted_where_something_is_written_are_not_followed(write, target, tmp_path, outside, counted):
    """H14."""
    link = tmp_path / "out"
    link.symlink_to(outside / target)
    with suppress(OrcaError, OSError):  # refusing is as good as replacing the link
        write(link)
    counted(FIGURE)


def test_links_planted_in_the_cache_of_unpacked_arrays_are_not_followed(tmp_path, outside):
    """H14."""
    archive, cache = tmp_path / "a.npz", tmp_path / "cache"
    np.savez(archive, x=np.arange(5))
    arrays.mapped(archive, ["x"], cache, Quiet())
    parent = next(path for path in (cache / "unpacked").iterdir() if path.is_dir())
    copy = next(path for path in parent.iterdir() if path.is_dir())
    shutil.rmtree(copy)
    copy.symlink_to(outside)
    (parent / "other").symlink_to(outside)
    array = arrays.mapped(archive, ["x"], cache, Quiet())["x"]
    np.testing.assert_array_equal(array, np.arange(5))
    assert not copy.is_symlink()
