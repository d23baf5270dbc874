"""Completed runs and exports predict the test split to the bit, without other files.

They need no checkpoint, no training data and no network.
"""

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
from orca_cli.prediction.choice import best_model
from tests.cli.conftest import outputs, run_folders, without_baselines

# Samples of the training and the test file.
TRAIN = 60
TEST = 20
QUICK = [
    "source.size=160", "align.epochs=1", "align.source_points=100", "align.max_samples=16",
    "align.pseudo_labels=3", "train.epochs=1", "train.warmup_epochs=0.5", "train.batch_size=16",
    "train.lr=1e-3", "train.eval_batch_size=8",
]  # fmt: skip


def inputs(shape):
    n = TRAIN + TEST
    y = np.arange(n) % 3
    noise = np.random.default_rng(0).normal(size=(n, *shape))
    return noise + y.reshape(-1, *(1,) * len(shape)), y


def targets(kind, x, y):
    return {
        "classes": np.array(["low", "mid", "high"])[y],
        "labels": np.stack([y == 0, y > 0], axis=1).astype(int),
        "maps": 3 * x[:, 0] + 100,
        "class maps": (x[:, 0] > 1).astype(int),
        "several values": np.stack([x.max(axis=tuple(range(1, x.ndim))), 1e6 * y], axis=1),
    }[kind]


# Kinds with another name in `task.kind`.
KINDS = {"maps": "dense", "class maps": "dense", "several values": "values"}
BODIES = {"bert": "minilm", "swin": "swin_tiny source=digits", "vit": "vit source=digits"}


@dataclass
class Trained:
    """A run on files in `folder`, made with `words`, its samples, and the command line."""

    orca: Callable
    folder: Path
    path: Path
    words: list[str]
    x: np.ndarray
    y: np.ndarray

    def __post_init__(self):
        self.result = json.loads((self.path / "result.json").read_text())
        self.expected = outputs(self.path)

    def predict(self, *words, run=None):
        """Predict the test split; returns (standard output, standard error)."""
        code, out, err = self.orca("predict", run or self.path, self.folder / "test.npz", *words)
        assert code == 0, err
        return out, err

    def outputs(self, run):
        """Return what `orca predict` writes for the test split."""
        self.predict("--out", "p.npz", run=run)
        return np.load("p.npz")["outputs"]


@pytest.fixture(scope="module")
def make(fork_server, home, tiny, tmp_path_factory):
    """Return a function (body, kind, shape, further settings) that makes a run, once for all tests.

    It returns all fields of `Trained` but the command line.
    """

    @functools.cache
    def call(body, kind, shape, *settings):
        folder = tmp_path_factory.mktemp("trained")
        shutil.copytree(tiny[body], folder / "checkpoint")
        x, y = inputs(shape)
        y = targets(kind, x, y)
        np.savez(folder / "train.npz", x=x[:TRAIN], y=y[:TRAIN])
        np.savez(folder / "test.npz", x=x[TRAIN:], y=y[TRAIN:])
        words = ["task=arrays", f"task.kind={KINDS.get(kind, kind)}"]
        words += [*f"body={BODIES[body]}".split(), *QUICK, *settings]
        words += [f"task.{split}={folder / split}.npz" for split in ("train", "test")]
        words.append(f"body.checkpoint={folder / 'checkpoint'}")
        places = {"ORCA_RUNS": str(folder / "runs"), "ORCA_HOME": str(home), "COLUMNS": "100"}
        _, *words = without_baselines(["run", *words])
        case = fork_server.start(["run", *words], more=places)
        assert case.wait(180) == 0, case.err
        (path,) = run_folders(folder / "runs")
        return {"folder": folder, "path": path, "words": words, "x": x, "y": y}

    return call


@pytest.fixture
def trained(orca, make):
    """Return a function that returns the run of a case, which the test must not change."""
    return lambda name: Trained(orca=orca, **make(*CASES[name]))


SERIES = (2, 20)
FLAT = (1, 12, 12)
PICTURES = (3, 20, 20)
LORA = "finetune=bitfit" if importlib.util.find_spec("peft") is None else "finetune=lora"
RANDOM_BODY = ("precision=bf16", "finetune=scratch", "metric=none")
DEEP_PROMPT = ("finetune=prompt", "finetune.depth=deep", "predictor.pooling=class_token")
CASES = {
    "classes": ("bert", "classes", SERIES),
    "labels of a random body, bf16": ("bert", "labels", SERIES, *RANDOM_BODY),
    "values, an error by name": ("bert", "several values", (30,), "task.error=mae"),
    "maps, a part of the body": ("swin", "maps", FLAT, LORA, "metric=none"),
    "images, a deep prompt": ("vit", "classes", PICTURES, *DEEP_PROMPT),
}


