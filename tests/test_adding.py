"""docs/adding.md, done exactly as the page says: its files are written, its commands are run."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from tests.checkpoints import save_tiny, save_tiny_bert
from tests.forked import Server

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "adding.md").read_text()


def files_of_the_page():
    """Return path -> content for every "`path`" line that is followed by a code block."""
    return dict(re.findall(r"^`([\w/.]+)`\n\n```(?:yaml|python)\n(.*?)```", PAGE, flags=re.S | re.M))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the package and conf/, so that files can be added as a contributor would add them."""
    tmp_path = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "orca_cli", tmp_path / "orca_cli", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    save_tiny_bert(tmp_path / "path" / "to" / "checkpoint")
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 30)
    np.savez(tmp_path / "gestures.npz", x=rng.normal(size=(60, 8, 64)) + y[:, None, None], y=y)
    return tmp_path


def add(checkout, *paths):
    content = files_of_the_page()
    for path in paths:
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).write_text(content[path])


QUICK = [
    "body.checkpoint=path/to/checkpoint",
    "source.size=100",
    "align.epochs=1",
    "align.source_points=50",
    "align.max_samples=8",
    "train.epochs=1",
    "train.batch_size=8",
]


@pytest.fixture(scope="module")
def server(checkout, tmp_path_factory):
    with Server(tmp_path_factory.mktemp("forked"), checkout) as server:
        yield server


@pytest.fixture
def orca(server, checkout, tmp_path, monkeypatch):
    """Call the command line of the copy; returns its standard output. Runs of one test go into a folder of its own."""
    monkeypatch.chdir(checkout)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    places = {"HOME": str(checkout), "ORCA_HOME": str(checkout / "home"), "ORCA_RUNS": str(tmp_path / "runs")}

    def call(*words):
        case = server.start(list(words), more=places)
        assert case.wait(400) == 0, case.err
        return case.out

    return call


def test_it_is_the_copy_that_is_called(orca, checkout):
    (checkout / "conf" / "task" / "only_here.yaml").write_text("# Nothing else.\n")
    assert "only_here" in orca("list", "tasks")


def test_every_file_of_the_page_is_tried_here():
    assert set(files_of_the_page()) == {
        "my_conf/task/gestures.yaml",
        "orca_cli/tasks/ramps.py",
        "conf/task/ramps.yaml",
        "conf/body/bert_small.yaml",
        "orca_cli/models/bodies/distilbert.py",
        "conf/body/distilbert.yaml",
        "orca_cli/models/embedders/wide.py",
        "conf/embedder/wide.yaml",
        "orca_cli/metrics/mean_shift.py",
        "conf/metric/mean_shift.yaml",
        "orca_cli/finetuning/values.py",
        "conf/finetune/values.yaml",
        "orca_cli/augmentation/invert.py",
        "conf/augment/invert.yaml",
        "orca_cli/tracking/losses.py",
        "conf/tracker/losses.yaml",
        "conf/study/gestures.yaml",
    }


def test_a_task_from_own_arrays_is_one_yaml(checkout, orca):
    add(checkout, "my_conf/task/gestures.yaml")
    assert "gestures" in orca("list", "tasks", "--config-dir", "my_conf")
    assert "orca run --config-dir my_conf task=gestures" in PAGE
    orca("run", "--config-dir", "my_conf", "task=gestures", *QUICK)


def test_a_task_in_a_new_format_is_one_yaml_and_one_python_file(checkout, orca):
    add(checkout, "orca_cli/tasks/ramps.py", "conf/task/ramps.yaml")
    assert "ramps" in orca("list", "tasks")
    assert "synthetic" in orca("run", "task=ramps", *QUICK)


def test_a_body_of_a_known_family_is_one_yaml(checkout, orca):
    add(checkout, "conf/body/bert_small.yaml")
    out = orca("run", "body=bert_small", "metric=none", "train.epochs=1", "task.train_size=40")
    assert "width 32" in out


AS_TRANSFORMERS = """
import torch
from transformers import DistilBertModel
from orca_cli.models.bodies import auto, distilbert
body = auto.load("tiny_distilbert")
assert type(body).__name__ == "DistilBertBody"
numbers = torch.arange(12).view(2, 6)
whole = DistilBertModel.from_pretrained("tiny_distilbert").eval()
mask = torch.ones(2, 6, dtype=torch.bool)
torch.testing.assert_close(
    body.eval().encode(body.embeddings(numbers), mask, causal=False), whole(numbers).last_hidden_state
)
"""


