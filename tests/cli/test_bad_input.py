"""What users get wrong: one line that names the key or the file and what to do, the right exit code, nothing half-written."""

import numpy as np
import pytest

from orca_cli.config import compose
from tests.checkpoints import save_tiny
from tests.cli.conftest import run_folders

ARRAYS = ["task=arrays", "task.kind=classes", "train.epochs=1", "align.epochs=1", "train.batch_size=8", "metric=none"]


# What is typed after `orca run` -> what the line has to contain; more is in tests/reliability/test_configs.py.
SETTINGS = {
    "task=digit": ["task", "did you mean 'digits'?"],
    "train.class_weights=[1,-2]": ["train.class_weights[1]", "-2 is out of range", "at least 0"],
    "train.positive_weight=balanced": ["train.positive_weight: does not apply to task.kind=classes", "class_weights"],
    "task.error=f1": ["task.error", "'f1'", "macro_f1", "task.kind=classes"],
    "train.epochs": ["'train.epochs' is not an override"],
    "task.train=j\u00fcrgen.npz": ["is not an override", "in quotes"],
    "=1": ["no such setting"],
    "~finetune": ["finetune", "one choice is needed"],
    "train.lr=${oc.env:ORCA_NO_SUCH}": ["train.lr", "ORCA_NO_SUCH"],
    "-m finetune=glob(zzz*)": ["no choice fits"],
    "task=arrays task.kind=classes": ["task.train", "a value is needed"],
    "body._target_=os.system": ["body._target_", "--allow-module os"],
    # Before the data are read.
    "task=arrays task.kind=dense task.train=absent.npz augment=series": ["augment", "task.kind=dense"],
    "study=alignment": ["add -m"],
    "--config-dir nowhere": ["nowhere"],
    "-m hydra/launcher=joblib seed=0,1": ["hydra/launcher", "is not for the command line", "--on"],
    # In one job of a sweep, before the first.
    "-m task=digits train.epochs=1,abc": ["train.epochs"],
}


def test_bad_settings(refused, environment):
    for line, texts in SETTINGS.items():
        refused(12 if "os.system" in line else 10, ["run", *line.split()], *texts)
    assert not environment.exists()


USAGE = {
    "rum": "did you mean 'run'?",
    "run --dryrun": "--dryrun",
    "run seed=0,1": "add -m",
    "run --at-once 2": "--at-once: applies only to sweeps; add -m",
    "run -m --at-once 0 seed=0,1": "--at-once: 0 is out of range; allowed: 1 or more",
    "run -m --time-limit soon seed=0,1": "--time-limit: 'soon' is not a time; such as 90s, 30m, 8h or 2d",
    "run -m --gpus 2 seed=0,1": "--gpus: 2 is out of range; allowed: 0 to 1; several GPUs for one run: torchrun",
}


def test_usage(refused, environment):
    for line, message in USAGE.items():
        refused(2, line.split(), message)
    assert not environment.exists()


SWIN = ["body=swin_tiny", "source=digits", "task.layout=image", "body.checkpoint={swin}"]
# name -> (code, overrides beside a small run, words of the line): seen when the parts are there, or when they are built.
BUILT = {
    "absent device": (14, ["device=cuda:7"], ["device", "device=cpu"]),
    "no such device": (10, ["device=gpu"], ["device", "auto, cpu, cuda"]),
    "a source of texts": (10, ["body=auto", "body.checkpoint={hubert}"], ["the body takes audio", "tones for audio"]),
    "a prompt of windows": (10, [*SWIN, "finetune=prompt"], ["attends by windows", "finetune=visual_prompt"]),
    "a file in the way": (30, ["paths.runs={file}"], ["file stands where a folder"]),
    "a closed test split": (10, ["test=false", "train.validate_on=test"], ["train.validate_on"]),
}


