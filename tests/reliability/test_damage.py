"""D1 to D6: our own files, damaged: never used, never mistaken for good ones, made again where they can be."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from orca_cli import storage
from orca_cli.cli import main
from orca_cli.config import identity
from orca_cli.exceptions import ChecksumError
from orca_cli.report.records.collect import collect
from orca_cli.runs import check
from orca_cli.runs.records import SCHEMA
from orca_cli.training import checkpoint
from orca_cli.training.cache import Entry, cached
from tests.cli.conftest import results, run_folders
from tests.reliability import damages
from tests.reliability.damages import Damage, flipped
from tests.reliability.test_kills import SHORT, completed, killed, outcome

OWNER = "o" * 64


def two_checkpoints(folder: Path) -> None:
    for step in (1, 2):
        tensors = {"w": torch.randn(40, generator=torch.Generator().manual_seed(step)), "b": torch.zeros(0)}
        state = {"0.exp_avg": torch.ones(40), "0.step": torch.tensor(float(step))}
        checkpoint.save(
            folder, checkpoint.Checkpoint(step, tensors, state, kept=tensors, records={"lines": [step]}), owner=OWNER
        )


def step_that_loads(folder: Path) -> int:
    loaded = checkpoint.load_latest(folder, owner=OWNER)
    assert loaded is not None
    expected = torch.randn(40, generator=torch.Generator().manual_seed(loaded.step))
    assert torch.equal(loaded.weights["w"], expected), "damaged weights were used"
    assert loaded.records == {"lines": [loaded.step]}
    return loaded.step


def test_every_flipped_bit_is_detected(tmp_path, count, scorecard):
    """D1: any bit of any file of a checkpoint; the one before is used."""
    two_checkpoints(tmp_path / "whole")
    generator = random.Random(2)
    names = sorted(path.name for path in (tmp_path / "whole" / "step-00000002").iterdir())
    tensors = {f"{name}.safetensors" for name in ("model", "optimizer", "kept")}
    assert set(names) >= tensors | {"trainer.json", storage.MANIFEST}
    cases, detected = count(pr=200, nightly=1000), 0
    for case in range(cases):
        folder = tmp_path / "damaged"
        shutil.copytree(tmp_path / "whole", folder)
        path = folder / "step-00000002" / names[case % len(names)]
        flipped(path, generator.randrange(path.stat().st_size), generator.randrange(8))
        detected += step_that_loads(folder) == 1
        shutil.rmtree(folder)
    scorecard.add("flipped bits in checkpoints / detected", cases=cases, passed=detected, target=1000)
    assert detected == cases


def _damaged(damage: Damage) -> Callable[[Path, str], object]:
    return lambda step, name: damage(step / name)


def _zero_tail(step: Path, name: str) -> None:
    content = (step / name).read_bytes()
    (step / name).write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def _swap(step: Path, name: str) -> None:
    other = step.with_name("step-00000001") / name
    (step / name).write_bytes(other.read_bytes())


def _without_entry(step: Path, name: str) -> None:
    _listed(step, lambda files: files.pop(name, None))
    (step / name).unlink()


def _listed(step: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the files of a manifest."""
    manifest = json.loads((step / storage.MANIFEST).read_text())
    change(manifest["files"])
    (step / storage.MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _honest_but_short(step: Path, name: str) -> None:
    """Seal again what is left: the manifest is valid, and a file is missing."""
    owner = storage.verify_folder(step)
    (step / name).unlink()
    storage.seal(step, [file for file in step.iterdir() if file.name != storage.MANIFEST], owner=owner)
    if name in ("kept.safetensors", storage.MANIFEST):  # may be absent by right; then it is some other run's checkpoint
        storage.seal(step, [file for file in step.iterdir() if file.name != storage.MANIFEST], owner="x" * 64)


def _renamed(step: Path, name: str) -> None:
    shutil.rmtree(step)
    step.with_name("step-00000001").rename(step)
    two_checkpoints(step.with_name("again"))
    step.with_name("again").joinpath("step-00000001").rename(step.with_name("step-00000001"))
    shutil.rmtree(step.with_name("again"))


CHANGES: dict[str, Callable[[Path, str], object]] = {
    "empty": _damaged(damages.cut(0)),
    "cut after a tenth": _damaged(damages.cut(0.1)),
    "cut in the middle": _damaged(damages.cut(0.5)),
    "without its last bytes": _damaged(damages.cut(0.99)),
    "zeros at the end": _zero_tail,
    "missing": _damaged(Path.unlink),
    "a folder": _damaged(damages.folder),
    "of the other step": _swap,
    "with a file too many": lambda step, name: (step / f"{name}.old").write_bytes(b"x"),
    "with appended bytes": lambda step, name: (step / name).write_bytes((step / name).read_bytes() + b"\0"),
    "left out of the manifest": _without_entry,
    "another digest in the manifest": lambda step, name: _listed(
        step, lambda files: (files.get(name) or next(iter(files.values()))).update(sha256="0" * 64)
    ),
    "sealed again without it": _honest_but_short,
    "a checkpoint under another step's name": _renamed,
    "text": _damaged(damages.replaced(b"version https://git-lfs.github.com/spec/v1\n")),
}


def test_damage_of_every_kind_is_detected(tmp_path, count, scorecard):
    """D2."""
    two_checkpoints(tmp_path / "whole")
    names = sorted(path.name for path in (tmp_path / "whole" / "step-00000002").iterdir())
    cases = [(kind, name) for kind in CHANGES for name in names]
    detected = []
    for kind, name in cases:
        folder = tmp_path / "damaged"
        shutil.copytree(tmp_path / "whole", folder)
        CHANGES[kind](folder / "step-00000002", name)
        if step_that_loads(folder) == 1:
            detected.append((kind, name))
        shutil.rmtree(folder)
    scorecard.add("other damage to checkpoints / detected", cases=len(cases), passed=len(detected), target=len(cases))
    assert detected == cases


@pytest.mark.slow
def test_a_run_goes_on_exactly_from_the_checkpoint_before(fork, small, tmp_path, scorecard):
    """D1, D3: through the command line: the previous checkpoint is used and the bits are the same; with none whole, 21."""
    expected = completed(fork, [*small, *SHORT], tmp_path / "whole")
    runs = tmp_path / "runs"
    assert killed(fork, [*small, *SHORT], runs, "finetune", 7, 0.0)
    (run,) = run_folders(runs)
    steps = sorted((run / "3_finetune" / "checkpoints").glob("step-*"))
    assert len(steps) >= 2
    flipped(steps[-1] / "model.safetensors", 4000, 3)
    shutil.copytree(runs, tmp_path / "worse")
    case = fork("run", *small, *SHORT, f"paths.runs={runs}")
    assert case.wait(240) == 0, case.err
    assert "skipping a damaged checkpoint" in case.err
    assert outcome(run) == expected
    worse = tmp_path / "worse"
    for step in worse.glob("*/*/3_finetune/checkpoints/step-*"):
        flipped(step / "model.safetensors", 4000, 5) if step.name != steps[-1].name else None
    case = fork("run", *small, *SHORT, f"paths.runs={worse}")
    assert case.wait(240) == 21
    last = case.err.strip().splitlines()[-1]
    assert last.startswith("orca: error: ")
    assert "3_finetune/checkpoints: no valid checkpoint found; delete this folder to restart the stage" in last
    shutil.rmtree(next(worse.glob("*/*/3_finetune/checkpoints")))
    assert completed(fork, [*small, *SHORT], worse) == expected
    scorecard.add("runs with damaged checkpoints / went on exactly or refused", cases=3, passed=3, target=3)


def test_a_damaged_cache_entry_is_a_miss(tmp_path, count, scorecard):
    """D4: the entry is computed again, with the value of a cold cache; the damaged one is kept aside."""
    truth = {"x": torch.arange(50.0), "labels": torch.arange(50)}
    generator = random.Random(3)
    kinds = [kind for kind in CHANGES if kind not in ("of the other step", "a checkpoint under another step's name")]
    cases, right = count(pr=26, nightly=50), 0
    for case in range(cases):
        entry = tmp_path / f"{case}" / "entry"
        cached(entry, lambda: Entry(truth))
        name = ("tensors.safetensors", storage.MANIFEST)[case % 2]
        kind = kinds[case // 2 % len(kinds)]
        if kind == "sealed again without it":
            flipped(entry / name, generator.randrange((entry / name).stat().st_size), generator.randrange(8))
        else:
            CHANGES[kind](entry, name)
        computed = []
        tensors = cached(entry, lambda computed=computed: computed.append(1) or Entry(truth)).tensors
        storage.verify_folder(entry)
        set_aside = list(entry.parent.glob("entry.bad-*"))
        right += bool(computed and set_aside) and all(torch.equal(tensors[name], truth[name]) for name in truth)
    scorecard.add("damaged cache entries / made again", cases=cases, passed=right, target=50)
    assert right == cases


@pytest.fixture
def finished(fork, small, tmp_path):
    runs = tmp_path / "finished"
    completed(fork, [*small, *SHORT], runs)
    return runs


STATUSES: dict[str, Damage] = {
    "missing": Path.unlink,
    "empty": damages.replaced(b""),
    "cut off": lambda path: path.write_text(path.read_text()[:60]),
    "binary": damages.replaced(os.urandom(200) + b"\xff"),
    "a list": damages.replaced(b"[]"),
    "a number": damages.replaced(b"3"),
    "null": damages.replaced(b"null"),
    "an empty record": damages.replaced(b"{}"),
    "nested": damages.replaced(b"[" * 200_000),
    "huge": lambda path: os.truncate(path, 2**30),
    "no schema": damages.replaced(b'{"state": "align"}'),
    "schema is text": damages.replaced(b'{"schema": "1", "state": "align"}'),
    "no names": damages.replaced(b'{"schema": 1, "state": "align"}'),
    "names are numbers": lambda path: _edit(path, task=3, body=[], seed="0"),
    "state is a list": lambda path: _edit(path, state=["align"]),
    "completed, which it is not": lambda path: _edit(path, state="completed"),
    "latin-1": damages.replaced('{"schema": 1, "state": "é"}'.encode("latin-1")),
    "a folder": damages.folder,
    "two records": lambda path: path.write_text(path.read_text() * 2),
    "half overwritten": lambda path: path.write_text("x" * 50 + path.read_text()[50:]),
}


def _edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.slow
def test_a_lost_status_is_made_anew(fork, small, tmp_path, capsys, monkeypatch, scorecard):
    """D5: the report says broken, doctor makes it anew, and the run goes on."""
    runs = tmp_path / "runs"
    assert killed(fork, [*small, *SHORT], runs, "finetune", 6, 0.0)
    (run,) = run_folders(runs)
    before = json.loads((run / "status.json").read_text())
    assert before["state"] == "finetune"
    right = []
    for kind, change in STATUSES.items():
        copy = tmp_path / "copy" / run.parent.name / run.name
        shutil.copytree(run, copy)
        change(copy / "status.json")
        listed = collect([tmp_path / "copy"])
        is_reported = len(listed.broken) == 1 and listed.runs == []
        code = main(["doctor", str(copy)])
        out = capsys.readouterr().out
        (after,) = collect([tmp_path / "copy"]).runs
        status = json.loads((copy / "status.json").read_text())
        same = all(
            status[key] == before[key] for key in ("task", "seed", "identity", "settings", "variant", "state", "step")
        )
        if is_reported and code == 0 and "status.json was restored" in out and after.state == "dead" and same:
            right.append(kind)
        shutil.rmtree(tmp_path / "copy")
    scorecard.add("broken status records / told and made anew", cases=len(STATUSES), passed=len(right), target=20)
    assert right == list(STATUSES)


@pytest.mark.slow
def test_doctor_finds_damage_anywhere_in_a_completed_run(finished, capsys, scorecard):
    """D1 for a whole run folder: every file that does not change any more is compared with its checksum."""
    (run,) = run_folders(finished)
    assert main(["doctor", str(run)]) == 0
    assert "intact: " in capsys.readouterr().out
    changing = {"status.json", "lock", "run.log"}
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and str(path.relative_to(run)) not in changing]
    assert len(files) > 15
    detected = []
    for path in files:
        content = path.read_bytes()
        flipped(path, len(content) // 2, 4)
        code = main(["doctor", str(run)])
        out = capsys.readouterr().out
        if code == 13 and "damaged: " in out:
            detected.append(path)
        path.write_bytes(content)
    scorecard.add("flipped bits in completed runs / found by doctor", cases=len(files), passed=len(detected), target=15)
    assert detected == files
    assert main(["doctor", str(run)]) == 0


@pytest.mark.slow
def test_a_run_of_a_newer_program_is_left_alone(fork, small, finished, capsys):
    (run,) = run_folders(finished)
    (run / "result.json").unlink()
    _edit(run / "status.json", schema=SCHEMA + 1)
    content = (run / "status.json").read_bytes()
    case = fork("run", *small, *SHORT, f"paths.runs={finished}")
    assert case.wait(120) == 21
    assert "newer program" in case.err
    assert main(["doctor", str(run)]) == 21
    assert (run / "status.json").read_bytes() == content


@pytest.mark.slow
def test_data_that_changed_between_attempts(fork, small, tmp_path, monkeypatch, scorecard):
    """D6: one value rewritten, same size and time; by content another experiment, by size and time 22."""
    import numpy as np

    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(120, 4, 8)).astype(np.float32), np.arange(120) % 3
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    os.utime(tmp_path / "mine.npz", (10**9, 10**9))
    words = [word for word in (*small, *SHORT) if not word.startswith("task")]
    words += ["task=arrays", "task.train=mine.npz", "task.kind=classes"]
    hook = "tests.reliability.test_damage:by_size_and_time:"
    runs = tmp_path / "runs"
    case = fork("run", *words, "train.epochs=200", f"paths.runs={runs}", hook=hook)
    while not list(runs.glob("*/*/2_align/MANIFEST.json")) and case.poll() is None:
        time.sleep(0.02)
    assert case.poll() is None, case.err
    case.kill()
    x[3, 1, 5] += 1e-3
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    os.utime(tmp_path / "mine.npz", (10**9, 10**9))
    case = fork("run", *words, "train.epochs=200", f"paths.runs={runs}", hook=hook)
    assert case.wait(120) == 22, case.err
    assert "data." in case.err
    case = fork("run", *words, f"paths.runs={runs}")
    assert case.wait(240) == 0
    assert len(run_folders(runs)) == 2
    assert len(results(runs)) == 1
    scorecard.add("data changed between attempts / refused or another run", cases=2, passed=2, target=2)


def by_size_and_time(_: str) -> None:
    """A hook: take every file for one that is too large to be hashed."""
    identity._HASH_BELOW = 0


def test_check_is_no_writer_of_whole_runs(tmp_path):
    """The premise of all above: a folder that is not a run is refused and left as it is."""
    (tmp_path / "x").mkdir()
    with pytest.raises(Exception, match="not a run"):
        check.check(tmp_path / "x")
    assert list((tmp_path / "x").iterdir()) == []
    with pytest.raises(ChecksumError):
        storage.verify_folder(tmp_path / "x")
