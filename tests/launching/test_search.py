"""A search by itself, without runs: what it draws, which trials it stops, how it resumes, and what was typed."""

import numpy as np
import pytest

pytest.importorskip("optuna", reason="the extra tune is not installed")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from orca_cli import storage
from orca_cli.config import compose
from orca_cli.exceptions import ChecksumError, ConfigError, LockedError, UsageError
from orca_cli.launching.search import FILE, Search, Space
from orca_cli.launching.search import make as made

RATE, RATES = FloatDistribution(1e-5, 1e-2, log=True), CategoricalDistribution((1e-3, 1e-4))
GRID = Space("grid", {"train.lr": RATES, "train.epochs": IntDistribution(1, 4)}, {})
WIDE = Space("wide", {"train.lr": RATE}, {})


def opened(folder, space=WIDE, trials=2, seed=0):
    search = Search(folder=folder / "s", space=space, max_trials=trials, seed=seed)
    return search.opened()


def played(search, error=lambda trial: 0.5):
    while (trial := search.ask()) is not None:
        search.end(trial, "completed", error=error(trial))


def survivors(values):
    """Return who continues when trials reach a comparison one by one: the best third so far."""
    seen: list[float] = []
    for value in values:
        seen.append(value)
        yield value <= sorted(seen)[max(len(seen) // 3, 1) - 1]


def run_curve(search, trial, curve):
    """Play a run whose curve comes back epoch by epoch; returns how many epochs it got."""
    points = [((epoch + 1) / len(curve), error) for epoch, error in enumerate(curve)]
    for length in range(1, len(curve) + 1):
        if search.is_behind(trial, points[:length]):
            search.end(trial, "stopped")
            return length
    search.end(trial, "completed", error=curve[-1])
    return len(curve)


@pytest.mark.parametrize("restarts", [False, True])
def test_successive_halving_stops_those_that_it_should(tmp_path, restarts):
    """Against its definition: comparisons after 1/9 and 1/3 of the steps; the same with a driver for each trial."""
    rng, early, late, lengths = np.random.default_rng(0), [], [], []
    while len(lengths) < 25:
        with opened(tmp_path, trials=25) as search:
            while (trial := search.ask()) is not None:
                curve = rng.uniform(0.1, 0.9, 9)
                lengths.append(run_curve(search, trial, [float(error) for error in curve]))
                early.append(curve[0])
                late.append(curve[2])
                if restarts:
                    break
    assert lengths[0] == 9  # the settings as they are are never stopped, whatever their curve
    goes_on = list(survivors(early))
    expected = [9 if place == 0 else 1 for place in range(25)]
    reached = [place for place in range(25) if place == 0 or goes_on[place]]
    for place, ends in zip(reached, survivors([late[place] for place in reached]), strict=True):
        expected[place] = 9 if ends or place == 0 else 3
    assert lengths == expected
    assert {1, 3} <= set(lengths)
    assert (search.count("completed"), search.count("stopped")) == (
        lengths.count(9),
        25 - lengths.count(9),
    )


def test_no_settings_are_tried_twice_and_a_small_space_ends(tmp_path):
    with opened(tmp_path, GRID, trials=50) as search:
        running = iter(search.ask, None)  # all at a time
        settings = [tuple((trial.settings or {}).values()) for trial in running]
        assert (
            len(set(settings)) == len(settings) == 1 + 8
        )  # the settings as they are, and every point of the grid


def test_unfinished_trials_run_again_with_the_same_settings(tmp_path):
    with opened(tmp_path, trials=3) as search:
        search.end(search.ask(), "failed", note="no memory")
        second = search.ask()
        assert search.is_behind(second, [(1 / 9, 0.5)]) is False
        third = search.ask()
        search.end(third, "completed", error=0.4)
        assert search.ask() is None
        assert [one.state for one in search.trials] == ["failed", "running", "completed"]
    with opened(tmp_path, trials=3) as search:
        again = [search.ask(), search.ask()]
        assert [trial.settings for trial in again] == [None, second.settings]
        assert search.ask() is None
        for trial, error in (
            (again[1], 0.3),
            (again[0], 0.9),
        ):  # the settings as they are go on, whatever their curve
            assert not search.is_behind(trial, [(1 / 9, error)])
            search.end(trial, "completed", error=error)
        assert search.count("completed") == 3


def test_draws_depend_on_the_seed_wherever_a_search_stopped(tmp_path):
    def drawn(folder, seed, commands=(14,)):
        for trials in commands:
            with opened(folder, trials=trials, seed=seed) as search:
                played(
                    search,
                    lambda trial: 1.0 if trial.settings is None else trial.settings["train.lr"],
                )
        return [trial.settings for trial in search.trials]

    first = drawn(tmp_path / "a", 1)
    assert drawn(tmp_path / "b", 1, (3, 11, 14)) == first
    assert drawn(tmp_path / "c", 2) != first


def test_a_search_of_an_earlier_version_goes_on(tmp_path):
    trials = [{"number": 0, "settings": None, "params": {}, "curve": {"900": 0.5}, "rungs": {}}]
    trials.append(
        {
            "number": 1,
            "settings": {"train.lr": 0.002},
            "params": {"train.lr": 0.002001},
            "curve": {"300": 0.4},
        }
    )
    done = [one | {"state": "completed", "error": 0.4, "note": "", "facts": {}} for one in trials]
    storage.write_checked_json(tmp_path / "s" / FILE, {"schema": 1, "draws": 1, "trials": done})
    with opened(tmp_path, trials=3) as search:
        assert search.best.number == 0
        assert search.ask().number == 2


def test_a_locked_or_damaged_file_is_refused(tmp_path):
    with opened(tmp_path) as search:
        played(search)
        with (
            pytest.raises(LockedError, match="another process works on this run .*: process"),
            opened(tmp_path),
        ):
            pass
    path = tmp_path / "s" / FILE
    path.write_text(path.read_text().replace('"completed"', '"running"'))
    with pytest.raises(ChecksumError), opened(tmp_path):
        pass


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    (root / "space").mkdir()
    (root / "space" / "rates.yaml").write_text(
        "params: {train.lr: [1.0e-3, 1.0e-2]}\nfixed: {train.epochs: 3}"
    )
    with compose.session(root) as session:
        yield session, lambda *words: made(session, words, root)


@pytest.fixture
def make(session):
    return session[1]


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        (
            "train.lr=0.1",
            ConfigError,
            "train.lr=0.1: cannot be combined with space=rates, which varies train.lr",
        ),
        ("metric=none,otdd", UsageError, "'metric=none,otdd' has several values"),
        ("trials=some", ConfigError, "trials: must be an integer of at least 1, got 'some'"),
    ],
)
def test_contradictions_are_refused_with_their_place(make, override, error, message):
    with pytest.raises(error, match=message):
        make("space=rates", override)


