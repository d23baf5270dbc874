"""The leaderboard of a run: its order, its leader, and the candidates that are compared."""

import pytest

from orca_cli.baselines.leaderboard import leaderboard

JUDGED = {"on": "folds", "n": 36, "folds": 5}


def record(**changes):
    """Return a completed run's record: the transfer errs on 30 % out of fold, a forest on 20 %."""
    return {
        "selected": {"on": "folds", "n": 36, "folds": 5, "sha256": "f" * 64},
        "error": {"value": 0.4, "interval": [0.3, 0.5]},
        "validation_error": 0.3,
        "keep_weights": True,
        "seconds": {"build": 1.0, "align": 2.0, "finetune": 3.0, "test": 50.0, "baselines": 9.0},
        "baselines": {
            "constant": {"error": 0.5, "validation_error": 0.1, "kept": False},
            "linear": {"error": None, "reason": "it failed", "kept": False},
            "forest": {
                "error": 0.45,
                "validation_error": 0.2,
                "interval": [0.4, 0.6],
                "seconds": 0.5,
                "kept": True,
            },
            "features": {"error": 0.1, "validation_error": 0.3, "kept": True},
        },
    } | changes


def names(board):
    return [candidate["name"] for candidate in board["candidates"]]


def test_the_best_by_validation_leads():
    """Among equals the transfer comes first; a failed model comes last, and the constant nowhere."""
    board = leaderboard(record(), JUDGED)
    assert names(board) == ["forest", "transfer", "features", "linear"]
    assert board["leader"] == "forest"
    assert board["candidates"][0] == {
        "name": "forest",
        "validation_error": 0.2,
        "error": 0.45,
        "interval": [0.4, 0.6],
        "seconds": 0.5,
        "kept": True,
    }
    transfer = board["candidates"][1]
    # The time of the test does not belong to the time of making the transfer.
    assert (transfer["seconds"], transfer["error"], transfer["interval"]) == (6.0, 0.4, [0.3, 0.5])
    assert board["judged"] == JUDGED | {"sha256": "f" * 64}


@pytest.mark.parametrize("on", ["nothing", "validation", "test"])
def test_a_transfer_that_other_samples_validated_is_not_compared(on):
    selected = {"on": on, "n": 20, "folds": 0, "sha256": "a" * 64}
    board = leaderboard(record(selected=selected, validation_error=0.01), JUDGED)
    assert names(board) == ["forest", "features", "transfer", "linear"]
    assert board["candidates"][2]["validation_error"] is None
    assert (board["leader"], board["judged"]["sha256"]) == ("forest", None)


def test_only_a_model_that_is_kept_leads():
    baselines = record()["baselines"]
    unkept = baselines | {"forest": baselines["forest"] | {"kept": False}}
    board = leaderboard(record(baselines=unkept), JUDGED)
    assert (names(board)[0], board["leader"]) == ("forest", "transfer")
    nothing = {name: baseline | {"kept": False} for name, baseline in baselines.items()}
    assert leaderboard(record(baselines=nothing, keep_weights=False), JUDGED)["leader"] is None


@pytest.mark.parametrize(("error", "place"), [(None, None), (0.25, 1), (0.3, 2)])
def test_a_fitted_start_is_a_candidate(error, place):
    selected = record()["selected"] | {"start": {"validation_error": error}}
    board = leaderboard(record(selected=selected), JUDGED)
    assert ("start" in names(board)) is (place is not None)
    if place is not None:
        start = board["candidates"][place]
        assert (start["name"], start["error"], start["kept"]) == ("start", None, False)


def test_without_simple_models_the_transfer_is_alone():
    board = leaderboard(record(baselines={}))
    assert (names(board), board["leader"]) == (["transfer"], "transfer")
    assert board["judged"] == JUDGED | {"sha256": "f" * 64}
