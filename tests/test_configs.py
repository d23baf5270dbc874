"""Every YAML file under conf/ is composed, checked and built on a tiny body."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from orca_cli.config import compose
from orca_cli.config.configuration import config_dir
from orca_cli.config.schema import lookup
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.launching import space as spaces
from orca_cli.stages.build import build, read_source
from orca_cli.terminal import LogReporter
from tests.checkpoints import save_tiny, save_tiny_bert

CONF = config_dir()
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml"))

# The generated tasks at a size that a test can afford.
SMALL = {
    "digits": ["task.train_size=40"],
    "mnist1d": ["task.train_size=40"],
    "arrays": ["task.kind=classes"],
    "listops": ["task.num_train=40", "task.num_validation=20", "task.num_test=20"],
    "darcy": ["task.num_train=4", "task.num_validation=4", "task.num_test=4"],
}
OWN = ("arrays", "images", "table")


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """Return the overrides that tasks on a user's own data require."""
    tmp_path = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    np.savez(tmp_path / "own.npz", x=rng.normal(size=(40, 2, 9)), y=y)
    table = pd.DataFrame({"a": rng.normal(size=40), "b": y + rng.normal(size=40), "y": y})
    table.to_csv(tmp_path / "own.csv", index=False)
    for number, label in enumerate(y):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(
            folder / f"{number}.png"
        )
    return {
        "arrays": [f"task.train={tmp_path / 'own.npz'}"],
        "images": [f"task.path={tmp_path / 'images'}"],
        "table": [f"task.train={tmp_path / 'own.csv'}", "task.target=y"],
    }


def overrides_for(path, own_data):
    group, name = path.parts
    name = name.removesuffix(".yaml")
    words = [f"{group}={name}"]
    if group == "source":
        words += ["body=swin_tiny"] if name in ("cifar10", "digits") else []
    if (group, name) == ("body", "auto"):
        words += ["body.checkpoint=."]  # any folder: it has none by default
    if group == "task":
        words += SMALL.get(name, []) + own_data.get(name, [])
    else:
        words += SMALL["digits"]
    return words


CHOICES = [
    path for path in FILES if len(path.parts) == 2 and path.parts[0] not in ("space", "study")
]
if importlib.util.find_spec("peft") is None:  # the extra lora is not installed
    CHOICES = [path for path in CHOICES if path.stem != "lora"]

# All files are composed; bodies are built here unless tests/models/test_conformance.py builds them.
BUILT = [
    path
    for path in CHOICES
    if path.parts[0] != "body" or path.stem in ("auto", "minilm", "swin", "swin_tiny")
]


@pytest.fixture(scope="module")
def jobs(own_data, tmp_path_factory):
    """Return file -> its job, with a tiny checkpoint of its body."""
    root = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch, compose.session() as session:
        patch.setenv("ORCA_HOME", str(tmp_path_factory.mktemp("home")))
        made = {
            path: session.compose([*overrides_for(path, own_data), "train.batch_size=4"])
            for path in CHOICES
        }
    names = {made[path].choices["body"] for path in BUILT} - {"minilm"}
    tiny = {name: save_tiny(name, root / name) for name in names}
    tiny["minilm"] = save_tiny_bert(root / "minilm", max_position_embeddings=512)
    for path in BUILT:
        made[path].config.body["checkpoint"] = str(tiny[made[path].choices["body"]])
    return made


@pytest.mark.parametrize("path", BUILT, ids=str)
def test_composes_checks_and_builds(path, jobs):
    job = jobs[path]
    about = job.config.source["data"]
    if about.get("files") or about.get("files_of") or about.get("origin") == "own":
        job.config.metric.pop(
            "_target_", None
        )  # without alignment: the files of the source are not on this machine
    if path.parts[0] == "task" and path.stem not in (
        *SMALL,
        *OWN,
    ):  # they are read in tests/cli/test_tasks.py
        with pytest.raises(DataError, match=f"orca data list {path.stem}"):
            build(job.config, LogReporter())
        return
    built = build(job.config, LogReporter())
    batch = built.task.train.batch(np.arange(2))
    built.loss(built.model.eval()(batch.x, batch.valid), batch.y)
    about = job.config.source["data"]
    if path.parts[0] == "source" and (about.get("origin") == "own" or about.get("files_of")):
        with pytest.raises(DataError, match=r"set source\.path"):
            read_source(job.config, LogReporter())
    elif path.parts[0] == "source" and not job.config.source.get("data", {}).get("files"):
        assert read_source(job.config, LogReporter()).modality == built.model.body.modality


