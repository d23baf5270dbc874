"""What users get wrong: one line that names the key or the file and what to do, the right exit code, nothing half-written."""

import subprocess
import sys

import numpy as np
import pytest

from tests.cli.conftest import ROOT, run_folders

ARRAYS = ["task=arrays", "task.kind=classes", "train.epochs=1", "align.epochs=1", "train.batch_size=8", "metric=none"]


def refused(result, code, *words):
    """Assert that a call ended with one line that says all of `words`."""
    actual, out, err = result
    lines = [line for line in err.splitlines() if line.startswith("orca: error:")]
    assert actual == code, err
    assert len(lines) == 1, err
    assert "Traceback" not in err
    for word in words:
        assert word in lines[0], lines[0]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task=digit"], ["task", "did you mean 'digits'?"]),
        (["body=minilmm"], ["body", "did you mean 'minilm'?"]),
        (["metric=xyz"], ["metric", "allowed:", "otdd"]),
        (["finetune=ful"], ["did you mean 'full'?"]),
        (["hparams=nothing"], ["hparams", "allowed:"]),
        (["seeed=1"], ["seeed", "did you mean 'seed'?"]),
        (["train.epoch=3"], ["train.epoch", "did you mean 'epochs'?"]),
        (["trian.epochs=3"], ["did you mean 'train'?"]),
        (["task.train_siz=3"], ["task.train_siz", "did you mean 'train_size'?"]),
        (["+task.foo=3"], ["task.foo", "no parameter 'foo'"]),
        (["+foo=3"], ["foo"]),
        (["train.epochs=abc"], ["train.epochs", "abc"]),
        (["train.epochs=0"], ["train.epochs", "out of range", "at least 1"]),
        (["train.lr=0"], ["train.lr", "above 0"]),
        (["train.lr=nan"], ["train.lr"]),
        (["train.lr=-1e-3"], ["train.lr", "above 0"]),
        (["train.epochs=[1]"], ["train.epochs"]),
        (["train.optimizer=adamv"], ["train.optimizer", "adamw"]),
        (["train.class_weights=balance"], ["train.class_weights", "did you mean 'balanced'?"]),
        (["train.class_weights=[1,-2]"], ["train.class_weights[1]", "-2 is out of range", "at least 0"]),
        (["train.class_weights=3"], ["train.class_weights", "3 is of the wrong type", "balanced or list of float"]),
        (
            ["train.positive_weight=balanced"],
            ["train.positive_weight: does not apply to task.kind=classes", "class_weights"],
        ),
        (["task.error=f1"], ["task.error", "'f1'", "macro_f1", "task.kind=classes"]),
        (["task.loss=mse"], ["task.loss", "allowed: cross_entropy"]),
        (["task.error=3"], ["task.error", "3 is not a `_target_` node"]),
        (["train.betas=[0.9]"], ["train.betas", "[float, float]", "at least 0 and below 1"]),
        (["precision=fp8"], ["precision", "fp32, bf16, fp16"]),
        (["protocol=paperr"], ["protocol", "did you mean 'paper'?"]),
        (["embedder.init=zero"], ["embedder.init", "pretrained, random"]),
        (["train.epochs"], ["'train.epochs' is not an override"]),
        (["align.method=mona", "train.compile=true"], ["align.method=mona", "leave train.compile out"]),
        (["task.train=jürgen.npz"], ["is not an override", "in quotes"]),
        (["=1"], ["no such setting"]),
        (["metric=null"], ["metric", "one choice is needed"]),
        (["metric=[otdd,none]"], ["metric", "one choice is needed"]),
        (["~finetune"], ["finetune", "one choice is needed"]),
        (["~task"], ["task", "one choice is needed"]),
        (["~train"], ["train", "cannot be left out"]),
        (["train.lr=${nothing}"], ["train.lr", "'nothing' not found"]),
        (["train.lr=${oc.env:ORCA_NO_SUCH}"], ["train.lr", "ORCA_NO_SUCH"]),
        (["train.epochs=${train.epochs}"], ["train.epochs", "Recursive"]),
        (["-m", "finetune=glob(zzz*)"], ["no choice fits"]),
        (["metric=otdd", "metric.reg=abc"], ["metric.reg", "'abc' is of the wrong type", "allowed: float"]),
        (["metric=otdd", "metric.reg=-1"], ["metric.reg", "above 0"]),
        (["task.train_size=many"], ["task.train_size", "allowed: int at least 1 or null"]),
        (["task.split_seed=true"], ["task.split_seed", "allowed: int"]),
        (["source.size=30.5"], ["source.size", "allowed: int"]),
        (["body.checkpoint=3"], ["body.checkpoint", "allowed: str"]),
        (["task=arrays", "task.kind=classes"], ["task.train", "a value is needed"]),
        (["body._target_=os.system"], ["body._target_", "--allow-module os"]),
        (["metric._target_=orca_cli.metrics.otdd.OTD"], ["metric._target_", "has no 'OTD'"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_bad_settings(orca, environment, overrides, words):
    code = 12 if "os.system" in overrides[0] else 10
    refused(orca("run", *overrides), code, *words)
    assert not environment.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task:\n\tkind: classes\n", ["mine.yaml:2"]),
        ("kind: classes\nkind: dense\n", ["mine.yaml:2", "duplicate key kind"]),
        ("kind: [classes\n", ["mine.yaml"]),
        ("- kind\n", ["mine.yaml", "key: value"]),
        ("a: !!python/object/apply:os.getcwd []\n", ["mine.yaml"]),
        ("k\xfcnd: x\n".encode("latin-1"), ["mine.yaml"]),
        ("defaults: 5\n", ["task/mine", "must be a list"]),
        ("_target_: orca_cli.tasks.digits.load\n1: 2\n", ["task.1", "no parameter"]),
        ("_target_: orca_cli.metrics.otdd.OTDD\n", ["task._target_", "not a task's data"]),
    ],
)
def test_bad_configuration_file_of_ones_own(orca, tmp_path, text, words):
    path = tmp_path / "my_conf" / "task" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    code = 12 if "!!python" in str(text) else 10
    refused(orca("run", "--dry-run", "--config-dir", tmp_path / "my_conf", "task=mine"), code, *words)


