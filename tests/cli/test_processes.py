"""One run by several processes on CPUs, over gloo, as torchrun and accelerate launch start them."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from orca_cli import storage
from tests.checkpoints import save_tiny_bert
from tests.cli.conftest import ROOT, curve, results, run_folders, wait_for, without_baselines

UNEVEN = [
    "task.validation_size=33",
    "task.test_size=45",
    "train.eval_batch_size=7",
    "task.train_size=59",
]
CLOSE = {"rel": 2e-5, "abs": 1e-7}  # float32 sums in another order, over a dozen steps
AT_STEP = "digits/*/3_finetune/checkpoints/step-00000001"


def ended(cases):
    return [case.wait(240) for case in cases]


@pytest.fixture(scope="session")
def still(tmp_path_factory):
    """A body without dropout, whose steps do not depend on how batches are cut."""
    folder = tmp_path_factory.mktemp("still")
    return save_tiny_bert(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@pytest.fixture
def together(fork):
    """Start N forks of the command line as the processes of one run; returns them."""

    def call(*words, size=2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        places = {
            "WORLD_SIZE": size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "LOCAL_WORLD_SIZE": size,
        }
        shared = {name: str(value) for name, value in places.items()}
        more = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
        return [fork(*words, more=variables) for variables in more]

    return call


@pytest.mark.slow
def test_two_processes_give_the_run_of_one(fork, together, environment, small, still, tmp_path):
    """Sizes of splits and last batches are not divisible by two.

    Both forms of a step are tested: with and without a count of known targets.
    """
    words = [
        "run", *small, f"body.checkpoint={still}", *UNEVEN, "train.members=2", "train.epochs=2",
    ]  # fmt: skip
    alone = fork(*words, f"paths.runs={tmp_path / 'one'}")
    pair = together(*words)
    assert ended([alone, *pair]) == [0, 0, 0], pair[0].err
    (one,), (two,) = run_folders(tmp_path / "one"), run_folders(environment)
    for line, other in zip(curve(one), curve(two), strict=True):
        assert other == {key: pytest.approx(value, **CLOSE) for key, value in line.items()}
    (first,), (second,) = results(tmp_path / "one"), results(environment)
    for key in ("error", "validation_error", "trivial_error", "splits", "selected", "test_reads"):
        assert first[key] == second[key], key
    assert second["training"]["processes"] == 2
    assert "0-1 error" in pair[0].out
    assert (pair[1].out, pair[1].err) == ("", "")
    repeated = together(*words)
    assert ended(repeated) == [0, 0]
    assert "already completed" in repeated[0].err


@pytest.mark.slow
def test_a_signal_to_any_process_ends_all_and_the_run_resumes(
    fork, together, environment, small, still, tmp_path
):
    words = [
        "run", *small, *UNEVEN, f"body.checkpoint={still}", "metric=none", "train.epochs=4",
        "train.checkpoint_s=0",
    ]  # fmt: skip
    whole = together(*words, f"paths.runs={tmp_path / 'whole'}")
    assert ended(whole) == [0, 0], whole[0].err
    pair = together(*words)
    wait_for(environment, AT_STEP, pair[0])
    os.kill(pair[1].pid, signal.SIGTERM)
    assert ended(pair) == [143, 143], pair[0].err
    assert "stopped by SIGTERM" in pair[0].err
    (folder,) = run_folders(environment)
    assert json.loads((folder / "status.json").read_text())["state"] == "interrupted"
    single = fork(*words)
    assert single.wait(120) == 22  # one process has other bits
    assert "processes (2, now nothing)" in single.err
    again = together(*words)
    assert ended(again) == [0, 0], again[0].err
    assert "resumed at step" in again[0].err
    (one,), (two,) = run_folders(tmp_path / "whole"), run_folders(environment)
    assert curve(one) == curve(two)
    (first,), (second,) = results(tmp_path / "whole"), results(environment)
    assert first["weights_sha256"] == second["weights_sha256"]


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run(together, environment, small, still):
    words = [
        "run", *small, f"body.checkpoint={still}", "metric=none", "train.epochs=100",
        "train.checkpoint_s=0",
    ]  # fmt: skip
    pair = together(*words)
    wait_for(environment, AT_STEP, pair[0])
    os.kill(pair[1].pid, signal.SIGKILL)
    assert pair[0].wait(60) == 1
    (folder,) = run_folders(environment)
    for path in (folder / "3_finetune" / "checkpoints").glob("step-*"):
        storage.verify_folder(path)
    assert (
        pair[0].err.count("another process of this run has ended; rerun the same command to resume")
        == 1
    )


@pytest.mark.parametrize("words", [["run", "-m", "seed=0,1"], ["report"]], ids=["sweep", "report"])
def test_work_of_one_process_is_refused_to_several(together, environment, words):
    leader, _ = together(*words)
    assert leader.wait(60) == 2
    assert leader.err.count("\n") == 1
    assert "without torchrun" in leader.err


@pytest.mark.slow
def test_accelerate_launch_starts_one_run(environment, small, still):
    """The processes are started by torchrun, which the program calls."""
    words = without_baselines(
        ["run", *small, f"body.checkpoint={still}", "metric=none", "device=cpu", *UNEVEN]
    )
    start = (
        "--multi_gpu --num_processes=2 --num_machines=1 --mixed_precision=no --dynamo_backend=no"
    )
    command = [
        sys.executable, "-m", "accelerate.commands.launch", *start.split(), "-m", "orca_cli",
        *words,
    ]  # fmt: skip
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    (record,) = results(environment)
    assert record["training"]["processes"] == 2
    assert done.stdout.count("test        0-1 error") == 1
