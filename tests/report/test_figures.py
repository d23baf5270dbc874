"""Figures: well-formed SVG with a label, the same bytes every time, true to their numbers."""

import re
import xml.etree.ElementTree as ET

import pytest

from orca_cli.report import figures
from orca_cli.report.collect import collect
from orca_cli.report.figures import all_charts, curves_of, mean_curve
from tests.commands.called import call, read_text, refused
from tests.report.trees import HOSTILE, add_run, compared, details, hostile, table_of

SPACE = "{http://www.w3.org/2000/svg}"


def test_every_figure_of_a_report_is_wellformed_and_has_a_label(tmp_path):
    runs = tmp_path / "runs"
    for metric, error in (("otdd", 0.1), ("none", 0.2)):
        for seed in range(3):
            fields = details(seed, metric=metric)
            add_run(runs, metric=metric, seed=seed, value=error + seed / 100, **fields)
    charts = list(all_charts(table_of(runs), compared(runs)))
    names = [chart.name for chart in charts]
    assert {re.sub(r"(-\d+)+$", "", name) for name in names} == {
        "gains",
        "distance",
        "loss",
        "validation",
    }
    folder = tmp_path / "figures"
    code, _, _ = call("report", runs, "--against", "metric=none", "--figures", folder)
    assert code == 0
    assert {path.name for path in folder.iterdir()} == {f"{name}.svg" for name in names}
    for chart in charts:
        root = ET.fromstring((folder / f"{chart.name}.svg").read_bytes())
        assert root.attrib["aria-label"].startswith(chart.title)
        assert chart.title in root.itertext()
    assert figures.svg(charts[0]) == figures.svg(charts[0])
    assert figures.inline(charts[-1]) == figures.inline(charts[-1])


@pytest.mark.parametrize("drawn", [figures.svg, figures.inline])
def test_names_with_markup_stay_names_and_break_no_figure(tmp_path, drawn):
    charts = list(all_charts(hostile(tmp_path), compared(tmp_path)))
    draw = next(chart.draw for chart in charts)
    title = f"<script>$\\frac$ \ufffe {HOSTILE}"
    charts.append(figures.Chart(name="x", title=title, note="", draw=draw))
    for chart in charts:
        root = ET.fromstring(drawn(chart).encode())
        tags = {element.tag.removeprefix(SPACE) for element in root.iter()}
        assert not tags & {"script", "a", "image", "foreignObject"}
        assert "[/red]x" in "".join(root.itertext()) + root.attrib["aria-label"]


def test_distances_of_each_metric_have_a_figure_of_their_own(tmp_path):
    for metric in ("otdd", "mmd", "none"):
        add_run(tmp_path, metric=metric, **details(0, metric=metric))
    titles = {chart.name: chart.title for chart in all_charts(table_of(tmp_path), None)}
    assert titles == {
        "distance-1-1": "digits: mmd distance to the source",
        "distance-1-3": "digits: otdd distance to the source",
        "loss-1-1": "digits: training loss",
        "validation-1-1": "digits: validation error",
    }


def test_a_line_goes_through_its_values():
    def draw(axes):
        axes.plot([0, 1, 3], [2.0, 5.0, 3.0])

    chart = figures.Chart(name="x", title="t", note="", draw=draw)
    paths = re.findall(r' d="M ([^LzM"]*)L ([^LzM"]*)L ([^LzM"]*)"', figures.inline(chart))
    (ax, ay), (bx, by), (cx, cy) = (map(float, corner.split()) for corner in paths[-1])
    assert ((bx - ax) / (cx - ax), (by - ay) / (cy - ay)) == (
        pytest.approx(1 / 3, abs=0.01),
        pytest.approx(3, abs=0.05),
    )


def test_without_matplotlib_figures_are_refused(tmp_path, monkeypatch):
    add_run(tmp_path / "runs", **details(0))
    monkeypatch.setattr(figures, "is_available", lambda: False)
    message = refused(14, "report", tmp_path / "runs", "--figures", tmp_path / "figures")
    assert "--figures: needs the package 'matplotlib'; install it: pip install" in message
    page = read_text("report", tmp_path / "runs", "--format", "html")
    assert (
        "Figures need the package 'matplotlib'; install it: pip install" in page,
        "<svg" in page,
    ) == (True, False)


def test_a_mean_curve_has_the_extremes_of_its_seeds():
    values = ({0.0: 1.0, 1.0: 2.0}, {0.0: 3.0, 1.0: 6.0}, {0.0: 5.0})
    assert mean_curve(values) == [(0.0, 3.0, 1.0, 5.0), (1.0, 4.0, 2.0, 6.0)]
    assert mean_curve([{0.0: 1.0}, {1.0: 1.0}, {}]) == []


def test_values_that_are_not_numbers_are_left_out(tmp_path):
    fields = details(0)
    good, bad = {"epoch": 2, "train_loss": 3.0}, {"epoch": 1, "train_loss": "x"}
    fields["curves"]["finetune"] = [bad, 7, {"epoch": None, "train_loss": 1.0}, good]
    fields |= {"seconds": {"align": True, "finetune": -1, "build": 2}, "metric_value": [1, 2]}
    fields["baselines"] = {"linear": {"error": 3.5}, "forest": {"error": "0.1"}, "rocket": 3}
    path = add_run(tmp_path, **fields)
    (run,) = collect([tmp_path]).runs
    assert run.score
    assert curves_of(path)["loss"] == {2.0: 3.0}
    assert run.score.baselines == [("linear", 3.5)]