def test_the_name_depends_on_settings_and_space_alone(make):
    first = make("space=rates").folder.name
    assert make("space=rates", "trials=99", "minutes=3", "baselines=all").folder.name == first
    words = ("train.weight_decay=0.5", "seed=1", "metric=none", "align.lr=0.5")
    names = {make("space=rates", word).folder.name for word in words}
    assert len(names | {first}) == 5


def test_trials_are_closed_and_the_first_has_plain_settings(make, session):
    typed = ["train.epochs=7", "protocol=release", "test=true", "baselines=all", "metric=moments"]
    search = make("space=rates", "seed=3", *typed)
    plain, drawn = search.trial_overrides(None), search.trial_overrides({"train.lr": 1e-3})
    composed = session[0].compose(drawn)
    config = composed.config
    settings = (config.test, config.baselines, config.train.validate_on, config.keep_weights)
    assert settings == (False, "none", "validation", False)
    assert composed.choices["metric"] == "moments"  # aligned as the run is
    # The run that follows is as typed, with the settings that were drawn.
    assert search.overrides({"train.lr": 1e-3}) == ["seed=3", *typed, "train.lr=0.001"]
    assert config.train.epochs == 7  # typed, so the space's does not count
    assert [text for text in drawn if text not in plain and text.startswith("train.")] == [
        "train.lr=0.001"
    ]
    assert not any(text.startswith("train.lr") for text in plain)
