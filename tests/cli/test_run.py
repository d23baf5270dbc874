"""Whole runs through the command line on a tiny body."""

import importlib.util
import json
import os
import re

import numpy as np
import pytest
from safetensors.numpy import load_file

from orca_cli.benchmarks.digits import load
from orca_cli.config import compose
from orca_cli.launching import process
from orca_cli.report.collect import collect
from orca_cli.runs import program
from orca_cli.stages.build import build
from orca_cli.terminal import LogReporter
from tests.cli.conftest import curve, results, run_folders

RUN_FILES = {
    "MANIFEST.json", "config.yaml", "env.json", "lock", "overrides.txt", "result.json", "run.log", "status.json",
    "1_build/fingerprint.json", "1_build/summary.json",
    "2_align/MANIFEST.json", "2_align/embedder.safetensors", "2_align/fingerprint.json", "2_align/metrics.jsonl",
    "2_align/summary.json",
    "3_finetune/metrics.jsonl", "3_finetune/predictions.npz", "3_finetune/test_reads.jsonl",
    "3_finetune/best/MANIFEST.json", "3_finetune/best/model.safetensors",
    "3_finetune/last/MANIFEST.json", "3_finetune/last/model.safetensors",
}  # fmt: skip
RESULT_FIELDS = {
    "schema", "run_id", "state", "identity", "settings", "task", "data", "body", "source", "metric", "finetune", "seed",
    "protocol",
    "synthetic", "size", "variant", "error", "validation_error", "trivial_error", "baselines", "comparison", "selected",
    "keep_weights", "decided", "expected_s", "training", "test_reads", "splits", "metric_value", "alignment",
    "curves", "seconds", "trajectory_s", "inexact", "judged", "candidates", "leader", "parameters", "weights_sha256", "program",
}  # fmt: skip


def test_a_run_does_all_stages_and_leaves_its_records(completed, environment):
    for word in ("input 8 x 8", "8 tokens", "before alignment", "validation", "0-1 error"):
        assert word in completed
    (run,) = run_folders(environment)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.\d{6}_minilm_otdd_full_s0_[0-9a-f]{8}", run.name
    )
    assert {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} == RUN_FILES
    (result,) = results(environment)
    assert set(result) == RESULT_FIELDS
    assert result["test_reads"] == 1
    assert [result["splits"][name]["n"] for name in ("train", "val", "test")] == [60, 40, 50]
    assert len({result["splits"][name]["sha256"] for name in ("train", "val", "test")}) == 3
    assert result["metric_value"]["after"] < result["metric_value"]["before"]
    assert json.loads((run / "status.json").read_text())["state"] == "completed"
    # The result has the curves in short.
    for stage, folder in (("align", "2_align"), ("finetune", "3_finetune")):
        epochs = [line["epoch"] for line in curve(run, folder)]
        assert epochs == list(range(epochs[0], epochs[0] + 3)), stage
        assert [line["epoch"] for line in result["curves"][stage]] == epochs, stage
    assert result["validation_error"] == min(line["validation_error"] for line in curve(run))
    # The reported number can be recomputed from the stored outputs.
    stored = np.load(run / "3_finetune" / "predictions.npz")
    assert (stored["outputs"].argmax(1) != stored["targets"]).mean() == pytest.approx(
        result["error"]["value"]
    )
    right = round(50 * (1 - result["error"]["value"]))
    answer = f"{right} of 50 test samples correct ({2 * right:.2f} %)"
    assert answer in completed


def test_a_run_records_what_makes_it_comparable(completed, environment):
    (result,) = results(environment)
    (run,) = collect([environment]).runs
    assert run.facts == {
        "training data": result["splits"]["train"]["sha256"],
        "validation data": result["splits"]["val"]["sha256"],
        "validation samples": result["splits"]["val"]["sha256"],
        "test data": result["splits"]["test"]["sha256"],
        "samples learned": "60",
        "steps": "12",  # three epochs of four batches
        "members": "1",
        "program": program.digest(),
    }
    assert json.loads((run.path / "env.json").read_text())["program"] == result["program"]


