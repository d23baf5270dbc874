"""Small files that would fill the memory or never end (rows F6, H3, H4, H5): peak memory and computing time of each."""

from __future__ import annotations

import gzip
import os
import pickle
import resource
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orca_cli.data.untrusted import arrays, isolation, matlab, tape
from orca_cli.data.untrusted.archives import unpack
from orca_cli.data.untrusted.pickle import unpickle
from orca_cli.exceptions import DataError, MemoryExhaustedError, UnsafeError, WorkerError
from tests.untrusted.conftest import Quiet
from tests.untrusted.faults import fault
from tests.untrusted.test_matlab import deflated, element, mat5, variable
from tests.untrusted.test_unpickle import dtype, nested_tuples

FIGURE = "bombs: peak above the limit"
MIB = 2**20
_SMALL = 64 * MIB  # where the first bytes of the file give it away
_LIMIT = (
    1024 * MIB
)  # where its instructions have to be followed; the worker itself is stopped at 4 GiB
_SECONDS = 5.0


def array_head(state: bytes = b"") -> bytes:
    return b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR" + state


def copies(each: bytes, first: bytes, times: int) -> bytes:
    """A value that is kept, and something that is made out of it again and again."""
    return b"\x80\x02" + first + b"q\x010(" + each * times + b"l."


def text(size: int) -> bytes:
    return b"X" + struct.pack("<I", size) + b"a" * size