TYPED = [
    (["task=deepsea", "protocol=paper", "train.lr=3e-5"], "align.lr", 3e-5),
    (
        ["task=deepsea", "protocol=paper", "task.loss.positive_weight=2"],
        "task.loss.positive_weight",
        2,
    ),
    (
        ["task=deepsea", "protocol=paper", "task.train_on_validation=false"],
        "task.train_on_validation",
        False,
    ),
    (["task=deepsea", "hparams=clean/ecg-roberta"], "train.lr", 5e-4),  # of another task
    (["task=deepsea", "protocol=paper", "~departures"], "task.train_on_validation", False),
]


def test_what_is_typed_beats_what_a_tasks_file_says_for_a_protocol():
    with compose.session() as session:
        for words, key, value in TYPED:
            assert lookup(session.compose(words).config, key) == value, words


def test_a_task_of_ones_own_holds_its_variants_itself(tmp_path):
    def composed(*words):
        with compose.session(tmp_path) as session:
            return session.compose(["task=mine", *words]).config

    task = "# @package _global_\n# Mine.\ndefaults: [override /body: minilm]\n"
    task += "task:\n  _target_: orca_cli.benchmarks.digits.load\n  kind: classes\n"
    block = "  departures: {paper: {train_size: 50}}\n  hparams: {clean: {minilm: {train: {lr: 1e-3}}}}\n"
    files = {
        "task/mine": task,
        "hparams/clean/mine-roberta": "# @package _global_\n# Mine.\ntrain: {lr: 0.5}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    assert composed().train.lr is None
    assert composed("body=roberta").train.lr == 0.5
    (tmp_path / "task" / "mine.yaml").write_text(task + block)
    assert composed().train.lr == 1e-3
    assert composed("protocol=paper").task["train_size"] == 50
    (tmp_path / "hparams" / "clean" / "mine-minilm.yaml").write_text(
        "# @package _global_\ntrain: {lr: 0.5}\n"
    )
    with pytest.raises(ConfigError, match="rename it"):
        composed()


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "space"], ids=str)
def test_all_values_of_a_search_space_can_be_set(path):
    space = spaces.find_space(str(CONF / path), None)
    with compose.session() as session:
        for drawn in space.corners():
            words = [f"{key}={value}" for key, value in (space.fixed | drawn).items()]
            (job,) = session.expand(words).jobs
            # A wrong choice in a group that is searched is already an error.
            settings = {key: str(value) for key, value in drawn.items() if "." in key}
            assert {key: str(lookup(job.config, key)) for key in settings} == settings


# Settings that a task and a body set: source, embedder, trained parameters and learning rate of stage 3 (-: by the budget).
BROUGHT = """
task=darcy      body=swin     cifar10   Patch full 1e-3
task=deepsea    body=roberta  conll2003 Patch full 1e-4
task=deepsea    body=swin     cifar10   Patch full -
task=listops    body=minilm   stdlib_docs Patch full 3e-4
task=digits     body=roberta  stdlib_docs Overlap full -
arrays          body=roberta  stdlib_docs None auto -
images          body=swin     digits    None auto -
task=deepsea    protocol=release conll2003 Patch full 1e-5
task=deepsea    source=stdlib_docs stdlib_docs Patch full 1e-4
arrays          body=roberta,source=conll2003 conll2003 None auto -
"""


def test_tasks_of_the_paper_bring_the_papers_setting_and_others_a_source_without_files(own_data):
    """An exception is digits on an image body, which would be aligned with its own data."""
    with compose.session() as session:
        plain = session.compose([]).choices["metric"]
        for row in BROUGHT.strip().splitlines():
            task, words, source, embedder, finetune, rate = row.split()
            task_words = (
                [task] if "=" in task else [f"task={task}", *SMALL.get(task, []), *own_data[task]]
            )
            job = session.compose([*task_words, *words.split(",")])
            assert (job.choices["source"], job.choices["finetune"]) == (source, finetune), row
            assert job.choices["metric"] == ("otdd_reference" if "release" in words else plain), row
            assert str(job.config.embedder["_target_"]).split(".")[-1] == embedder, row
            assert job.config.train.lr == (None if rate == "-" else float(rate)), row
