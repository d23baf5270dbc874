"""What makes two runs the same experiment."""

from orca_cli.runs.identity import identity
from orca_cli.schema import GROUPS


def test_weights_count_by_content_whatever_their_folder_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mymodel").mkdir()
    (tmp_path / "classes").mkdir()

    def name(weights, chance):
        (tmp_path / "mymodel" / "model.safetensors").write_bytes(weights)
        (tmp_path / "classes" / "notes").write_bytes(chance)
        content = {"task": {"kind": "classes"}, "body": {"checkpoint": "mymodel"}, "source": {}, "train": {}}
        return identity(content, dict.fromkeys(GROUPS, "x"), tmp_path / "data")

    assert name(b"1", b"1") == name(b"1", b"2")
    assert name(b"1", b"1") != name(b"2", b"1")
