"""align.method=mona and pare through the command line: kinds, what runs share, resumed runs, refusals."""

import json
import signal

import numpy as np
import pytest
import torch

from orca_cli.stages import align as stage_2
from tests.cli.conftest import results, run_folders
from tests.cli.test_run import wait_for

MONA = ["align.method=mona", "align.inner_samples=6", "embedder=patch", "align.epochs=2"]
PARE = ["align.method=pare", "metric=none"]


def test_mona_trains_the_embedder_alone(orca, environment, small, monkeypatch):
    """The inner step moves nothing but the loss: body and predictor have the bits that they had before stage 2."""
    found = {}

    def watched(config, built, *more):
        before = {name: value.clone() for name, value in built.model.state_dict().items()}
        aligned = plain(config, built, *more)
        after = built.model.state_dict()
        found["moved"] = {name for name, value in before.items() if not torch.equal(value, after[name])}
        found["gradients"] = [name for name, one in built.model.named_parameters() if one.grad is not None]
        return aligned

    plain = stage_2.align
    monkeypatch.setattr(stage_2, "align", watched)
    code, _, err = orca("run", *small, *MONA, "align.select=last", "train.epochs=1")
    assert code == 0, err
    assert found["moved"]
    assert all(name.startswith("embedder.") for name in found["moved"])
    assert found["gradients"] == []
    (result,) = results(environment)
    assert result["alignment"]["method"] == "mona"
    assert result["alignment"]["steps"] == 2
    (run,) = run_folders(environment)
    for line in map(json.loads, (run / "2_align" / "metrics.jsonl").read_text().splitlines()):
        assert line["loss"] == pytest.approx(line["target_loss"] + 0.5 * line["source_loss"])


@pytest.mark.slow
def test_runs_share_a_trajectory_of_mona_only_where_all_that_it_reads_agrees(orca, environment, small, tmp_path):
    cache = tmp_path / "cache"
    small = [*small, "train.epochs=1", "align.epochs=1", "embedder=patch", f"paths.cache={cache}"]

    def new_ones(*words):
        folder = cache / "alignments"
        before = set(folder.iterdir()) if folder.exists() else set()
        assert orca("run", *small, *words)[0] == 0
        return len([path for path in set(folder.iterdir()) - before if path.is_dir()])

    mona = ["align.method=mona", "align.inner_samples=4"]
    assert new_ones("align.inner_lr=0.2") == 1
    assert new_ones("align.inner_lr=0.1", "align.source_share=0.5") == 0  # orca reads neither
    assert new_ones(*mona) == 1
    assert new_ones(*mona, "train.lr=2e-3", "align.source_share=0.5") == 0
    for other in (
        ["finetune=full"],  # digits have norms alone by default
        ["align.inner_lr=0.2"],
        ["align.source_weight=0"],
        ["predictor.pooling=class_token"],
    ):
        assert new_ones(*mona, *other) == 1, other


@pytest.mark.parametrize("words", [MONA, PARE], ids=["mona", "pare"])
def test_a_resumed_run_has_the_same_bits(orca, fork, environment, small, tmp_path, words):
    """MoNA is stopped in stage 2; PaRe in stage 3 while tokens are mixed in, with a gate that has learned."""
    words = [*small, *words, "align.epochs=5", "train.checkpoint_s=0", "train.epochs=3", "align.select=last"]
    pattern = (
        "2_align/checkpoints/step-00000002" if "align.method=mona" in words else "3_finetune/checkpoints/step-00000005"
    )
    process = fork("run", *words, f"paths.cache={tmp_path / 'cold'}")
    wait_for(environment, f"digits/*/{pattern}", process)
    process.send(signal.SIGKILL)
    process.wait()
    assert not results(environment)
    code, _, err = orca("run", *words, f"paths.cache={tmp_path / 'cold'}")
    assert code == 0, err
    assert "resumed at step" in err
    assert orca("run", *words, "--force", f"paths.cache={tmp_path / 'colder'}")[0] == 0
    first, second = results(environment)
    for key in ("weights_sha256", "error", "validation_error", "alignment"):
        assert first[key] == second[key], key


def test_pare_takes_no_step_of_stage_2_and_leaves_nothing_beside_the_model(orca, environment, small):
    """What it learns besides is not among the weights; a run without it has other weights and the same names."""
    names = []
    for words in (PARE, ["metric=none"], ["align.method=pare"]):
        assert orca("run", *small, *words, "train.epochs=1")[0] == 0
        result, run = results(environment)[-1], run_folders(environment)[-1]
        assert result["alignment"]["steps"] == 0
        assert not (run / "2_align" / "embedder.safetensors").exists()
        with (run / "3_finetune" / "last" / "model.safetensors").open("rb") as file:
            names.append(sorted(json.loads(file.read(int.from_bytes(file.read(8), "little")))))
    assert names[0] == names[1] == names[2]
    mixed, plain, typed_alone = (result["weights_sha256"] for result in results(environment))
    assert mixed == typed_alone != plain


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        pytest.param(MONA, "labels", marks=pytest.mark.slow),
        pytest.param(MONA, "values", marks=pytest.mark.slow),
        (MONA, "dense"),
        pytest.param(PARE, "labels", marks=pytest.mark.slow),
        (PARE, "values"),
        (PARE, "dense"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0].partition("=")[2],
)
def test_each_kind_is_trained_or_refused(orca, environment, tiny, tmp_path, method, kind):
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 13, 40)
    y = {
        "labels": rng.integers(0, 2, (40, 3)),
        "values": 1e6 * rng.normal(size=40),
        "dense": rng.normal(size=(40, 1, 12)),
    }
    arrays = {"lengths": lengths} if kind != "dense" else {}
    np.savez(tmp_path / "own.npz", x=rng.normal(size=(40, 2, 12)), y=y[kind], **arrays)
    words = [
        "task=arrays",
        f"task.kind={kind}",
        f"task.train={tmp_path / 'own.npz'}",
        f"body.checkpoint={tiny['bert']}",
    ]
    words += ["source.size=160", "align.source_points=100", "align.max_samples=16", "align.pseudo_labels=3"]
    code, _, err = orca("run", *words, *method, "train.epochs=2", "train.warmup_epochs=0", "align.check_every=1")
    if (kind, method) == ("dense", PARE):
        assert code == 10
        assert (
            err.strip().splitlines()[-1].startswith("orca: error: align.method=pare: does not apply to task.kind=dense")
        )
        assert not results(environment)
        return
    assert code == 0, err
    (result,) = results(environment)
    assert np.isfinite(result["error"]["value"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["align.method=mona", "metric=none"],
            "align.method=mona: trains the embedder in stage 2, which metric=none leaves out",
        ),
        (["align.method=mona", "finetune=head"], "align.method=mona: looks at what training the body does"),
        (
            ["align.method=mona", "finetune=scratch", "metric=moments"],
            "align.method=mona: keeps what a pretrained body knows",
        ),
        (["align.method=mona", "align.stop=floor"], "align.stop=floor: stops at a distance"),
        (["align.method=other"], "align.method: 'other' is not allowed"),
        ([*PARE, "source=digits"], "source: this source is made of images and the body takes texts"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(orca, environment, small, words, said):
    code, _, err = orca("run", *small, *words)
    assert code == 10, err
    (line,) = [line for line in err.splitlines() if "error:" in line]
    assert line.startswith(f"orca: error: {said}")
    assert "Traceback" not in err
