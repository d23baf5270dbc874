"""The import order of docs/ARCHITECTURE.md, read from the source: levels import only from below, siblings never."""

import ast
import functools
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent / "orca_cli"

# `exceptions` imports nothing and may be imported from everywhere, level 0 included.
ORDER = [
    "storage progress seeding signals",
    "config interfaces terminal",
    "data metrics scoring runs",
    "benchmarks models report",
    "training",
    "stages launching",
    "baselines",
    "experiment prediction",
    "commands",
    "cli",
    "__main__",
]
LEVELS = {name: level for level, names in enumerate(ORDER) for name in names.split()} | {
    "exceptions": -1
}
# Budgets in `ast` nodes, without contexts and docstrings: the amount of code to understand, whatever its layout.
# A package that has used up its budget must drop code before it adds more.
BUDGETS = {
    "baselines": 12_100,
    "benchmarks": 16800,
    "commands": 16_500,
    "config": 11900,
    "data": 35_500,
    "interfaces": 1300,
    "launching": 7000,
    "metrics": 11100,
    "models": 14400,
    "prediction": 8700,
    "report": 17500,
    "runs": 7300,
    "scoring": 6700,
    "stages": 16_800,
    "storage": 2710,
    "top level": 5520,
    "training": 6000,
}
LARGEST_PRODUCT = 196_500
LARGEST_FILE = 500  # lines
LARGEST_FUNCTION = 60  # lines, without signature and docstring, which may declare many settings


def unit(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def modules() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


@functools.cache
def imported(path: Path) -> set[str]:
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_module_has_a_level():
    assert {unit(path) for path in modules()} == set(LEVELS)


def violations(path: Path) -> list[str]:
    here = unit(path)
    targets = {name.split(".")[1] for name in imported(path) if name.startswith("orca_cli.")} & set(
        LEVELS
    )
    return [
        f"{here} imports {target}"
        for target in targets
        if target != here and LEVELS[target] >= LEVELS[here]
    ]


def test_imports_point_downwards():
    assert {
        str(path.relative_to(ROOT)): problems
        for path in modules()
        if (problems := violations(path))
    } == {}


def size(path: Path) -> int:
    """Return the nodes of a module, without contexts and docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = sum(
        isinstance(n, documented) and ast.get_docstring(n) is not None for n in nodes(path)
    )
    return sum(not isinstance(n, ast.expr_context) for n in nodes(path)) - 2 * docstrings


def test_no_room_outgrows_its_budget():
    rooms = Counter()
    for path in sorted(ROOT.rglob("*.py")):
        rooms["top level" if path.parent == ROOT else unit(path)] += size(path)
    assert rooms.keys() == BUDGETS.keys()
    assert {room: count for room, count in rooms.items() if count > BUDGETS[room]} == {}
    assert rooms.total() <= LARGEST_PRODUCT


def test_no_file_holds_more_than_a_concept():
    lines = {path: len(path.read_text().splitlines()) for path in modules()}
    assert {str(path): count for path, count in lines.items() if count > LARGEST_FILE} == {}


def test_no_function_is_longer_than_a_page():
    functions = [
        (path, node)
        for path in modules()
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef)
    ]
    too_long = []
    for path, node in functions:
        first = node.body[min(ast.get_docstring(node) is not None, len(node.body) - 1)]
        if node.end_lineno - first.lineno >= LARGEST_FUNCTION:
            too_long.append((path, node))
    assert [f"{path.relative_to(ROOT)}: {node.name}" for path, node in too_long] == []


def test_hydra_is_imported_in_one_file_only():
    packages = {path: {name.split(".")[0] for name in imported(path)} for path in modules()}
    users = {path for path, names in packages.items() if names & {"hydra", "omegaconf"}}
    assert users == {ROOT / "config" / "compose.py"}


def test_light_commands_do_not_import_heavy_packages():
    code = """
import sys
from orca_cli.cli import main
for words in (["--help"], ["run", "--help"], ["report", "--help"], ["list"], ["doctor", "--help"], ["body", "list"]):
    try:
        main(words)
    except SystemExit:
        pass
    heavy = {"torch", "transformers", "ot", "hydra", "omegaconf", "scipy", "sklearn"} & set(sys.modules)
    assert not heavy, (words, heavy)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent
    )
    assert done.returncode == 0, done.stderr
