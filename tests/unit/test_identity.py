"""What makes two runs the same experiment."""

from orca_cli.runs.identity import identify
from orca_cli.schema import GROUPS


def test_weights_count_by_content_whatever_their_folder_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mymodel").mkdir()
    (tmp_path / "classes").mkdir()

    def name(weights, chance):
        (tmp_path / "mymodel" / "model.safetensors").write_bytes(weights)
        (tmp_path / "classes" / "notes").write_bytes(chance)
        content = {"task": {"kind": "classes"}, "body": {"checkpoint": "mymodel"}, "source": {}, "train": {}}
        return identify(content, dict.fromkeys(GROUPS, "x"), tmp_path / "data").run

    assert name(b"1", b"1") == name(b"1", b"2")
    assert name(b"1", b"1") != name(b"2", b"1")


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
    assert set(identify(content, choices, tmp_path).files) == {
        str(tmp_path / "ecg" / name) for name in ("x.npy", "inner/y.npy")
    }