def test_a_job_by_another_program_than_its_sweep_is_refused(start, environment, small):
    readable, writable = os.pipe()
    place = ["[1/1]", str(writable), str(os.getpid()), "", "0" * 64]
    job = start("run", *small, process.OPTION, *place, pass_fds=[writable])
    _, err = job.communicate(timeout=120)
    os.close(writable)
    with os.fdopen(readable) as pipe:
        report = pipe.read()
    assert job.returncode == 10, err
    assert (
        "this machine has another version of orca than the machine where the sweep began" in report
    )
    assert not environment.exists()


@pytest.mark.usefixtures("completed")
@pytest.mark.parametrize("more", [[], ["device=cpu", "train.checkpoint_s=7"]], ids=str)
def test_the_same_command_again_runs_nothing(orca, environment, small, more):
    """Settings without effect do not make another run."""
    assert "already completed" in orca("run", *small, *more)[2]
    assert len(run_folders(environment)) == 1


@pytest.mark.usefixtures("completed")
def test_a_skipped_run_has_its_result_and_its_answer(orca, environment, small):
    code, out, err = orca("run", *small, "--json")
    run = json.loads(out)["run"]
    assert (code, run["state"], [run["result"]]) == (0, "skipped", results(environment))
    predictions = run_folders(environment)[0] / "3_finetune" / "predictions.npz"
    targets = np.load(predictions)["targets"]
    assert (
        np.sum(run["answer"]["confusion"], axis=1).tolist()
        == np.bincount(targets, minlength=10).tolist()
    )
    predictions.write_bytes(b"PK damaged")
    code, out, err = orca("run", *small, "--json")
    assert (code, json.loads(out)["run"]["answer"], "cannot be shown" in err) == (0, None, True)


@pytest.mark.usefixtures("completed")
def test_force_repeats_the_bits(orca, environment, small, tmp_path):
    code, out, _ = orca("run", *small, "--force", "--quiet", f"paths.cache={tmp_path / 'cold'}")
    # A quiet run draws no picture.
    assert (code, "0-1 error" in out, "samples correct" in out) == (0, True, False)
    first, second = results(environment)
    for key in ("weights_sha256", "error", "metric_value"):
        assert first[key] == second[key], key


@pytest.fixture
def begins(small):
    """Return a function from overrides to the weights that a run begins with."""

    def call(*words):
        with compose.session() as session:
            model = build(session.compose([*map(str, small), *words]).config, LogReporter()).model
        return {name: tensor.numpy() for name, tensor in model.state_dict().items()}

    return call


BANK = (
    "weight",
    "token_mean",
    "token_deviation",
    "sample_mean",
    "sample_deviation",
)  # of filters, which are fixed


def test_arms_start_from_the_same_weights_and_frozen_ones_stay(run, begins, small):
    """Metric and finetune mode must not matter, except finetune=scratch, whose body is random."""
    words = ["finetune=layernorm", "align.epochs=1", "train.epochs=1", "train.warmup_epochs=0"]
    first, second, scratch = (
        begins("metric=none"),
        begins(*words),
        begins("metric=none", "finetune=scratch"),
    )
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    query = "body.encoder.layer.0.attention.self.query.weight"
    assert not np.array_equal(first[query], scratch[query])
    assert np.array_equal(first["predictor.linear.weight"], scratch["predictor.linear.weight"])
    last = load_file(run(*small, *words).folder / "3_finetune/last/model.safetensors")
    changed = {name for name in last if not np.array_equal(first[name], last[name])}
    expected = {
        name for name in last if "LayerNorm" in name or name.startswith(("predictor.", "embedder."))
    }
    assert changed == expected - {f"embedder.beside.{name}" for name in BANK}


