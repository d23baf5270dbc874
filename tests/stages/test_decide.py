"""What the program decides: only what is left open, and the same for the same data."""

from types import SimpleNamespace

import pytest

from orca_cli.schema import Config, Train
from orca_cli.stages.decide import decide, with_values
from orca_cli.stages.decision import Decision


def task(n=200):
    return SimpleNamespace(train=range(n), validation=range(n), validation_drawn=False)


def test_what_is_set_is_not_decided():
    config, decided = decide(Config(train=Train(epochs=3)), task(), 40)
    assert config.train.epochs == 3
    assert "train.epochs" not in decided
    with pytest.raises(ValueError, match="train.epochs=3 is set"):
        with_values(config, {"train.epochs": Decision(4, "")})


def test_what_is_open_is_decided_and_the_composed_settings_stay_as_they_are():
    composed = Config()
    config, decided = decide(composed, task(), 40)
    assert composed.train.epochs is None
    assert config.train.epochs == decided["train.epochs"].value > 0
    assert decided["train.epochs"].why
