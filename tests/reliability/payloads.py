"""Pickles that do something when they are loaded, and the files that pickles lie in. Built at test time; nothing here is run.

Each payload creates the file `canary` when an ordinary loader reads it (those of LEAKS return what is in a secret file
instead). Tests show that first, in a process that is thrown away.
"""

from __future__ import annotations

import copyreg
import gzip
import io
import marshal
import operator
import os
import pickle
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli.data.untrusted import arrays, matlab, tape
from orca_cli.data.untrusted.pickle import read_bytes_here, read_here, unpickle, unpickle_bytes


class Call:
    """Pickles as a call of a function by name: the name need not exist here."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.module, self.name, self.arguments = module, name, arguments

    def code(self) -> bytes:
        return (
            b"c"
            + self.module.encode()
            + b"\n"
            + self.name.encode()
            + b"\n"
            + plain(self.arguments)
            + b"R"
        )


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


def called(function: Any, *arguments: Any) -> Raw:
    """Return the call of what a value is."""
    return Raw(plain(function) + plain(arguments) + b"R")


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
    inner, touch = str(canary.with_suffix(".inner")), ["touch", path]
    system, evil = name("os", "system"), Call("os", "system", command)
    module = Call("importlib", "import_module", "os")
    partial = Call("functools", "partial", name("builtins", "print"))
    code = Call("marshal", "loads", marshal.dumps(compile(python, "x", "exec")))
    binary = "/usr/bin/touch"
    alike = [
        ("posix.system os.system os.popen subprocess.getoutput", (command,)),
        ("os.mkdir os.makedirs os.mkfifo logging.FileHandler", (path,)),
        ("builtins.open io.open io.FileIO _io.open codecs.open zipfile.ZipFile tarfile.open", (path, "w")),
        ("bz2.BZ2File lzma.LZMAFile gzip.open", (path, "wb")),
        ("builtins.eval builtins.exec __builtin__.eval cProfile.run numpy.f2py.crackfortran.myeval", (python,)),
        ("subprocess.Popen subprocess.run subprocess.call subprocess.check_output", (touch,)),
        ("os.execv", (binary, touch)), ("os.spawnv", (0, binary, touch)), ("os.posix_spawn", (binary, touch, {})),
        ("os.open", (path, 0o102)), ("os.symlink", ("/etc", path)),
        ("pydoc.pipepager", ("", command)), ("shutil.copyfile", ("/dev/null", path)),
        ("urllib.request.urlretrieve", ("file:///etc/hostname", path)),
        ("timeit.timeit", (python, "pass", name("time", "perf_counter"), 1)),
        ("numpy.memmap", (path, "u1", "w+", 0, (1,))), ("numpy.lib.format.open_memmap", (path, "w+", "u1", (1,))),
        ("numpy.save", (Call("builtins", "open", path, "wb"), 1)), ("numpy.savetxt", (path, [1.0])),
        ("numpy.testing._private.utils.runstring", (python, {})),
        ("pickle.loads _pickle.loads", (whole(evil),)), ("numpy.load", (inner, None, True)),
        ("pandas.io.pickle.read_pickle joblib.load", (inner,)),
        ("runpy.run_path", (str(canary.with_suffix(".py")),)),
    ]  # fmt: skip
    call: dict[str, Any] = {
        title: Call(*title.rsplit(".", 1), *arguments)
        for titles, arguments in alike
        for title in titles.split()
    }
    # Their names as they have been counted.
    names = {
        "numpy.testing._private.utils.runstring": "numpy runstring",
        "pickle.loads": "nested pickle",
    }
    names |= {
        "_pickle.loads": "nested _pickle",
        "numpy.load": "nested numpy",
        "joblib.load": "nested joblib",
    }
    names |= {"pandas.io.pickle.read_pickle": "nested unpickler"}
    call = {names.get(title, title): value for title, value in call.items()}
    call |= {
        "numpy and dots": called(stack_global("numpy", "lib._npyio_impl.os.system"), command),
        "pathlib and dots": called(stack_global("pathlib", "os.system"), command),
        "pkgutil.resolve_name": called(Call("pkgutil", "resolve_name", "os:system"), command),
        "pydoc.locate": called(Call("pydoc", "locate", "os.system"), command),
        "getattr of a module": called(Call("builtins", "getattr", module, "system"), command),
        "__import__": called(Call("builtins", "getattr", Call("builtins", "__import__", "os"), "system"), command),
        "functools.partial": called(Call("functools", "partial", system, command)),
        "partial by state": called(Raw(plain(partial) + plain((system, (command,), {}, None)) + b"b")),
        "operator.methodcaller": called(Call("operator", "methodcaller", "touch"), Call("pathlib", "Path", path)),
        "operator.attrgetter": called(called(Call("operator", "attrgetter", "system"), module), command),
        "map": Call("builtins", "list", Call("builtins", "map", system, [command])),
        "filter": Call("builtins", "list", Call("builtins", "filter", system, [command])),
        "map by NEWOBJ": Call("builtins", "list", Raw(b"cbuiltins\nmap\n" + plain((system, [command])) + b"\x81")),
        "code object": called(Call("types", "FunctionType", code, Raw(_GLOBALS))),
    }  # fmt: skip
    protocols = {"numpy and dots": 4, "pathlib and dots": 4, "__builtin__.eval": 2}
    contents = {title: whole(value, protocols.get(title, 3)) for title, value in call.items()}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        contents[f"system in protocol {protocol}"] = pickle.dumps(
            Reduced(os.system, command), protocol=protocol
        )
        contents[f"eval in protocol {protocol}"] = pickle.dumps(
            Reduced(eval, python), protocol=protocol
        )
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
    contents |= {
        "by INST": f"(S'{command}'\nios\nsystem\n.".encode(),
        "by OBJ": f"(cos\nsystem\nS'{command}'\no.".encode(),
        "in a dict": whole({"data": [1, 2], "labels": evil}),
        "in a list": whole([1, [2, [evil]]]),
        "in a tuple": whole((1, evil)),
        "as a key": whole({evil: 1}),
        "as a dtype's name": whole(Call("numpy", "dtype", evil)),
        "as an array's state": whole(Raw(array + plain((1, (1,), evil, False, b"")) + b"b")),
        "behind an array": whole([Raw(array), evil]),
        "in an array of objects": pickle.dumps(
            np.array([Reduced(operator.call, Reduced(os.system, command))], object)
        ),
        "by an extension code": b"\x80\x02\x82\xf0" + plain((command,)) + b"R.",
    }
    return contents


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
        "Path.read_text": whole(
            Call("pathlib", "Path.read_text", Call("pathlib", "Path", path)), 4
        ),
        "numpy.fromfile": whole(Call("builtins", "bytes", Call("numpy", "fromfile", path, "u1"))),
        "open": whole(Call("builtins", "list", Call("builtins", "open", path))),
    }


def _npy_of_objects(content: bytes) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    return buffer.getvalue() + content


def _zipped(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def _torch_zip(path: Path, content: bytes) -> None:
    _zipped(
        path,
        {
            "a/data.pkl": content,
            "a/version": b"3\n",
            "a/byteorder": b"little",
            "a/.format_version": b"1",
        },
    )


def _torch_legacy(path: Path, content: bytes) -> None:
    # Magic number, protocol, system, then what is stored, then the keys of storages.
    system = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    heads = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, system)]
    path.write_bytes(b"".join(heads) + content + pickle.dumps([], protocol=2))


def _matlab(path: Path, content: bytes) -> None:
    import_module("scipy.io").savemat(path, {"x": np.frombuffer(content, np.uint8)})


def _lmdb(path: Path, content: bytes) -> None:
    import lmdb as library

    with (
        library.open(str(path), map_size=2**20, subdir=False) as database,
        database.begin(write=True) as transaction,
    ):
        transaction.put(b"0", content)


def _load_lmdb(path: Path) -> Any:
    import lmdb as library

    with (
        library.open(str(path), subdir=False, readonly=True, lock=False) as database,
        database.begin() as transaction,
    ):
        return pickle.loads(transaction.get(b"0"))


def _load_torch(path: Path) -> Any:
    return import_module("torch").load(path, weights_only=False)


def _load_numpy(path: Path) -> Any:
    return np.load(path, allow_pickle=True)


# Formats that a pickle can lie in: how such a file is written, its ending, and how programs read it that trust it.
FORMS: dict[str, tuple[Callable[[Path, bytes], Any], str, Callable[[Path], Any]]] = {
    "pickle": (Path.write_bytes, ".pkl", lambda path: pickle.loads(path.read_bytes())),
    "gzip": (
        lambda path, content: path.write_bytes(gzip.compress(content)),
        ".gz",
        lambda path: pickle.loads(gzip.decompress(path.read_bytes())),
    ),
    "pickle named npy": (Path.write_bytes, ".npy", _load_numpy),
    "npy of objects": (lambda path, content: path.write_bytes(_npy_of_objects(content)), ".npy", _load_numpy),
    "npz of objects": (
        lambda path, content: _zipped(path, {"x.npy": _npy_of_objects(content)}),
        ".npz",
        lambda path: _load_numpy(path)["x"],
    ),
    "torch": (_torch_zip, ".pt", _load_torch),
    "torch legacy": (_torch_legacy, ".pth", _load_torch),
    "weights": (_torch_zip, ".bin", _load_torch),
    "checkpoint": (_torch_legacy, ".ckpt", _load_torch),
    "joblib": (Path.write_bytes, ".joblib", lambda path: import_module("joblib").load(path)),
    "LMDB": (_lmdb, ".mdb", _load_lmdb),
    "MATLAB 5": (_matlab, ".mat", lambda path: pickle.loads(import_module("scipy.io").loadmat(path)["x"].tobytes())),
}  # fmt: skip


def trust(argument: str) -> None:
    """Load FORM:PATH as a program that trusts it, print the value or the error, and end the process; a hook of forks."""
    form, _, path = argument.partition(":")
    copyreg.add_extension(*EXTENSION)
    try:
        print(FORMS[form][2](Path(path)), flush=True)  # noqa: T201
    except Exception as error:  # noqa: BLE001 - whatever a trusting program meets is what the test then shows
        print(repr(error), flush=True)  # noqa: T201
    os._exit(0)


def readings(form: str, path: Path) -> list[Callable[[], Any]]:
    """Return the ways in which our readers would meet such a file: in the worker, and the same code in this process."""
    text = str(path)
    if form == "gzip":
        return [lambda: unpickle(path, gzipped=True), lambda: read_here(text, gzipped=True)]
    if form in ("pickle named npy", "npy of objects"):
        return [
            lambda: unpickle(path),
            lambda: read_here(text),
            lambda: arrays.open_arrays(path, "task.train"),
        ]
    if form == "npz of objects":
        return [lambda: arrays.open_arrays(path, "task.train")["x"].read()]
    if form == "LMDB":

        def here_by_bytes(content: bytes, where: str) -> Any:
            return read_bytes_here(content, where)

        return [lambda: _lmdb_value(path, unpickle_bytes), lambda: _lmdb_value(path, here_by_bytes)]
    if form == "MATLAB 5":
        return [lambda: matlab.read(path, ["x"]), lambda: matlab.read_here(text, ["x"])]
    return [lambda: unpickle(path), lambda: read_here(text)]


def _lmdb_value(path: Path, loads: Callable[[bytes, str], Any]) -> Any:
    (content,) = tape.values(path, ["0"])
    assert content is not None
    return loads(content, str(path))
