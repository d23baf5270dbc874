"""The studies of the paper, as files: every arm composes, arms differ in what they are about, and the page lists them."""

import functools
import re
from pathlib import Path

import pytest

from orca_cli.config import compose
from orca_cli.config.configuration import choices
from orca_cli.config.study import SET, Study

ROOT = Path(__file__).parents[2]
PAPER = ("table2", "table3", "table4", "table5", "table7", "table9", "table10")
RATE, HIGHEST = "5e-4", {"5e-3", "1e-2"}  # the rate of all arms; those that the first arm does not have
PAPER += ("figure4", "figure5", "figure6", "ablate")


def read(name):
    return Study.read(name, choices("study")[name])


def values_of(study, key):
    """Return what a study's arms set a key to."""
    bundles = [study.common, *(texts for axis in study.axes.values() for texts in axis.values())]
    return {text.partition("=")[2] for texts in bundles for text in texts if text.startswith(f"{key}=")}


def place(study, folder):
    """Create a placeholder in a data folder for every path that a study names."""
    for key in study.files:
        for value in values_of(study, key) - {"???"}:
            path = folder / value.replace("{seed}", "0")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(value) if path.suffix else path.mkdir(exist_ok=True)


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """Return, for a study's name: the jobs of all its arms on the first set, and of its first arm on all sets; one seed.

    Arms and sets are composed at the rate that all have; the first arm at all of its rates.
    """
    folder = tmp_path_factory.mktemp("data")

    @functools.cache
    def jobs(name):
        study = read(name)
        place(study, folder)
        typed = [f"study={name}", "seed=0", f"paths.data={folder}"]
        typed += [f"body.checkpoint={folder}"] if "body.checkpoint" in study.files else []
        set_ = f"set={next(iter(study.axes[SET]))}"
        rate = [f"train.lr={RATE}"] if "train.lr" in study.axes else []
        arms = [f"{axis}={next(iter(study.axes[axis]))}" for axis in arms_of(study) if axis != "body"]
        arms = [text for text in arms if not text.startswith("train.lr=")]
        with compose.session() as session:
            words = [[*typed, *rate, set_], [*typed, *rate, *arms], *([[*typed, *arms, set_]] if rate else [])]
            expansions = [session.expand(one) for one in words]
        assert not any(expansion.absent for expansion in expansions)
        return [expansion.jobs for expansion in expansions]

    return jobs


def arms_of(study):
    return [axis for axis in study.axes if axis not in (SET, "seed")]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_every_arm_and_every_set_composes_and_no_two_runs_are_the_same(composed, name):
    study = read(name)
    expansions = composed(name)
    for jobs in expansions:
        assert len({job.identity.run for job in jobs}) == len(jobs)
    assert {job.labels[SET] for job in expansions[1]} == set(study.axes[SET])
    for axis in arms_of(study):
        among = expansions[2:] if axis == "train.lr" else expansions
        assert {job.labels[axis] for jobs in among for job in jobs} == set(study.axes[axis]) - HIGHEST


@pytest.mark.parametrize("name", [name for name in PAPER if name != "table4"])
def test_arms_of_a_set_train_in_the_same_way(composed, name):
    first_set_jobs, _, *rates = composed(name)
    jobs = [*first_set_jobs, *sum(rates, [])]
    settings = [
        {f"train.{key}": value for key, value in vars(job.config.train).items()}
        | {"task": job.config.task, "precision": job.config.precision, "budget": job.config.budget}
        for job in jobs
    ]
    differing = {key for job_settings in settings for key in job_settings if job_settings[key] != settings[0][key]}
    assert differing == ({"task"} if name == "figure5" else {"train.lr"} & read(name).axes.keys())
    assert {job.choices["finetune"] for job in jobs if job.config.embedder["init"] == "random"} <= {"scratch"}


def test_a_study_takes_another_task_and_protocol(tmp_path):
    place(read("table3"), tmp_path)
    with compose.session() as session:
        words = ["study=table3", f"paths.data={tmp_path}", "task=ecg", "arm=orca", "seed=0", "protocol=paper"]
        words.append("train.lr=5e-4")
        (job,) = session.expand(words).jobs
    assert (job.choices["task"], job.choices["body"], job.config.train.lr) == ("ecg", "roberta", 5e-4)
    assert job.choices["metric"] == "otdd"  # the arm's, not the protocol's


def test_the_page_lists_every_study_of_the_paper_with_its_number_of_runs(tmp_path):
    page = (ROOT / "docs" / "studies.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\| (\d+) \|", page, flags=re.M))
    assert {name: int(rows.get(name, -1)) for name in PAPER} == {
        name: len(read(name).arms({}, tmp_path)) for name in PAPER
    }


def test_data_that_are_not_there_are_left_out_with_the_command_that_gets_them(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCA_HOME", str(tmp_path))
    with compose.session() as session:
        sweep = session.expand(["study=table2", "seed=0"], may_be_empty=True)
    assert {job.labels[SET] for job in sweep.jobs} == {"digits", "listops"}
    for task in ("deepsea", "ecg", "cosmic", "psicov", "satellite"):
        assert any(
            f"no {task} in the data folder" in reason and "orca data get" in reason for reason in sweep.absent
        ), task
