"""Baselines that a run kept predict and can be exported; --best chooses among all candidates."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import orca_cli
from orca_cli import storage
from orca_cli.exceptions import ChecksumError, ConfigError, DataError, OrcaError, UnsafeError
from orca_cli.prediction.choice import best_model
from orca_cli.prediction.loading import open_model
from tests.cli.conftest import ROOT, run_folders
from tests.cli.test_predict import LORA
from tests.reliability.test_hostile_exports import reseal

TRAIN = 120
TEST = 40
MODELS = ("linear", "forest", "features", "probe")
# Blocks the import of torch, then runs the command line.
WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is blocked")
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module")
def made(fork_server, home, tiny, tmp_path_factory):
    """A folder with test.npz, checkpoint/ and runs/, which contains a run and its baselines."""
    folder = tmp_path_factory.mktemp("kept")
    shutil.copytree(tiny["bert"], folder / "checkpoint")
    numbers = np.arange(TRAIN + TEST) % 3
    noise = np.random.default_rng(0).normal(size=(TRAIN + TEST, 2, 20))
    x = noise + 0.5 * numbers[:, None, None]
    y = np.array(["low", "mid", "high"])[numbers]
    np.savez(folder / "train.npz", x=x[:TRAIN], y=y[:TRAIN])
    np.savez(folder / "test.npz", x=x[TRAIN:], y=y[TRAIN:])
    words = [
        "task=arrays", "task.kind=classes", f"task.train={folder / 'train.npz'}",
        f"task.test={folder / 'test.npz'}", "body=minilm",
        f"body.checkpoint={folder / 'checkpoint'}", "source.size=160", "metric=none", LORA,
        "train.epochs=1", "train.lr=1e-3", "train.folds=0", "baselines=simple",
    ]  # fmt: skip
    places = {"ORCA_RUNS": str(folder / "runs"), "ORCA_HOME": str(home), "COLUMNS": "100"}
    case = fork_server.start(["run", *words], more=places)
    assert case.wait(180) == 0, case.err
    return folder


@pytest.fixture
def kept(made):
    """The run, which a test must leave as it is."""
    (path,) = run_folders(made / "runs")
    return path


@pytest.fixture
def copied(kept, environment):
    """A copy of the run, where this test's runs go."""
    return Path(shutil.copytree(kept, environment / "arrays" / kept.name))


def read(path):
    return json.loads((path / "result.json").read_text())


@pytest.mark.parametrize("name", MODELS)
def test_a_kept_model_predicts_what_was_measured(made, kept, orca, tmp_path, name):
    words = [kept, made / "test.npz", "--model", name, "--json"]
    code, out, err = orca("predict", *words, "--out", tmp_path / "p.npz")
    assert code == 0, err
    record = json.loads(out)
    assert record["model"] == name
    assert record["error"]["value"] == read(kept)["baselines"][name]["error"]
    assert np.load(tmp_path / "p.npz")["prediction"].shape == (TEST,)
    x = np.load(made / "test.npz")["x"]
    outputs = orca_cli.load(kept, model=name).outputs(x)
    assert np.array_equal(outputs, np.load(tmp_path / "p.npz")["outputs"])


@pytest.mark.parametrize("name", MODELS)
def test_an_export_of_a_simple_model_predicts_elsewhere(made, kept, orca, tmp_path, request, name):
    """The export needs no run, no checkpoint and no training data; an export of the export is the same model."""
    x = np.load(made / "test.npz")["x"]
    expected = orca_cli.load(kept, model=name).outputs(x)
    code, _, err = orca("export", kept, tmp_path / "model", "--model", name)
    assert code == 0, err
    aside = made.rename(f"{made}-aside")
    request.addfinalizer(lambda: aside.rename(made))
    assert np.array_equal(orca_cli.load(tmp_path / "model").outputs(x), expected)
    assert orca("export", tmp_path / "model", tmp_path / "again")[0] == 0
    assert np.array_equal(orca_cli.load(tmp_path / "again", model=name).outputs(x), expected)
    with pytest.raises(ConfigError, match=f"has no model 'transfer'; the export contains: {name}$"):
        orca_cli.load(tmp_path / "model", model="transfer")


