"""Finished runs and exports predict: the test split to the bit, without checkpoint, training data or network."""

import csv
import dataclasses
import functools
import importlib.util
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file
from scipy.stats import binomtest
from sklearn.base import is_classifier, is_regressor
from sklearn.metrics import get_scorer, log_loss, r2_score
from sklearn.utils.validation import check_is_fitted

import orca_cli
from orca_cli import storage
from orca_cli.exceptions import DataError
from orca_cli.prediction.loading import best_run
from tests.cli.conftest import outputs, run_folders, without_baselines

N, TEST = 60, 20
QUICK = [
    "source.size=160", "align.epochs=1", "align.source_points=100", "align.max_samples=16", "align.pseudo_labels=3",
    "train.epochs=1", "train.warmup_epochs=0.5", "train.batch_size=16", "train.lr=1e-3", "train.eval_batch_size=8",
]  # fmt: skip


def inputs(shape, n=N + TEST):
    y = np.arange(n) % 3
    return np.random.default_rng(0).normal(size=(n, *shape)) + y.reshape(-1, *(1,) * len(shape)), y


def targets(kind, x, y):
    return {
        "classes": np.array(["low", "mid", "high"])[y],
        "labels": np.stack([y == 0, y > 0], axis=1).astype(int),
        "maps": 3 * x[:, 0] + 100,
        "class maps": (x[:, 0] > 1).astype(int),
        "several values": np.stack([x.max(axis=tuple(range(1, x.ndim))), 1e6 * y], axis=1),
    }[kind]


KINDS = {"maps": "dense", "class maps": "dense", "several values": "values"}  # in task.kind


@dataclass
class Trained:
    """A run, at `path`, on files in `folder`, made with these words, and the command line."""

    orca: Callable
    folder: Path
    path: Path
    words: list[str]
    x: np.ndarray
    y: np.ndarray

    def __post_init__(self):
        self.result, self.expected = (
            json.loads((self.path / "result.json").read_text()),
            outputs(self.path),
        )

    def predict(self, *more, run=None):
        """Predict the test split; returns (standard output, standard error)."""
        code, out, err = self.orca("predict", run or self.path, self.folder / "test.npz", *more)
        assert code == 0, err
        return out, err

    def outputs(self, run):
        """Return what `orca predict` writes for the test split."""
        self.predict("--out", "p.npz", run=run)
        return np.load("p.npz")["outputs"]


@pytest.fixture(scope="module")
def make(fork_server, home, tiny, tmp_path_factory):
    """Return a function that makes a run, once for all tests: (body, kind, shape, further settings)."""

    @functools.cache
    def call(body, kind, shape, *more):
        folder = tmp_path_factory.mktemp("trained")
        shutil.copytree(tiny[body], folder / "checkpoint")
        x, y = inputs(shape)
        y = targets(kind, x, y)
        np.savez(folder / "train.npz", x=x[:N], y=y[:N])
        np.savez(folder / "test.npz", x=x[N:], y=y[N:])
        name = {"bert": "minilm", "swin": "swin_tiny source=digits", "vit": "vit source=digits"}[
            body
        ]
        words = [
            "task=arrays",
            f"task.kind={KINDS.get(kind, kind)}",
            *f"body={name}".split(),
            *QUICK,
            *more,
        ]
        words += [f"task.{split}={folder / split}.npz" for split in ("train", "test")]
        words.append(f"body.checkpoint={folder / 'checkpoint'}")
        places = {"ORCA_RUNS": str(folder / "runs"), "ORCA_HOME": str(home), "COLUMNS": "100"}
        _, *words = without_baselines(["run", *words])
        case = fork_server.start(["run", *words], more=places)
        assert case.wait(180) == 0, case.err
        (path,) = run_folders(folder / "runs")
        return folder, path, words, x, y

    return call


@pytest.fixture
def trained(orca, make):
    """Return a function that returns such a run, which the test must leave as it is."""
    return lambda *what: Trained(orca, *make(*what))


SERIES, FLAT, PICTURES = (2, 20), (1, 12, 12), (3, 20, 20)
CLASS_TOKEN = "predictor.pooling=class_token"
LORA = ["finetune=bitfit" if importlib.util.find_spec("peft") is None else "finetune=lora"]
CASES = {
    "classes": ("bert", "classes", SERIES),
    "labels of a random body, bf16": (
        "bert",
        "labels",
        SERIES,
        "precision=bf16",
        "finetune=scratch",
        "metric=none",
    ),
    "values, an error by name": ("bert", "several values", (30,), "task.error=mae"),
    "maps, a part of the body": ("swin", "maps", FLAT, *LORA, "metric=none"),
    "images, a deep prompt": (
        "vit",
        "classes",
        PICTURES,
        "finetune=prompt",
        "finetune.depth=deep",
        CLASS_TOKEN,
    ),
    "several models": ("bert", "class maps", SERIES, "train.folds=2"),
}


