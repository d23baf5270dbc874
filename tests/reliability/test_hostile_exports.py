"""Exports and run folders of strangers: nothing runs, nothing outside is read, damage and newer versions are refused."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from orca_cli import storage
from orca_cli.baselines import plain as plain_models
from orca_cli.exceptions import OrcaError
from orca_cli.prediction.loading import open_model
from orca_cli.prediction.record import CARD
from orca_cli.runs.directory import CANDIDATES
from tests.reliability import damages
from tests.reliability.test_hostile_files import FIGURE
from tests.reliability.test_hostile_models import SAFETENSORS
from tests.tiers import count

pytestmark = pytest.mark.slow

SECRET = "hunter2-c0rrect-h0rse"
SETTINGS = [
    "task=arrays", "task.kind=classes", "task.train=train.npz", "source.size=160", "align.epochs=1",
    "align.source_points=100", "align.max_samples=8", "align.pseudo_labels=3", "train.epochs=1", "train.warmup_epochs=0",
    "train.batch_size=16", "train.select=best", "finetune=full", "embedder=multiscale",
    "embedder.skip=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(fork_server, home, tiny, tmp_path_factory):
    """Return a folder with new.npz, `run` (a run folder) and `export` (an export of it)."""
    root = tmp_path_factory.mktemp("made")
    x, y = np.random.default_rng(0).normal(size=(40, 2, 12)), np.arange(40) % 2
    np.savez(root / "train.npz", x=x, y=np.array(["no", "yes"])[y])
    np.save(root / "new.npy", x[:9])
    variables = {"ORCA_RUNS": str(root / "runs"), "ORCA_HOME": str(home)}
    words = [word.replace("train.npz", str(root / "train.npz")) for word in SETTINGS]
    case = fork_server.start(["run", *words, f"body.checkpoint={tiny['bert']}"], more=variables)
    assert case.wait(120) == 0, case.err
    (run,) = (root / "runs").glob("*/2*")
    shutil.copytree(run, root / "run")
    case = fork_server.start(["export", str(run), str(root / "export")], more=variables)
    assert case.wait(60) == 0, case.err
    return root


@pytest.fixture
def stranger(made, tmp_path):
    """Return a folder with copies of the run and the export, new.npy, and a folder outside with a secret."""
    shutil.copytree(made / "run", tmp_path / "run")
    shutil.copytree(made / "export", tmp_path / "export")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text(SECRET)
    np.save(tmp_path / "new.npy", np.random.default_rng(0).normal(size=(50, 2, 12)))
    return tmp_path


@pytest.fixture
def predict(stranger, fork):
    """Return a call that predicts by the export, or the run, and returns exit code, output and errors."""

    def call(name="export", **more):
        case = fork("predict", stranger / name, stranger / "new.npy", **more)
        code = case.wait(60)
        assert "Traceback" not in case.err
        assert case.err.count("orca: error:") == bool(code), case.err
        return code, case.out, case.err

    return call


def reseal(folder: Path) -> None:
    """Write the manifest of a folder anew, as a stranger who means harm does."""
    inner = {path.parent for path in folder.rglob(storage.MANIFEST)} - {folder}
    changing = (storage.MANIFEST, "status.json", "lock", "run.log")
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in changing]
    storage.seal(folder, [path for path in files if not inner & set(path.parents)])


def record(folder: Path, name: str = "export.json", **changes) -> None:
    """Change a record that carries its own checksum."""
    storage.write_checked_json(folder / name, storage.read_checked_json(folder / name) | changes)


def plain(folder: Path, name: str, **changes) -> None:
    """Change a record without one."""
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))


def config(folder: Path, **changes) -> None:
    plain(folder, "body/config.json", **changes)


def linked(folder: Path, name: str) -> None:
    """Put a link to a file outside in a file's place; what it leads to is what stood there."""
    path = folder / name
    place = folder.parent / "outside" / path.name
    shutil.move(path, place)
    path.symlink_to(place)


