"""`orca distance` as it is typed: known answers, JSON, bad input."""

import numpy as np
import pytest

from orca_cli.interfaces import Distance
from tests.commands.called import call, read_json, refused

SHIFT = 2.0
RNG = np.random.default_rng(0)
Y = np.arange(60) % 3
X = RNG.normal(size=(60, 3)) + 30 * np.eye(3)[Y]  # three classes far apart


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))


def _saved(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.fixture
def files(tmp_path):
    """Points, and a copy of them that is shifted along every axis."""
    a = _saved(tmp_path / "a.npz", x=X.reshape(60, 3, 1), y=np.array(["cat", "dog", "eel"])[Y])
    return a, _saved(tmp_path / "b.npz", x=X + SHIFT, y=Y + 7.0)


def _values(record):
    return {one["metric"]: one["value"] for one in record["metrics"]}


def test_shifted_copies_have_the_distances_of_the_shift(files):
    record = read_json("distance", *files, "metric=otdd_by_class,otdd,moments,mmd,euclidean")
    value = _values(record)
    # Every class is a copy, so W is the squared shift: 1/2 |shift|^2 + 1/2 |shift|^2. Moments: per dimension.
    assert value["otdd_by_class"] == pytest.approx(3 * SHIFT**2, rel=1e-3)
    assert value["otdd"] == pytest.approx(3 * SHIFT**2, rel=0.1)  # between small samples
    assert value["moments"] == pytest.approx(SHIFT**2, rel=1e-5)
    assert value["euclidean"] > SHIFT * 3**0.5
    assert 0 < value["mmd"] < 5
    alike = {one["metric"]: max(map(abs, (one["self_a"], one["self_b"]))) for one in record["metrics"]}
    for metric, most in {"otdd_by_class": 1e-3, "otdd": 1, "moments": 1e-6, "mmd": 1e-6}.items():
        assert alike[metric] < most, metric


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(files):
    words = ("distance", *files, "metric=mmd", "--points", 20)
    first, again, other = (_values(read_json(*words, f"seed={seed}")) for seed in (1, 1, 2))
    assert first == again != other


def test_what_people_read_and_programs(files):
    assert f"{files[0]}: 60 points of width 3, 3 classes\n" in call("distance", *files, "metric=moments")[1]
    record = read_json("distance", *files, "metric=otdd", "seed=4", "--points", 30)
    assert (record["seed"], record["metrics"][0]["metric"]) == (4, "otdd")
    assert record["a"] == {"name": str(files[0]), "points": 30, "width": 3, "classes": 3}


class GivesUp:
    """A metric whose solver ended above its tolerance."""

    def prepare(self, source):
        return {}

    def distance(self, source, prepared, target):
        return Distance(target.x.mean(), {"converged": 0.0, "marginal_error": 0.016})


def test_a_solver_that_gave_up_is_one_warning(files, monkeypatch):
    assert call("distance", *files, "metric=otdd_by_class")[2] == ""
    monkeypatch.setattr("orca_cli.prediction.distance.parts.build", lambda node, what: GivesUp())
    _, out, err = call("distance", *files, "metric=otdd_by_class")
    assert "marginal_error" in out
    assert err.startswith("otdd_by_class: the solver ended above its tolerance")
    assert err.count("\n") == 1


BAD_DATA = {
    "width 3 and B of width 2": {"x": X[:, :2], "y": Y},
    "no array 'y'": {"x": X},
    "one class label for each, y [n]": {"x": X, "y": Y[:5]},
    "NaN": {"x": np.where(X > 25, np.nan, X), "y": Y},
    "infinite or beyond float32": {"x": X * 1e300, "y": Y},
    "Python objects": {"x": X, "y": np.array([object()] * 60)},
    "needs 2 or more classes": {"x": X, "y": 0 * Y},
}


def test_bad_data_give_one_line(files, tmp_path):
    for message, arrays in BAD_DATA.items():
        bad, code = _saved(tmp_path / "bad.npz", **arrays), 12 if "objects" in message else 11
        assert message in refused(code, "distance", files[0], bad, "metric=transrate")


BAD_WORDS = {
    "metric=mdm": (10, "did you mean 'mmd'"),
    "size=1": (2, "size=1: allowed besides two files: metric=NAME,... and seed=N"),
    "c.npz": (2, "c.npz: allowed besides two files"),
    "seed=-1": (2, "is not an integer from 0 on"),
    "--points 1": (10, "allowed: 2 or more"),
}


def test_bad_words_and_names_give_one_line(files):
    for words, (code, message) in BAD_WORDS.items():
        assert message in refused(code, "distance", *files, *words.split())
    assert "are required: A, B;" in refused(2, "distance")
    assert "digits: the file does not exist" in refused(11, "distance", files[0], "digits")
