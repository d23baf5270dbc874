"""D1 to D6: our own files, damaged: never used, never mistaken for good ones, made again where they can be."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from orca_cli import storage
from orca_cli.cli import main
from orca_cli.report.collect import collect
from orca_cli.runs.records import SCHEMA
from orca_cli.training import checkpoint
from orca_cli.training.cache import Entry, cached
from tests.cli.conftest import run_folders
from tests.reliability import damages
from tests.reliability.conftest import SHORT, completed, error_line, killed, outcome
from tests.reliability.damages import Damage, flipped
from tests.tiers import count

OWNER = "o" * 64
NAMES = (
    storage.MANIFEST,
    "kept.safetensors",
    "model.safetensors",
    "optimizer.safetensors",
    "trainer.json",
)


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
    assert {path.name for path in (tmp_path / "whole" / "step-00000002").iterdir()} == set(NAMES)

    def call(change: Damage) -> int:
        folder = tmp_path / "damaged"
        shutil.copytree(tmp_path / "whole", folder)
        change(folder / "step-00000002")
        loaded = checkpoint.load_latest(folder, owner=OWNER)
        assert torch.equal(loaded.weights["w"], weights_of(loaded.step)), (
            "damaged weights were used"
        )
        assert loaded.records == {"lines": [loaded.step]}
        shutil.rmtree(folder)
        return loaded.step

    return call


def test_every_flipped_bit_is_detected(step_that_loads, scorecard):
    """D1: any bit of any file of a checkpoint; the one before is used."""
    generator, cases = random.Random(2), count(pr=200, nightly=1000)

    def flip(path: Path) -> None:
        flipped(path, generator.randrange(path.stat().st_size), generator.randrange(8))

    used = [
        step_that_loads(lambda step, case=case: flip(step / NAMES[case % len(NAMES)]))
        for case in range(cases)
    ]
    scorecard.add(
        "flipped bits in checkpoints / detected", cases=cases, passed=used.count(1), target=1000
    )
    assert used == [1] * cases


def _damaged(damage: Damage) -> Callable[[Path, str], object]:
    return lambda step, name: damage(step / name)


def _honest_but_short(step: Path, name: str) -> None:
    """Seal again what is left: the manifest is valid, and a file is missing."""
    owner = storage.verify_folder(step)
    (step / name).unlink()
    if name in (
        "kept.safetensors",
        storage.MANIFEST,
    ):  # may be absent by right; then it is some other run's checkpoint
        owner = "x" * 64
    storage.seal(
        step, [file for file in step.iterdir() if file.name != storage.MANIFEST], owner=owner
    )


def _another_digest(step: Path, name: str) -> None:
    manifest = json.loads((step / storage.MANIFEST).read_text())
    (manifest["files"].get(name) or next(iter(manifest["files"].values()))).update(sha256="0" * 64)
    (step / storage.MANIFEST).write_text(json.dumps(manifest))


CHANGES: dict[str, Callable[[Path, str], object]] = {
    "empty": _damaged(damages.cut(0)),
    "cut in the middle": _damaged(damages.cut(0.5)),
    "zeros at the end": _damaged(damages.changed(lambda old: old[: len(old) // 2] + bytes(len(old) - len(old) // 2))),
    "missing": _damaged(Path.unlink),
    "a folder": _damaged(damages.folder),
    "of the other step": lambda step, name: shutil.copy(step.with_name("step-00000001") / name, step / name),
    "with a file too many": lambda step, name: (step / f"{name}.old").write_bytes(b"x"),
    "with appended bytes": _damaged(damages.changed(lambda old: old + b"\0")),
    "another digest in the manifest": _another_digest,
    "sealed again without it": _honest_but_short,
    "a checkpoint under another step's name": lambda step, name: shutil.copytree(
        step.with_name("step-00000001"), step, dirs_exist_ok=True
    ),
    "text": _damaged(damages.replaced(b"version https://git-lfs.github.com/spec/v1\n")),
}  # fmt: skip


def test_damage_of_every_kind_is_detected(step_that_loads, scorecard):
    """D2."""
    cases = [(kind, name) for kind in CHANGES for name in NAMES]
    missed = [
        (kind, name)
        for kind, name in cases
        if step_that_loads(lambda step, kind=kind, name=name: CHANGES[kind](step, name)) != 1
    ]
    passed = len(cases) - len(missed)
    scorecard.add(
        "other damage to checkpoints / detected", cases=len(cases), passed=passed, target=len(cases)
    )
    assert not missed


@pytest.fixture(scope="module")
def killed_runs(fork_server, home, small, tmp_path_factory):
    runs = tmp_path_factory.mktemp("killed") / "runs"

    def start(*words, **settings):
        return fork_server.start(
            [*words, "baselines=none"], more={"ORCA_HOME": str(home)}, **settings
        )

    assert killed(start, [*small, *SHORT], runs, "finetune", 7)
    return runs


@pytest.mark.slow
def test_a_run_goes_on_exactly_from_the_checkpoint_before(
    fork, small, killed_runs, expected, tmp_path, counted
):
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
    line = error_line(fork("run", *small, *SHORT, f"paths.runs={worse}"), 21)
    assert (
        "3_finetune/checkpoints: no valid checkpoint found; delete this folder to restart the stage"
        in line
    )
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
    scorecard.add(
        "damaged cache entries / made again", cases=len(cases), passed=len(cases), target=len(cases)
    )


def _edit(**changes) -> Damage:
    return damages.changed(lambda old: json.dumps(json.loads(old) | changes).encode())


STATUSES: dict[str, Damage] = {
    "missing": Path.unlink,
    "empty": damages.replaced(b""),
    "cut off": damages.changed(lambda old: old[:60]),
    "binary": damages.replaced(random.Random(0).randbytes(200) + b"\xff"),
    "a list": damages.replaced(b"[]"),
    "huge": lambda path: os.truncate(path, 2**30),
    "no schema": damages.replaced(b'{"state": "align"}'),
    "state is a list": _edit(state=["align"]),
    "a folder": damages.folder,
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
        is_right = (
            len(listed.broken) == 1 and listed.runs == [] and main(["doctor", str(copy)]) == 0
        )
        (after,) = collect([tmp_path / "copy"]).runs
        status = json.loads((copy / "status.json").read_text())
        keys = ("task", "seed", "identity", "settings", "variant", "state", "step")
        is_same = all(status[key] == before[key] for key in keys)
        if (
            is_right
            and "status.json was restored" in capsys.readouterr().out
            and after.state == "dead"
            and is_same
        ):
            right.append(kind)
        shutil.rmtree(tmp_path / "copy")
    scorecard.add(
        "broken status records / told and made anew",
        cases=len(STATUSES),
        passed=len(right),
        target=len(STATUSES),
    )
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
    changing = {finished / name for name in ("status.json", "lock", "run.log")}
    files = [
        path for path in sorted(finished.rglob("*")) if path.is_file() and path not in changing
    ]
    assert len(files) > 15
    detected = []
    for path in files:
        content = path.read_bytes()
        flipped(path, len(content) // 2, 4)
        if main(["doctor", str(finished)]) == 13 and "damaged: " in capsys.readouterr().out:
            detected.append(path)
        path.write_bytes(content)
    scorecard.add(
        "flipped bits in completed runs / found by doctor",
        cases=len(files),
        passed=len(detected),
        target=15,
    )
    assert detected == files
    assert main(["doctor", str(finished)]) == 0
    (finished / "result.json").unlink()
    _edit(schema=SCHEMA + 1)(finished / "status.json")
    newer = (finished / "status.json").read_bytes()
    assert "newer program" in error_line(
        fork("run", *small, *SHORT, f"paths.runs={finished.parent.parent}"), 21
    )
    assert main(["doctor", str(finished)]) == 21
    assert (finished / "status.json").read_bytes() == newer
