"""Whole runs on data of other shapes: volumes, series of different lengths, symbols, long tables; and predictions of them."""

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest

from tests.cli.conftest import results, run_folders

RNG = np.random.default_rng(0)
N = 40
Y = np.arange(N) % 2
SMALL = [
    "source.size=160",
    "align.epochs=2",
    "align.source_points=200",
    "train.epochs=6",
    "train.batch_size=8",
    "train.lr=1e-3",
]


def series():
    ends = 3 + np.arange(N) % 10
    x = RNG.normal(size=(N, 2, 12)) + 3 * Y[:, None, None]
    return x, ends


def of_lengths(folder):
    x, ends = series()
    np.savez(folder / "own.npz", x=np.where(np.arange(12) < ends[:, None, None], x, 99), y=Y, lengths=ends)
    return ["task=arrays", "task.kind=classes", "task.train=own.npz"], "own.npz"


def of_nan(folder):
    x, ends = series()
    np.savez(folder / "own.npz", x=np.where(np.arange(12) < ends[:, None, None], x, np.nan), y=Y)
    return ["task=arrays", "task.kind=classes", "task.train=own.npz", "task.padding=nan"], "own.npz"


def of_files(folder):
    x, ends = series()
    (folder / "series").mkdir()
    for i in range(N):
        np.save(folder / "series" / f"{i:02}.npy", x[i, :, : ends[i]])
    pd.DataFrame({"file": [f"{i:02}" for i in range(N)], "y": Y}).to_csv(folder / "labels.csv", index=False)
    return ["task=arrays", "task.kind=classes", "task.train=series", "task.labels=labels.csv"], "series"


def of_symbols(folder):
    texts = ["".join(RNG.choice(list("ACGT"[2 * y : 2 * y + 2]), 3 + i % 9)) for i, y in enumerate(Y)]
    pd.DataFrame({"dna": texts, "kind": Y}).to_csv(folder / "own.csv", index=False)
    return ["task=table", "task.train=own.csv", "task.sequence=dna", "task.target=kind"], "own.csv"


def of_steps(folder):
    x, ends = series()
    tables = [
        pd.DataFrame({"who": i, "t": range(ends[i]), "a": x[i, 0, : ends[i]], "b": x[i, 1, : ends[i]], "kind": Y[i]})
        for i in range(N)
    ]
    pd.concat(tables).sample(frac=1, random_state=0).to_csv(folder / "own.csv", index=False)
    return ["task=table", "task.train=own.csv", "task.id=who", "task.time=t", "task.target=kind"], "own.csv"


def of_volumes(folder):
    x = RNG.normal(size=(N, 1, 4, 6, 5)) + 2 * Y[:, None, None, None, None]
    np.savez(folder / "own.npz", x=x, y=Y)
    return ["task=arrays", "task.kind=classes", "task.train=own.npz"], "own.npz"


FORMS = {
    "lengths": of_lengths,
    "padding of NaN": of_nan,
    "folder of files": of_files,
    "symbols": of_symbols,
    "long table": of_steps,
    "volumes": of_volumes,
}


@pytest.mark.parametrize("name", FORMS)
def test_a_run_and_its_predictions(orca, environment, tiny, tmp_path, name):
    words, file = FORMS[name](tmp_path)
    code, _, err = orca("run", *words, f"body.checkpoint={tiny['bert']}", *SMALL)
    assert code == 0, err
    (result,) = results(environment)
    assert result["error"]["value"] < result["trivial_error"]
    (folder,) = run_folders(environment)
    code, out, err = orca("predict", folder, file)
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == N
    if name == "folder of files":
        assert [row["id"] for row in rows] == [f"{i:02}.npy" for i in range(N)]
    places = [int(row["id"]) for row in rows] if name == "long table" else range(N)
    assert np.mean([int(row["prediction"]) != Y[place] for row, place in zip(rows, places, strict=True)]) < 0.25
    if name == "lengths":
        np.save(tmp_path / "bare.npy", series()[0])
        code, out, err = orca("predict", folder, "bare.npy", "--out", "p.csv")
        assert (code, out) == (11, "")
        assert "bare.npy: has no lengths, and the model was trained with them" in err
        assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("body", ["bert", "swin"])
def test_dense_outputs_of_volumes(orca, environment, tiny, tmp_path, body):
    """A smooth volume is to be given back with its sign changed: what is learned has to come out where it went in."""
    axes = np.meshgrid(*(np.linspace(0, 1, size) for size in (4, 6, 5)), indexing="ij")
    x = np.einsum("nk,kdhw->ndhw", RNG.normal(size=(N, 3)), axes)[:, None]
    np.savez(tmp_path / "own.npz", x=x, y=-x)
    words = ["task=arrays", "task.kind=dense", "task.train=own.npz", "body=minilm" if body == "bert" else "body=swin"]
    words += ["source=digits"] if body == "swin" else []
    longer = ["train.epochs=15", "train.lr=3e-3", "metric=none"]
    code, _, err = orca("run", *words, f"body.checkpoint={tiny[body]}", *SMALL, *longer)
    assert code == 0, err
    (result,) = results(environment)
    assert result["error"]["value"] < 0.5 * result["trivial_error"]
    (folder,) = run_folders(environment)
    with np.load(folder / "3_finetune" / "predictions.npz") as found:
        assert found["outputs"].shape == (6, 1, 4, 6, 5)


def test_what_was_done_to_new_data_is_printed(orca, environment, tiny, tmp_path):
    words, _ = of_symbols(tmp_path)
    code, _, err = orca("run", *words, f"body.checkpoint={tiny['bert']}", *SMALL)
    assert code == 0, err
    (folder,) = run_folders(environment)
    (tmp_path / "new.csv").write_text("dna\n" + "ACXG\n" * 30 + "ACGTACGTACGTACGT\nXTT\n")
    code, out, err = orca("predict", folder, "new.csv")
    assert code == 0, err
    assert len(out.splitlines()) == 33
    assert "31 of them with the symbol 'X', which training lacks" in err
    assert "1 of them longer than 11 symbols and cut at the end" in err
    code, out, _ = orca("predict", folder, "new.csv", "--out", "p.csv", "--json")
    assert sorted(json.loads(out)["remarks"].values()) == [1, 31]


def test_whole_sequences_are_not_compared_where_a_class_has_none(orca, tiny, tmp_path, environment):
    words, _ = of_lengths(tmp_path)
    code, _, err = orca("run", *words, f"body.checkpoint={tiny['bert']}", *SMALL, "align.features=sequence")
    assert code == 10
    assert "align.features=sequence: of some class no sample has all" in err
    assert "align.features=tokens" in err
