"""The studies of the paper, as files: every arm composes, arms differ in what they are about, and the page lists them."""

import re
from pathlib import Path

import pytest

from orca_cli.config import compose
from orca_cli.config.configuration import choices
from orca_cli.config.study import SET, Study

ROOT = Path(__file__).parents[2]
PAPER = ("table2", "table3", "table4", "table5", "table7", "table9", "table10")
PAPER += ("figure4", "figure5", "figure6", "ablate")


def read(name):
    return Study.read(name, choices("study")[name])


def place(study, folder):
    """Create a placeholder in a data folder for every path that a study names."""
    bundles = [study.common, *(texts for axis in study.axes.values() for texts in axis.values())]
    for key in study.files:
        values = {
            text.partition("=")[2]
            for texts in bundles
            for text in texts
            if text.startswith(f"{key}=")
        }
        for value in values - {"???"}:
            path = folder / value.replace("{seed}", "0")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(value) if path.suffix else path.mkdir(exist_ok=True)


def arms_of(study):
    return [axis for axis in study.axes if axis not in (SET, "seed")]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "figure6" else pytest.mark.slow) for name in PAPER],
)
def test_arms_and_sets_compose_no_two_runs_are_the_same_and_arms_train_alike(name, tmp_path):
    """All arms on the first set, and the first arm on all sets, with one seed and at one rate."""
    study = read(name)
    place(study, tmp_path)
    words = [f"study={name}", "seed=0", f"paths.data={tmp_path}"]
    words += [f"body.checkpoint={tmp_path}"] if "body.checkpoint" in study.files else []
    words += ["train.lr=5e-4"] if "train.lr" in study.axes else []
    arms = [
        f"{axis}={next(iter(study.axes[axis]))}"
        for axis in arms_of(study)
        if axis not in ("body", "train.lr")
    ]
    with compose.session() as session:
        expansions = [
            session.expand([*words, *more])
            for more in ([f"set={next(iter(study.axes[SET]))}"], arms)
        ]
    assert not any(expansion.absent for expansion in expansions)
    first_set, every_set = (expansion.jobs for expansion in expansions)
    for jobs in (first_set, every_set):
        assert len({job.identity.run for job in jobs}) == len(jobs)
    assert {job.labels[SET] for job in every_set} == set(study.axes[SET])
    for axis in set(arms_of(study)) - {"train.lr"}:
        assert {job.labels[axis] for job in (*first_set, *every_set)} == set(study.axes[axis])
    if name == "table4":
        return
    settings = [
        vars(job.config) | {"task": {**job.config.task, "train_fraction": None}}
        for job in first_set
    ]
    for key in ("train", "task", "precision", "budget"):
        assert all(one[key] == settings[0][key] for one in settings), key
    assert {
        job.choices["finetune"] for job in first_set if job.config.embedder["init"] == "random"
    } <= {"scratch"}


def test_the_page_lists_every_study_of_the_paper_with_its_number_of_runs(tmp_path):
    page = (ROOT / "docs" / "studies.md").read_text()
    rows = set(re.findall(r"^(\w+)  +\S.*  +\w+  +(\d+)$", page, flags=re.M))
    assert {(name, str(len(read(name).arms({}, tmp_path)))) for name in PAPER} <= rows
