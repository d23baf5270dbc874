"""Names of data sets, which folders and tables show and no result depends on."""

import json

import pytest

from orca_cli.config import compose
from orca_cli.exceptions import ConfigError
from orca_cli.runs.claim import folder_of
from orca_cli.runs.directory import RunName

ARRAYS = ["task=arrays", "task.kind=classes"]
TABLE = ["task=table", "task.kind=classes", "task.target=y"]


def composed(*overrides):
    with compose.session() as session:
        return session.compose([*overrides])


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([*ARRAYS, "task.train=x/my.npz"], "my"),
        ([*ARRAYS, "task.train=x/watch/train.npz"], "watch"),
        ([*ARRAYS, "task.train=/watch/Data.npz"], "watch"),
        ([*ARRAYS, "task.train=/data/train.npz"], "arrays"),
        ([*ARRAYS, "task.train=x/my.npz", "task.name=other"], "other"),
        ([*TABLE, "task.train=sales.csv"], "sales"),
        (["task=images", "task.kind=classes", "task.path=x/birds"], "birds"),
        (["task=images", "task.kind=classes", "task.path=x/birds-v1.2"], "birds-v1-2"),
        ([*ARRAYS, "task.train=x/photos.bad-light.npz"], "photos-bad-light"),
        ([*ARRAYS, "task.train=.cache/train.npz"], "cache"),
        ([*ARRAYS, "task.train=/train.npz"], "arrays"),
        ([*ARRAYS, "task.train='~nobody/my.npz'"], "my"),
        ([*TABLE, "task.train=x/sales.csv.gz"], "sales"),
        ([*TABLE, "task.train='x/my sales.csv'"], "my-sales"),
        (["task=deepsea", "task.path=x/my"], "deepsea"),
        (["task=digits"], "digits"),
        (["task=digits", "task.name=mine"], "mine"),
    ],
)
def test_a_data_set_is_named_by_its_file_its_folder_or_its_task(words, name):
    assert composed(*words).data_name == name


def test_a_name_changes_neither_identity_nor_method():
    plain = composed("task=digits")
    named = composed("task=digits", "task.name=mine")
    assert named.identity == plain.identity
    assert named.variant == plain.variant


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "", ".hidden", "model.bad-labels", "-x"])
def test_a_name_cannot_leave_the_folder_of_runs(name):
    with pytest.raises(ConfigError, match=r"task\.name"):
        composed("task=digits", f"task.name='{name}'")


def run_name(data):
    return RunName(
        task="arrays",
        body="b",
        source="s",
        metric="m",
        finetune="f",
        seed=0,
        protocol="clean",
        identity="1" * 64,
        settings="2" * 64,
        variant={},
        data=data,
    )


def test_a_run_stays_in_its_folder_when_its_data_get_a_name(tmp_path):
    assert folder_of(tmp_path, run_name("my")) == tmp_path / "my"
    folder = tmp_path / "arrays" / "2026-01-01_00-00-00.000000_b_m_f_s0_11111111"
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"schema": 2, "identity": "1" * 64}))
    assert folder_of(tmp_path, run_name("my")) == tmp_path / "arrays"
    # The digits at the end of a folder's name may be shared.
    (folder / "status.json").write_text(json.dumps({"schema": 2, "identity": "1" * 63 + "0"}))
    assert folder_of(tmp_path, run_name("my")) == tmp_path / "my"


def test_of_several_folders_the_one_with_the_completed_run_counts(tmp_path):
    name = "2026-01-01_00-00-00.000000_b_m_f_s0_11111111"
    record = json.dumps({"schema": 2, "identity": "1" * 64})
    for folder in ("backup", "my", ".hidden"):
        (tmp_path / folder / name).mkdir(parents=True)
        (tmp_path / folder / name / "status.json").write_text(record)
    assert folder_of(tmp_path, run_name("my")) == tmp_path / "my"
    for folder in (".hidden", "backup"):
        (tmp_path / folder / name / "result.json").write_text(record)
    assert folder_of(tmp_path, run_name("my")) == tmp_path / "backup"
