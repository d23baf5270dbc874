"""`orca list`: names, descriptions, defaults and settings as they are written."""

import dataclasses
from typing import Any

import pytest

from orca_cli.commands import list as command
from orca_cli.config import compose, configuration, parts, schema
from orca_cli.exceptions import ConfigError
from tests.commands.called import read_json, read_text, refused

MINE = """\
# @package _global_
#
# My own   task
defaults:
  - override /body: swin_tiny
task:
  _target_: orca_cli.data.arrays.load
  kind: dense
  size: 3  # edge of a sample
  flag: true
  nothing: null
  loss: {_target_: torch.nn.L1Loss}
  nested: {depth: [1, 2]}
"""


@pytest.fixture
def config_dir(tmp_path):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text(MINE)
    return tmp_path


@pytest.mark.parametrize("group", sorted({*schema.GROUPS, *command.GROUPS.values()}))
def test_every_group_has_files_and_each_a_description(group):
    files = configuration.choices(group)
    assert files
    descriptions = {name: configuration.description(path) for name, path in files.items()}
    assert [name for name, text in descriptions.items() if len(text) <= 10] == []


def test_own_files_must_have_names_of_their_own(config_dir):
    (config_dir / "task" / "digits.yaml").write_text("# changed\n")
    with pytest.raises(ConfigError, match="rename it"):
        configuration.choices("task", config_dir)


def test_a_task_is_listed_with_body_parameters_and_data(config_dir, monkeypatch):
    block = "  data: {shape: 4 x 1000, outputs: 36 labels, error: 1 - AUROC, licence: CC0, files: [{path: a}, {path: b}]}\n"
    (config_dir / "task" / "mine.yaml").write_text(MINE + block)
    monkeypatch.setenv("ORCA_HOME", str(config_dir / "home"))
    folder = config_dir / "home" / "data" / "mine"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / name).touch()
    listing = read_json("list", "tasks", "--config-dir", config_dir)
    (entry,) = (entry for entry in listing["tasks"] if entry["name"] == "mine")
    assert (listing["schema"], entry["description"], entry["picks"]) == (
        1,
        "My own   task",
        {"body": "swin_tiny"},
    )
    assert (entry["parameters"]["kind"], entry["parameters"]["size"]) == ("dense", 3)
    assert (entry["data"]["shape"], entry["error"], "data" in entry["parameters"]) == (
        "4 x 1000",
        "1 - AUROC",
        False,
    )
    text = read_text("list", "tasks", "mine", "--config-dir", config_dir)
    assert "digits" not in text
    lines = [
        "task.size 3 edge of a sample",
        "task.flag true",
        "task.nothing null",
        "task.loss L1Loss",
    ]
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert not [line for line in (*lines, "task.nested.depth [1,2]") if line not in rows]
    assert "mine dense 4 x 1000 36 labels 1 - AUROC present" in rows


def test_every_task_is_listed_with_its_error_and_a_shape():
    """The files say what the program builds; only a task of the user's own data has no shape."""
    file = ["task.train=a", "task.kind=classes", "task.target=a", "task.path=a"]
    own_settings = {"arrays": file[:2], "table": [file[0], file[2]], "images": file[3:]}
    entries = {entry["name"]: entry for entry in read_json("list", "tasks")["tasks"]}
    assert len(entries) == 19
    assert [entries[name]["data"]["state"] for name in ("listops", "digits")] == [
        "generated",
        "bundled",
    ]
    with compose.session() as session:
        for name, entry in entries.items():
            node = session.compose([f"task={name}", *own_settings.get(name, [])]).config.task.get(
                "error"
            )
            assert (entry["data"]["origin"] == "own") == (name in own_settings), name
            assert bool(entry["data"]["shape"] and entry["data"]["outputs"]) == (
                name not in own_settings
            ), name
            if node is not None:
                assert entry["error"] == parts.build(node, "task.error").name, name


def test_entries_are_listed_by_name():
    entries = read_json("list", "metrics", "mmd", "otdd")["metrics"]
    assert [entry["name"] for entry in entries] == ["mmd", "otdd"]


def test_a_group_is_listed_by_its_folder():
    assert read_text("list", "metric") == read_text("list", "metrics")


@pytest.mark.parametrize(
    ("words", "meant"), [(["tasks", "digts"], "digits"), (["metrcs"], "metrics")], ids=str
)
def test_an_unknown_name_is_refused_with_the_nearest(words, meant):
    assert f"did you mean '{meant}'?" in refused(2, "list", *words)


def test_settings_are_all_of_the_schema_with_their_meaning():
    entries = {entry["key"]: entry for entry in read_json("list", "settings")["settings"]}
    parts = {field.name for field in dataclasses.fields(schema.Config) if field.type is not Any} | {
        "task"
    }
    assert {key.partition(".")[0] for key in entries} == parts
    rate = {"default": None, "allowed": "a number above 0 and of at most 1e+30 or null"}
    assert rate.items() <= entries["train.lr"].items()
    assert entries["train.select"]["allowed"] == "one of auto, best, last"
    assert [key for key, entry in entries.items() if not entry["meaning"]] == []


@pytest.mark.parametrize("content", [b"task: [1", b"- 1\n", b"\xff"], ids=str)
def test_a_damaged_file_is_named(config_dir, content):
    (config_dir / "task" / "mine.yaml").write_bytes(content)
    assert "mine.yaml" in refused(10, "list", "tasks", "--config-dir", config_dir)
