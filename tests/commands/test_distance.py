"""`orca distance` as it is typed: known answers, JSON, intervals, embedded data, bad input."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from orca_cli import cli
from orca_cli.comparison.distance import distance
from orca_cli.comparison.points import cloud_of
from orca_cli.interfaces import Distance, Features
from tests.checkpoints import save_tiny_bert, save_tiny_swin

SHIFT = 2.0


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(cli.COMMANDS, "distance", "the distance between two labelled data sets")
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))


def _clouds(n: int = 60, d: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return three classes far apart, a copy shifted by SHIFT along every axis, and the labels."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    x = rng.normal(size=(n, d)) + 30 * np.eye(3, d)[y]
    return x, x + SHIFT, y


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    x, z, y = _clouds()
    np.savez(tmp_path / "a.npz", x=x.reshape(60, 3, 1), y=np.array(["cat", "dog", "eel"])[y])
    np.savez(tmp_path / "b.npz", x=z, y=y + 7.0)
    return tmp_path / "a.npz", tmp_path / "b.npz"


def _json(capsys: pytest.CaptureFixture[str], *words: Any) -> Any:
    assert cli.main(["distance", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def _fails(capsys: pytest.CaptureFixture[str], code: int, *words: Any) -> str:
    assert cli.main(["distance", *map(str, words)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_shifted_copies_have_the_distances_of_the_shift(files, capsys) -> None:
    found = _json(capsys, *files, "--metric", "otdd,moments,mmd,euclidean", "--dtype", "float64")
    value = {measured["metric"]: measured["value"] for measured in found["metrics"]}
    # Every class is a copy, so W is the squared shift: 1/2 |shift|^2 + 1/2 |shift|^2. Moments: per dimension.
    assert value["otdd"] == pytest.approx(3 * SHIFT**2, rel=1e-3)
    assert value["moments"] == pytest.approx(SHIFT**2, rel=1e-9)
    assert value["euclidean"] > SHIFT * 3**0.5
    assert 0 < value["mmd"] < 5
    for measured in found["metrics"]:
        alike = [measured["self_a"], measured["self_b"]]
        if measured["metric"] == "euclidean":
            assert min(alike) > 1
        else:
            assert alike == pytest.approx([0, 0], abs=1e-3 if measured["metric"] == "otdd" else 1e-9)


def test_json_says_what_was_compared_and_how(files, capsys) -> None:
    found = _json(capsys, *files, "--metric", "mmd", "bandwidth=source", "--points", 30, "--seed", 4)
    assert set(found) == {"schema", "a", "b", "body", "dtype", "seed", "repeats", "metrics", "left_out"}
    assert found["left_out"] == {}
    assert found["a"] == {"name": str(files[0]), "points": 30, "available": 60, "width": 3, "classes": 3}
    (measured,) = found["metrics"]
    assert set(measured) == {
        "metric", "parameters", "convention", "value", "self_a", "self_b", "interval", "halves_mean",
        "diagnostics", "seconds",
    }  # fmt: skip
    assert measured["parameters"] == {"bandwidth": "source", "unbiased": False, "chunk": 1024}
    assert "squared" in measured["convention"]
    assert measured["interval"] is None
    assert measured["diagnostics"]["n"] == 30


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(files, capsys) -> None:
    def value(seed: int) -> float:
        words = ("--metric", "mmd", "--points", 20, "--ci", 5, "--seed", seed)
        (measured,) = _json(capsys, *files, *words)["metrics"]
        return measured["value"], *measured["interval"]

    assert value(1) == value(1)
    assert value(1) != value(2)


def test_an_interval_contains_the_value_and_has_the_width_of_the_draw() -> None:
    rng = np.random.default_rng(1)
    clouds = [(rng.normal(size=(400, 2)) + shift, np.arange(400) % 2) for shift in (0.0, 1.0)]
    (measured,) = distance(*clouds, metrics=["moments"], repeats=200).metrics
    low, high = measured.interval
    assert low < measured.value < high
    # The value is about the mean over two dimensions of (shift + e)^2, e the difference of two means of 400 points.
    expected = 2 * 1.96 * 2 * (2 / 400) ** 0.5 / 2**0.5
    assert high - low == pytest.approx(expected, rel=0.35)


def test_an_interval_lies_around_the_value_where_halves_give_larger_ones() -> None:
    rng = np.random.default_rng(1)
    clouds = [(rng.normal(size=(100, 50)), np.arange(100) % 2) for _ in range(2)]
    (measured,) = distance(*clouds, metrics=["moments"], repeats=40).metrics
    assert measured.halves_mean > 1.5 * measured.value
    low, high = measured.interval
    assert low < measured.value < high


def test_drawn_points_keep_their_labels_and_depend_on_the_seed() -> None:
    y = np.random.default_rng(2).choice(3, size=80, p=[0.6, 0.3, 0.1])
    x = 30.0 * np.eye(3)[y] + np.arange(80)[:, None] / 100
    drawn = [cloud_of("x", x, np.array(["cat", "dog", "eel"])[y], points=40, seed=seed) for seed in (0, 0, 1)]
    for cloud in drawn:
        assert cloud.features.x.argmax(1).tolist() == cloud.features.labels.tolist()
        assert (len(cloud.features.x.unique(dim=0)), cloud.available) == (40, 80)
    assert drawn[0].features.x.equal(drawn[1].features.x)
    assert not drawn[0].features.x.equal(drawn[2].features.x)


def test_what_people_read_names_value_interval_convention_and_solver(files, capsys) -> None:
    assert cli.main(["distance", *map(str, files), "--metric", "moments,otdd", "reg=0.5", "--ci", "4"]) == 0
    out = capsys.readouterr().out
    for text in ("95 % interval", "squared, mean over dimensions", "to itself", "reg=0.5", "iterations", "60 points"):
        assert text in out


def test_every_metric_and_arrays_through_the_function() -> None:
    x, z, y = _clouds(24)
    found = {measured.metric for measured in distance((x, y), (z, y), metrics=["all"]).metrics}
    assert {"otdd", "mmd", "transrate", "euclidean", "moments"} <= found
    assert "none" not in found
    # What is not defined for one class is left out of all.
    comparison = distance((x, y), (z, 0 * y), metrics=["all"])
    assert found - {measured.metric for measured in comparison.metrics} == {"transrate"} == set(comparison.left_out)


def test_all_says_which_metrics_are_left_out_and_why(files, tmp_path, capsys) -> None:
    x, _, y = _clouds()
    one = _saved(tmp_path / "one.npz", x=x, y=0 * y)
    reason = "needs 2 or more classes, but A has 3, B has 1"
    assert _json(capsys, files[0], one, "--metric", "all", "--points", 20)["left_out"] == {"transrate": reason}
    assert cli.main(["distance", str(files[0]), str(one), "--metric", "all", "--points", "20"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "left out" in line)
    assert f"transrate: {reason}" in line
    assert cli.main(["distance", *map(str, files), "--metric", "all", "--points", "20"]) == 0
    assert "left out" not in capsys.readouterr().out


@dataclass
class _GivesUp:
    """A metric whose solver ends without having solved."""

    diagnostics: dict[str, float]

    def prepare(self, source: Features) -> dict[str, Tensor]:
        return {}

    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Distance:
        return Distance(target.x.mean(), self.diagnostics)


@pytest.mark.parametrize(
    ("metric", "diagnostics", "warning"),
    [
        (
            "otdd",
            {"converged": 0.0, "marginal_error": 0.016},
            "otdd: the solver ended above its tolerance (marginal error 0.016, tolerance 0.01); "
            "try newton_steps=30 max_iterations=1000 or a larger tolerance\n",
        ),
        ("moments", {"converged": 0.0}, "moments: the solver ended above its tolerance\n"),
        ("otdd", {"converged": 1.0, "marginal_error": 0.009}, ""),
        ("otdd", {"marginal_error": 0.5}, ""),
    ],
)
@pytest.mark.parametrize("style", [(), ("--json",)])
def test_a_solver_that_gave_up_is_one_warning(style, metric, diagnostics, warning, files, capsys, monkeypatch) -> None:
    monkeypatch.setattr("orca_cli.comparison.distance.parts.build", lambda node, what: _GivesUp(diagnostics))
    assert cli.main(["distance", *map(str, files), "--metric", metric, *style]) == 0
    out, err = capsys.readouterr()
    assert err == warning
    assert ("marginal_error" in out) == ("marginal_error" in diagnostics)


def test_the_warning_names_parameters_that_the_command_takes(files, capsys, monkeypatch) -> None:
    monkeypatch.setattr("orca_cli.comparison.distance.parts.build", lambda node, what: _GivesUp({"converged": 0.0}))
    for metric in ("otdd", "otdd_gaussian"):
        assert cli.main(["distance", *map(str, files), "--metric", metric]) == 0
        words = capsys.readouterr().err.partition("try ")[2].partition(" or ")[0].split()
        assert len(words) == 2
        assert cli.main(["distance", *map(str, files), "--metric", metric, *words]) == 0
        assert "=60" in capsys.readouterr().err


def test_words_are_those_of_a_run(files, capsys) -> None:
    words = ("metric=moments,mmd", "bandwidth=source", "seed=4", "device=cpu")
    options = ("--metric", "moments,mmd", "bandwidth=source", "--seed", 4, "--device", "cpu")
    by_word, by_option = (_json(capsys, *files, *given, "--points", 20) for given in (words, options))
    assert [one["value"] for one in by_word["metrics"]] == [one["value"] for one in by_option["metrics"]]
    assert (by_word["seed"], len(by_word["metrics"])) == (4, 2)


@pytest.mark.parametrize("setting", ["source.size=3", "align.source_cloud=gaussian", "embedder.max_tokens=3"])
def test_settings_of_named_data_are_refused_where_none_are_named(files, capsys, setting) -> None:
    assert f"{setting}: is about named data, and there are none" in _fails(capsys, 10, *files, setting)


def test_settings_of_alignment_that_change_no_point_are_refused(capsys) -> None:
    message = _fails(capsys, 10, "stdlib_docs", "task=digits", "align.lr=1")
    assert "align.lr=1: has no effect on points; allowed: align.features, " in message


@pytest.mark.parametrize("features", ["tokens", "pooled", "sequence"])
def test_names_are_embedded_by_one_body(features, tmp_path, capsys) -> None:
    checkpoint = save_tiny_bert(tmp_path / "bert")
    found = _json(
        capsys, "stdlib_docs", "task=digits", "--checkpoint", checkpoint, "--points", 50, "--metric", "moments",
        "source.size=80", "task.train_size=60", f"align.features={features}",
    )  # fmt: skip
    assert (found["a"]["width"], found["b"]["width"]) == ((8 * 32,) * 2 if features == "sequence" else (32, 32))
    assert found["a"]["points"] == found["b"]["points"] == 50
    assert found["body"] == "minilm"
    assert found["metrics"][0]["value"] > 0


def test_controls_of_source_and_labels_change_the_points(tmp_path, capsys) -> None:
    words = ("stdlib_docs", "task=digits", "--checkpoint", save_tiny_bert(tmp_path / "bert"), "--points", 50)
    words = (*words, "--metric", "moments,otdd", "source.size=80", "task.train_size=60")
    plain = _values(_json(capsys, *words))
    assert _values(_json(capsys, *words, "align.source_cloud=gaussian"))["moments"] != plain["moments"]
    for key in ("source_labels", "target_labels"):
        found = _values(_json(capsys, *words, f"align.{key}=shuffled"))
        assert found["moments"] == plain["moments"]  # of the points alone
        assert found["otdd"] != plain["otdd"]


def _values(found: Any) -> dict[str, float]:
    return {one["metric"]: one["value"] for one in found["metrics"]}


def test_an_image_body_embeds_an_image_source_and_a_file_of_its_width(tmp_path, capsys) -> None:
    checkpoint = save_tiny_swin(tmp_path / "swin")
    np.savez(tmp_path / "z.npz", x=np.random.default_rng(0).normal(size=(40, 16)), y=np.arange(40) % 2)
    words = ("body=swin_tiny", "--checkpoint", checkpoint, "--metric", "moments", "source.size=40")
    found = _json(capsys, "source=digits", tmp_path / "z.npz", *words)
    assert found["a"]["width"] == 16
    assert "modality" not in _fails(capsys, 10, "stdlib_docs", tmp_path / "z.npz", *words)


def _saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_bad_data_give_one_line_that_says_what_to_do(files, tmp_path, capsys) -> None:
    a, b = files
    x, _, y = _clouds()

    def bad(**arrays: Any) -> Path:
        return _saved(tmp_path / "bad.npz", **arrays)

    assert "width 3 and B of width 2" in _fails(capsys, 11, a, bad(x=x[:, :2], y=y))
    assert "no array 'y'" in _fails(capsys, 11, a, bad(x=x))
    assert "one class label for each of 60" in _fails(capsys, 11, a, bad(x=x, y=y[:5]))
    assert "not class labels" in _fails(capsys, 11, a, bad(x=x, y=y + 0.5))
    assert "[n, d]" in _fails(capsys, 11, a, bad(x=x[:, 0], y=y))
    assert "NaN" in _fails(capsys, 11, a, bad(x=np.where(x > 25, np.nan, x), y=y))
    assert "A: a number is NaN, infinite or beyond float32" in _fails(capsys, 11, bad(x=x * 1e300, y=y), b)
    assert "Python objects" in _fails(capsys, 12, a, bad(x=x, y=np.array([object()] * 60)))
    assert "does not exist" in _fails(capsys, 11, a, tmp_path / "absent.npz")
    assert "needs 2 or more classes" in _fails(capsys, 11, a, bad(x=x, y=0 * y), "--metric", "transrate")


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        (10, "did you mean 'mmd'", ("--metric", "mdm")),
        (10, "no such metric: 'none'", ("--metric", "none")),
        (10, "no parameter 'rge'; did you mean 'reg'", ("rge=1",)),
        (10, "metric.reg", ("reg=-1",)),
        (10, "points: 1 is out of range", ("--points", "1")),
        (10, "ci: 1 is out of range", ("--ci", "1")),
        (10, "is not a device", ("--device", "tpu")),
        (2, "third data set", ("c.npz",)),
        (10, "did you mean 'mmd'", ("metric=mdm",)),
        (2, "seed: 'one' is not an integer", ("seed=one",)),
    ],
)
def test_bad_words_give_one_line(code, message, words, files, capsys) -> None:
    assert message in _fails(capsys, code, *files, *words)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits", "both a task and a source; write task=digits or source=digits"),
        ("cifar1O", "did you mean 'cifar10'"),
        ("task=digit", "did you mean 'digits'"),
    ],
)
def test_names_that_are_unknown_or_stand_for_two_things(name, message, files, capsys) -> None:
    assert message in _fails(capsys, 10, files[0], name)


def test_the_metric_is_given_as_a_setting_or_as_an_option(
    capsys: pytest.CaptureFixture[str], files: tuple[Path, Path]
) -> None:
    typed = _json(capsys, *files, "metric=moments,mmd", "--points", 20)
    given = _json(capsys, *files, "--metric", "moments,mmd", "--points", 20)
    names = [[one["metric"] for one in found["metrics"]] for found in (typed, given)]
    assert names == [["moments", "mmd"]] * 2
    assert [one["value"] for one in typed["metrics"]] == [one["value"] for one in given["metrics"]]
