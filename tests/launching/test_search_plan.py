"""What a search does, from what was typed: its name, its trials, and what contradicts it."""

import pytest

pytest.importorskip("optuna", reason="the extra tune is not installed")

from orca_cli.commands.tune import hparams_path
from orca_cli.config import compose
from orca_cli.exceptions import ConfigError
from orca_cli.launching import search_plan as plans

FILES = {
    "rates": "params: {train.lr: [1.0e-3, 1.0e-2]}\nfixed: {train.epochs: 3}",
    "range": "params: {train.batch_size: {low: 0, high: 64}}",
    "fixed": "params: {train.lr: [1.0e-3]}\nfixed: {train.epoch: 3}",
}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    (root / "space").mkdir()
    for name, text in FILES.items():
        (root / "space" / f"{name}.yaml").write_text(text)
    with compose.session(root) as session:
        yield session, root


@pytest.fixture(scope="module")
def make(session):
    return lambda *words: plans.make(session[0], [*words, "tune=asha"], session[1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tune.space=absent.yaml"], "absent.yaml: cannot be read"),
        (["tune.space=range"], "space=range: train.batch_size: 0 is out of range; allowed"),
        (["tune.space=fixed"], "did you mean 'epochs'"),
        (["tune.space=rates", "train.lr=0.1"], "train.lr=0.1: is searched by space=rates"),
        (["tune.space=rates", "train.refit=true"], "train.refit=true: leaves no validation samples"),
        (["tune.space=rates", "metric=none,otdd"], "metric=none,otdd: names several metrics"),
    ],
)
def test_contradictions_are_refused_with_their_place(make, words, message):
    with pytest.raises(ConfigError) as error:
        make(*words)
    assert message in str(error.value)


def test_the_name_is_that_of_the_settings_and_the_space_whatever_the_arm_and_the_number_of_trials(make):
    (first,) = make("tune.space=rates", "seed=1", "metric=otdd", "align.lr=0.5")
    (same,) = make("tune.space=rates", "tune.trials=99", "metric=none")
    names = {
        make("tune.space=rates", word)[0].name for word in ("train.weight_decay=0.5", "tune.seed=1", "tune.rungs=1")
    }
    assert first.name == same.name
    assert len(names | {first.name}) == 4
    arms = make("tune.space=rates", "metric=none,otdd", "tune.per_arm=true")
    assert [plan.arm for plan in arms] == ["none", "otdd"]
    assert len({plan.name for plan in arms}) == 2


def test_trials_are_closed_whatever_is_typed_and_the_first_has_the_settings_as_they_are(make, session):
    typed = ["train.epochs=7", "protocol=release", "test=true", "baselines=all"]
    (plan,) = make("tune.space=rates", "tune.seed=3", *typed)
    plain, drawn = plan.overrides(None, 3), plan.overrides({"train.lr": 1e-3}, 4)
    config = session[0].compose(drawn).config
    settings = (config.test, config.baselines, config.train.validate_on, config.train.refit)
    assert settings == (False, "none", "validation", False)
    assert config.metric.get("_target_") is None
    assert config.train.epochs == 7  # typed, so the space's does not count
    assert config.paths.runs.endswith("/runs")
    assert [text for text in drawn if text not in plain and text.startswith("train.")] == ["train.lr=0.001"]
    assert not any(text.startswith("train.lr") for text in plain)


def test_a_file_of_settings_that_no_search_wrote_is_not_replaced(tmp_path):
    path = tmp_path / "hparams" / "digits-minilm.yaml"
    path.parent.mkdir()
    path.write_text("# @package _global_\n# Mine.\ntrain: {epochs: 3}\n")
    with pytest.raises(ConfigError, match="was not written by a search"):
        hparams_path(tmp_path, "digits-minilm")
    path.write_text("# @package _global_\n# Found by orca tune: search x\ntrain: {epochs: 3}\n")
    assert hparams_path(tmp_path, "digits-minilm") == path
