"""The end of a run: its candidates as a table, in the record, and in the run's folder."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from orca_cli import storage
from tests.cli.conftest import run_folders

SHORT = [
    "task=arrays", "task.kind=classes", "task.train=own.npz", "source.size=160", "metric=none", "train.epochs=1",
    "train.warmup_epochs=0", "train.batch_size=16", "baselines=simple", "body=minilm",
]  # fmt: skip
SIMPLE = {"linear", "forest", "features", "probe"}


def series(n):
    """Return series of two classes that differ in their first third."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    x = rng.normal(size=(n, 24)).astype(np.float32)
    x[y == 1, :8] += 1
    return {"x": x, "y": y}


@pytest.fixture
def short(tiny, environment):
    """Words of a short run on 40 series; 34 of them are training samples, in folds."""
    np.savez("own.npz", **series(40))
    return [*SHORT, f"body.checkpoint={tiny['bert']}", "train.folds=5"]


def table_of(out):
    """Return the rows of the leaderboard that a run has printed, and the text after it."""
    lines = out.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("model "))
    titles = "model validation test (95 % interval) seconds"
    assert " ".join(lines[header].split()) == titles
    end = lines.index("", header)
    rows = lines[header + 1 : end]
    assert max(map(len, rows)) <= 80
    return [row.split() for row in rows], " ".join(" ".join(lines[end:]).split())


def check_table(rows, result):
    """Compare the rows of a table with the record's candidates."""
    for row, candidate in zip(rows, result["candidates"], strict=True):
        assert row[0] == candidate["name"]
        assert row[1] == f"{100 * candidate['validation_error']:.2f}"
        # The start is not tested.
        if candidate["name"] == "start":
            assert row[3:] == ["-", "-"]
            continue
        low, high = candidate["interval"]
        assert " ".join(row[3:10]) == (
            f"{100 * candidate['error']:.2f} % ({100 * low:.2f} % to {100 * high:.2f} %)"
        )


def test_a_small_run_ends_with_its_candidates_out_of_fold(orca, run, short, tmp_path):
    words = [*short, "finetune=lora", "predictor.init=random", "train.lr=1e-30"]
    done = run(*words)
    result = done.result
    assert result["judged"] == {
        "on": "folds", "n": 34, "folds": 5, "sha256": result["selected"]["sha256"],
    }  # fmt: skip
    rows, below = table_of(done.out)
    check_table(rows, result)
    order = "each of the 34 samples is predicted by a model that was fitted without this sample (5 folds)"
    assert f"order sorted by the error out of fold, lowest first: {order}" in below
    assert "features ridge regression on the outputs of the embedder" in below
    assert "probe ridge regression on the outputs of the body" in below
    by_error = [candidate["validation_error"] for candidate in result["candidates"]]
    assert by_error == sorted(by_error)
    assert result["leader"] == result["candidates"][0]["name"] != "transfer"
    command = f"orca predict {done.folder} --model {result['leader']} INPUT"
    assert f", not the transfer predict {command}" in below

    # The forest is scikit-learn's on the folds of the run: each sample has one held-out output.
    assert {result["baselines"][name]["validated_by"] for name in SIMPLE} == {34}
    kept = {path.name for path in (done.folder / "candidates").iterdir()}
    assert kept == SIMPLE
    for name in SIMPLE:
        assert storage.verify_folder(done.folder / "candidates" / name)
    started = load_file(done.folder / "candidates" / "probe" / "start.safetensors")
    assert any(".lora_" in name for name in started)
    assert {name.split(".")[0] for name in started} == {"embedder", "body"}
    features = load_file(done.folder / "candidates" / "features" / "start.safetensors")
    assert {name.split(".")[0] for name in features} == {"embedder"}

    # A lost candidate is written again, which does not change the record.
    storage.remove(done.folder / "candidates" / "forest")
    again = run(*words)
    assert "computing the run's missing baselines forest" in again.err
    assert {**again.result, "seconds": None} == {**result, "seconds": None}
    model = done.folder / "candidates" / "forest" / "model.safetensors"
    code, out, _ = orca("doctor", done.folder)
    assert (code, "4 baselines (" in out) == (0, True)
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    code, out, _ = orca("doctor", done.folder)
    assert code == 13
    assert "candidates/forest: the content of the file 'model.safetensors' has changed" in out


def test_enough_validation_samples_judge_all_candidates(orca, run, tiny, environment):
    """Each candidate that is kept predicts the outputs that were measured."""
    arrays = series(200)
    split = np.repeat(["train", "validation", "test"], [60, 120, 20])
    np.savez("own.npz", **arrays, split=split)
    np.savez("test.npz", x=arrays["x"][180:])
    done = run(*SHORT, f"body.checkpoint={tiny['bert']}")
    result = done.result
    assert result["judged"]["on"] == result["selected"]["on"] == "validation"
    assert result["judged"]["n"] == 120
    rows, below = table_of(done.out)
    check_table(rows, result)
    assert "order sorted by the error on 120 validation samples, lowest first" in below
    assert result["candidates"][0]["error"] is not None
    validation = {row["name"]: row["validation_error"] for row in result["candidates"]}
    assert validation["transfer"] == result["validation_error"]
    # Fractions of all 120 samples.
    shares = np.array([*validation.values()]) * 120
    np.testing.assert_allclose(shares, shares.round(), atol=1e-9)
    for name in SIMPLE:
        assert orca("predict", done.folder, "test.npz", "--model", name, "--out", "p.npz")[0] == 0
        classes = np.load("p.npz")["outputs"].argmax(1)
        error = (classes != arrays["y"][180:]).mean()
        assert error == pytest.approx(result["baselines"][name]["error"])


def test_a_run_that_keeps_no_weights_keeps_no_candidates(run, short, environment):
    done = run(*short, "keep_weights=false")
    assert not (done.folder / "candidates").exists()
    assert not any(candidate["kept"] for candidate in done.result["candidates"])
    _, below = table_of(done.out)
    assert done.result["leader"] is None
    assert "predict not possible: this run kept no model that can predict new data" in below
    assert "so this run is skipped" in run(*short, "keep_weights=false").err


def test_a_transfer_that_was_not_judged_is_not_compared(run, short, environment):
    done = run(*short[:-1], "train.folds=0")
    rows, below = table_of(done.out)
    assert (rows[-1][0], rows[-1][1]) == ("transfer", "-")
    assert (
        ", not the transfer; the transfer has no validation error on the samples of the baselines, "
        "so it cannot be the leader predict orca" in below
    )
    record = json.loads((run_folders(environment)[0] / "result.json").read_text())
    assert (record["judged"]["on"], record["judged"]["n"]) == ("folds", 34)