def colliding(count: int) -> bytes:
    """Numbers that all have one hash."""
    return b"".join(
        b"\x8a\x0a" + (1 + i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(count)
    )


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


PICKLES: dict[str, Callable[[], bytes]] = {
    "memo entry 2**28": lambda: b"\x80\x02Nr" + struct.pack("<I", 2**28) + b".",
    "bytes of a terabyte": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "text of a terabyte": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "buffer of a terabyte": lambda: b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "bytes of 4 GB": lambda: b"\x80\x04B" + struct.pack("<I", 2**32 - 1) + b"x.",
    "number of 2 GB": lambda: b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "number of 10 MB": lambda: (b"\x80\x04\x8b" + struct.pack("<i", 10 * MIB) + b"\x7f" * 10 * MIB + b"."),
    "number of a million digits": lambda: b"I" + b"9" * 10**6 + b"\n.",
    "a million tuples in one another": lambda: b"\x80\x02)" + b"\x85" * 10**6 + b".",
    "a million lists in one another": lambda: b"]" * 10**6 + b"a" * (10**6 - 1) + b".",
    "a million marks": lambda: b"(" * 10**6 + b".",
    "two million lists": lambda: b"(" + b"]" * 2 * 10**6 + b"l.",
    "two million dicts": lambda: b"(" + b"}" * 2 * 10**6 + b"l.",
    "five million instructions": lambda: b"N0" * 5 * 10**6,
    "hash of tuples of tuples": lambda: nested_tuples(60),
    "keys with one hash": lambda: b"\x80\x02}(" + colliding(150_000) + b"u.",
    "a long key again and again": lambda: (
        b"\x80\x02"
        + text(MIB)
        + b"q\x010"
        + text(MIB)
        + b"q\x020}"
        + b"h\x01Nsh\x02Ns" * 200_000
        + b"."
    ),
    "a text encoded again and again": lambda: copies(b"c_codecs\nencode\n(h\x01U\x06latin1tR", text(MIB), 20_000),
    "an array turned again and again": lambda: copies(
        array_head()
        + b"(I1\n(I131072\nt"
        + dtype(b"f8").replace(b"S'<'", b"S'>'")
        + b"I00\nh\x01tb",
        b"T" + struct.pack("<i", MIB) + b"a" * MIB,
        10_000,
    ),
    "an array beyond its content": lambda: (
        b"\x80\x02" + array_head(b"(I1\n(I%d\nt" % 2**40) + dtype(b"f8") + b"I00\nU\x01atb."
    ),
    "an empty array of many axes": lambda: (
        b"\x80\x02"
        + array_head(b"(I1\n(I0\nI%d\nI%d\nt" % (2**62, 2**62))
        + dtype(b"f8")
        + b"I00\nU\x00tb."
    ),
}  # fmt: skip


def header(shape: str, descr: str = "'<f8'", pad: int = 0, version: bytes = b"\x01\x00") -> bytes:
    body = (
        f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
        + b" " * pad
        + b"\n"
    )
    form = "<H" if version == b"\x01\x00" else "<I"
    return b"\x93NUMPY" + version + struct.pack(form, len(body)) + body


NPY = {
    "1.5 terabytes": header("(200000000000,)"),
    "negative": header("(-1, 4)"),
    "overflow": header("(4294967296, 4294967296, 4294967296)"),
    "zero hides an overflow": header("(0, 4611686018427387904, 4611686018427387904)"),
    "header of 100 MB": header("(1,)", pad=100 * MIB, version=b"\x02\x00"),
    "header that declares 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
    "header with a call": header("__import__('os').getpid()"),
    "header with a power": header("(9**9**9**9,)"),
    "header in brackets": header("(" * 3000 + ")" * 3000),
    "header of signs": header("(" + "-" * 8000 + "1,)"),
    "text of 400 MB a value": header("(1,)", "'<U99999999'"),
    "records": header("(1,)", "[('a', '<f8', (100000000,))]"),
    "raw of a gigabyte": header("(1,)", "'|V1000000000'"),
    "forty axes": header(str((1,) * 40)),
    "no bytes a value": header("(4611686018427387904,)", "'|S0'"),
    "numbers that are none": header("(True, 2.5, 'a')"),
}


def zipped(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def zeros_npz(path: Path, size: int) -> Path:
    """A thousandth of the zeros that it becomes."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("x.npy", "w", force_zip64=True) as file,
    ):
        file.write(header(f"({size},)", "'|u1'"))
        for _ in range(size // (16 * MIB)):
            file.write(bytes(16 * MIB))
    return path


def overlapping(path: Path) -> Path:
    """The directory names the same bytes a thousand times."""
    zipped(path, {"x.npy": header("(1,)") + bytes(10 * MIB)})
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    record, end = (
        content[start : content.index(b"PK\x05\x06")],
        content[content.index(b"PK\x05\x06") :],
    )
    many = b"".join(record.replace(b"x.npy", f"{i:05d}".encode()) for i in range(999))
    tail = bytearray(end)
    struct.pack_into("<HHI", tail, 8, 999, 999, len(many))
    return written(path, content[:start] + many + tail)


def lying(path: Path, declared: int) -> Path:
    """The directory and the member declare another size than is there."""
    zipped(path, {"x.npy": header("(2097152,)") + bytes(16 * MIB)})
    content = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(magic) + offset, declared)
    return written(path, content)


NPZ: dict[str, Callable[[Path], Path]] = {
    "0.5 MB become 0.5 GB": lambda path: zeros_npz(path, 512 * MIB),
    "a header beyond the file": lambda path: zipped(path, {"x.npy": header("(200000000000,)")}),
    "members over one another": overlapping,
    "declares less than is there": lambda path: lying(path, 1000),
    "declares more than is there": lambda path: lying(path, 2**31),
    "60,000 members declared": lambda path: written(
        path, b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 60_000, 60_000, 2**31, 0, 0)
    ),
    "2,000 members": lambda path: zipped(path, {f"{i}.npy": b"" for i in range(2000)}, zipfile.ZIP_STORED),
    "a zip in a zip": lambda path: zipped(path, {"x.npy": zipped(path, {"x.npy": bytes(32 * MIB)}).read_bytes()}),
    "weights that are deflated": lambda path: zipped(
        path, {"a/data.pkl": bytes(64 * MIB), "a/data/0": bytes(64 * MIB)}
    ),
    "objects": lambda path: zipped(path, {"x.npy": header("(4611686018427387904,)", "'|O'")}),
}  # fmt: skip


def _deflated_zeros(size: int) -> bytes:
    """A compressed variable y whose content is `size` bytes of zeros."""
    packer = zlib.compressobj(9)
    head = struct.pack("<II", 14, size) + element(6, struct.pack("<II", 6, 0))
    head += (
        element(5, struct.pack("<2i", 1, size // 8))
        + element(1, b"y")
        + struct.pack("<II", 9, size)
    )
    packed = packer.compress(head) + b"".join(
        packer.compress(bytes(16 * MIB)) for _ in range(size // (16 * MIB))
    )
    packed += packer.flush()
    return struct.pack("<II", 15, len(packed)) + packed


MATLAB: dict[str, Callable[[Path], Path]] = {
    "shape of 2**60": lambda path: mat5(path, variable("x", (2**30, 2**30), element(9, bytes(8)))),
    "2**30 cells": lambda path: mat5(path, variable("x", (2**30, 1), element(9, bytes(8)), kind=1)),
    "text of 2**30 letters": lambda path: mat5(
        path, variable("x", (1, 2**30), element(16, b"abc"), kind=4)
    ),
    "64 KB become 64 MB that are no variable": lambda path: mat5(path, deflated(bytes(64 * MIB))),
    "a name of 64 MB": lambda path: mat5(
        path, deflated(struct.pack("<II", 14, 64 * MIB) + element(1, b"a" * 64 * MIB))
    ),
    "0.5 MB become 0.5 GB of another variable": lambda path: mat5(path, _deflated_zeros(2**29)),
}


def lmdb_file(path: Path, change: Callable[[bytearray], None]) -> Path:
    library = pytest.importorskip("lmdb")
    with (
        library.open(str(path), map_size=2**22, subdir=False) as database,
        database.begin(write=True) as transaction,
    ):
        for i in range(300):
            transaction.put(str(i).encode(), b"v" * 100)
    content = bytearray(path.read_bytes())
    change(content)
    return written(path, content)


def _metas(content: bytearray, offset: int, value: int) -> None:
    for page in (0, 4096):
        struct.pack_into("<Q", content, page + offset, value)


def _nodes(content: bytearray, kind: int) -> Iterator[tuple[int, int]]:
    """Yield (page, place of a record in it) for all leaves (kind 2) or branches (1)."""
    for page in range(8192, len(content), 4096):
        flags, end = struct.unpack_from("<HH", content, page + 10)
        if flags & kind:
            for i in range((end - 16) // 2):
                yield page, page + struct.unpack_from("<H", content, page + 16 + 2 * i)[0]


def _leaf_values(content: bytearray) -> None:
    """All records say that they have 4 GB, on other pages."""
    for _, node in _nodes(content, 2):
        struct.pack_into("<3H", content, node, 0xFFFF, 0xFFFF, 1)


def _branch_to_itself(content: bytearray) -> None:
    for page, node in _nodes(content, 1):
        struct.pack_into("<H", content, node, page // 4096)


LMDB: dict[str, Callable[[bytearray], None]] = {
    "a root on page 2**40": lambda content: _metas(content, 128, 2**40),
    "values of 4 GB": _leaf_values,
    "a tree without end": _branch_to_itself,
    "2**50 pages": lambda content: _metas(content, 136, 2**50),
}


def tarred(path: Path, name: str, size: int) -> Path:
    member = tarfile.TarInfo(name)
    member.size = size
    return written(path, member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


def gzipped(path: Path, size: int, head: bytes = b"") -> Path:
    """Zeros, in front of which a pickle may say what it likes."""
    with gzip.open(path, "wb") as file:
        file.write(head)
        for _ in range(size // (16 * MIB)):
            file.write(bytes(16 * MIB))
    return path


ARCHIVES: dict[str, Callable[[Path], Path]] = {
    "a tar that declares a terabyte": lambda path: tarred(path.with_suffix(".tar"), "a", 2**40),
    "a long name of a terabyte": lambda path: tarred(path.with_suffix(".tar"), "././@LongLink", 2**40),
    "0.5 MB become 0.5 GB": lambda path: gzipped(path.with_suffix(".gz"), 2**29),
    "0.5 GB behind a tar": lambda path: gzipped(path.with_suffix(".gz"), 2**29, tarfile.TarInfo("a").tobuf()),
    "a zip of 0.5 GB": lambda path: zeros_npz(path.with_suffix(".zip"), 2**29),
    "members over one another": lambda path: overlapping(path.with_suffix(".zip")),
}  # fmt: skip


def peak_of(pid: str) -> int:
    (line,) = [
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    ]
    return int(line.split()[1]) * 1024


class Peak:
    """Peak memory of this process and of the worker since `start`, above what they had; computing time of both."""

    def __init__(self) -> None:
        self.pids = ["self", str(isolation.read(fault, "warm-up", 0, kind="state")["pid"])]
        for pid in self.pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        self.before = [peak_of(pid) for pid in self.pids]
        self.seconds = self._cpu()

    def _cpu(self) -> float:
        seconds = sum(
            sum(resource.getrusage(who)[:2])
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        with suppress(OSError):
            fields = Path(f"/proc/{self.pids[1]}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return seconds

    def end(self) -> tuple[int, float]:
        peaks = [peak_of(pid) - before for pid, before in zip(self.pids, self.before, strict=True)]
        return max(peaks), self._cpu() - self.seconds


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux' /proc"
    ),
]


GZIPPED = {
    "a hundred values": b"\x80\x04(" + b"N" * 100,
    "bytes of a gigabyte": b"\x80\x04\x8e" + struct.pack("<Q", 2**30),
}


def read_members(path: Path) -> None:
    """Read all members of an .npz file."""
    for array in arrays.open_arrays(path, "s").values():
        array.read()


def bombs(
    contents: dict[str, Any], write: Callable[[Path, Any], Path]
) -> dict[str, Callable[[Path], Path]]:
    return {
        name: lambda path, content=content: write(path, content)
        for name, content in contents.items()
    }


# What is read, and the ending of its files -> what writes each of them, what reads it, and the limit of memory.
# SciPy inflates 128 KiB at a time, which become 132 MiB at most.
FAMILIES: dict[
    tuple[str, str], tuple[dict[str, Callable[[Path], Path]], Callable[[Path], Any], int]
] = {
    ("pickle", ".pkl"): (bombs(PICKLES, lambda path, make: written(path, make())), unpickle, _LIMIT),
    ("pickle in gzip", ".gz"): (
        bombs(GZIPPED, lambda path, head: gzipped(path, 2**29, head)),
        lambda path: unpickle(path, max_bytes=2**27, gzipped=True),
        _LIMIT,
    ),
    ("npy", ".npy"): (
        bombs(NPY, lambda path, content: written(path, content + bytes(64))),
        lambda path: arrays.open_arrays(path, "task.train"),
        _SMALL,
    ),
    ("npz", ".npz"): (NPZ, read_members, _SMALL),
    ("MATLAB", ".mat"): (MATLAB, lambda path: matlab.read(path, ["x"]), 6 * _SMALL),
    ("LMDB", ".mdb"): (bombs(LMDB, lmdb_file), lambda path: list(tape.values(path, map(str, range(300)))), _SMALL),
    ("archive", ""): (ARCHIVES, lambda path: unpack(path, path.parent / "out", Quiet()), _SMALL),
}  # fmt: skip
BOMBS = [(*family, name) for family, (writers, _, _) in FAMILIES.items() for name in writers]


@pytest.mark.parametrize(("family", "ending", "name"), BOMBS)
def test_bombs_are_defused(family, ending, name, tmp_path, counted):
    """F6, H3, H4, H5, H8: the bomb ends in one of our errors, below the limits of memory and time."""
    writers, read, limit = FAMILIES[family, ending]
    path = writers[name](tmp_path / f"bomb{ending}")
    peak = Peak()
    expected_errors = (DataError, UnsafeError, WorkerError, MemoryExhaustedError)
    with pytest.raises(expected_errors, match=rf"bomb\{ending or '.'}") as caught:
        read(path)
    used, seconds = peak.end()
    assert "\n" not in str(caught.value)
    assert used < limit, f"{used / MIB:.0f} MiB: {caught.value}"
    assert seconds < _SECONDS, f"{seconds:.1f} s: {caught.value}"
    assert not (tmp_path / "out").exists()
    counted(FIGURE)


def test_honest_files_are_no_bombs(tmp_path):
    rng = np.random.default_rng(0)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((2**25,), np.uint8), y=rng.random(1000))
    assert arrays.open_arrays(tmp_path / "a.npz", "s")["x"].read().shape == (2**25,)
    records = {"data": [np.arange(500.0, dtype=">f8") for _ in range(3000)], "label": ["N"] * 3000}
    for protocol in range(6):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(records, protocol=protocol))
        assert len(unpickle(tmp_path / "a.pkl")["data"]) == 3000
