"""What would decide an undecided comparison: numbers by hand, and commands that compose to the runs that they stand for."""

import json
import re
import shlex
import statistics

import pytest

from orca_cli.report.records.collect import collect
from orca_cli.report.records.study_members import Origin, origin_of, select_study
from orca_cli.report.statistics.differences import needed
from orca_cli.report.statistics.further import MOST, commands, further
from orca_cli.report.statistics.paired import compare
from orca_cli.report.statistics.verdicts import claim_of, layouts_of
from orca_cli.report.tables.holes import holes_of
from orca_cli.report.tables.table import build_table
from orca_cli.runs import studies
from tests.commands.called import call
from tests.report.trees import add_run


def add_pairs(root, gains, *, base=0.5, metric="otdd", seeds=None, typed=(), **fields):
    for seed, gain in zip(seeds or range(len(gains)), gains, strict=True):
        for name, value in (("none", base), (metric, base - gain)):
            path = add_run(root, seed=seed, metric=name, value=value, **fields)
            words = [f"task={fields.get('task', 'digits')}", f"metric={name}", *typed, f"seed={seed}"]
            (path / "overrides.txt").write_text("\n".join(words) + "\n")


def compared(root, origin=Origin(), margin=0.5):  # noqa: B008 - it is frozen
    return compare(build_table(collect([root])), "metric", "none", margin, origin)


def sentence(comparison):
    return claim_of(comparison.overall[0], comparison).sentence


def asked_for(comparison):
    return further(comparison.overall[0], comparison)


def test_seeds_of_one_set_by_hand(tmp_path):
    gains = [0.02, -0.01, 0.03, 0.00, 0.01]
    add_pairs(tmp_path, gains)
    comparison = compared(tmp_path)
    # (1.960 + 0.842)^2 * (1.581 / 1)^2 + 1.960^2 / 2 = 19.6 + 1.9
    assert needed(1.0, statistics.stdev([100 * gain for gain in gains]), 0.5) == 22
    assert asked_for(comparison).seeds == 22 - 5
    (command,) = asked_for(comparison).commands
    assert command == f"orca run -m task=digits metric=none,otdd seed={','.join(map(str, range(5, 22)))}"
    assert sentence(comparison).endswith(f"; about 17 more seeds: {command}")
    comparison = compared(tmp_path, None)  # without an origin no folder is read for a command
    assert asked_for(comparison).commands == ()
    assert sentence(comparison).endswith("; about 17 more seeds")


def test_never_fewer_seeds_than_can_show_anything(tmp_path):
    add_pairs(tmp_path, [0.1, 0.1])
    comparison = compared(tmp_path)
    assert asked_for(comparison).seeds == 4
    for seed in (0, 1):
        add_run(tmp_path, metric="mmd", seed=seed, value=0.4)
        add_run(tmp_path, metric="moments", seed=seed, value=0.4)
    comparison = compared(tmp_path)
    assert [further(one, comparison).seeds for one in comparison.overall] == [5, 5, 5]  # three arms need 7


def test_seeds_that_are_there_are_not_asked_for_again(tmp_path):
    add_pairs(tmp_path, [0.1, 0.1, 0.1], seeds=[1, 2, 4])
    add_run(tmp_path, seed=0, metric="otdd", value=0.4)  # half of a pair
    add_run(tmp_path, seed=3, metric="none", value=0.5)
    add_run(tmp_path, seed=3, metric="otdd", value=None)  # completed; its error is undefined
    (command,) = further(compared(tmp_path).overall[0], compared(tmp_path)).commands
    assert command.endswith("seed=0,5,6")


def test_a_hopeless_effect_is_called_so(tmp_path):
    add_pairs(tmp_path, [0.10, -0.09, 0.11, -0.10, 0.09, -0.09])
    comparison = compared(tmp_path, margin=0.0)
    assert asked_for(comparison).is_hopeless
    assert sentence(comparison).endswith(f"it would take more than {MOST} more seeds")


