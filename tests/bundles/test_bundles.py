"""Bundles: the same bytes for the same runs, nothing of the machine, everything computed again, any change found."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_cli import storage
from orca_cli.bundles.cleaning import Cleaner
from orca_cli.bundles.verification import differences
from orca_cli.cli import main
from tests.bundles.conftest import SECRET, Edit, add_scored_run, members, rewritten
from tests.properties import examples

Captured = pytest.CaptureFixture[str]


def _verified(bundle: Path, capsys: Captured, *words: str) -> tuple[int, list[tuple[str, str, str]]]:
    capsys.readouterr()
    code = main(["verify", str(bundle), "--json", *words])
    out, err = capsys.readouterr()
    assert "unexpected" not in err
    assert err.count("\n") == (code != 0)
    checks = json.loads(out)["checks"] if out else []
    return code, [(one["verdict"], one["what"], one["text"]) for one in checks]


def test_a_bundle_agrees_and_names_every_run_row_and_arm(made: Path, capsys: Captured) -> None:
    code, checks = _verified(made / "all.zip", capsys)
    assert code == 0
    assert {verdict for verdict, _, _ in checks} == {"agrees"}
    texts = [text for _, _, text in checks]
    assert sum("0-1 error" in text and "n = 40" in text for text in texts) == 4
    assert sum(text == "not completed: it has no error" for text in texts) == 1
    assert any(text.startswith("minilm otdd full: 1 cells, 2 errors") for text in texts)
    assert any(text.startswith("metric=otdd: 1 sets, 2 pairs") for text in texts)


def test_the_same_runs_give_the_same_bytes_wherever_they_are(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    shutil.copytree(made / "runs", tmp_path / "else where" / "runs")
    for path in (tmp_path / "else where").rglob("*"):
        path.touch()
    monkeypatch.chdir(tmp_path)
    words = ["pack", "else where/runs", "--against", "metric=none", "--out", "again.zip"]
    assert main(words) == 0
    assert (tmp_path / "again.zip").read_bytes() == (made / "all.zip").read_bytes()
    digest = capsys.readouterr().out.split("digest ")[1].split()[0]
    assert _verified(tmp_path / "again.zip", capsys, "--digest", digest[:10])[0] == 0
    code, checks = _verified(tmp_path / "again.zip", capsys, "--digest", "0" * 64)
    assert (code, checks[0][:2]) == (13, ("differs", "digest"))
    assert main(words) == 2  # it exists
    assert main([*words, "--force"]) == 0


def test_nothing_of_the_machine_is_in_it(made: Path) -> None:
    content = members(made / "all.zip")
    text = b"\n".join(inner for name, inner in content.items() if not name.endswith(".npz")).decode()
    for word in ("somebody", "my data", SECRET, str(made), "hostname", '"pid"', '"host"', '"folder": "<'):
        assert word not in text
    assert "<path>/x.npz" in text
    assert not any(name.endswith((".safetensors", ".log")) for name in content)
    names = {name.split("/", 3)[-1] for name in content if name.startswith("runs/")}
    kept = {"result.json", "config.yaml", "overrides.txt", "env.json", "1_build/summary.json"}
    assert kept | {"3_finetune/predictions.npz", "status.json"} == names


def test_files_of_one_name_in_different_folders_stay_different(tmp_path: Path, capsys: Captured) -> None:
    for folder, wrong in (("a", 5), ("b", 15)):
        for seed in (0, 1):
            for metric, better in (("none", 0), ("otdd", 2)):
                data, root = f"/data/{folder}/x.npz", tmp_path / "runs"
                add_scored_run(root, seed=seed, metric=metric, wrong=wrong + seed - better, data=data)
    out = tmp_path / "b.zip"
    assert main(["pack", str(tmp_path / "runs"), "--against", "metric=none", "--out", str(out)]) == 0
    assert _verified(out, capsys)[0] == 0
    content = members(out)
    assert len(json.loads(content["report/table.json"])["rows"]) == 4
    assert json.loads(content["report/comparison.json"])["arms"][0]["pairs"] == 4
    for name in (name for name in content if name.endswith("result.json")):  # all records say it alike
        text = json.loads(content[name])["variant"]["task.train"]
        assert text in ("<path>/x.npz", "<path-2>/x.npz")
        for other in ("config.yaml", "overrides.txt", "env.json"):
            assert text in content[name.replace("result.json", other)].decode()


def test_the_report_of_an_unpacked_bundle_is_the_one_in_it(made: Path, tmp_path: Path, capsys: Captured) -> None:
    with zipfile.ZipFile(made / "all.zip") as archive:
        archive.extractall(tmp_path)
    capsys.readouterr()
    for root in (made / "runs", tmp_path / "runs"):
        assert main(["report", str(root), "--json"]) == 0
    one, two = capsys.readouterr().out.split("\n}\n")[:2]
    recorded = json.loads((tmp_path / "report" / "table.json").read_text())
    for text in (one, two):
        found = json.loads(text + "\n}")
        for row, same in zip(found["rows"], recorded["rows"], strict=True):
            assert row["cells"][0]["mean"] == same["cells"][0]["mean"]
    assert main(["score", str(next((tmp_path / "runs").glob("*/*otdd*s0*")))]) == 0


def test_a_study_keeps_its_names(tmp_path: Path, capsys: Captured) -> None:
    root, runs = tmp_path / "runs", []
    for seed in (0, 1):
        for metric in ("none", "otdd"):
            path = add_scored_run(root, seed=seed, metric=metric, wrong=3 + seed)
            identity = json.loads((path / "result.json").read_text())["identity"]
            runs.append({"identity": identity, "labels": {"set": "one", "seed": str(seed), "metric": metric}})
    add_scored_run(root, seed=5)  # does not belong to it
    record = {"schema": 1, "study": "mine", "runs": [*runs, {"identity": "0" * 64, "labels": {}}]}
    (root / ".studies").mkdir()
    (root / ".studies" / "mine.json").write_text(json.dumps(record))
    out = tmp_path / "b.zip"
    words = ["--study", "mine", "--against", "metric=none", "--where", "seed=0,1", "--where", "task=one"]
    assert main(["pack", str(root), *words, "--out", str(out)]) == 0
    code, checks = _verified(out, capsys)
    assert code == 0
    assert sum("0-1 error" in text for _, _, text in checks) == 4
    assert len(json.loads(members(out)["runs/.studies/mine.json"])["runs"]) == 4


def test_weights_are_added_when_asked(tmp_path: Path, capsys: Captured) -> None:
    path = add_scored_run(tmp_path / "runs", seed=0)
    (path / "3_finetune" / "last").mkdir()
    (path / "3_finetune" / "last" / "model.safetensors").write_bytes(b"weights")
    for words, count in (([], 0), (["--weights"], 1)):
        out = tmp_path / f"{count}.zip"
        assert main(["pack", str(path), *words, "--out", str(out)]) == 0
        assert sum(name.endswith(".safetensors") for name in members(out)) == count
        assert _verified(out, capsys)[0] == 0


def _of(content: dict[str, bytes], ending: str) -> str:
    return next(name for name in sorted(content) if name.endswith(ending) and "_otdd_" in name)


def _json(ending: str, change: Callable[[dict], None]) -> Edit:
    def edit(content: dict[str, bytes]) -> None:
        name = ending if ending in content else _of(content, ending)
        record = json.loads(content[name])
        change(record)
        content[name] = json.dumps(record).encode()

    return edit


def _value(record: dict) -> None:
    record["error"]["value"] = 0.15


def _cell(record: dict) -> None:
    record["rows"][0]["cells"][0]["mean"] += 1e-6


def _p(record: dict) -> None:
    record["arms"][0]["points"]["p"] = 0.01


def _sentence(record: dict) -> None:
    record["arms"][0]["sentence"] = "otdd: helps by 9 points"


def _prediction(content: dict[str, bytes]) -> None:
    name = _of(content, "predictions.npz")
    with np.load(io.BytesIO(content[name])) as saved:
        outputs, targets = saved["outputs"].copy(), saved["targets"]
    outputs[-1] = np.roll(outputs[-1], 1)
    file = io.BytesIO()
    np.savez(file, outputs=outputs, targets=targets)
    content[name] = file.getvalue()


def _setting(content: dict[str, bytes]) -> None:
    name = _of(content, "config.yaml")
    content[name] = content[name].replace(b"lr: 0.0002", b"lr: 0.002")


def _seed(content: dict[str, bytes]) -> None:
    name = _of(content, "config.yaml")
    content[name] = content[name].replace(b"seed: 0\n", b"seed: 3\n")


def _summary(content: dict[str, bytes]) -> None:
    content[_of(content, "summary.json")] += b"\n"


def _table_text(content: dict[str, bytes]) -> None:
    content["report/table.md"] = content["report/table.md"].replace(b"13.8", b"12.8")
    assert b"12.8" in content["report/table.md"]


def _missing(content: dict[str, bytes]) -> None:
    del content[_of(content, "env.json")]


def _hidden_run(content: dict[str, bytes]) -> None:
    for name in [name for name in content if "_s1_" in name and "_otdd_" in name]:
        del content[name]


def _extra_run(content: dict[str, bytes]) -> None:
    for name in [name for name in content if name.startswith("runs/") and "_s1_" in name and "_otdd_" in name]:
        content[name.replace("_s1_", "_s4_")] = content[name].replace(b'"seed": 1', b'"seed": 4')


EDITS: dict[str, tuple[Edit, str | None]] = {  # and what is said of it where bundle.json was made to fit
    "an error": (_json("result.json", _value), "in result.json, 0.125 computed"),
    "a cell": (_json("report/table.json", _cell), "rows[0].cells[0].mean"),
    "a p": (_json("report/comparison.json", _p), "points.p: 0.01 in the bundle"),
    "a sentence": (_json("report/comparison.json", _sentence), "sentence"),
    "a prediction": (_prediction, "0-1 error: 0.125 in result.json, 0.15 computed"),
    "a setting": (_setting, "train.lr is 0.002 in config.yaml"),
    "a seed": (_seed, "seed is 3 in config.yaml"),
    "a summary": (_summary, "is not what the run sealed"),
    "a text": (_table_text, "table.md is not what table.json says"),
    "a missing file": (_missing, None),
    "a run that is not named": (_extra_run, "is a run that bundle.json does not name"),
    "a missing run": (_hidden_run, "the run is not in the bundle"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_single_change_is_found(made: Path, tmp_path: Path, capsys: Captured, edit: str) -> None:
    change, said = EDITS[edit]
    code, checks = _verified(rewritten(made / "all.zip", tmp_path / "a.zip", change, listed=False), capsys)
    assert code == 13
    assert any(verdict == "differs" for verdict, _, _ in checks)
    code, checks = _verified(rewritten(made / "all.zip", tmp_path / "b.zip", change, listed=True), capsys)
    wrong = [text for verdict, _, text in checks if verdict == "differs"]
    if said is None:  # nothing follows from the environment: the digest alone tells, which is another one now
        assert code == 0
    else:
        assert code == 13
        assert any(said in text for text in wrong)


def test_an_index_that_was_changed_is_refused(made: Path, tmp_path: Path, capsys: Captured) -> None:
    def edit(content: dict[str, bytes]) -> None:
        content["bundle.json"] = content["bundle.json"].replace(b'"margin": 0.5', b'"margin": 0.6')

    code, checks = _verified(rewritten(made / "all.zip", tmp_path / "b.zip", edit, listed=False), capsys)
    assert (code, checks) == (13, [])


def test_an_error_that_is_not_the_programs_own_is_unchecked(tmp_path: Path, capsys: Captured) -> None:
    path = add_scored_run(tmp_path / "runs", seed=0)
    text = (path / "config.yaml").read_text().replace("orca_cli.scoring.classification.ZeroOne", "os.system")
    (path / "config.yaml").write_text(text)
    (path / "MANIFEST.json").unlink()
    (without := add_scored_run(tmp_path / "runs", seed=1)).joinpath("3_finetune/predictions.npz").unlink()
    assert main(["pack", str(tmp_path / "runs"), "--out", str(tmp_path / "b.zip")]) == 0
    assert without.name in capsys.readouterr().out
    code, checks = _verified(tmp_path / "b.zip", capsys)
    assert code == 11
    unchecked = [text for verdict, _, text in checks if verdict == "unchecked"]
    assert len(unchecked) == 2
    assert any("'os.system' is not an error of the program" in text for text in unchecked)


def test_runs_that_a_process_works_on_are_left_out(tmp_path: Path, capsys: Captured) -> None:
    add_scored_run(tmp_path / "runs", seed=0)
    busy = add_scored_run(tmp_path / "runs", seed=1)
    (busy / "result.json").unlink()
    status = json.loads((busy / "status.json").read_text()) | {"state": "align"}
    (busy / "status.json").write_text(json.dumps(status))
    with storage.lock(busy / "lock"):
        assert main(["pack", str(tmp_path / "runs"), "--out", str(tmp_path / "b.zip"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == {busy.name: "a process works on it"}


def test_files_behind_links_are_not_packed(tmp_path: Path, capsys: Captured) -> None:
    path = add_scored_run(tmp_path / "runs", seed=0)
    (tmp_path / "private.txt").write_text("a private key")
    (path / "overrides.txt").unlink()
    (path / "overrides.txt").symlink_to(tmp_path / "private.txt")
    assert main(["pack", str(path), "--out", str(tmp_path / "b.zip"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == {
        f"{path.name}/overrides.txt": "is a link, which could lead anywhere"
    }
    assert not any(b"private key" in inner for inner in members(tmp_path / "b.zip").values())


_WORDS = st.text(alphabet=st.sampled_from("ab/ =:.~\\'[],-<>@_#0"), max_size=30)


@examples(100)
@given(text=_WORDS)
def test_what_is_clean_stays_as_it_is(text: str) -> None:
    cleaner = Cleaner([Path("/a/b 0")])
    once = cleaner.setting(text)
    assert cleaner.setting(once) == once


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("/home/al ice/x y.csv", "<path>/x y.csv"),
        ("/home/alice", "<path>"),
        ("see /home/bob/z.npz: no such file", "see <path>/z.npz: no such file"),
        ("file:///home/a/b", "<path>/b"),
        (r"C:\Users\bob\x.csv", "<path>/x.csv"),
        ("in /a/b 0/runs: bad", "in <path>/runs: bad"),
        ("http://me:pw@host/x", "http://<removed>@host/x"),
        ("wandb.api_key=abc", "wandb.api_key=<removed>"),
        ("task.train=/d/x.npz", "task.train=<path>/x.npz"),
        *(
            (same, same)
            for same in ("https://docs.python.org/3/", "+/-3", "n/a", "whole/x.npz", "align.features=tokens")
        ),
    ],
)
def test_paths_and_secrets_are_taken_out(text: str, clean: str) -> None:
    assert Cleaner([Path("/a/b 0")]).setting(text) == clean


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from([0.1, 1e-9, 1e300]) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@examples(50)
@given(a=_JSON, b=_JSON)
def test_records_differ_exactly_where_they_are_not_equal(a: object, b: object) -> None:
    assert list(differences(a, a)) == []
    is_same = json.dumps(a, sort_keys=True).replace(".0", "") == json.dumps(b, sort_keys=True).replace(".0", "")
    assert bool(list(differences(a, b))) != is_same