@pytest.mark.parametrize("text", ["x = 1 / 0\n", "def f(:\n", "from orca_cli import nothing_there\n"])
def test_module_of_ones_own_that_cannot_be_imported(orca, tmp_path, monkeypatch, text):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "broken_part.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    called = orca("run", "--allow-module", "broken_part", "task._target_=broken_part.f")
    refused(called, 10, "task._target_", "'broken_part' cannot be imported")


def test_unexpected_failure_outside_a_run_is_one_line(orca, monkeypatch):
    def fail(*words):
        raise RuntimeError("surprise")

    monkeypatch.setattr("orca_cli.compose.sessions.choices", fail)
    refused(orca("run", "--dry-run"), 1, "unexpected RuntimeError: surprise", "--traceback")


def test_bad_setting_in_one_job_is_told_before_the_first(orca, environment):
    refused(orca("run", "-m", "task=digits", "train.epochs=1,abc"), 10, "train.epochs")
    refused(orca("run", "-m", "metric=none,otd"), 10, "did you mean 'otdd'?")
    assert not environment.exists()


def test_usage(orca):
    refused(orca("rum"), 2, "did you mean 'run'?")
    refused(orca("run", "--dryrun"), 2, "--dryrun", "orca run --help")
    refused(orca("run", "seed=0,1"), 2, "add -m")


def test_absent_devices(orca, small):
    refused(orca("run", *small, "device=cuda:7"), 14, "device", "device=cpu")
    refused(orca("run", *small, "device=gpu"), 10, "device", "auto, cpu, cuda")


def test_missing_checkpoint_and_wrong_family(orca, small, tiny):
    refused(orca("run", *small[2:], "body.checkpoint=./nowhere"), 10, "body.checkpoint", "nowhere")
    refused(orca("run", *small[2:], f"body.checkpoint={tiny['swin']}"), 10, "swin", "bert or roberta")


def test_source_of_another_modality(orca, small):
    refused(orca("run", *small, "source=digits", "source.size=100"), 10, "source", "source=stdlib_docs")


def test_more_tokens_than_the_body_takes(orca, small):
    refused(orca("run", *small, "embedder.max_tokens=1000"), 10, "embedder.max_tokens", "1 to 64")