@pytest.mark.parametrize("name", CASES)
def test_the_test_split_has_the_bits_of_the_run(trained, tmp_path, name):
    run = trained(name)
    out, _ = run.predict("--out", tmp_path / "p.npz", "--json")
    record = json.loads(out)
    assert np.array_equal(np.load(tmp_path / "p.npz")["outputs"], run.expected)
    assert record["samples"] == TEST
    assert record["error"]["name"] == run.result["error"]["name"]
    assert record["error"]["value"] == pytest.approx(run.result["error"]["value"], abs=1e-12)


# The bits of several models: test_selection.py.
@pytest.mark.parametrize("name", CASES)
def test_runs_and_exports_predict_elsewhere(
    trained, orca, refused, request, tmp_path, monkeypatch, name
):
    """No checkpoint, no training data, no network, another working folder; no run for exports."""
    run = trained(name)
    code, _, err = orca("export", run.path, tmp_path / "model")
    assert code == 0, err
    shutil.move(tmp_path / "model", tmp_path / "moved")
    shutil.copy(run.folder / "test.npz", tmp_path)
    aside = run.folder.rename(f"{run.folder}-aside")
    request.addfinalizer(lambda: aside.rename(str(aside).removesuffix("-aside")))
    moved = aside / run.path.relative_to(run.folder)
    run.folder = tmp_path
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    checkpoint = []
    if run.result["finetune"] not in ("full", "scratch"):
        checkpoint = ["--checkpoint", aside / "checkpoint"]
        message = "saved only the trained part of its body and needs the body's checkpoint: '"
        assert refused(10, ["predict", moved, "test.npz"], message, "--checkpoint") == ""
    run.predict("--out", "p.npz", *checkpoint, run=moved)
    assert np.array_equal(np.load("p.npz")["outputs"], run.expected)
    assert np.array_equal(run.outputs(tmp_path / "moved"), run.expected)


@pytest.mark.parametrize("name", CASES)
def test_a_model_card_has_the_error_and_no_path(trained, orca, tmp_path, name):
    run = trained(name)
    code, _, err = orca("export", run.path, tmp_path / "model")
    assert code == 0, err
    card = (tmp_path / "model" / "README.md").read_text()
    error = run.result["error"]
    shown = f"{100 * error['value']:.2f} %" if error["percent"] else f"{error['value']:.4g}"
    assert f"| {error['name']} | {shown} |" in card
    assert run.result["weights_sha256"] in card
    digests = [split["sha256"] for split in run.result["splits"].values()]
    assert [digest for digest in digests if digest not in card] == []
    assert str(run.path) not in card + (tmp_path / "model" / "config.yaml").read_text()


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def classes(trained):
    return trained("classes")


@pytest.fixture
def shown_error(classes):
    """The line about the test split's error, as a user reads it."""
    predicted = np.array(["high", "low", "mid"])[classes.expected.argmax(axis=1)]
    mistakes = int(np.sum(predicted != classes.y[TRAIN:]))
    ends = binomtest(mistakes, TEST).proportion_ci(method="exact")
    interval = f"{100 * ends.low:.2f} % to {100 * ends.high:.2f} %"
    return f"0-1 error: {100 * mistakes / TEST:.2f} % (95 % interval {interval}) on {TEST}"


def test_csv_has_classes_and_their_probabilities(classes, shown_error):
    out, err = classes.predict("--batch-size", 8)
    rows = table(out)
    assert list(rows[0]) == ["index", "prediction", "p_high", "p_low", "p_mid"]
    exponentials = np.exp(classes.expected.astype(np.float64))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    printed = [[float(row[f"p_{name}"]) for name in ("high", "low", "mid")] for row in rows]
    np.testing.assert_allclose(np.array(printed), probabilities, rtol=1e-5)
    predicted = np.array(["high", "low", "mid"])[classes.expected.argmax(axis=1)]
    assert [row["prediction"] for row in rows] == predicted.tolist()
    assert shown_error in err


