"""Settings that a task cannot have are refused before a file is looked at, by the setting's name."""

import pytest

from orca_cli.exceptions import ConfigError
from tests.tasks.builders import refused

REFUSED = {
    "arrays": [
        ({"kind": "classes", "train": "x.npz", "lengths": "steps", "padding": "nan"}, r"lengths: does not go with"),
    ],
    "cifar100": [
        ({"validation": "first"}, "validation"),
    ],
    "cosmic": [
        ({"ignored": "no"}, "ignored"),
        ({"sky_high": -2.0}, "sky_high"),
    ],
    "darcy": [
        ({"nodes": 21, "stride": 3}, "stride"),
        ({"stride": 35}, "stride"),  # divides 421 - 1, but not 85 - 1
    ],
    "digits": [({"layout": "images"}, "layout.*image")],
    "ecg": [({"short": "dropp"}, "short.*drop"), ({"stride": 19}, "stride.*at least 20")],
    "images": [
        ({}, "path: a value is needed"),
        ({"path": ".", "test_fraction": 0.9}, ".*leave nothing for training"),
    ],
    "listops": [
        ({"min_length": 41, "max_length": 40}, "min_length"),
    ],
    "psicov": [
        ({"clip_train": 0.5}, "clip_train"),
    ],
}


@pytest.mark.parametrize(("task", "settings", "message"), [(task, *row) for task in REFUSED for row in REFUSED[task]])
def test_impossible_settings_are_refused(task, settings, message, check):
    with refused(f"task.{message}", ConfigError):
        check(task, **settings)
