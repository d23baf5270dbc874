"""Row H11: somebody else's configuration or run folder runs no code, reads no secret, and writes nowhere else."""

import importlib
import json
import sys

import pytest

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
    "target_in_a_loss": MINE + "  loss:\n" + RUNS_IT,
    "target_nested_in_a_part_of_ours": MINE + NESTED + RUNS_IT,
    "secret_in_a_value": MINE.replace("own.npz", "${oc.env:TOKEN}"),
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
    "resolver_of_hydra": MINE.replace("own.npz", "${hydra:runtime.cwd}"),
    "runs_elsewhere": MINE + "paths:\n  runs: ../../x\n",
    "defaults_by_hparams": MINE + "  hparams: {clean: {minilm: {defaults: [/metric@hydra.callbacks: none]}}}\n",
    "target_by_hparams": MINE + "  hparams: {clean: {minilm: {metric: {_target_: canary_part.touch}}}}\n",
    "secret_by_hparams": MINE + "  hparams: {clean: {minilm: {body: {checkpoint: '${oc.env:TOKEN}'}}}}\n",
    "hydra_run_folder": HYDRA + "  run:\n    dir: ../../x\n",
    "hydra_environment": HYDRA + "  job:\n    env_set: {LD_PRELOAD: x}\n",
    "hydra_callback": HYDRA + "  callbacks:\n    mine:\n  " + RUNS_IT,
    "hydra_search_path": HYDRA + "  searchpath: [pkg://canary_part]\n",
    "hydra_by_defaults": "defaults:\n  - /metric@hydra.callbacks: none\n" + READER,
    "link_out_of_the_folder": f"task: {{password: {SECRET}\n",
    "python_object": "a: !!python/object/apply:os.system ['touch canary']\n",
}
# name -> (path in the folder, content, words that are typed behind --config-dir)
TOUCH = "_target_: canary_part.touch\n"
SWEEPER = "# @package _global_\nhydra:\n  sweeper:\n    _target_: canary_part.touch\n    params: {seed: '0,1'}\n"
HANDLER = "root:\n  handlers: [x]\nhandlers:\n  x:\n    (): canary_part.touch\n"
OTHERS = {
    "target_in_a_metric": ("metric/mine.yaml", TOUCH, ["metric=mine"]),
    "target_in_a_body": ("body/mine.yaml", f"# @package _global_\nbody:\n  {TOUCH}", ["body=mine"]),
    "paths_from_a_metric": ("metric/mine.yaml", "# @package paths\nruns: ../../x\n", ["metric=mine"]),
    "hydra_by_package": ("metric/mine.yaml", f"# @package hydra.callbacks.mine\n{TOUCH}", ["metric=mine"]),
    "hydra_in_a_study": ("study/mine.yaml", SWEEPER, ["-m", "study=mine"]),
    "launcher_of_ones_own": ("hydra/launcher/basic.yaml", TOUCH, ["-m"]),
    "logging_of_ones_own": ("hydra/job_logging/none.yaml", HANDLER, ["task=digits"]),
    "primary_configuration": ("config.yaml", "hydra:\n  callbacks:\n    mine:\n  " + RUNS_IT, ["task=digits"]),
    "name_of_the_programs_own": ("metric/otdd.yaml", TOUCH, ["metric=otdd"]),
    "folder_of_a_corpus": ("source/mine.yaml", CORPUS + "name: ../../..\nfiles: [passwd]\n", ["source=mine"]),
    "file_of_a_corpus": ("source/mine.yaml", CORPUS + "name: x\nfiles: [../../etc/passwd]\n", ["source=mine"]),
}
FOLDERS = {name: ("task/mine.yaml", content, ["task=mine"]) for name, content in TASKS.items()} | OTHERS


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
    importlib.import_module("canary_part")
    canary.unlink()  # the premise: importing it is seen, and so is calling
    sys.modules.pop("canary_part").touch(1, a=2)
    canary.unlink()
    return canary


@pytest.mark.parametrize("name", FOLDERS)
def test_folder_of_somebody_else(called, environment, hostile, tmp_path, counted, name):
    """H11: a folder of choices that does more than add choices."""
    path, content, words = FOLDERS[name]
    folder = tmp_path / "theirs"
    (folder / path).parent.mkdir(parents=True)
    place = tmp_path / "private.yaml" if name == "link_out_of_the_folder" else folder / path
    place.write_text(content)
    if place != folder / path:
        (folder / path).symlink_to(place)
    if name == "launcher_of_ones_own":
        (folder / "task").mkdir()
        (folder / "task" / "mine.yaml").write_text(MINE)
    before = {path for path in tmp_path.rglob("*") if "modules" not in path.parts}
    code, error, _ = called("--config-dir", folder, *words)
    passed = code in (10, 12) and not hostile.exists() and SECRET not in error and "\n" not in error
    counted(FIGURE, passed, code, error)
    assert {path for path in tmp_path.rglob("*") if "modules" not in path.parts} == before
    assert not environment.exists()


TYPED = [
    "hydra.run.dir=../../x",
    "hydra.searchpath=[file://theirs]",
    "hydra.callbacks.mine._target_=canary_part.touch",
    "+hydra.callbacks.mine._target_=canary_part.touch",
    "hydra.job.env_set.LD_PRELOAD=x",
    "task._target_=os.system",
    "body._target_=subprocess.Popen",
]


@pytest.mark.parametrize("word", TYPED)
def test_words_copied_from_somebody_else(called, environment, hostile, counted, word):
    """H11: what a command that is copied from a page may not do."""
    code, error, _ = called(word)
    counted(FIGURE, code in (10, 12) and not hostile.exists(), code, error)
    assert not environment.exists()


# words that read the environment, and the setting that shows what they read
READ = {
    "plainly": (["task.train=${oc.env:TOKEN}"], "train"),
    "by_a_name_elsewhere": (["task.validation=oc.env", "task.train='${${task.validation}:TOKEN}'"], "train"),
    "through_another_setting": (["task.train=${oc.env:TOKEN}", "task.test=${task.train}"], "test"),
    "selected": (["task.train='${oc.select:nothing,${oc.env:TOKEN}}'"], "train"),
}


@pytest.mark.parametrize("how", READ)
def test_what_is_typed_may_read_the_environment_and_its_name_is_stored_not_its_value(monkeypatch, how):
    """H11: config.yaml and overrides.txt of a run hold no value of the environment."""
    from orca_cli.config import compose

    words, shows = READ[how]
    monkeypatch.setenv("TOKEN", SECRET)
    with compose.session() as session:
        job = session.compose(["task=arrays", "task.kind=classes", "task.train=a.npz", *words])
    assert SECRET in job.config.task[shows]  # premise: it was read
    assert SECRET not in compose.to_yaml(job.stored)
    assert "${" in job.stored["task"][shows]
    assert SECRET not in json.dumps(job.overrides)
