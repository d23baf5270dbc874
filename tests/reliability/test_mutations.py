"""The suite itself is tested: defects are put into a copy of the program, and each has to make a test fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tiers import count

ROOT = Path(__file__).parent.parent.parent
DISK, FILES, FOLDERS, LOCKS = (f"orca_cli/storage/{name}.py" for name in ("disk", "files", "folders", "locks"))
CHECKPOINT = "orca_cli/training/checkpoint.py"
_UNIT = "tests/unit/test_storage.py"
_KILLS = "tests/reliability/test_kills.py"
_DAMAGE = "tests/reliability/test_damage.py"


@dataclass(frozen=True)
class Defect:
    """One fault of the program.

    Args:
        file: where it is.
        old, new: the text that is replaced; `old` occurs there.
        tests: the tests of which one has to fail.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


DEFECTS = {
    "no fsync of files in a folder": Defect(
        FOLDERS, "                    fsync_file(entry)\n", "", (_UNIT, "-k", "power")
    ),
    "no fsync of a written file": Defect(
        FILES,
        "            fsync_file(temporary)\n            os.replace",
        "            os.replace",
        (_UNIT, "-k", "power"),
    ),
    "no fsync of the folder after a rename": Defect(
        FOLDERS,
        "            temporary.rename(path)\n            fsync_folder(path.parent)\n",
        "            temporary.rename(path)\n",
        (_UNIT, "-k", "power"),
    ),
    "no fsync of a new folder's name": Defect(
        DISK, "            fsync_folder(folder.parent)\n    return path", "    return path", (_UNIT, "-k", "power")
    ),
    "no fsync of an appended line": Defect(
        FILES, "            file.flush()\n            os.fsync(file.fileno())\n", "", (_UNIT, "-k", "power")
    ),
    "the manifest comes after the rename": Defect(
        FOLDERS,
        "            seal(temporary, files, owner=owner)\n"
        "            temporary.chmod(0o755)\n"
        "            if path.exists():\n"
        "                remove(path)\n"
        "            temporary.rename(path)\n"
        "            fsync_folder(path.parent)\n",
        "            temporary.chmod(0o755)\n"
        "            if path.exists():\n"
        "                remove(path)\n"
        "            temporary.rename(path)\n"
        "            fsync_folder(path.parent)\n"
        "            seal(path, [path / file.relative_to(temporary) for file in files], owner=owner)\n",
        (_UNIT, "-k", "power"),
    ),
    "written in place": Defect(
        FILES,
        "    write_with(path, lambda temporary: temporary.write_bytes(content))\n",
        "    make_folder(path.parent)\n    path.write_bytes(content)\n    fsync_file(path)\n    fsync_folder(path.parent)\n",
        (_UNIT, "-k", "full_disk"),
    ),
    "the hash is not compared": Defect(
        FOLDERS, ' or sha256_file(file) != entry["sha256"]', "", (_UNIT, "-k", "flipped")
    ),
    "the size alone of a manifest is trusted": Defect(
        FILES,
        "_encoded(_checked_text(record)) != content",
        "False",
        (_UNIT, "-k", "manifest"),
    ),
    "a file too many is overlooked": Defect(
        FOLDERS, "        if extra:\n", "        if False:\n", (_UNIT, "-k", "too_many")
    ),
    "two processes share a folder": Defect(
        DISK,
        "                path.mkdir()\n            except FileExistsError:\n                continue",
        "                path.mkdir(exist_ok=True)\n            except FileExistsError:\n                continue",
        (_UNIT, "-k", "racing"),
    ),  # fmt: skip
    "the lock is not taken": Defect(
        LOCKS, "    while not held.is_locked:\n", "    while False:\n", (_UNIT, "-k", "lock_is_exclusive")
    ),
    "a lock is told free": Defect(
        LOCKS,
        "    except BlockingIOError:\n        return True",
        "    except BlockingIOError:\n        return False",
        (_UNIT, "-k", "lock_is_exclusive"),
    ),  # fmt: skip
    "leftovers stay": Defect(
        FOLDERS,
        'for leftover in list(folder.rglob(f"{TEMPORARY}*")):',
        "for leftover in []:",
        (_UNIT, "-k", "leftovers"),
    ),
    "links are followed": Defect(
        FOLDERS,
        "        if leftover.is_dir() and not leftover.is_symlink():\n            shutil.rmtree(leftover, ignore_errors=True)",
        "        if leftover.is_dir():\n            shutil.rmtree(leftover.resolve(), ignore_errors=True)",
        (_UNIT, "-k", "leftovers"),
    ),
    "a torn line spoils the next": Defect(
        FILES, "            file.truncate(_end_of_lines(file))\n", "", (_UNIT, "-k", "torn")
    ),
    "room is not asked for": Defect(
        DISK, "    if free is not None and free < size:\n", "    if False:\n", (_UNIT, "-k", "room")
    ),
    "one checkpoint is kept": Defect(CHECKPOINT, "_KEEP = 2", "_KEEP = 1", (_DAMAGE, "-k", "flipped_bit")),
    "checkpoints are not verified": Defect(
        CHECKPOINT,
        "    if storage.verify_folder(path) != owner:\n",
        "    if False:\n",
        (_DAMAGE, "-k", "flipped_bit"),
    ),
    "the optimizer is lost": Defect(
        CHECKPOINT,
        '    optimizer.load_state_dict({"state": state, ',
        '    optimizer.load_state_dict({"state": {}, ',
        ("tests/unit/test_training.py", "-k", "resumed_training"),
    ),
    "a damaged cache entry is used": Defect(
        "orca_cli/storage/cache.py",
        "                verify_folder(path, contents=contents)\n",
        "                pass\n",
        (_DAMAGE, "-k", "cache_entry"),
    ),
    "a global generator draws the dropout": Defect(
        "orca_cli/training/loop.py",
        '                    seeding.seed_torch(seed, "finetune", "dropout", step, piece.part)\n',
        "",
        (_KILLS, "-k", "many_short"),
    ),
    "signals are never polled": Defect(
        "orca_cli/signals.py",
        "    if _pending is not None:\n        raise _error(_pending)\n\n\ndef _error",
        "    if False:\n        raise _error(_pending)\n\n\ndef _error",
        ("tests/cli/test_resume.py", "-k", "15-align"),
    ),
    "any global may be unpickled": Defect(
        "orca_cli/untrusted/pickle/machine.py",
        "(module, name) not in NAMES:",
        "False:",
        ("tests/untrusted/test_unpickle.py", "-k", "hostile"),
    ),
    "a number of threads does not count": Defect(
        "orca_cli/training/numerics.py",
        '        "threads": torch.get_num_threads(),\n',
        "",
        (_KILLS, "-k", "refused"),
    ),
}