def test_the_scale_of_features_is_that_of_the_training_split(begins):
    """The last features of a sample are the means of its patches, which are single pixels in this test."""
    tensors = begins("embedder=multiscale")
    train = load(train_size=60, validation_size=40, test_size=50).train
    pixels = train.batch(np.arange(60)).x.flatten(1).numpy()
    np.testing.assert_allclose(
        tensors["embedder.beside.sample_mean"][-64:], pixels.mean(0), rtol=1e-4, atol=1e-6
    )
    deviation = pixels.std(0)
    expected = np.where(deviation > 1e-4, deviation, 1.0)
    np.testing.assert_allclose(
        tensors["embedder.beside.sample_deviation"][-64:], expected, rtol=1e-3
    )


def test_a_sweep_runs_every_job_once(orca, environment, small):
    """This is independent of the form of its settings and of failing jobs."""
    sweep = [
        "run",
        "-m",
        *small,
        "metric=none",
        "train.epochs=1",
        "train.lr=1e-3,0.001",
        "seed=0,1",
    ]
    sweep.append("task.train_size=60,9999")
    code, out, err = orca(*sweep)
    assert (code, "sweep of 4 runs: 2 completed, 2 failed" in out) == (3, True), out
    assert re.search(r"task\.train_size=9999.*  failed \(11\)", out)
    assert "9999 for training) add up to more than the" in err
    assert "Traceback" not in err
    states = sorted(
        json.loads((run / "status.json").read_text())["state"] for run in run_folders(environment)
    )
    assert states == ["completed"] * 2 + ["failed"] * 2
    # In the second run, completed jobs are skipped, and each outcome belongs to its own job.
    record = json.loads(orca(*sweep[:-1], "task.train_size=60", "--json")[1])
    assert (record["schema"], [job["state"] for job in record["jobs"]]) == (1, ["skipped"] * 2)
    assert [f"seed={job['result']['seed']}" in job["settings"] for job in record["jobs"]] == [
        True
    ] * 2


@pytest.mark.usefixtures("completed")
@pytest.mark.parametrize(("flags", "would"), [([], "skip"), (["--force"], "run")], ids=str)
def test_a_dry_run_says_whether_a_run_is_repeated(orca, environment, small, flags, would):
    code, out, err = orca("run", "--dry-run", *flags, *small, "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert (plan["jobs"][0]["would"], plan["build"]["num_outputs"]) == (would, 10)
    assert len(run_folders(environment)) == 1


def test_flags_of_a_dry_run_are_typed_in_any_order(orca, environment, small):
    code, out, _ = orca("run", small[0], "-m", *small[1:], "--dry-run", "finetune=glob(*)")
    assert code == 0
    assert all(name in out for name in ("full", "head", "layernorm", "scratch"))
    assert run_folders(environment) == []


def test_own_configuration_folder(run, environment, small, tmp_path):
    folder = tmp_path / "my conf, [1] 'ü' = {a}"
    (folder / "task").mkdir(parents=True)
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 40)
    np.savez(tmp_path / "own.npz", x=rng.normal(size=(80, 3, 11)) + y[:, None, None], y=y)
    (folder / "task" / "own.yaml").write_text(
        "# @package _global_\n# Mine.\ndefaults:\n  - override /body: minilm\n"
        f"task:\n  _target_: orca_cli.data.arrays.load\n  kind: classes\n  train: {tmp_path / 'own.npz'}\n"
    )
    words = [
        "--config-dir",
        folder,
        "task=own",
        "metric=none",
        *(word for word in small if word[:4] != "task"),
    ]
    assert run(*words).result["task"] == "own"
    # The same name with other content is another experiment.
    np.savez(tmp_path / "own.npz", x=rng.normal(size=(80, 3, 11)), y=y)
    assert "already completed" not in run(*words).err
    assert len(results(environment)) == 2


