"""Hostile bundles: nothing leaves the folder, nothing is executed, nothing fills disk or memory; one line says why."""

from __future__ import annotations

import io
import json
import random
import stat
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orca_cli import storage
from orca_cli.bundles.layout import read_index
from orca_cli.cli import main
from orca_cli.exceptions import CheckpointError, DataError
from tests.bundles.conftest import members, rewritten
from tests.tiers import count

Captured = pytest.CaptureFixture[str]
PREDICTIONS = "3_finetune/predictions.npz"


def _code(bundle: Path, capsys: Captured) -> tuple[int, str]:
    """Return exit code and error of `orca verify`, which never fails but in one line."""
    capsys.readouterr()
    code = main(["verify", str(bundle)])
    err = capsys.readouterr().err
    assert "unexpected" not in err
    assert err.count("\n") == (code != 0), err
    return code, err


def _zip(path: Path, content: dict[str, bytes], *more: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, inner in (*content.items(), *more):
            archive.writestr(name, inner)
    return path


def _link(name: str, target: str) -> tuple[zipfile.ZipInfo, bytes]:
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return member, target.encode()


def test_members_that_leave_the_folder_or_lead_out_of_it(made: Path, tmp_path: Path, capsys: Captured) -> None:
    content = members(made / "all.zip")
    for number, extra in enumerate(
        [
            ("../outside", b"x"),
            ("/tmp/outside", b"x"),
            ("runs/../../outside", b"x"),
            ("c:\\outside", b"x"),
            ("bundle.json/inside", b"x"),
            ("BUNDLE.json", b"x"),
            _link("runs/digits/link", "/etc/passwd"),
            _link("report/table.txt", "../../outside"),
        ]
    ):
        assert _code(_zip(tmp_path / f"{number}.zip", content, extra), capsys)[0] == 12
    assert not (tmp_path / "outside").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(made: Path, tmp_path: Path, capsys: Captured) -> None:
    content = members(made / "all.zip")
    assert _code(_zip(tmp_path / "a.zip", content, ("bundle.json", content["bundle.json"])), capsys)[0] == 12


def test_bombs(made: Path, tmp_path: Path, capsys: Captured) -> None:
    zeros = bytes(260 * 2**20)
    assert _code(_zip(tmp_path / "a.zip", members(made / "all.zip"), ("runs/zeros", zeros)), capsys)[0] == 12

    def declared(content: dict[str, bytes]) -> None:
        name = next(name for name in content if name.endswith(PREDICTIONS))
        file = io.BytesIO()
        np.save(file, np.zeros((1, 1), np.float32))
        head = file.getvalue().replace(b"(1, 1), }          ", b"(99999999, 99999), }")
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w") as archive:
            archive.writestr("outputs.npy", head)
            archive.writestr("targets.npy", head)
        content[name] = inner.getvalue()

    assert _code(rewritten(made / "all.zip", tmp_path / "b.zip", declared, listed=True), capsys)[0] == 13


def test_other_kinds_of_files(tmp_path: Path, capsys: Captured) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("bundle.json"), io.BytesIO(b""))
    (tmp_path / "b.zip").write_bytes(b"PK\x03\x04 not really")
    (tmp_path / "c.zip").write_bytes(b"")
    (tmp_path / "d.zip").mkdir()
    for path in (*sorted(tmp_path.iterdir()), tmp_path / "absent.zip", _zip(tmp_path / "e.zip", {"x": b"y"})):
        assert _code(path, capsys)[0] == 11


def _indexed(made: Path, target: Path, **changes: Any) -> Path:
    """Write the bundle with other entries of bundle.json, which has its right checksum."""
    content = members(made / "all.zip")
    record = json.loads(content["bundle.json"])
    del record["sha256"]
    storage.write_checked_json(target.with_suffix(".json"), record | changes)
    return _zip(target, content | {"bundle.json": target.with_suffix(".json").read_bytes()})


def test_a_bundle_of_a_newer_program(made: Path, tmp_path: Path, capsys: Captured) -> None:
    code, err = _code(_indexed(made, tmp_path / "a.zip", schema=2), capsys)
    assert code == 21
    assert "newer" in err


WRONG: list[Any] = [None, True, "", "text", -1, 10**400, [], [1], {}, {"a": 1}, [[]], [{"folder": 1}]]