@pytest.fixture
def small_run(small, tiny, tmp_path):
    """Return a function from overrides to the command line of a small run; braces in them name checkpoints."""
    (tmp_path / "file").write_text("")

    def words(*more):
        places = tiny | {"file": tmp_path / "file"}
        if "body=auto" in more:
            places["hubert"] = save_tiny("hubert", tmp_path / "hubert")
        return ["run", *small, *(text.format(**places) for text in more)]

    return words


@pytest.mark.parametrize("name", BUILT)
def test_what_does_not_go_together(refused, small_run, name):
    code, overrides, texts = BUILT[name]
    refused(code, small_run(*overrides), *texts)


def test_an_engine_that_is_missing(fork, small_run):
    for name, extra in (("ray", "ray"), ("submitit", "slurm")):
        case = fork(*small_run("-m", "seed=0,1", "--on", extra), hook=f"tests.reliability.job_faults:without:{name}")
        assert case.wait(60) == 14, case.err
        assert f"orca: error: --on {extra}: " in case.err
        assert f"pip install 'orca-transfer[{extra}]'" in case.err


def test_module_of_ones_own_that_cannot_be_imported(refused, tmp_path, monkeypatch):
    (tmp_path / "broken_part.py").write_text("x = 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = ["run", "--allow-module", "broken_part", "task._target_=broken_part.f"]
    refused(10, words, "task._target_", "'broken_part' cannot be imported")


def test_unexpected_failure_outside_a_run_is_one_line(refused, monkeypatch):
    def fail(*words, **more):
        raise RuntimeError("surprise")

    monkeypatch.setattr(compose, "session", fail)
    refused(1, ["run", "--dry-run"], "unexpected RuntimeError: surprise", "--traceback")


@pytest.fixture
def array_words(tiny, tmp_path):
    """Return a function that writes arrays to a file and returns the command line of a small run on it."""

    def words(*more, **arrays):
        rng = np.random.default_rng(0)
        content = {"x": rng.normal(size=(60, 3, 9)).astype(np.float32), "y": np.arange(60) % 3} | arrays
        np.savez(tmp_path / "own.npz", **content)
        train = f"task.train={tmp_path / 'own.npz'}"
        return ["run", *ARRAYS, f"body.checkpoint={tiny['bert']}", train, *more]

    return words


MAPS, NAMES = np.zeros((60, 1, 9)) + np.arange(9), np.array(["a", "b", "c"])[np.arange(60) % 3]
SEQUENCE = ["metric=otdd", "align.features=sequence", "source.size=160"]
# name -> (code, arrays, overrides, words); what else may be wrong with arrays is in tests/tasks/test_bad_arrays.py
BAD_DATA = {
    "nan": (11, {"x": np.full((60, 3, 9), np.nan)}, [], ["own.npz", "channel 0, 1, 2 has no known value"]),
    "objects": (12, {"x": np.array([{}] * 60, dtype=object)}, [], ["own.npz[x]: an array of Python objects"]),
    "weights": (10, {"y": NAMES}, ["train.class_weights=[1,2]"], ["2 weights, but 3 outputs", "in their order"]),
    "series flipped": (10, {"y": MAPS}, ["task.kind=dense", "augment=flip", "--dry-run"], ["inputs are series"]),
    "whole sequences": (
        10,
        {"lengths": 3 + np.arange(60) % 6},
        SEQUENCE,
        ["align.features=sequence: of some class no sample has all", "align.features=tokens"],
    ),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_of_ones_own(refused, environment, array_words, name):
    code, arrays, overrides, words = BAD_DATA[name]
    refused(code, array_words(*overrides, **arrays), *words)
    assert not list(environment.rglob("result.json"))


def test_too_large_a_learning_rate_stops_before_the_step(refused, environment, small_run):
    refused(32, small_run("metric=none", "train.lr=1e30", "train.warmup_epochs=0"), "train.lr", "smaller")
    (run,) = run_folders(environment)
    assert '"failed"' in (run / "status.json").read_text()