def check_card(run, export):
    """Check that the model card of an export says what the run found, and that no path of this machine is in it."""
    card, result = (export / "README.md").read_text(), run.result
    name, value = result["error"]["name"], result["error"]["value"]
    shown = f"{100 * value:.2f} %" if result["error"]["percent"] else f"{value:.4g}"
    assert f"| {name} | {shown} |" in card
    assert all(
        text in card
        for text in (
            result["weights_sha256"],
            *(one["sha256"] for one in result["splits"].values()),
        )
    )
    assert str(run.path) not in card + (export / "config.yaml").read_text()


# The bits of several models: test_selection.py.
@pytest.mark.parametrize("name", [name for name in CASES if name != "several models"])
def test_the_test_split_has_the_bits_of_the_run(
    trained, orca, refused, request, tmp_path, monkeypatch, name
):
    run = trained(*CASES[name])
    shown = json.loads(run.predict("--out", tmp_path / "p.npz", "--json")[0])
    assert np.array_equal(np.load(tmp_path / "p.npz")["outputs"], run.expected)
    assert (shown["samples"], shown["error"]["name"]) == (TEST, run.result["error"]["name"])
    assert shown["error"]["value"] == pytest.approx(run.result["error"]["value"], abs=1e-12)
    code, _, err = orca("export", run.path, tmp_path / "model")
    assert code == 0, err
    check_card(run, tmp_path / "model")
    # Elsewhere: no checkpoint, no training data, no run, no network, another working folder.
    shutil.move(tmp_path / "model", tmp_path / "moved")
    shutil.copy(run.folder / "test.npz", tmp_path)
    aside = run.folder.rename(f"{run.folder}-aside")
    run.folder = tmp_path
    request.addfinalizer(lambda: aside.rename(str(aside).removesuffix("-aside")))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    moved, checkpoint = aside / run.path.relative_to(str(aside).removesuffix("-aside")), []
    if run.result["finetune"] not in ("full", "scratch"):
        checkpoint = ["--checkpoint", aside / "checkpoint"]
        message = "trained a part of its body only and needs its checkpoint: no such folder"
        assert refused(10, ["predict", moved, "test.npz"], message, "--checkpoint") == ""
    run.predict("--out", "p.npz", *checkpoint, run=moved)
    assert np.array_equal(np.load("p.npz")["outputs"], run.expected)
    assert np.array_equal(run.outputs(tmp_path / "moved"), run.expected)


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_all_forms_of_output_say_the_same(trained, tmp_path):
    run = trained(*CASES["classes"])
    out, err = run.predict("--batch-size", 8)
    rows = table(out)
    assert list(rows[0]) == ["index", "prediction", "p_high", "p_low", "p_mid"]
    wide = run.expected.astype(np.float64)
    probabilities = np.exp(wide) / np.exp(wide).sum(axis=1, keepdims=True)
    printed = np.array(
        [[float(row[f"p_{name}"]) for name in ("high", "low", "mid")] for row in rows]
    )
    np.testing.assert_allclose(printed, probabilities, rtol=1e-5)
    named = np.array(["high", "low", "mid"])[run.expected.argmax(axis=1)]
    assert [row["prediction"] for row in rows] == named.tolist()
    mistakes = int(np.sum(named != run.y[N:]))
    ends = binomtest(mistakes, TEST).proportion_ci(method="exact")
    within = f"{100 * ends.low:.2f} % to {100 * ends.high:.2f} %"
    wrong = f"0-1 error: {100 * mistakes / TEST:.2f} % (95 % interval {within}) on {TEST}"
    assert wrong in err
    for suffix in ("csv", "npz"):
        assert wrong in run.predict("--out", tmp_path / f"p.{suffix}")[0]
    assert (tmp_path / "p.csv").read_text() == out
    arrays = np.load(tmp_path / "p.npz")
    assert arrays["prediction"].tolist() == named.tolist()
    np.testing.assert_allclose(arrays["probability"], probabilities, rtol=1e-5)
    record, log = run.predict("--json")
    records = json.loads(record)["predictions"]
    assert [{key: str(cell) for key, cell in one.items()} for one in records] == rows
    assert wrong in log
    plain, err = run.predict("--no-targets")
    assert (plain, "0-1 error" in err) == (out, False)


