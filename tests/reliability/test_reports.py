"""K4: a report over many runs of which some are broken in every way is that over the good ones, with a list."""

import json

from tests.commands.called import call
from tests.reliability.test_hostile_containers import contents
from tests.report.test_collect import DAMAGES
from tests.report.trees import add_run

TASKS = ("ecg", "satellite", "deepsea", "darcy", "digits")


def cells(text):
    rows = json.loads(text)["rows"]
    for row in rows:
        for cell in row["cells"]:
            for value in (cell or {}).get("values", []):
                value.pop("run")
    return rows


def test_the_report_is_the_clean_one_with_a_list(tmp_path, environment, counted):
    """The same numbers, all broken runs named with a reason, nothing written."""
    clean, mixed = tmp_path / "clean", tmp_path / "mixed"
    for root in (clean, mixed):
        for number in range(20):
            metric, seed = ("otdd", "mmd")[number // 10], number // 5 % 2
            add_run(root, task=TASKS[number % 5], metric=metric, seed=seed, value=0.001 * number)
    reasons = {}
    for number, (change, reason) in enumerate(DAMAGES.values()):
        name = f"2026-02-01_00-00-00.{number:06}_minilm_euclidean_full_s{number}_{number:08x}"
        path = add_run(mixed, task=TASKS[number % 5], metric="euclidean", seed=number, name=name)
        change(path)
        reasons[path] = reason
    before = contents(mixed)
    texts = {}
    for root in (clean, mixed):
        code, texts[root], err = call("report", root, "--format", "json")
        assert code == 0, err
        assert "Traceback" not in err
    same = cells(texts[mixed]) == cells(texts[clean])
    listed = {entry["run"]: entry["reason"] for entry in json.loads(texts[mixed])["broken"]}
    right = sum(reason in listed[str(path)] for path, reason in reasons.items())
    counted("runs of which some are broken / classified right", same and right == len(listed), listed, cases=20 + right)
    assert contents(mixed) == before