def test_metric_that_needs_several_classes(orca, small):
    one = "align.classes_per_problem=1"
    refused(orca("run", *small, "metric=transrate", one), 10, "align.classes_per_problem", "=0")
    assert orca("run", *small, "metric=transrate", "align.lr=1e-3")[0] == 0


def test_missing_configuration_folder(orca):
    refused(orca("run", "--config-dir", "nowhere"), 10, "nowhere")


def arrays(path, **changes):
    rng = np.random.default_rng(0)
    content = {"x": rng.normal(size=(60, 3, 9)).astype(np.float32), "y": np.arange(60) % 3} | changes
    np.savez(path, **content)
    return path


def one(value, shape=(60, 3, 9)):
    x = np.zeros(shape, np.float32)
    x[7, 1, 2] = value
    return x


BAD_ARRAYS = {
    "nan": ({"x": np.full((60, 3, 9), np.nan)}, ["x", "channel 0, 1, 2 has no known value"]),
    "inf": ({"x": one(np.inf)}, ["x", "7"]),
    "one_class_only": ({"y": np.zeros(60, int)}, ["two classes or more"]),
    "wrong_rank": ({"x": np.zeros((60, 2, 3, 4, 5, 6), np.float32)}, ["x", "(60, 2, 3, 4, 5, 6)"]),
    "wrong_length": ({"y": np.arange(59) % 3}, ["59", "60"]),
    "text_input": ({"x": np.array(["a"] * 60)}, ["x"]),
    "complex_input": ({"x": np.zeros((60, 3, 9), complex)}, ["x", "complex"]),
    "negative_labels": ({"y": np.arange(60) % 3 - 1.5}, ["y"]),
    "empty": ({"x": np.zeros((0, 3, 9), np.float32), "y": np.zeros(0, int)}, ["x"]),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays(orca, environment, tiny, tmp_path, name):
    changes, words = BAD_ARRAYS[name]
    path = arrays(tmp_path / "own.npz", **changes)
    result = orca("run", *ARRAYS, f"body.checkpoint={tiny['bert']}", f"task.train={path}")
    refused(result, 11, "own.npz", *words)


def test_labels_out_of_range_and_missing_classes(orca, tiny, tmp_path):
    path = arrays(tmp_path / "own.npz")
    common = ["run", *ARRAYS, f"body.checkpoint={tiny['bert']}", f"task.train={path}"]
    refused(orca(*common, "task.num_classes=2"), 11, "own.npz", "2")
    refused(orca(*common, "task.num_classes=5"), 11, "own.npz", "3")


def test_missing_file_and_pickled_file(orca, tiny, tmp_path):
    common = ["run", *ARRAYS, f"body.checkpoint={tiny['bert']}"]
    refused(orca(*common, "task.train=nowhere.npz"), 11, "nowhere.npz")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused(orca(*common, f"task.train={tmp_path / 'objects.npy'}"), 12, "objects.npy")


def test_unwritable_run_folder(orca, small, tmp_path):
    (tmp_path / "file").write_text("")
    refused(orca("run", *small, f"paths.runs={tmp_path / 'file'}"), 30, "file stands where a folder")


def test_too_large_a_learning_rate_stops_before_the_step(orca, environment, small):
    result = orca("run", *small, "metric=none", "train.lr=1e30", "train.warmup_epochs=0")
    refused(result, 32, "train.lr", "smaller")
    (run,) = run_folders(environment)
    assert '"failed"' in (run / "status.json").read_text()


def test_full_disk(fork, environment, small):
    """A limit on file size fails the first large write as a full disk does."""
    process = fork("run", *small, "metric=none", "finetune=full", limits={"RLIMIT_FSIZE": 60_000})
    refused((process.wait(120), process.out, process.err), 30, "no space left", "free some space")
    assert not [path for path in environment.rglob("*") if path.name.startswith(".tmp-")]
    assert not list(environment.rglob("result.json"))


def test_traceback_only_where_asked_for(orca, small):
    _, _, err = orca("run", *small, "embedder.max_tokens=1000", "--traceback")
    assert "Traceback" in err


def test_closed_pipe_is_no_error():
    command = f"{sys.executable} -m orca_cli list settings | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in done.stderr
