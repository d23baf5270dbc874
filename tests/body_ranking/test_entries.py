"""How bodies are named."""

import pytest

from orca_cli.body_ranking.entries import merged, parse
from orca_cli.exceptions import ConfigError, UnsafeError


def test_names_checkpoints_and_random_weights():
    found = parse("minilm, swin_tiny:models/my swin,minilm:random,auto:owner/name@main")
    assert {entry.label: list(entry.overrides) for entry in found} == {
        "minilm": ["body=minilm"],
        "swin_tiny:my swin": ["body=swin_tiny", "body.checkpoint='models/my swin'"],
        "minilm:random": ["body=minilm", "finetune=scratch"],
        "auto:name@main": ["body=auto", "body.checkpoint='owner/name@main'"],
    }


def test_a_file_gives_each_body_its_own_overrides(tmp_path):
    path = tmp_path / "b.yaml"
    path.write_text("minilm: body=minilm\nswin: [body=swin_tiny, embedder.max_tokens=null]\n")
    assert [(one.label, one.overrides) for one in parse(str(path))] == [
        ("minilm", ("body=minilm",)),
        ("swin", ("body=swin_tiny", "embedder.max_tokens=null")),
    ]


@pytest.mark.parametrize("text", ["", "minilm,minilm", ":x", "minilm:"])
def test_what_names_no_bodies_is_refused(text):
    with pytest.raises(ConfigError):
        parse(text)


def test_a_file_cannot_set_how_the_program_runs(tmp_path):
    path = tmp_path / "b.yaml"
    path.write_text("a: [body=minilm, paths.runs=elsewhere]\n")
    with pytest.raises(UnsafeError):
        parse(str(path))
    path.write_text("a: [finetune=scratch]\n")
    with pytest.raises(ConfigError, match="no body=NAME"):
        parse(str(path))


def test_a_body_s_own_override_beats_what_is_typed_for_all():
    assert merged(["metric=otdd", "a.b=1"], ["body=x", "+a.b=2"]) == ["metric=otdd", "+a.b=2", "body=x"]
