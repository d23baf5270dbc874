"""scripts/study_data.py: what it makes of raw sets is disjoint, stratified, padded, small, and the same every time."""

import sys

import numpy as np
import pytest

from scripts import study_data

PARTS = ("train", "val", "test")


@pytest.fixture
def raw(tmp_path):
    """Raw sets in which every sample has a value of its own, so that it can be found again."""
    folder = tmp_path / "raw"
    for name in ("series", "cifar10", "jsb"):
        (folder / name).mkdir(parents=True)
    y = {
        "y_train": np.repeat([0, 1, 2], [300, 150, 50]),
        "y_test": np.repeat([0, 1, 2], [400, 300, 200]),
    }
    x = np.arange(1.0, 1401)[:, None, None] * np.ones((1, 2, 6), np.float32)
    for name in {*study_data.SERIES, *study_data.WHOLE} - {"watch"}:
        more = {
            f"lengths_{part}": np.full(n, 4)
            for part, n in (("train", 500), ("test", 900))
            if name[0] == "J"
        }
        np.savez(folder / "series" / f"{name}.npz", x_train=x[:500], x_test=x[500:], **y, **more)
    group = np.repeat(np.arange(1, 11), 60)
    watch = {
        "x": group[:, None, None] * np.ones((1, 6, 8), np.float32),
        "y": np.arange(600) % 3,
        "group": group,
    }
    np.savez(folder / "series" / "watch.npz", **watch)
    generator, letters = np.random.default_rng(0), list(study_data.AMINO_ACIDS)
    lines = [f"{''.join(generator.choice(letters, size=12))},{n % 2}" for n in range(300)]
    (folder / "series" / "peptides_x.csv").write_text(
        "\n".join(["sequence,label", *lines, *lines[:40]]) + "\n"
    )
    images = generator.integers(0, 255, (600, 3, 32, 32)).astype(np.uint8)
    y = np.arange(600) % 10
    np.savez(
        folder / "cifar10" / "c.npz",
        x_train=images[:500],
        y_train=y[:500],
        x_test=images[500:],
        y_test=y[500:],
    )
    (folder / "jsb" / "JSB_Chorales.mat").write_bytes(b"jsb")
    (folder / "more").mkdir()
    for name in study_data.TABLES:
        (folder / "more" / f"{name}.csv").write_text("a,b\n1,2\n")
    return folder


def test_all_sets_are_made_and_made_alike(raw, tmp_path, monkeypatch):
    def make(to):
        monkeypatch.setattr(
            sys, "argv", ["study_data.py", "--from", str(raw), "--to", str(tmp_path / to)]
        )
        return study_data.main()

    def made(name, folder="study/0"):
        with np.load(tmp_path / "a" / folder / f"{name}.npz") as file:
            arrays = {key: file[key] for key in file.files}
        return arrays, {
            part: {x.tobytes() for x in arrays[f"x_{part}"]}
            for part in PARTS
            if f"x_{part}" in arrays
        }

    assert (make("a"), make("b")) == (0, 0)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    photos = [file for file in files if file.suffix == ".png"]
    assert len(photos) == study_data.PHOTOS + 100
    # The draws, two of images, the chorales; series, tables, steps, photos as arrays, frequency.
    n_whole = 8 + 1 + len(study_data.TABLES) + 1 + 1 + 1
    assert len(files) - len(photos) == ((5 + 2) * study_data.SEEDS + 2 + 1) + n_whole
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    (trace, rows), (original, _) = made("Trace"), made("Trace", "whole")
    assert [len(trace[f"y_{part}"]) for part in PARTS] == [200, 100, 500]
    assert rows["train"].isdisjoint(rows["val"])
    np.testing.assert_allclose(np.bincount(trace["y_train"]) / 200, [0.6, 0.3, 0.1], atol=0.02)
    by_value = dict(zip(original["x_train"][:, 0, 0], original["y_train"], strict=True))
    assert [by_value[value] for value in trace["x_train"][:, 0, 0]] == list(trace["y_train"])
    assert set((made("JapaneseVowels")[0]["x_train"] > 0).sum(axis=2).ravel()) == {4}  # padded
    watch, _ = made("watch")
    assert [set(watch[f"x_{part}"][:, 0, 0]) for part in PARTS] == [set(range(1, 8)), {8}, {9, 10}]
    peptides, rows = made("peptides")
    assert len(set.union(*rows.values())) == sum(
        len(peptides[f"y_{part}"]) for part in PARTS
    )  # each is in one split
    assert made("cifar10", "study")[1]["train"].isdisjoint(
        made("cifar10_source", "study")[1]["train"]
    )
    for name in ("Trace", "watch", "peptides"):
        draws = [made(name, f"study/{seed}") for seed in range(study_data.SEEDS)]
        assert len({frozenset(rows["test"]) for _, rows in draws}) == study_data.SEEDS, name
        assert all(rows["train"].isdisjoint(rows["test"]) for _, rows in draws), name
