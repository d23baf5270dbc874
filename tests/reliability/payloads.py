"""Pickles that do something when they are loaded, and the files that pickles lie in. Built at test time; nothing here is run.

Each payload creates the file `canary` when an ordinary loader reads it (those of LEAKS return what is in a secret file
instead). Tests show that first, in a process that is thrown away.
"""

from __future__ import annotations

import gzip
import io
import marshal
import operator
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli.untrusted import arrays, lmdb, matlab
from orca_cli.untrusted.pickle import reader, unpickle, unpickle_bytes


class Call:
    """Pickles as a call of a function by name: the name need not exist here."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.module, self.name, self.arguments = module, name, arguments

    def code(self) -> bytes:
        return b"c" + self.module.encode() + b"\n" + self.name.encode() + b"\n" + plain(self.arguments) + b"R"


def plain(value: Any) -> bytes:
    """Return instructions that push a value; calls inside of it are calls."""
    if isinstance(value, Call):
        return value.code()
    if isinstance(value, Raw):
        return value.content
    if isinstance(value, tuple):
        return b"(" + b"".join(map(plain, value)) + b"t"
    if isinstance(value, list):
        return b"(" + b"".join(map(plain, value)) + b"l"
    if isinstance(value, dict):
        return b"(" + b"".join(plain(part) for pair in value.items() for part in pair) + b"d"
    return pickle.dumps(value, protocol=3)[2:-1]


class Raw:
    """Instructions as they are."""

    def __init__(self, content: bytes) -> None:
        self.content = content


def whole(value: Any, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + plain(value) + b"."


def name(module: str, attribute: str) -> Raw:
    return Raw(b"c" + module.encode() + b"\n" + attribute.encode() + b"\n")


def stack_global(module: str, attribute: str) -> Raw:
    return Raw(plain(module) + plain(attribute) + b"\x93")


class Reduced:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def payloads(canary: Path) -> dict[str, bytes]:
    """Return payloads by name: each creates the file `canary`, or a folder of that name."""
    path = str(canary)
    command = f"touch {path}"
    python = f"open({path!r}, 'w').close()"
    call = {
        "posix.system": Call("posix", "system", command),
        "os.system": Call("os", "system", command),
        "os.popen": Call("os", "popen", command),
        "os.mkdir": Call("os", "mkdir", path),
        "os.makedirs": Call("os", "makedirs", path),
        "os.mkfifo": Call("os", "mkfifo", path),
        "os.symlink": Call("os", "symlink", "/etc", path),
        "os.open": Call("os", "open", path, 0o102),
        "os.execv": Call("os", "execv", "/usr/bin/touch", ["touch", path]),
        "os.spawnv": Call("os", "spawnv", 0, "/usr/bin/touch", ["touch", path]),
        "os.posix_spawn": Call("os", "posix_spawn", "/usr/bin/touch", ["touch", path], {}),
        "builtins.eval": Call("builtins", "eval", python),
        "builtins.exec": Call("builtins", "exec", python),
        "builtins.open": Call("builtins", "open", path, "w"),
        "__builtin__.eval": Call("__builtin__", "eval", python),
        "io.open": Call("io", "open", path, "w"),
        "io.FileIO": Call("io", "FileIO", path, "w"),
        "_io.open": Call("_io", "open", path, "w"),
        "codecs.open": Call("codecs", "open", path, "w"),
        "gzip.open": Call("gzip", "open", path, "wb"),
        "bz2.BZ2File": Call("bz2", "BZ2File", path, "w"),
        "lzma.LZMAFile": Call("lzma", "LZMAFile", path, "w"),
        "zipfile.ZipFile": Call("zipfile", "ZipFile", path, "w"),
        "tarfile.open": Call("tarfile", "open", path, "w"),
        "logging.FileHandler": Call("logging", "FileHandler", path),
        "subprocess.Popen": Call("subprocess", "Popen", ["touch", path]),
        "subprocess.run": Call("subprocess", "run", ["touch", path]),
        "subprocess.call": Call("subprocess", "call", ["touch", path]),
        "subprocess.check_output": Call("subprocess", "check_output", ["touch", path]),
        "subprocess.getoutput": Call("subprocess", "getoutput", command),
        "pydoc.pipepager": Call("pydoc", "pipepager", "", command),
        "shutil.copyfile": Call("shutil", "copyfile", "/dev/null", path),
        "urllib.request.urlretrieve": Call("urllib.request", "urlretrieve", "file:///etc/hostname", path),
        "timeit.timeit": Call("timeit", "timeit", python, "pass", name("time", "perf_counter"), 1),
        "cProfile.run": Call("cProfile", "run", python),
        "numpy.memmap": Call("numpy", "memmap", path, "u1", "w+", 0, (1,)),
        "numpy.save": Call("numpy", "save", Call("builtins", "open", path, "wb"), 1),
        "numpy.savetxt": Call("numpy", "savetxt", path, [1.0]),
        "numpy.lib.format.open_memmap": Call("numpy.lib.format", "open_memmap", path, "w+", "u1", (1,)),
        "numpy.f2py.crackfortran.myeval": Call("numpy.f2py.crackfortran", "myeval", python),
        "numpy runstring": Call("numpy.testing._private.utils", "runstring", python, {}),
        "numpy and dots": Raw(stack_global("numpy", "lib._npyio_impl.os.system").content + plain((command,)) + b"R"),
        "pathlib and dots": Raw(stack_global("pathlib", "os.system").content + plain((command,)) + b"R"),
        "pkgutil.resolve_name": Raw(Call("pkgutil", "resolve_name", "os:system").code() + plain((command,)) + b"R"),
        "pydoc.locate": Raw(Call("pydoc", "locate", "os.system").code() + plain((command,)) + b"R"),
        "getattr of a module": Raw(
            Call("builtins", "getattr", Call("importlib", "import_module", "os"), "system").code()
            + plain((command,))
            + b"R"
        ),
        "__import__": Raw(
            Call("builtins", "getattr", Call("builtins", "__import__", "os"), "system").code()
            + plain((command,))
            + b"R"
        ),
        "functools.partial": Raw(Call("functools", "partial", name("os", "system"), command).code() + b")R"),
        "partial by state": Raw(
            Call("functools", "partial", name("builtins", "print")).code()
            + plain((name("os", "system"), (command,), {}, None))
            + b"b)R"
        ),
        "operator.methodcaller": Raw(
            Call("operator", "methodcaller", "touch").code() + plain((Call("pathlib", "Path", path),)) + b"R"
        ),
        "operator.attrgetter": Raw(
            Call("operator", "attrgetter", "system").code()
            + plain((Call("importlib", "import_module", "os"),))
            + b"R"
            + plain((command,))
            + b"R"
        ),
        "map": Call("builtins", "list", Call("builtins", "map", name("os", "system"), [command])),
        "filter": Call("builtins", "list", Call("builtins", "filter", name("os", "system"), [command])),
        "map by NEWOBJ": Call(
            "builtins", "list", Raw(b"cbuiltins\nmap\n" + plain((name("os", "system"), [command])) + b"\x81")
        ),
        "code object": Raw(
            Call(
                "types",
                "FunctionType",
                Call("marshal", "loads", marshal.dumps(compile(python, "x", "exec"))),
                Raw(_GLOBALS),
            ).code()
            + b")R"
        ),
        "nested pickle": Call("pickle", "loads", whole(Call("os", "system", command))),
        "nested _pickle": Call("_pickle", "loads", whole(Call("os", "system", command))),
        "nested unpickler": Call("pandas.io.pickle", "read_pickle", str(canary.with_suffix(".inner"))),
        "nested numpy": Call("numpy", "load", str(canary.with_suffix(".inner")), None, True),
        "nested joblib": Call("joblib", "load", str(canary.with_suffix(".inner"))),
        "runpy.run_path": Call("runpy", "run_path", str(canary.with_suffix(".py"))),
    }
    protocols = {"numpy and dots": 4, "pathlib and dots": 4, "__builtin__.eval": 2}
    found = {title: whole(value, protocols.get(title, 3)) for title, value in call.items()}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        import os

        found[f"system in protocol {protocol}"] = pickle.dumps(Reduced(os.system, command), protocol=protocol)
        found[f"eval in protocol {protocol}"] = pickle.dumps(Reduced(eval, python), protocol=protocol)
    evil = Call("os", "system", command)
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
    found |= {
        "by INST": f"(S'{command}'\nios\nsystem\n.".encode(),
        "by OBJ": f"(cos\nsystem\nS'{command}'\no.".encode(),
        "in a dict": whole({"data": [1, 2], "labels": evil}),
        "in a list": whole([1, [2, [evil]]]),
        "in a tuple": whole((1, evil)),
        "as a key": whole({evil: 1}),
        "as a dtype's name": whole(Call("numpy", "dtype", evil)),
        "as an array's state": whole(Raw(array + plain((1, (1,), evil, False, b"")) + b"b")),
        "behind an array": whole([Raw(array), evil]),
        "in an array of objects": pickle.dumps(np.array([Reduced(operator.call, Reduced(os.system, command))], object)),
        "by an extension code": b"\x80\x02\x82\xf0" + plain((command,)) + b"R.",
    }
    return found


_GLOBALS = b"cbuiltins\nglobals\n)R"
EXTENSION = ("os", "system", 0xF0)  # what a program may have registered with copyreg


def beside(canary: Path) -> None:
    """Write the files that nested payloads load."""
    canary.with_suffix(".inner").write_bytes(whole(Call("os", "system", f"touch {canary}")))
    canary.with_suffix(".py").write_text(f"open({str(canary)!r}, 'w').close()\n")


def leaks(secret: Path) -> dict[str, bytes]:
    """Return payloads whose value is what is in the file `secret`."""
    path = str(secret)
    return {
        "linecache": whole(Call("linecache", "getlines", path)),
        "fileinput": whole(Call("builtins", "list", Call("fileinput", "input", path))),
        "Path.read_text": whole(Call("pathlib", "Path.read_text", Call("pathlib", "Path", path)), 4),
        "numpy.fromfile": whole(Call("builtins", "bytes", Call("numpy", "fromfile", path, "u1"))),
        "open": whole(Call("builtins", "list", Call("builtins", "open", path))),
    }


def _npy_header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _zipped(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def _torch_zip(path: Path, content: bytes) -> None:
    _zipped(path, {"a/data.pkl": content, "a/version": b"3\n", "a/byteorder": b"little", "a/.format_version": b"1"})


def _torch_legacy(path: Path, content: bytes) -> None:
    # Magic number, protocol, system, then what is stored, then the keys of storages.
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    heads = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, system)]
    path.write_bytes(b"".join(heads) + content + pickle.dumps([], protocol=2))


def _matlab(path: Path, content: bytes) -> None:
    import scipy.io

    scipy.io.savemat(path, {"x": np.frombuffer(content, np.uint8)})


def _hdf5(path: Path, content: bytes) -> None:
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = np.frombuffer(content, np.uint8)
        file["x"].attrs["MATLAB_class"] = np.bytes_("uint8")


def _lmdb(path: Path, content: bytes) -> None:
    import lmdb as library

    with library.open(str(path), map_size=2**20, subdir=False) as database, database.begin(write=True) as transaction:
        transaction.put(b"0", content)


# Formats that a pickle can lie in: how such a file is written, its ending.
WRITERS: dict[str, tuple[Callable[[Path, bytes], Any], str]] = {
    "pickle": (Path.write_bytes, ".pkl"),
    "gzip": (lambda path, content: path.write_bytes(gzip.compress(content)), ".gz"),
    "pickle named npy": (Path.write_bytes, ".npy"),
    "npy of objects": (lambda path, content: path.write_bytes(_npy_header((1,)) + content), ".npy"),
    "npz of objects": (lambda path, content: _zipped(path, {"x.npy": _npy_header((1,)) + content}), ".npz"),
    "torch": (_torch_zip, ".pt"),
    "torch legacy": (_torch_legacy, ".pth"),
    "weights": (_torch_zip, ".bin"),
    "checkpoint": (_torch_legacy, ".ckpt"),
    "joblib": (Path.write_bytes, ".joblib"),
    "LMDB": (_lmdb, ".mdb"),
    "MATLAB 5": (_matlab, ".mat"),
    "MATLAB 7.3": (_hdf5, ".mat"),
}


def unsafe_load(form: str, path: Path) -> Any:
    """Read a file as programs do that trust it."""
    if form == "pickle":
        return pickle.loads(path.read_bytes())
    if form == "gzip":
        return pickle.loads(gzip.decompress(path.read_bytes()))
    if form in ("pickle named npy", "npy of objects"):
        return np.load(path, allow_pickle=True)
    if form == "npz of objects":
        return np.load(path, allow_pickle=True)["x"]
    if form in ("torch", "torch legacy", "weights", "checkpoint"):
        import torch

        return torch.load(path, weights_only=False)
    if form == "joblib":
        import joblib

        return joblib.load(path)
    if form == "LMDB":
        import lmdb as library

        with (
            library.open(str(path), subdir=False, readonly=True, lock=False) as database,
            database.begin() as transaction,
        ):
            return pickle.loads(transaction.get(b"0"))
    if form == "MATLAB 5":
        import scipy.io

        return pickle.loads(scipy.io.loadmat(path)["x"].tobytes())
    import h5py

    with h5py.File(path) as file:
        return pickle.loads(file["x"][()].tobytes())


def readings(form: str, path: Path) -> list[Callable[[], Any]]:
    """Return the ways in which our readers would meet such a file: in the worker, and the same code in this process."""
    text = str(path)
    if form == "gzip":
        return [lambda: unpickle(path, gzipped=True), lambda: reader.read_here(text, gzipped=True)]
    if form in ("pickle named npy", "npy of objects"):
        here = arrays.load_object_here if form == "npy of objects" else reader.read_here
        return [lambda: arrays.load_object(path), lambda: here(text), lambda: arrays.open_arrays(path, "task.train")]
    if form == "npz of objects":
        return [lambda: arrays.read_arrays(path, ["x"]), lambda: arrays.open_arrays(path, "task.train")]
    if form == "LMDB":
        return [lambda: _lmdb_value(path, unpickle_bytes), lambda: _lmdb_value(path, _loads_here)]
    if form.startswith("MATLAB"):
        return [lambda: matlab.read(path, ["x"]), lambda: matlab.read_here(text, ["x"])]
    return [lambda: unpickle(path), lambda: reader.read_here(text)]


def _loads_here(content: bytes, where: str) -> Any:
    return reader.read_bytes_here([content], [where])


def _lmdb_value(path: Path, loads: Callable[[bytes, str], Any]) -> Any:
    (content,) = lmdb.read(path, ["0"])
    assert content is not None
    return loads(content, str(path))