def test_outputs_of_other_kinds(trained, refused):
    run = trained(*CASES["labels of a random body, bf16"])
    rows = table(run.predict()[0])
    assert list(rows[0]) == ["index", "0", "1", "p_0", "p_1"]
    assert [[int(row["0"]), int(row["1"])] for row in rows] == (run.expected >= 0).astype(
        int
    ).tolist()
    run = trained(*CASES["values, an error by name"])
    printed = [
        [float(row["prediction_0"]), float(row["prediction_1"])] for row in table(run.predict()[0])
    ]
    np.testing.assert_array_equal(np.array(printed, np.float32), run.expected)
    model = orca_cli.load(run.path)
    assert is_regressor(model)
    assert model.predict(run.x[N:]).tolist() == run.expected.tolist()
    assert model.score(run.x[N:], run.y[N:]) == pytest.approx(
        r2_score(run.y[N:], run.expected), rel=1e-4
    )
    run = trained(*CASES["maps, a part of the body"])
    words = ["predict", run.path, run.folder / "test.npz"]
    assert refused(10, words, "maps, which a table has no place for; give FILE.npz") == ""


def test_tables(run, orca, tiny):
    i = np.arange(N + TEST)
    frame = pd.DataFrame(
        {
            "a": i % 7 + 0.5,
            "b": np.array(["x", "y", "z"])[i % 3],
            "target": np.array(["no", "yes"])[i % 2],
        }
    )
    frame[:N].to_csv("train.csv", index=False)
    frame[N:].to_csv("test.csv", index=False)
    words = [
        "task.train=train.csv",
        "task.test=test.csv",
        "task.target=target",
        f"body.checkpoint={tiny['bert']}",
    ]
    path = run("task=table", *words, *QUICK).folder
    assert orca("predict", path, "test.csv", "--out", "p.npz")[0] == 0
    assert np.array_equal(np.load("p.npz")["outputs"], outputs(path))
    model = orca_cli.load(path)
    assert model.predict(frame[N:]).tolist() == np.load("p.npz")["prediction"].tolist()
    assert model.score(frame[N:], frame["target"][N:]) == model.score("test.csv")


def test_a_run_without_its_weights_is_compared_and_does_not_predict(
    trained, run, orca, refused, environment
):
    kept = trained(*CASES["classes"])
    first = run(*kept.words, "keep_weights=false")
    assert not list((first.folder / "3_finetune").rglob("*.safetensors"))
    assert orca("doctor", first.folder)[0] == 0
    test = kept.folder / "test.npz"
    refused(11, ["predict", first.folder, test], "kept no weights", "--force keep_weights=true")
    refused(
        11, ["predict", environment, test, "--best"], "holds no completed run on data of your own"
    )
    assert "already completed" in run(*kept.words).err  # the same experiment
    assert first.result["weights_sha256"] == kept.result["weights_sha256"]


def test_the_best_of_a_folder_is_chosen_by_validation(trained, orca, environment, tmp_path):
    """One run, and copies of it whose records are changed, which predict no more."""
    run = trained(*CASES["classes"])

    def add(number, validation, on="validation", samples="a", test=0.5):
        path = environment / "arrays" / f"{run.path.name[:-2]}{number}{number}"
        shutil.copytree(run.path, path)
        for name in ("result.json", "status.json"):
            record = json.loads((path / name).read_text()) | {
                "run_id": path.name,
                "identity": str(number) * 64,
            }
            if name == "result.json":
                record["error"]["value"] = test
                record |= {
                    "validation_error": validation,
                    "selected": {"on": on, "sha256": samples},
                }
            (path / name).write_text(json.dumps(record))
        return path.name

    shutil.copytree(run.path, environment / "arrays" / run.path.name)
    code, out, err = orca(
        "predict", environment, run.folder / "test.npz", "--best", "--out", "p.npz", "--json"
    )
    assert (code, json.loads(out)["run"]) == (0, run.path.name), err
    assert orca("export", environment, tmp_path / "model", "--best")[0] == 0
    assert (
        json.loads((tmp_path / "model" / "export.json").read_text())["result"]["run_id"]
        == run.path.name
    )
    add(1, None, on="nothing")
    with pytest.raises(DataError, match="all 2 runs trained on their validation samples"):
        best_run(environment)
    add(2, 0.3, test=0.0)
    lowest = add(3, 0.1)
    add(5, 0.0, on="test")
    path, why = best_run(environment)
    assert path.name == lowest
    assert "the lowest of 2 runs; 2 that trained on their validation samples are left out" in why
    add(6, 0.2, samples="b")
    with pytest.raises(DataError, match="validated on 2 different sets of data or errors"):
        best_run(environment)


