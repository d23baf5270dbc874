"""A grid of recipes by itself, without runs: its order, and what a time makes of it. Optuna is not needed."""

import pytest

from orca_cli.launching.search import Search
from orca_cli.launching.space import find_space

EMBEDDERS = ("overlap", "patch", "multiscale")


class Clock:
    """A clock that only the test moves."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def opened(clock, tmp_path):
    """Return a search of recipes in some minutes, as another command opens it."""

    def call(minutes, trials=13):
        search = Search(
            folder=tmp_path / "s",
            space=find_space("recipes", None),
            max_trials=trials,
            seed=0,
            minutes=minutes,
            clock=clock,
        )
        return search.opened()

    return call


def run_trial(search, clock, seconds):
    """Run the next trial, which takes some seconds; returns its settings, "none" if none starts."""
    trial = search.ask()
    if trial is None:
        return "none"
    clock.now_s += seconds
    search.end(trial, "completed", error=0.5)
    return trial.settings


def test_recipes_come_with_the_most_different_first():
    points = find_space("recipes", None).points()
    assert [point["train.lr"] for point in points] == [2e-4] * 6 + [5e-5] * 6
    pairs = [(point["embedder"], point["finetune"]) for point in points]
    assert pairs[:6] == pairs[6:]
    assert len(set(pairs)) == 6
    assert [embedder for embedder, _ in pairs[:3]] == list(EMBEDDERS)


@pytest.mark.parametrize(
    ("minutes", "trial_s", "started"),
    [
        (10, 120, 3),  # 120 s of trial 0 and of each of three, and 120 s for the run that follows
        (28, 120, 12),  # what the message for 10 minutes says
        (
            10,
            30,
            9,
        ),  # each starts only if two runs as long as trial 0 fit into the time that is left
        (3, 120, 0),
    ],
)
def test_a_time_shrinks_the_recipes_to_the_first(opened, clock, minutes, trial_s, started):
    with opened(minutes) as search:
        assert run_trial(search, clock, 120) is None
        settings = [run_trial(search, clock, trial_s) for _ in range(13)]
        assert settings[:started] == search.space.points()[:started]
        assert settings[started:] == ["none"] * (13 - started)
        assert clock.now_s - 1000 + 120 <= 60 * max(minutes, 4)


def test_the_search_says_what_it_leaves_out_and_which_time_suffices(opened, clock):
    with opened(10) as search:
        run_trial(search, clock, 120)
        text = search.shrunk()
        assert text.startswith("10 minutes suffice for 3 of 12 trials of space=recipes; left out: ")
        assert text.endswith("; minutes=28 would suffice for all")
        assert text.count("/full/") + text.count("/layernorm/") == 9
        assert "overlap/full/0.0002" not in text
    with opened(28) as search:
        assert search.shrunk() == ""


def test_no_trial_starts_before_the_first_has_ended(opened, clock):
    """With several at a time too: only its time says whether there is time for another."""
    with opened(10) as search:
        plain = search.ask()
        assert search.ask() is None
        clock.now_s += 60
        search.end(plain, "completed", error=0.5)
        assert search.ask().settings == search.space.points()[0]


def test_a_trial_leaves_its_time_to_the_last_run_and_goes_on_later(opened, clock):
    with opened(10) as search:
        plain = search.ask()
        clock.now_s += 700
        assert not search.is_over(plain)  # it is finished in any case
        clock.now_s -= 580
        search.end(plain, "completed", error=0.5)
        trial = search.ask()
        clock.now_s += 360
        assert not search.is_over(trial)  # 120 s are left for the last run
        clock.now_s += 1
        assert search.is_over(trial)
        search.end(trial, "waiting", note="no time")
        assert search.ask() is None
    clock.now_s = 0.0  # another machine
    with opened(10) as search:
        assert search.ask() is None
        assert search.trials[1].note == "no time"
    with opened(14) as search:
        assert search.ask().settings == trial.settings