def test_all_forms_of_output_say_the_same(classes, shown_error, tmp_path):
    out, _ = classes.predict("--batch-size", 8)
    rows = table(out)
    shown, _ = classes.predict("--out", tmp_path / "p.csv")
    assert shown_error in shown
    assert (tmp_path / "p.csv").read_text() == out
    shown, _ = classes.predict("--out", tmp_path / "p.npz")
    assert shown_error in shown
    arrays = np.load(tmp_path / "p.npz")
    assert arrays["prediction"].tolist() == [row["prediction"] for row in rows]
    printed = [[float(row[f"p_{name}"]) for name in ("high", "low", "mid")] for row in rows]
    np.testing.assert_allclose(arrays["probability"], np.array(printed), rtol=1e-5)
    record, log = classes.predict("--json")
    samples = json.loads(record)["predictions"]
    assert [{key: str(cell) for key, cell in sample.items()} for sample in samples] == rows
    assert shown_error in log


def test_no_error_is_shown_without_targets(classes):
    out, _ = classes.predict()
    plain, err = classes.predict("--no-targets")
    assert plain == out
    assert "0-1 error" not in err


def test_csv_has_labels_as_zeros_and_ones(trained):
    run = trained("labels of a random body, bf16")
    out, _ = run.predict()
    rows = table(out)
    assert list(rows[0]) == ["index", "0", "1", "p_0", "p_1"]
    printed = [[int(row["0"]), int(row["1"])] for row in rows]
    assert printed == (run.expected >= 0).astype(int).tolist()


def test_csv_has_all_digits_of_numbers(trained):
    run = trained("values, an error by name")
    out, _ = run.predict()
    printed = [[float(row["prediction_0"]), float(row["prediction_1"])] for row in table(out)]
    np.testing.assert_array_equal(np.array(printed, np.float32), run.expected)


def test_maps_are_not_written_as_csv(trained, refused):
    run = trained("maps, a part of the body")
    words = ["predict", run.path, run.folder / "test.npz"]
    assert refused(10, words, "maps, which a csv table cannot contain; use FILE.npz") == ""


def test_tables(run, orca, tiny):
    i = np.arange(TRAIN + TEST)
    columns = {
        "a": i % 7 + 0.5,
        "b": np.array(["x", "y", "z"])[i % 3],
        "target": np.array(["no", "yes"])[i % 2],
    }
    frame = pd.DataFrame(columns)
    frame[:TRAIN].to_csv("train.csv", index=False)
    frame[TRAIN:].to_csv("test.csv", index=False)
    words = ["task.train=train.csv", "task.test=test.csv", "task.target=target"]
    path = run("task=table", *words, f"body.checkpoint={tiny['bert']}", *QUICK).folder
    assert orca("predict", path, "test.csv", "--out", "p.npz")[0] == 0
    assert np.array_equal(np.load("p.npz")["outputs"], outputs(path))
    model = orca_cli.load(path)
    assert model.predict(frame[TRAIN:]).tolist() == np.load("p.npz")["prediction"].tolist()
    assert model.score(frame[TRAIN:], frame["target"][TRAIN:]) == model.score("test.csv")


def test_a_run_without_its_weights_does_not_predict(classes, run, orca, refused, environment):
    """It counts as completed, and is compared with others."""
    first = run(*classes.words, "keep_weights=false")
    assert not list((first.folder / "3_finetune").rglob("*.safetensors"))
    assert orca("doctor", first.folder)[0] == 0
    test = classes.folder / "test.npz"
    refused(11, ["predict", first.folder, test], "kept no weights", "--force keep_weights=true")
    message = "contains no usable run, that is, no completed run on your own data"
    refused(11, ["predict", environment, test, "--best"], message)
    assert "already completed" in run(*classes.words).err  # the same experiment
    assert first.result["weights_sha256"] == classes.result["weights_sha256"]


@pytest.fixture
def add(classes, environment):
    """Return a function that adds a copy of the run whose records are changed; it predicts no more.

    It returns the copy's name.
    """

    def call(number, validation, *, on="validation", samples="a", test=0.5, data=None):
        path = environment / "arrays" / f"{classes.path.name[:-2]}{number}{number}"
        shutil.copytree(classes.path, path)
        identity = {"run_id": path.name, "identity": str(number) * 64}
        status = json.loads((path / "status.json").read_text())
        (path / "status.json").write_text(json.dumps(status | identity))
        result = json.loads((path / "result.json").read_text()) | identity
        result["error"]["value"] = test
        result["validation_error"] = validation
        result["selected"] = {"on": on, "sha256": samples}
        # A record of an earlier version has only the transfer.
        del result["candidates"], result["judged"]
        if data is not None:
            result["data"] = data
        (path / "result.json").write_text(json.dumps(result))
        return path.name

    return call


