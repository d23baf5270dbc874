"""Nothing in the program runs what a file says: no pickle is loaded, by whatever name."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "orca_cli"
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
# Functions of other packages that unpickle, and what makes them harmless.
READERS = {
    ("np", "load"): "allow_pickle=False",
    ("numpy", "load"): "allow_pickle=False",
    ("torch", "load"): "weights_only=True",
    ("pd", "read_pickle"): None,
    ("pandas", "read_pickle"): None,
    ("scipy.io", "loadmat"): None,
    ("yaml", "load"): None,
    ("yaml", "unsafe_load"): None,
    ("yaml", "full_load"): None,
}


def faults(source: str) -> list[str]:
    problems = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            problems += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            problems.append(str(node.module))
        if isinstance(node, ast.ImportFrom) and any(alias.name == "loadmat" for alias in node.names):
            problems.append("loadmat")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = ast.unparse(node.func.value), node.func.attr
            harmless = READERS.get(name, "")
            if name in READERS and (harmless is None or harmless not in ast.unparse(node)):
                problems.append(ast.unparse(node))
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            problems += [ast.unparse(node)] * (ast.unparse(node.value) != "False")
    return problems


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled(path):
    problems = faults(path.read_text())
    if (
        path.relative_to(ROOT).as_posix() == "untrusted/matlab.py"
    ):  # SciPy's parser unpickles nothing; it runs in the worker
        assert [fault.split("(")[0] for fault in problems] == ["scipy.io.loadmat"]
        problems = []
    assert problems == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path, weights_only=False)",
        "pd.read_pickle(path)",
        "from scipy.io import loadmat",
        "yaml.load(text)",
        "open_it(path, allow_pickle=flag)",
    ],
)
def test_every_way_is_noticed(line):
    assert faults(line)
