"""The program that makes a run: its version, its commit, and a digest of its sources."""

import ast
import functools
import hashlib
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from orca_cli import __version__

SOURCES = Path(__file__).parents[1]
# Nodes whose first statement may be a docstring.
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@functools.cache
def digest(sources: Path = SOURCES) -> str:
    """Return the SHA-256 over the syntax trees of all Python sources below a folder.

    Comments, docstrings, layout and the version of Python do not count. Neither do conf/, whose
    values are in a run's settings, packages, and modules of --allow-module. The digest takes most
    of a second, so only commands that train compute it.
    """
    program_digest = hashlib.sha256()
    for path in sorted(sources.rglob("*.py")):
        if path.is_file():
            # The name counts too: a program with a renamed module is a different program.
            name = path.relative_to(sources).as_posix()
            program_digest.update(name.encode() + b"\n")
            program_digest.update(_content(path.read_bytes()))
    return program_digest.hexdigest()


@functools.cache
def record() -> dict[str, Any]:
    """Return the record that a run keeps of the program, JSON-able.

    It is made once in a process: a commit that is checked out during a run does not change it.
    """
    return {"version": __version__, "commit": commit(SOURCES.parent), "sha256": digest()}


def commit(checkout: Path) -> str | None:
    """Return the commit that is checked out in a folder.

    None if the folder is not a checkout, or git fails.
    """
    repository = checkout / ".git"
    if not repository.exists():
        return None
    # Without --git-dir, git would use the repository in GIT_DIR, which is set inside hooks.
    git_command = ["git", f"--git-dir={repository}", "rev-parse", "--verify", "HEAD"]
    # A machine may lack git: the digest of the sources is recorded in any case.
    with suppress(OSError, subprocess.SubprocessError):
        process = subprocess.run(git_command, capture_output=True, check=True, text=True, timeout=5)
        return process.stdout.strip()
    return None


def _content(source: bytes) -> bytes:
    """Return a source's syntax tree as bytes, or the source itself if it cannot be parsed."""
    try:
        tree = ast.parse(source)
        return _text(tree).encode()
    except (SyntaxError, ValueError):
        return source


def _text(node: Any) -> str:
    """Return a part of a syntax tree as a text that does not depend on the version of Python."""
    if isinstance(node, list):
        return f"[{' '.join(map(_text, node))}]"
    if not isinstance(node, ast.AST):
        # Names, numbers and texts of the source.
        return repr(node)
    fields = {name: getattr(node, name, None) for name in node._fields}
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    # Versions of Python differ in the fields that are empty.
    field_texts = [
        f"{name}={_text(field)}" for name, field in fields.items() if field not in (None, [])
    ]
    return f"{type(node).__name__}({' '.join(field_texts)})"