def test_the_only_run_is_the_best(classes, orca, environment, tmp_path):
    shutil.copytree(classes.path, environment / "arrays" / classes.path.name)
    words = [environment, classes.folder / "test.npz", "--best", "--out", "p.npz", "--json"]
    code, out, err = orca("predict", *words)
    assert code == 0, err
    assert json.loads(out)["run"] == classes.path.name
    assert orca("export", environment, tmp_path / "model", "--best")[0] == 0
    record = json.loads((tmp_path / "model" / "export.json").read_text())
    assert record["result"]["run_id"] == classes.path.name


def test_the_best_run_has_the_lowest_validation_error(add, environment):
    add(1, None, on="nothing")
    add(2, 0.3, test=0.0)
    lowest = add(3, 0.1)
    add(4, None, on="nothing")
    add(5, 0.0, on="test")
    path, model, reason = best_model(environment)
    assert (path.name, model) == (lowest, "transfer")
    left_out = "left out: 2 runs that trained on their validation samples"
    optimistic = "the lowest error of 2 candidates from 2 runs and therefore optimistic"
    assert f"{optimistic}; {left_out}" in reason


def test_runs_without_validation_have_no_best(add, environment):
    add(1, None, on="nothing")
    add(2, None, on="nothing")
    with pytest.raises(DataError, match="all 2 runs trained on their validation samples"):
        best_model(environment)


def test_runs_of_several_data_sets_have_no_best(add, environment):
    """This is refused even if the runs on one data set have no comparable validation errors."""
    add(1, 0.1)
    add(2, None, on="nothing", data="other")
    with pytest.raises(DataError, match="contains runs on 2 data sets: .*other"):
        best_model(environment)


def test_runs_validated_on_other_samples_have_no_best(add, environment):
    add(1, 0.1)
    add(2, 0.2, samples="b")
    with pytest.raises(DataError, match=r"cannot be compared: .*2 ways"):
        best_model(environment)


@pytest.fixture
def files(classes, tiny, tmp_path):
    """Return folders and files by the names that `REFUSALS` gives them."""
    x = classes.x[TRAIN:]
    np.save(tmp_path / "short.npy", x[:, :, :7])
    np.savez(tmp_path / "unseen.npz", x=x, y=np.array(["low"] * (TEST - 1) + ["huge"]))
    np.save(tmp_path / "huge.npy", np.where(np.arange(TEST)[:, None, None] == 11, 3e38, x))
    shutil.copytree(classes.path, tmp_path / "unfinished")
    (tmp_path / "unfinished" / "result.json").unlink()
    return {
        "RUN": classes.path,
        "TEST": classes.folder / "test.npz",
        "LONG": tiny["long"],
        "FOLDER": tmp_path,
    }


