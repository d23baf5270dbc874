"""Draw what the metric of stage 2 says of held-out data against the exact distance, along alignment (paper, Figure 6).

    pip install matplotlib
    orca run -m metric=otdd,otdd_reference,otdd_gaussian align.check_every=5 align.exact=true
    python scripts/plot_alignment.py RUN [RUN ...] --out docs/figures/approximation.svg

Reads 2_align/metrics.jsonl of completed runs: `heldout`, the metric on the validation data, and `heldout_exact`, the exact OTDD
of a fixed sample of them, at the steps where both were measured. One panel per metric shows both as shares of their values at
the first of these steps; runs of one metric, such as several seeds, share a panel. The last panel has approximation against
exact distance in absolute values. Prints per run how well the two agree. The same runs give the same file, byte for byte, with
one version of matplotlib.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orca_cli import storage

WIDTH = 600  # pixels of the figure in a page; the viewer scales it
PANEL_HEIGHT = 235
PIXEL = 1 / 96  # inch, as CSS has it
# Okabe and Ito's colours, which the colour-blind tell apart; markers differ as well.
BLUE, VERMILION = "#0072B2", "#D55E00"
STYLES = (("o", BLUE), ("s", "#E69F00"), ("^", "#009E73"), ("D", "#CC79A7"), ("v", "#56B4E9"), ("P", VERMILION))
RC = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    # Text stays text, and the ids and metadata hold nothing that changes from one call to the next.
    "svg.fonttype": "none",
    "svg.hashsalt": "orca",
}


@dataclass(frozen=True)
class Curve:
    """What one run measured.

    Args:
        run: name of the run's folder.
        metric: name of the metric that was minimised.
        steps: [p], alignment steps.
        approximate: [p], the metric on held-out data.
        exact: [p], the exact OTDD on a sample of them.
    """

    run: str
    metric: str
    steps: np.ndarray
    approximate: np.ndarray
    exact: np.ndarray


def read(run: Path) -> Curve:
    """Return the measurements of a completed run.

    Raises:
        SystemExit: the folder is no completed run, or has fewer than two measurements, or the first of them is 0.
    """
    try:
        status = json.loads((run / "status.json").read_text(encoding="utf-8"))
        records = storage.read_json_lines(run / "2_align" / "metrics.jsonl")
    except (OSError, ValueError) as error:
        raise SystemExit(f"{run}: is no run with an alignment ({error})") from None
    if status.get("state") != "completed":
        raise SystemExit(f"{run}: the run is {status.get('state')}; finish it first")
    both = [record for record in records if "heldout" in record and "heldout_exact" in record]
    if len(both) < 2:
        raise SystemExit(f"{run}: has {len(both)} measurements, two are needed; set align.check_every in the run")
    if not (both[0]["heldout"] and both[0]["heldout_exact"]):
        raise SystemExit(f"{run}: the first distance is 0, and nothing can be given as a share of it")
    columns = (np.array([record[key] for record in both]) for key in ("epoch", "heldout", "heldout_exact"))
    return Curve(run.resolve().name, status["metric"], *columns)


def describe(curve: Curve) -> str:
    """Return one line: correlations over all steps and over the later half, and the relative errors there."""
    later = slice(len(curve.steps) // 2, None)
    error = curve.approximate / curve.exact - 1
    return (
        f"{curve.metric:16} {len(curve.steps):3} points, Pearson {_pearson(curve.approximate, curve.exact)}, "
        f"later half {_pearson(curve.approximate[later], curve.exact[later])}, "
        f"approximation to exact {error[0]:+.1%} at step {curve.steps[0]}, {error[-1]:+.1%} at step {curve.steps[-1]}"
        f"   {curve.run}"
    )


def draw(curves: list[Curve]) -> Figure:
    """Return the figure, two panels in a row."""
    metrics = list(dict.fromkeys(curve.metric for curve in curves))
    rows = math.ceil((len(metrics) + 1) / 2)
    figure = Figure(figsize=(WIDTH * PIXEL, rows * PANEL_HEIGHT * PIXEL), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
    axes = list(figure.subplots(rows, 2, squeeze=False).flat)
    panels = axes[: len(metrics)]
    for axis, metric in zip(panels, metrics, strict=True):
        _draw_steps(axis, metric, [curve for curve in curves if curve.metric == metric])
    shares = [values / values[0] for curve in curves for values in (curve.approximate, curve.exact)]
    low, high = min(map(np.min, shares)), max(map(np.max, shares))
    for axis in panels:  # one scale, so that panels compare; from 0 where that is in reach
        axis.set_ylim(0 if low >= 0 else 1.05 * low, 1.08 * max(high, 1.0))
    _draw_scatter(axes[len(metrics)], metrics, curves)
    for axis in axes[len(metrics) + 1 :]:
        axis.set_axis_off()
    return figure


def _draw_steps(axis: Axes, metric: str, curves: list[Curve]) -> None:
    for index, curve in enumerate(curves):
        first = index == 0
        exact, approximate = curve.exact / curve.exact[0], curve.approximate / curve.approximate[0]
        # The curves often lie on each other: the exact one is a wide band beneath, the other has open markers.
        label = f"exact OTDD, {_range([c.exact for c in curves])}" if first else None
        axis.plot(curve.steps, exact, color=VERMILION, linewidth=4, alpha=0.45, solid_capstyle="round", label=label)
        label = f"{metric}, {_range([c.approximate for c in curves])}" if first else None
        axis.plot(
            curve.steps, approximate, color=BLUE, linewidth=1.2, marker="o", markersize=4, markerfacecolor="white",
            label=label,
        )  # fmt: skip
    axis.set_title(metric, loc="left", fontweight="bold")
    axis.set_xlabel("alignment step")
    axis.set_ylabel(f"share of step {curves[0].steps[0]}")
    axis.set_xlim(left=min(0, *(int(curve.steps[0]) for curve in curves)) - 1)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.legend(loc="upper right")


def _draw_scatter(axis: Axes, metrics: list[str], curves: list[Curve]) -> None:
    for index, metric in enumerate(metrics):
        marker, color = STYLES[index % len(STYLES)]
        own = [curve for curve in curves if curve.metric == metric]
        axis.plot(
            np.concatenate([curve.exact for curve in own]), np.concatenate([curve.approximate for curve in own]),
            linestyle="none", marker=marker, markersize=4.5, markerfacecolor="none", markeredgecolor=color, label=metric,
        )  # fmt: skip
    exact = np.concatenate([curve.exact for curve in curves])
    ends = [exact.min(), exact.max()]
    axis.plot(ends, ends, color="#555555", linewidth=0.8, zorder=1, label="equal")
    axis.set_title("approximation against exact", loc="left", fontweight="bold")
    axis.set_xlabel("exact OTDD")
    axis.set_ylabel("approximation")
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.legend(loc="upper left")


def _range(values: list[np.ndarray]) -> str:
    """Return from where to where the values go, the mean over runs."""
    return f"{_short(np.mean([v[0] for v in values]))} to {_short(np.mean([v[-1] for v in values]))}"


def _short(value: Any) -> str:
    """Return three digits, zeros among them."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def _pearson(first: np.ndarray, second: np.ndarray) -> str:
    if len(first) < 2 or first.std() == 0 or second.std() == 0:
        return "undefined"
    return f"{np.corrcoef(first, second)[0, 1]:.5f}"


def svg(figure: Figure) -> str:
    """Return the figure as SVG text without dates and versions."""
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None, "Title": "approximate and exact dataset distance along alignment"}
    figure.savefig(buffer, format="svg", metadata=metadata)
    return "\n".join(line.rstrip() for line in buffer.getvalue().decode().splitlines()) + "\n"


def main(words: list[str] | None = None) -> int:
    """Draw the figure, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a completed run")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.svg", help="where the figure goes")
    arguments = parser.parse_args(words)
    curves = [read(run) for run in arguments.runs]
    for curve in curves:
        print(describe(curve))
    with matplotlib.rc_context(RC):
        text = svg(draw(curves))
    storage.make_folder(arguments.out.parent)
    storage.write_text(arguments.out, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
