"""Runs whose finetune mode trains a few parameters, through the command line: what is trained, kept, resumed and refused."""

import importlib.util
import json
import shutil
import signal

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.cli.conftest import results, run_folders
from tests.cli.test_run import wait_for

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="the extra lora is not installed")
LORA = ["finetune=lora", "finetune.dropout=0.1"]
DEEP = ["finetune=prompt", "finetune.depth=deep"]
BORDER = ["finetune=visual_prompt"]
IMAGES = "task.layout=image"


def last_weights(run):
    return load_file(run / "3_finetune" / "last" / "model.safetensors")


def count(tensors, prefix):
    return sum(value.numel() for name, value in tensors.items() if name.startswith(prefix))


def same(a, b):
    return np.allclose(a, b, rtol=0, atol=1e-20)  # a bias of 0 does move at a rate of 1e-30


@pytest.mark.parametrize(
    ("words", "own"),
    [
        pytest.param(
            ["finetune=lora", "finetune.rank=4"], 2 * 2 * 4 * (32 + 32), marks=needs_peft
        ),  # layers, roles, A and B
        (["finetune=bitfit"], 2 * (4 * 32 + 48 + 32 + 2 * 32)),  # attention, feed-forward, two norms
        (DEEP, 2 * 10 * 32),
        (BORDER, 2 * (8 + 8 - 2)),  # one channel, one pixel wide
    ],
    ids=["lora", "bitfit", "prompt", "visual_prompt"],
)
def test_the_result_says_what_is_trained_and_a_checkpoint_holds_no_more(orca, environment, small, words, own):
    more = ["metric=none", IMAGES, "train.epochs=1"]
    code, out, err = orca("run", *small, *more, *words)
    assert code == 0, err
    (result,) = results(environment)
    (run,) = run_folders(environment)
    parameters = result["parameters"]
    assert parameters["trained"] == own + parameters["embedder"] + parameters["predictor"]
    assert f"trained {parameters['trained']:,}" in out
    tensors = last_weights(run)
    assert count(tensors, ("body.", "border.")) == own
    # The rest are buffers, such as the embedder's bank, which no checkpoint of the body holds.
    file = run / "3_finetune" / "last" / "model.safetensors"
    rest = sum(value.nbytes for name, value in tensors.items() if not name.startswith(("body.", "border.")))
    assert file.stat().st_size < rest + 4 * own + 120 * len(tensors) + 200  # a header has a line for each


@pytest.mark.parametrize(
    "words", [pytest.param(LORA, marks=needs_peft), DEEP, BORDER], ids=["lora", "prompt", "visual_prompt"]
)
def test_a_resumed_run_has_the_same_bits(orca, fork, environment, small, words):
    small = [*small, *words, IMAGES, "metric=none", "train.checkpoint_s=0", "train.epochs=4"]
    process = fork("run", *small)
    wait_for(environment, "digits/*/3_finetune/checkpoints/step-00000005", process)
    process.send(signal.SIGKILL)
    process.wait()
    assert not results(environment)
    code, out, err = orca("run", *small)
    assert code == 0, err
    assert "resumed at step" in err
    assert orca("run", *small, "--force")[0] == 0
    first, second = results(environment)
    for key in ("weights_sha256", "error", "validation_error"):
        assert first[key] == second[key], key


def test_stage_2_trains_the_embedder_alone_whatever_the_mode(orca, environment, small, tmp_path):
    """At a rate of nearly 0 the weights at the end are those that stage 3 started from."""
    small = [
        *small,
        IMAGES,
        "source.size=80",
        "embedder=patch",
        "train.epochs=1",
        "train.lr=1e-30",
        "train.weight_decay=0",
        "train.adapt_rate=false",
    ]
    modes = {"full": ["finetune=full"], "prompt": DEEP, "visual_prompt": BORDER}
    if importlib.util.find_spec("peft") is not None:
        modes["lora"] = LORA
    aligned = []
    for name, words in modes.items():
        ends = {}
        for metric in ("none", "moments"):  # each with a cache of its own: an alignment would be shared
            cold = f"paths.cache={tmp_path / name / metric}"
            code, _, err = orca("run", *small, *words, f"metric={metric}", "align.select=last", cold)
            assert code == 0, err
            ends[metric] = last_weights(run_folders(environment)[-1])
        before, after = ends["none"], ends["moments"]
        changed = {key for key in before if not same(before[key], after[key])}
        assert changed
        assert all(key.startswith("embedder.") for key in changed), name
        aligned.append({key: value for key, value in after.items() if key.startswith("embedder.")})
    for other in aligned[1:]:
        assert all(same(aligned[0][key], other[key]) for key in aligned[0])


def test_without_peft_lora_is_refused_in_one_line(orca, environment, small, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "peft" else found(name, *more))
    code, out, err = orca("run", *small, "finetune=lora", "metric=none")
    assert code == 14
    (line,) = [line for line in err.splitlines() if "error" in line]
    assert line == "orca: error: finetune: finetune=lora needs the package peft; pip install 'orca-transfer[lora]'"
    assert "Traceback" not in err
    (run,) = run_folders(environment)
    assert json.loads((run / "status.json").read_text())["state"] == "failed"


def test_a_body_of_windows_and_inputs_that_are_no_images_are_refused_in_one_line(orca, tiny, small):
    swin = ["body=swin_tiny", "source=digits", IMAGES, f"body.checkpoint={tiny['swin']}"]
    code, _, err = orca("run", *small, *swin, "finetune=prompt")
    assert code == 10, err
    assert "attends by windows" in err
    assert "use finetune=visual_prompt" in err
    code, _, err = orca("run", *small, "finetune=visual_prompt", "metric=none")
    assert code == 10, err
    assert "a border is for images" in err


@needs_peft
def test_an_export_predicts_the_same_bits_in_a_new_process(orca, start, environment, tiny, tmp_path):
    x, y = np.random.default_rng(0).normal(size=(80, 2, 20)), np.arange(80) % 2
    np.savez(tmp_path / "train.npz", x=x[:60] + y[:60, None, None], y=y[:60])
    np.savez(tmp_path / "test.npz", x=x[60:] + y[60:, None, None], y=y[60:])
    shutil.copytree(tiny["bert"], tmp_path / "checkpoint")
    words = ["task=arrays", "task.kind=classes", "task.train=train.npz", "task.test=test.npz", "metric=none", *LORA]
    code, _, err = orca("run", *words, "train.epochs=1", "train.folds=2", "body.checkpoint=checkpoint")
    assert code == 0, err
    (run,) = run_folders(environment)
    expected = np.load(run / "3_finetune" / "predictions.npz")["outputs"]
    assert orca("export", run, tmp_path / "model")[0] == 0
    record = json.loads((tmp_path / "model" / "export.json").read_text())
    assert record["finetune"]["rank"] == 8
    shutil.rmtree(tmp_path / "checkpoint")
    shutil.rmtree(run)
    process = start("predict", tmp_path / "model", tmp_path / "test.npz", "--out", tmp_path / "p.npz")
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert np.array_equal(np.load(tmp_path / "p.npz")["outputs"], expected)
