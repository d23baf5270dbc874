"""The documents are true: paths exist, exit codes match, and the README's commands are accepted as written."""

import argparse
import inspect
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

import orca_cli
from orca_cli import exceptions
from orca_cli.cli import main
from orca_cli.commands import run
from orca_cli.config import compose
from orca_cli.launching.search import make
from scripts import reliability
from tests.checkpoints import save_tiny_bert, save_tiny_swin

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CI = (ROOT / ".ci" / "run").read_text()


def test_every_path_of_the_architecture_page_exists():
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    paths = set(re.findall(r"`((?:orca_cli|conf|docs|tests)/[\w/.]*)`", page))
    assert len(paths) > 20
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_exit_codes_are_unique_and_documented():
    kinds = [kind for _, kind in inspect.getmembers(exceptions, inspect.isclass)]
    codes = [kind.code for kind in kinds if issubclass(kind, exceptions.OrcaError)]
    assert len(codes) == len(set(codes))
    table = (ROOT / "docs" / "runs.md").read_text().split("## Exit codes")[1].split("##")[0]
    documented = {
        int(code)
        for row in re.findall(r"^\| ([\d, ]+) \|", table, flags=re.M)
        for code in row.split(",")
    }
    assert set(codes) | {0, 129, 143} == documented


def commands():
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.S | re.M)
    return [
        line
        for language, block in blocks
        if not language
        for line in block.splitlines()
        if line.strip()
    ]


def test_the_installation_and_test_commands_are_what_ci_runs():
    first, second = (line for line in commands() if line.startswith("pip install"))
    assert first == 'pip install -e ".[offline]" && orca run'
    assert second == 'pip install -e ".[offline,dev]" && pytest -n 2 --dist worksteal'
    for line in (
        'pip install --quiet -e ".[offline,dev]"',
        "\npytest -n 2 --dist worksteal ",
        "\norca run ",
    ):
        assert line in CI


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The files that the README's commands name."""
    (tmp_path / "my_conf" / "task").mkdir(parents=True)
    shutil.copy(ROOT / "conf" / "task" / "digits.yaml", tmp_path / "my_conf" / "task" / "mine.yaml")
    np.savez(
        tmp_path / "my.npz",
        x=np.random.default_rng(0).normal(size=(90, 3, 20)),
        y=np.arange(90) % 3,
    )
    save_tiny_swin(tmp_path / "path" / "to" / "swin")
    images = {"x_train": np.zeros((40, 3, 32, 32), np.uint8), "y_train": np.arange(40) % 10}
    (tmp_path / "home" / "data" / "cifar10").mkdir(parents=True)
    np.savez(tmp_path / "home" / "data" / "cifar10" / "cifar10.npz", **images)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ORCA_RUNS", raising=False)
    return tmp_path


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("orca run ")])
def test_the_readmes_run_commands_compose_and_build(folder, capfd, line):
    """Training all of them would take an hour; CI runs the first command as written."""
    words = shlex.split(line)[1:]
    assert main([*words, *(["--dry-run"] if "--dry-run" not in words else [])]) == 0
    assert "parameters" in capfd.readouterr().out


def test_the_readmes_search_is_a_grid_of_recipes(folder):
    """Searching takes ten minutes; tests/cli/test_tune.py does it on less."""
    (line,) = (line for line in commands() if line.startswith("orca tune "))
    with compose.session() as session:
        search = make(session, shlex.split(line)[2:], None)
    assert search.space.name == "recipes"
    assert search.max_trials == 13
    assert search.minutes == 10


def test_the_other_commands_of_the_readme(folder, capfd):
    from tests.report.trees import add_run

    add_run(folder / "runs")
    trains = ("orca run ", "orca tune ")
    lines = [line for line in commands() if line.startswith("orca") and not line.startswith(trains)]
    assert lines
    for line in [*lines, "orca list", "orca doctor"]:
        assert main(shlex.split(line)[1:]) == 0, line


def test_the_readmes_section_on_using_a_model_works_as_written(folder, capfd, monkeypatch):
    section = README.split("## Your data in, a model out")[1].split("\n## ")[0]
    shell, python = (
        re.search(f"```{language}\n(.*?)```", section, flags=re.S)[1]
        for language in ("sh", "python")
    )
    quick = [
        "train.epochs=1",
        "train.warmup_epochs=0",
        "train.batch_size=16",
        "metric=none",
        "baselines=none",
    ]
    quick.append(f"body.checkpoint={save_tiny_bert(folder / 'bert')}")
    made = orca_cli.run
    monkeypatch.setattr(orca_cli, "run", lambda *overrides: made(*overrides, *quick))
    rng = np.random.default_rng(1)
    np.savez(folder / "new.npz", x=rng.normal(size=(9, 3, 20)))
    namespace = {}
    exec(python, namespace)
    assert namespace["predicted"].shape == (9,)
    assert namespace["probabilities"].shape == (9, 3)
    for line in shell.splitlines():
        capfd.readouterr()
        assert main(shlex.split(line)[1:]) == 0, line
    assert capfd.readouterr().out == (folder / "predictions.csv").read_text()


def test_the_scorecard_is_that_of_the_last_report_and_not_older_than_the_code_that_it_is_about():
    record = json.loads(reliability.REPORT.read_text())
    names = reliability.figures(record)
    for beginnings in reliability.HEADLINES.values():
        assert not [
            start for start in beginnings if not any(name.startswith(start) for name in names)
        ]
    assert reliability.scorecard(record) in reliability.PAGE.read_text()
    assert reliability.stale(record, reliability.code()) == ""
    # The record is stale once more than a quarter of the code has changed.
    now = {f"orca_cli/storage/{number}.py": "digest" for number in range(8)}
    record = {"tests": {"a": {"attempt": 0, "figures": [{}]}}, "attempts": [{"code": now}]}
    for number, new, is_stale in (
        (2, {}, False),
        (3, {}, True),
        (2, {"orca_cli/storage/new.py": ""}, True),
    ):
        other = dict.fromkeys(list(now)[:number], "other") | new
        assert ("have changed" in reliability.stale(record, now | other)) == is_stale, other
    assert reliability.stale(record | {"attempts": [{}]}, now)


def test_the_examples_of_the_cluster_page_are_shell_and_their_commands_accepted():
    page = (ROOT / "docs" / "cluster.md").read_text()
    scripts = re.findall(r"^```sh\n(.*?)^```$", page, flags=re.S | re.M)
    assert len(scripts) >= 4
    # The page links to these two files.
    kuberay, skypilot = (
        yaml.safe_load((ROOT / "docs" / link).read_text())
        for link in re.findall(r"\((examples/\w+\.yaml)\)", page)
    )
    for text in (*scripts, skypilot["run"]):
        done = subprocess.run(
            ["bash", "-n"], input=text, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), text
    assert (
        kuberay["spec"]["workerGroupSpecs"][0]["template"]
        == kuberay["spec"]["headGroupSpec"]["template"]
    )
    commands_text = page + skypilot["run"]
    lines = re.findall(r"orca (run -m task=digits [^>\n]*?)(?: >|\"$|$)", commands_text, flags=re.M)
    assert {word for line in lines for word in line.split() if word.startswith("-")} >= {
        "--on",
        "--threads",
        "--gpus",
    }
    parser = argparse.ArgumentParser()
    for add in run.ARGUMENTS:
        add(parser)
    for line in lines:
        assert parser.parse_intermixed_args(shlex.split(line)[1:]).multirun