def test_seeds_help_where_sets_agree_and_seeds_do_not(tmp_path):
    for task in "stuvwxyz":
        add_pairs(tmp_path, [0.03, -0.01], task=task)
    comparison = compared(tmp_path)
    more = asked_for(comparison)
    # Sets alike: with M seeds each, 8 sets have a deviation of 2.83 / sqrt(M), and 8 differences need one of at most 0.88.
    assert (more.seeds, more.sets) == (11 - 2, None)
    (command,) = more.commands
    assert command.startswith("orca run -m task=s,t,u,v,w,x,y,z metric=none,otdd seed=2,")


def test_sets_are_asked_for_where_more_seeds_cannot_decide(tmp_path):
    for place, task in enumerate("stuvwxyz"):
        gain = 0.10 if place % 3 else -0.06
        add_pairs(tmp_path, [gain, gain + 0.001], task=task)
    comparison = compared(tmp_path)
    more = asked_for(comparison)
    assert (more.seeds, more.is_few_sets, more.commands) == (None, False, ())
    assert f"the sets differ more than their seeds: about {more.sets} more sets, not more seeds" in sentence(comparison)


def test_errors_of_0_have_no_ratio_and_stop_nothing(tmp_path):
    nats = {"percent": False, "name": "nats"}
    add_pairs(tmp_path, [0.0, 0.0], base=0.0, task="s", error=nats)
    add_pairs(tmp_path, [0.1, 0.2], task="t", error=nats)
    add_pairs(tmp_path, [0.0, 0.0], base=0.0, task="u", error=nats, metric="mmd")
    comparison = compared(tmp_path)
    assert all("undecided" in claim_of(one, comparison).sentence for one in comparison.overall)


def test_commands_that_differ_in_one_key_are_one_and_others_are_apart(tmp_path):
    add_pairs(tmp_path, [0.1], typed=["train.lr=1e-3"], variant={"train.lr": "1e-3"})
    add_pairs(tmp_path, [0.1], typed=["train.lr=1e-4"], variant={"train.lr": "1e-4"})
    add_pairs(tmp_path, [0.1], task="ecg", typed=["train.epochs=3", "task.x='a b'"])
    comparison = compared(tmp_path, Origin(folder="my runs"))
    assert asked_for(comparison).commands == ()  # two sets: more sets
    one, other = sorted(commands([block for block in comparison.blocks if block.seeds], comparison, [1]))
    assert one == "orca run -m task=digits metric=none,otdd train.lr=1e-3,1e-4 seed=1 'paths.runs=my runs'"
    typed = ["task=ecg", "metric=none,otdd", "train.epochs=3", "task.x='a b'", "seed=1", "paths.runs=my runs"]
    assert shlex.split(other)[3:] == typed


def test_what_others_typed_is_quoted_and_brings_no_options(tmp_path):
    typed = ["--allow-module=evil", "--config-dir=/tmp/evil", "task.x=$(rm -rf ~); echo", "body.checkpoint=\x1b[31m"]
    add_pairs(tmp_path, [0.1], typed=typed)
    comparison = compared(tmp_path)
    (command,) = asked_for(comparison).commands
    assert "evil" not in command
    assert "task.x=$(rm -rf ~); echo" in shlex.split(command)
    table = build_table(collect([tmp_path]))
    assert "\x1b" not in str(layouts_of(comparison, table))


@pytest.fixture
def study(tmp_path):
    """Runs that are called members of study=alignment: one set, one body, two metrics, seeds 0 to 4."""
    members = []
    for seed, gain in enumerate((0.02, -0.01, 0.03, 0.0, 0.01)):
        for metric, value in (("none", 0.5), ("moments", 0.5 - gain)):
            identity = f"{metric}{seed}".ljust(64, "0")
            add_run(tmp_path, seed=seed, metric=metric, value=value, identity=identity)
            labels = {"seed": str(seed), "set": "digits", "body": "minilm", "embedder": "patch", "metric": metric}
            members.append(studies.Member(identity, labels | {"train.epochs": "3"}))
    studies.add(tmp_path, "alignment", members)
    return tmp_path


