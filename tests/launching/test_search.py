"""A search by itself: what it draws, which trials it stops, and how it resumes from its file; without runs."""

import numpy as np
import pytest

pytest.importorskip("optuna", reason="the extra tune is not installed")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from orca_cli import storage
from orca_cli.config.schema import Tune
from orca_cli.config.search_space import Space
from orca_cli.exceptions import ChecksumError, DataError, LockedError
from orca_cli.launching.search import FILE, Search

RATE, RATES = FloatDistribution(1e-5, 1e-2, log=True), CategoricalDistribution((1e-3, 1e-4))
GRID = Space("grid", {"train.lr": RATES, "train.epochs": IntDistribution(1, 4)}, {}, {})
WIDE = Space("wide", {"train.lr": RATE}, {}, {})


def opened(folder, space=WIDE, **tune):
    return Search("s", folder / "s", space, Tune(algorithm="asha", **tune)).opened()


def played(search, error=lambda trial: 0.5):
    """Ask for all trials that a search has, and tell it their errors; returns them."""
    trials = []
    while (trial := search.ask()) is not None:
        trials.append(trial)
        search.tell(trial, error(trial), {})
    return trials


def survivors(values, reduction):
    """Return who continues when trials reach a comparison one by one: the best 1 in `reduction` so far."""
    seen: list[float] = []
    for value in values:
        seen.append(value)
        yield value <= sorted(seen)[max(len(seen) // reduction, 1) - 1]


def run_curve(search, trial, curve):
    """Play a run whose curve comes back epoch by epoch; returns how many epochs it got."""
    points = [((epoch + 1) / len(curve), error) for epoch, error in enumerate(curve)]
    for length in range(1, len(curve) + 1):
        if search.is_behind(trial, points[:length]):
            search.tell(trial, None, {})
            return length
    search.tell(trial, curve[-1], {})
    return len(curve)


@pytest.mark.parametrize("restarts", [False, True])
def test_successive_halving_stops_those_that_it_should(tmp_path, restarts):
    """Against its definition: comparisons after 1/16 and 1/4 of the steps; the same with a driver for each trial."""
    rng, early, late, lengths = np.random.default_rng(0), [], [], []
    while len(lengths) < 25:
        with opened(tmp_path, trials=25, sampler="random", reduction=4) as search:
            while (trial := search.ask()) is not None:
                curve = rng.uniform(0.1, 0.9, 16)
                lengths.append(run_curve(search, trial, [float(error) for error in curve]))
                early.append(curve[0])
                late.append(curve[3])
                if restarts:
                    break
    assert lengths[0] == 16  # the settings as they are are never stopped, whatever their curve
    goes_on = list(survivors(early, 4))
    expected = [16 if place == 0 else 1 for place in range(25)]
    reached = [place for place in range(25) if place == 0 or goes_on[place]]
    for place, ends in zip(reached, survivors([late[place] for place in reached], 4), strict=True):
        expected[place] = 16 if ends or place == 0 else 4
    assert lengths == expected
    assert {1, 4} <= set(lengths)
    assert (search.count("completed"), search.count("stopped")) == (lengths.count(16), 25 - lengths.count(16))


def test_a_curve_that_comes_back_at_once_stops_where_it_would_have_been_stopped(tmp_path):
    """The driver may look at a run only after its end. Without comparisons nothing is stopped."""
    with opened(tmp_path, trials=2) as search:
        run_curve(search, search.ask(), [0.1] * 9)
        late = search.ask()
        assert search.is_behind(late, [(epoch / 9, 0.5) for epoch in range(1, 10)])
        assert late.note == "stopped by the search after 11 % of its steps"
        assert list(late.curve) == ["100"]
        search.tell(late, None, {})
        assert (late.state, late.error) == ("stopped", 0.5)
    with opened(tmp_path / "free", trials=4, rungs=0) as search:
        while (trial := search.ask()) is not None:
            assert run_curve(search, trial, [0.9 - 0.01 * trial.number] * 4) == 4


def test_no_settings_are_tried_twice_and_a_small_space_ends(tmp_path):
    with opened(tmp_path, GRID, trials=50) as search:
        running = []
        while (trial := search.ask()) is not None:  # all at a time
            running.append(trial)
        settings = [tuple((trial.settings or {}).values()) for trial in running]
        assert len(set(settings)) == len(settings) == 1 + 8  # the settings as they are, and every point of the grid
        for trial in running:
            search.tell(trial, 0.5, {})
    with opened(tmp_path, GRID, trials=50) as search:
        assert search.ask() is None
        assert len(search.trials) == 9


def test_what_was_running_or_failed_is_done_again_with_the_same_settings(tmp_path):
    with opened(tmp_path, trials=3) as search:
        search.fail(search.ask(), "no memory")
        second = search.ask()
        assert search.is_behind(second, [(1 / 9, 0.5)]) is False
        third = search.ask()
        search.tell(third, 0.4, {})
        assert search.ask() is None
        assert [one.state for one in search.trials] == ["failed", "running", "completed"]
    with opened(tmp_path, trials=3) as search:
        again = [search.ask(), search.ask()]
        assert [trial.settings for trial in again] == [None, second.settings]
        assert search.ask() is None
        for trial, error in ((again[1], 0.3), (again[0], 0.9)):  # the settings as they are go on, whatever their curve
            assert not search.is_behind(trial, [(1 / 9, error)])
            search.tell(trial, error, {})
        assert search.count("completed") == 3


def test_drawing_depends_on_the_seed_alone_wherever_the_search_was_stopped(tmp_path):
    def drawn(folder, seed, sampler, commands=(12,)):
        for trials in commands:
            with opened(folder, trials=trials, sampler=sampler, seed=seed) as search:
                played(search, lambda trial: 1.0 if trial.settings is None else trial.settings["train.lr"])
        return [trial.settings for trial in search.trials]

    for sampler in ("random", "tpe"):
        first = drawn(tmp_path / f"{sampler}-a", 1, sampler)
        assert drawn(tmp_path / f"{sampler}-b", 1, sampler, (3, 11, 12)) == first
        assert drawn(tmp_path / f"{sampler}-c", 2, sampler) != first
    # The best trial of a known function is near its minimum.
    space = Space("two", WIDE.params | {"train.weight_decay": CategoricalDistribution((0.0, 0.1))}, {}, {})
    with opened(tmp_path / "known", space, trials=30) as search:
        played(search, lambda one: 1.0 if one.settings is None else abs(np.log10(one.settings["train.lr"]) + 3))
    assert search.best.error == min(one.error for one in search.trials)
    assert abs(np.log10(search.best.settings["train.lr"]) + 3) < 0.3


def test_a_file_that_another_process_holds_or_wrote_or_that_is_damaged_is_refused(tmp_path):
    with opened(tmp_path, trials=2) as search:
        played(search)
        with pytest.raises(LockedError, match="process .* works on"), opened(tmp_path):
            pass
    path = tmp_path / "s" / FILE
    whole = path.read_text()
    path.write_text(whole.replace('"completed"', '"running"'))
    with pytest.raises(ChecksumError), opened(tmp_path):
        pass
    storage.write_checked_json(path, {"schema": 9})
    with pytest.raises(DataError, match="has schema 9, this program reads 1"), opened(tmp_path):
        pass
