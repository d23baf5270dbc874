"""`orca body list` and `orca body get`, on a cache of the hub and on a hub of our own."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orca_cli import storage
from orca_cli.cli import main
from orca_cli.config.configuration import choices
from orca_cli.models import checkpoints
from tests.checkpoints import save_tiny_bert, save_tiny_swin

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(__file__).parents[2]


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


def listed(capsys, *words):
    capsys.readouterr()
    assert main(["body", "list", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_body_is_listed_with_where_it_is(cache, capsys):
    listing = listed(capsys)
    assert [body["name"] for body in listing["bodies"]] == sorted(choices("body"))
    bodies = {body["name"]: body for body in listing["bodies"]}
    assert bodies["swin_tiny"]["state"] == "missing"
    assert bodies["antiberty"]["extra"] == "protein"
    folder = add(cache, "microsoft/swin-tiny-patch4-window7-224", save_tiny_swin)
    add(cache, "own/other")
    add(cache, "own/pickled", lambda folder: folder.mkdir(parents=True))
    listing = listed(capsys)
    swin = next(body for body in listing["bodies"] if body["name"] == "swin_tiny")
    assert (swin["state"], swin["family"], swin["revision"]) == ("cached", "swin", COMMIT)
    files = ("config.json", "model.safetensors")
    assert swin["bytes"] == sum((folder / name).stat().st_size for name in files)
    assert [(one["checkpoint"], one["family"]) for one in listing["others"]] == [("own/other", "bert")]
    here = {body["name"] for body in listed(capsys, "--here")["bodies"]}
    assert "swin_tiny" in here
    assert "roberta" not in here
    assert main(["body", "list"]) == 0
    out = capsys.readouterr().out
    assert f"cached {COMMIT[:8]}" in out
    assert "missing: `orca body get NAME`" in out


def test_bodies_of_the_users_own_and_damaged_caches_are_listed(cache, tmp_path, capsys):
    folder = save_tiny_swin(tmp_path / "mine")
    body_folder = tmp_path / "conf" / "body"
    body_folder.mkdir(parents=True)
    start = "# @package _global_\n# Mine.\nbody:\n  _target_: orca_cli.models.bodies.swin.load\n"
    (body_folder / "mine.yaml").write_text(f"{start}  checkpoint: {folder}\n")
    (body_folder / "open.yaml").write_text(f"{start}  checkpoint: ???\n")
    broken = add(cache, "roberta-base", lambda folder: save_tiny_bert(folder))
    (broken / "config.json").write_text("{")
    bodies = {body["name"]: body for body in listed(capsys, "--config-dir", str(tmp_path / "conf"))["bodies"]}
    assert (bodies["mine"]["state"], bodies["mine"]["family"], bodies["mine"]["code"]) == ("folder", "swin", "swin")
    assert bodies["open"]["state"] == "to be given"
    assert bodies["roberta"]["state"] == "incomplete"


def test_get_says_what_is_here_and_that_the_hub_cannot_be_reached(cache, capsys):
    folder = add(cache, "microsoft/swin-tiny-patch4-window7-224", save_tiny_swin)
    capsys.readouterr()
    assert main(["body", "get", "swin_tiny", "roberta", "--json"]) == 15
    out, err = capsys.readouterr()
    (swin,) = json.loads(out)["bodies"]
    assert (swin["action"], swin["revision"], swin["sha256"]) == ("found", COMMIT, checkpoints.digest(folder))
    assert err.count("\n") == 1
    assert "roberta: 'roberta-base' is not on this machine and the model hub cannot be reached" in err
    assert main(["body", "get", "no such"]) == 2
    assert "'no such' is neither a body nor a hub id" in capsys.readouterr().err


class Hub:
    """A model hub with repositories {name: folder}; keeps the requested paths."""

    def __init__(self, repositories):
        hub = self
        self.requests = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):  # noqa: N802
                path = self.path.partition("?")[0].lstrip("/")
                hub.requests.append(path)
                body, headers = hub.answer(path, repositories)
                self.send_response(200 if body is not None else 404)
                headers = headers | {"Content-Length": str(len(body or b""))}
                if body is None:
                    headers["X-Error-Code"] = "RepoNotFound"
                for key, value in headers.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body or b"")

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *words):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    @staticmethod
    def answer(path, repositories):
        if not path:
            return b"", {}
        for name, folder in repositories.items():
            files = sorted(folder.iterdir())
            about = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file.name} for file in files]}
            tree = [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": COMMIT} for file in files]
            for start, answer in ((f"api/models/{name}/revision/", about), (f"api/models/{name}/tree/", tree)):
                if path.startswith(start):
                    return json.dumps(answer).encode(), {"Content-Type": "application/json"}
            file = folder / path.rpartition("/")[2]
            if path.startswith(f"{name}/resolve/") and file.is_file():
                content = file.read_bytes()
                return content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return None, {}

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()


def get(tmp_path, url, *words):
    removed = ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    environment = {key: value for key, value in os.environ.items() if key not in removed}
    environment |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
    command = [sys.executable, "-m", "orca_cli", "body", "get", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120)


def test_get_fetches_safe_files_alone_and_records_the_commit(tmp_path):
    whole, pickled = save_tiny_bert(tmp_path / "whole"), save_tiny_bert(tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    for folder in (whole, pickled):
        (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
        (folder / "modeling_own.py").write_text("raise SystemExit")
    with Hub({"own/whole": whole, "own/pickled": pickled}) as hub:
        done = get(tmp_path, hub.url, "own/whole", "own/pickled", "own/gone", "--json")
    assert done.returncode == 11, done.stderr
    (fetched,) = json.loads(done.stdout)["bodies"]
    assert (fetched["action"], fetched["state"], fetched["family"], fetched["revision"]) == (
        "fetched",
        "cached",
        "bert",
        COMMIT,
    )
    assert fetched["sha256"] == checkpoints.digest(whole)
    assert storage.sha256_file(Path(fetched["folder"]) / "model.safetensors") == storage.sha256_file(
        whole / "model.safetensors"
    )
    assert not [path for path in hub.requests if path.endswith((".bin", ".py"))]
    errors = [line for line in done.stderr.splitlines() if line.startswith("orca: error:")]
    assert len(errors) == 2
    assert "own/pickled: no *.safetensors; its weights may be pickled, which are not fetched" in errors[0]
    assert "own/gone: the hub has no 'own/gone'" in errors[1]
    again = get(tmp_path, "http://127.0.0.1:9", "own/whole")  # the hub has gone
    assert again.returncode == 0, again.stderr
    assert f"here already, bert, {fetched['bytes'] // 1000} kB, revision {COMMIT}" in again.stdout