def test_what_does_not_fit_is_refused_in_one_line(
    trained, orca, refused, tiny, environment, tmp_path
):
    run = trained(*CASES["classes"])
    np.save(tmp_path / "short.npy", run.x[N:, :, :7])
    np.savez(tmp_path / "unseen.npz", x=run.x[N:], y=np.array(["low"] * (TEST - 1) + ["huge"]))
    np.save(tmp_path / "huge.npy", np.where(np.arange(TEST)[:, None, None] == 11, 3e38, run.x[N:]))
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run.path, unfinished)
    (unfinished / "result.json").unlink()
    test = run.folder / "test.npz"
    for words, code, text in (
        (
            [run.path, tmp_path / "short.npy"],
            11,
            "samples have shape (2, 7), those of the training set (2, 20)",
        ),
        (
            [run.path, tmp_path / "unseen.npz"],
            11,
            "1 labels have no training sample, the first is huge at index 19",
        ),
        (
            [run.path, tmp_path / "huge.npy", "--out", "p.csv"],
            11,
            "huge.npy: the outputs of sample 11 are NaN or inf",
        ),
        (
            [run.path, test, "--out", "p.txt"],
            10,
            "'p.txt' is a folder, or has a suffix that is not written",
        ),
        (
            [run.path, tmp_path / "unseen.npz", "--out", tmp_path / "unseen.npz"],
            10,
            "--out: is the input",
        ),
        ([unfinished, test], 11, "the run is not completed (state: completed)"),
        ([tmp_path, test], 11, "neither a run nor an export"),
        ([tmp_path / "empty", test, "--best"], 11, "no such folder of runs"),
        (
            [run.path, test, "--checkpoint", tiny["long"]],
            13,
            "has changed since the run: other weights would give",
        ),
    ):
        assert refused(code, ["predict", *words], text) == ""
    assert not [*tmp_path.glob("p.*"), *tmp_path.glob(".tmp-*")]
    shutil.copytree(run.path, environment / "arrays" / run.path.name)
    assert orca("predict", run.path.name, test)[0] == 0  # by its name
    assert orca("predict", run.path, tmp_path / "unseen.npz", "--no-targets")[0] == 0
    assert refused(10, ["export", run.path, tmp_path / "unfinished"], "exists already") == ""


def test_other_weights_than_those_tested_are_refused_though_their_manifest_is_right(
    trained, refused, tmp_path
):
    run, other = trained(*CASES["classes"]), tmp_path / "other"
    shutil.copytree(run.path, other)
    folder = other / "3_finetune" / "last"
    tensors = load_file(folder / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, folder / "model.safetensors")
    storage.seal(folder, [file for file in folder.iterdir() if file.name != storage.MANIFEST])
    refused(
        13, ["predict", other, run.folder / "test.npz"], "not those that the run was tested with"
    )


def test_from_python(trained, monkeypatch, tmp_path):
    run = trained(*CASES["classes"])
    x, y = run.x[N:], run.y[N:]
    model = orca_cli.load(run.path)
    assert is_classifier(model)
    assert not is_regressor(model)
    check_is_fitted(model)
    assert model.classes_.tolist() == ["high", "low", "mid"]
    assert model.predict(x).tolist() == model.classes_[run.expected.argmax(axis=1)].tolist()
    np.testing.assert_array_equal(model.outputs(x), run.expected)
    probabilities = model.predict_proba(x)
    accuracy = np.mean(model.predict(x) == y)
    assert model.score(x, y) == accuracy == get_scorer("accuracy")(model, x, y)
    assert get_scorer("neg_log_loss")(model, x, y) == pytest.approx(-log_loss(y, probabilities))
    assert model.error(x, y).value == run.result["error"]["value"]
    for words in ((x[:, :, :9], y), (x,), (x, y[:3]), (x[:0], y[:0]), ("./nope",)):
        with pytest.raises(DataError):
            model.score(*words)
    other = orca_cli.load(run.path, batch_size=3)
    np.testing.assert_allclose(other.outputs(x), run.expected, rtol=1e-4, atol=1e-5)
    run = trained(*CASES["maps, a part of the body"])
    monkeypatch.setenv("ORCA_RUNS", str(run.folder / "runs"))
    outcome = orca_cli.run(*run.words)
    assert (outcome.state, outcome.code, outcome.path) == ("skipped", 0, run.path)
    maps = orca_cli.load(
        dataclasses.replace(outcome, state="completed", code=143)
    )  # stopped among its baselines
    predicted, expected = maps.predict(run.x[N:]), run.y[N:, None]
    assert maps.score(run.x[N:], expected) == pytest.approx(
        r2_score(expected.ravel(), predicted.ravel()), rel=1e-5
    )
    monkeypatch.setenv("ORCA_RUNS", str(tmp_path / "runs"))
    words = [word.replace("train.npz", "none.npz") for word in run.words]
    with pytest.raises(DataError, match="task.train: no file .*none.npz"):
        orca_cli.run(*words)
    failed = orca_cli.run(*words, check=False)
    assert (failed.state, failed.code) == ("failed", 11)
    with pytest.raises(DataError, match="the run has failed"):
        orca_cli.load(failed)


