"""Options that make no sense, alone, together or for these runs: each is refused in one line that says what to do."""

import pytest

from orca_cli.cli import main
from orca_cli.runs import studies
from tests.report.trees import add_run

OTHERS = "task,method,error,source\nnowhere,forest,0.05,notes\n"
AGAINST = ["--against", "metric=none"]


@pytest.fixture
def tree(tmp_path):
    for metric, value in (("none", 0.5), ("otdd", 0.4)):
        add_run(tmp_path / "runs", metric=metric, value=value)
    studies.add(tmp_path / "runs", "small", [])
    add_run(tmp_path / "unlike", metric="none", variant={"train.lr": "1e-3"})
    add_run(tmp_path / "unlike", metric="otdd", variant={"train.lr": "1e-4"})
    add_run(tmp_path / "seeds", metric="none", seed=0)
    add_run(tmp_path / "seeds", metric="otdd", seed=1)
    for rate in ("1e-3", "1e-4"):
        add_run(tmp_path / "rates", variant={"train.lr": rate})
    add_run(tmp_path / "alone", metric="otdd", seconds=None)
    add_run(tmp_path / "alone", task="ecg", metric="mmd", seconds="soon")
    (tmp_path / "others.csv").write_text(OTHERS)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--margin", "1"], 2, "--margin: applies only to a comparison; add --against metric=none"),
        ([*AGAINST, "--margin", "-1"], 2, "--margin: -1.0 is out of range"),
        (["--against", "metric"], 2, "--against: 'metric' is not KEY=VALUE"),
        ([*AGAINST, "--compare"], 2, "--compare: does not go with --against"),
        ([*AGAINST, "--by", "metric"], 2, "--by: does not go with --against"),
        (["--compare", "--sort", "rank"], 2, "--sort: does not go with --compare"),
        (["--compare", "--baselines", "others.csv"], 2, "--baselines: does not go with --compare"),
        (["--open", "--format", "csv"], 2, "--open: shows a page; leave --json and --format out"),
        (["--figures-as", "gif"], 2, "--figures-as: there is no figure format 'gif'"),
        (["--by", "metric,metric"], 2, "--by: 'metric,metric' is not a list of keys"),
        (["--by", "task"], 2, "--by: tasks are the columns"),
        (["--by", "metrik"], 11, "--by: no run has 'metrik'; did you mean 'metric'?"),
        (["--task", "digit"], 11, "--task: no run has task=digit; did you mean 'digits'?"),
        (["--where", "body=minilmm"], 11, "--where: no run has body=minilmm; did you mean 'minilm'?"),
        (["--where", "nonsense=1"], 11, "it is none of the runs' settings"),
        (["--study", "smal"], 11, "--study: no run belongs to a study 'smal'; did you mean 'small'?"),
        (["--sort", "digit"], 11, "--sort: there is no 'digit'; did you mean 'digits'?"),
        (["--baselines", "others.csv"], 11, "others.csv: no run is of a task in it (nowhere)"),
        (["--against", "metric=otd"], 11, "--against: no run has metric=otd; did you mean 'otdd'?"),
        (["--against", "seed=0"], 11, "--against: all runs have seed=0; run others as well"),
        (["--against", "train.clip=1"], 11, "--against: the runs do not differ in 'train.clip'"),
        (["unlike", *AGAINST], 11, "differ in train.lr as well; try --against train.lr=..., or narrow with --where"),
        (["seeds", *AGAINST], 11, "no two runs of the same task and seed, on the same test data"),
        (["alone", "--sort", "rank"], 11, "--sort: no row has a rank"),
        (["--choose", "metric"], 2, "--choose: 'metric' is not a setting of an arm; such as --choose train.lr"),
        (["unlike", "--choose", "train.lr"], 11, "--choose: every arm has one value of train.lr: nothing to choose"),
        (["--choose", "train.rate"], 11, "--choose: no run has 'train.rate'"),
        (
            ["--choose", "train.lr", "--by", "metric,train.lr"],
            2,
            "--by: 'train.lr' is chosen; every arm has one train.lr",
        ),
        (["--choose", "train.lr", "--against", "train.lr=1e-3"], 2, "--against: 'train.lr' is chosen"),
        (
            ["rates", "--choose", "train.lr"],
            11,
            "seed 0 is the only one at the train.lr that it chose, so nothing is left to judge (digits minilm",
        ),
        (["nothing"], 11, "nothing: no such folder of runs"),
    ],
)
def test_what_makes_no_sense_is_refused(tree, monkeypatch, capsys, words, code, message):
    monkeypatch.chdir(tree)
    words = words if (tree / words[0]).is_dir() or words[0] == "nothing" else ["runs", *words]
    assert main(["report", *words]) == code
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
