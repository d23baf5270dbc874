"""`orca body list` and `orca get body=NAME`, on a cache of the hub and on a hub of our own."""

import json
from pathlib import Path

import pytest

from orca_cli import storage
from orca_cli.config.configuration import choices
from orca_cli.models import checkpoints
from tests.checkpoints import save_tiny_bert, save_tiny_swin
from tests.commands.called import call, read_json, read_text
from tests.hub import COMMIT, hub


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, which does not answer."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def add(cache, name, save=save_tiny_bert, commit=COMMIT):
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return save(repository / "snapshots" / commit)


def test_every_body_is_listed_with_where_it_is(cache):
    bodies = {body["name"]: body for body in read_json("body", "list")["bodies"]}
    assert list(bodies) == sorted(choices("body"))
    assert (bodies["swin_tiny"]["state"], bodies["antiberty"]["extra"]) == ("missing", "protein")
    folder = add(cache, "microsoft/swin-tiny-patch4-window7-224", save_tiny_swin)
    listing = read_json("body", "list")
    swin = next(body for body in listing["bodies"] if body["name"] == "swin_tiny")
    assert (swin["state"], swin["family"], swin["revision"]) == ("cached", "swin", COMMIT)
    assert swin["bytes"] == sum(
        (folder / name).stat().st_size for name in ("config.json", "model.safetensors")
    )
    assert f"cached {COMMIT[:8]}" in read_text("body", "list")


def test_own_bodies_and_damaged_caches_are_listed(cache, tmp_path):
    folder = save_tiny_swin(tmp_path / "mine")
    (tmp_path / "conf" / "body").mkdir(parents=True)
    for name, checkpoint in (("mine", folder), ("open", "???")):
        text = f"body:\n  _target_: orca_cli.models.bodies.swin.load\n  checkpoint: {checkpoint}\n"
        (tmp_path / "conf" / "body" / f"{name}.yaml").write_text(
            f"# @package _global_\n# Mine.\n{text}"
        )
    (add(cache, "roberta-base") / "config.json").write_text("{")
    listing = read_json("body", "list", "--config-dir", tmp_path / "conf")["bodies"]
    bodies = {body["name"]: body for body in listing}
    assert (bodies["mine"]["state"], bodies["mine"]["family"], bodies["mine"]["code"]) == (
        "folder",
        "swin",
        "swin",
    )
    assert (bodies["open"]["state"], bodies["roberta"]["state"]) == ("to be given", "incomplete")


def test_get_finds_a_checkpoint_in_the_cache(cache):
    folder = add(cache, "microsoft/swin-tiny-patch4-window7-224", save_tiny_swin)
    (swin,) = read_json("get", "body=swin_tiny")["bodies"]
    assert (swin["action"], swin["revision"], swin["sha256"]) == (
        "found",
        COMMIT,
        checkpoints.digest(folder),
    )


def test_get_says_that_the_hub_cannot_be_reached(cache):
    message = "'roberta-base' is not on this machine and the model hub cannot be reached"
    code, out, err = call("get", "body=roberta")
    assert (code, message in err) == (15, True)
    assert "body=roberta  roberta-base  -     unknown  to fetch" in out


def test_get_refuses_a_name_that_no_body_or_hub_has(cache):
    message = "'no such' is neither an existing folder nor a valid hub id; give"
    code, _, err = call("get", "body=roberta", "body.checkpoint='no such'")
    assert (code, message in err) == (10, True)


def test_get_fetches_safe_files_alone_and_records_the_commit(tmp_path, monkeypatch):
    def get(url, checkpoint, *words):
        template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        settings = {
            "ENDPOINT": url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
        }
        for name, value in (
            settings | {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
        ).items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        return call("get", "body=bert", f"body.checkpoint={checkpoint}", *words)

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    names = ("own/whole", "own/pickled")
    whole, pickled = (
        save_tiny_bert(tmp_path / "hub" / name / "resolve" / COMMIT) for name in names
    )
    (pickled / "model.safetensors").unlink()
    for folder in (whole, pickled):
        (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
        (folder / "modeling_own.py").write_text("raise SystemExit")
    with hub(tmp_path / "hub", names) as (url, requests):
        code, out, err = get(url, "own/whole", "--json")
        refusals = [get(url, name) for name in ("own/pickled", "own/gone")]
    assert code == 0, err
    (fetched,) = json.loads(out)["bodies"]
    facts = [fetched[key] for key in ("action", "state", "family", "revision", "sha256")]
    assert facts == ["fetched", "cached", "bert", COMMIT, checkpoints.digest(whole)]
    copies = [folder / "model.safetensors" for folder in (Path(fetched["folder"]), whole)]
    assert storage.sha256_file(copies[0]) == storage.sha256_file(copies[1])
    assert not [path for path in requests if path.endswith((".bin", ".py"))]
    (first, _, pickled_error), (second, _, gone_error) = refusals
    assert (first, second) == (11, 10)
    assert (
        "own/pickled: has no *.safetensors file; if the checkpoint's weights are pickled, orca does not fetch them"
        in pickled_error
    )
    assert "the model hub has no checkpoint 'own/gone'" in gone_error
    code, out, err = get("http://127.0.0.1:9", "own/whole")  # the hub has gone
    assert code == 0, err
    assert f"already present, bert, {fetched['bytes'] // 1000} kB, revision {COMMIT}" in out
