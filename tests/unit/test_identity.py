"""When two runs are the same experiment."""

import pytest

from orca_cli.config.identity import identify
from orca_cli.config.schema import GROUPS


def identity(folder, task, choice="x", **more):
    """Return the identity of a run with the settings of a task, and whatever else counts; data lie in `folder`/data."""
    content = {"task": task, "body": {}, "source": {}, "train": {}} | more
    return identify(content, dict.fromkeys(GROUPS, choice), folder / "data")


def test_weights_count_by_content_whatever_their_folder_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mymodel").mkdir()
    (tmp_path / "classes").mkdir()

    def name(weights, chance):
        (tmp_path / "mymodel" / "model.safetensors").write_bytes(weights)
        (tmp_path / "classes" / "notes").write_bytes(chance)
        return identity(tmp_path, {"kind": "classes"}, body={"checkpoint": "mymodel"}).run

    assert name(b"1", b"1") == name(b"1", b"2")
    assert name(b"1", b"1") != name(b"2", b"1")


@pytest.mark.parametrize("typed", ["photos", "./photos", "{folder}/photos"])
def test_a_folder_of_folders_counts_by_all_that_is_in_it(tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    image = tmp_path / "photos" / "cats" / "1.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"1")
    part = {"path": typed.format(folder=tmp_path), "data": {"origin": "own"}}

    def name():
        return identity(tmp_path, part, choice="images").run

    seen = [name()]
    for change in (
        lambda: image.write_bytes(b"2"),
        lambda: (tmp_path / "photos" / "cats" / "2.png").write_bytes(b"2"),
        lambda: image.parent.rename(tmp_path / "photos" / "dogs"),
    ):
        change()
        seen.append(name())
    assert len(set(seen)) == 4
    monkeypatch.setattr("orca_cli.config.identity._HASH_BELOW", 2)  # by size and time of change
    seen.append(name())
    assert seen[-1] == name() != seen[-2]
    (tmp_path / "photos").rename(tmp_path / "other")
    part["path"] = str(tmp_path / "other")
    assert name() == seen[-1]


@pytest.mark.parametrize("key", ["train", "labels"])
def test_a_bare_folder_counts_by_its_content_and_so_do_linked_ones(tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all" / "cats").mkdir(parents=True)
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "cats").symlink_to(tmp_path / "all" / "cats")
    (tmp_path / "all" / "cats" / "above").symlink_to(tmp_path / "series")  # a loop

    def name(text):
        (tmp_path / "all" / "cats" / "1.npy").write_text(text)
        return identity(tmp_path, {key: "series"}).run

    assert name("1") == name("1") != name("2")


@pytest.mark.parametrize(("key", "symbol"), [("decimal", "."), ("delimiter", "/")])
def test_the_symbols_of_a_table_are_no_folders(tmp_path, monkeypatch, key, symbol):
    """Otherwise a run's identity would change with any file in the current folder."""
    monkeypatch.chdir(tmp_path)
    first = identity(tmp_path, {key: symbol})
    (tmp_path / "notes").write_text("changed")
    assert first.files == {}
    assert identity(tmp_path, {key: symbol}).run == first.run


def test_files_that_a_task_describes_count_by_their_content(tmp_path):
    part = {"path": None, "data": {"files": [{"path": "x.npy", "members": ["inner/y.npy"]}, {"path": "absent.npy"}]}}
    content = {"task": part, "body": {}, "source": {}, "train": {}}
    choices = dict.fromkeys(("task", "body", "source", "metric", "finetune"), "ecg")
    without = identify(content, choices, tmp_path).run
    (tmp_path / "ecg" / "inner").mkdir(parents=True)
    seen = {without}
    for name, text in (("x.npy", "a"), ("x.npy", "b"), ("inner/y.npy", "a")):
        (tmp_path / "ecg" / name).write_text(text)
        seen.add(identify(content, choices, tmp_path).run)
    assert len(seen) == 4
    (tmp_path / "ecg").rename(tmp_path / "moved")
    part["path"] = str(tmp_path / "moved")
    assert identify(content, choices, tmp_path).run in seen  # the same files, elsewhere
    (tmp_path / "moved").rename(tmp_path / "ecg")
    part["path"] = None
    assert set(identify(content, choices, tmp_path).files) == {
        str(tmp_path / "ecg" / name) for name in ("x.npy", "inner/y.npy")
    }


@pytest.mark.parametrize(
    ("method", "name", "value", "same"),
    [
        ("orca", "inner_lr", 0.5, True),
        ("orca", "lr", 0.5, False),
        ("mona", "source_share", 0.5, True),
        ("pare", "source_share", 0.5, False),
        ("orca", "method", "mona", False),
    ],
)
def test_settings_of_a_method_count_where_it_is_chosen(tmp_path, method, name, value, same):
    align = {"method": method, "lr": 0.01, "inner_lr": 0.1, "source_share": 0.75}
    assert (identity(tmp_path, {}, align=align).run == identity(tmp_path, {}, align=align | {name: value}).run) is same


def test_runs_from_before_there_was_a_choice_of_method_are_the_same_experiment(tmp_path):
    today = {"lr": 0.01, "method": "orca", "inner_lr": 0.1, "source_share": 0.75}
    assert identity(tmp_path, {}, align={"lr": 0.01}) == identity(tmp_path, {}, align=today)
