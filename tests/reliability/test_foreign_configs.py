"""Row H11: somebody else's configuration or run folder runs no code, reads no secret, and writes nowhere else."""

import json
import os
import sys
from pathlib import Path

import pytest

from orca_cli.cli import main
from tests.reliability.test_configs import TASK

SECRET = "hunter2-c0rrect-h0rse"
FIGURE = "hostile configurations refused: nothing run, no secret shown"

READER = "task:\n  _target_: orca_cli.data.arrays.load\n  kind: classes\n  train: own.npz\n"
RUNS_IT = "    _target_: canary_part.touch\n"

MINE = TASK + READER
HYDRA = MINE + "hydra:\n"
CORPUS = "_target_: orca_cli.benchmarks.sources.conll.load\nsize: 9\n"
NESTED = "  error:\n    _target_: orca_cli.scoring.chunks.ChunkMean\n    size: 1\n    batch: 1\n    error:\n  "

# Every one would do harm where it is composed as Hydra and OmegaConf compose it. name -> the file task/mine.yaml
TASKS = {
    "target_is_a_system_call": "task:\n  _target_: os.system\n  command: touch canary\n",
    "target_is_eval": TASK + "task:\n  _target_: builtins.eval\n",
    "target_is_a_module_on_the_path": TASK + "task:\n  _target_: canary_part.touch\n",
    "target_through_a_module_of_ours": TASK
    + "task:\n  _target_: orca_cli.data.arrays.reader.np.save\n",
    "target_in_a_loss": MINE + "  loss:\n" + RUNS_IT,
    "target_in_an_error": MINE + "  error:\n" + RUNS_IT,
    "target_nested_in_a_part_of_ours": MINE + NESTED + RUNS_IT,
    "secret_in_a_value": MINE.replace("own.npz", "${oc.env:TOKEN}"),
    "secret_decoded": MINE.replace("own.npz", "${oc.decode:'${oc.env:TOKEN}'}"),
    "secret_behind_another_interpolation": MINE.replace("own.npz", "${task.kind}${oc.env:TOKEN}"),
    "secret_by_selection": MINE.replace("own.npz", "'${oc.select:nothing,${oc.env:TOKEN}}'"),
    "secret_in_what_is_made": MINE + "  data: '${oc.create:{homepage:${oc.env:TOKEN}}}'\n",
    **{
        f"secret_by_a_name_elsewhere_{where}": f"{TASK}{READER}  data:\n    origin: oc.env\n    half: env\n    {text}\n"
        for where, text in {
            "plainly": "homepage: '${${task.data.origin}:TOKEN}'",
            "in_half": "homepage: '${oc.${task.data.half}:TOKEN}'",
            "relative": "homepage: '${${.origin}:TOKEN}'",
            "over_two_lines": '"homepage": "${${task.data.origin}\\n:TOKEN}"',
            "behind_a_brace": "homepage: '${task.kind} } ${ ${task.data.origin}:TOKEN}'",
            "as_a_default": "homepage: '${${task.data.origin}:NOTHING,${${task.data.origin}:TOKEN}}'",
            "in_a_list": "homepage: [a, ['${${task.data.origin}:TOKEN}']]",
            "as_a_key": "'${${task.data.origin}:TOKEN}': a",
        }.items()
    },
    "secret_as_a_default": "defaults:\n  - override /body: ${oc.env:TOKEN}\n" + READER,
    "secret_in_a_key_that_is_unknown": MINE + "  nothing: ${oc.env:TOKEN}\n",
    "resolver_of_hydra": MINE.replace("own.npz", "${hydra:runtime.cwd}"),
    "runs_elsewhere": MINE + "paths:\n  runs: ../../x\n",
    "runs_elsewhere_by_hparams": MINE + "  hparams: {clean: {minilm: {paths: {runs: ../../x}}}}\n",
    "hydra_by_hparams": MINE + "  hparams: {clean: {minilm: {hydra: {run: {dir: ../../x}}}}}\n",
    "defaults_by_hparams": MINE
    + "  hparams: {clean: {minilm: {defaults: [/metric@hydra.callbacks: none]}}}\n",
    "target_by_hparams": MINE
    + "  hparams: {clean: {minilm: {metric: {_target_: canary_part.touch}}}}\n",
    "target_by_departures": MINE + "  departures: {clean: {loss: {_target_: canary_part.touch}}}\n",
    "secret_by_hparams": MINE
    + "  hparams: {clean: {minilm: {body: {checkpoint: '${oc.env:TOKEN}'}}}}\n",
    "cache_elsewhere": MINE + "paths:\n  cache: /\n",
    "hydra_run_folder": HYDRA + "  run:\n    dir: ../../x\n",
    "hydra_environment": HYDRA + "  job:\n    env_set: {LD_PRELOAD: x}\n",
    "hydra_callback": HYDRA + "  callbacks:\n    mine:\n  " + RUNS_IT,
    "hydra_search_path": HYDRA + "  searchpath: [pkg://canary_part]\n",
    "hydra_by_defaults": "defaults:\n  - /metric@hydra.callbacks: none\n" + READER,
    "python_object": "a: !!python/object/apply:os.system ['touch canary']\n",
    "python_name": TASK + "task:\n  x: !!python/name:os.system\n",
}
# name -> (path in the folder, content, words that are typed behind --config-dir)
OTHERS = {
    "target_in_a_metric": ("metric/mine.yaml", "_target_: canary_part.touch\n", ["metric=mine"]),
    "target_in_a_body": (
        "body/mine.yaml",
        "# @package _global_\nbody:\n  _target_: canary_part.touch\n",
        ["body=mine"],
    ),
    "paths_from_a_metric": (
        "metric/mine.yaml",
        "# @package paths\nruns: ../../x\n",
        ["metric=mine"],
    ),
    "hydra_by_package": (
        "metric/mine.yaml",
        "# @package hydra.callbacks.mine\n_target_: canary_part.touch\n",
        ["metric=mine"],
    ),
    "hydra_in_a_study": (
        "study/mine.yaml",
        "# @package _global_\nhydra:\n  sweeper:\n    _target_: canary_part.touch\n    params: {seed: '0,1'}\n",
        ["-m", "study=mine"],
    ),
    "launcher_of_ones_own": ("hydra/launcher/basic.yaml", "_target_: canary_part.touch\n", ["-m"]),
    "logging_of_ones_own": (
        "hydra/job_logging/none.yaml",
        "root:\n  handlers: [x]\nhandlers:\n  x:\n    (): canary_part.touch\n",
        ["task=digits"],
    ),
    "primary_configuration": (
        "config.yaml",
        "hydra:\n  callbacks:\n    mine:\n  " + RUNS_IT,
        ["task=digits"],
    ),
    "name_of_the_programs_own": (
        "metric/otdd.yaml",
        "_target_: canary_part.touch\n",
        ["metric=otdd"],
    ),
    "folder_of_a_corpus": (
        "source/mine.yaml",
        CORPUS + "name: ../../..\nfiles: [passwd]\n",
        ["source=mine"],
    ),
    "file_of_a_corpus": (
        "source/mine.yaml",
        CORPUS + "name: x\nfiles: [../../etc/passwd]\n",
        ["source=mine"],
    ),
}
FOLDERS = {
    name: ("task/mine.yaml", content, ["task=mine"]) for name, content in TASKS.items()
} | OTHERS


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A module on the path whose function leaves a canary, and a secret in the environment; returns the canary's path."""
    canary = tmp_path / "canary"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "canary_part.py").write_text(
        f"open({str(canary)!r}, 'w').close()\n\ndef touch(*_, **__):\n    open({str(canary)!r}, 'w').close()\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("TOKEN", SECRET)
    sys.modules.pop("canary_part", None)
    return canary


def test_the_payload_fires_where_it_is_run(hostile):
    """Premise: importing the module, or calling its function, is seen."""
    import canary_part

    assert hostile.exists()
    hostile.unlink()
    canary_part.touch(1, a=2)
    assert hostile.exists()


@pytest.mark.parametrize("name", FOLDERS)
def test_folder_of_somebody_else(called, environment, hostile, tmp_path, counted, name):
    """H11: a folder of choices that does more than add choices."""
    path, content, words = FOLDERS[name]
    folder = tmp_path / "theirs"
    (folder / path).parent.mkdir(parents=True)
    (folder / path).write_text(content)
    if name == "launcher_of_ones_own":
        (folder / "task").mkdir()
        (folder / "task" / "mine.yaml").write_text(MINE)
    before = {path for path in tmp_path.rglob("*") if "modules" not in path.parts}
    code, error, _ = called("--config-dir", folder, *words)
    passed = code in (10, 12) and not hostile.exists() and SECRET not in error and "\n" not in error
    counted(FIGURE, passed, f"{code} {error}")
    assert {path for path in tmp_path.rglob("*") if "modules" not in path.parts} == before
    assert not environment.exists()


def test_link_out_of_the_folder(called, tmp_path, counted):
    """H11: a choice that is a link to a private file; its content is not shown."""
    private = tmp_path / "private.yaml"
    private.write_text(f"task: {{password: {SECRET}\n")
    (tmp_path / "theirs" / "task").mkdir(parents=True)
    (tmp_path / "theirs" / "task" / "mine.yaml").symlink_to(private)
    code, error, _ = called("--config-dir", tmp_path / "theirs", "task=mine")
    passed = code == 12 and SECRET not in error
    counted(FIGURE, passed, f"{code} {error}")


TYPED = [
    "hydra.run.dir=../../x",
    "hydra.searchpath=[file://theirs]",
    "hydra.callbacks.mine._target_=canary_part.touch",
    "+hydra.callbacks.mine._target_=canary_part.touch",
    "hydra.job.env_set.LD_PRELOAD=x",
    "hydra.sweep.dir=../../x",
    "task._target_=os.system",
    "body._target_=subprocess.Popen",
]


@pytest.mark.parametrize("word", TYPED)
def test_words_copied_from_somebody_else(called, environment, hostile, counted, word):
    """H11: what a command that is copied from a page may not do."""
    code, error, _ = called(word)
    passed = code in (10, 12) and not hostile.exists()
    counted(FIGURE, passed, f"{code} {error}")
    assert not environment.exists()


READ = [
    "task.train=${oc.env:TOKEN}",
    "task.validation=oc.env task.train='${${task.validation}:TOKEN}'",
    "task.train='${seed}${oc.env:TOKEN}'",
    "task.train='${oc.select:nothing,${oc.env:TOKEN}}'",
]


@pytest.mark.parametrize("words", READ)
def test_what_is_typed_does_not_read_the_environment_either(
    called, environment, hostile, counted, words
):
    """H11: config.yaml and overrides.txt of a run hold no value of the environment."""
    code, error, _ = called("task=arrays", "task.kind=classes", *words.split())
    counted(FIGURE, code == 10 and SECRET not in error, f"{code} {error}")
    assert not environment.exists()


@pytest.mark.parametrize("content", ["../../../etc", "/etc", "~"])
def test_run_folder_of_somebody_else_is_read_only_as_json(
    environment, tmp_path, capfd, counted, content
):
    """H11: a run's records with paths and objects in them: report reads JSON, follows nothing, writes nothing."""
    run = environment / "digits" / "2026-01-01_00-00-00.000000_minilm_otdd_full_s0_00000000"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("a: !!python/object/apply:os.system ['touch canary']\n")
    record = {
        "schema": 1,
        "run_id": content,
        "state": "completed",
        "task": content,
        "body": content,
        "error": content,
    }
    for name in ("status.json", "result.json", "run.json"):
        (run / name).write_text(json.dumps(record | {"path": content}))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, err = main(["report"]), capfd.readouterr().err
    passed = code in (0, 3) and "Traceback" not in err and not Path("canary").exists()
    counted(FIGURE, passed, f"{code} {err}")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert os.listdir(environment) == ["digits"]
