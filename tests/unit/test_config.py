"""When two runs are the same experiment, what a `_target_` and a search space may name, and which runs a study stands for."""

import importlib
import inspect
import math
import pkgutil
import sys
from collections import Counter
from dataclasses import is_dataclass

import pytest
import torch
import yaml

from orca_cli import data, scoring
from orca_cli.config import compose, configuration, parts
from orca_cli.config.identity import identify
from orca_cli.config.schema import GROUPS
from orca_cli.config.setting_checks import PARTS
from orca_cli.config.study import Study
from orca_cli.exceptions import ConfigError, OrcaError, UnsafeError
from orca_cli.launching import space as spaces
from orca_cli.runs import studies
from orca_cli.scoring.classification import ZeroOne


@pytest.fixture
def name(tmp_path, monkeypatch):
    """Return the name of a run with the settings of a task, and whatever else counts; its data lie in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def named(task, choice="x", **more):
        content = {"task": task, "body": {}, "source": {}, "train": {}} | more
        return identify(content, dict.fromkeys(GROUPS, choice), tmp_path / "data").run

    return named


def test_weights_count_by_content_but_no_folder_by_chance(tmp_path, name):
    def with_files(weights=b"1", data=b"1", chance=b"1"):
        for folder, content in (("mymodel", weights), ("series", data), ("classes", chance)):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / "model.safetensors").write_bytes(content)
        # "." and "/" of a table's symbols are folders as well.
        task = {"kind": "classes", "decimal": ".", "delimiter": "/", "labels": "series"}
        return name(task, body={"checkpoint": "mymodel"})

    assert with_files() == with_files(chance=b"2")
    assert len({with_files(), with_files(weights=b"2"), with_files(data=b"2")}) == 3


def test_a_layout_that_no_setting_gives_is_channels_first(name):
    first, *others = (name({"channels_last": layout}) for layout in (None, False, True))
    assert [first == other for other in others] == [True, False]
    assert name({}) != first  # of tasks that have no such setting


def test_an_embedder_without_its_newest_bound_is_the_same_run(name):
    embedders = ({}, {"pooled_tokens": None}, {"pooled_tokens": 64})
    first, *others = (name({}, embedder={"max_tokens": None} | part) for part in embedders)
    assert [first == other for other in others] == [True, False]


def test_a_folder_counts_by_all_files_and_links_in_it(tmp_path, name):
    image, linked = tmp_path / "photos" / "cats" / "1.png", tmp_path / "all" / "1.npy"
    for path in (image, linked):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"1")
    (tmp_path / "photos" / "dogs").symlink_to(linked.parent)
    (linked.parent / "above").symlink_to(tmp_path / "photos")  # a loop
    part = {"path": "photos", "data": {"origin": "own"}}
    seen = [name(part, "images")]
    for change in (
        lambda: image.write_bytes(b"2"),
        lambda: linked.write_bytes(b"2"),
        lambda: (tmp_path / "photos" / "cats" / "2.png").write_bytes(b"2"),
        lambda: image.parent.rename(tmp_path / "photos" / "birds"),
    ):
        change()
        seen.append(name(part, "images"))
        assert seen[-1] == name(part, "images")
    assert len(set(seen)) == 5
    (tmp_path / "photos").rename(tmp_path / "other")
    assert name(part | {"path": str(tmp_path / "other")}, "images") == seen[-1]


def test_files_that_a_task_describes_count_by_their_content(tmp_path, name):
    part = {
        "path": None,
        "data": {"files": [{"path": "x.npy", "members": ["inner/y.npy"]}, {"path": "absent.npy"}]},
    }
    seen = {name(part, "ecg")}
    (tmp_path / "data" / "ecg" / "inner").mkdir(parents=True)
    for file, text in (("x.npy", "a"), ("x.npy", "b"), ("inner/y.npy", "a")):
        (tmp_path / "data" / "ecg" / file).write_text(text)
        seen.add(name(part, "ecg"))
    assert len(seen) == 4
    (tmp_path / "data" / "ecg").rename(tmp_path / "moved")
    assert (
        name(part | {"path": str(tmp_path / "moved")}, "ecg") in seen
    )  # the same files, elsewhere


@pytest.mark.parametrize(
    ("target", "settings", "error", "message"),
    [
        ("torch.nn.L1Loss", {"reductio": 1}, ConfigError, "did you mean 'reduction'"),
        ("torch.nn.L1Los", {}, UnsafeError, "did you mean 'torch.nn.L1Loss'"),
        ("torch.nn.L1Loss", {"nested": {"_target_": "os.system"}}, UnsafeError, "nested._target_: 'os.system'"),
        ("torch.nn.BCELoss", {"weight": {"_target_": "torch.load"}}, UnsafeError, "weight._target_: 'torch.load'"),
        ("torch.nn.NLLLoss", {"weight": {"_target_": "torch.nn.L1Loss"}}, UnsafeError, "no name is allowed here"),
        ("L1Loss", {}, ConfigError, "must be the dotted name"),
        (["torch.nn.L1Loss"], {}, ConfigError, "must be the dotted name"),
    ],
)  # fmt: skip
def test_a_loss_that_cannot_be_built_says_why(target, settings, error, message):
    with pytest.raises(error, match=message):
        parts.build({"_target_": target, **settings}, "task.loss")


def errors_of_the_program():
    """Return the dotted names of the public classes that measure outputs and have a best constant."""
    return {name for name, part in _public(scoring) if hasattr(part, "constant")}


def losses_of_outputs_and_targets():
    """Return the dotted names of the program's public losses, and of torch's that take two tensors and train no weights."""
    of_torch = set()
    for name, part in vars(torch.nn).items():
        if name.endswith("Loss") and name != "MultiLabelMarginLoss":  # which takes lists of classes
            takes = list(inspect.signature(part.forward).parameters)
            has_weights = "in_features" in inspect.signature(part).parameters
            if len(takes) == 3 and not has_weights:  # self, outputs, targets
                of_torch.add(f"torch.nn.{name}")
    return of_torch | {name for name, part in _public(scoring) if issubclass(part, torch.nn.Module)}


def fitted_preprocessing():
    """Return the dotted names of the public records that open new data and turn them into inputs."""
    return {
        name
        for name, part in _public(data)
        if is_dataclass(part) and {"inputs", "open"} <= vars(part).keys()
    }


def _public(package):
    """Yield dotted name and class of every public class that is defined in a module of a package."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        content = vars(importlib.import_module(module.name))
        for name, part in content.items():
            if inspect.isclass(part) and part.__module__ == module.name and name[0] != "_":
                yield f"{module.name}.{name}", part


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("task.error", errors_of_the_program),
        ("task.error.error", errors_of_the_program),
        ("task.loss", losses_of_outputs_and_targets),
        ("preprocessing", fitted_preprocessing),
    ],
)
def test_errors_losses_and_preprocessing_have_their_places(place, expected):
    assert parts.admitted(place) == expected()