@pytest.fixture(scope="session")
def copy(tmp_path_factory):
    """A copy of the program and its tests, without what is no text."""
    folder = tmp_path_factory.mktemp("defects") / "tree"
    for name in ("orca_cli", "conf", "tests", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def outcome(tree: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess:
    """Run some tests of a tree against the program of that tree."""
    variables = {key: value for key, value in os.environ.items() if key not in ("ORCA_SCORECARD", "ORCA_TIER")}
    variables |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-m", "slow or not slow", *tests]
    return subprocess.run(command, cwd=tree, env=variables, capture_output=True, text=True, timeout=900)


def test_the_defects_are_there():
    """The premise: 25 defects of different kinds, in text that the program has once."""
    assert len(DEFECTS) == 25
    for name, defect in DEFECTS.items():
        assert (ROOT / defect.file).read_text().count(defect.old) >= 1, name
        assert defect.old != defect.new, name


def chosen() -> list[str]:
    """Return the defects of this tier; the pr tier takes those whose tests need no torch."""
    light = [name for name, defect in DEFECTS.items() if defect.tests[0] == _UNIT]
    return list(DEFECTS)[: count(pr=0, nightly=25)] or light[::4]


@pytest.mark.slow
@pytest.mark.parametrize("name", chosen())
def test_a_defect_is_noticed(name, copy, scorecard):
    defect = DEFECTS[name]
    path = copy / defect.file
    text = path.read_text()
    sound = outcome(copy, defect.tests)
    assert sound.returncode == 0, f"the tests fail without the defect: {sound.stdout[-2000:]}"
    try:
        path.write_text(text.replace(defect.old, defect.new))
        found = outcome(copy, defect.tests)
    finally:
        path.write_text(text)
    noticed = found.returncode == 1 and "failed" in found.stdout
    scorecard.add("seeded defects / noticed by the tests", cases=1, passed=int(noticed), target=1, note="25 in all")
    assert noticed, found.stdout[-2000:]
