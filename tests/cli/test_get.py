"""`orca get`, then the run that it prepared: separate processes, with local servers in place of the real ones."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import benchmark_files
from tests.checkpoints import save_tiny_roberta
from tests.hub import COMMIT, hub
from tests.untrusted.server import Server

ROOT = Path(__file__).parent.parent.parent
ORDERED = ("task=deepsea", "body=roberta")
# Settings that make the run short, without effect on the files that are fetched.
SHORT = ("train.epochs=1", "train.warmup_epochs=0", "align.epochs=2", "source.size=40")
SENTENCE = "A NN I-NP O\nB NN I-NP I-{}\nc NN I-NP O\n\n"


@pytest.fixture
def program(tmp_path):
    """A copy of the program, whose configuration has the addresses of this test's servers."""
    folder = tmp_path / "program"
    shutil.copytree(ROOT / "orca_cli", folder / "orca_cli")
    shutil.copytree(ROOT / "conf", folder / "conf")
    return folder


@pytest.fixture
def bucket():
    """The server of both data sets."""
    with Server().running() as server:
        yield server


@pytest.fixture
def served(program, bucket, tmp_path):
    """Serve small files of DeepSEA and CoNLL-2003, at the addresses in the program's copy."""
    benchmark_files.make("deepsea", tmp_path)
    deepsea = (tmp_path / "deepsea" / "deepsea_filtered.npz").read_bytes()
    types = ("PER", "LOC", "ORG", "MISC") * 8
    with zipfile.ZipFile(tmp_path / "conll2003.zip", "w") as archive:
        archive.writestr("train.txt", "".join(SENTENCE.format(name) for name in types))
        archive.writestr("test.txt", "never unpacked")
    conll = (tmp_path / "conll2003.zip").read_bytes()
    # The first answer for DeepSEA breaks off, so that the download has to be resumed.
    files = {
        "task/deepsea": (bucket.file("/deepsea", deepsea, cuts=[2000]), len(deepsea), None),
        "source/conll2003": (bucket.file("/conll", conll), len(conll), conll),
    }
    for name, (url, size, content) in files.items():
        path = program / "conf" / f"{name}.yaml"
        text = re.sub(r'urls: \["[^"]*"\]', f'urls: ["{url}"]', path.read_text())
        text = re.sub(r"bytes: \d+", f"bytes: {size}", text)
        if content is not None:
            text = re.sub(r"sha256: \w+", f"sha256: {hashlib.sha256(content).hexdigest()}", text)
        path.write_text(text)


@pytest.fixture
def orca(program, served, tmp_path):
    """Run `orca ...` in a separate process with an empty home folder, and return the completed process."""
    save_tiny_roberta(tmp_path / "hub" / "roberta-base" / "resolve" / COMMIT)
    with hub(tmp_path / "hub", ["roberta-base"]) as (url, _):
        environment = {
            **os.environ,
            "PYTHONPATH": str(program),
            "ORCA_HOME": str(tmp_path / "home"),
            "ORCA_RUNS": str(tmp_path / "runs"),
            "HF_HOME": str(tmp_path / "cache"),
            "HF_ENDPOINT": url,
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }
        environment.pop("HF_HUB_OFFLINE", None)

        def call(*words, **changes):
            return subprocess.run(
                [sys.executable, "-m", "orca_cli", *words],
                cwd=tmp_path,
                env=environment | changes,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )

        yield call


def test_the_ordered_command_after_one_get_has_a_result(orca, bucket, tmp_path):
    offline = {"HF_HUB_OFFLINE": "1"}
    before = orca("run", *ORDERED, **offline)
    assert before.returncode == 11
    assert "the data set 'deepsea'" in before.stderr
    assert "the source 'conll2003'" in before.stderr
    assert "the body 'roberta' (roberta-base)" in before.stderr
    assert "`orca get task=deepsea body=roberta` fetches the missing files" in before.stderr
    assert not (tmp_path / "runs").exists()

    shapes = orca("run", "--dry-run", *ORDERED, **offline)
    assert (shapes.returncode, "input 4 x 1000, output 36 labels" in shapes.stdout) == (11, True)

    fetched = orca("get", *ORDERED)
    assert fetched.returncode == 0, fetched.stderr
    assert "for research; the text belongs to Reuters" in fetched.stdout
    assert re.search(r"body=roberta +roberta-base +\d+ kB +mit +to fetch", fetched.stdout)
    assert fetched.stdout.rstrip().endswith("orca run task=deepsea body=roberta")
    folder = tmp_path / "home" / "data" / "conll2003"
    assert [path.name for path in folder.glob("*.txt")] == ["train.txt"]

    requests = len(bucket.requests)
    again = orca("get", *ORDERED)
    assert (again.returncode, len(bucket.requests)) == (0, requests), again.stderr
    assert "to fetch" not in again.stdout

    done = orca("run", *ORDERED, *SHORT, **offline)
    assert done.returncode == 0, done.stderr
    assert re.search(r"test +AUROC|test +1 - AUROC", done.stdout), done.stdout


def test_a_search_names_what_is_missing_before_its_trials(orca, tmp_path):
    ended = orca("tune", *ORDERED, "trials=3", HF_HUB_OFFLINE="1")
    assert ended.returncode == 11
    assert ended.stderr.count("the data set 'deepsea'") == 1
    assert "`orca get task=deepsea body=roberta`" in ended.stderr


def test_a_sweep_names_what_is_missing_once(orca, tmp_path):
    ended = orca("run", "-m", *ORDERED, "seed=0,1,2", HF_HUB_OFFLINE="1")
    assert ended.returncode == 11
    assert ended.stderr.count("the data set 'deepsea'") == 1
    assert "`orca get task=deepsea body=roberta seed=0,1,2`" in ended.stderr
    assert not (tmp_path / "runs").exists()