def test_the_command_of_a_study_composes_to_the_missing_runs(study, monkeypatch):
    monkeypatch.setenv("ORCA_HOME", str(study / "home"))
    monkeypatch.setenv("ORCA_RUNS", str(study / "other"))
    words = ("report", study, "--study", "alignment", "--against", "metric=none")
    code, out, err = call(*words, "--json")
    assert code == 0, err
    (arm,) = json.loads(out)["arms"]
    (command,) = arm["further"]["commands"]
    typed = shlex.split(command)
    assert typed[:4] == ["orca", "run", "-m", "study=alignment"]
    assert {"set=digits", "body=minilm", "embedder=patch", "metric=none,moments", "train.epochs=3"} <= set(typed)
    some = [re.sub("^seed=.*", "seed=5,6", word) for word in typed[1:]]  # as many as say how they are composed
    code, out, err = call(*some, "--dry-run", "--json")
    assert code == 0, err
    jobs = json.loads(out)["jobs"]
    assert sorted((job["seed"], job["metric"]) for job in jobs) == [(s, m) for s in (5, 6) for m in ("moments", "none")]
    assert f"seed={','.join(map(str, range(5, 5 + arm['further']['seeds'])))}" in typed
    assert arm["sentence"].endswith(command)
    for form, start in (("md", "  `` orca run -m"), ("latex", "% orca run -m"), ("table", "    orca run -m")):
        code, out, err = call(*words, "--format", form)
        assert code == 0, err
        (line,) = [line for line in out.splitlines() if "orca run" in line]  # never folded
        assert line.startswith(start)
        assert ",20,21" in line


def test_commands_of_a_study_compose(study):
    """Commands for missing runs repeat the typed settings of existing ones, and skip arms that the study excludes."""
    members = []
    for set_, body, typed, seeds in (
        ("digits", "minilm", ["body=minilm"], (0, 1)),
        ("digits_image", "minilm", ["body=minilm"], (0, 1)),
        ("digits_image", "swin", ["body=swin_tiny", "body.checkpoint=/w"], (0,)),
    ):
        for seed in seeds:
            identity = f"{set_}{body}{seed}"
            run = add_run(study, body=body, metric="zzz", seed=seed, identity=identity)
            (run / "overrides.txt").write_text("\n".join([*typed, "paths.data=/d", "--config-dir=/x"]))
            labels = {"seed": str(seed), "set": set_, "body": body, "embedder": "patch", "metric": "none"}
            members.append(studies.Member(identity, labels))
    studies.path_of(study, "alignment").unlink()
    studies.add(study, "alignment", members)
    table = build_table(select_study(collect([study]), [study], "alignment"))
    (hole,) = holes_of(table, origin_of([study], "alignment", study))  # none of digits on the Swin, which `except` has
    words = shlex.split(hole.command)
    assert words[:4] == ["orca", "run", "-m", "study=alignment"]
    chosen = {"set=digits_image", "body=swin", "embedder=patch", "metric=none", "seed=1"}
    assert set(words[4:]) == chosen | {"body.checkpoint=/w", "paths.data=/d"}
    comparison = compare(table, "body", "minilm", 0.5, origin_of([study], "alignment", study))
    (command,) = asked_for(comparison).commands
    assert {"body.checkpoint=/w", "paths.data=/d"} <= set(shlex.split(command))


def test_axes_whose_choices_are_all_there_are_left_out(study):
    origin = origin_of([study], "alignment", study)
    assert (origin.study, origin.folder) == ("alignment", "")
    assert "body.checkpoint" in origin.blanks
    whole = {"metric": frozenset({"none", "moments"})}
    collection = select_study(collect([study]), [study], "alignment")
    comparison = compare(build_table(collection), "metric", "none", 0.5, Origin("alignment", origin.axes, whole))
    (command,) = asked_for(comparison).commands
    assert "metric=" not in command
    assert "embedder=patch" in command
    assert origin_of([study], None, study / "elsewhere").folder == str(study)
