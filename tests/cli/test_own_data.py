"""Own data of every kind and form through all stages on tiny bodies, and what the runs predict: kinds, shapes, gaps, units."""

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from orca_cli.runs.preprocessing import load_preprocessing
from tests.cli.conftest import outputs

RNG = np.random.default_rng(0)
SIGNAL = RNG.normal(size=240)
X = (SIGNAL[:, None, None] * np.ones((1, 2, 12)) + 0.3 * RNG.normal(size=(240, 2, 12))).astype(np.float32)
N = 40
Y = np.arange(N) % 2

BODIES = {"bert": ["body=minilm"], "swin": ["body=swin_tiny", "source=digits"], "vit": ["body=vit", "source=digits"]}
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


def forms() -> dict[str, tuple[str, dict[str, np.ndarray]]]:
    """Own data of every kind, in 1-D and 2-D: name -> (kind, arrays)."""
    rng = np.random.default_rng(0)
    series, maps = rng.normal(size=(80, 2, 23)), rng.normal(size=(80, 1, 7, 11))
    return {
        "classes_2d": ("classes", {"x": maps, "y": (maps.mean((1, 2, 3)) > 0).astype(int)}),
        "labels_1d": ("labels", {"x": series, "y": (series[:, :, :5].mean(2) > 0).astype(int)}),
        "dense_1d": ("dense", {"x": series, "y": 100 + 5 * series.cumsum(2)}),
        "dense_2d": ("dense", {"x": maps, "y": 3 * maps[:, 0] - 7}),
        "class_maps_2d": ("dense", {"x": maps, "y": (maps[:, 0] > 0).astype(int)}),
    }


OVERLAP = ["embedder=overlap", "embedder.max_tokens=20"]
COMBINATIONS = [
    ("classes_2d", "vit", []),
    ("labels_1d", "swin", []),
    ("labels_1d", "bert", OVERLAP),
    ("dense_1d", "bert", []),
    ("dense_1d", "vit", []),
    ("dense_2d", "bert", []),
    ("class_maps_2d", "swin", []),
    ("class_maps_2d", "bert", OVERLAP),
]


@pytest.mark.parametrize(("form", "body", "more"), COMBINATIONS)
def test_own_data_of_every_kind_on_every_family(run_on, form, body, more):
    kind, arrays = forms()[form]
    done = run_on(f"task.kind={kind}", "train.epochs=25", "train.batch_size=8", *more, body=body, **arrays)
    assert callable(load_preprocessing(done.folder / "1_build").inputs)
    assert learned(done), done.out


@pytest.mark.parametrize(("kind", "method"), [("labels", "mona"), ("dense", "mona"), ("values", "pare")])
def test_other_methods_of_alignment_take_each_kind(run_on, kind, method):
    """Samples of different lengths among them; pare refuses maps (test_bad_input.py)."""
    words = ["embedder=patch", "align.inner_samples=6"] if method == "mona" else ["metric=none"]
    y = {"labels": np.stack([Y, 1 - Y], axis=1), "values": 1e6 * SIGNAL[:N], "dense": X[:N, :1]}[kind]
    lengths = {} if kind == "dense" else {"lengths": 5 + np.arange(N) % 8}
    words += ["align.pseudo_labels=3", "align.check_every=1", "train.epochs=2"]
    done = run_on(f"task.kind={kind}", f"align.method={method}", *words, x=X[:N], y=y, **lengths)
    assert np.isfinite(done.result["error"]["value"])


@pytest.mark.parametrize("kind", ["values", "dense"])
def test_numbers_are_learned_alike_in_any_unit_and_measured_in_their_own(run_on, kind):
    y, shares = {"values": 5 + SIGNAL, "dense": X[:, 0].cumsum(1) / 4}[kind], []
    for units in (1.0, 1e6 if kind == "values" else 1e-6):
        done = run_on(f"task.kind={kind}", "metric=none", "train.refit=false", x=X, y=y * units)
        error = done.result["error"]
        shares.append(error["value"] / done.result["trivial_error"])
        stored = np.load(done.folder / "3_finetune/predictions.npz")
        squares = (stored["outputs"].astype(np.float64) - stored["targets"]) ** 2
        if kind == "values":
            assert (error["name"], set(error["others"])) == ("RMSE", {"MAE", "1 - R2", "RMSE / deviation"})
            assert np.sqrt(squares.mean()) == pytest.approx(error["value"])
            assert "RMSE" in done.out
        else:
            line = done.result["curves"]["finetune"][-1]
            assert line["train_loss"] == pytest.approx(line["validation_error"], rel=0.6)  # squares of the task's units
    assert shares[0] < 0.5
    assert shares[1] == pytest.approx(shares[0], rel=0.02)


