"""Mistakes of users: a line that says where and what to do, and no half-written files."""

import numpy as np
import pytest

from orca_cli.config import compose

# Words after `orca run` -> texts of the error; more are in tests/reliability/test_configs.py.
SETTINGS = {
    "train.positive_weight=balanced": [
        "train.positive_weight: does not apply to task.kind=classes",
        "class_weights",
    ],
    "train.epochs": ["'train.epochs' is not a valid setting"],
    "task.train=j\u00fcrgen.npz": ["is not a valid setting", "in quotes"],
    "~finetune": ["finetune", "needs exactly one choice"],
    "train.lr=${oc.env:ORCA_NO_SUCH}": ["train.lr", "calls an OmegaConf resolver"],
    "task=arrays task.kind=classes": ["task.train", "needs a value"],
    "body._target_=os.system": ["body._target_", "--allow-module os"],
    "augment=series": ["unknown setting 'augment'"],
    "study=alignment": ["add -m"],
    "--config-dir nowhere": ["nowhere"],
    "-m hydra/launcher=joblib seed=0,1": [
        "hydra/launcher",
        "cannot be set on the command line",
        "--on",
    ],
}


@pytest.mark.parametrize("line", SETTINGS)
def test_bad_settings(refused, environment, line):
    code = 12 if "os.system" in line else 10
    refused(code, ["run", *line.split()], *SETTINGS[line])
    assert not environment.exists()


USAGE = {
    "rum": "did you mean 'run'?",
    "run seed=0,1": "add -m (orca run -m ...)",
    "run --at-once 2": "--at-once: applies only to sweeps; add -m",
    "run -m --time-limit soon seed=0,1": "--time-limit: must be a time such as 90s, 30m, 8h or 2d, got 'soon'",
    "run -m --gpus 2 seed=0,1": "--gpus: must be between 0 and 1, got 2; use torchrun for several GPUs per run",
}


@pytest.mark.parametrize("line", USAGE)
def test_usage(refused, environment, line):
    refused(2, line.split(), USAGE[line])
    assert not environment.exists()


SWIN = ["body=swin_tiny", "task.layout=image"]


@pytest.mark.parametrize(
    ("overrides", "texts"),
    [
        (
            [*SWIN, "source=stdlib_docs"],
            ["the body needs image", "source=cifar10 or source=digits for image"],
        ),
        (
            [*SWIN, "source=digits", "finetune=prompt"],
            ["accepts no prompt tokens before", "body=vit"],
        ),
        (["test=false", "train.validate_on=test"], ["train.validate_on"]),
    ],
    ids=["body and source", "body and finetune", "validation and test"],
)
def test_settings_that_contradict_each_other(refused, small, tiny, overrides, texts):
    """The error is raised when the parts are found, or when they are built."""
    words = ["run", *small, *overrides]
    if "body=swin_tiny" in overrides:
        words.append(f"body.checkpoint={tiny['swin']}")
    refused(10, words, *texts)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("task.loss={_target_:torch.nn.Module}", "task.loss: Module does not accept"),
        ("task.error={_target_:torch.nn.L1Loss}", "task.error: L1Loss is not an error"),
    ],
)
def test_an_allowed_module_without_loss_or_error(fork, small, setting, message):
    """In a separate process, since a module that is allowed stays allowed."""
    words = ["--allow-module", "torch.nn"]
    case = fork("run", "--dry-run", *words, *small, setting)
    assert case.wait(60) == 10, case.err
    assert message in error_line(case)


@pytest.mark.parametrize(
    "setting",
    ["task.loss={_target_:torch.nn.Module}", "task.error={_target_:torch.nn.L1Loss}"],
)
def test_a_module_has_to_be_allowed(fork, small, setting):
    case = fork("run", "--dry-run", *small, setting)
    assert case.wait(60) == 12, case.err
    assert "add --allow-module torch.nn" in error_line(case)


def error_line(case):
    """Return the only line of a case that is an error."""
    (line,) = (line for line in case.err.splitlines() if line.startswith("orca: error: "))
    return line


@pytest.mark.parametrize(("package", "extra"), [("ray", "ray"), ("submitit", "slurm")])
def test_a_package_of_a_cluster_that_is_missing(fork, small, package, extra):
    hook = f"tests.reliability.job_faults:without:{package}"
    case = fork("run", *small, "-m", "seed=0,1", "--on", extra, hook=hook)
    assert case.wait(60) == 14, case.err
    assert f"orca: error: --on {extra}: " in case.err
    assert f"pip install 'orca-transfer[{extra}]'" in case.err


def test_unexpected_failure_outside_a_run_is_one_line(refused, monkeypatch):
    def fail(*words, **more):
        raise RuntimeError("surprise")

    monkeypatch.setattr(compose, "session", fail)
    refused(1, ["run", "--dry-run"], "unexpected RuntimeError: surprise", "--traceback")


ENDS = {"lengths": 3 + np.arange(60) % 6}
SEQUENCE = ["metric=otdd", "align.features=sequence", "source.size=160"]
NO_SAMPLE = "align.features=sequence: some class has no sample with all"
# Other faults of arrays are in tests/tasks/test_bad_arrays.py.
BAD_DATA = [
    (
        11,
        {"x": np.full((60, 3, 9), np.nan)},
        ["metric=none"],
        ["own.npz", "has channels with only NaN in the training split: 0, 1, 2"],
    ),
    (10, ENDS, SEQUENCE, [NO_SAMPLE, "align.features=tokens"]),
]


@pytest.mark.parametrize(("code", "arrays", "overrides", "texts"), BAD_DATA)
def test_bad_data_of_ones_own(refused, environment, tiny, code, arrays, overrides, texts):
    x = np.random.default_rng(0).normal(size=(60, 3, 9)).astype(np.float32)
    np.savez("own.npz", **({"x": x, "y": np.arange(60) % 3} | arrays))
    words = [
        "task=arrays",
        "task.kind=classes",
        "task.train=own.npz",
        f"body.checkpoint={tiny['bert']}",
    ]
    refused(
        code,
        ["run", *words, "train.epochs=1", "align.epochs=1", "train.batch_size=8", *overrides],
        *texts,
    )
    assert not list(environment.rglob("result.json"))
