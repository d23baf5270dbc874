"""Random lives of one run (section 6, state machine): trained, killed, robbed of its disk, damaged, resumed.

Each attempt is a process that claims the run, goes on from its newest checkpoint and commits further ones; a fault hits any of
its system calls. What it has said to be done is written to a file that no fault reaches. After every event nothing with a
final name is torn (I1), nothing promised is lost (I2), and there is one folder (I4).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orca_cli import storage
from orca_cli.exceptions import ChecksumError, OrcaError
from orca_cli.runs.claim import claim
from orca_cli.training import checkpoint
from tests.properties import examples
from tests.reliability.damages import flipped
from tests.reliability.workloads import CALLS, NAME, OWNER, inject, save
from tests.tiers import count

KINDS, WHEN = st.sampled_from(("KILL", "ENOSPC", "EIO")), st.sampled_from(range(1, 21))
ONE = st.builds(
    "{}:{}{}:{}".format, st.sampled_from(CALLS), WHEN, st.sampled_from(("", "+")), KINDS
)
FAULTS = st.just("") | ONE
STORAGE = 30


class Life(RuleBasedStateMachine):
    """One run's folder and what is known about it from outside."""

    lives = 0

    def __init__(self) -> None:
        super().__init__()
        Life.lives += 1
        self.root = Path(tempfile.mkdtemp(prefix="orca-life-"))
        self.promises = self.root / "promises"
        self.promises.write_text("0")
        self.damaged: set[str] = set()
        self.attempts = 0

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @property
    def runs(self) -> list[Path]:
        return [path for path in self.root.glob("runs/*/*") if not path.name.startswith(".")]

    @property
    def steps(self) -> list[Path]:
        folders = [
            path
            for run in self.runs
            for path in (run / "3_finetune" / "checkpoints").glob("step-*")
        ]
        return sorted(path for path in folders if not storage.is_aside(path))

    def attempt(self, steps: int, end: str, fault: str) -> None:
        """Work on the run in a process of its own, which ends with 0 or as the fault says."""
        self.attempts += 1
        pid = os.fork()
        if not pid:
            code = 99
            try:
                code = self._work(steps, end, fault)
            except OrcaError as error:
                code = error.code
            except BaseException as error:  # noqa: BLE001 - whatever it is, the parent judges by the code
                known = storage.disk_error(error)
                code = 1 if known is None else known.code
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        allowed = {0} | (
            {-signal.SIGKILL} if fault.endswith("KILL") else {STORAGE} if fault else set()
        )
        assert code in allowed, (code, fault)

    def _work(self, steps: int, end: str, fault: str) -> int:
        descriptor = os.open(self.promises, os.O_RDWR)

        def promise(text: str) -> None:
            os.pwrite(descriptor, text.encode().ljust(9), 0)

        if fault:
            inject(fault)
        with claim(self.root / "runs", NAME) as run:
            if run.result():
                promise("completed")
                return 0
            folder = run.stage("finetune") / "checkpoints"
            run.set_state("finetune")
            run.write_environment({"schema": 1})
            loaded = checkpoint.load_latest(folder, owner=OWNER)
            if loaded is not None and not torch.equal(
                loaded.weights["w"], torch.full((30,), float(loaded.step))
            ):
                return 98
            done = 0 if loaded is None else loaded.step
            for step in range(done + 1, done + 1 + steps):
                save(folder, step, 30)
                promise(str(step))
            if end == "completed":
                run.write_result({"error": {"value": 0.5}})
                promise("completed")
            elif end:
                run.set_state(end, code=1)
        return 0

    @rule(
        steps=st.sampled_from((2, 1, 3, 0)),
        end=st.sampled_from(("", "interrupted", "failed")),
        fault=FAULTS,
    )
    def works(self, steps: int, end: str, fault: str) -> None:
        self.attempt(steps, end, fault)

    @precondition(lambda self: self.attempts > 8)  # most of a life is before its end
    @rule(fault=FAULTS)
    def ends(self, fault: str) -> None:
        self.attempt(0, "completed", fault)

    @precondition(
        lambda self: (
            self.promises.read_text() != "completed" and len(self.steps) - len(self.damaged) >= 2
        )
    )
    @rule(place=st.integers(0, 2**20), bit=st.integers(0, 7))
    def is_damaged(self, place: int, bit: int) -> None:
        """A bit of the newest checkpoint flips; the one before it is then what is promised."""
        whole = [path for path in self.steps if path.name not in self.damaged]
        files = sorted(path for path in whole[-1].iterdir() if path.is_file())
        file = files[place % len(files)]
        flipped(file, place % file.stat().st_size, bit)
        self.damaged.add(whole[-1].name)
        self.promises.write_text(str(int(whole[-2].name[5:])))

    @invariant()
    def nothing_is_torn_lost_or_doubled(self) -> None:
        assert len(self.runs) <= 1
        there = {path.name for path in self.steps}
        self.damaged &= there  # moved aside, as it should be
        for path in self.steps:
            try:
                storage.verify_folder(path)
                if path.name in self.damaged:  # then it was moved aside, and made anew
                    assert list(path.parent.glob(f"{path.name}.bad-*"))
                    self.damaged.remove(path.name)
            except ChecksumError:
                assert path.name in self.damaged, f"torn: {path}"
        promised = self.promises.read_text().strip()
        if promised == "completed":
            record = json.loads((self.runs[0] / "result.json").read_text())
            assert record["error"]["value"] == 0.5
        elif not (self.runs and (self.runs[0] / "result.json").exists()):
            newest = max((int(name[5:]) for name in there - self.damaged), default=0)
            assert newest >= int(promised), f"lost: step {promised}"


@pytest.mark.slow
def test_random_lives_of_a_run(scorecard):
    Life.lives = 0
    # To shrink a life takes minutes; its events are printed, and it is the same at every run.
    phases = [phase for phase in Phase if phase not in (Phase.shrink, Phase.explain)]
    run_state_machine_as_test(
        Life, settings=settings(examples(20), phases=phases, stateful_step_count=40)
    )
    figure, target = (
        "random lives of a run: nothing torn, lost or doubled",
        count(pr=20, nightly=400),
    )
    scorecard.add(figure, cases=Life.lives, passed=Life.lives, target=target)
