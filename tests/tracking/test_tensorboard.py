"""Event files, read back by TensorBoard's own reader."""

import pytest
from accelerate import PartialState

from orca_cli.tracking.tensorboard import TensorBoard

accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="the extra tensorboard is not installed"
)
LINES = [{"epoch": epoch, "train_loss": 1 / epoch, "validation_error": None} for epoch in range(1, 5)]
SETTINGS = {"train": {"lr": 0.5, "clip": None}, "seed": 3}


def read(folder):
    events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return events


def curve(folder, name):
    return [(event.step, event.value) for event in read(folder).Scalars(name)]


@pytest.fixture
def folder(tmp_path):
    PartialState(cpu=True)  # as the run has it
    return tmp_path / "tracker"


def test_lines_settings_and_final_errors_are_in_the_file(folder):
    board = TensorBoard(folder, SETTINGS)
    board.rewind("align", [{"epoch": 0, "loss": 2.0}])
    for line in LINES:
        board.record("finetune", line)
    board.ended("completed", {"error": {"value": 0.25}, "validation_error": 0.5})
    assert curve(folder, "finetune/train_loss") == [(n, pytest.approx(1 / n)) for n in (1, 2, 3, 4)]
    assert curve(folder, "align/loss") == [(0, 2.0)]
    assert curve(folder, "final/test_error") == [(0, 0.25)]
    events = read(folder)
    assert not [name for name in events.Tags()["scalars"] if name.endswith("/validation_error") and "finetune" in name]
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"train.lr" in content
    assert len(list(folder.iterdir())) == 1  # one run of TensorBoard's, not one more for the settings


def test_a_line_can_be_seen_while_the_run_goes_on(folder):
    board = TensorBoard(folder, SETTINGS)
    board.record("finetune", LINES[0])
    assert curve(folder, "finetune/train_loss") == [(1, 1.0)]
    board.ended("failed", {})


def test_a_resumed_run_and_lines_that_are_taken_back_leave_no_step_twice(folder):
    first = TensorBoard(folder, SETTINGS)
    for line in LINES[:3]:
        first.record("finetune", line)  # and is killed: it is never closed
    second = TensorBoard(folder, SETTINGS)
    second.rewind("align", [{"epoch": 0, "loss": 2.0}])
    second.rewind("finetune", LINES[:3])
    second.rewind("finetune", LINES[:1])
    for line in LINES[1:]:
        second.record("finetune", line | {"train_loss": 9.0})
    second.ended("completed", {})
    assert curve(folder, "finetune/train_loss") == [(1, 1.0), (2, 9.0), (3, 9.0), (4, 9.0)]
    assert curve(folder, "align/loss") == [(0, 2.0)]
