"""Studies: which runs a file and a command line stand for."""

import pytest

from orca_cli.config import compose
from orca_cli.config.study import Study, absent, absent_lines
from orca_cli.exceptions import ConfigError, OrcaError, UnsafeError
from orca_cli.runs import studies

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
def study(tmp_path):
    path = tmp_path / "study" / "small.yaml"
    path.parent.mkdir()
    path.write_text(FILE)
    return Study.read("small", path)


@pytest.fixture
def expand(study, tmp_path, monkeypatch):
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))

    def expanded(*words):
        with compose.session(tmp_path) as session:
            return session.expand(["study=small", *words])

    return expanded


def arms(study, tmp_path, **typed):
    return study.arms({key: [(value, f"{key}={value}")] for key, value in typed.items()}, tmp_path)


def test_every_combination_but_the_excepted_ones_is_an_arm_the_first_axis_slowest(study, tmp_path):
    labels = [tuple(arm.labels.values()) for arm in arms(study, tmp_path)]
    combinations = [("digits", "minilm"), ("image", "minilm"), ("image", "swin"), ("own", "minilm")]
    assert labels == [(seed, *rest) for seed in "01" for rest in combinations]


def test_a_later_axis_beats_common_overrides_and_the_command_line_beats_both(study, tmp_path):
    digits, image, *_ = arms(study, tmp_path)
    assert digits.overrides == ["train.epochs=5", "align.epochs=0", "seed=0", "task=digits", "body=minilm"]
    assert "train.epochs=7" in image.overrides
    assert "train.epochs=5" not in image.overrides
    typed = study.arms({"train.epochs": [("1", "train.epochs=1"), ("2", "train.epochs=2")]}, tmp_path)
    assert len(typed) == 16
    choices = [("train.epochs=1" in arm.overrides, arm.labels["train.epochs"]) for arm in typed[:2]]
    assert choices == [(True, "1"), (False, "2")]


def test_an_arm_without_its_file_or_a_value_that_must_be_typed_is_named_with_what_helps(study, tmp_path):
    assert absent(arms(study, tmp_path)) == {
        "needs body.checkpoint=...: give it on the command line": 2,
        f"no study/own.npz in the data folder {tmp_path}: python scripts/study_data.py": 2,
    }
    assert absent_lines(absent(arms(study, tmp_path))) == [
        "2 runs left out: needs body.checkpoint=...: give it on the command line",
        f"2 runs left out: no study/own.npz in the data folder {tmp_path}: python scripts/study_data.py",
    ]
    (tmp_path / "study" / "own.npz").write_bytes(b"")
    typed = study.arms({"body.checkpoint": [("x", "body.checkpoint=x")]}, tmp_path)
    assert absent(typed) == {}
    bodies = [arm.labels["body"] for arm in typed if "body.checkpoint=x" in arm.overrides]
    assert bodies == ["swin", "swin"]  # not to the other body


def test_the_command_line_narrows_axes_by_name(expand):
    sweep = expand("set=image,digits", "body=minilm", "seed=1")
    assert [job.labels for job in sweep.jobs] == [
        {"seed": "1", "set": name, "body": "minilm"} for name in ("image", "digits")
    ]
    assert [job.config.train.epochs for job in sweep.jobs] == [7, 5]
    assert sweep.absent == {}
    others = expand("seed=7,8", "set=digits", "body=minilm").jobs  # values of a setting
    assert [job.config.seed for job in others] == [7, 8]
    assert {job.labels["set"] for job in expand("set=glob(*ig*)", "body=minilm").jobs} == {"digits"}


def test_a_task_on_the_command_line_takes_the_place_of_the_sets(expand):
    (job,) = expand("task=listops", "body=minilm", "seed=0").jobs
    assert (job.choices["task"], job.labels["set"]) == ("listops", "listops")
    (named,) = expand("task=digits", "body=minilm", "seed=0").jobs
    assert named.overrides == expand("set=digits", "body=minilm", "seed=0").jobs[0].overrides
    both = expand("task=digits,listops", "body=minilm", "seed=0").jobs
    assert [job.labels["set"] for job in both] == ["digits", "listops"]


def test_an_override_may_name_the_arms_choice_on_an_axis(tmp_path):
    path = tmp_path / "two.yaml"
    path.write_text("axes:\n  seed: [0, 1]\n  set: {one: ['task.train=s/{seed}/{set}.npz', 'task.x={other}']}\n")
    arms = Study.read("two", path).arms({}, tmp_path)
    assert [arm.overrides for arm in arms] == [
        [f"seed={seed}", f"task.train=s/{seed}/one.npz", "task.x={other}"] for seed in (0, 1)
    ]