@pytest.mark.parametrize("group", PARTS)
def test_a_group_admits_what_its_files_name_and_nothing_else(group):
    targets = set()
    for path in configuration.choices(group).values():
        settings = yaml.safe_load(path.read_text())
        targets.add(settings.get(group, settings)["_target_"])
    assert parts.admitted(group) == targets - {None}
    for target in parts.admitted(group):
        assert callable(parts.resolve({"_target_": target}, group))


MINE = """\
class Loss:
    def __init__(self, error):
        self.error = error
"""


WITH_A_RECORD = """
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge


@dataclass(frozen=True, kw_only=True)
class Settings:
    path: str
    count: Annotated[int, Ge(1)] = 3


def load(settings: Settings, data_folder: str):
    return settings, data_folder
"""


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """Return the node of a function that takes its settings as a record."""
    (tmp_path / "reader_of_a_user.py").write_text(WITH_A_RECORD)
    monkeypatch.syspath_prepend(tmp_path)
    parts.allow_module("reader_of_a_user")
    return {"_target_": "reader_of_a_user.load"}


def test_a_function_may_take_its_settings_as_a_record(reader):
    node = reader | {"path": "x.npz"}
    settings, folder = parts.build(node, "task", data_folder="here", reporter=None, count=4)
    assert (settings.path, settings.count, folder) == ("x.npz", 4, "here")
    assert list(parts.parameters_of(parts.resolve(node, "task"))) == [
        "path",
        "count",
        "data_folder",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "task.path: needs a value"),
        ({"path": "x", "count": 0}, "task.count: must be an integer of at least 1, got 0"),
        ({"path": "x", "cuont": 1}, "unknown setting 'cuont'; did you mean 'count'"),
        ({"path": "x", "data_folder": "y"}, "unknown setting 'data_folder'"),
    ],
)
def test_settings_of_a_record_are_checked_by_its_fields(settings, message, reader):
    with pytest.raises(ConfigError, match=message):
        parts.check(reader | settings, "task", reserved=("data_folder",))