def test_another_error_and_loss_by_name_decide_what_is_reported_and_chosen_by(run_on):
    two = np.stack([SIGNAL, 1000 * SIGNAL], axis=1)
    result = run_on("task.kind=values", "task.error=r2", "task.loss=huber", x=X, y=two).result
    assert (result["error"]["name"], result["error"]["n"]) == ("1 - R2", 2 * 36)
    assert result["error"]["value"] < 0.5
    assert result["trivial_error"] == pytest.approx(1, abs=0.2)


def test_a_numeric_column_of_a_table_is_predicted_as_a_number(run_on):
    frame = pd.DataFrame(X[:, 0, :10], columns=[f"c{i}" for i in range(10)]).assign(price=5 + SIGNAL)
    frame.to_csv("own.csv", index=False)
    done = run_on("task=table", "task.train=own.csv", "task.target=price")
    assert "price read as numbers to predict (task.kind=values; task.kind=classes for classes)" in done.err
    assert learned(done, 0.5)


def test_numbers_are_predicted_from_images(run_on, tmp_path):
    (tmp_path / "photos").mkdir()
    levels = RNG.permutation(np.arange(20, 240, 3))[:60]
    for level in levels:
        noise = np.random.default_rng(int(level)).integers(-9, 9, (16, 16, 3))
        Image.fromarray((level + noise).clip(0, 255).astype(np.uint8)).save(tmp_path / "photos" / f"{level}.png")
    pd.DataFrame({"file": levels, "grams": levels * 2.5}).to_csv(tmp_path / "grams.csv", index=False)
    words = ["task=images", "task.path=photos", "task.table=grams.csv", "task.error=mae", "paths.data=."]
    done = run_on(*words, "metric=none", "train.epochs=20", body="swin")
    assert done.result["error"]["name"] == "MAE"
    assert learned(done, 0.5)


def test_balanced_weights_help_a_rare_class_and_the_counts_are_printed(run_on):
    signal = np.repeat(SIGNAL, 3)
    y = (np.random.default_rng(1).normal(signal, 0.7) > 1.6).astype(int)  # rare, and never sure
    x = np.repeat(X, 3, axis=0) + 0.1 * np.random.default_rng(2).normal(size=(720, 2, 12))
    assert 0.05 < y.mean() < 0.15
    words = ["task.kind=classes", "task.error=balanced", "task.test_fraction=0.4", "metric=none", "train.epochs=6"]
    plain, weighted = (run_on(*words, *more, x=x, y=y) for more in ((), ("train.class_weights=balanced",)))
    for done in (plain, weighted):
        assert "training samples of each class: 1 " in done.err
        assert ("train.class_weights=balanced weighs them alike" in done.err) == (done is plain)
    assert plain.result["error"]["name"] == "balanced 0-1 error"
    assert weighted.result["error"]["value"] < plain.result["error"]["value"]


def test_gaps_are_filled_alike_in_training_and_in_prediction(run_on, orca):
    x = X.copy()
    x[np.random.default_rng(3).random(x.shape) < 0.1] = np.nan
    settings = ["task.kind=values", "task.gaps=linear", "task.gap_indicator=true", "metric=none"]
    done = run_on(*settings, x=x, y=SIGNAL, split=np.repeat(["train", "val", "test"], 80))
    assert "are interpolated in time, flagged by 2 more channels (task.gaps=linear)" in done.err
    assert learned(done, 0.6)
    code, _, err = orca("predict", done.folder, "own.npz", "--part", "test", "--out", "p.npz")
    assert code == 0, err
    np.testing.assert_array_equal(np.load("p.npz")["outputs"], outputs(done.folder))


def series():
    ends = 3 + np.arange(N) % 10
    return RNG.normal(size=(N, 2, 12)) + 3 * Y[:, None, None], ends


ARRAYS = ["task=arrays", "task.kind=classes", "task.train=own.npz"]


