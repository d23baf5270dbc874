"""Sources: their examples, the same every time, and messages about missing or wrong files."""

import itertools
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.benchmarks.sources import cifar10, stdlib_docs
from orca_cli.benchmarks.sources.balance import draw, facts_digest
from orca_cli.benchmarks.sources.proteins import load_homology, load_table
from orca_cli.exceptions import ConfigError, DataError
from tests.properties import examples
from tests.tasks.builders import refused
from tests.tasks.test_homology import write_lmdb

LABELS = np.arange(90) % 3  # thirty examples of each class
SEEDS = st.integers(0, 2**31)
SIZES = st.integers(6, 60)


def shares(available, size):
    """Return how many examples a draw takes of classes with this many."""
    labels = np.repeat(np.arange(len(available)), available)
    return np.bincount(labels[draw(labels, size, 0)])


@st.composite
def classes_and_size(draw_from):
    """Draw the sizes of classes, and how many examples to take of all."""
    available = np.array(draw_from(st.lists(st.integers(2, 50), min_size=2, max_size=8)))
    size = draw_from(st.integers(2 * len(available), int(available.sum())))
    return available, size


@examples(30)
@given(classes_and_size())
def test_a_draw_has_its_size(drawn):
    available, size = drawn
    taken = shares(available, size)
    assert taken.sum() == size
    assert (taken <= available).all()


@examples(30)
@given(classes_and_size())
def test_shares_are_as_equal_as_the_data_allow(drawn):
    available, size = drawn
    taken = shares(available, size)
    # Classes with examples left gave as many as any other, up to one by rounding.
    assert (taken[taken < available] >= taken.max() - 1).all()


@examples(30)
@given(SEEDS, SIZES)
def test_a_draw_is_sorted_and_without_repetition(seed, size):
    chosen = draw(LABELS, size, seed)
    assert len(chosen) == size
    assert (np.diff(chosen) > 0).all()


@examples(30)
@given(SEEDS, SIZES, st.integers(0, 5))
def test_a_draw_grows(seed, size, extra):
    assert set(draw(LABELS, size, seed)) <= set(draw(LABELS, size + extra, seed))


@examples(30)
@given(SEEDS)
def test_a_draw_is_seeded(seed):
    assert (draw(LABELS, 30, seed) == draw(LABELS, 30, seed)).all()
    assert (draw(LABELS, 30, seed) != draw(LABELS, 30, seed + 1)).any()


@pytest.mark.parametrize("size", [None, 90, 1000])
def test_all_are_drawn_where_there_are_no_more(size):
    assert draw(LABELS, size, seed=1).tolist() == list(range(90))


@pytest.mark.parametrize(
    ("labels", "size", "error", "message"),
    [
        (LABELS, 5, ConfigError, "source.size: must be at least 6, two.*use source.size=6 or more"),
        (np.zeros(5, int), None, DataError, "has only one class"),
        (np.array([0, 0, 2, 2]), None, DataError, "class 1 has 0 examples"),
    ],
    ids=["size", "one-class", "gap"],
)
def test_draws_that_cannot_be_balanced_are_refused(labels, size, error, message):
    with refused(message, error):
        draw(labels, size, seed=0)


FACTS = [
    ("ab", "c"),
    ("a", "bc"),
    ("abc",),
    ("c", "ab"),
    (np.zeros((2, 8)),),
    (np.zeros((4, 4)),),
    (np.ones((4, 4)),),
    (np.ones((4, 4), np.float32),),
]


@pytest.mark.parametrize(("one", "other"), itertools.combinations(FACTS, 2))
def test_the_digest_depends_on_borders_order_form_and_content(one, other):
    assert facts_digest(*one) != facts_digest(*other)