def test_a_module_of_the_users_own_needs_to_be_allowed_by_name(tmp_path, monkeypatch):
    (tmp_path / "parts_of_a_user.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    error = {"_target_": "orca_cli.scoring.classification.ZeroOne"}
    node = {"_target_": "parts_of_a_user.Loss", "error": error}
    with pytest.raises(UnsafeError, match="add --allow-module parts_of_a_user"):
        parts.build(node, "task.error")
    assert "parts_of_a_user" not in sys.modules
    parts.allow_module("parts_of_a_user")
    assert isinstance(parts.build(node, "task.error").error, ZeroOne)
    # Where it takes other nodes, those are admitted as anywhere else.
    with pytest.raises(UnsafeError, match="metric.error._target_.*no name is allowed here"):
        parts.build(node, "metric")


WRONG = {
    "algorithm: asha\nparams: {train.lr: [1.0e-3]}": "unknown key 'algorithm'",
    "params: {train.lr: {low: 1e-5, high: 1.0e-3}}": "the ends of a range must be numbers",
    "params: {train.validate_on: [test]}": "a search cannot vary or fix 'train.validate_on'",
    "params: {task: [digits]}": "a search cannot vary or fix 'task'",
    "params: {metric: [otdd]}": "a search cannot vary or fix 'metric'",
    "grid: true\nparams: {train.lr: {low: 1.0e-5, high: 1.0}}": "must be a list, each entry text or an integer",
    "grid: 2\nparams: {train.lr: [1.0]}": "got 2",
    "params: {train.lr: !!python/object/apply:os.system [ls]}": "asks for a Python object",
}


def test_a_space_is_found_in_both_folders_and_rounds_numbers(tmp_path):
    pytest.importorskip("optuna")
    path = tmp_path / "space" / "mine.yaml"
    path.parent.mkdir()
    for wrong, message in WRONG.items():
        path.write_text(wrong)
        with pytest.raises(OrcaError, match=f"mine.yaml.*{message}") as caught:
            spaces.find_space(str(path), None)
        assert caught.value.hint or "must be" in caught.value.what
    text = "{train.lr: {low: 1.0e-5, high: 1.0}, train.epochs: {low: 1, high: 4096}, train.clip: [0.12345]}"
    path.write_text(f"params: {text}")
    space = spaces.find_space("mine", tmp_path)
    assert space == spaces.find_space(str(path), None)
    assert len(spaces.find_space("paper_roberta", None).params) == 4
    with pytest.raises(ConfigError, match="did you mean 'paper_roberta'"):
        spaces.find_space("paper_robert", None)
    drawn = {"train.lr": math.pi / 1000, "train.epochs": 1234, "train.clip": 0.12345}
    assert space.plain(drawn) == drawn | {"train.lr": 0.00314}


FILE = """\
# A small one
common: [train.epochs=5, align.epochs=0]
axes:
  seed: [0, 1]
  set:
    digits: task=digits
    image: [task=digits, task.layout=image, train.epochs=7]
    own: [task=arrays, task.kind=classes, task.train=study/own.npz]
  body:
    minilm: body=minilm
    swin: [body=swin_tiny, "body.checkpoint=???", source=digits]
except:
  - {body: swin, set: [digits, own]}
files:
  task.train: python scripts/study_data.py
"""


@pytest.fixture
def read(tmp_path):
    def written(name, text):
        path = tmp_path / "study" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return Study.read(name, path)

    return written


@pytest.fixture
def expand(read, tmp_path, monkeypatch):
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))
    read("small", FILE)

    def expanded(*words):
        with compose.session(tmp_path) as session:
            return session.expand(
                [*([] if "study=" in words[0] else ["study=small", "body=minilm"]), *words]
            )

    return expanded


def test_arms_are_the_combinations_that_no_exception_leaves_out(read, tmp_path):
    study = read("small", FILE)
    arms = study.arms({}, tmp_path)
    combinations = [("digits", "minilm"), ("image", "minilm"), ("image", "swin"), ("own", "minilm")]
    assert [tuple(arm.labels.values()) for arm in arms] == [
        (seed, *rest) for seed in "01" for rest in combinations
    ]
    assert arms[0].overrides == [
        "train.epochs=5", "align.epochs=0", "seed=0", "task=digits", "body=minilm",
    ]  # fmt: skip
    assert [word for word in arms[1].overrides if word.startswith("train.epochs")] == [
        "train.epochs=7"
    ]
    typed = study.arms({"train.epochs": {n: (f"train.epochs={n}",) for n in "12"}}, tmp_path)
    choices = [("train.epochs=1" in arm.overrides, arm.labels["train.epochs"]) for arm in typed[:2]]
    assert (len(typed), choices) == (16, [(True, "1"), (False, "2")])
    text = (
        "axes:\n  seed: [0, 1]\n  set: {one: ['task.train=s/{seed}/{set}.npz', 'task.x={other}']}\n"
    )
    first, _ = read("two", text).arms({}, tmp_path)
    assert first.overrides == [
        "seed=0",
        "task.train=s/0/one.npz",
        "task.x={other}",
    ]  # the arm's choices


