"""Figures: well-formed SVG with a label, true to their numbers; the same drawing as PNG and PDF by matplotlib."""

import importlib.util
import re
import sys
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.cli import main
from orca_cli.report.figures import svg
from orca_cli.report.figures.charts import Dot, Dots, Lines, Matrix, Scatter, Series, bounds, log_ticks, ticks
from orca_cli.report.figures.contents import all_charts
from orca_cli.report.figures.files import write
from orca_cli.report.records.collect import collect
from orca_cli.report.records.details import curves, mean_curve
from orca_cli.report.statistics.paired import compare
from orca_cli.report.tables.table import build_table
from tests.properties import examples
from tests.report.trees import add_run, details

SPACE = "{http://www.w3.org/2000/svg}"
FINITE = st.floats(-1e6, 1e6)
NAME = "\"><script>&\x00\ud800'"
EVERY_KIND = [
    Lines("lines", NAME, NAME, NAME, (Series(NAME, ((0, 1, 1, 1), (1, 2, 2, 2)), 0),), NAME),
    Dots("dots", NAME, NAME, (Dot(NAME, 1.0, 0, text=NAME),), NAME),
    Matrix("matrix", NAME, (NAME, "b"), (NAME, "b"), (("", "1"), ("2\n3 %", "")), ((None, 0.5), (-0.5, None)), NAME),
    Scatter("scatter", NAME, NAME, NAME, ((0.1, 0.2), (0.5, 1.5)), 0.0, 1.0, NAME),
]


def _points(path):
    return [tuple(map(float, corner.split())) for corner in path.strip("MZ").split("L")]


def test_every_figure_of_a_report_is_wellformed_and_has_a_label(tmp_path):
    for metric in ("otdd", "none"):
        for seed in range(3):
            value = 0.1 + 0.1 * (metric == "none") + seed / 100
            add_run(tmp_path, metric=metric, seed=seed, value=value, **details(seed, metric=metric))
    table = build_table(collect([tmp_path]))
    charts = list(all_charts(table, compare(table, "metric", "none", 0.5)))
    names = [chart.name for chart in charts]
    assert len(set(names)) == len(names)
    kinds = {re.sub(r"(-\d+)+$", "", name) for name in names}
    assert kinds == {"gains", "errors", "distance", "loss", "validation", "times"}
    for chart in charts:
        root = ET.fromstring(svg.draw(chart))
        assert root.attrib["aria-label"].startswith(chart.title)
        assert root.find(f".//{SPACE}title") is None
        assert float(root.get("height", "0")) > 60


def test_names_with_markup_stay_names():
    for chart in EVERY_KIND:
        root = ET.fromstring(svg.draw(chart))
        assert "script" not in {element.tag.removeprefix(SPACE) for element in root.iter()}
        assert "<script>" in "".join(root.itertext())


@given(st.lists(FINITE, min_size=2, max_size=30))
def test_a_line_goes_down_where_its_values_do(values):
    points = tuple((float(place), value, value, value) for place, value in enumerate(values))
    root = ET.fromstring(svg.draw(Lines("n", "t", "x", "y", (Series("s", points, 0),))))
    path, _ = [one.get("d", "") for one in root.iter(f"{SPACE}path") if one.get("class") == "l c0"]  # the other: legend
    drawn = _points(path)
    low, high = bounds(values)
    assert all(0 <= x <= 360 and 0 <= y <= float(root.get("height", "0")) for x, y in drawn)
    rise = (values[-1] - values[0]) / (high - low)
    assert (drawn[0][1] - drawn[-1][1]) / 170 == pytest.approx(rise, abs=0.01)


@given(st.floats(1e-9, 1e9), st.floats(1.5, 1e9), FINITE, FINITE)
@examples(50)
def test_ticks_are_round_and_inside(low, factor, a, b):
    positions = log_ticks(low, low * factor)
    assert len(positions) <= 6
    assert all(low * 0.99 <= tick <= low * factor * 1.01 for tick in positions)
    assert factor < 5 or positions
    low, high = bounds([a, b])
    positions = ticks(low, high)
    assert 1 <= len(positions) <= 8
    room = 1e-6 * (high - low)
    assert all(low - room <= tick <= high + room for tick in positions)
    assert positions == sorted(positions)


def test_a_mean_curve_has_the_extremes_of_its_seeds():
    values = (((0.0, 1.0), (1.0, 2.0)), ((0.0, 3.0), (1.0, 6.0)), ((0.0, 5.0),))
    assert mean_curve(values) == [(0.0, 3.0, 1.0, 5.0), (1.0, 4.0, 2.0, 6.0)]
    assert mean_curve([((0.0, 1.0),), ((1.0, 1.0),), ()]) == []


def test_values_that_are_not_numbers_are_left_out(tmp_path):
    fields = details(0)
    good, bad = {"epoch": 2, "train_loss": 3.0}, {"epoch": 1, "train_loss": "x"}
    fields["curves"]["finetune"] = [bad, 7, {"epoch": None, "train_loss": 1.0}, good]
    fields |= {"seconds": {"align": True, "finetune": -1, "build": 2}, "metric_value": [1, 2]}
    fields["baselines"] = {"linear": {"error": 3.5}, "forest": {"error": "0.1"}, "rocket": 3}
    path = add_run(tmp_path, **fields)
    (run,) = collect([tmp_path]).runs
    assert run.score
    assert curves(path).loss == ((2.0, 3.0),)
    assert (run.score.times, run.score.seconds, run.score.before) == ({"build": 2.0}, None, None)
    assert run.score.baselines == [("linear", 3.5)]


def test_figures_are_written_as_svg_without_matplotlib(tmp_path, monkeypatch, capsys):
    add_run(tmp_path / "runs", **details(0))
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    words = ["report", str(tmp_path / "runs"), "--figures", str(tmp_path / "figures")]
    assert main(words) == 14
    message = "PNG and PDF need matplotlib, which is not installed; pip install 'orca-transfer[plot]', or add --figures-as svg"
    assert capsys.readouterr().err == f"orca: error: --figures: {message}\n"
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"errors-1.svg", "distance-1-1.svg", "loss-1.svg", "validation-1.svg", "times.svg"}
    assert main([*words, "--figures-as", "svg"]) == 0


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed (extra plot)")
def test_figures_are_written_as_png_and_pdf(tmp_path):
    files = write(EVERY_KIND, tmp_path / "figures", ["png", "pdf"])
    assert len(files) == 2 * len(EVERY_KIND)
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG" if file.suffix == ".png" else b"%PDF-")
        assert file.stat().st_size > 4000
    again = write(EVERY_KIND[:1], tmp_path / "again", ["png", "pdf"])
    assert all(file.read_bytes() == (tmp_path / "figures" / file.name).read_bytes() for file in again)
