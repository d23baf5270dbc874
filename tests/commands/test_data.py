"""`orca data` as it is typed: own configuration, a local server, files in all states."""

import hashlib
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from orca_cli.cli import main
from orca_cli.commands.data_check import examine_split
from orca_cli.data import catalogue
from orca_cli.data.data_folder import CHECKSUMS
from orca_cli.data.samples import ArraySamples
from orca_cli.interfaces import TaskData
from orca_cli.terminal import LogReporter
from tests.untrusted.server import status

ROOT = Path(__file__).parent.parent.parent
ARRAYS = "orca_cli.data.arrays.load"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Data and configuration lie in a folder of the test."""
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "conf" / "task").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def mine(workspace):
    """The folder of the data set `mine`."""
    return workspace / "home" / "data" / "mine"


@pytest.fixture
def orca(workspace, capfd):
    """Type `orca data ... --config-dir conf`; returns exit code, output and errors."""

    def call(*words):
        code = main(["data", *map(str, words), "--config-dir", str(workspace / "conf")])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def get(workspace, capfd):
    """Type `orca get task=NAME --config-dir conf`; returns exit code, output and errors."""

    def call(name, *words):
        words = ["get", f"task={name}", *words, "--config-dir", str(workspace / "conf")]
        code = main(words)
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def state(orca):
    """Return the state in which `orca data list` sees a data set."""
    return lambda name="mine": json.loads(orca("list", name, "--json")[1])["data_sets"][0]["state"]


def archive(path, **members):
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return path.read_bytes()


def arrays(path, n=60, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    np.savez(path, x=rng.normal(size=(n, 2, 9)), y=np.arange(n) % 3)
    return path


def describe(workspace, name="mine", files=(), **more):
    """Write conf/task/NAME.yaml of a task of arrays with a block `data`."""
    block = {"shape": "2 x 9", "outputs": "3 classes", "licence": "CC0"}
    block |= {"by_hand": "ask me for FOLDER", "pages": ["https://three.org/drive"]}
    block |= {"files": list(files), **more.pop("block", {})}
    train = str(workspace / "home" / "data" / name / "a.npz")
    task = {"_target_": ARRAYS, "kind": "classes", "train": train, **more, "data": block}
    path = workspace / "conf" / "task" / f"{name}.yaml"
    path.write_text("# @package _global_\n# Mine\n" + yaml.safe_dump({"task": task}))


def file_entry(path, *urls, **more):
    return {"path": path, "urls": list(urls), **more}


def test_the_block_of_the_page_on_adding_is_accepted(workspace):
    page = (ROOT / "docs" / "adding.md").read_text()
    (block,) = re.findall(r"```yaml\n(task:\n[^`]*\n  data:\n.*?)```", page, flags=re.S)
    path = workspace / "conf" / "task" / "ramps.yaml"
    path.write_text(f"# Ramps\n{block}")
    (file,) = catalogue.read("task", "ramps", path).files
    assert (file.path, file.unpack, len(file.urls), file.instead) == (
        "ramps.zip",
        "zip",
        2,
        ("ramps*.npy",),
    )


MALFORMED = [
    ({"files": [{"path": "../a"}]}, "files[0].path"),
    ({"files": [{"path": "a", "urls": ["file:///etc/passwd"]}]}, "must be a list, each entry an http or https address"),
    ({"files": [{"path": "a", "unpack": "rar"}]}, "got 'rar'; did you mean 'tar'?"),
    ({"files": [{"path": "a", "url": "x"}]}, "did you mean 'urls'?"),
]  # fmt: skip


@pytest.mark.parametrize(("block", "message"), MALFORMED, ids=[case[1] for case in MALFORMED])
def test_a_malformed_block_is_named(workspace, orca, block, message):
    (workspace / "conf" / "task" / "mine.yaml").write_text(
        "# Mine\n" + yaml.safe_dump({"task": {"data": block}})
    )
    code, out, err = orca("list")
    assert (code, out, err.count("\n")) == (10, "", 1)
    assert message in err
    assert "mine.yaml" in err


def test_list_says_what_is_there_and_where_from(workspace, mine, orca, state):
    describe(
        workspace,
        files=[
            file_entry("a.npz", "https://one.org/a", "http://two.org/a", bytes=2_500_000),
            file_entry("b.txt"),
        ],
    )
    describe(workspace, "made", origin="generated")
    describe(workspace, "boxed", block={"origin": "bundled"})
    arrays(mine / "a.npz")
    assert [state(name) for name in ("mine", "made", "boxed")] == ["partly", "generated", "bundled"]
    assert "one.org, two.org" in orca("list")[1].replace("\n", " ")
    out = orca("list", "mine")[1]
    assert "2.5 MB" in out
    assert f"ask me for {mine} https://three.org/drive" in " ".join(out.split())
    assert (
        orca("list", "mien")[2]
        == "orca: error: NAME: unknown task or source 'mien'; did you mean 'mine'?\n"
    )


def test_get_fetches_unpacks_records_and_then_verifies(workspace, mine, get, web, state):
    content = archive(workspace / "z", **{"in/1.txt": b"one", "in/2.txt": b"two"})
    web.file("/a.zip", content)
    web.routes["/dead"] = status(403)
    describe(
        workspace,
        files=[file_entry("raw/a.zip", f"{web.url}/dead", f"{web.url}/a.zip", unpack="zip")],
    )
    code, out, err = get("mine")
    assert (code, "2 files unpacked" in out, "HTTP 403" in err) == (0, True, True), err
    assert (mine / "raw" / "in" / "2.txt").read_bytes() == b"two"
    record = json.loads((mine / CHECKSUMS).read_text())["files"]["raw/a.zip"]
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert record["from"].endswith("/a.zip")
    request_count = len(web.requests)
    code, out, _ = get("mine")
    assert (code, len(web.requests), "verified" in out) == (0, request_count, True)
    # The archive may go once it is unpacked; what it held is what is needed.
    (mine / "raw" / "a.zip").unlink()
    assert "raw/a.zip: unpacked" in get("mine")[1]
    (mine / "raw" / "in" / "1.txt").unlink()
    assert state() == "absent"


def test_without_an_answer_get_says_how_to_place_the_file(workspace, mine, get, web):
    web.routes["/page"] = status(200)
    describe(
        workspace,
        files=[file_entry("a.npz", f"{web.url}/page", f"{web.url}/none"), file_entry("b.npz")],
    )
    code, out, err = get("mine")
    assert code == 15
    first, second = err.splitlines()[-2:]
    for words in ("mine/a.npz", "/page: sent a web page", "/none: HTTP 404"):
        assert words in first
    assert second == "orca: error: mine/b.npz: cannot be fetched: no address is known"
    assert out.splitlines()[-3:-1] == [
        f"to get mine by hand: ask me for {mine}",
        "  from https://three.org/drive",
    ]
    assert not (mine / "a.npz").exists()


def test_two_at_once_do_the_work_once(workspace, mine, web, fork_server):
    """An interrupted download: tests/untrusted/test_downloads.py."""
    content = b"PK\x03\x04" + bytes(3_000_000)
    describe(workspace, files=[file_entry("a.npz", web.file("/a", content))])
    both = [
        fork_server.start(["get", "task=mine", "--config-dir", str(workspace / "conf")])
        for _ in range(2)
    ]
    assert [case.wait(60) for case in both] == [0, 0]
    assert sorted("downloaded" in case.out for case in both) == [False, True]
    assert len(web.requests) == 1
    assert (mine / "a.npz").read_bytes() == content


def test_md5_is_compared_once_and_the_sha256_ever_after(workspace, mine, get, web):
    content = archive(workspace / "z", **{"1": b"one"})
    md5 = hashlib.md5(content).hexdigest()
    describe(workspace, files=[file_entry("a.npz", web.file("/bad", content + b"x"), md5=md5)])
    code, _, err = get("mine")
    assert (code, f"expected {md5}" in err) == (13, True)
    assert not (mine / "a.npz").exists()
    describe(
        workspace,
        files=[file_entry("a.npz", f"{web.url}/bad", web.file("/good", content), md5=md5)],
    )
    assert "MD5 verified" in get("mine")[1]
    (mine / "a.npz").write_bytes(content + b"x")
    assert get("mine")[0] == 13
    (mine / CHECKSUMS).unlink()  # a file placed by hand, seen for the first time
    code, _, err = get("mine")
    assert (code, "MD5" in err) == (13, True)


def test_a_damaged_archive_is_put_aside_for_an_intact_one(workspace, mine, get, web):
    content = archive(workspace / "z", **{"in/1.txt": b"one" * 999, "out/3.txt": b"three"})
    damaged = content.replace(b"oneone", b"onetwo", 1)
    describe(
        workspace, files=[file_entry("a.zip", web.file("/a", damaged), unpack="zip", only=["in/*"])]
    )
    code, _, err = get("mine")
    assert (code, "damaged" in err) == (11, True)
    (aside,) = mine.glob("a.zip.bad-*")
    assert aside.name in err
    web.file("/a", content)
    assert get("mine")[0] == 0
    assert list(mine.rglob("*.txt")) == [mine / "in" / "1.txt"]  # only what is wanted
    assert (mine / "in" / "1.txt").read_bytes() == b"one" * 999


def check(orca, *words):
    code, out, err = orca("check", *words, "--json")
    assert out, err
    record = json.loads(out)
    assert code == (11 if record["problems"] else 0), err
    return record


def test_check_counts_what_is_there(workspace, mine, orca):
    path = arrays(mine / "a.npz", 90)
    describe(
        workspace,
        files=[file_entry("a.npz")],
        normalize=False,
        test_fraction=0.1,
        validation_fraction=0.2,
    )
    record = check(orca, "mine", "task.test_fraction=0.2")
    content = np.load(path)
    assert (record["kind"], record["input_shape"], record["num_outputs"]) == ("classes", [2, 9], 3)
    splits = record["splits"]
    assert {name: split["n"] for name, split in splits.items()} == {
        "train": 54,
        "validation": 18,
        "test": 18,
    }
    assert max(split["inputs"]["max"] for split in splits.values()) == pytest.approx(
        content["x"].max()
    )
    assert splits["train"]["classes"] == {"counts": [18, 18, 18]}
    assert [(overlap["shared"], overlap["of"]) for overlap in record["overlaps"]] == [
        (0, 18),
        (0, 18),
        (0, 18),
    ]
    assert record["problems"] == []
    record = check(orca, "mine", "--samples", "8")
    assert [split["read"] for split in record["splits"].values()] == [8, 8, 8]


def test_check_finds_what_is_wrong(workspace, mine, orca):
    content = dict(np.load(arrays(mine / "a.npz")))
    # Samples of test are counted, so one that is there twice counts twice.
    rows = [0, 0, 1, 2, 3, 4, 5]
    test = {
        "x": np.concatenate([content["x"][rows], content["x"][7:12] + 1]),
        "y": content["y"][[*rows, *range(7, 12)]],
    }
    np.savez(mine / "test.npz", **test)
    describe(workspace, files=[file_entry("a.npz")], test=str(mine / "test.npz"), normalize=False)
    record = check(orca, "mine")
    assert (
        sum(overlap["shared"] for overlap in record["overlaps"] if overlap["second"] == "test") == 7
    )
    assert "samples of the split test are also in the split train" in " ".join(record["problems"])
    assert orca("check", "mien")[0] == orca("check", "digits", "task.nothing=1")[0] == 10
    (mine / "a.npz").unlink()
    code, out, err = orca("check", "mine")
    assert (code, out, "a.npz" in err) == (11, "", True)


def test_check_reports_numbers_that_are_none():
    x = np.ones((6, 1, 4), np.float32)
    x[:, 0, 0] = np.arange(6)
    x[1, 0, 2] = np.nan
    x[2, 0, 3] = np.inf
    y = np.zeros((6, 2), np.float32)
    y[0, 0] = 1
    y[1, 1] = np.nan
    y[2, 0] = 0.5
    y[3, 0] = np.inf
    split = ArraySamples(x, y)
    task = TaskData(
        kind="labels",
        input_shape=(1, 4),
        num_outputs=2,
        train=split,
        validation=split,
        open_test=lambda: split,
    )
    record, problems = examine_split(
        task, "train", split, rows=np.arange(6), reporter=LogReporter()
    )
    assert record["inputs"] == {"min": 0.0, "max": 5.0, "nan": 1, "infinite": 1}
    assert record["classes"]["counts"] == [1, 0]
    assert problems == [
        "the inputs contain 1 NaN and 1 infinite values",
        "2 targets are not 0, 1 or NaN",
    ]
