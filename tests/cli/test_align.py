"""Stage 2 through the command line: the points that are compared, and diagnostics."""

import pytest
import torch
from safetensors.torch import load_file

from orca_cli.config import compose
from orca_cli.stages.build import build
from orca_cli.terminal import LogReporter
from tests.cli.conftest import curve

FALLS_TO = 0.5  # of the exact distance before alignment


def test_every_epoch_is_recorded_with_diagnostics(run, small):
    """Now and then with the exact distance, too."""
    exactly = ["align.exact=true", "align.largest_step=null", "train.epochs=1"]
    done = run(*small, "metric=otdd_by_class", "align.epochs=6", "align.check_every=5", *exactly)
    epochs = curve(done.folder, "2_align")
    always = {"epoch", "loss", "lr", "gradient_norm", "iterations", "marginal_error", "seconds"}
    measured = {"token_variance", "variance_within", "variance_between", "heldout", "heldout_exact"}
    for line in epochs:
        assert set(line) == (always | measured if line["epoch"] in (0, 5) else always)
    assert epochs[5]["heldout_exact"] < FALLS_TO * epochs[0]["heldout_exact"]
    assert epochs[5]["heldout"] < epochs[0]["heldout"]
    for name, values in done.result["alignment"]["collapse"].items():
        assert values["before"] == epochs[0][name]
        assert values["after"] != values["before"]
        assert ("source" in values) == name.startswith("variance")


@pytest.mark.slow
def test_tokens_that_draw_together_are_warned_of(run, small):
    """Biased transport draws the target together.

    Its distance falls, and little of the tokens' variance is left.
    """
    far = [
        "metric=otdd_by_class",
        "align.epochs=20",
        "align.lr=0.1",
        "embedder=patch",
        "align.check_every=100",
    ]
    done = run(*small, *far, "train.epochs=1")
    assert "the tokens have collapsed" in done.err
    assert done.result["alignment"]["steps"] == 20


def test_one_rate_serves_metrics_whose_gradients_differ(run, small):
    """Under SGD a first step is as long as its gradient.

    Without a scale, metrics would differ by their units.
    """
    sgd = ["protocol=paper", "source=stdlib_docs", "train.optimizer=sgd", "train.momentum=0"]
    sgd += ["align.features=tokens", "align.epochs=1", "train.epochs=1"]
    with compose.session() as session:
        before = build(
            session.compose([*small, *sgd]).config, LogReporter()
        ).model.embedder.state_dict()
    # Whether the gradient is scaled -> length of the first step by each metric.
    lengths = {True: [], False: []}
    for unit in (True, False):
        for metric in ("otdd", "moments"):
            words = [f"metric={metric}", "align.lr=1e-2", f"align.unit_gradient={unit}"]
            after = load_file(run(*small, *sgd, *words).folder / "2_align" / "embedder.safetensors")
            change = torch.cat([(after[name] - before[name]).flatten() for name in before])
            lengths[unit].append(change.norm().item())
    assert lengths[True] == pytest.approx([1e-2, 1e-2], rel=1e-3)
    assert max(lengths[False]) > 10 * min(lengths[False])


@pytest.mark.slow
@pytest.mark.parametrize(
    "metric", ["otdd", "otdd_exact", "otdd_reference", "otdd_gaussian"]
)  # otdd_by_class: above
def test_every_dataset_distance_lowers_the_exact_one(run, small, metric):
    """On held-out data."""
    settings = [
        "align.epochs=11",
        "align.check_every=10",
        "align.exact=true",
        "align.largest_step=null",
    ]
    done = run(*small, f"metric={metric}", *settings, "train.epochs=1")
    exact = [
        line["heldout_exact"] for line in curve(done.folder, "2_align") if "heldout_exact" in line
    ]
    assert len(exact) == 2
    assert exact[-1] < FALLS_TO * exact[0], exact