def length_arrays(folder):
    x, ends = series()
    np.savez(folder / "own.npz", x=np.where(np.arange(12) < ends[:, None, None], x, 99), y=Y, lengths=ends)
    return ARRAYS, "own.npz"


def nan_padded_arrays(folder):
    x, ends = series()
    np.savez(folder / "own.npz", x=np.where(np.arange(12) < ends[:, None, None], x, np.nan), y=Y)
    return [*ARRAYS, "task.padding=nan"], "own.npz"


def series_folder(folder):
    x, ends = series()
    (folder / "series").mkdir()
    for i in range(N):
        np.save(folder / "series" / f"{i:02}.npy", x[i, :, : ends[i]])
    pd.DataFrame({"file": [f"{i:02}" for i in range(N)], "y": Y}).to_csv(folder / "labels.csv", index=False)
    return ["task=arrays", "task.kind=classes", "task.train=series", "task.labels=labels.csv"], "series"


def symbol_table(folder):
    texts = ["".join(RNG.choice(list("ACGT"[2 * y : 2 * y + 2]), 3 + i % 9)) for i, y in enumerate(Y)]
    pd.DataFrame({"dna": texts, "kind": Y}).to_csv(folder / "own.csv", index=False)
    return ["task=table", "task.train=own.csv", "task.sequence=dna", "task.target=kind"], "own.csv"


def long_table(folder):
    x, ends = series()
    tables = [
        pd.DataFrame({"who": i, "t": range(ends[i]), "a": x[i, 0, : ends[i]], "b": x[i, 1, : ends[i]], "kind": Y[i]})
        for i in range(N)
    ]
    pd.concat(tables).sample(frac=1, random_state=0).to_csv(folder / "own.csv", index=False)
    return ["task=table", "task.train=own.csv", "task.id=who", "task.time=t", "task.target=kind"], "own.csv"


FORMS = {
    "lengths": length_arrays,
    "padding of NaN": nan_padded_arrays,
    "folder of files": series_folder,
    "symbols": symbol_table,
    "long table": long_table,
}


@pytest.mark.parametrize("name", FORMS)
def test_a_run_and_its_predictions(run_on, orca, refused, tmp_path, name):
    words, file = FORMS[name](tmp_path)
    done = run_on(*words, "train.epochs=6", "train.batch_size=8", "train.lr=1e-3", "align.source_points=200")
    assert learned(done)
    code, out, err = orca("predict", done.folder, file)
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == N
    if name == "folder of files":
        assert [row["id"] for row in rows] == [f"{i:02}.npy" for i in range(N)]
    places = [int(row["id"]) for row in rows] if name == "long table" else range(N)
    assert np.mean([int(row["prediction"]) != Y[place] for row, place in zip(rows, places, strict=True)]) < 0.25
    if name == "lengths":
        np.save("bare.npy", series()[0])
        message = "bare.npy: has no lengths, and the model was trained with them"
        refused(11, ["predict", done.folder, "bare.npy", "--out", "p.csv"], message)
        assert not (tmp_path / "p.csv").exists()
    if name == "symbols":
        (tmp_path / "new.csv").write_text("dna\n" + "ACXG\n" * 30 + "ACGTACGTACGTACGT\nXTT\n")
        code, out, err = orca("predict", done.folder, "new.csv")
        assert (code, len(out.splitlines())) == (0, 33), err
        assert "31 of them with the symbol 'X', which training lacks" in err
        assert "1 of them longer than 11 symbols and cut at the end" in err
        _, out, _ = orca("predict", done.folder, "new.csv", "--out", "p.csv", "--json")
        assert sorted(json.loads(out)["remarks"].values()) == [1, 31]


@pytest.mark.parametrize("body", ["bert", "swin"])
def test_dense_outputs_of_volumes(run_on, body):
    """A smooth volume is to be given back with its sign changed: what is learned has to come out where it went in."""
    axes = np.meshgrid(*(np.linspace(0, 1, size) for size in (4, 6, 5)), indexing="ij")
    x = np.einsum("nk,kdhw->ndhw", np.random.default_rng(0).normal(size=(N, 3)), axes)[:, None]
    done = run_on("task.kind=dense", "metric=none", "train.epochs=15", "train.batch_size=8", body=body, x=x, y=-x)
    assert learned(done, 0.5)
    assert outputs(done.folder).shape == (6, 1, 4, 6, 5)