REFUSALS = {
    "a shorter sample": ("{RUN} {FOLDER}/short.npy", 11, "samples of shape (2, 7) and dtype"),
    "an unknown label": ("{RUN} {FOLDER}/unseen.npz", 11, "not occur in training: 1 in total, the first is huge at index 19"),
    "a huge input": ("{RUN} {FOLDER}/huge.npy --out p.csv", 11, "huge.npy: the outputs of sample 11 are NaN or inf"),
    "another suffix": ("{RUN} {TEST} --out p.txt", 10, "'p.txt' is a folder, or has an unknown suffix"),
    "the input as output": ("{RUN} {FOLDER}/unseen.npz --out {FOLDER}/unseen.npz", 10, "--out: is the input"),
    "an unfinished run": ("{FOLDER}/unfinished {TEST}", 11, "the run is not completed (state: completed)"),
    "a folder": ("{FOLDER} {TEST}", 11, "neither a run nor an export"),
    "no folder of runs": ("{FOLDER}/empty {TEST} --best", 11, "does not exist; start a run first"),
    "another checkpoint": ("{RUN} {TEST} --checkpoint {LONG}", 13, "has changed since the run: other weights would give"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_wrong_arguments_are_refused_in_one_line(name, refused, files, tmp_path):
    words, code, message = REFUSALS[name]
    assert refused(code, ["predict", *words.format(**files).split()], message) == ""
    assert not [*tmp_path.glob("p.*"), *tmp_path.glob(".tmp-*")]


def test_a_run_is_found_by_its_name(classes, orca, environment):
    shutil.copytree(classes.path, environment / "arrays" / classes.path.name)
    code, _, err = orca("predict", classes.path.name, classes.folder / "test.npz")
    assert code == 0, err


def test_unknown_labels_do_not_matter_without_targets(classes, orca, files, tmp_path):
    code, _, err = orca("predict", classes.path, tmp_path / "unseen.npz", "--no-targets")
    assert code == 0, err


def test_an_export_overwrites_nothing(classes, refused, files, tmp_path):
    words = ["export", classes.path, tmp_path / "unfinished"]
    assert refused(10, words, "already exists") == ""


def test_other_weights_than_those_tested_are_refused(classes, refused, tmp_path):
    """Their manifest is right."""
    other = tmp_path / "other"
    shutil.copytree(classes.path, other)
    # The only model, or the first of several.
    folder = min((other / "3_finetune").glob("*/model.safetensors")).parent
    tensors = load_file(folder / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, folder / "model.safetensors")
    storage.seal(folder, [file for file in folder.iterdir() if file.name != storage.MANIFEST])
    message = "the weights differ from those with which the run was tested"
    refused(13, ["predict", other, classes.folder / "test.npz"], message)


def test_a_classifier_from_python(classes):
    x = classes.x[TRAIN:]
    y = classes.y[TRAIN:]
    model = orca_cli.load(classes.path)
    assert is_classifier(model)
    assert not is_regressor(model)
    check_is_fitted(model)
    assert model.classes_.tolist() == ["high", "low", "mid"]
    assert model.predict(x).tolist() == model.classes_[classes.expected.argmax(axis=1)].tolist()
    np.testing.assert_array_equal(model.outputs(x), classes.expected)
    accuracy = np.mean(model.predict(x) == y)
    assert model.score(x, y) == accuracy
    assert get_scorer("accuracy")(model, x, y) == accuracy
    loss = log_loss(y, model.predict_proba(x))
    assert get_scorer("neg_log_loss")(model, x, y) == pytest.approx(-loss)
    assert model.error(x, y).value == classes.result["error"]["value"]


@pytest.mark.parametrize(
    "arguments",
    [
        lambda x, y: (x[:, :, :9], y),
        lambda x, y: (x,),
        lambda x, y: (x, y[:3]),
        lambda x, y: (x[:0], y[:0]),
        lambda x, y: ("./nope",),
    ],
    ids=["short samples", "no targets", "few targets", "no samples", "no file"],
)
def test_a_score_of_wrong_data_is_refused(arguments, classes):
    model = orca_cli.load(classes.path)
    with pytest.raises(DataError):
        model.score(*arguments(classes.x[TRAIN:], classes.y[TRAIN:]))


def test_another_batch_size_changes_last_bits_alone(classes):
    model = orca_cli.load(classes.path, batch_size=3)
    outputs_of_model = model.outputs(classes.x[TRAIN:])
    np.testing.assert_allclose(outputs_of_model, classes.expected, rtol=1e-4, atol=1e-5)


def test_a_regressor_from_python(trained):
    run = trained("values, an error by name")
    x = run.x[TRAIN:]
    y = run.y[TRAIN:]
    model = orca_cli.load(run.path)
    assert is_regressor(model)
    assert model.predict(x).tolist() == run.expected.tolist()
    assert model.score(x, y) == pytest.approx(r2_score(y, run.expected), rel=1e-4)


def test_the_outcome_of_a_run_is_loaded(trained, monkeypatch):
    run = trained("maps, a part of the body")
    monkeypatch.setenv("ORCA_RUNS", str(run.folder / "runs"))
    outcome = orca_cli.run(*run.words)
    assert (outcome.state, outcome.code, outcome.path) == ("skipped", 0, run.path)
    # Stopped among its baselines.
    maps = orca_cli.load(dataclasses.replace(outcome, state="completed", code=143))
    predicted = maps.predict(run.x[TRAIN:])
    expected = run.y[TRAIN:, None]
    r2 = r2_score(expected.ravel(), predicted.ravel())
    assert maps.score(run.x[TRAIN:], expected) == pytest.approx(r2, rel=1e-5)


@pytest.fixture
def failing(classes, monkeypatch, tmp_path):
    """Return the words of a run whose training file is missing."""
    monkeypatch.setenv("ORCA_RUNS", str(tmp_path / "runs"))
    return [word.replace("train.npz", "none.npz") for word in classes.words]


def test_a_run_from_python_raises_its_error(failing):
    with pytest.raises(DataError, match="task.train: .*none.npz' does not exist"):
        orca_cli.run(*failing)


def test_a_failed_run_is_not_loaded(failing):
    failed = orca_cli.run(*failing, check=False)
    assert (failed.state, failed.code) == ("failed", 11)
    with pytest.raises(DataError, match="its state is failed"):
        orca_cli.load(failed)


# Written at commit 309e582d by `orca run task=arrays` for each kind (`overrides.txt` has the
# settings), `orca predict RUN new.npz` and `orca export`: runs that an earlier version recorded stay
# readable.
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


def assert_same_predictions(path, kind):
    """Compare a file of predictions for new.npz with the recorded one."""
    before = np.load(RECORDED / "predicted" / f"{kind}.npz")
    now = np.load(path)
    assert set(now) == set(before)
    for name in before:
        if before[name].dtype.kind == "f":
            np.testing.assert_allclose(now[name], before[name], rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(now[name], before[name])


@pytest.mark.parametrize("kind", RECORDED_KINDS)
def test_report_shows_the_error_of_a_recorded_run(orca, recorded, kind):
    code, out, err = orca("report", "--json")
    assert code == 0, err
    assert recorded[kind].name in out
    result = json.loads((recorded[kind] / "result.json").read_text())
    assert str(result["error"]["value"]) in out


@pytest.mark.parametrize("kind", RECORDED_KINDS)
def test_a_recorded_run_predicts_as_it_did(orca, recorded, kind, tmp_path):
    words = [recorded[kind], RECORDED / "new.npz", "--out", tmp_path / "new.npz"]
    code, _, err = orca("predict", *words)
    assert code == 0, err
    assert_same_predictions(tmp_path / "new.npz", kind)


@pytest.mark.parametrize("kind", RECORDED_KINDS)
def test_a_recorded_run_has_the_error_it_had(orca, recorded, kind):
    code, out, err = orca("score", recorded[kind], "--json")
    assert code == 0, err
    assert json.loads(out)["equal"]


def test_a_recorded_export_predicts_as_it_did(orca, tmp_path):
    shutil.copytree(RECORDED / "exported", tmp_path / "exported")
    words = [tmp_path / "exported", RECORDED / "new.npz", "--out", tmp_path / "new.npz"]
    code, _, err = orca("predict", *words)
    assert code == 0, err
    assert_same_predictions(tmp_path / "new.npz", "classes")


@pytest.mark.parametrize(
    ("edit", "expected_code"),
    [
        (lambda folder: (folder / "README.md").write_text("Ours."), 0),
        (lambda folder: (folder / "README.md").unlink(), 0),
        (lambda folder: (folder / "config.yaml").write_text("seed: 1"), 13),
        (lambda folder: (folder / "NOTES.md").write_text("Ours."), 13),
    ],
    ids=["card edited", "card removed", "settings edited", "file added"],
)
def test_of_an_export_the_card_alone_may_be_edited(orca, tmp_path, edit, expected_code):
    folder = tmp_path / "exported"
    shutil.copytree(RECORDED / "exported", folder)
    edit(folder)
    assert orca("predict", folder, RECORDED / "new.npz")[0] == expected_code


@pytest.mark.parametrize(
    ("kind", "estimator", "has_several"),
    [
        ("classes", "classifier", False),
        ("labels", "classifier", True),
        ("values", "regressor", True),
    ],
)
def test_scikit_learn_sees_several_labels_and_numbers(recorded, kind, estimator, has_several):
    pytest.importorskip("sklearn", minversion="1.6")  # the first command that asks for tags
    from sklearn.utils import get_tags

    tags = get_tags(orca_cli.load(recorded[kind]))
    assert tags.estimator_type == estimator
    assert tags.target_tags.multi_output == has_several
    if estimator == "classifier":
        assert tags.classifier_tags.multi_label == has_several


@pytest.mark.parametrize("path", ["./nope", "../nope", "~/nope"])
def test_a_path_that_leads_nowhere_is_named_as_it_was_typed(path):
    model = orca_cli.load(RECORDED / "exported")
    with pytest.raises(DataError, match=f"^{path}: does not exist$"):
        model.predict(path)
