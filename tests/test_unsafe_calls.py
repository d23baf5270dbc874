"""The source has no calls that could run untrusted code or lose data (docs/threat-model.md); ruff looks for some as well."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "orca_cli").rglob("*.py"))
# Files that are opened for writing outside storage/, and why that is safe.
WRITERS = {
    "data/untrusted/archives.py": "into a temporary folder of its own",
    "data/untrusted/downloads.py": "under a temporary name",
    "data/untrusted/isolation.py": "a pipe",
    "data/generated.py": "into a temporary folder of storage.commit_folder",
    "runs/directory.py": "under a temporary name of storage.write_with",
    "prediction/output.py": "under a temporary name of storage.write_with, and into a temporary folder beside it",
}
# Neither called nor imported, under any name.
_PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
_PICKLER = "data/untrusted/isolation.py"  # it writes pickles, for `pickle_machine`
_LOADS = ("np.load", "numpy.load")
_CLIENTS = ("requests", "connection", "session")
_REQUESTS = {"urlopen", "get", "post", "head", "request", "urlretrieve"}


def name_of(node):
    """Return "a.b.c" of a chain of names, else the last attribute."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call, name):
    return next((word.value for word in call.keywords if word.arg == name), None)


def says(node, value):
    return isinstance(node, ast.Constant) and node.value is value


def writes(call, name, first, last):
    """Return whether a call opens a file for writing, or writes one."""
    if name in ("open", "io.open", "os.fdopen"):
        mode = keyword(call, "mode") or next(iter(call.args[1:]), ast.Constant("r"))
        return not isinstance(mode, ast.Constant) or bool(set(str(mode.value)) & set("wax+"))
    if (
        last == "open"
        and first not in ("os", "gzip", "zipfile", "tarfile", "Image")
        and len(call.args) == 1
    ):
        mode = call.args[0]  # of a path's method
        return (
            isinstance(mode, ast.Constant)
            and len(str(mode.value)) <= 3
            and bool(set(str(mode.value)) & set("wax+"))
        )
    return last in ("write_text", "write_bytes") and first != "storage"


def fault(call, path):
    """Return the fault of a call, in words."""
    name = name_of(call.func)
    first, last = name.split(".")[0], name.split(".")[-1]
    checks = {
        "allow_pickle": not says(
            keyword(call, "allow_pickle") or ast.Constant(name in _LOADS), False
        ),
        "read_pickle": last == "read_pickle",
        "unpickles": path == _PICKLER and first == "pickle" and name != "pickle.dump",
        "torch.load": name == "torch.load" and not says(keyword(call, "weights_only"), True),
        "extractall": last in ("extractall", "unpack_archive"),
        "os.system": name in ("os.system", "os.popen"),
        "shell": keyword(call, "shell") is not None and not says(keyword(call, "shell"), False),
        "loadmat": last == "loadmat"
        and path != "data/untrusted/matlab.py",  # SciPy's parser runs in that worker
        "eval or exec": name in ("eval", "exec", "builtins.eval", "builtins.exec"),
        "instantiate": name.endswith("instantiate"),
        "trust_remote_code": not says(
            keyword(call, "trust_remote_code") or ast.Constant(False), False
        ),
        "without timeout": keyword(call, "timeout") is None
        and (last in ("urlopen", "urlretrieve") or (first in _CLIENTS and last in _REQUESTS)),
        "writes": not path.startswith("storage/")
        and path not in WRITERS
        and writes(call, name, first, last),
    }
    return next((what for what, is_unsafe in checks.items() if is_unsafe), None)


def faults(source, path):
    tree = ast.parse(source)
    problems = [
        f"{path}:{node.lineno}: {what}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and (what := fault(node, path))
    ]
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            packages = names if isinstance(node, ast.Import) else [node.module or ""]
            pickles = {name.split(".")[0] for name in packages} & _PICKLES
            if "loadmat" in names or pickles - ({"pickle"} if path == _PICKLER else set()):
                problems.append(f"{path}:{node.lineno}: import")
    return problems


def test_the_program_has_no_unsafe_call():
    assert [
        what
        for path in FILES
        for what in faults(path.read_text(), str(path.relative_to(ROOT / "orca_cli")))
    ] == []


UNSAFE = """
import pickle
from scipy.io import loadmat
scipy.io.loadmat(p)
np.load(p)
open_it(p, allow_pickle=flag)
pd.read_pickle(p)
torch.load(p, weights_only=False)
archive.extractall(p)
os.system(c)
subprocess.run(c, shell=True)
eval(c)
urllib.request.urlopen(u)
requests.get(u)
hydra.utils.instantiate(c)
open(p, 'w')
open(p, mode)
path.open('w')
path.write_text(t)
model.from_pretrained(p, trust_remote_code=True)
"""
SAFE = """
np.load(p, allow_pickle=False)
torch.load(p, weights_only=True)
open(p, 'rb')
urlopen(u, timeout=3)
storage.write_text(p, t)
unpickle.load(p)
model.eval()
"""


def test_each_unsafe_call_is_found_and_safe_ones_are_left_alone():
    for text, is_unsafe in ((UNSAFE, True), (SAFE, False)):
        for line in text.strip().splitlines():
            assert bool(faults(line, "a.py")) == is_unsafe, line