# Written at commit f375517 by `orca run task=arrays` for each kind (what was typed is in `overrides.txt`, settings that are
# retired among it), `orca predict RUN new.npz` and `orca export`: runs that an earlier program recorded stay readable.
RECORDED = Path(__file__).parent.parent / "recorded"
RECORDED_KINDS = {
    json.loads((run / "1_build" / "summary.json").read_text())["kind"]: run.name
    for run in (RECORDED / "arrays").iterdir()
}


@pytest.fixture
def recorded(environment):
    """A copy of the runs, where this test's runs go; returns kind -> folder."""
    shutil.copytree(RECORDED / "arrays", environment / "arrays")
    return {kind: environment / "arrays" / name for kind, name in RECORDED_KINDS.items()}


def test_report_shows_their_errors(orca, recorded):
    code, out, err = orca("report", "--json")
    assert code == 0, err
    for run in recorded.values():
        assert run.name in out
        assert str(json.loads((run / "result.json").read_text())["error"]["value"]) in out


@pytest.mark.parametrize("kind", RECORDED_KINDS)
def test_their_predictions_and_errors_are_what_they_were(orca, recorded, kind, tmp_path):
    code, _, err = orca(
        "predict", recorded[kind], RECORDED / "new.npz", "--out", tmp_path / "new.npz"
    )
    assert code == 0, err
    before, now = (
        np.load(path) for path in (RECORDED / "predicted" / f"{kind}.npz", tmp_path / "new.npz")
    )
    assert set(now) == set(before)
    for name in before:
        if before[name].dtype.kind == "f":
            np.testing.assert_allclose(now[name], before[name], rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(now[name], before[name])
    code, out, err = orca("score", recorded[kind], "--json")
    assert code == 0, err
    assert json.loads(out)["equal"]


# what is done to an export -> (how, the exit code of predicting by it)
EDITS = {
    "the card is edited": (lambda folder: (folder / "README.md").write_text("Ours."), 0),
    "the card is removed": (lambda folder: (folder / "README.md").unlink(), 0),
    "the settings are edited": (lambda folder: (folder / "config.yaml").write_text("seed: 1"), 13),
    "a file is added": (lambda folder: (folder / "NOTES.md").write_text("Ours."), 13),
}


@pytest.mark.parametrize("name", EDITS)
def test_of_an_export_the_card_alone_may_be_edited(orca, tmp_path, name):
    (edit, code), folder = EDITS[name], tmp_path / "exported"
    shutil.copytree(RECORDED / "exported", folder)
    edit(folder)
    assert orca("predict", folder, RECORDED / "new.npz")[0] == code


def test_an_export_predicts_as_it_did(orca, tmp_path):
    shutil.copytree(RECORDED / "exported", tmp_path / "exported")
    code, _, err = orca(
        "predict", tmp_path / "exported", RECORDED / "new.npz", "--out", tmp_path / "new.npz"
    )
    assert code == 0, err
    before, now = (
        np.load(path) for path in (RECORDED / "predicted" / "classes.npz", tmp_path / "new.npz")
    )
    np.testing.assert_allclose(now["probability"], before["probability"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "estimator", "has_several"),
    [
        ("classes", "classifier", False),
        ("labels", "classifier", True),
        ("values", "regressor", True),
    ],
)
def test_scikit_learn_sees_several_labels_and_numbers(recorded, kind, estimator, has_several):
    pytest.importorskip("sklearn", minversion="1.6")  # the first that asks for tags
    from sklearn.utils import get_tags

    tags = get_tags(orca_cli.load(recorded[kind]))
    assert (tags.estimator_type, tags.target_tags.multi_output) == (estimator, has_several)
    if estimator == "classifier":
        assert tags.classifier_tags.multi_label == has_several


@pytest.mark.parametrize("path", ["./nope", "../nope", "~/nope"])
def test_a_path_that_leads_nowhere_is_named_as_it_was_typed(path):
    model = orca_cli.load(RECORDED / "exported")
    with pytest.raises(DataError, match=f"^{path}: no such file or folder$"):
        model.predict(path)
