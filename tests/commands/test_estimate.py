"""How long what is left will take, by hand."""

import pytest

from orca_cli.commands.estimate import in_words, remaining_s


def run(set_, metric, seed, seconds=None, body="minilm"):
    return {"set": set_, "body": body, "metric": metric, "seed": str(seed)}, seconds


def test_runs_that_differ_in_the_seed_come_first_then_body_and_metric_then_all():
    done = [run("a", "otdd", 0, 10.0), run("a", "otdd", 1, 14.0), run("b", "otdd", 0, 30.0), run("b", "none", 0, 6.0)]
    assert remaining_s([*done, run("a", "otdd", 2)]) == 12
    assert remaining_s([*done, run("c", "otdd", 0)]) == pytest.approx((10 + 14 + 30) / 3)
    assert remaining_s([*done, run("c", "mmd", 0)]) == 15
    assert remaining_s([*done, run("a", "otdd", 2), run("b", "none", 1)]) == 12 + 6


def test_nothing_is_expected_where_nothing_is_done_or_left():
    assert remaining_s([run("a", "otdd", 0)]) is None
    assert remaining_s([run("a", "otdd", 0, 3.0)]) == 0
    assert remaining_s([]) is None


@pytest.mark.parametrize(("seconds", "text"), [(42.4, "42 s"), (700, "12 min"), (12600, "3.5 h")])
def test_times_in_words(seconds, text):
    assert in_words(seconds) == text
