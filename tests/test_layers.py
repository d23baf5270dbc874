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
    "stages baselines launching",
    "experiment prediction",
    "commands",
    "cli",
    "__main__",
]
LEVELS = {name: level for level, names in enumerate(ORDER) for name in names.split()} | {"exceptions": -1}
# Lines of a room. One that is full gives something up before it takes more in; a limit is lowered with what was cut.
LIMITS = {
    "baselines": 970, "benchmarks": 2590, "commands": 2175, "config": 1870, "data": 5255, "interfaces": 475,
    "launching": 985, "metrics": 1690, "models": 2545, "prediction": 1200, "report": 2360, "runs": 1305,
    "scoring": 1100, "stages": 2520, "storage": 645, "training": 1260,
}  # fmt: skip
LARGEST_FILE, LARGEST_FUNCTION = 450, 60


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
    targets = {name.split(".")[1] for name in imported(path) if name.startswith("orca_cli.")} & set(LEVELS)
    return [f"{here} imports {target}" for target in targets if target != here and LEVELS[target] >= LEVELS[here]]


def test_imports_point_downwards():
    assert {str(path.relative_to(ROOT)): problems for path in modules() if (problems := violations(path))} == {}


def test_no_room_and_no_file_outgrows_its_limit():
    lines = {path: len(path.read_text().splitlines()) for path in modules()}
    rooms = Counter()
    for path, count in lines.items():
        rooms.update({unit(path): count} if path.parent != ROOT else {})
    assert rooms.keys() == LIMITS.keys()
    assert {room: count for room, count in rooms.items() if count > LIMITS[room]} == {}
    assert [str(path) for path, count in lines.items() if count > LARGEST_FILE] == []


def test_no_function_is_longer_than_a_page():
    functions = [(path, node) for path in modules() for node in nodes(path) if isinstance(node, ast.FunctionDef)]
    too_long = [(path, node) for path, node in functions if node.end_lineno - node.lineno >= LARGEST_FUNCTION]
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
