"""docs/adding.md, done exactly as the page says: its files are written, its commands are run."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import save_tiny_bert
from tests.forked import Server

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "adding.md").read_text()


def files_of_the_page() -> dict[str, str]:
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


def add(checkout: Path, *paths: str) -> None:
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
def orca(server, checkout, monkeypatch):
    """Call the command line of the copy; returns its standard output."""
    monkeypatch.chdir(checkout)
    for name in ("ORCA_RUNS", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)

    def call(*words: str) -> str:
        case = server.start(list(words), more={"HOME": str(checkout), "ORCA_HOME": str(checkout / "home")})
        assert case.wait(120) == 0, case.err
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
        "orca_cli/metrics/mean_shift.py",
        "conf/metric/mean_shift.yaml",
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


def test_a_metric_is_one_yaml_and_one_python_file(checkout, orca):
    add(checkout, "orca_cli/metrics/mean_shift.py", "conf/metric/mean_shift.yaml")
    assert "mean_shift" in orca("list", "metrics")
    assert "orca run metric=mean_shift" in PAGE
    assert "before alignment" in orca("run", "metric=mean_shift", "task.train_size=40", *QUICK)
