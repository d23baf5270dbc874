"""What is kept of several selections with the same task and settings."""

from orca_cli.body_ranking import records


def selection(*bodies):
    return {
        "task": "digits",
        "overrides": [],
        "bodies": [{"label": label, "settings": own, "n": n} for label, own, n in bodies],
    }


def test_other_checkpoints_of_one_name_are_other_bodies_and_the_newest_record_of_each_counts(tmp_path):
    for bodies in (
        [("minilm", "s0", 0), ("swin:model", "s1", 0)],
        [("swin:model", "s2", 0)],
        [("swin:model", "s2", 1)],
    ):
        records.add(tmp_path, selection(*bodies))
    (found,) = records.read_all(tmp_path)
    assert [(body["label"], body["settings"], body["n"]) for body in found["bodies"]] == [
        ("minilm", "s0", 0),
        ("swin:model", "s1", 0),
        ("swin:model (2)", "s2", 1),
    ]
    errors = {"s0": [0.1], "s1": [0.2], "s2": [0.3]}
    assert list(records.mean_errors(found["bodies"], errors).values()) == [0.1, 0.2, 0.3]
