"""Runs that are killed or stopped, and typed again: the same bits as without."""

import json
import os
import signal

import pytest

from orca_cli import storage
from tests.cli.conftest import results, run_folders
from tests.cli.test_run import wait_for

# Checkpoints after every step, and enough steps to be hit inside an epoch.
OFTEN = ["train.checkpoint_s=0", "train.epochs=4", "align.epochs=6"]


@pytest.fixture(scope="module")
def uninterrupted():
    return {}


@pytest.mark.parametrize(
    ("stage", "pattern"),
    [
        ("align", "digits/*/2_align/checkpoints/step-00000002"),
        ("finetune", "digits/*/3_finetune/checkpoints/step-00000005"),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_resumed_run_has_the_same_bits(orca, fork, environment, small, tmp_path, uninterrupted, stage, pattern, number):
    if not uninterrupted:
        assert orca("run", *small, *OFTEN, "--force")[0] == 0
        uninterrupted.update(results(environment)[0])
        for run in run_folders(environment):  # make way: this run's identity must not be found as completed
            run.rename(environment / f"aside-{run.name}")
    cold = f"paths.cache={tmp_path / 'cold'}"  # where no finished alignment is to be found
    process = fork("run", *small, *OFTEN, cold)
    wait_for(environment, pattern, process)
    process.send(number)
    code, err = process.wait(), process.err
    (run,) = run_folders(environment)
    status = json.loads((run / "status.json").read_text())
    if number == signal.SIGKILL:
        assert status["state"] in ("align", "finetune")
    else:
        assert code == 128 + number
        assert status["state"] == "interrupted"
        assert "rerun the same command" in err
        assert "Traceback" not in err
    assert not (run / "result.json").exists()

    code, out, err = orca("run", *small, *OFTEN, cold)
    assert code == 0, err
    assert "resumed at step" in err
    (result,) = results(environment)
    for key in ("weights_sha256", "error", "validation_error", "metric_value", "splits"):
        assert result[key] == uninterrupted[key], key
    lines = [json.loads(line) for line in (run / "3_finetune" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert not list(run.rglob(".tmp-*"))


@pytest.mark.usefixtures("completed")
def test_an_interrupted_repeat_of_a_completed_run_resumes(orca, fork, environment, small, tmp_path):
    words = ["run", *small, "train.checkpoint_s=0", f"paths.cache={tmp_path / 'cold'}", "--force"]
    (first,) = results(environment)
    process = fork(*words)
    wait_for(environment, "digits/*/3_finetune/checkpoints/step-00000002", process)
    process.send(signal.SIGTERM)
    assert process.wait() == 143
    code, _, err = orca(*words)
    assert code == 0, err
    assert "resumed at step" in err
    assert [result["weights_sha256"] for result in results(environment)] == [first["weights_sha256"]] * 2
    assert orca(*words)[0] == 0  # that repeat is completed: another one
    assert len(results(environment)) == 3


def test_interrupted_sweep_goes_on_where_it_stopped(orca, fork, environment, small):
    sweep = ["run", "-m", *small, *OFTEN, "metric=none", "seed=0,1,2"]
    process = fork(*sweep)
    wait_for(environment, "digits/*_s1_*/3_finetune/checkpoints/step-00000003", process)
    process.send(signal.SIGTERM)
    assert process.wait() == 143
    assert "1 completed, 1 interrupted, 1 not started" in process.out
    code, out, err = orca(*sweep)
    assert code == 0, err
    assert "2 completed, 1 already completed" in out
    assert sorted(result["seed"] for result in results(environment)) == [0, 1, 2]


@pytest.mark.parametrize("late", [False, True], ids=["while it works", "after the last step"])
def test_signal_ends_a_sweep_in_one_process_whenever_it_comes(orca, environment, small, monkeypatch, late):
    """Hydra's own launcher runs all jobs in the process that was called."""
    from orca_cli import experiment, signals

    def stages(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        if not late:
            signals.check()

    monkeypatch.setattr(experiment, "_complete", stages)
    code, out, err = orca("run", "-m", *small, "metric=none", "seed=0,1", "hydra/launcher=basic")
    assert code == 143
    assert "1 not started" in out
    assert err.count("stopped by SIGTERM") == (1 if late else 2)


def test_other_number_of_threads_is_refused_on_resume(orca, start, environment, small, tmp_path):
    cold = f"paths.cache={tmp_path / 'cold'}"
    process = start("run", *small, *OFTEN, cold, more={"OMP_NUM_THREADS": "2"})
    wait_for(environment, "digits/*/2_align/checkpoints/step-00000002", process)
    process.kill()
    process.communicate()
    code, out, err = orca("run", *small, *OFTEN, cold)
    assert code == 22
    assert "set OMP_NUM_THREADS=2" in err
    assert orca("run", *small, *OFTEN, cold, "--allow-inexact-resume")[0] == 0
    assert "threads" in results(environment)[0]["inexact"]
    shared = [path for path in (tmp_path / "cold" / "alignments").iterdir() if path.is_dir()]
    assert not shared  # its bits are no other run's


def test_damaged_alignment_is_done_again(orca, fork, environment, small, capfd):
    process = fork("run", *small, *OFTEN)
    wait_for(environment, "digits/*/3_finetune/checkpoints/step-00000002", process)
    process.kill()
    (run,) = run_folders(environment)
    with open(run / "2_align" / "embedder.safetensors", "r+b") as file:
        file.truncate(100)
    code, out, err = orca("run", *small, *OFTEN)
    assert code == 0, err
    assert "align: damaged, running it again" in err
    assert list((run / "2_align").glob("embedder.safetensors.bad-*"))


def test_two_processes_do_not_share_a_run(fork, environment, small):
    codes = []
    for process in [fork("run", *small, "train.epochs=40") for _ in range(2)]:
        codes.append(process.wait(120))
        assert codes[-1] in (0, 20), process.err
    # The slower one either met the lock, or came after the end and found the run completed.
    assert 0 in codes
    assert len(run_folders(environment)) == 1


def test_changed_data_are_refused_on_resume(orca, fork, environment, small):
    process = fork("run", *small, *OFTEN)
    wait_for(environment, "digits/*/3_finetune/checkpoints/step-00000002", process)
    process.kill()
    (run,) = run_folders(environment)
    path = run / "1_build" / "fingerprint.json"
    began = storage.read_checked_json(path)
    began["values"]["data.train"] = "0" * 64
    storage.write_checked_json(path, {name: began[name] for name in ("schema", "values", "inexact")})
    code, _, err = orca("run", *small, *OFTEN)
    assert code == 22
    assert "data.train" in err
    assert "--force" in err
