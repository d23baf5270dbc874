"""What trackers are given: flat names and plain values."""

import pytest

from orca_cli import credentials
from orca_cli.exceptions import ConfigError
from orca_cli.tracking import scalars


def test_a_line_gives_its_numbers_at_its_epoch():
    line = {"epoch": 3, "step": 12, "train_loss": 0.5, "validation_error": None, "note": "x", "done": True}
    assert scalars.point("finetune", line) == ({"finetune/step": 12, "finetune/train_loss": 0.5}, 3)
    assert scalars.point("finetune", {"member": 1, "epoch": 1, "lr": 0.1}) == ({"finetune/member_1/lr": 0.1}, 1)


def test_settings_are_flat_and_name_no_folders_of_this_machine():
    stored = {
        "train": {"lr": 1e-3, "clip": None, "betas": [0.9, 0.99], "on": True},
        "task": {"text": "x" * 600, "empty": {}},
        "paths": {"runs": "/home/me"},
        "tracker": {"project": "p"},
    }
    flat = scalars.settings(stored)
    assert flat.pop("task.text") == "x" * 497 + "..."
    assert flat == {
        "train.lr": 1e-3,
        "train.clip": "null",
        "train.betas": "[0.9, 0.99]",
        "train.on": True,
        "task.empty": "{}",
    }


def test_a_result_gives_its_errors_by_names_that_mlflow_takes():
    result = {
        "error": {"value": 0.25, "others": {"F1 (macro)": 0.5, "undefined": None}},
        "validation_error": None,
        "trivial_error": 0.9,
        "metric_value": {"before": 2.0, "after": 1.0, "floor": None},
    }
    assert scalars.final(result) == {
        "final/test_error": 0.25,
        "final/test_F1 _macro_": 0.5,
        "final/trivial_error": 0.9,
        "final/distance_before": 2.0,
        "final/distance_after": 1.0,
    }
    assert scalars.final({}) == {}


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"api_key": "x"}, "tracker.api_key"),
        ({"inner": {"MY_TOKEN": None}}, "tracker.inner.MY_TOKEN"),
        ({"uri": "https://me:hunter2@host"}, "tracker.uri"),
        ({"list": ["hf_" + "a" * 20]}, "tracker.list.0"),
    ],
)
def test_a_secret_is_refused_by_name_or_form_and_not_repeated(value, where):
    with pytest.raises(ConfigError) as refused:
        credentials.check(value, "tracker")
    assert refused.value.where == where
    assert not any(secret in str(refused.value) for secret in ("hunter2", "aaaa"))


def test_ordinary_settings_are_no_secrets():
    credentials.check({"uri": "http://host:5000", "mode": "offline", "tokens": 3, "_target_": "a.b"}, "tracker")
