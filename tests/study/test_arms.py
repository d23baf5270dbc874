"""What the arms of a study have in common, and what the settings that only arms use do."""

from contextlib import closing

import numpy as np
import pytest

from orca_cli.config import compose
from orca_cli.stages import optimizer_steps
from orca_cli.stages.build import build
from orca_cli.stages.problem import make_problem
from orca_cli.stages.pseudo_labels import shuffled
from orca_cli.terminal import LogReporter
from orca_cli.training.engine import Engine, choose_device
from tests.checkpoints import save_tiny_bert

# One arm for each thing in which arms differ: what is trained, from which start, aligned how and with what.
ARMS = {
    "orca", "scratch", "frozen", "layernorm", "shuffled_labels", "noise_proxy", "other_proxy",
    "moments",
}  # fmt: skip


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("bodies") / "bert")


def orders(words, monkeypatch, steps):
    """Return arm -> the samples of its first optimizer steps, as stage 3 asks for them."""
    taken, orders_by_arm = [], {}
    monkeypatch.setattr(
        optimizer_steps,
        "train_step",
        lambda *_, indices, **settings: taken.append(tuple(indices)) or (0.0, None),
    )
    with compose.session() as session:
        jobs = session.expand(words).jobs
    for job in jobs:
        built = build(job.config, LogReporter())
        taken.clear()
        engine = Engine(choose_device("cpu"), "fp32")
        with closing(
            optimizer_steps.OptimizerSteps(built, engine, built.learned, built.plan.seed)
        ) as plan:
            for step in range(steps):
                plan.take(step)
        orders_by_arm[job.labels["arm"]] = list(taken)
    return orders_by_arm


@pytest.mark.slow
def test_arms_of_a_seed_see_the_same_samples_in_the_same_order(body, monkeypatch, tmp_path):
    monkeypatch.setenv("ORCA_HOME", str(tmp_path))
    (tmp_path / "data" / "wnut17").mkdir(parents=True)
    (tmp_path / "data" / "wnut17" / "wnut17train.conll").write_text("a\tB-x\n\nb\tB-y\n\n" * 2)
    words = [
        "study=ablate",
        "set=digits",
        f"body.checkpoint={body}",
        "task.train_size=40",
        "train.lr=5e-4",
    ]
    steps = 7  # over two epochs of 3 steps
    first = orders([*words, "seed=0", f"arm={','.join(ARMS)}"], monkeypatch, steps)
    assert first.keys() == ARMS
    assert len({tuple(order) for order in first.values()}) == 1
    order = first["orca"]
    assert sorted(sum(order[:3], ())) == list(range(40)) == sorted(sum(order[3:6], ()))
    assert order[:3] != order[3:6]
    (other,) = {
        tuple(order)
        for order in orders([*words, "seed=1", "arm=orca,scratch"], monkeypatch, steps).values()
    }
    assert other != tuple(order)


def test_shuffled_labels_are_those_of_each_split_in_another_order_and_reach_the_problem_of_stage_2(
    body, monkeypatch, tmp_path
):
    monkeypatch.setenv("ORCA_HOME", str(tmp_path))
    train, validation = np.repeat(np.arange(5), 40), np.arange(7) % 3
    permuted = shuffled((train, validation), seed=0)
    for labels, original in zip(permuted, (train, validation), strict=True):
        assert np.array_equal(np.sort(labels), np.sort(original))
    assert 0.1 < np.mean(permuted[0] == train) < 0.35  # 0.2 by chance
    assert np.array_equal(permuted[0], shuffled((train, validation), seed=0)[0])
    assert not np.array_equal(permuted[0], shuffled((train, validation), seed=1)[0])
    words, pure = [f"body.checkpoint={body}", "task.train_size=40", "source.size=80"], {}
    for kind in ("given", "shuffled"):
        with compose.session() as session:
            built = build(
                session.compose([*words, f"align.target_labels={kind}"]).config, LogReporter()
            )
        problem, _ = make_problem(built, Engine(choose_device("cpu"), "fp32"), LogReporter())
        members = problem.train.members
        assert {c: len(rows) for c, rows in members.items()} == dict.fromkeys(range(10), 4)
        targets = built.task.train.targets()  # stage 3 has the task's own
        pure[kind] = all(set(targets[rows]) == {c} for c, rows in members.items())
    assert pure == {"given": True, "shuffled": False}
