import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from orca_cli.cli import main
from tests.checkpoints import save_tiny_bert, save_tiny_swin, save_tiny_vit
from tests.forked import Case

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Caches, shared by all runs of the session as on a user's machine."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        "bert": save_tiny_bert(root / "bert"),
        # Dropout of attention weights takes most of a step's time and memory on a CPU at this length.
        "long": save_tiny_bert(
            root / "long", max_position_embeddings=512, attention_probs_dropout_prob=0.0
        ),
        "hungry": save_tiny_bert(root / "hungry", max_position_embeddings=512),
        "swin": save_tiny_swin(root / "swin"),
        "vit": save_tiny_vit(root / "vit"),
    }


@pytest.fixture(scope="session")
def small(tiny):
    """Overrides with which a run of `digits` takes seconds: the real stages on a tiny body."""
    return [
        "task=digits", f"body.checkpoint={tiny['bert']}", "task.train_size=60",
        "task.validation_size=40", "task.test_size=50", "source.size=160", "align.epochs=3",
        "align.source_points=200", "align.max_samples=16", "train.epochs=3",
        "train.warmup_epochs=1", "train.batch_size=16", "train.lr=1e-3", "train.select=best",
        "train.select_by=error",
    ]  # fmt: skip


@pytest.fixture
def environment(home, tmp_path, monkeypatch):
    """Runs of each test go into a separate folder; returns that folder."""
    runs = tmp_path / "runs"
    monkeypatch.setenv("ORCA_RUNS", str(runs))
    monkeypatch.setenv("ORCA_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    return runs


@pytest.fixture
def orca(environment, capfd, fork):
    """Call the command line in this process; returns (exit code, standard output, standard error).

    The program's own launcher forks for a sweep. This process has computed too much for that, so the sweep is itself a fork.
    """

    def call(*words):
        words = without_baselines(words)
        is_sweep = {"-m", "--multirun"} & set(words) and "--dry-run" not in words
        if is_sweep:
            process = fork(*words)
            return process.wait(300), process.out, process.err
        code = main(words)
        out, err = capfd.readouterr()
        return code, out, err

    return call


@dataclass(frozen=True)
class Done:
    """A successful run: its folder, its record and its output."""

    folder: Path
    result: dict
    out: str
    err: str


@pytest.fixture
def run(orca, environment):
    """Call `orca run`, which must succeed; returns the newest run, which belongs to this call if the call made a run."""

    def call(*words):
        code, out, err = orca("run", *words)
        assert code == 0, err
        path = max(
            environment.glob("*/*/result.json"), key=lambda path: path.parent.name
        )  # names begin with the time
        return Done(path.parent, json.loads(path.read_text()), out, err)

    return call


@pytest.fixture
def refused(orca):
    """Assert that a call fails with a code and one error line that contains some texts; returns standard output."""

    def call(code, words, *texts):
        exit_code, out, err = orca(*words)
        assert exit_code == code, err
        lines = [line for line in err.splitlines() if line.startswith("orca: error: ")]
        assert len(lines) == 1, err
        assert "Traceback" not in err
        for text in texts:
            assert text in lines[0], lines[0]
        return out

    return call


@pytest.fixture
def stopped(fork, environment):
    """Send `orca run` a signal as soon as a path exists below the folder of runs; returns (exit code, standard error)."""

    def call(*words, at, number=signal.SIGKILL):
        process = fork("run", *words)
        wait_for(environment, at, process)
        process.send(number)
        code = process.wait()
        assert not results(environment)
        return code, process.err

    return call


@pytest.fixture
def fork(fork_server, environment):
    """Start the command line in a fork: `fork(*words, more={}, hook="", limits={})` returns a `Case`; see tests/forked.py."""
    started = []

    def call(*words, **settings):
        started.append(fork_server.start(without_baselines(words), **settings))
        return started[-1]

    yield call
    for case in started:
        case.kill()


@pytest.fixture(scope="session")
def completed_once(fork_server, home, small, tmp_path_factory):
    """A run of `small`, for all tests that only read it: (folder of runs, standard output)."""
    runs = tmp_path_factory.mktemp("completed")
    case = fork_server.start(
        without_baselines(["run", *small]),
        more={"ORCA_RUNS": str(runs), "ORCA_HOME": str(home), "COLUMNS": "100"},
    )
    assert case.wait(120) == 0, case.err
    return runs, case.out


@pytest.fixture
def completed(completed_once, environment):
    """A copy of that run, in this test's folder; returns its standard output."""
    shutil.copytree(completed_once[0], environment)
    return completed_once[1]


@pytest.fixture
def start(environment):
    """Start the command line in a new interpreter, for tests of the start and of the settings that are read at the start."""

    def call(*words, more=MappingProxyType({}), **settings):
        variables = os.environ | {"PYTHONPATH": str(ROOT)} | more
        command = [sys.executable, "-m", "orca_cli", *without_baselines(words)]
        return subprocess.Popen(
            command,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **settings,
        )

    return call


def without_baselines(words) -> list[str]:
    """Return a command line whose runs compute no baselines, unless it says otherwise: each would start two processes."""
    texts = [str(word) for word in words]
    is_run = texts[:1] == ["run"] and not any(text.startswith("baselines=") for text in texts)
    return [*texts, "baselines=none"] if is_run else texts


def has_reached(path, pattern):
    """Return whether a path exists; "step-N" at the end means N or more, since older checkpoints are dropped."""
    parent, _, name = pattern.rpartition("/")
    if not name.startswith("step-"):
        return bool(list(path.glob(pattern)))
    return any(folder.name >= name for folder in path.glob(f"{parent}/step-{'[0-9]' * 8}"))


def wait_for(path, pattern, process, timeout=180):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        if has_reached(path, pattern):
            return
        time.sleep(0.02)
    output = process.err if isinstance(process, Case) else process.communicate()
    raise AssertionError(f"{pattern} did not appear: {output}")


def put_aside(runs: Path) -> dict:
    """Move the only run aside, so that its identity is not found as completed; returns its record."""
    ((result,), (folder,)) = results(runs), run_folders(runs)
    folder.rename(runs / f"aside-{folder.name}")
    return result


def curve(run: Path, stage: str = "3_finetune") -> list[dict]:
    """Return the lines that a stage of a run has recorded."""
    return [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text().splitlines()]


def outputs(run: Path) -> np.ndarray:
    """Return a run's outputs for its test split."""
    return np.load(run / "3_finetune" / "predictions.npz")["outputs"]


def results(runs: Path) -> list[dict]:
    """Return all result records, by time."""
    return [json.loads(path.read_text()) for path in sorted(runs.glob("*/*/result.json"))]


def run_folders(runs: Path) -> list[Path]:
    """Return all run folders, by time."""
    return sorted(path.parent for path in runs.glob("*/*/status.json"))
