"""A search by itself: which trials are stopped, who gets which trial, and what is left by workers that die. No run is made."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("optuna", reason="the extra tune is not installed")

from orca_cli.tracking.pruning import Pruning

from orca_cli.exceptions import ConfigError, DataError, PrunedError
from orca_cli.schema import Tune
from orca_cli.tuning import found, trials
from orca_cli.tuning.search import DUPLICATE, Search, TrialJudge
from orca_cli.tuning.space import Choice, Range, Space

GRID = Space("grid", {"train.lr": Choice((1e-3, 1e-4)), "train.epochs": Choice((1, 2, 3, 4))}, {}, {})
WIDE = Space("wide", {"train.lr": Range(1e-5, 1e-2, log=True)}, {}, {})


def opened(folder: Path, space=WIDE, **tune) -> Search:
    return Search("s", str(folder / "journal.jsonl"), folder, space, Tune(algorithm="asha", **tune))


def played(search, error=lambda trial: 0.5):
    """Take all trials that a search has, and tell it their errors; returns them."""
    taken = []
    with search.worker():
        while (trial := search.take()) is not None:
            taken.append(trial)
            search.tell(trial, "COMPLETE", {}, error(trial))
    return taken


def prepared(folder, space=WIDE, **tune):
    search = opened(folder, space, **tune)
    search.prepare()
    return search


def survivors(values: list[float], reduction: int) -> list[bool]:
    """Return who goes on at a comparison to which they come one after the other: the best of every `reduction` so far."""
    seen: list[float] = []
    for value in values:
        seen.append(value)
        yield value <= sorted(seen)[max(len(seen) // reduction, 1) - 1]


def run_curve(search, trial, curve):
    """Play a run: give the recorder a curve, a line an epoch; return how many epochs it got."""
    pruning = Pruning(TrialJudge(search, trial.number, may_stop=trial.settings is not None), search.most)
    pruning.total = 8 * len(curve)
    for epoch, error in enumerate(curve, 1):
        try:
            pruning.record("finetune", {"epoch": epoch, "step": 8 * epoch, "validation_error": error})
        except PrunedError as stop:
            search.tell(trial, "PRUNED", {"why": str(stop)})
            return epoch
    search.tell(trial, "COMPLETE", {}, curve[-1])
    return len(curve)


def test_successive_halving_stops_those_that_it_should(tmp_path):
    """Against its definition: comparisons after 1/16 and 1/4 of the steps, at each of which one of four goes on."""
    search, rng = prepared(tmp_path, trials=25, sampler="random", reduction=4), np.random.default_rng(0)
    early, late, lengths = [], [], []
    with search.worker():
        while (trial := search.take()) is not None:
            curve = rng.uniform(0.1, 0.9, 16)
            lengths.append(run_curve(search, trial, [float(error) for error in curve]))
            early.append(curve[0])
            late.append(curve[3])
    assert len(lengths) == 25
    assert lengths[0] == 16  # the settings as they are are never stopped, whatever their curve
    goes_on = list(survivors(early, 4))
    expected = [16 if place == 0 else 1 for place in range(25)]
    reached = [place for place in range(25) if place == 0 or goes_on[place]]
    for place, ends in zip(reached, survivors([late[place] for place in reached], 4), strict=True):
        expected[place] = 16 if ends or place == 0 else 4
    assert lengths == expected
    assert 1 in lengths
    assert 4 in lengths
    state = found.of(search)
    assert (state.count("completed"), state.count("stopped")) == (lengths.count(16), 25 - lengths.count(16))


def test_no_comparisons_stop_nothing(tmp_path):
    search = prepared(tmp_path, trials=6, rungs=0)
    with search.worker():
        while (trial := search.take()) is not None:
            assert run_curve(search, trial, [0.9 - 0.01 * trial.number] * 4) == 4


def test_a_run_that_resumes_or_starts_again_reports_each_part_once(tmp_path):
    told = []

    class Noted:
        def report(self, resource, error):
            told.append((resource, error))
            return False

    pruning = Pruning(Noted(), most=100)
    pruning.total = 40
    lines = [{"epoch": n, "step": 10 * n, "validation_error": n / 10} for n in (1, 2)]
    pruning.rewind("finetune", lines)
    for n in (1, 2, 3, 4):
        pruning.record("finetune", {"epoch": n, "step": 10 * n, "validation_error": n / 10})
    pruning.record("align", {"epoch": 9, "step": 99, "validation_error": 0.0})
    pruning.record("finetune", {"member": 1, "epoch": 9, "step": 99, "validation_error": 0.0})
    pruning.record("finetune", {"epoch": 5, "step": 50, "validation_error": None})
    assert told == [(75, 0.3), (100, 0.4)]


def test_two_workers_never_get_the_same_trial_and_a_small_space_ends(tmp_path):
    prepared(tmp_path, GRID, trials=50)
    with ThreadPoolExecutor(2) as pool:
        halves = [pool.submit(played, opened(tmp_path, GRID, trials=50)) for _ in range(2)]
    taken = [trial for half in halves for trial in half.result()]
    assert len({trial.number for trial in taken}) == len(taken)
    settings = [tuple((trial.settings or {}).values()) for trial in taken]
    assert len(set(settings)) == len(settings) == 1 + 8  # the settings as they are, and every point of the grid
    state = found.of(opened(tmp_path, GRID))
    assert len(state.rows) == 9


def test_what_a_killed_worker_leaves_is_taken_over_and_what_a_living_one_has_is_not(tmp_path):
    search = prepared(tmp_path, trials=3)
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        own = opened(tmp_path, trials=3)
        with own.worker():
            own.take()
            os.write(ready[1], b"1")
            os.read(go[0], 1)
    os.read(ready[0], 1)
    with search.worker():
        mine = search.take()
        assert mine.number == 1  # 0 belongs to the other, who lives
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert search.take().number == 0
        assert search.take().number == 2
        assert search.take() is None


def test_a_trial_that_was_drawn_in_part_is_drawn_again(tmp_path):
    """A worker that is killed between two settings of a draw leaves a trial with the first of them."""
    search = prepared(tmp_path, GRID, trials=3, sampler="random")
    with search.worker():
        search.tell(search.take(), "COMPLETE", {}, 0.5)
        failed = search.take()
        search.tell(failed, "FAIL", {})
    search.prepare()
    for _ in range(2):  # that which is to be done again, then a new one
        drawn = search.study.ask()
        drawn.suggest_categorical("train.lr", [1e-3, 1e-4])
    again = opened(tmp_path, GRID, trials=3, sampler="random")
    taken = [trial.settings for trial in played(again)]
    assert failed.settings in taken
    assert len(taken) == 2
    assert again.is_finished()


def test_an_interrupted_trial_is_left_to_the_next_and_a_stop_that_was_not_told_is_not_repeated(tmp_path):
    search = prepared(tmp_path, trials=2)
    with search.worker():
        first = search.take()
        run_curve(search, first, [0.1] * 16)
        trial = search.take()
        search.give_back(trial)
        again = search.take()
        assert (again.number, again.settings, again.stopped) == (trial.number, trial.settings, "")
        assert TrialJudge(search, trial.number).report(
            search.most // 9, 0.5
        )  # worse than the first was; then it is killed
        search.give_back(trial)
        assert search.take().stopped == "after 11 %"


def test_trials_on_another_machine_live_by_their_lease(tmp_path, monkeypatch):
    search = prepared(tmp_path, trials=1)
    with search.worker():
        trial = search.take()
        monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
        assert search.take() is None
        later = time.time() + 1000
        monkeypatch.setattr("orca_cli.tuning.search.time.time", lambda: later)
        assert search.take().number == trial.number


def test_failed_trials_are_done_again_by_the_next_command_with_the_same_settings(tmp_path):
    search = prepared(tmp_path, trials=3)
    with search.worker():
        search.tell(search.take(), "FAIL", {"why": "no memory"})
        second = search.take()
        search.tell(second, "FAIL", {"why": "no memory"})
        search.tell(search.take(), "COMPLETE", {}, 0.4)
        assert search.take() is None
        search.prepare()
        again = [search.take(), search.take()]
        assert [trial.settings for trial in again] == [None, second.settings]
        for trial in again:
            search.tell(trial, "COMPLETE", {}, 0.3)
        search.prepare()
        assert search.take() is None
    assert [row.state for row in found.of(search).rows] == ["completed"] * 3


def test_drawing_depends_on_the_seed_alone(tmp_path):
    def drawn(folder, seed):
        return [trial.settings for trial in played(prepared(folder, trials=5, sampler="random", seed=seed))]

    first, second, other = (drawn(tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert first == second
    assert first != other


def test_importance_and_history_of_a_known_function(tmp_path):
    space = Space("two", WIDE.params | {"train.weight_decay": Choice((0.0, 0.1))}, {}, {})
    search = prepared(tmp_path, space, trials=30)
    played(search, lambda one: 1.0 if one.settings is None else abs(np.log10(one.settings["train.lr"]) + 3))
    state = found.of(search)
    assert next(iter(state.importance)) == "train.lr"
    assert state.importance["train.lr"] > 0.8
    assert state.history() == list(np.minimum.accumulate([row.error for row in state.rows]))
    assert abs(np.log10(state.best.settings["train.lr"]) + 3) < 0.3


def test_a_torn_line_at_the_end_of_a_journal_is_cut_off_and_a_damaged_one_is_told(tmp_path):
    prepared(tmp_path, trials=2)
    journal = tmp_path / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"worker')
    opened(tmp_path, trials=2).prepare()
    assert journal.read_bytes().startswith(whole)
    assert all(isinstance(json.loads(line), dict) for line in journal.read_bytes().splitlines())
    journal.write_bytes(b"no journal\n" + whole)
    with pytest.raises(DataError, match="cannot be used"):
        opened(tmp_path)


def test_a_database_serves_as_well(tmp_path):
    search = Search("s", f"sqlite:///{tmp_path}/db.sqlite", tmp_path, GRID, Tune(algorithm="asha", trials=3))
    search.prepare()
    with search.worker():
        while (trial := search.take()) is not None:
            run_curve(search, trial, [0.5, 0.4])
    assert len(found.of(search).rows) == 3
    with pytest.raises(ConfigError, match="'redis' is no such database"):
        trials.check_address("redis://host")
    assert trials.shown("mysql://me:secret@host/db") == "mysql://me:...@host/db"


def test_trials_drawn_twice_are_not_counted(tmp_path):
    space = Space("one", {"train.epochs": Choice((1, 2))}, {}, {})
    search = prepared(tmp_path, space, trials=3)
    played(search)
    everything = search.study.get_trials()
    assert len(found.of(search).rows) == 3
    assert sum(bool(one.user_attrs.get(DUPLICATE)) for one in everything) == len(everything) - 3
