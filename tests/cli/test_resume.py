"""Runs that are killed or stopped, and then rerun: the same bits as without an interruption."""

import importlib.util
import json
import signal

import pytest

from orca_cli import storage
from orca_cli.report.collect import collect
from tests.cli.conftest import curve, put_aside, run_folders

# Checkpoints after every step, and enough steps to be hit inside an epoch.
OFTEN = ["train.checkpoint_s=0", "train.epochs=4", "align.epochs=6"]
ALIGNING = "digits/*/2_align/checkpoints/step-00000002"
TRAINING = "digits/*/3_finetune/checkpoints/step-00000005"
KEYS = (
    "weights_sha256",
    "error",
    "validation_error",
    "metric_value",
    "alignment",
    "splits",
    "curves",
)


@pytest.fixture(scope="module")
def uninterrupted():
    return {}


@pytest.mark.parametrize(
    ("pattern", "number"), [(ALIGNING, signal.SIGKILL), (TRAINING, signal.SIGINT)]
)
def test_resumed_run_has_the_same_bits(
    run, refused, stopped, environment, small, tmp_path, uninterrupted, pattern, number
):
    """A damaged alignment is computed again, with the same bits.

    With other data the run is refused.
    """
    if not uninterrupted:
        run(*small, *OFTEN, "--force")
        uninterrupted.update(put_aside(environment))
    # This cache has no finished alignment.
    words = [*small, *OFTEN, f"paths.cache={tmp_path / 'cold'}"]
    code, err = stopped(*words, at=pattern, number=number)
    (folder,) = run_folders(environment)
    status = json.loads((folder / "status.json").read_text())
    if number == signal.SIGKILL:
        assert status["state"] in ("align", "finetune")
    else:
        assert (code, status["state"]) == (128 + number, "interrupted")
        assert "rerun the same command" in err
        path, whole = change_fingerprint(folder, "data.train", "0" * 64)
        refused(22, ["run", *words], "data.train", "--force")
        path.write_bytes(whole)
        with open(folder / "2_align" / "embedder.safetensors", "r+b") as file:
            file.truncate(100)
    done = run(*words)
    assert "resumed at step" in done.err
    assert {key: done.result[key] for key in KEYS} == {key: uninterrupted[key] for key in KEYS}
    assert [line["epoch"] for line in curve(folder)] == [1, 2, 3, 4]
    assert not list(folder.rglob(".tmp-*"))
    assert ("align: files are damaged, so this stage is run again" in done.err) == (
        number == signal.SIGINT
    )


def change_fingerprint(folder, key, value):
    """Change a recorded value with which a run began; returns the file and its former content."""
    path = folder / "1_build" / "fingerprint.json"
    whole, began = path.read_bytes(), storage.read_checked_json(path)
    began["values"][key] = value
    storage.write_checked_json(
        path, {name: began[name] for name in ("schema", "values", "inexact")}
    )
    return path, whole


LORA = [] if importlib.util.find_spec("peft") is None else ["finetune=lora", "finetune.dropout=0.1"]


@pytest.mark.slow
def test_a_resumed_run_with_its_own_parts_has_the_same_bits(run, stopped, small, tmp_path):
    """The parameters that LoRA adds have their own random draws."""
    words = [*small, *OFTEN, *LORA, "metric=none"]
    stopped(*words, f"paths.cache={tmp_path / 'cold'}", at=TRAINING)
    resumed = run(*words, f"paths.cache={tmp_path / 'cold'}")
    assert "resumed at step" in resumed.err
    whole = run(*words, "--force", f"paths.cache={tmp_path / 'colder'}")
    assert {key: resumed.result[key] for key in KEYS} == {key: whole.result[key] for key in KEYS}


def test_an_interrupted_run_resumes_inexactly_if_allowed(
    run, refused, stopped, environment, small, tmp_path
):
    words = [*small, *OFTEN, f"paths.cache={tmp_path / 'cold'}"]
    assert stopped(*words, at=ALIGNING, number=signal.SIGTERM)[0] == 143
    (folder,) = run_folders(environment)
    for name in ("threads", "program"):
        change_fingerprint(folder, name, "2")
    refused(22, ["run", *words], "program (2, now ", "threads (2, now ")
    done = run(*words, "--allow-inexact-resume")
    assert "resumed at step" in done.err
    assert {"threads", "program"} <= set(done.result["inexact"])
    (made,) = collect([environment]).runs
    assert made.facts["program"] == f"several ({folder.name})"  # like that of no other run
    shared = [path for path in (tmp_path / "cold" / "alignments").iterdir() if path.is_dir()]
    assert not shared  # its bits are no other run's
