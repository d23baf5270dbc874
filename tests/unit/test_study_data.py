"""scripts/study_data.py: what it makes of raw sets is disjoint, stratified, padded, small, and the same every time."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts import study_data

ROOT = Path(__file__).parent.parent.parent
AMINO = study_data.AMINO_ACIDS


@pytest.fixture
def raw(tmp_path):
    """Raw sets in which every sample has a value of its own, so that it can be found again."""
    folder = tmp_path / "raw"
    (folder / "series").mkdir(parents=True)
    (folder / "cifar10").mkdir()
    generator = np.random.default_rng(0)
    y_train, y_test = np.repeat([0, 1, 2], [300, 150, 50]), np.repeat([0, 1, 2], [400, 300, 200])
    for name in sorted({*study_data.SERIES, *study_data.WHOLE} - {"watch"}):
        x = np.arange(1.0, len(y_train) + len(y_test) + 1)[:, None, None] * np.ones((1, 2, 6), np.float32)
        arrays = {"x_train": x[:500], "y_train": y_train, "x_test": x[500:], "y_test": y_test}
        if name == "JapaneseVowels":
            arrays |= {"lengths_train": np.full(500, 4), "lengths_test": np.full(900, 5)}
        np.savez(folder / "series" / f"{name}.npz", **arrays)
    group = np.repeat(np.arange(1, 11), 60)
    x = group[:, None, None] * np.ones((1, 6, 8), np.float32)
    np.savez(folder / "series" / "watch.npz", x=x, y=np.arange(600) % 3, group=group)
    sequences = {"".join(generator.choice(list(AMINO), size=12)): n % 2 for n in range(300)}
    lines = [f"{sequence},{label}" for sequence, label in [*sequences.items(), *list(sequences.items())[:40]]]
    (folder / "series" / "peptides_x.csv").write_text("sequence,label\n" + "\n".join(lines) + "\n")
    images = generator.integers(0, 255, (600, 3, 32, 32)).astype(np.uint8)
    arrays = {"x_train": images[:500], "y_train": np.arange(500) % 10}
    np.savez(folder / "cifar10" / "c.npz", **arrays, x_test=images[500:], y_test=np.arange(100) % 10)
    (folder / "jsb").mkdir()
    (folder / "jsb" / "JSB_Chorales.mat").write_bytes(b"jsb")
    return folder


def make(raw, to):
    words = [sys.executable, "scripts/study_data.py", "--from", str(raw), "--to", str(to)]
    return subprocess.run(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)


def arrays(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def rows(archive, part):
    return {sample.tobytes() for sample in archive[f"x_{part}"]}


def test_all_sets_are_made_and_made_alike(raw, tmp_path):
    first, second = make(raw, tmp_path / "a"), make(raw, tmp_path / "b")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == ((5 + 2) * study_data.SEEDS + 2 + 1) + (8 + 1 + 1)
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file

    trace = arrays(tmp_path / "a" / "study" / "0" / "Trace.npz")
    assert [len(trace[f"y_{part}"]) for part in ("train", "val", "test")] == [200, 100, 500]
    original = arrays(raw / "series" / "Trace.npz")
    assert rows(trace, "train").isdisjoint(rows(trace, "val"))
    assert rows(trace, "train") | rows(trace, "val") <= rows(original, "train")
    assert rows(trace, "test") <= rows(original, "test")
    for part, whole in (("train", "train"), ("val", "train"), ("test", "test")):
        shares = np.bincount(trace[f"y_{part}"]) / len(trace[f"y_{part}"])
        np.testing.assert_allclose(shares, np.bincount(original[f"y_{whole}"]) / len(original[f"y_{whole}"]), atol=0.02)
    by_value = dict(zip(original["x_train"][:, 0, 0], original["y_train"], strict=True))
    assert [by_value[value] for value in trace["x_train"][:, 0, 0]] == list(trace["y_train"])

    vowels = arrays(tmp_path / "a" / "study" / "0" / "JapaneseVowels.npz")
    for part, length in (("train", 4), ("test", 5)):
        assert (vowels[f"x_{part}"][..., length:] == 0).all()
        assert (vowels[f"x_{part}"][..., :length] > 0).all()

    watch, entire = (arrays(tmp_path / "a" / folder / "watch.npz") for folder in ("study/0", "whole"))
    subjects = [set(watch[f"x_{part}"][:, 0, 0]) for part in ("train", "val", "test")]
    assert subjects == [set(range(1, 8)), {8}, {9, 10}]
    assert [set(entire[f"x_{part}"][:, 0, 0]) for part in ("train", "test")] == [set(range(1, 9)), {9, 10}]
    assert (len(entire["y_train"]), len(entire["y_test"])) == (8 * 60, 2 * 60)
    assert rows(arrays(tmp_path / "a" / "whole" / "Trace.npz"), "train") == rows(original, "train")

    peptides = arrays(tmp_path / "a" / "study" / "0" / "peptides.npz")
    assert peptides["x_train"].shape[1:] == (20, 50)
    assert set(peptides["x_train"].sum(axis=1)[:, :12].ravel()) == {1}
    assert peptides["x_train"][..., 12:].sum() == 0
    parts = [rows(peptides, part) for part in ("train", "val", "test")]
    counts = [len(peptides[f"y_{part}"]) for part in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == sum(counts)

    task, source = (arrays(tmp_path / "a" / "study" / f"{name}.npz") for name in ("cifar10", "cifar10_source"))
    assert rows(task, "train").isdisjoint(rows(source, "train"))
    assert rows(task, "train") | rows(source, "train") == rows(arrays(raw / "cifar10" / "c.npz"), "train")

    # Every seed draws samples anew, in the same sizes.
    whole = arrays(raw / "series" / "Trace.npz")
    for name in ("Trace", "watch", "peptides"):
        draws = [arrays(tmp_path / "a" / "study" / str(seed) / f"{name}.npz") for seed in range(study_data.SEEDS)]
        assert len({frozenset(rows(draw, "test")) for draw in draws}) == study_data.SEEDS, name
        for draw in draws:
            assert rows(draw, "train").isdisjoint(rows(draw, "test")), name
            if name != "watch":
                counts = {len(draw[f"y_{part}"]): len(draws[0][f"y_{part}"]) for part in ("train", "val", "test")}
                assert all(count == first for count, first in counts.items()), name
    assert rows(draws[1], "test") - rows(draws[0], "test")
    assert rows(arrays(tmp_path / "a" / "study" / "1" / "Trace.npz"), "test") & rows(whole, "train")


def test_what_is_missing_is_named_and_the_rest_is_made(raw, tmp_path):
    (raw / "series" / "Trace.npz").unlink()
    (raw / "jsb" / "JSB_Chorales.mat").unlink()
    done = make(raw, tmp_path / "a")
    assert done.returncode == 1
    assert "Trace: left out, no file" in done.stderr
    assert "jsb: left out, no file" in done.stderr
    assert not (tmp_path / "a" / "study" / "0" / "Trace.npz").exists()
    assert (tmp_path / "a" / "study" / "0" / "ArrowHead.npz").exists()


def test_every_class_is_kept_however_few_are():
    y = np.repeat(np.arange(40), 3)
    assert set(y[study_data.stratified(y, 40, "x")]) == set(range(40))
    assert len(study_data.stratified(y, 40, "x")) == 40
    assert list(study_data.stratified(y, 500, "x")) == list(range(120))
    assert list(study_data.stratified(y, 40, "x")) != list(study_data.stratified(y, 40, "y"))