@pytest.mark.parametrize("name", ["linear", "forest"])
def test_an_export_of_a_simple_model_needs_no_torch(made, kept, orca, tmp_path, name):
    assert orca("export", kept, tmp_path / "model", "--model", name)[0] == 0
    words = ["predict", "model", str(made / "test.npz"), "--out", "p.npz"]
    code = f"""{WITHOUT_TORCH}
import orca_cli, numpy
from orca_cli.cli import main
assert main({words}) == 0
model = orca_cli.load("model")
x = numpy.load({str(made / "test.npz")!r})["x"]
assert numpy.array_equal(model.outputs(x), numpy.load("p.npz")["outputs"])
assert numpy.allclose(model.predict_proba(x).sum(axis=1), 1)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    expected = orca_cli.load(kept, model=name).outputs(np.load(made / "test.npz")["x"])
    assert np.array_equal(np.load(tmp_path / "p.npz")["outputs"], expected)


def test_of_a_run_only_the_probe_needs_the_checkpoint(made, kept, refused, request):
    aside = (made / "checkpoint").rename(made / "elsewhere")
    request.addfinalizer(lambda: aside.rename(made / "checkpoint"))
    x = np.load(made / "test.npz")["x"]
    assert len(orca_cli.load(kept, model="features").outputs(x)) == TEST
    words = ["predict", kept, made / "test.npz", "--model", "probe"]
    refused(10, words, "uses features of the body, so it needs the body's checkpoint", "--checkp")
    assert len(orca_cli.load(kept, model="probe", checkpoint=str(aside)).outputs(x)) == TEST


@pytest.mark.parametrize("name", ["../x", "boosting", "constant", "candidates/forest", ""])
def test_a_name_that_was_not_kept_is_refused(made, kept, refused, name):
    words = ["predict", kept, made / "test.npz", "--model", name]
    kept_names = ", ".join(candidate["name"] for candidate in read(kept)["candidates"])
    refused(10, words, f"has no model '{name}'; the run kept: {kept_names}")


def test_a_simple_model_computes_on_the_cpu(made, kept, refused):
    words = ["predict", kept, made / "test.npz", "--model", "forest", "--device", "cuda"]
    refused(10, words, "device: 'forest' cannot compute on 'cuda'; set the device to auto or cpu")


def test_the_card_of_a_simple_model_has_its_errors(kept, orca, tmp_path):
    assert orca("export", kept, tmp_path / "model", "--model", "forest")[0] == 0
    card = (tmp_path / "model" / "README.md").read_text()
    result = read(kept)
    forest = result["baselines"]["forest"]
    assert "This model is a random forest, not the transfer" in card
    assert f"| 0-1 error | {100 * forest['error']:.2f} % |" in card
    assert f"| the run's transfer | {100 * result['error']['value']:.2f} % |" in card
    assert f"Validation error of the forest: {100 * forest['validation_error']:.2f} %." in card
    assert "baseline forest" not in card
    assert str(kept.parent) not in card


def test_the_best_model_of_a_run_is_its_leader(made, copied, environment, orca):
    leader = read(copied)["leader"]
    assert leader in MODELS
    code, out, err = orca("predict", environment, made / "test.npz", "--best", "--json")
    assert code == 0, err
    assert json.loads(out)["model"] == leader
    validated = [entry for entry in read(copied)["candidates"] if entry["validation_error"]]
    assert f"the lowest error of {len(validated)} candidates from 1 run and therefore optimi" in err


@pytest.fixture
def add(kept, environment):
    """Return a function that adds a copy of the run with other records; it predicts no more."""

    def call(number, transfer, simple=None, *, on="validation", judged="validation"):
        path = environment / "arrays" / f"{kept.name[:-2]}{number}{number}"
        shutil.copytree(kept, path)
        identity = {"run_id": path.name, "identity": str(number) * 64}
        status = json.loads((path / "status.json").read_text())
        (path / "status.json").write_text(json.dumps(status | identity))
        result = read(path) | identity | {"validation_error": transfer}
        result["selected"] = {"on": on, "sha256": "a"}
        for key in ("candidates", "judged"):
            del result[key]
        # Without these entries, it is a record of an earlier version.
        if simple is not None:
            result["judged"] = {"on": judged, "n": 120}
            result["candidates"] = [
                {"name": name, "validation_error": error, "kept": name != "linear"}
                for name, error in {"transfer": transfer, **simple}.items()
            ]
        (path / "result.json").write_text(json.dumps(result))
        return path

    return call


def test_the_best_is_chosen_among_all_kept_models(add, environment):
    add(1, 0.3)
    best = add(2, 0.4, {"forest": 0.1, "features": 0.2, "linear": 0.0, "../x": 0.0})
    add(3, 0.2, {"forest": 0.15})
    path, name, reason = best_model(environment)
    assert (path, name) == (best, "forest")
    expected = (
        "0-1 error 10.00 % on validation, which is the lowest error of 6 candidates from 3 runs"
    )
    assert f"forest of {best}: {expected} and therefore optimistic" in reason


def test_the_best_run_by_one_model(add, environment):
    add(1, 0.3)
    add(2, 0.4, {"forest": 0.1})
    best = add(3, 0.2, {"forest": 0.15})
    path, name, reason = best_model(environment, "transfer")
    assert (path, name) == (best, "transfer")
    assert "the lowest error of 3 candidates from 3 runs" in reason
    with pytest.raises(DataError, match="that kept a model 'boosting'"):
        best_model(environment, "boosting")


def test_transfers_are_compared_by_their_own_judges(add, environment):
    """The baselines were compared on other samples."""
    best = add(1, 0.2, {"transfer": None, "forest": 0.1}, judged="folds")
    add(2, 0.3)
    assert best_model(environment, "transfer")[:2] == (best, "transfer")


def test_models_judged_on_other_samples_have_no_best(add, environment):
    """A run that trained on its validation samples has folds that other runs do not share."""
    add(1, None, {"forest": 0.1}, on="nothing", judged="folds")
    add(2, 0.3)
    with pytest.raises(DataError, match=r"cannot be compared: .*2 ways"):
        best_model(environment)


def test_runs_judged_by_folds_of_their_own_are_compared(add, environment):
    add(1, None, {"forest": 0.2}, on="nothing", judged="folds")
    best = add(2, None, {"forest": 0.1}, on="nothing", judged="folds")
    assert best_model(environment)[:2] == (best, "forest")


def overwrite(folder, name, content):
    (folder / name).write_bytes(content)


def linked(folder, name):
    outside = folder.parent / "outside"
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside)


FOREST = "candidates/forest"
DAMAGES = {
    "changed arrays": (
        lambda run: overwrite(run / FOREST, "model.safetensors", b"x"),
        ChecksumError,
    ),
    "changed record": (lambda run: overwrite(run / FOREST, "model.json", b"{}"), ChecksumError),
    "another manifest": (
        lambda run: shutil.copy(run / "candidates/linear/MANIFEST.json", run / FOREST),
        ChecksumError,
    ),
    "no model": (lambda run: shutil.rmtree(run / FOREST), ChecksumError),
    "a link to a file": (lambda run: linked(run / FOREST, "model.json"), UnsafeError),
    "a link to a folder": (lambda run: linked(run / "candidates", "forest"), UnsafeError),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_kept_model_is_refused(copied, name):
    damage, error = DAMAGES[name]
    damage(copied)
    with pytest.raises(error):
        open_model(copied, candidate="forest")


def entries(folder, **changes):
    """Change export.json, which has its own checksum."""
    record = storage.read_checked_json(folder / "export.json")
    storage.write_checked_json(folder / "export.json", record | changes)


def config(folder, **changes):
    path = folder / "body" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


FORGED = {
    "a candidate outside": ("forest", lambda folder: entries(folder, candidate="../x")),
    "a candidate of another type": ("forest", lambda folder: entries(folder, candidate=[])),
    "the transfer": ("forest", lambda folder: entries(folder, candidate="transfer")),
    "other outputs": ("forest", lambda folder: entries(folder, num_outputs=4)),
    "another kind": ("forest", lambda folder: entries(folder, kind="labels")),
    "no network": ("features", lambda folder: (folder / "network.safetensors").unlink()),
    "endless layers": ("features", lambda folder: config(folder, num_hidden_layers=10**6)),
    "wider embedder": ("features", lambda folder: config(folder, hidden_size=64)),
    "endless layers of the probe": ("probe", lambda folder: config(folder, num_hidden_layers=10**6)),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_export_of_a_simple_model_is_refused(kept, orca, tmp_path, name):
    model, forge = FORGED[name]
    assert orca("export", kept, tmp_path / "model", "--model", model)[0] == 0
    forge(tmp_path / "model")
    reseal(tmp_path / "model")
    with pytest.raises(OrcaError):
        open_model(tmp_path / "model")
