"""List every sentence that a user may read: messages, help and pages.

    python -m scripts.sentences                         all, as "place<TAB>sentence"
    python -m scripts.sentences --draw 100              a random draw, to be marked by a reader
    python -m scripts.sentences --before CHECKOUT       a table of the messages that differ from another checkout's

An error is listed as it is printed, "where: what; hint"; a value that is filled in appears as <name>. Help includes the
meanings of settings. Of pages, sentences and table cells of at least four words are listed, and no code blocks.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import itertools
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SEED = 20261202
_FEWEST_WORDS = 4
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Sentence(NamedTuple):
    """A sentence and the file that contains it, relative to the checkout."""

    place: str
    text: str


def messages(root: Path = ROOT) -> Iterator[Sentence]:
    """Yield the texts of the program, in the order of their files: errors, other messages, help."""
    for path in sorted((root / "orca_cli").rglob("*.py")):
        place = str(path.relative_to(root))
        for text in _texts(ast.parse(path.read_text())):
            for block in text.split("\n\n"):
                # Words, examples and exit codes of a command are a line each.
                is_list = "\n  " in block
                for line in block.splitlines() if is_list else [block]:
                    if _is_sentence(line):
                        yield Sentence(place, " ".join(line.split()))


def pages(root: Path = ROOT) -> Iterator[Sentence]:
    """Yield the sentences of README and docs/."""
    for path in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        place = str(path.relative_to(root))
        for block in _prose(path.read_text()):
            for sentence in re.split(r"(?<=[.?!:])(?:\*\*)?\s+(?=[A-Z`*\"(\[])", block):
                if _is_sentence(sentence):
                    yield Sentence(place, sentence.strip())


def draw(count: int) -> list[Sentence]:
    """Return a random draw without replacement; the same for the same texts."""
    return random.Random(SEED).sample([*messages(), *pages()], count)


def _is_sentence(text: str) -> bool:
    """Return whether a text has enough words, apart from those that are filled in."""
    words = [
        word for word in re.sub(r"<[^>]*>", "", text).split() if re.search("[A-Za-z]{2}", word)
    ]
    return len(words) >= _FEWEST_WORDS


def _prose(text: str) -> Iterator[str]:
    """Yield paragraphs, list items and table cells of a page, each on one line."""
    text = re.sub(r"^```.*?^```$|^ {4}.*$|<!--.*?-->", "", text, flags=re.S | re.M)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[*-] |\d+\. |\|))", text):
        line = " ".join(block.split()).lstrip("*#- ")
        yield from line.strip("| ").split(" | ") if line.startswith("|") else [line]


def _texts(node: ast.AST) -> Iterator[str]:
    """Yield the texts below a node, without docstrings."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        text = _error(node.exc)
        if text:
            yield text
            return
    text = _text(node)
    if text is not None:
        yield text
        return
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
        children.remove(node.body[0])
    for child in children:
        yield from _texts(child)


def _error(call: ast.Call) -> str | None:
    """Return an error as it is printed; None where its message is made elsewhere."""
    what = _text(call.args[0]) if call.args else None
    if what is None:
        return None
    parts = {keyword.arg: keyword.value for keyword in call.keywords}
    where = f"{_filled(parts['where'])}: " if "where" in parts else ""
    hint = f"; {_filled(parts['hint'])}" if "hint" in parts else ""
    return f"{where}{what}{hint}"


def _text(node: ast.AST) -> str | None:
    """Return a text with its values as <name>; None for any other expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_filled(value) for value in node.values)
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Add):
        return None
    if _text(node.left) is None and _text(node.right) is None:
        return None
    return _filled(node.left) + _filled(node.right)


def _filled(node: ast.AST) -> str:
    """Return the text of an expression, or the last name in it, as <name>."""
    text = _text(node)
    if text is not None:
        return text
    names = re.findall(r"[A-Za-z_]\w{2,}", ast.unparse(node))
    return f"<{names[-1].replace('_', ' ').strip()}>" if names else "<value>"


def changes(before: Path) -> Iterator[str]:
    """Yield a Markdown table of the messages that differ between another checkout and this one."""
    yield "| file | before | after |"
    yield "|---|---|---|"
    old_texts, new_texts = _by_place(messages(before)), _by_place(messages())
    for place in sorted({*old_texts, *new_texts}):
        old, new = old_texts.get(place, []), new_texts.get(place, [])
        matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
        for kind, start, stop, new_start, new_stop in matcher.get_opcodes():
            if kind == "equal":
                continue
            for pair in itertools.zip_longest(
                old[start:stop], new[new_start:new_stop], fillvalue=""
            ):
                cells = " | ".join(text.replace("|", "\\|") for text in pair)
                yield f"| {place} | {cells} |"


def _by_place(listed: Iterable[Sentence]) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for sentence in listed:
        texts.setdefault(sentence.place, []).append(sentence.text)
    return texts


def main() -> None:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--draw", type=int, metavar="N")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT")
    arguments = parser.parse_args()
    if arguments.before:
        print("\n".join(changes(arguments.before)))
        return
    chosen = draw(arguments.draw) if arguments.draw else [*messages(), *pages()]
    print("\n".join(f"{sentence.place}\t{sentence.text}" for sentence in chosen))


if __name__ == "__main__":
    main()
