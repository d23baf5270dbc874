"""Sources: what they hold, that they are the same every time, and what is said where files are missing or wrong."""

import sysconfig
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.benchmarks.sources import cifar10, stdlib_docs
from orca_cli.benchmarks.sources.balance import draw, facts_digest
from orca_cli.benchmarks.sources.proteins import load_homology, load_table
from orca_cli.exceptions import DataError
from tests.properties import examples
from tests.tasks.builders import refused
from tests.tasks.test_homology import write_lmdb


@examples(30)
@given(st.lists(st.integers(2, 50), min_size=2, max_size=8), st.integers(4, 300))
def test_shares_are_as_equal_as_the_data_allow(available, size):
    available = np.array(available)
    size, labels = (
        max(2 * len(available), min(size, available.sum())),
        np.repeat(np.arange(len(available)), available),
    )
    taken = np.bincount(labels[draw(labels, size, 0)])
    assert taken.sum() == size
    assert (taken <= available).all()
    # Classes with examples left gave as many as any other, up to one by rounding.
    assert (taken[taken < available] >= taken.max() - 1).all()


@examples(30)
@given(st.integers(0, 2**31), st.integers(6, 60), st.integers(0, 5))
def test_a_draw_is_seeded_sorted_without_repetition_and_grows(seed, size, extra):
    labels = np.arange(90) % 3
    chosen = draw(labels, size, seed)
    assert len(chosen) == len(set(chosen)) == size
    assert (np.diff(chosen) > 0).all()
    assert np.bincount(labels[chosen]).max() - np.bincount(labels[chosen]).min() <= 1
    assert (draw(labels, size, seed) == chosen).all()
    assert set(chosen) <= set(draw(labels, size + extra, seed))
    assert size > 30 or (draw(labels, 30, seed) != draw(labels, 30, seed + 1)).any()
    assert (draw(labels, None, seed) == draw(labels, 1000, 1)).all()


def test_the_digest_depends_on_the_form_borders_and_order_of_facts():
    texts = [("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab")]
    facts = [*texts, (np.zeros((2, 8)),), (np.zeros((4, 4)),), (np.ones((4, 4)),)]
    assert len({facts_digest(*some) for some in facts}) == len(facts)
    assert facts_digest("a", np.arange(3)) == facts_digest("a", np.arange(3))


def test_stdlib_docs_are_parsed_and_never_run(tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    trap = f'''"""One two three four five."""
open({str(canary)!r}, "w")
def f(): """Six  seven
    eight nine ten."""
def g(): """Third text of this package."""
'''
    other = f'''"""Words of another package here."""
class A: """Six seven eight nine ten."""
class B: """Again words of another package."""
class C: """Short."""
class D: """{"long " * 70}"""
'''
    for name, text in {"asyncio": trap, "email": other}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    (tmp_path / "email" / "template.py").write_text("not python {{")
    (tmp_path / "email" / "tests").mkdir()
    (tmp_path / "email" / "tests" / "case.py").write_text(
        '"""Texts of tests are left out always."""'
    )
    data = stdlib_docs.load(None, 0)
    rglob = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: reversed(list(rglob(self, pattern))))
    assert stdlib_docs.load(None, 0).digest == data.digest != stdlib_docs.load(None, 1).digest
    # "Six seven eight nine ten." is in both packages, "Short." has too few words.
    assert list(data.examples.inputs) == [
        "One two three four five.",
        "Third text of this package.",
        "Words of another package here.",
        "Again words of another package.",
        " ".join(["long"] * 60),
    ]
    assert [data.examples.class_names[label] for label in data.examples.labels] == [
        "asyncio"
    ] * 2 + ["email"] * 3
    assert not canary.exists()


def test_cifar10_is_what_its_archive_holds_or_refused(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
    arrays, path = (
        {"x_train": x, "y_train": np.arange(60) % 10},
        tmp_path / "cifar10" / "cifar10.npz",
    )
    path.parent.mkdir()
    np.savez(path, **arrays)
    examples = cifar10.load(None, 0, tmp_path).examples
    np.testing.assert_array_equal(np.round(examples.inputs * 255), x)
    assert examples.labels.tolist() == arrays["y_train"].tolist()
    for changes, message in (
        (
            {"x_train": np.zeros((60, 32, 32, 3), np.uint8)},
            r"uint8 .*; expected uint8 \(N, 3, 32, 32\)",
        ),
        ({"y_train": np.full(60, 11)}, "label 11 at index 0 is not an integer in 0..9"),
    ):
        np.savez(path, **arrays | changes)
        with refused(f"cifar10.npz.*{message}", DataError):
            cifar10.load(100, 0, tmp_path)


def test_rows_of_a_table_are_proteins_and_classes_and_na_is_a_peptide(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("sequence,label\nNA,1\nglw,1\nGLW,1\nNULL,0\nMKV,0\nAAA,0\nAAA,1\n")
    examples = load_table(None, 0, tmp_path, str(path)).examples
    assert list(examples.inputs) == ["NA", "GLW", "NULL", "MKV"]
    assert (examples.labels.tolist(), tuple(examples.class_names)) == ([1, 1, 0, 0], ("0", "1"))
    for text, message in (
        ("seqence,label\nAC,1\n", r"source\.sequence: .*did you mean 'seqence'"),
        ("sequence,label\nAC,1\nA-C,0\n", r"own\.csv, row 2: 'A-C' is not a sequence of letters"),
    ):
        path.write_text(text)
        with refused(message, DataError):
            load_table(None, 0, tmp_path, str(path)).examples  # noqa: B018


def test_the_largest_folds_of_the_homology_file(tmp_path):
    letters = np.random.default_rng(1).choice(list("ACDEFGHIKLMNPQRSTVWY"), (13, 20))
    folds = [5] * 3 + [9] * 4 + [2] * 3 + [7] * 2 + [1]
    proteins = [("".join(row), fold) for row, fold in zip(letters, folds, strict=True)]
    write_lmdb(tmp_path / "homology", {"train": proteins})
    data = load_homology(None, 0, tmp_path, folds=2)
    assert tuple(data.examples.class_names) == (
        "fold 2",
        "fold 9",
    )  # 2 and 5 are as large; the smaller number
    expected = {sequence: fold for sequence, fold in proteins if fold in (2, 9)}
    folds = [int(data.examples.class_names[label].split()[1]) for label in data.examples.labels]
    assert dict(zip(data.examples.inputs, folds, strict=True)) == expected