def test_an_arm_that_lacks_a_file_or_a_value_says_how_to_get_it(read, tmp_path):
    study = read("small", FILE)
    reasons = Counter(arm.lacks for arm in study.arms({}, tmp_path) if arm.lacks)
    assert reasons == {
        "needs body.checkpoint: choose a value on the command line": 2,
        f"'{tmp_path}' has no 'study/own.npz'; to get it: python scripts/study_data.py": 2,
    }
    typed = study.arms({"body.checkpoint": {"x": ("body.checkpoint=x",)}}, tmp_path)
    bodies = [arm.labels["body"] for arm in typed if "body.checkpoint=x" in arm.overrides]
    assert bodies == ["swin", "swin"]  # not to the other body


def test_the_command_line_narrows_axes_and_replaces_the_sets(read, expand):
    sweep = expand("set=image,digits", "seed=1")
    names = ("image", "digits")
    assert [job.labels for job in sweep.jobs] == [
        {"seed": "1", "set": name, "body": "minilm"} for name in names
    ]
    assert ([job.config.train.epochs for job in sweep.jobs], sweep.absent) == ([7, 5], {})
    assert {job.labels["set"] for job in expand("set=glob(*ig*)", "seed=0").jobs} == {"digits"}
    named, other = expand("task=digits,listops", "seed=0").jobs
    assert named.overrides == expand("set=digits", "seed=0").jobs[0].overrides
    assert (other.choices["task"], other.labels["set"]) == ("listops", "listops")
    read(
        "metrics",
        "axes:\n  metric: {none: metric=none, halves: [metric=minibatch_ot, metric.size=32]}\n",
    )
    (job,) = expand("study=metrics", "metric=halves").jobs  # which no metric is called
    assert job.config.metric["size"] == 32


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("axis: {seed: [0]}\n", ConfigError, "unknown key .axis.; did you mean 'axes'"),
        (
            "axes: {seed: [0]}\nexcept: [{seed: 1}]\n",
            ConfigError,
            "the axis .seed. has no choice .1.",
        ),
        ("axes: {set: {a: [paths.runs=/x]}}\n", UnsafeError, "how the program runs"),
    ],
    ids=["key", "exception", "paths"],
)
def test_a_file_that_is_not_a_study_is_refused(read, text, error, message):
    with pytest.raises(error, match=message):
        read("bad", text)


def test_a_run_is_in_two_studies_until_its_settings_change(tmp_path):
    first, second, third = (
        studies.Member(name, {"set": label}) for name, label in ("ad", "bo", "co")
    )
    studies.add(tmp_path, "one", [first, second])
    studies.add(tmp_path, "two", [first])
    studies.add(tmp_path, "one", [third])
    assert (studies.read(tmp_path, "one"), studies.read(tmp_path, "two")) == (
        [first, third],
        [first],
    )


@pytest.mark.parametrize(
    "use",
    [
        lambda root: studies.read(root, "small"),
        lambda root: studies.add(root, "small", [studies.Member("bb", {"metric": "otdd"})]),
    ],
    ids=["read", "add"],
)
def test_a_damaged_record_of_a_study_is_refused(use, tmp_path):
    studies.add(tmp_path, "small", [studies.Member("aa", {"metric": "otdd"})])
    studies.path_of(tmp_path, "small").write_text('{"schema": 2, "runs": [')
    with pytest.raises(OrcaError, match="move the file away; `orca run -m study=small`"):
        use(tmp_path)


FIRST_HOUR = [
    (["train.learning_rate=1"], "did you mean 'lr'?"),
    (["lr=1"], "did you mean 'train.lr'?"),
    (["epochs=3"], "did you mean 'train.epochs'?"),
    (["batch_size=3"], "did you mean 'train.batch_size'?"),
    (["task.train=my.npz"], "choose task=arrays, task=table or task=images"),
    (["train=my.npz"], "is a group of settings; set one of them, such as train.epochs; for your"),
    (["task=arrays", "task.train=a", "task.kind=regression"], "did you mean 'values'?"),
    (["metric=OTDD"], "did you mean 'otdd'?"),
    (["body=bert-base-uncased"], "body=auto body.checkpoint=bert-base-uncased"),
    (["task=digits", "budget=quick"], "set train.epochs=null as well"),
]


@pytest.mark.parametrize(("words", "hint"), FIRST_HOUR, ids=str)
def test_a_newcomers_words_are_answered_with_the_setting(words, hint):
    with compose.session() as session, pytest.raises(ConfigError) as caught:
        session.compose(words)
    assert hint in str(caught.value)
