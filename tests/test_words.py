"""The words of the program: a glossary of thirty, pages of limited length, and phrases that nobody writes."""

import re
import tokenize
from pathlib import Path

import pytest

from scripts import sentences

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
# Phrases that need a second reading -> what to write.
WORST = {
    r"(?<!there )\b(?:is|are) no (?!more|longer|larger|less|fewer|better|worse)": "is not a, has no",
    r"\btold\b": "known, distinguished, said",
    r"\b(?:goes|go) (?:without|past)\b": "does not need, bypasses",
    r"\bstands? (?:there|in|at)\b": "is, appears",
    r"\bbeside\b(?![`:])": "next to, in addition to, compared with",
    r"\banew\b": "again, from scratch",
    r"\bin truth\b": "actually",
    r"\bso many\b|\bas many as it\b": "N, enough to",
    r"\bwhat (?:is|may be|was) typed\b|\btyped settings?\b": "set on the command line",
    r"\bmend(?:s|ed)?\b": "fix",
    r"\bthe bank\b": "the filter bank",
    r"(?<!Baselines: )\bsimple models\b(?!\))": "baselines",
}


def test_the_glossary_has_at_most_thirty_words_in_use():
    page = (ROOT / "docs" / "GLOSSARY.md").read_text()
    words = re.findall(r"^\* \*\*([\w -]+)\*\*:", page, flags=re.M)
    assert 20 < len(words) <= 30
    others = "\n".join(path.read_text() for path in PAGES if path.name != "GLOSSARY.md")
    assert not [word for word in words if not re.search(rf"\b{word}", others, flags=re.I)]
    assert "docs/GLOSSARY.md" in (ROOT / "README.md").read_text()


def test_the_pages_are_short():
    assert len((ROOT / "README.md").read_text().split()) <= 900
    assert sum(len(path.read_text().split()) for path in PAGES) <= 20_000


def prose(path):
    """Yield the texts of a file with the numbers of their lines; of Python, comments and strings."""
    if path.suffix != ".py":
        yield from enumerate(path.read_text().splitlines(), 1)
        return
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in (tokenize.NAME, tokenize.OP, tokenize.ENCODING):
                yield token.start[0], token.string


@pytest.mark.parametrize("phrase", WORST)
def test_no_sentence_has_one_of_the_worst_phrases(phrase):
    files = [*(ROOT / "orca_cli").rglob("*.py"), *(ROOT / "conf").rglob("*.yaml"), *PAGES]
    hits = [
        f"{path.relative_to(ROOT)}:{number}: {' '.join(text.split())[:300]}"
        for path in [*files, ROOT / "README.md"]
        for number, text in prose(path)
        if re.search(phrase, text, flags=re.I)
    ]
    assert not hits, f"write {WORST[phrase]}:\n" + "\n".join(hits)


def test_the_listing_shows_an_error_as_it_is_printed(tmp_path):
    (tmp_path / "orca_cli").mkdir()
    (tmp_path / "orca_cli" / "part.py").write_text(
        '"""A docstring is not listed."""\n'
        'raise DataError(f"has no column \'{name}\'", where=str(path), hint="it has: " + names)\n'
        'log("epoch ended at step", step)\nwidth = "a b"\n'
    )
    assert [sentence.text for sentence in sentences.messages(tmp_path)] == [
        "<path>: has no column '<name>'; it has: <names>",
        "epoch ended at step",
    ]


def test_the_listing_of_a_page_splits_items_and_not_lines(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(
        "# A page with its title\n\nThe first sentence ends with\n40 and a word. The second is short.\n"
        "* an item of four words\n1. another item of words\n\n```\nno code is listed here\n```\n"
    )
    assert [sentence.text for sentence in sentences.pages(tmp_path)] == [
        "A page with its title",
        "The first sentence ends with 40 and a word.",
        "The second is short.",
        "an item of four words",
        "1. another item of words",
    ]