@pytest.mark.parametrize("more", [[], ["task.split_seed=${seed}"]])
def test_arms_that_differ_in_the_seed_are_what_composing_each_would_give(expand, more):
    jobs = expand("set=digits", "body=minilm", "seed=0,1,2", *more).jobs
    with compose.session() as session:
        for seed, job in enumerate(jobs):
            alone = session.compose(job.overrides)
            assert (alone.config.seed, job.config.seed) == (seed, seed)
            assert (alone.config, alone.content, alone.stored) == (job.config, job.content, job.stored)
            assert (alone.identity, alone.overrides, alone.variant) == (job.identity, job.overrides, job.variant)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["set=digit"], "has no set 'digit'; did you mean 'digits'"),
        (["set=own"], "no run is left; 2 runs left out: no study/own.npz"),
        (["task=listop"], "no such task: 'listop'"),
        (["set=digits", "body=minilm", "seed=0,-1"], "seed"),  # at any place
    ],
)
def test_what_a_study_has_not_is_refused(expand, words, match):
    with pytest.raises(ConfigError, match=match):
        expand(*words)


@pytest.mark.parametrize(
    ("text", "kind", "match"),
    [
        ("axis: {seed: [0]}\n", ConfigError, "has no 'axis'; did you mean 'axes'"),
        ("axes: {seed: []}\n", ConfigError, "axis 'seed' has no choices"),
        ("axes: {seed: [0]}\nexcept: [{set: a}]\n", ConfigError, "no axis 'set'"),
        ("axes: {seed: [0]}\nexcept: [{seed: 1}]\n", ConfigError, "seed has no '1'"),
        ("axes: {set: {a: [paths.runs=/x]}}\n", UnsafeError, "how the program runs"),
        ("axes: {set: {a: [hydra/launcher=x]}}\n", UnsafeError, "how the program runs"),
    ],
)
def test_a_file_that_is_not_a_study_is_refused(tmp_path, text, kind, match):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(kind, match=match):
        Study.read("bad", path)


def test_a_run_of_two_studies_is_in_both_and_one_of_other_settings_is_replaced(tmp_path):
    first = studies.Member("aa", {"set": "digits", "seed": "0"})
    studies.add(tmp_path, "one", [first, studies.Member("bb", {"set": "own", "seed": "0"})])
    studies.add(tmp_path, "two", [studies.Member("aa", {"set": "x"})])
    studies.add(tmp_path, "one", [studies.Member("cc", {"set": "own", "seed": "0"})])
    assert studies.read(tmp_path, "one") == [first, studies.Member("cc", {"set": "own", "seed": "0"})]
    assert studies.read(tmp_path, "two") == [studies.Member("aa", {"set": "x"})]


def test_a_record_of_the_first_schema_called_otdd_what_is_otdd_by_class(tmp_path):
    studies.add(tmp_path, "one", [studies.Member("aa", {"metric": "otdd"})])
    path = studies.path_of(tmp_path, "one")
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 1'))
    studies.add(tmp_path, "one", [studies.Member("bb", {"metric": "otdd"})])
    assert studies.read(tmp_path, "one") == [
        studies.Member("aa", {"metric": "otdd_by_class"}),
        studies.Member("bb", {"metric": "otdd"}),
    ]


def test_a_damaged_record_is_moved_aside_by_the_next_sweep_and_an_error_of_the_report(tmp_path):
    path = studies.path_of(tmp_path, "one")
    path.parent.mkdir()
    path.write_text('{"schema": 1, "runs": [')
    with pytest.raises(OrcaError, match="orca run -m study=one"):
        studies.read(tmp_path, "one")
    studies.add(tmp_path, "one", [studies.Member("aa", {})])
    assert studies.read(tmp_path, "one") == [studies.Member("aa", {})]


def test_a_choice_of_an_axis_need_not_be_one_of_the_group_with_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))
    (tmp_path / "study").mkdir()
    content = "axes:\n  metric: {none: metric=none, halves: [metric=minibatch_ot, metric.size=32]}\n"
    (tmp_path / "study" / "metrics.yaml").write_text(content)
    with compose.session(tmp_path) as session:
        (job,) = session.expand(["study=metrics", "metric=halves"]).jobs
        assert job.config.metric["size"] == 32
        with pytest.raises(ConfigError, match="metric"):
            session.expand(["study=metrics", "metric=halve"])
