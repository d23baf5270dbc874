"""`orca select` as it is typed: the table, what it leaves for later runs, what it never reads, bodies that do not fit."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from orca_cli.stages import build
from orca_cli.stages.compared import Compared
from tests.cli.conftest import results

_SMALL = ["task.train_size=60", "task.validation_size=40", "task.test_size=50", "source.size=160"]
_STEPS = [
    "align.epochs=3",
    "align.source_points=200",
    "align.max_samples=16",
    "embedder=patch",
    "embedder.max_tokens=4",
]
_TRAINING = ["train.epochs=1", "train.warmup_epochs=0", "train.batch_size=16", "baselines=none"]


@pytest.fixture
def settings(tmp_path):
    """Settings of all bodies, and a cache of this test alone."""
    return [*_SMALL, *_STEPS, *_TRAINING, f"paths.cache={tmp_path / 'cache'}"]


def entries(tmp_path, kind):
    return {path.name for path in (tmp_path / "cache" / kind).glob("*") if path.is_dir()}


def bodies_file(tmp_path, tiny):
    """Two texts' bodies, one of them random, and an image body that is given texts as its source."""
    bert = f"body.checkpoint={tiny['bert']}"
    path = tmp_path / "bodies.yaml"
    swin = f"[body=swin_tiny, body.checkpoint={tiny['swin']}, source=stdlib_docs]"
    path.write_text(f"bert: [body=minilm, {bert}]\nrandom: [body=minilm, {bert}, finetune=scratch]\nswin: {swin}\n")
    return path


def test_a_target_that_a_run_would_not_align_is_judged_as_it_is(orca, settings, tiny, monkeypatch):
    words = [*settings, "metric=minibatch_ot", "finetune=full", "seed=0", f"bodies=minilm:{tiny['bert']}", "--json"]
    (far,) = json.loads(orca("select", *words)[1])["bodies"][0]["seeds"]
    monkeypatch.setattr(Compared, "source_variance", 1e9)
    (near,) = json.loads(orca("select", *words, "source.size=201")[1])["bodies"][0]["seeds"]
    assert far["steps"] > 0
    assert far["after"] != far["before"]
    assert (near["steps"], near["after"]) == (0, near["before"])


def test_bodies_are_ranked_and_runs_find_their_alignments(orca, environment, settings, tiny, tmp_path, monkeypatch):
    words = [*settings, "finetune=full", "seed=0"]
    bodies = f"bodies={bodies_file(tmp_path, tiny)}"

    def opened(*_, **__):
        raise AssertionError("the test split was opened")

    with monkeypatch.context() as patch:
        read = build.read_task
        patch.setattr(build, "read_task", lambda *given: replace(read(*given), open_test=opened))
        code, out, err = orca("select", *words, bodies, "--json")
    assert code == 0, err
    found = json.loads(out)
    first, second, last = found["bodies"]
    assert {first["label"], second["label"]} == {"bert", "random"}
    assert first["distance"] <= second["distance"]
    for body in (first, second):
        low, high = body["interval"]
        assert low <= body["distance"] <= high
        assert [one["seed"] for one in body["seeds"]] == [0]
        assert body["distance"] == pytest.approx(np.mean([one["after"] for one in body["seeds"]]))
        assert np.isfinite(body["logme"])
        assert 0 <= body["probe"] <= 1
        assert all(one["scale"] == "floor" and one["unit"] > 0 for one in body["seeds"])
    assert last["label"] == "swin"
    assert "this source is made of texts and the body takes images" in last["reason"]
    assert last["distance"] is None
    assert os.listdir(environment) == [".selections"]  # no runs yet

    # A second call computes nothing, and a run has nothing to align.
    made = {kind: entries(tmp_path, kind) for kind in ("alignments", "body_scores")}
    assert {kind: len(names) for kind, names in made.items()} == {"alignments": 2, "body_scores": 2}
    monkeypatch.setattr("orca_cli.body_ranking.measure.build", opened)
    good = f"bodies={tmp_path / 'good.yaml'}"
    (tmp_path / "good.yaml").write_text("".join(bodies_file(tmp_path, tiny).read_text().splitlines(True)[:2]))
    code, out, err = orca("select", *words, good, "--json")
    assert code == 0, err
    assert {body["label"]: body["distance"] for body in json.loads(out)["bodies"]} == {
        body["label"]: body["distance"] for body in (first, second)
    }
    own = ["body=minilm", f"body.checkpoint={tiny['bert']}", "finetune=full", "metric=otdd", "seed=0"]
    assert orca("run", *settings, *own)[0] == 0
    assert {kind: entries(tmp_path, kind) for kind in made} == made
    assert len(results(environment)) == 1

    # Then the run's error stands beside the ranking; two bodies are too few for a correlation.
    code, out, err = orca("select", *words, good)
    assert code == 0, err
    assert out.count("% (1)") == 1
    assert "a body's layers, which are random in random" in out
    assert "next: orca run metric=otdd" in out
    code, out, _ = orca("select", "--against-runs", "--json")
    assert code == 0
    (task,) = json.loads(out)["tasks"]
    assert {label: one["n"] for label, one in task["runs"].items()} == {"bert": 1, "random": 0, "swin": 0}
    assert task["agreement"] == {"distance": None, "before": None, "logme": None, "probe": None}


def test_mistakes_are_one_line(orca, settings, tiny, tmp_path):
    bert = f"bodies=minilm:{tiny['bert']}"
    for code, words, text in (
        (2, [], "no bodies are named"),
        (2, [bert, "body=minilm"], "bodies=NAME,... names the bodies"),
        (2, ["--against-runs", bert], "takes no settings"),
        (10, ["bodies=minilmm"], "did you mean 'minilm'?"),
        (10, [bert, "seed=a"], "not a list of seeds"),
        (10, [bert, "metric=none"], "use metric=otdd"),
        (10, [bert, "train.validate_on=test"], "open the test split"),
        (11, ["--against-runs"], "no selections are recorded"),
    ):
        found, out, err = orca("select", *words, *([] if "--against-runs" in words else settings))
        assert (found, out) == (code, ""), (words, err)
        assert text in err
        assert "Traceback" not in err


def test_a_task_that_no_body_takes_is_an_error(orca, settings, tiny):
    code, _, err = orca("select", *settings, f"bodies=minilm:{tiny['bert']}", "source=digits", "seed=0")
    assert code == 10
    assert "this source is made of images and the body takes texts" in err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["labels", "values", "dense"])
def test_every_kind_of_task_is_ranked(orca, environment, settings, tiny, tmp_path, kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 1, 16)).astype(np.float32)
    y = {"labels": (x[:, 0, :3] > 0).astype(np.float32), "values": x[:, 0, :2], "dense": x}[kind]
    np.savez(tmp_path / "own.npz", x=x, y=y)
    shared = [word for word in settings if not word.startswith("task.")]
    task = ["task=arrays", f"task.kind={kind}", f"task.train={tmp_path / 'own.npz'}", "finetune=full"]
    code, out, err = orca("select", *task, *shared, f"bodies=minilm:{tiny['bert']}", "seed=0", "--json")
    assert code == 0, err
    (body,) = json.loads(out)["bodies"]
    assert np.isfinite(body["distance"])
    assert body["interval_of"] == "points"
    assert (body["logme"] is None) == (body["probe"] is None) == (kind == "dense")
