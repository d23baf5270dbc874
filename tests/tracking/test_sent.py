"""Whatever is repeated, killed and resumed, an append-only tracker has every line once."""

from hypothesis import given, settings
from hypothesis import strategies as st

from orca_cli.tracking.sent import Sent

LINES = [{"epoch": epoch, "train_loss": 1 / epoch} for epoch in range(1, 7)]


@settings(max_examples=25)  # each waits for the disk
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=6))
def test_attempts_that_resume_anywhere_send_every_line_once(tmp_path_factory, attempts):
    """An attempt resumes with the lines of its checkpoint, at most those that were recorded, and is killed after some more."""
    path = tmp_path_factory.mktemp("sent") / "sent.jsonl"
    taken, reached = [], 0
    for resumed, more in [*attempts, (6, 6)]:
        sent = Sent(path, lambda curve, line: taken.append((curve, line["epoch"])))
        start = min(resumed, reached)
        sent.rewind("finetune", LINES[:reached])  # as the run's own file has them
        sent.rewind("finetune", LINES[:start])
        for line in LINES[start : start + more]:
            sent.record("finetune", line | {"seconds": more})
        reached = max(reached, min(6, start + more))
    for line in LINES[reached:]:
        sent.record("finetune", line)
    assert taken == [("finetune", line["epoch"]) for line in LINES]


def test_lines_of_a_given_up_rate_stay_and_the_new_ones_have_another_name(tmp_path):
    taken = []
    sent = Sent(tmp_path / "sent.jsonl", lambda curve, line: taken.append((curve, line["epoch"])))
    sent.rewind("align", [{"epoch": 0}])
    sent.rewind("finetune", [])
    for line in LINES[:2]:
        sent.record("finetune", line)
    sent.rewind("finetune", [])
    other = [line | {"train_loss": 9.0} for line in LINES]
    for line in other[:2]:
        sent.record("finetune", line)
    # Another process resumes the second attempt.
    sent = Sent(tmp_path / "sent.jsonl", lambda curve, line: taken.append((curve, line["epoch"])))
    sent.rewind("finetune", other[:1])
    for line in other[1:3]:
        sent.record("finetune", line)
    second = [("finetune_2", epoch) for epoch in (1, 2, 3)]
    assert taken == [("align", 0), ("finetune", 1), ("finetune", 2), *second]


def test_a_tracker_that_has_nothing_any_more_gets_all_again(tmp_path):
    taken = []
    for forgets in (False, True):
        sent = Sent(tmp_path / "sent.jsonl", lambda curve, line: taken.append(line["epoch"]))
        if forgets:
            sent.forget()
        sent.rewind("finetune", LINES[:2])
    assert taken == [1, 2, 1, 2]