def test_indexes_of_wrong_types(made: Path, tmp_path: Path) -> None:
    known = json.loads(members(made / "all.zip")["bundle.json"])
    del known["sha256"]

    def refused(record: dict[str, Any]) -> bool:
        storage.write_checked_json(tmp_path / "bundle.json", record)
        try:
            read_index(tmp_path, "x")
        except (DataError, CheckpointError):
            return True
        return False

    assert not refused(known)
    right = {"left_out": [{}], "options": [], "files": [{}], "runs": [[]], "schema": []}
    for key, fits in right.items():
        assert [value for value in WRONG if not refused(known | {key: value})] == fits
    options = known["options"]
    right = {"study": [None, "", "text"], "against": [None, "", "text"], "margin": []}
    right |= {key: [[]] for key in ("task", "metric", "where")}
    for key, fits in right.items():
        found = [value for value in WRONG if not refused(known | {"options": options | {key: value}})]
        assert found == fits, key


def test_a_run_outside_of_the_bundle_is_not_read(made: Path, tmp_path: Path, capsys: Captured) -> None:
    for number, folder in enumerate(("../../made", "/tmp", ".", "", "digits/../..")):
        entry = {"folder": folder, "identity": "x", "cleaned": []}
        code, _ = _code(_indexed(made, tmp_path / f"{number}.zip", runs=[entry]), capsys)
        assert code == 13
    strange = json.loads(members(made / "all.zip")["bundle.json"])["options"] | {"against": "body", "where": ["x"]}
    assert _code(_indexed(made, tmp_path / "options.zip", options=strange), capsys)[0] == 13


@pytest.mark.parametrize(
    ("ending", "content", "codes"),
    [
        (PREDICTIONS, b"\x80\x04cos\nsystem\n.", (13,)),
        (PREDICTIONS, b"", (13,)),
        ("config.yaml", b"!!python/object/apply:os.system ['touch owned']", (13,)),
        ("config.yaml", b"a: &a [1,1]\nb: &b [*a,*a,*a,*a]\n" * 2, (13,)),
        ("config.yaml", b"\xff\xfe", (13,)),
        ("config.yaml", b"[" * 1500, (13,)),
        ("result.json", b"[" * 100_000, (13,)),
        ("result.json", b'{"schema": 9}', (13,)),
        ("summary.json", b'{"schema": 1, "kind": ["dense"]}', (13,)),
        ("report/table.json", b"[" * 100_000, (13,)),
        ("report/table.json", b"\xff", (13,)),
    ],
)
def test_files_that_are_not_what_they_should_be(
    made: Path,
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    content: bytes,
    codes: tuple[int, ...],
) -> None:
    monkeypatch.chdir(tmp_path)

    def edit(inner: dict[str, bytes]) -> None:
        inner[next(name for name in sorted(inner) if name.endswith(ending))] = content

    assert _code(rewritten(made / "all.zip", tmp_path / "a.zip", edit, listed=True), capsys)[0] in codes
    assert not (tmp_path / "owned").exists()


def test_arrays_of_objects_are_not_unpickled(made: Path, tmp_path: Path, capsys: Captured) -> None:
    def edit(content: dict[str, bytes]) -> None:
        file = io.BytesIO()
        np.savez(file, outputs=np.array([print], dtype=object), targets=np.zeros(1))
        content[next(name for name in content if name.endswith(PREDICTIONS))] = file.getvalue()

    assert _code(rewritten(made / "all.zip", tmp_path / "a.zip", edit, listed=True), capsys)[0] == 13


def test_any_damage_of_the_bytes_is_one_line(made: Path, tmp_path: Path, capsys: Captured) -> None:
    whole = (made / "all.zip").read_bytes()
    draw = random.Random(0)
    for number in range(count(pr=40, nightly=2000)):
        content = bytearray(whole)
        place = draw.randrange(len(content))
        if number % 4 == 0:
            del content[place:]
        elif number % 4 == 1:
            content[place] ^= 1 << draw.randrange(8)
        elif number % 4 == 2:
            content[place : place + 4] = struct.pack("<I", draw.getrandbits(32))
        else:
            content[place:place] = whole[: draw.randrange(2000)]
        path = tmp_path / "a.zip"
        path.write_bytes(content)
        # A bit of a member's time or system says nothing about what it holds.
        assert _code(path, capsys)[0] in (0, 11, 12, 13)
