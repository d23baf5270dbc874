"""What is kept of several selections with the same task and settings."""

from orca_cli.body_ranking import records


def selection(*bodies, data="d0"):
    return {
        "task": "digits",
        "data": data,
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


def test_the_same_words_about_other_data_are_another_task(tmp_path):
    for data in ("d0", "d1"):  # a file was edited between two selections, or lies in another folder
        records.add(tmp_path, selection(("minilm", f"of {data}", 0), data=data))
    found = records.read_all(tmp_path)
    assert [(one["task"], one["data"], [body["settings"] for body in one["bodies"]]) for one in found] == [
        ("digits", "d0", ["of d0"]),
        ("digits (2)", "d1", ["of d1"]),
    ]
