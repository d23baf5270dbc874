"""Own data of every form through all stages on tiny bodies: shapes, gaps, lengths, predictions."""

import csv
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from orca_cli.runs.preprocessing import load_preprocessing
from tests.cli.conftest import outputs

RNG = np.random.default_rng(0)
SIGNAL = RNG.normal(size=240)
X = (SIGNAL[:, None, None] * np.ones((1, 2, 12)) + 0.3 * RNG.normal(size=(240, 2, 12))).astype(
    np.float32
)
N = 40
Y = np.arange(N) % 2

BODIES = {
    "bert": ["body=minilm"],
    "swin": ["body=swin_tiny", "source=digits"],
    "vit": ["body=vit", "source=digits"],
}
SMALL = ["source.size=160", "align.epochs=2", "align.source_points=100", "align.max_samples=16"]
SMALL += ["train.epochs=10", "train.batch_size=16", "train.warmup_epochs=1", "train.lr=3e-3"]


@pytest.fixture
def run_on(run, tiny, tmp_path):
    """Return a function that makes a small run on files, or on arrays that it writes."""

    def call(*words, body="bert", **arrays):
        if arrays:
            np.savez(tmp_path / "own.npz", **arrays)
            words = ["task=arrays", "task.train=own.npz", *words]
        return run(*BODIES[body], f"body.checkpoint={tiny[body]}", *SMALL, *words)

    return call


def learned(done, share=1.0):
    return done.result["error"]["value"] < share * done.result["trivial_error"]


# The target is the smooth input volume with its sign changed, so that outputs must have the position
# of their inputs.
AXES = np.meshgrid(*(np.linspace(0, 1, size) for size in (4, 6, 5)), indexing="ij")
VOLUMES = np.einsum("nk,kdhw->ndhw", np.random.default_rng(0).normal(size=(N, 3)), AXES)[:, None]
MAPS, SERIES = RNG.normal(size=(80, 1, 7, 11)), RNG.normal(size=(80, 2, 23))
# name -> (body, kind, settings, arrays)
COMBINATIONS = {
    "classes of maps": ("vit", "classes", [], {"x": MAPS, "y": (MAPS.mean((1, 2, 3)) > 0).astype(int)}),
    "series": ("vit", "dense", [], {"x": SERIES, "y": 100 + 5 * SERIES.cumsum(2)}),
    "volumes": ("bert", "dense", ["metric=none"], {"x": VOLUMES, "y": -VOLUMES}),
}  # fmt: skip


@pytest.mark.parametrize("name", COMBINATIONS)
def test_own_data_of_one_to_three_dimensions_are_learned(run_on, name):
    body, kind, more, arrays = COMBINATIONS[name]
    done = run_on(
        f"task.kind={kind}", "train.epochs=6", "train.batch_size=8", *more, body=body, **arrays
    )
    assert callable(load_preprocessing(done.folder / "1_build").inputs)
    assert learned(done, 0.5 if name == "volumes" else 0.8), done.out


def test_numbers_are_predicted_from_images(run_on, tmp_path):
    (tmp_path / "photos").mkdir()
    levels = RNG.permutation(np.arange(20, 240, 3))[:60]
    for level in levels:
        noise = np.random.default_rng(int(level)).integers(-9, 9, (16, 16, 3))
        Image.fromarray((level + noise).clip(0, 255).astype(np.uint8)).save(
            tmp_path / "photos" / f"{level}.png"
        )
    pd.DataFrame({"file": levels, "grams": levels * 2.5}).to_csv(
        tmp_path / "grams.csv", index=False
    )
    words = [
        "task=images", "task.path=photos", "task.table=grams.csv", "task.error=mae", "paths.data=.",
    ]  # fmt: skip
    assert learned(run_on(*words, "metric=none", "train.epochs=12", body="swin"), 0.5)


def test_gaps_are_filled_alike_in_training_and_in_prediction(run_on, orca):
    x = X.copy()
    x[np.random.default_rng(3).random(x.shape) < 0.1] = np.nan
    settings = [
        "task.kind=values",
        "task.gaps=linear",
        "task.gap_indicator=true",
        "metric=none",
        "train.epochs=3",
    ]
    done = run_on(*settings, x=x, y=SIGNAL, split=np.repeat(["train", "val", "test"], 80))
    assert (
        "are interpolated in time and flagged in 2 indicator channels (task.gaps=linear)"
        in done.err
    )
    assert learned(done, 0.6)
    code, _, err = orca("predict", done.folder, "own.npz", "--part", "test", "--out", "p.npz")
    assert code == 0, err
    np.testing.assert_array_equal(np.load("p.npz")["outputs"], outputs(done.folder))


