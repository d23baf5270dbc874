"""Every task of the paper through all three stages, from files in its original format, on a tiny body."""

import numpy as np
import pytest
import torch

from orca_cli.config import compose
from orca_cli.stages.build import build, read_task
from orca_cli.terminal import LogReporter
from tests import benchmark_files
from tests.cli.conftest import results

# What makes a run small, beside the files' own smallness. Nothing here changes what is read.
SMALL = {
    "psicov": ["task.window=64", "task.num_validation=2", "train.batch_size=4"],
    "jsb": ["train.batch_size=4"],
    "spherical": ["task.validation_size=100", "align.classes_per_problem=0"],
    "cifar100": ["task.validation_size=100", "align.classes_per_problem=0"],
    "domainnet": ["task.validation_size=40"],
    "listops": ["task.origin=files"],
    "darcy": ["task.origin=files", "task.num_train=16", "task.num_validation=8", "task.num_test=6"],
}
# Windows of an electrocardiogram overlap so much that even a small file makes hundreds of them.
TASKS = [pytest.param(task, marks=pytest.mark.slow) if task == "ecg" else task for task in benchmark_files.TASKS]
IMAGES = ("cifar100", "spherical", "darcy", "psicov", "cosmic", "ninapro", "fsd50k", "domainnet")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Return a function that writes a task's files once and returns the data folder."""
    folder = tmp_path_factory.mktemp("data")
    made = set()

    def make(task):
        if task not in made:
            made.add(task)
            benchmark_files.make(task, folder)
        return folder

    return make


@pytest.fixture
def command(data, tiny):
    def words(task, *more):
        body = ["body=swin_tiny", f"body.checkpoint={tiny['swin']}", "source=digits"]
        if task not in IMAGES:
            body = ["body=minilm", f"body.checkpoint={tiny['long']}", "source=stdlib_docs"]
        return [
            f"task={task}", *body, f"paths.data={data(task)}", "source.size=160", "align.epochs=2",
            "align.source_points=150", "align.max_samples=8", "align.check_every=2",
            "align.pseudo_labels=3", "train.epochs=1", "train.warmup_epochs=0", "train.batch_size=8",
            "train.accumulation=1", "train.lr=1e-3", "train.decay_epochs=1", *SMALL.get(task, []), *more,
        ]  # fmt: skip

    return words


@pytest.mark.parametrize("task", TASKS)
def test_trains_on_a_part_of_the_training_split(command, environment, task):
    with compose.session() as session:
        whole, half = (
            read_task(session.compose(command(task, *more)).config, LogReporter())
            for more in ((), ("task.train_fraction=0.5",))
        )
    assert len(half.train) == max(1, round(0.5 * len(whole.train)))
    assert half.validation.digest() == whole.validation.digest()
    assert half.open_test().digest() == whole.open_test().digest()
    assert f"{len(half.train)} of {len(whole.train)} training samples are used" in half.note
    first = half.train.batch(np.arange(1))
    assert first.x.shape[1:] == whole.input_shape
    if task not in ("fsd50k",):  # pieces of clips are drawn
        assert torch.equal(first.x, whole.train.batch(half.train.rows[:1]).x)


# Beside metric=none: the sources of the protocols other than clean need files of their own.
BESIDE_CLEAN = {"darcy": ["task.size=small"]}


# What the protocols other than clean set is compared in test_protocols.py.
RUNS = [pytest.param(task, "clean", marks=pytest.mark.slow if task == "ecg" else ()) for task in benchmark_files.TASKS]
RUNS += [("jsb", "release"), ("ninapro", "paper"), ("darcy", "release"), ("cosmic", "paper")]


@pytest.mark.parametrize(("task", "protocol"), RUNS)
def test_has_the_settings_of_every_protocol(run, command, task, protocol):
    """From files in the original format."""
    more = [] if protocol == "clean" else ["metric=none", *BESIDE_CLEAN.get(task, [])]
    result = run(*command(task, f"protocol={protocol}", *more)).result
    assert result["error"]["value"] is not None
    assert result["protocol"] == protocol
    assert result["test_reads"] == (2 if protocol == "release" else 1)
    if protocol == "clean":
        assert len({split["sha256"] for split in result["splits"].values()}) == 3
    else:
        assert result["selected"]["on"] == ("test" if protocol == "release" else "validation")


def test_no_frame_of_a_chorale_sees_the_future(data, tiny, tmp_path, monkeypatch):
    """Through the model that a run builds: what comes after a frame is changed, and its output keeps its bits."""
    monkeypatch.setenv("ORCA_HOME", str(tmp_path))
    words = ["task=jsb", "body=minilm", f"body.checkpoint={tiny['long']}", f"paths.data={data('jsb')}", "metric=none"]
    seen = {}
    for causal in (True, False):
        with compose.session() as session:
            built = build(
                session.compose([*words, f"task.causal={causal}", "train.batch_size=2"]).config, LogReporter()
            )
        model, batch = built.model.eval(), built.task.validation.batch(np.arange(2))
        changed = []
        for frame in (0, 7, 28):
            other = batch.x.clone()
            other[:, :, frame + 1 :] = 1 - other[:, :, frame + 1 :]
            with torch.no_grad():
                before, after = (model(x, batch.valid)[:, :, : frame + 1] for x in (batch.x, other))
            changed.append(not torch.equal(before, after))
        seen[causal] = changed
        with torch.no_grad():
            assert not torch.equal(model(batch.x, batch.valid), model(1 - batch.x, batch.valid))
    assert seen == {True: [False] * 3, False: [True] * 3}


def test_files_that_were_changed_make_another_experiment(run, command, environment, tmp_path):
    words = [*command("ninapro"), f"paths.data={tmp_path}", "metric=none"]
    for seed, (is_new, count) in zip((0, 0, 1), ((True, 1), (False, 1), (True, 2)), strict=True):
        benchmark_files.make("ninapro", tmp_path, seed=seed)
        assert ("already completed" in run(*words).err) != is_new
        assert len({result["identity"] for result in results(environment)}) == count
