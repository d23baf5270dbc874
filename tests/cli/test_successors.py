"""align.method=mona and pare through the command line: what they train, leave behind and share between runs."""

import pytest
import torch
from safetensors.torch import load_file

from orca_cli.stages import align as stage_2
from tests.cli.conftest import curve

MONA = ["align.method=mona", "align.inner_samples=6", "embedder=patch", "align.epochs=2"]


def test_mona_trains_the_embedder_alone(run, small, monkeypatch):
    """The inner step moves nothing but the loss: body and predictor have the bits that they had before stage 2."""
    changes = {}

    def watched(built, *more):
        before = {name: value.clone() for name, value in built.model.state_dict().items()}
        aligned = plain(built, *more)
        after = built.model.state_dict()
        changes["moved"] = {name for name, value in before.items() if not torch.equal(value, after[name])}
        changes["gradients"] = [name for name, one in built.model.named_parameters() if one.grad is not None]
        return aligned

    plain = stage_2.align
    monkeypatch.setattr(stage_2, "align", watched)
    done = run(*small, *MONA, "train.epochs=1")
    assert changes["moved"]
    assert all(name.startswith("embedder.") for name in changes["moved"])
    assert changes["gradients"] == []
    alignment = done.result["alignment"]
    assert (alignment["method"], alignment["steps"]) == ("mona", 2)
    for line in curve(done.folder, "2_align"):
        assert line["loss"] == pytest.approx(line["target_loss"] + 0.5 * line["source_loss"])


@pytest.mark.slow
def test_runs_share_a_trajectory_of_mona_only_where_all_that_it_reads_agrees(run, small, tmp_path):
    cache = tmp_path / "cache"
    small = [*small, "train.epochs=1", "align.epochs=1", "embedder=patch", f"paths.cache={cache}"]

    def new_ones(*words):
        folder = cache / "alignments"
        before = set(folder.iterdir()) if folder.exists() else set()
        run(*small, *words)
        return len([path for path in set(folder.iterdir()) - before if path.is_dir()])

    mona = ["align.method=mona", "align.inner_samples=4"]
    assert new_ones("align.inner_lr=0.2") == 1
    assert new_ones("align.inner_lr=0.1", "align.source_share=0.5") == 0  # orca reads neither
    assert new_ones(*mona) == 1
    assert new_ones(*mona, "train.lr=2e-3", "align.source_share=0.5") == 0
    for other in (
        ["finetune=layernorm"],  # digits train all by default
        ["align.inner_lr=0.2"],
        ["align.source_weight=0"],
        ["predictor.pooling=class_token"],
    ):
        assert new_ones(*mona, *other) == 1, other


def test_pare_takes_no_step_of_stage_2_and_leaves_nothing_beside_the_model(run, small):
    """What it learns besides is not among the weights; a run without it has other weights and the same names."""
    hashes, names = [], []
    for words in (["align.method=pare", "metric=none"], ["metric=none"], ["align.method=pare"]):
        done = run(*small, *words, "train.epochs=1")
        hashes.append(done.result["weights_sha256"])
        assert done.result["alignment"]["steps"] == 0
        assert not (done.folder / "2_align" / "embedder.safetensors").exists()
        names.append(sorted(load_file(done.folder / "3_finetune" / "last" / "model.safetensors")))
    assert names[0] == names[1] == names[2]
    mixed, plain, typed_alone = hashes
    assert mixed == typed_alone != plain
