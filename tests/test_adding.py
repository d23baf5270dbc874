"""docs/adding.md, followed exactly: the test writes the page's files and runs its commands."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import DistilBertModel

from orca_cli.models import bodies
from orca_cli.models.bodies import auto
from tests.checkpoints import save_tiny, save_tiny_bert
from tests.forked import Server

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "adding.md").read_text()
# Path -> content for every "`path`" line that is followed by a code block or a link to an example.
FILES = dict(re.findall(r"^`([\w/.]+)`\n\n```yaml\n(.*?)```", PAGE, flags=re.S | re.M))
for _name, _example in re.findall(r"^`([\w/.]+)`: \[\w+\.py\]\(([\w/.]+)\)$", PAGE, flags=re.M):
    FILES[_name] = (ROOT / "docs" / _example).read_text()
QUICK = [
    "source.size=100",
    "align.epochs=1",
    "align.source_points=50",
    "align.max_samples=8",
    "train.batch_size=8",
]
QUICK += ["baselines=none"]
LISTED = {
    "tasks": {"gestures", "ramps"},
    "bodies": {"bert_small", "distilbert"},
    "embedders": {"wide"},
}
LISTED |= {"metrics": {"mean_shift"}, "finetune": {"values"}}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the package and conf/, to which every file of the page is added as a contributor would add it."""
    path = tmp_path_factory.mktemp("checkout")
    shutil.copytree(
        ROOT / "orca_cli", path / "orca_cli", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "conf", path / "conf")
    for name, content in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    save_tiny_bert(path / "path" / "to" / "checkpoint")
    save_tiny("distilbert", path / "tiny_distilbert")
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 30)
    np.savez(path / "gestures.npz", x=rng.normal(size=(60, 8, 64)) + y[:, None, None], y=y)
    return path


@pytest.fixture(scope="module")
def orca(checkout, tmp_path_factory):
    """Call the command line of the copy; returns its standard output."""
    places = {
        "HOME": str(checkout),
        "ORCA_HOME": str(checkout / "home"),
        "ORCA_RUNS": str(checkout / "runs"),
    }
    with (
        pytest.MonkeyPatch.context() as patch,
        Server(tmp_path_factory.mktemp("forked"), checkout) as server,
    ):
        patch.delenv("PYTHONPATH", raising=False)

        def call(*words):
            case = server.start(list(words), more=places, folder=checkout)
            assert case.wait(400) == 0, case.err
            return case.out

        yield call


def test_a_task_body_embedder_metric_mode_and_tracker_are_listed_and_in_one_run(orca, checkout):
    assert len(FILES) == 15  # each is used by a test of this file
    for group, names in LISTED.items():
        entries = json.loads(orca("list", group, "--config-dir", "my_conf", "--json"))[group]
        assert names <= {entry["name"] for entry in entries}
    words = [
        "--config-dir", "my_conf", "task=gestures", "body=bert_small", "embedder=wide",
        "embedder.max_tokens=4",
    ]  # fmt: skip
    words += ["metric=mean_shift", "finetune=values", "train.epochs=2", *QUICK]
    out = orca("run", *words, "tracker=losses")
    for text in ("width 32", "4 tokens", "before alignment", "finetune=values"):
        assert text in out
    (run,) = (path for path in checkout.glob("runs/*/*/result.json") if "gestures" in str(path))
    (weights,) = run.parent.glob("3_finetune/*/model.safetensors")
    with safe_open(weights, "pt") as file:
        names = [name for name in file.keys() if name.startswith("body.")]  # noqa: SIM118
    assert names
    assert all(".value." in name for name in names)
    lines = (run.parent / "tracker" / "losses.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "1", "2"]


def test_a_task_in_a_new_format_on_a_body_of_a_new_family(orca):
    words = [
        "task=ramps",
        "body=distilbert",
        "body.checkpoint=tiny_distilbert",
        "finetune=layernorm",
        "metric=none",
    ]
    out = orca("run", *words, "train.epochs=1", *QUICK)
    assert "synthetic" in out


def test_the_new_body_computes_what_transformers_compute(checkout, monkeypatch):
    monkeypatch.setattr(
        bodies, "__path__", [*bodies.__path__, str(checkout / "orca_cli" / "models" / "bodies")]
    )
    auto.families.cache_clear()
    try:
        body = auto.load(str(checkout / "tiny_distilbert")).eval()
    finally:
        auto.families.cache_clear()
        sys.modules.pop(f"{bodies.__name__}.distilbert", None)
    assert type(body).__name__ == "DistilBertBody"
    numbers, mask = torch.arange(12).view(2, 6), torch.ones(2, 6, dtype=torch.bool)
    whole = DistilBertModel.from_pretrained(checkout / "tiny_distilbert").eval()
    outputs = body.encode(body.embeddings(numbers), mask, causal=False)
    torch.testing.assert_close(outputs, whole(numbers).last_hidden_state)


@pytest.mark.slow
def test_the_conformance_test_takes_the_new_body(checkout):
    shutil.copytree(
        ROOT / "tests", checkout / "tests", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", checkout)
    words = re.search(r"^pytest (tests/models/test_conformance.py --body .*)$", PAGE, re.M)[
        1
    ].split()
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-x", *words]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.slow
def test_a_study_is_one_yaml(orca):
    few = ["body.checkpoint=path/to/checkpoint", *QUICK]
    out = orca("run", "-m", "study=gestures", "seed=0", *few)
    assert "sweep of 3 runs: 3 completed" in out  # one of the four is left out
    out = orca("report", "--study", "gestures", "--against", "metric=none")
    assert "short: undecided" in " ".join(out.split())


def test_the_page_names_the_commands():
    lines = [
        "run --config-dir my_conf task=gestures",
        "run body=distilbert",
        "run embedder=wide embedder.max_tokens=4",
    ]
    lines += ["run metric=mean_shift", "run tracker=losses", "run -m study=gestures seed=0"]
    lines += ["run -m finetune=full,values", "report --study gestures --against metric=none"]
    assert [line for line in lines if f"orca {line}" not in PAGE] == []
