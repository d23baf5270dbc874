"""Mutations of valid files of each format (row H8, section 7): a value or one of our errors, quickly, and never a crash.

Readers that are our own code run in this process, where another exception fails the test; those of libraries (MATLAB,
LMDB) run in the worker, which may die, and this process may not.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import struct
import tarfile
import time
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from orca_cli import storage
from orca_cli.benchmarks import fsd50k
from orca_cli.benchmarks.sources import conll
from orca_cli.data.table.files import open_table
from orca_cli.data.untrusted import arrays, matlab, tape
from orca_cli.data.untrusted.archives import unpack
from orca_cli.data.untrusted.pickle import read_here
from orca_cli.exceptions import OrcaError, WorkerError
from orca_cli.models import checkpoints
from tests.tiers import count
from tests.untrusted.conftest import Quiet

pytestmark = pytest.mark.slow

_SECONDS = 2.0
_ODD = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
RNG = np.random.default_rng(0)


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


ITEMS = [np.arange(5.0), "text", None, {"a": (1, 2.5, b"x")}, np.float32(1)]
OBJECTS = np.array(ITEMS, dtype=object)
RECORD = {
    "data": ITEMS,
    "label": np.array(["N", "~"]),
    "t": (1, [2**70, -1.5]),
    "f": np.asfortranarray(np.eye(3)),
}


def _mat5(compressed: bool) -> bytes:
    cells = np.empty((1, 2), object)
    cells[:] = [[np.arange(4.0), np.eye(2)]]
    values = {"x": np.arange(12.0).reshape(3, 4), "c": cells, "t": "text"}
    return saved(lambda file: scipy.io.savemat(file, values, do_compression=compressed))


def _lmdb(folder: Path) -> bytes:
    library = pytest.importorskip("lmdb")
    place = folder / "seed.mdb"
    with (
        library.open(str(place), map_size=2**20, subdir=False) as database,
        database.begin(write=True) as transaction,
    ):
        for i in range(60):
            transaction.put(str(i).encode(), RNG.bytes(9000 if i == 7 else 60))
    return place.read_bytes()


def _tar(file: io.BytesIO) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in {
            "a/x.txt": b"hello",
            "é" * 60: b"1" * 700,
            "a/" + "n" * 150: b"",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _zip(file: io.BytesIO) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/x.txt", b"hello" * 50)
        archive.writestr("y", b"")
        archive.writestr("é", b"1", zipfile.ZIP_STORED)


def _wav(width: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((2, width, fsd50k.RATE, 40, "NONE", ""))
        file.writeframes(RNG.bytes(80 * width))
    return buffer.getvalue()


def _read_npz(path: Path) -> Any:
    return [array.read() for array in arrays.open_arrays(path, "task.train").values()]


def _unpack(path: Path) -> None:
    folder = path.with_name("out")
    try:
        unpack(path, folder, Quiet())
    finally:
        if folder.exists():
            assert not any(entry.is_symlink() for entry in folder.rglob("*"))
            storage.remove(folder)


def _read_table(path: Path) -> None:
    table = open_table(path, "task.train", None, None)
    table.read(list(table.columns))


def _read_wav(path: Path) -> None:
    sound = fsd50k.read(path)
    assert sound.shape == (fsd50k.RATE,)
    assert np.isfinite(sound).all()


CSV = "time;level;name\n" + "".join(f"{i};{i * 0.5};n{i}\n" for i in range(12))
CONLL = "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\nGerman JJ B-NP B-MISC\n\nPeter NNP B-NP B-PER\n"
CONFIG = {"model_type": "bert", "hidden_size": 32, "auto_map": None}


def _manifest(folder: Path) -> list[bytes]:
    record = {
        "schema": 1,
        "state": "running",
        "stage": "align",
        "files": {"a": {"size": 3, "sha256": "0" * 64}},
    }
    storage.write_checked_json(folder / "manifest", record)
    return [(folder / "manifest").read_bytes()]


# Format -> what returns seeds (files that are valid), ending, reader.
FORMATS: dict[str, tuple[Callable[[Path], list[bytes]], str, Callable[[Path], Any]]] = {
    "npz": (
        lambda _: [saved(lambda file: np.savez_compressed(file, x=np.eye(6, 5), names=["a", "bc"]))],
        ".npz",
        _read_npz,
    ),
    "npy": (lambda _: [saved(lambda file: np.save(file, np.eye(3, 4, dtype=np.float32)))], ".npy", _read_npz),
    "object npy": (
        lambda _: [saved(lambda file: np.save(file, OBJECTS, allow_pickle=True))],
        ".npy",
        lambda path: read_here(str(path)),
    ),
    "pkl": (lambda _: [pickle.dumps(RECORD, i) for i in range(6)], ".pkl", lambda path: read_here(str(path))),
    "mat 5": (
        lambda _: [_mat5(False), _mat5(True)],
        ".mat",
        lambda path: [matlab.read(path, [name], 2**24) for name in "xct"],
    ),
    "LMDB": (lambda folder: [_lmdb(folder)], ".mdb", lambda path: [*tape.values(path, [*map(str, range(60)), "zz"])]),
    "tar": (lambda _: [saved(_tar), gzip.compress(saved(_tar))], ".tar", _unpack),
    "zip": (lambda _: [saved(_zip)], ".zip", _unpack),
    "csv": (lambda _: [CSV.encode(), CSV.replace(";", "\t").encode()], ".csv", _read_table),
    "wav": (lambda _: [*map(_wav, (2, 4, 1))], ".wav", _read_wav),
    "CoNLL": (
        lambda _: [CONLL.encode()],
        ".txt",
        lambda path: [conll.spans(tags) for _, tags in conll.sentences(path)],
    ),
    "JSON manifest": (_manifest, ".json", storage.read_checked_json),
    "config.json": (
        lambda _: [json.dumps(CONFIG).encode()],
        "/config.json",
        lambda path: checkpoints.check_family(path.parent, ("bert",)),
    ),
}  # fmt: skip
PR, NIGHTLY = 300, 100_000


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Return a file with one to four changes; half of them lie near the start or the end, where formats have their headers."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        if not changed:
            break
        size, kind = len(changed), draw.randrange(9)
        near = draw.randrange(min(size, 160))
        place = draw.choice((draw.randrange(size), draw.randrange(size), near, size - 1 - near))
        if kind < 2:
            changed[place] ^= 1 << draw.randrange(8)
        elif kind < 4:
            changed[place] = draw.choice(_ODD)
        elif kind == 4:
            changed[place:place] = bytes(draw.choice(_ODD) for _ in range(draw.randrange(1, 9)))
        elif kind == 5:
            del changed[place : place + draw.randrange(1, 17)]
        elif kind == 6:
            del changed[place:]
        elif kind == 7:
            number = draw.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, draw.randrange(2**32)))
            changed[place : place + 4] = struct.pack(draw.choice("<>") + "I", number)
        else:
            other = draw.randrange(size)
            changed[place : place + 8] = changed[other : other + 8]
    return bytes(changed)


@pytest.mark.parametrize("name", FORMATS)
def test_mutated_files_give_a_value_or_an_error_of_ours(name, tmp_path, counted):
    seeds, ending, read = FORMATS[name]
    path = tmp_path / f"file{ending}"
    path.parent.mkdir(exist_ok=True)
    contents = seeds(tmp_path)
    for content in contents:  # the premise: what is changed is valid before
        path.write_bytes(content)
        read(path)
    draw = random.Random(name)
    number, values, crashes = count(pr=PR, nightly=NIGHTLY), 0, 0
    for i in range(number):
        content = mutated(draw.choice(contents), draw)
        path.write_bytes(content)
        start = time.process_time()
        try:
            read(path)
            values += 1
        except WorkerError as error:
            crashes += "was ended by" in str(error)
        except OrcaError as error:
            refusal = str(error)
            assert "\n" not in refusal
            assert path.name in refusal or path.parent.name in refusal, refusal
        except Exception as error:
            raise AssertionError(
                f"{name}, input {i}: {type(error).__name__}: {error}; {content[:2000]!r}"
            ) from error
        assert time.process_time() - start < _SECONDS, (
            f"{name}, input {i} takes too long: {content[:2000]!r}"
        )
    assert values < number  # the changes do matter
    counted(
        f"fuzz inputs, {name}",
        cases=number,
        target=NIGHTLY,
        note=f"{crashes} crashes of the worker",
    )
