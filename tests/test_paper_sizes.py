"""scripts/paper_sizes.py (part d of bench_metric.py): how often a run does what, and the arithmetic; one small measurement."""

import dataclasses

import pytest

from scripts import paper_sizes
from scripts.paper_sizes import TASKS, Counts, Seconds, Task, projected

BY_NAME = {task.name: task for task in TASKS}


def test_the_papers_13_tasks_have_the_papers_bodies_and_settings_of_their_own():
    assert len(BY_NAME) == 13
    for task in TASKS:
        config = paper_sizes.composed(task, None)
        assert task.body in ("swin", "roberta")
        assert config.task["kind"] == task.kind
        assert (config.train.epochs, config.train.batch_size) != (0, 0)
    batches = {name: paper_sizes.composed(BY_NAME[name], None).train for name in ("cifar100", "jsb", "psicov")}
    sizes = {name: (train.batch_size, train.accumulation, train.epochs) for name, train in batches.items()}
    assert sizes == {"cifar100": (32, 32, 60), "jsb": (8, 1, 60), "psicov": (4, 32, 10)}


def test_counts_are_those_of_a_run():
    task = Task("cifar100", "swin", "classes", (3, 32, 32), 100, 40_000, 10_000)
    config = paper_sizes.composed(task, "mmd")
    align = dataclasses.replace(
        config.align, epochs=60, check_every=20, candidates=[0, 5, 20, 60, 90], select="validation", probe_epochs=5
    )
    counts = Counts.of(dataclasses.replace(config, align=align), task, groups=100)
    assert counts.problems == 60 * 100
    # At the start, at steps 0, 20 and 40, and for the candidates 0, 5, 20 and 60.
    assert (counts.values, counts.checks) == (800, 7)
    assert counts.steps == 60 * 40  # 40,000 samples by 32 x 32, of which the last step has fewer
    assert counts.samples == 60 * 40_000
    assert counts.probes == pytest.approx(4 * 5 / 60)
    last = Counts.of(dataclasses.replace(config, align=dataclasses.replace(align, select="last")), task, groups=1)
    assert (last.problems, last.probes) == (60, 0)


def test_the_projection_multiplies_and_adds():
    counts = Counts(problems=100, values=10, checks=2, steps=50, samples=1000, probes=0.25)
    seconds = Seconds(problem=3.0, value=1.0, check=5.0, step=2.0, sample=9.0, prepare=91.0)
    found = projected(counts, seconds)
    assert found["align, h"] == pytest.approx(320 / 3600)
    assert found["finetune, h"] == pytest.approx(9100 / 3600)
    assert found["align / finetune, %"] == pytest.approx(100 * 320 / 9100)
    assert found["with probes, %"] == pytest.approx(100 * 320 / 9100 + 25)
    assert found["with a cold cache, %"] == pytest.approx(100 * (320 + 91) / 9100)
    assert found["within the limit"] == "NO"
    for probes, verdict in ((0.001, "yes"), (0.25, "not with probes")):
        fewer = dataclasses.replace(counts, problems=10, probes=probes)
        assert projected(fewer, seconds)["within the limit"] == verdict


@pytest.mark.parametrize(
    "task",
    [
        Task("ninapro", "swin", "classes", (1, 16, 52), 3, 40, 20),
        Task("darcy", "swin", "dense", (3, 20, 20), 1, 40, 20),
        Task("jsb", "roberta", "dense", (8, 30), 8, 40, 20),
        Task("deepsea", "roberta", "labels", (4, 60), 5, 40, 20),
    ],
)
def test_every_form_of_task_is_measured(task):
    config = paper_sizes.composed(task, "mmd")
    align = dataclasses.replace(config.align, source_points=300, max_samples=8)
    with paper_sizes.bodies(small=True) as body:
        counts, seconds, facts = paper_sizes.measured(task, dataclasses.replace(config, align=align), body(task.body))
    assert facts["groups"] == task.classes
    assert counts.problems == align.epochs * task.classes
    assert all(value > 0 for value in dataclasses.asdict(seconds).values())
    assert projected(counts, seconds)["align / finetune, %"] > 0