def weights(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def wide(tensors) -> None:
    tensors["predictor.linear.weight"] = tensors["predictor.linear.weight"].double()


def manifest(folder: Path, name: str) -> None:
    secret = folder.parent / "outside" / "secret.txt"
    files = storage.read_checked_json(folder / storage.MANIFEST)["files"]
    entry = {"size": len(SECRET), "sha256": storage.sha256_file(secret)}
    record(folder, storage.MANIFEST, files=files | {name: entry})


SUBSETS = "orca_cli.models.finetuning.modes"
PATCH = "orca_cli.models.embedders.patches.Patch"
MULTISCALE = "orca_cli.models.embedders.patches.Multiscale"  # that of the run


def other_shape(folder: Path) -> None:
    """A model for longer samples than its preprocessing gives: one more token, of two channels, in the embedder."""

    def longer(tensors) -> None:
        tensors["embedder.positions"] = torch.zeros(13, tensors["embedder.positions"].shape[1])
        for name in ("sample_mean", "sample_deviation", "sample.weight"):
            tensors[f"embedder.beside.{name}"] = functional.pad(
                tensors[f"embedder.beside.{name}"], (0, 2)
            )

    weights(folder, longer)
    record(folder, input_shape=[2, 13])


def named(entry: str, target: str, **settings):
    """Return a case: an entry of export.json names code."""
    node = {"_target_": target, **settings}
    return lambda f: record(f, **{entry: node}), True, 12, f"'{target}' is not allowed"


def within(entry: str, target: str, **nested: str):
    """Return a case: the entry names a part of the program, which is given another as an argument."""
    arguments = {name: {"_target_": inner, "kind": "classes"} for name, inner in nested.items()}
    ((argument, inner),) = nested.items()
    message = f"{argument}._target_: '{inner}' is not allowed"
    return lambda f: record(f, **{entry: {"_target_": target, **arguments}}), True, 12, message


def fitted(target: str):
    """Return a case: preprocessing.json names code."""
    change = {"target": target}
    message = f"'{target}' is not allowed"
    return lambda f: record(f, "preprocessing.json", **change), True, 12, message


READER = "orca_cli.data.arrays.load"
CHUNKS = "orca_cli.scoring.reported.ChunkMean"
IMPORTER = "torch.nn.attention._fa3.register_flash_attention_fa3"
FILTERS = {"_target_": MULTISCALE, "filters": 10**12}
# name -> (what is done to the export, whether its manifest is then written anew, exit codes, a part of the message)
EXPORTS = {
    "a reader as embedder": named("embedder", READER, kind="classes", train="OUTSIDE/secret.txt"),
    "a system call as embedder": named("embedder", "os.system", command="touch canary"),
    "eval as finetune": named("finetune", "builtins.eval"),
    "a module through ours": named("embedder", "orca_cli.storage.folders.shutil.rmtree"),
    "another class of embedders": named("embedder", "orca_cli.models.embedders.patches.ConvolutionEmbedder"),
    "a trillion filters": (lambda f: record(f, embedder=FILTERS), True, 21, "in the model"),
    "a nested reader": within("embedder", PATCH, init=READER),
    "another function of bodies": named("body", "orca_cli.models.checkpoints.resolve", checkpoint="x"),
    "pip as body": named("body", "orca_cli.models.checkpoints.wheels._fetch", checkpoint="./evil"),
    "torch.hub as body": named("body", "torch.hub.load", repo="a/b"),
    "torch.nn as body": named("body", "torch.nn.Linear", in_features=1),
    "a tracker as finetune": named("finetune", "orca_cli.runs.tracking.services.Curves"),
    "a reader as error": named("error", READER),
    "a loss as error": named("error", "torch.nn.L1Loss"),
    "an importer as error": named("error", IMPORTER, module_path="antigravity"),
    "an importer within an error": within("error", CHUNKS, error=IMPORTER),
    "no class as preprocessing": fitted("shutil.rmtree"),
    "a reader as preprocessing": fitted(READER),
    "samples as preprocessing": fitted("orca_cli.data.images.files.FileSamples"),
    "weights through a link": (lambda f: linked(f, "model.safetensors"), True, 12, "is a link"),
    "preprocessing through a link": (lambda f: linked(f, "preprocessing.json"), True, 12, "is a link"),
    "settings through a link": (lambda f: linked(f, "config.yaml"), True, 12, "is a link"),
    "a body through a link": (lambda f: linked(f, "body"), True, 12, "is a link"),
    "a card through a link": (lambda f: linked(f, "README.md"), True, 12, "is a link"),
    "a link that nothing names": (lambda f: (f / "more").symlink_to("/etc"), False, 12, "is a link"),
    "weights that are a pipe": (lambda f: damages.pipe(f / "model.safetensors"), False, 12, "is not a regular file"),
    "a manifest that leads up": (lambda f: manifest(f, "../outside/secret.txt"), False, 13, "outside the folder"),
    "a manifest that leads away": (lambda f: manifest(f, f"{f.parent}/outside/secret.txt"), False, 13, "outside the folder"),
    "code of the body's maker": (lambda f: config(f, auto_map={"AutoModel": "evil.Model"}), True, 12, "third-party code"),
    "a kernel of the hub": (lambda f: config(f, attn_implementation="someone/kernel"), True, 12, "third-party code"),
    "a quantiser": (lambda f: config(f, quantization_config={"quant_method": "evil"}), True, 12, "third-party code"),
    "a body of another family": (lambda f: config(f, model_type="gpt2"), True, 10, "belongs to the family 'gpt2'"),
    "a body of terabytes": (lambda f: config(f, hidden_size=10**9), True, 12, "no model has that size"),
    "a body of gigabytes": (lambda f: config(f, intermediate_size=10**6), True, 21, "in the model"),
    "a body of a million layers": (lambda f: config(f, num_hidden_layers=10**6), True, 12, "asks for 1000000 layers"),
    "a billion labels": (lambda f: config(f, num_labels=10**9), True, 12, "no model has that size"),
    "no heads": (lambda f: config(f, num_attention_heads=0), True, 11, "does not describe a model"),
    "an unknown activation": (lambda f: config(f, hidden_act="os.system"), True, 11, "does not describe a model"),
    "inputs of terabytes": (lambda f: record(f, input_shape=[2**40, 12]), True, (11, 21), "export"),
    "inputs of another shape": (other_shape, True, 11, "samples have shape (2, 12), the model expects (2, 13)"),
    "inputs of no shape": (lambda f: record(f, input_shape=["a"]), True, 11, "is not a valid record of a model"),
    "a billion outputs": (lambda f: record(f, num_outputs=10**9), True, 21, "in the model"),
    "an unknown precision": (lambda f: record(f, precision="fp99"), True, 10, "got 'fp99'"),
    "a batch of nothing": (lambda f: record(f, batch_size=0), True, 10, "got 0"),
    "an unknown kind": (lambda f: record(f, kind="code"), True, 11, "is not a valid record of a model"),
    "a record with more": (lambda f: record(f, command="touch canary"), True, 11, "is not a valid record of a model"),
    "a record of gigabytes": (lambda f: os.truncate(f / "export.json", 2**33), False, 12, "more than the limit"),
    "a record that is deep": (lambda f: (f / "export.json").write_text("[" * 10**5), True, 13, "is damaged"),
    "weights of another type": (lambda f: weights(f, wide), True, 21, "is float64"),
    "weights that lack one": (lambda f: weights(f, lambda t: t.pop("predictor.linear.bias")), True, 21, "is missing in"),
    "weights with one more": (lambda f: weights(f, lambda t: t.update(more=torch.zeros(1))), True, 21, "missing in the model"),
    "a newer record": (lambda f: record(f, schema=2), True, 21, "schema 2 of a newer program"),
    "a newer manifest": (lambda f: record(f, storage.MANIFEST, schema=2), False, 21, "schema 2"),
    "an extra file": (lambda f: (f / "evil.py").write_text("import os; os.mkdir('canary')"), False, 13, "does not list"),
}  # fmt: skip


def yaml(folder: Path, old: str, new: str) -> None:
    path = folder / "config.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def part_only(folder: Path) -> None:
    """Make a run look as if it had trained a part of its body only, and name the checkpoint by a secret."""
    (folder / "1_build" / "body" / "config.json").unlink()
    lines = (folder / "config.yaml").read_text().splitlines()
    lines = [
        "  checkpoint: ${oc.env:TOKEN}" if line.startswith("  checkpoint: ") else line
        for line in lines
    ]
    (folder / "config.yaml").write_text("\n".join(lines))


OBJECT = "seed: !!python/object/apply:os.mkdir [canary]"
RUNS = {
    "a reader as embedder": (lambda f: yaml(f, MULTISCALE, READER), True, 12, "embedder._target_: "),
    "a system call as finetune": (lambda f: yaml(f, f"{SUBSETS}.Full", "os.system"), True, 12, "'os.system' is not allowed"),
    "a reader as decided embedder": (
        lambda f: plain(f, "1_build/summary.json", parts={"embedder": {"_target_": READER}}), True, 12, "embedder._target_: "
    ),
    "an object of Python": (lambda f: yaml(f, "seed: 0", OBJECT), True, 12, "asks for a Python object"),
    "a checkpoint by a secret": (part_only, True, 11, "${oc.env:TOKEN}"),
    "a stage through a link": (lambda f: linked(f, "1_build"), True, 12, "is a link"),
    "weights through a link": (lambda f: linked(f, "3_finetune/best/model.safetensors"), True, 12, "is a link"),
    "a result through a link": (lambda f: linked(f, "result.json"), True, 12, "is a link"),
    "a newer result": (lambda f: plain(f, "result.json", schema=99), True, 21, "schema 99 of a newer program"),
    "settings that were changed": (lambda f: yaml(f, "seed: 0", "seed: 1"), False, 13, "has changed"),
    "settings of another seed": (lambda f: yaml(f, "precision: auto", "precision: fp99"), True, 10, "fp99"),
}  # fmt: skip


STRANGE = {
    (kind, name): case
    for kind, cases in (("export", EXPORTS), ("run", RUNS))
    for name, case in cases.items()
}


@pytest.mark.parametrize(("kind", "name"), STRANGE)
def test_folders_of_strangers(kind, name, stranger, predict, counted):
    change, sealed, codes, message = STRANGE[kind, name]
    change(stranger / kind)
    if sealed:
        reseal(stranger / kind)
    log = stranger / "events"
    start = time.monotonic()
    code, out, err = predict(
        kind, hook=f"tests.reliability.places:watch:{log}", more={"TOKEN": SECRET}
    )
    assert time.monotonic() - start < 30
    assert code in (codes if isinstance(codes, tuple) else (codes,)), err
    assert message in err
    assert out == ""
    assert SECRET not in err
    assert not (Path.cwd() / "canary").exists()
    events = log.read_text().splitlines()
    assert events
    outside = [event for event in events if "outside" in event or not event.startswith("open")]
    assert not outside, outside
    counted(FIGURE)


FORGED_TREES = {
    "a child that does not exist": ("left", 0, 2**30),
    "a child before its parent": ("left", 0, 0),
    "a feature beyond the input": ("feature", 0, 10**6),
    "rows of values that do not exist": ("row", slice(None), 2**30),
    "a root in the middle of a tree": ("roots", -1, 1),
    "a threshold that is NaN": ("threshold", 0, np.nan),
}


@pytest.mark.parametrize("title", FORGED_TREES)
def test_forged_trees(title, stranger, fork):
    """In an export, and among the models that a run kept; the whole folder is sealed anew."""
    array_name, place, forged_value = FORGED_TREES[title]
    forest = stranger / "run" / CANDIDATES / "forest"
    model = plain_models.read(forest)
    arrays = {name: array.copy() for name, array in model.arrays.items()}
    arrays[f"parts.0.{array_name}"][place] = forged_value
    plain_models.write(forest, replace(model, arrays=arrays))
    reseal(forest)
    run = stranger / "run"
    manifest_of_run = storage.read_checked_json(run / storage.MANIFEST)
    storage.seal(run, [run / name for name in manifest_of_run["files"]])
    case = fork("predict", stranger / "run", stranger / "new.npy", "--model", "forest")
    assert case.wait(60) in (12, 13, 14, 15)
    assert case.err.count("orca: error:") == 1
    assert "'parts.0." in case.err


def test_an_honest_export_reads_itself_and_the_input(made, fork, home, tiny, tmp_path):
    """The premise of the others: it works, and what it opens is its own, the input, or the installation."""
    log = tmp_path / "events"
    case = fork(
        "predict", made / "export", made / "new.npy", hook=f"tests.reliability.places:watch:{log}"
    )
    assert case.wait(60) == 0, case.err
    assert len(case.out.splitlines()) == 10
    events = log.read_text().splitlines()
    assert all(event.startswith("open") for event in events), events
    data = [event for event in events if str(made) in event and str(made / "export") not in event]
    assert data
    assert {event for event in data if "new.npy" not in event} == set()
    assert not [
        event for event in events if any(str(path) in event for path in (home, *tiny.values()))
    ]


@pytest.mark.parametrize("title", SAFETENSORS)
def test_hostile_weights(title, stranger, counted):
    (stranger / "export" / "model.safetensors").write_bytes(SAFETENSORS[title])
    reseal(stranger / "export")
    assert refusal(stranger) in (11, 12, 21, 30)
    counted(FIGURE)


def refusal(stranger: Path) -> int:
    with pytest.raises(OrcaError) as caught:
        open_model(stranger / "export")
    return caught.value.code


def test_every_flipped_bit_and_missing_file_is_found(stranger, scorecard):
    rng = np.random.default_rng(0)
    files = [path for path in sorted((stranger / "export").rglob("*")) if path.is_file()]
    files = [path for path in files if path.name != CARD]  # a person may edit it
    refused = 0
    for path in files:
        content = path.read_bytes()
        for _ in range(count(pr=1, nightly=10)):
            damages.flipped(path, int(rng.integers(len(content))), int(rng.integers(8)))
            assert refusal(stranger) in (12, 13, 21), path.name
            refused += 1
            path.write_bytes(content)
        path.unlink()
        assert refusal(stranger) in (11, 13), path.name
        path.write_bytes(content)
    open_model(stranger / "export")
    scorecard.add(
        "flipped bits in exports / detected", cases=refused, passed=refused, target=len(files) * 10
    )


def test_names_of_classes_command_neither_terminal_nor_spreadsheet(stranger, predict):
    folder, names = stranger / "export", ["\x1b[2J=1", "=cmd|' /C calc'!A0"]
    values = storage.read_checked_json(folder / "preprocessing.json")["values"]
    values["targets"] |= {"names": names, "classes": names}
    record(folder, "preprocessing.json", values=values)
    reseal(folder)
    code, out, err = predict()
    assert code == 0, err
    assert "\x1b" not in out + err
    cells = [cell for line in out.splitlines() for cell in line.split(",")]
    assert not [cell for cell in cells if cell.strip('"').startswith("=")]
