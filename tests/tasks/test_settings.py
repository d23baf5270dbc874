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
        ({"validation_size": 0}, "validation_size"),
        ({"validation_size": 1.5}, "validation_size"),
    ],
    "cosmic": [
        ({"ignored": "no"}, "ignored"),
        ({"crop_size": 0}, "crop_size"),
        ({"crop_start": -1}, "crop_start"),
        ({"sky_high": -2.0}, "sky_high"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"validation_unit": "pixel"}, "validation_unit"),
        ({"kind": "classes"}, "kind"),
    ],
    "darcy": [
        ({"nodes": 21, "stride": 3}, "stride"),
        ({"nodes": 4}, "nodes"),
        ({"num_train": 1}, "num_train"),
        ({"stride": 35}, "stride"),  # divides 421 - 1, but not 85 - 1
    ],
    "digits": [({"layout": "images"}, "layout.*image")],
    "ecg": [({"short": "dropp"}, "short.*drop"), ({"stride": 19}, "stride.*at least 20")],
    "fsd50k": [({"masking": 2.0}, "masking.*at most 1")],
    "homology": [({"test": "holdout"}, "test"), ({"length": 2}, "length"), ({"symbols": 20}, "symbols")],
    "images": [
        ({}, "path: a value is needed"),
        ({"path": ".", "kind": "dense"}, "kind: 'dense' .*allowed: classes"),
        ({"path": ".", "channels": 2}, "channels: 2 is .*allowed: 3, 1"),
        ({"path": ".", "size": 3}, "size: 3 is .*allowed: int at least 4 and at most 4096"),
        ({"path": ".", "test_fraction": 0.9}, ".*leave nothing for training"),
    ],
    "jsb": [({"length": 0}, "length.*at least 1")],
    "listops": [
        ({"max_arity": 1}, "max_arity"),
        ({"num_train": 0}, "num_train"),
        ({"min_length": 41, "max_length": 40}, "min_length"),
        ({"kind": "dense"}, "kind"),
        ({"origin": "web"}, "origin.*generated, files"),
        ({"size": "large"}, "size.*small, paper, lra"),
        ({"over_length": "crop"}, "over_length.*drop"),
        ({"input_length": 0}, "input_length"),
    ],
    "psicov": [
        ({"window": 4}, "window"),
        ({"crop": "random"}, "crop"),
        ({"clip_train": 0.5}, "clip_train"),
        ({"num_validation": 0}, "num_validation"),
        ({"kind": "classes"}, "kind"),
    ],
    "satellite": [({"normalize": "serie"}, "normalize.*series")],
    "spherical": [({"origin": "cifar11"}, "origin")],
}


@pytest.mark.parametrize(("task", "settings", "message"), [(task, *row) for task in REFUSED for row in REFUSED[task]])
def test_impossible_settings_are_refused(task, settings, message, check):
    with refused(f"task.{message}", ConfigError):
        check(task, **settings)
