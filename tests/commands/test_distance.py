"""`orca distance` as it is typed: known answers, JSON, embedded data, bad input."""

import numpy as np
import pytest

from orca_cli.interfaces import Distance
from orca_cli.prediction.distance import distance
from tests.checkpoints import save_tiny_bert, save_tiny_swin
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


def test_arrays_through_the_function_and_what_people_read(files):
    (one,) = distance((X[:24], Y[:24]), (X[:24] + SHIFT, Y[:24]), metrics=["moments"]).metrics
    assert one.value == pytest.approx(SHIFT**2, rel=1e-5)
    _, out, _ = call("distance", *files, "metric=moments,otdd_by_class", "reg=0.5")
    assert "reg=0.5" in out
    record = read_json("distance", *files, "metric=otdd", "size=16", "seed=4", "device=cpu", "--points", 30)
    assert (record["seed"], record["metrics"][0]["parameters"]) == (4, {"size": 16, "labels": True, "classes": 8})
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
    assert err.startswith("otdd_by_class: the solver ended above its tolerance; raise metric.reg")
    assert err.count("\n") == 1


def test_names_are_embedded_by_one_body(tmp_path):
    words = ["stdlib_docs", "task=digits", "--points", 50, "source.size=80", "task.train_size=60"]
    words += [f"body.checkpoint={save_tiny_bert(tmp_path / 'bert')}", "metric=moments,otdd"]
    record = read_json("distance", *words, "align.features=sequence")
    for side in "ab":
        assert (record[side]["width"], record[side]["points"]) == (8 * 32, 50)
    assert record["body"] == "minilm"
    words.append("align.features=pooled")
    record = read_json("distance", *words)
    assert record["a"]["width"] == record["b"]["width"] == 32
    plain = _values(record)
    assert _values(read_json("distance", *words, "align.source_cloud=gaussian"))["moments"] != plain["moments"]
    shuffled = _values(read_json("distance", *words, "align.source_labels=shuffled"))
    assert shuffled["moments"] == plain["moments"]  # of the points alone
    assert shuffled["otdd"] != plain["otdd"]


def test_an_image_body_embeds_an_image_source_and_a_file_of_its_width(tmp_path):
    file = _saved(tmp_path / "z.npz", x=RNG.normal(size=(40, 16)), y=np.arange(40) % 2)
    words = ("body=swin_tiny", f"body.checkpoint={save_tiny_swin(tmp_path / 'swin')}", "metric=moments")
    assert read_json("distance", "source=digits", file, *words, "source.size=40")["a"]["width"] == 16
    assert "the body takes image" in refused(10, "distance", "stdlib_docs", file, *words, "source.size=40")


BAD_DATA = {
    "width 3 and B of width 2": {"x": X[:, :2], "y": Y},
    "no array 'y'": {"x": X},
    "one class label for each of 60": {"x": X, "y": Y[:5]},
    "NaN": {"x": np.where(X > 25, np.nan, X), "y": Y},
    "B: a number is NaN, infinite or beyond float32": {"x": X * 1e300, "y": Y},
    "Python objects": {"x": X, "y": np.array([object()] * 60)},
    "needs 2 or more classes": {"x": X, "y": 0 * Y},
}


def test_bad_data_give_one_line(files, tmp_path):
    for message, arrays in BAD_DATA.items():
        bad, code = _saved(tmp_path / "bad.npz", **arrays), 12 if "objects" in message else 11
        assert message in refused(code, "distance", files[0], bad, "metric=transrate")


BAD_WORDS = {
    "metric=mdm": "did you mean 'mmd'",
    "sixe=1": "no parameter 'sixe'; did you mean 'size'",
    "size=0": "metric.size",
    "source.size=3": "source.size=3: is about named data, and there are none",
}
BAD_NAMES = {
    "a.npz digits": "both a task and a source; write task=digits or source=digits",
    "a.npz cifar1O": "did you mean 'cifar10'",
    "stdlib_docs task=digits align.lr=1": "has no effect on points; allowed: align.features, ",
}


def test_bad_words_and_names_give_one_line(files, monkeypatch):
    monkeypatch.chdir(files[0].parent)
    for words, message in BAD_WORDS.items():
        assert message in refused(10, "distance", *files, *words.split())
    assert "third data set" in refused(2, "distance", *files, "c.npz")
    assert "are required: A, B;" in refused(2, "distance")
    assert "is not an integer from 0 on" in refused(2, "distance", *files, "seed=-1")
    for words, message in BAD_NAMES.items():
        assert message in refused(10, "distance", *words.split())
