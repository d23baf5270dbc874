"""D1 to D6: our own files, damaged: never used, never mistaken for good ones, made again where they can be."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from orca_cli import storage
from orca_cli.cli import main
from orca_cli.report.records.collect import collect
from orca_cli.runs.records import SCHEMA
from orca_cli.training import checkpoint
from orca_cli.training.cache import Entry, cached
from tests.cli.conftest import run_folders
from tests.reliability import damages
from tests.reliability.conftest import SHORT, completed, killed, outcome
from tests.reliability.damages import Damage, flipped
from tests.tiers import count

OWNER = "o" * 64


def weights_of(step: int) -> torch.Tensor:
    return torch.randn(40, generator=torch.Generator().manual_seed(step))


def two_checkpoints(folder: Path) -> None:
    for step in (1, 2):
        tensors = {"w": weights_of(step), "b": torch.zeros(0)}
        state = {"0.exp_avg": torch.ones(40), "0.step": torch.tensor(float(step))}
        made = checkpoint.Checkpoint(step, tensors, state, kept=tensors, records={"lines": [step]})
        checkpoint.save(folder, made, owner=OWNER)


@pytest.fixture
def step_that_loads(tmp_path):
    """Damage the newer of two checkpoints; returns the number of the one that is then used."""
    two_checkpoints(tmp_path / "whole")

    def call(change: Callable[[Path], object]) -> int:
        folder = tmp_path / "damaged"
        shutil.copytree(tmp_path / "whole", folder)
        change(folder / "step-00000002")
        loaded = checkpoint.load_latest(folder, owner=OWNER)
        assert loaded is not None
        assert torch.equal(loaded.weights["w"], weights_of(loaded.step)), "damaged weights were used"
        assert loaded.records == {"lines": [loaded.step]}
        shutil.rmtree(folder)
        return loaded.step

    return call


@pytest.fixture
def names(tmp_path, step_that_loads):
    """The files of a checkpoint."""
    files = sorted(path.name for path in (tmp_path / "whole" / "step-00000002").iterdir())
    assert {"model.safetensors", "optimizer.safetensors", "kept.safetensors", "trainer.json"} < set(files)
    return files


def test_every_flipped_bit_is_detected(step_that_loads, names, scorecard):
    """D1: any bit of any file of a checkpoint; the one before is used."""
    generator = random.Random(2)

    def flip(path: Path) -> None:
        flipped(path, generator.randrange(path.stat().st_size), generator.randrange(8))

    cases = count(pr=200, nightly=1000)
    chosen = [names[case % len(names)] for case in range(cases)]
    used = [step_that_loads(lambda step, name=name: flip(step / name)) for name in chosen]
    scorecard.add("flipped bits in checkpoints / detected", cases=cases, passed=used.count(1), target=1000)
    assert used == [1] * cases


def _damaged(damage: Damage) -> Callable[[Path, str], object]:
    return lambda step, name: damage(step / name)


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
    if name in ("kept.safetensors", storage.MANIFEST):  # may be absent by right; then it is some other run's checkpoint
        owner = "x" * 64
    storage.seal(step, [file for file in step.iterdir() if file.name != storage.MANIFEST], owner=owner)


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
    "zeros at the end": _damaged(damages.changed(lambda old: old[: len(old) // 2] + bytes(len(old) - len(old) // 2))),
    "missing": _damaged(Path.unlink),
    "a folder": _damaged(damages.folder),
    "of the other step": _swap,
    "with a file too many": lambda step, name: (step / f"{name}.old").write_bytes(b"x"),
    "with appended bytes": _damaged(damages.changed(lambda old: old + b"\0")),
    "left out of the manifest": _without_entry,
    "another digest in the manifest": lambda step, name: _listed(
        step, lambda files: (files.get(name) or next(iter(files.values()))).update(sha256="0" * 64)
    ),
    "sealed again without it": _honest_but_short,
    "a checkpoint under another step's name": _renamed,
    "text": _damaged(damages.replaced(b"version https://git-lfs.github.com/spec/v1\n")),
}


def test_damage_of_every_kind_is_detected(step_that_loads, names, scorecard):
    """D2."""
    cases = [(kind, name) for kind in CHANGES for name in names]
    detected = [
        (kind, name)
        for kind, name in cases
        if step_that_loads(lambda step: CHANGES[kind](step, name)) == 1  # noqa: B023
    ]
    scorecard.add("other damage to checkpoints / detected", cases=len(cases), passed=len(detected), target=len(cases))
    assert detected == cases


@pytest.fixture(scope="module")
def killed_runs(fork_server, home, small, tmp_path_factory):
    """The folder of runs with one that was killed in stage 3."""
    runs = tmp_path_factory.mktemp("killed") / "runs"

    def start(*words, **settings):
        return fork_server.start([*words, "baselines=none"], more={"ORCA_HOME": str(home)}, **settings)

    assert killed(start, [*small, *SHORT], runs, "finetune", 7, 0.0)
    return runs


@pytest.mark.slow
def test_a_run_goes_on_exactly_from_the_checkpoint_before(fork, small, killed_runs, expected, tmp_path, counted):
    """D1, D3: through the command line: the previous checkpoint is used and the bits are the same; with none whole, 21."""
    runs, worse = tmp_path / "runs", tmp_path / "worse"
    shutil.copytree(killed_runs, runs)
    (run,) = run_folders(runs)
    *earlier, last = sorted((run / "3_finetune" / "checkpoints").glob("step-*"))
    assert earlier
    flipped(last / "model.safetensors", 4000, 3)
    shutil.copytree(runs, worse)
    case = fork("run", *small, *SHORT, f"paths.runs={runs}")
    assert case.wait(240) == 0, case.err
    assert "skipping a damaged checkpoint" in case.err
    assert outcome(run) == expected
    for step in earlier:
        flipped(worse / step.relative_to(runs) / "model.safetensors", 4000, 5)
    case = fork("run", *small, *SHORT, f"paths.runs={worse}")
    assert case.wait(240) == 21
    line = case.err.strip().splitlines()[-1]
    assert line.startswith("orca: error: ")
    assert "3_finetune/checkpoints: no valid checkpoint found; delete this folder to restart the stage" in line
    shutil.rmtree(worse / last.parent.relative_to(runs))
    assert completed(fork, [*small, *SHORT], worse) == expected
    counted("runs with damaged checkpoints / went on exactly or refused", cases=3, target=3)


def test_a_damaged_cache_entry_is_a_miss(tmp_path, scorecard):
    """D4: the entry is computed again, with the value of a cold cache; the damaged one is kept aside."""
    expected = {"x": torch.arange(50.0), "labels": torch.arange(50)}
    kinds = [kind for kind in CHANGES if not kind.endswith((" step", "name", "without it"))]
    cases = [(kind, name) for kind in kinds for name in ("tensors.safetensors", storage.MANIFEST)]
    for number, (kind, name) in enumerate(cases):
        entry = tmp_path / f"{number}" / "entry"
        cached(entry, lambda: Entry(expected))
        CHANGES[kind](entry, name)
        tensors = cached(entry, lambda: Entry(expected)).tensors
        storage.verify_folder(entry)
        assert list(entry.parent.glob("entry.bad-*")), (kind, name)
        assert all(torch.equal(tensors[key], expected[key]) for key in expected), (kind, name)
    scorecard.add("damaged cache entries / made again", cases=len(cases), passed=len(cases), target=len(cases))


def _edit(**changes) -> Damage:
    return damages.changed(lambda old: json.dumps(json.loads(old) | changes).encode())


STATUSES: dict[str, Damage] = {
    "missing": Path.unlink,
    "empty": damages.replaced(b""),
    "cut off": damages.changed(lambda old: old[:60]),
    "binary": damages.replaced(random.Random(0).randbytes(200) + b"\xff"),
    "a list": damages.replaced(b"[]"),
    "a number": damages.replaced(b"3"),
    "null": damages.replaced(b"null"),
    "an empty record": damages.replaced(b"{}"),
    "nested": damages.replaced(b"[" * 200_000),
    "huge": lambda path: os.truncate(path, 2**30),
    "no schema": damages.replaced(b'{"state": "align"}'),
    "schema is text": damages.replaced(b'{"schema": "1", "state": "align"}'),
    "no names": damages.replaced(b'{"schema": 1, "state": "align"}'),
    "names are numbers": _edit(task=3, body=[], seed="0"),
    "state is a list": _edit(state=["align"]),
    "completed, which it is not": _edit(state="completed"),
    "latin-1": damages.replaced('{"schema": 1, "state": "é"}'.encode("latin-1")),
    "a folder": damages.folder,
    "two records": damages.changed(lambda old: old * 2),
    "half overwritten": damages.changed(lambda old: b"x" * 50 + old[50:]),
}


@pytest.mark.slow
def test_a_lost_status_is_made_anew(killed_runs, tmp_path, capsys, scorecard):
    """D5: the report says broken, doctor makes it anew, and the run goes on."""
    (run,) = run_folders(killed_runs)
    before = json.loads((run / "status.json").read_text())
    assert before["state"] == "finetune"
    right = []
    for kind, change in STATUSES.items():
        copy = tmp_path / "copy" / run.parent.name / run.name
        shutil.copytree(run, copy)
        change(copy / "status.json")
        listed = collect([tmp_path / "copy"])
        is_reported = len(listed.broken) == 1 and listed.runs == []
        code, out = main(["doctor", str(copy)]), capsys.readouterr().out
        (after,) = collect([tmp_path / "copy"]).runs
        status = json.loads((copy / "status.json").read_text())
        keys = ("task", "seed", "identity", "settings", "variant", "state", "step")
        is_same = all(status[key] == before[key] for key in keys)
        if is_reported and code == 0 and "status.json was restored" in out and after.state == "dead" and is_same:
            right.append(kind)
        shutil.rmtree(tmp_path / "copy")
    scorecard.add("broken status records / told and made anew", cases=len(STATUSES), passed=len(right), target=20)
    assert right == list(STATUSES)


@pytest.mark.slow
def test_doctor_finds_damage_anywhere_and_a_run_of_a_newer_program_is_left_alone(
    uninterrupted, fork, small, tmp_path, capsys, scorecard
):
    """D1 for a whole run folder: every file that does not change any more is compared with its checksum."""
    finished = tmp_path / "runs" / uninterrupted.parent.name / uninterrupted.name
    shutil.copytree(uninterrupted, finished)
    assert main(["doctor", str(finished)]) == 0
    assert "intact: " in capsys.readouterr().out
    paths = [path for path in sorted(finished.rglob("*")) if path.is_file()]
    files = [path for path in paths if str(path.relative_to(finished)) not in ("status.json", "lock", "run.log")]
    assert len(files) > 15
    detected = []
    for path in files:
        content = path.read_bytes()
        flipped(path, len(content) // 2, 4)
        if main(["doctor", str(finished)]) == 13 and "damaged: " in capsys.readouterr().out:
            detected.append(path)
        path.write_bytes(content)
    scorecard.add("flipped bits in completed runs / found by doctor", cases=len(files), passed=len(detected), target=15)
    assert detected == files
    assert main(["doctor", str(finished)]) == 0
    (finished / "result.json").unlink()
    _edit(schema=SCHEMA + 1)(finished / "status.json")
    newer = (finished / "status.json").read_bytes()
    case = fork("run", *small, *SHORT, f"paths.runs={finished.parent.parent}")
    assert case.wait(120) == 21
    assert "newer program" in case.err
    assert main(["doctor", str(finished)]) == 21
    assert (finished / "status.json").read_bytes() == newer
