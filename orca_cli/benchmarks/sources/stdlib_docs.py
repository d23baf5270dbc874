"""Docstrings of Python's own standard library, labelled by package.

This source for text bodies needs no download. The files are parsed and never imported. The packages
are a fixed list that every installation has. The texts are therefore the same on every machine with
the same Python, whatever optional modules it was built with.
"""

import ast
import functools
import hashlib
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from orca_cli import signals
from orca_cli.benchmarks.sources.balance import drawn_texts, facts_digest, unambiguous
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Examples, SourceData

# Large packages that Linux distributions do not move to separate packages, as they do with tkinter,
# idlelib, distutils, lib2to3 and ensurepip.
PACKAGES = (
    "asyncio",
    "email",
    "http",
    "importlib",
    "logging",
    "multiprocessing",
    "unittest",
    "xml",
)
_TEST_FOLDERS = {"test", "tests", "__pycache__"}
_FEWEST_WORDS = 5  # shorter texts are left out
_MOST_WORDS = 60  # longer texts are cut
_ENOUGH_WORDS = 30  # paragraphs are added until a text has this many
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def load(size: Annotated[int, Ge(16)] | None, seed: int) -> SourceData:
    """Return docstrings as texts and the package that each comes from as its class.

    A text has the first paragraphs of a docstring, 5 to 60 words, with white space collapsed. Texts
    that occur in several packages are left out. A draw of `size` texts is balanced over the
    packages. Raises DataError if Python's library has no source files.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    if not (folder / "asyncio" / "__init__.py").is_file():
        raise DataError(
            "has no source files of Python's standard library (they are zipped or removed)",
            where=str(folder),
            hint="use another Python installation, or an image body with source=digits",
        )
    files = _file_names(folder)
    contents = [(folder / name).read_bytes() for _, name in files]

    def read() -> Examples:
        pairs = []
        for (label, _), content in zip(files, contents, strict=True):
            signals.check()
            for docstring in _docstrings(content):
                words = _first_words(docstring)
                if len(words) >= _FEWEST_WORDS:
                    text = " ".join(words[:_MOST_WORDS])
                    pairs.append((text, PACKAGES[label]))
        return drawn_texts(unambiguous(pairs), size, seed, where=str(folder))

    # The digest covers the files instead of the texts, since parsing takes seconds.
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    facts = (size, seed, _FEWEST_WORDS, _MOST_WORDS, files, digests, sys.version)
    return SourceData("text", facts_digest("stdlib_docs", *facts), read)


def _file_names(folder: Path) -> list[tuple[int, str]]:
    """Return the files of the packages, without tests, each with the number of its package.

    Their order does not depend on the file system.
    """
    labelled_names = []
    for label, package in enumerate(PACKAGES):
        files = (folder / package).rglob("*.py")  # in the order of the file system
        relative_paths = [file.relative_to(folder) for file in files]
        for path_names in sorted(path.parts for path in relative_paths):
            if _TEST_FOLDERS.isdisjoint(path_names[1:-1]):
                labelled_names.append((label, "/".join(path_names)))
    return labelled_names


def _first_words(docstring: str) -> list[str]:
    """Return the words of a docstring's first paragraphs, until there are `_ENOUGH_WORDS`."""
    words: list[str] = []
    for paragraph in docstring.split("\n\n"):
        words += paragraph.split()
        if len(words) >= _ENOUGH_WORDS:
            break
    return words


@functools.cache
def _docstrings(content: bytes) -> tuple[str, ...]:
    """Return the docstrings in the content of a file, in the order of their lines.

    Parsing takes seconds, so each process parses a file only once.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about old escapes in strings
        try:
            tree = ast.parse(content)
        except (SyntaxError, ValueError):  # templates that are not Python, or null bytes
            return ()
    nodes = [node for node in ast.walk(tree) if isinstance(node, _DOCUMENTED)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))  # a module has no line
    docstrings = [ast.get_docstring(node) for node in nodes]
    return tuple(docstring for docstring in docstrings if docstring)
