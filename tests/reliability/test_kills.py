"""A1, A5, A6, A7, A9, G4: a run that is killed and typed again ends with the same bits, or refuses."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from orca_cli import storage
from tests.cli.conftest import results, run_folders
from tests.reliability.conftest import SHORT, completed, killed, outcome
from tests.reliability.phases import LOST, PHASES
from tests.tiers import count

# How often a phase's function is called at least in such a run, and so how far the kill can be; pr takes the first phases.
CALLS = {"finetune": 12, "features": 1, "align": 4, "prune": 8, "test": 1, "checkpoint": 30, "build": 1, "metric": 1,
         "validate": 3, "result": 1}  # fmt: skip
LATE = ("test", "result")  # milliseconds before the end
ORDER = tuple(CALLS)


@pytest.mark.slow
def test_killed_anywhere_and_typed_again_the_bits_are_the_same(
    fork, small, expected, tmp_path, scorecard
):
    """A1, A5: 1 to 3 kills in random phases, the caches cold or warm; some of them while it resumes or prunes."""
    assert set(ORDER) == set(PHASES)
    generator = random.Random(1)
    cases, tried, kills, exact = count(pr=3, nightly=300), 0, 0, 0
    for case in range(
        cases + cases // 20 + 1
    ):  # a run that is faster than its killer does not count
        runs = tmp_path / f"runs-{case}"
        words = [
            *small,
            *SHORT,
            f"paths.cache={tmp_path / f'cache-{case}'}",
        ]  # cold at first, warm after a kill
        hits = 0
        for phase in [ORDER[case % len(ORDER)], *generator.sample(ORDER, generator.randrange(3))]:
            number, most_s = generator.randint(1, CALLS[phase]), 0.02 if phase in LATE else 0.04
            hits += killed(fork, words, runs, phase, number, generator.uniform(0, most_s))
            if any(runs.glob("*/*/result.json")):
                break
        if hits:
            tried, kills = tried + 1, kills + hits
            exact += completed(fork, words, runs) == expected
            shutil.rmtree(runs)
        if tried == cases:
            break
    figure = "kills / runs that ended with the same bits"
    scorecard.add(
        figure,
        cases=tried,
        passed=exact,
        target=300,
        note=f"{kills} kills, {min(tried, len(ORDER))} phases",
    )
    assert tried == exact == cases


@pytest.fixture
def unfinished(fork, small, tmp_path):
    """Return runs with one that was killed within the second epoch of stage 3."""
    runs = tmp_path / "unfinished"
    assert killed(fork, [*small, *SHORT], runs, "finetune", 7)
    assert list(runs.glob("*/*/3_finetune/checkpoints/step-*"))
    assert not list(runs.glob("*/*/result.json"))

    return lambda name: shutil.copytree(runs, tmp_path / name)


@pytest.mark.slow
def test_lost_state_is_noticed(fork, small, expected, unfinished, scorecard):
    """A6: does the comparison above have power? Without any one piece of state the bits are others."""
    noticed = []
    for what in ("", *LOST):
        runs = unfinished(f"lost-{what}")
        hook = f"tests.reliability.phases:lose:{what}" if what else ""
        case = fork("run", *small, *SHORT, f"paths.runs={runs}", hook=hook)
        assert case.wait(600) == 0, case.err
        (run,) = run_folders(runs)
        if outcome(run) != expected:
            noticed.append(what)
    scorecard.add(
        "pieces of state lost / noticed", cases=len(LOST), passed=len(noticed), target=len(LOST)
    )
    assert noticed == list(LOST)


# Settings that keep state of their own between steps, epochs or stages.
SETTINGS = [
    ["train.accumulation=2", "train.batch_size=8", "train.clip=0.5", "train.warmup_epochs=2"],
    ["train.select=last", "train.folds=2"],
    ["train.optimizer=sgd", "train.momentum=0.9", "metric=mmd", "align.classes_per_problem=3"],
    ["align.check_every=1", "align.lr=1e-6", "finetune=layernorm", "precision=bf16"],
    ["protocol=paper", "metric=moments", "train.optimizer=adam", "finetune=head", "train.decay_epochs=2"],
]  # fmt: skip


@pytest.mark.slow
def test_many_short_attempts_equal_one_long(fork, small, tmp_path, scorecard):
    """A7: the settings that keep state between steps, each cut into pieces, against the whole."""
    cases = count(pr=1, nightly=20)
    for case in range(cases):
        words = [*SHORT, *SETTINGS[case % len(SETTINGS)]]
        expected = completed(fork, [*small, *words], tmp_path / f"whole-{case}")
        runs = tmp_path / f"runs-{case}"
        parts = [("align", 2), ("finetune", 3), ("finetune", 3 + case // 10)]
        command = [*small, *words, f"paths.cache={tmp_path / f'cache-{case}'}"]
        hits = sum(killed(fork, command, runs, phase, number, 0.03) for phase, number in parts)
        assert hits, words
        assert completed(fork, command, runs) == expected, words
    scorecard.add(
        "settings cut into pieces / equal to the whole", cases=cases, passed=cases, target=20
    )


@pytest.mark.slow
def test_what_would_give_other_bits_is_refused(fork, small, unfinished, scorecard):
    """A9: a changed build, program, number of threads, data or weights: 22, with the names of what differs; or by leave."""
    changes = {"threads": 2, "torch": "2.0.0", "torch_build": "0" * 40, "numpy": "1.0", "data.train": "0" * 64,
               "program": "0" * 64, "weights": "0" * 64}  # fmt: skip
    runs = unfinished("changed")
    (run,) = run_folders(runs)
    path = run / "1_build" / "fingerprint.json"
    record = storage.read_checked_json(path)
    refused = []
    for name, value in changes.items():
        assert record["values"][name] != value
        storage.write_checked_json(path, record | {"values": record["values"] | {name: value}})
        case = fork("run", *small, *SHORT, f"paths.runs={runs}")
        code = case.wait(600)
        lines = case.err.strip().splitlines()
        if (
            code == 22
            and len(lines) == 1
            and f"{name} (" in lines[0]
            and "--allow-inexact-resume" in lines[0]
        ):
            refused.append(name)
        state = json.loads((run / "status.json").read_text())
        assert (state["state"], state["exit_code"]) == ("failed", 22)
    scorecard.add(
        "changed conditions / refused by name", cases=len(changes), passed=len(refused), target=7
    )
    assert refused == list(changes)
    case = fork("run", *small, *SHORT, f"paths.runs={runs}", "--allow-inexact-resume")
    assert case.wait(600) == 0, case.err
    (result,) = results(runs)
    assert result["inexact"] == ["weights"]


@pytest.mark.slow
def test_the_same_bits_wherever_it_runs(small, expected, tmp_path, monkeypatch, start, scorecard):
    """G4: another folder, cold caches, another process, another hash seed."""
    cases = count(pr=1, nightly=10)
    for case in range(cases):
        folder = tmp_path / f"elsewhere-{case}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        more = {"ORCA_HOME": str(folder / "home"), "PYTHONHASHSEED": str(case)}
        process = start("run", *small, *SHORT, f"paths.runs={folder / 'runs'}", more=more)
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        assert outcome(run_folders(folder / "runs")[0]) == expected
    scorecard.add("repeated elsewhere / the same bits", cases=cases, passed=cases, target=10)