@pytest.mark.usefixtures("completed")
def test_a_run_is_listed_shown_scored_and_removed(orca, environment):
    (run,), (result,) = run_folders(environment), results(environment)
    (listed,) = json.loads(orca("runs", "list", "--where", "train.lr=0.001", "--json")[1])["runs"]
    assert listed["run"] == run.name
    assert "of 50 test samples correct" in orca("runs", "show", run.name)[1]
    record = json.loads(orca("score", run.name[-8:], "--json")[1])
    assert record["error"]["computed"] == record["error"]["recorded"] == result["error"]["value"]
    assert orca("doctor", str(run))[0] == 0
    assert orca("runs", "rm", "--yes", run.name)[0] == 0
    assert not run.exists()


def test_errors_of_records_are_computed_again(orca, run, tiny):
    y = np.arange(30).repeat(3) % 3
    x = np.random.default_rng(0).normal(size=(90, 2, 12)) + y[:, None, None]
    np.savez("own.npz", x=x, y=y, patient=np.arange(30).repeat(3))
    words = [
        "task=arrays",
        "task.kind=classes",
        "task.train=own.npz",
        "task.group=patient",
        "metric=none",
    ]
    words += [
        "task.error={_target_:orca_cli.scoring.classification.MacroF1,by:records}",
        "train.batch_size=16",
    ]
    done = run(*words, f"body.checkpoint={tiny['bert']}", "train.epochs=1")
    assert done.result["error"]["name"] == "1 - macro F1 of records"
    record = json.loads(orca("score", done.folder, "--json")[1])
    assert (record["error"]["computed"], record["missing"]) == (done.result["error"]["value"], [])


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="the extra tensorboard is not installed"
)
def test_tensorboard_has_curves_and_result(orca, completed, environment, small):
    """It changes no bit."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code, _, err = orca("run", *small, "tracker=tensorboard")
    assert (code, "already completed" in err) == (0, True)  # a tracker does not make another run
    code, _, err = orca("run", *small, "tracker=tensorboard", "--force")
    assert code == 0, err
    plain, tracked = results(environment)
    for key in (
        "weights_sha256",
        "error",
        "validation_error",
        "metric_value",
        "identity",
        "variant",
    ):
        assert plain[key] == tracked[key], key
    run = run_folders(environment)[-1]
    events = EventAccumulator(str(run / "tracker"), size_guidance={"scalars": 0})
    events.Reload()
    for stage, folder in (("align", "2_align"), ("finetune", "3_finetune")):
        lines = curve(run, folder)
        for name in {name for line in lines for name in line} - {"epoch", "seconds"}:
            points = {event.step: event.value for event in events.Scalars(f"{stage}/{name}")}
            known = {line["epoch"]: line[name] for line in lines if line.get(name) is not None}
            assert points == pytest.approx(known, rel=1e-6)
    (error,) = events.Scalars("final/test_error")
    assert error.value == pytest.approx(tracked["error"]["value"])
    assert not [
        name
        for name in json.loads((run / "MANIFEST.json").read_text())["files"]
        if "tracker" in name
    ]
    next((run / "tracker").iterdir()).write_bytes(b"")
    assert orca("doctor", str(run))[0] == 0  # it does not decide the state of the run


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("tracker=wandb tracker.api_key=hunter2", "tracker.api_key"),
        ("tracker=mlflow tracker.uri='https://me:hunter2@host'", "tracker.uri"),
        ("+tracker.list=[hf_hunter2aaaaaaaaaaaaaaaa]", "tracker.list.0"),
    ],
)
def test_a_secret_in_the_settings_is_not_written(orca, environment, small, line, where):
    code, out, err = orca("run", *small, *line.split())
    assert code == 10
    assert f"orca: error: {where}: " in err
    assert "environment variable" in err
    assert "hunter2" not in out + err
    assert not environment.exists() or not list(environment.rglob("*.yaml"))
