"""`orca select --against-runs` on records of selections and runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from orca_cli.body_ranking import records
from orca_cli.cli import main
from tests.report.trees import add_run


def test_selections_of_the_same_data_are_one_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORCA_RUNS", str(tmp_path))
    names, scores = [f"body{number}" for number in range(7)], {"before": None, "logme": None, "probe": None}
    for data, metric in (("d0", "otdd"), ("d0", "mmd"), ("d0", "coral"), ("d1", "otdd")):
        bodies = []
        for place, name in enumerate(names):
            settings = f"{name} {metric} {data}"
            add_run(tmp_path, body=name, metric=metric, settings=settings, identity=settings, value=place / 10)
            bodies.append({"label": name, "settings": settings, "distance": float(place), **scores})
        found = {"task": "arrays my", "data": data, "overrides": [f"metric={metric}"], "metric": metric}
        records.add(tmp_path, {**found, "bodies": bodies})
    assert main(["select", "--against-runs"]) == 0
    out = capsys.readouterr().out
    assert "distance: mean tau +1.00 over 2 tasks, 14 pairs of task and body; p < 0.001 of as high" in out
    assert out.count("arrays my (2)") == 1
    assert out.count("arrays my ") == 4