SECONDS = 1.7e9
# Form of the targets -> their kind, their size, and further settings.
FAR = {
    "one number": ("values", (), ["baselines=simple"]),
    "several numbers, by folds": ("values", (2,), ["train.folds=2"]),
    "series, two members": ("dense", (12,), ["train.members=2"]),
}


@pytest.mark.parametrize("form", FAR)
def test_an_offset_of_the_targets_changes_nothing_but_them(run_on, orca, tmp_path, form):
    """Multiples of 2^-10 are exact with the offset too.

    With almost no training, rounding is not amplified.
    """
    kind, size, more = FAR[form]
    split = np.repeat(["train", "val", "test"], 80)
    noise = np.random.default_rng(4).normal(size=(240, *size))
    y = np.round(2**10 * 143 * (SIGNAL.reshape(-1, *(1,) * len(size)) + noise / 8)) / 2**10
    words = [f"task.kind={kind}", "metric=none", "train.epochs=1", "train.lr=1e-7", *more]
    near, far = (
        run_on(*words, "precision=fp32", x=X, y=y + offset, split=split)
        for offset in (0.0, SECONDS)
    )
    expected, predicted = outputs(near.folder), outputs(far.folder)
    assert (expected.dtype, predicted.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(predicted - SECONDS, expected, rtol=1e-4, atol=1e-3)
    for name in ("trivial_error", "validation_error"):
        assert far.result[name] == pytest.approx(near.result[name], rel=1e-6)
    assert far.result["error"]["value"] == pytest.approx(near.result["error"]["value"], rel=1e-6)
    for name, baseline in near.result.get("baselines", {}).items():
        assert far.result["baselines"][name]["error"] == pytest.approx(baseline["error"], rel=1e-6)
    assert orca("export", far.folder, "model")[0] == 0
    for model in (far.folder, "model"):
        code, _, err = orca("predict", model, "own.npz", "--part", "test", "--out", "p.npz")
        assert code == 0, err
        np.testing.assert_array_equal(np.load("p.npz")["outputs"], predicted)
    if "train.folds=2" in more:
        kept = np.load(far.folder / "3_finetune" / "out_of_fold.npz")
        assert np.array_equal(kept["targets"], y[:80] + SECONDS)


def series():
    ends = 3 + np.arange(N) % 10
    return RNG.normal(size=(N, 2, 12)) + 3 * Y[:, None, None], ends


def length_arrays(folder):
    x, ends = series()
    np.savez(
        folder / "own.npz",
        x=np.where(np.arange(12) < ends[:, None, None], x, 99),
        y=Y,
        lengths=ends,
    )
    return ["task=arrays", "task.kind=classes", "task.train=own.npz"], "own.npz"


def symbol_table(folder):
    texts = [
        "".join(RNG.choice(list("ACGT"[2 * y : 2 * y + 2]), 3 + i % 9)) for i, y in enumerate(Y)
    ]
    pd.DataFrame({"dna": texts, "kind": Y}).to_csv(folder / "own.csv", index=False)
    return ["task=table", "task.train=own.csv", "task.sequence=dna", "task.target=kind"], "own.csv"


def long_table(folder):
    x, ends = series()
    tables = [
        pd.DataFrame(
            {
                "who": i,
                "t": range(ends[i]),
                "a": x[i, 0, : ends[i]],
                "b": x[i, 1, : ends[i]],
                "kind": Y[i],
            }
        )
        for i in range(N)
    ]
    pd.concat(tables).sample(frac=1, random_state=0).to_csv(folder / "own.csv", index=False)
    words = "task=table task.train=own.csv task.id=who task.time=t task.target=kind"
    return words.split(), "own.csv"


FORMS = {"lengths": length_arrays, "symbols": symbol_table, "long table": long_table}


@pytest.mark.parametrize("name", FORMS)
def test_a_run_and_its_predictions(run_on, orca, tmp_path, name):
    words, file = FORMS[name](tmp_path)
    done = run_on(
        *words, "train.epochs=3", "train.batch_size=8", "train.lr=1e-3", "align.source_points=200"
    )
    assert learned(done)
    code, out, err = orca("predict", done.folder, file)
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    places = [int(row["id"]) for row in rows] if name == "long table" else range(N)
    assert (
        np.mean(
            [int(row["prediction"]) != Y[place] for row, place in zip(rows, places, strict=True)]
        )
        < 0.25
    )
