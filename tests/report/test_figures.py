"""Figures: well-formed SVG with a label, true to their numbers."""

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.report.figures import svg
from orca_cli.report.figures.charts import Dot, Dots, Lines, Matrix, Scatter, Series, bounds, ticks
from orca_cli.report.figures.contents import all_charts, curves_of, mean_curve
from orca_cli.report.records.collect import collect
from tests.commands.called import call
from tests.properties import examples
from tests.report.trees import add_run, compared, details, table_of

SPACE = "{http://www.w3.org/2000/svg}"
NAME = "\"><script>&\x00\ud800'"
EVERY_KIND = [
    Lines("lines", NAME, NAME, NAME, (Series(NAME, ((0, 1, 1, 1), (1, 2, 2, 2)), 0),), NAME),
    Dots("dots", NAME, NAME, (Dot(NAME, 1.0, 0, text=NAME),), NAME),
    Matrix((NAME, "b"), ((0, 1), (2, 3)), NAME, NAME),
    Scatter(((0.1, 0.2), (0.5, 1.5)), NAME, NAME),
]


def test_every_figure_of_a_report_is_wellformed_and_has_a_label(tmp_path):
    for metric in ("otdd", "none"):
        for seed in range(3):
            value = 0.1 + 0.1 * (metric == "none") + seed / 100
            add_run(tmp_path / "runs", metric=metric, seed=seed, value=value, **details(seed, metric=metric))
    charts = list(all_charts(table_of(tmp_path / "runs"), compared(tmp_path / "runs")))
    names = [chart.name for chart in charts]
    assert {re.sub(r"(-\d+)+$", "", name) for name in names} == {"gains", "distance", "loss", "validation"}
    words = ("report", tmp_path / "runs", "--against", "metric=none", "--figures", tmp_path / "figures")
    assert call(*words)[0] == 0
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {f"{name}.svg" for name in names}
    for chart in charts:
        root = ET.fromstring((tmp_path / "figures" / f"{chart.name}.svg").read_bytes())
        assert root.attrib["aria-label"].startswith(chart.title)
        assert root.find(f".//{SPACE}title") is None
    for chart in EVERY_KIND:  # names with markup stay names
        root = ET.fromstring(svg.draw(chart))
        assert "script" not in {element.tag.removeprefix(SPACE) for element in root.iter()}
        assert "<script>" in "".join(root.itertext())


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
@examples(20)
def test_a_line_goes_down_where_its_values_do(values):
    points = tuple((float(place), value, value, value) for place, value in enumerate(values))
    root = ET.fromstring(svg.draw(Lines("n", "t", "x", "y", (Series("s", points, 0),))))
    path, _ = [one.get("d", "") for one in root.iter(f"{SPACE}path") if one.get("class") == "l c0"]  # the other: legend
    drawn = [tuple(map(float, corner.split())) for corner in path.strip("MZ").split("L")]
    low, high = bounds(values)
    assert all(0 <= x <= 360 and 0 <= y <= float(root.get("height", "0")) for x, y in drawn)
    rise = (values[-1] - values[0]) / (high - low)
    assert (drawn[0][1] - drawn[-1][1]) / 170 == pytest.approx(rise, abs=0.01)


def test_ticks_are_round_and_a_mean_curve_has_the_extremes_of_its_seeds():
    assert (ticks(-0.3, 1.1), ticks(3, 3)) == (pytest.approx([0, 0.5, 1]), [3])
    values = (((0.0, 1.0), (1.0, 2.0)), ((0.0, 3.0), (1.0, 6.0)), ((0.0, 5.0),))
    assert mean_curve(values) == ((0.0, 3.0, 1.0, 5.0), (1.0, 4.0, 2.0, 6.0))
    assert mean_curve([((0.0, 1.0),), ((1.0, 1.0),), ()]) == ()


def test_values_that_are_not_numbers_are_left_out(tmp_path):
    fields = details(0)
    good, bad = {"epoch": 2, "train_loss": 3.0}, {"epoch": 1, "train_loss": "x"}
    fields["curves"]["finetune"] = [bad, 7, {"epoch": None, "train_loss": 1.0}, good]
    fields |= {"seconds": {"align": True, "finetune": -1, "build": 2}, "metric_value": [1, 2]}
    fields["baselines"] = {"linear": {"error": 3.5}, "forest": {"error": "0.1"}, "rocket": 3}
    path = add_run(tmp_path, **fields)
    (run,) = collect([tmp_path]).runs
    assert run.score
    assert curves_of(path)["loss"] == ((2.0, 3.0),)
    assert run.score.seconds is None
    assert run.score.baselines == [("linear", 3.5)]