def test_equal_facts_have_equal_digests():
    assert facts_digest("a", np.arange(3)) == facts_digest("a", np.arange(3))


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.fixture
def library(tmp_path, monkeypatch, canary):
    """Write a library of two packages in place of Python's; running the first makes the canary."""
    files = {
        "asyncio/__init__.py": f'''"""One two three four five."""
open({str(canary)!r}, "w")
def f(): """Six  seven
    eight nine ten."""
def g(): """Third text of this package."""
''',
        "email/__init__.py": f'''"""Words of another package here."""
class A: """Six seven eight nine ten."""
class B: """Again words of another package."""
class C: """Short."""
class D: """{"long " * 70}"""
''',
        "email/template.py": "not python {{",
        "email/tests/case.py": '"""Texts of tests are left out always."""',
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    return tmp_path


def test_docstrings_are_cut_and_ambiguous_ones_left_out(library):
    data = stdlib_docs.load(None, 0).examples
    # "Six seven eight nine ten." is in both packages, "Short." has too few words.
    assert list(data.inputs) == [
        "One two three four five.",
        "Third text of this package.",
        "Words of another package here.",
        "Again words of another package.",
        " ".join(["long"] * 60),
    ]
    classes = [data.class_names[label] for label in data.labels]
    assert classes == ["asyncio"] * 2 + ["email"] * 3


def test_the_library_is_never_run(library, canary):
    assert stdlib_docs.load(None, 0).examples
    assert not canary.exists()


def test_docstrings_do_not_depend_on_the_order_of_the_disk(library, monkeypatch):
    digest = stdlib_docs.load(None, 0).digest
    rglob = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: reversed(list(rglob(self, pattern))))
    assert stdlib_docs.load(None, 0).digest == digest


def test_the_digest_of_docstrings_depends_on_the_seed(library):
    assert stdlib_docs.load(None, 0).digest != stdlib_docs.load(None, 1).digest


def test_a_python_without_sources_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with refused("has no source files of Python's standard library", DataError):
        stdlib_docs.load(None, 0)


@pytest.fixture
def write_cifar10(tmp_path):
    """Return a function that writes an .npz of CIFAR-10, and returns its arrays."""

    def write(**changes):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
        arrays = {"x_train": images, "y_train": np.arange(60) % 10} | changes
        (tmp_path / "cifar10").mkdir()
        np.savez(tmp_path / "cifar10" / "cifar10.npz", **arrays)
        return arrays

    return write


def test_cifar10_is_what_its_archive_holds(tmp_path, write_cifar10):
    arrays = write_cifar10()
    data = cifar10.load(None, 0, tmp_path).examples
    np.testing.assert_array_equal(np.round(data.inputs * 255), arrays["x_train"])
    assert data.labels.tolist() == arrays["y_train"].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x_train": np.zeros((60, 32, 32, 3), np.uint8)},
            r"uint8 .*; expected uint8 of shape \(N, 3, 32, 32\)",
        ),
        ({"y_train": np.full(60, 11)}, "label at index 0 must be an integer in 0..9, got 11"),
    ],
    ids=["images", "labels"],
)
def test_cifar10_of_another_form_is_refused(changes, message, tmp_path, write_cifar10):
    write_cifar10(**changes)
    with refused(f"cifar10.npz.*{message}", DataError):
        cifar10.load(100, 0, tmp_path)


def test_rows_of_a_table_are_proteins_and_na_is_a_peptide(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("sequence,label\nNA,1\nglw,1\nGLW,1\nNULL,0\nMKV,0\nAAA,0\nAAA,1\n")
    data = load_table(None, 0, tmp_path, str(path)).examples
    assert list(data.inputs) == ["NA", "GLW", "NULL", "MKV"]
    assert data.labels.tolist() == [1, 1, 0, 0]
    assert tuple(data.class_names) == ("0", "1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seqence,label\nAC,1\n", r"source\.sequence: .*did you mean 'seqence'"),
        (
            "sequence,label\nAC,1\nA-C,0\n",
            r"own\.csv, row 2: the sequence 'A-C' has characters other than letters",
        ),
        ("sequence,label\nAC,1\nAD,\n", r"row 2: the sequence 'AD' has .*its 'label' is empty"),
    ],
    ids=["column", "letters", "class"],
)
def test_wrong_tables_of_proteins_are_refused(text, message, tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(text)
    source = load_table(None, 0, tmp_path, str(path))
    with refused(message, DataError):
        source.read()


def test_the_largest_folds_of_the_homology_file(tmp_path):
    letters = np.random.default_rng(1).choice(list("ACDEFGHIKLMNPQRSTVWY"), (13, 20))
    folds = [5] * 3 + [9] * 4 + [2] * 3 + [7] * 2 + [1]
    proteins = [("".join(row), fold) for row, fold in zip(letters, folds, strict=True)]
    write_lmdb(tmp_path / "homology", {"train": proteins})
    data = load_homology(None, 0, tmp_path, folds=2).examples
    # Folds 2 and 5 are as large; the smaller number counts.
    assert tuple(data.class_names) == ("fold 2", "fold 9")
    expected = {sequence: f"fold {fold}" for sequence, fold in proteins if fold in (2, 9)}
    classes = [data.class_names[label] for label in data.labels]
    assert dict(zip(data.inputs, classes, strict=True)) == expected