def test_a_body_of_a_new_family_is_one_yaml_and_one_python_file(checkout, orca):
    add(checkout, "orca_cli/models/bodies/distilbert.py", "conf/body/distilbert.yaml")
    save_tiny("distilbert", checkout / "tiny_distilbert")
    assert "distilbert" in orca("list", "bodies")
    done = subprocess.run([sys.executable, "-c", AS_TRANSFORMERS], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "orca run body=distilbert" in PAGE
    words = ["body=distilbert", *QUICK, "body.checkpoint=tiny_distilbert", "finetune=layernorm", "task.train_size=40"]
    assert "width 32" in orca("run", *words)


@pytest.mark.slow
def test_the_conformance_test_takes_the_new_body(checkout):
    add(checkout, "orca_cli/models/bodies/distilbert.py", "conf/body/distilbert.yaml")
    save_tiny("distilbert", checkout / "tiny_distilbert")
    shutil.copytree(ROOT / "tests", checkout / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", checkout)
    words = re.search(r"^pytest (tests/models/test_conformance.py --body .*)$", PAGE, re.M)[1].split()
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-x", *words]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert re.search(r"\d\d passed", done.stdout)


def test_an_embedder_is_one_yaml_and_one_python_file(checkout, orca):
    add(checkout, "orca_cli/models/embedders/wide.py", "conf/embedder/wide.yaml")
    assert "wide" in orca("list", "embedders")
    assert "orca run embedder=wide embedder.max_tokens=4" in PAGE
    words = ["embedder=wide", "embedder.max_tokens=4", *QUICK, "task.train_size=40"]
    assert "4 tokens" in orca("run", *words)


def test_a_metric_is_one_yaml_and_one_python_file(checkout, orca):
    add(checkout, "orca_cli/metrics/mean_shift.py", "conf/metric/mean_shift.yaml")
    assert "mean_shift" in orca("list", "metrics")
    assert "orca run metric=mean_shift" in PAGE
    assert "before alignment" in orca("run", "metric=mean_shift", "task.train_size=40", *QUICK)


def test_a_finetune_mode_is_one_yaml_and_one_python_file(checkout, orca, tmp_path):
    add(checkout, "orca_cli/finetuning/values.py", "conf/finetune/values.yaml")
    assert "values" in orca("list", "finetune")
    assert "orca run -m finetune=full,values" in PAGE
    out = orca("run", "finetune=values", "metric=none", "task.train_size=40", *QUICK)
    assert "finetune=values" in out
    (weights,) = tmp_path.glob("runs/*/*/3_finetune/best/model.safetensors")
    with safe_open(weights, "pt") as file:
        names = [name for name in file.keys() if name.startswith("body.")]  # noqa: SIM118
    assert names
    assert all(".value." in name for name in names)


def test_an_augmentation_is_one_yaml_and_one_python_file(checkout, orca, tmp_path):
    add(checkout, "orca_cli/augmentation/invert.py", "conf/augment/invert.yaml")
    assert "invert" in orca("list", "augmentations")
    assert "orca run augment=invert" in PAGE
    orca("run", "augment=invert", "metric=none", "task.train_size=40", *QUICK)
    (result,) = tmp_path.glob("runs/*/*/result.json")
    assert json.loads(result.read_text())["augment"]["probability"] == 0.5


def test_a_tracker_is_one_yaml_and_one_python_file(checkout, orca, tmp_path):
    add(checkout, "orca_cli/tracking/losses.py", "conf/tracker/losses.yaml")
    assert "orca run tracker=losses" in PAGE
    words = ["run", "metric=none", "task.train_size=40", *QUICK, "train.epochs=2"]
    orca(*words, "tracker=losses")
    (file,) = tmp_path.glob("runs/*/*/tracker/losses.csv")
    assert [line.split(",")[0] for line in file.read_text().splitlines()] == ["epoch", "1", "2"]
    orca(*words)
    assert len(list(tmp_path.glob("runs/*/*/result.json"))) == 1  # a tracker does not change the run's identity


def test_a_study_is_one_yaml(checkout, orca):
    add(checkout, "conf/study/gestures.yaml")
    assert "orca run -m study=gestures seed=0" in PAGE
    out = orca("run", "-m", "study=gestures", "seed=0", *QUICK)
    assert "sweep of 3 runs: 3 completed" in out  # one of the four is left out
    assert "Next: orca report" in out
    assert "orca report --study gestures --against metric=none" in PAGE
    out = orca("report", "--study", "gestures", "--against", "metric=none")
    assert "short: undecided" in " ".join(out.split())
