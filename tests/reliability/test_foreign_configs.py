"""Row H11: somebody else's configuration or run folder runs no code, reads no secret, and writes nowhere else."""

import difflib
import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import orca_cli
from orca_cli.cli import main
from orca_cli.config import parts
from orca_cli.config.setting_checks import PARTS
from orca_cli.exceptions import ConfigError, UnsafeError
from tests.reliability.test_configs import TASK

SECRET = "hunter2-c0rrect-h0rse"
FIGURE = "hostile configurations refused: nothing run, no secret shown"
NAMES = "names of code that a place of the configuration does not admit / refused, nothing imported"

READER = "task:\n  _target_: orca_cli.data.arrays.load\n  kind: classes\n  train: own.npz\n"
RUNS_IT = "    _target_: canary_part.touch\n"

MINE = TASK + READER
# Functions that do what their arguments say, of the program and of torch.
PIP = "{_target_: orca_cli.models.checkpoints.wheels._fetch, requirement: ./theirs/evil, folder: x, checkpoint: x}"
IMPORTER = (
    "{_target_: torch.nn.attention._fa3.register_flash_attention_fa3, module_path: canary_part}"
)
CHUNKS = "_target_: orca_cli.scoring.reported.ChunkMean"
HYDRA = MINE + "hydra:\n"
CORPUS = "_target_: orca_cli.benchmarks.sources.conll.load\nsize: 9\n"
NESTED = "  error:\n    _target_: orca_cli.scoring.reported.ChunkMean\n    size: 1\n    batch: 1\n    error:\n  "

# Every one would do harm where it is composed as Hydra and OmegaConf compose it. name -> the file task/mine.yaml
TASKS = {
    "target_is_a_system_call": "task:\n  _target_: os.system\n  command: touch canary\n",
    "target_is_eval": TASK + "task:\n  _target_: builtins.eval\n",
    "target_is_a_module_on_the_path": TASK + "task:\n  _target_: canary_part.touch\n",
    "target_through_a_module_of_ours": TASK + "task:\n  _target_: orca_cli.data.arrays.reader.np.save\n",
    "target_in_a_loss": MINE + "  loss:\n" + RUNS_IT,
    "target_in_an_error": MINE + "  error:\n" + RUNS_IT,
    "target_nested_in_a_part_of_ours": MINE + NESTED + RUNS_IT,
    "pip_by_a_loss": f"{MINE}  loss: {PIP}\n",
    "pip_by_an_error": f"{MINE}  error: {PIP}\n",
    "pip_by_a_reader": f"{TASK}task: {PIP}\n",
    "pip_within_a_reader": f"{MINE}  validation: {PIP}\n",
    "pip_within_an_error": f"{MINE}  error: {{{CHUNKS}, error: {PIP}}}\n",
    "pip_by_departures": f"{MINE}  departures: {{clean: {{loss: {PIP}}}}}\n",
    "pip_by_hparams": f"{MINE}  hparams: {{clean: {{minilm: {{metric: {PIP}}}}}}}\n",
    "importer_by_a_loss": f"{MINE}  loss: {IMPORTER}\n",
    "importer_within_a_loss": f"{MINE}  loss: {{_target_: torch.nn.BCELoss, weight: {IMPORTER}}}\n",
    "importer_within_a_metric": f"{MINE}  hparams: {{clean: {{minilm: {{metric: {{a: {IMPORTER}}}}}}}}}\n",
    "metric_as_a_loss": f"{MINE}  loss: {{_target_: orca_cli.metrics.mmd.MMD}}\n",
    "reader_within_an_error": f"{MINE}  error: {{{CHUNKS}, error: {{_target_: orca_cli.data.table.load}}}}\n",
    "chunks_within_chunks": f"{MINE}  error: {{{CHUNKS}, error: {{{CHUNKS}, error: {{{CHUNKS}}}}}}}\n",
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
    "defaults_by_hparams": MINE + "  hparams: {clean: {minilm: {defaults: [/metric@hydra.callbacks: none]}}}\n",
    "target_by_hparams": MINE + "  hparams: {clean: {minilm: {metric: {_target_: canary_part.touch}}}}\n",
    "target_by_departures": MINE + "  departures: {clean: {loss: {_target_: canary_part.touch}}}\n",
    "secret_by_hparams": MINE + "  hparams: {clean: {minilm: {body: {checkpoint: '${oc.env:TOKEN}'}}}}\n",
    "cache_elsewhere": MINE + "paths:\n  cache: /\n",
    "hydra_run_folder": HYDRA + "  run:\n    dir: ../../x\n",
    "hydra_environment": HYDRA + "  job:\n    env_set: {LD_PRELOAD: x}\n",
    "hydra_callback": HYDRA + "  callbacks:\n    mine:\n  " + RUNS_IT,
    "hydra_search_path": HYDRA + "  searchpath: [pkg://canary_part]\n",
    "hydra_by_defaults": "defaults:\n  - /metric@hydra.callbacks: none\n" + READER,
    "python_object": "a: !!python/object/apply:os.system ['touch canary']\n",
    "python_name": TASK + "task:\n  x: !!python/name:os.system\n",
}  # fmt: skip
# name -> (path in the folder, content, words that are typed behind --config-dir)
OTHERS = {
    "target_in_a_metric": ("metric/mine.yaml", "_target_: canary_part.touch\n", ["metric=mine"]),
    "target_in_a_body": (
        "body/mine.yaml",
        "# @package _global_\nbody:\n  _target_: canary_part.touch\n",
        ["body=mine"],
    ),
    "paths_from_a_metric": ("metric/mine.yaml", "# @package paths\nruns: ../../x\n", ["metric=mine"]),
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
    "primary_configuration": ("config.yaml", "hydra:\n  callbacks:\n    mine:\n  " + RUNS_IT, ["task=digits"]),
    "name_of_the_programs_own": ("metric/otdd.yaml", "_target_: canary_part.touch\n", ["metric=otdd"]),
    "folder_of_a_corpus": ("source/mine.yaml", CORPUS + "name: ../../..\nfiles: [passwd]\n", ["source=mine"]),
    "file_of_a_corpus": ("source/mine.yaml", CORPUS + "name: x\nfiles: [../../etc/passwd]\n", ["source=mine"]),
}  # fmt: skip
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
    "hydra.run.dir=../../x", "hydra.searchpath=[file://theirs]",
    "hydra.callbacks.mine._target_=canary_part.touch",
    "+hydra.callbacks.mine._target_=canary_part.touch", "hydra.job.env_set.LD_PRELOAD=x",
    "hydra.sweep.dir=../../x", "task._target_=os.system", "body._target_=subprocess.Popen",
    "task.loss={_target_:torch.hub.load,repo_or_dir:theirs,source:local,model:touch}",
    "+embedder.more={_target_:canary_part.touch}",
    "+tracker={_target_:orca_cli.exceptions.need,module:canary_part,where:x}",
]  # fmt: skip


@pytest.mark.parametrize("word", TYPED)
def test_words_copied_from_somebody_else(called, environment, hostile, counted, word):
    """H11: what a command that is copied from a page may not do."""
    code, error, _ = called(word)
    passed = code in (10, 12) and not hostile.exists()
    counted(FIGURE, passed, f"{code} {error}")
    assert not environment.exists()


PLACES = [*PARTS, "task.loss", "task.error", "task.error.error", "preprocessing"]
# No part of the program takes a node there.
ARGUMENTS = ["task.train", "task.loss.weight", "task.error.error.error", "embedder.init", "nothing"]
# Of Python and torch: what runs, imports, loads or removes; private names, submodules, attributes of attributes.
FOREIGN = [
    *("os.system", "os.popen", "os.execv", "os.remove", "posix.system", "subprocess.Popen"),
    *("subprocess.run", "builtins.eval", "builtins.exec", "builtins.open", "builtins.__import__"),
    *("importlib.import_module", "importlib.util.find_spec", "importlib._bootstrap._gcd_import"),
    *("runpy.run_path", "pickle.load", "shutil.rmtree", "code.interact", "pydoc.locate"),
    *("torch.load", "torch.hub.load", "torch.jit.load", "torch.ops.load_library", "torch.compile"),
    *("torch.classes.load_library", "torch.utils.cpp_extension.load", "torch.package.PackageImporter"),
    *("torch.nn.attention._fa3.register_flash_attention_fa3", "torch.nn.attention._fa4._fa4_import"),
    *("torch.nn.Module", "torch.nn.Linear", "torch.nn.TripletMarginWithDistanceLoss"),
    *("torch.nn.functional.mse_loss", "torch.nn.modules.loss.L1Loss", "torch.nn._reduction.warnings"),
    *("torch.nn.L1Loss.__init__", "torch.nn.Module.__init__.__globals__", "torch.nn.L1Loss.forward"),
    *("torch.optim.SGD", "torch.optim.lr_scheduler.LambdaLR", "torch.nn.parallel.comm.torch.load"),
    *("orca_cli.metrics.otdd.torch.load", "orca_cli.storage.folders.shutil.rmtree"),
    *("orca_cli.data.arrays.load.__globals__", "orca_cli.scoring.losses.nn.L1Loss", "canary_part.touch"),
    *("transformers.pipeline", "numpy.load", "yaml.unsafe_load", "hydra.utils.instantiate"),
    *("orca_cli", "eval", "", ".", "orca_cli.", ".system", "torch.nn.L1Loss ", "torch/nn/L1Loss"),
]  # fmt: skip


def reached(name, place):
    """Return whether a place takes a name: only a refusal because of the name, before any import, says that it does not."""
    try:
        parts.build({"_target_": name, "module": "canary_part", "command": "touch canary"}, place)
    except UnsafeError:
        return False
    except ConfigError as error:
        return "must be the dotted name" not in error.what
    return True


@pytest.fixture
def no_import(monkeypatch):
    """What is not imported cannot be called. Closest names are not looked for, which would take most of the time."""

    def refused(name, package=None):
        raise AssertionError(f"{name} is imported")

    monkeypatch.setattr(importlib, "import_module", refused)
    monkeypatch.setattr(difflib, "get_close_matches", lambda *_, **__: [])


@pytest.mark.parametrize("place", [*PLACES, *ARGUMENTS])
def test_names_of_python_and_torch(place, no_import, counted):
    """H11: code that is installed on every machine, at every place that takes a name."""
    taken = [name for name in FOREIGN if reached(name, place)]
    counted(NAMES, not taken, taken, cases=len(FOREIGN), target=len(FOREIGN))


@pytest.fixture(scope="module")
def callables():
    """Return the dotted names of all functions and classes of the program, private ones and methods too."""
    names = set()
    for module in pkgutil.walk_packages(orca_cli.__path__, "orca_cli."):
        if module.name == "orca_cli.__main__":
            continue
        for name, part in vars(importlib.import_module(module.name)).items():
            if callable(part) and getattr(part, "__module__", "") == module.name:
                names.add(f"{module.name}.{name}")
                if inspect.isclass(part):
                    methods = [word for word, value in vars(part).items() if callable(value)]
                    names |= {f"{module.name}.{name}.{word}" for word in methods}
    return sorted(names)


@pytest.mark.parametrize("place", [*PLACES, *ARGUMENTS])
def test_callables_of_the_program(place, callables, no_import, counted):
    """H11: a place takes no function or class of the program but those that it admits."""
    others = [name for name in callables if name not in parts.admitted(place)]
    assert len(others) > 1000
    taken = [name for name in others if reached(name, place)]
    counted(NAMES, not taken, taken, cases=len(others), target=len(others))


@pytest.fixture
def theirs(hostile, tmp_path, environment):
    """A folder of choices with a folder that pip would build, whose build leaves the canary; and data for the task."""
    evil = tmp_path / "theirs" / "evil"
    evil.mkdir(parents=True)
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (evil / "pyproject.toml").write_text(system + '[project]\nname = "evil"\nversion = "1"\n')
    (evil / "backend.py").write_text(f"open({str(hostile)!r}, 'w').close()\n")
    y = np.arange(30) % 2
    np.savez(tmp_path / "own.npz", x=np.random.default_rng(0).normal(size=(30, 2, 9)), y=y)
    return tmp_path / "theirs"


def test_pip_and_torch_run_what_they_are_given(theirs, hostile):
    """Premise: building the folder is seen, and so is an import by torch's importer."""
    words = ["download", "--no-deps", "--no-index", "--dest=out", "theirs/evil"]
    subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, check=False)
    assert hostile.exists()
    hostile.unlink()
    importer = pytest.importorskip("torch.nn.attention._fa3")
    with pytest.raises(RuntimeError, match="canary_part"):
        importer.register_flash_attention_fa3(module_path="canary_part")
    assert hostile.exists()


LOSSES = {"pip": PIP, "importer": IMPORTER}
# Every command that composes settings; {} stands for the words that choose the task.
COMMANDS = [
    "run {}", "run --dry-run {}", "run -m {} seed=0,1", "run -m --dry-run {} seed=0,1",
    "run -m --config-dir theirs study=mine", "run -m --dry-run --config-dir theirs study=mine",
    "tune {} trials=2", "data check --config-dir theirs mine",
]  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_code_in_a_loss(command, loss, orca, theirs, hostile, counted):
    """H11: with the part itself, not a substitute; nothing is built, imported or written."""
    (theirs / "task").mkdir()
    (theirs / "task" / "mine.yaml").write_text(f"{MINE}  loss: {LOSSES[loss]}\n")
    (theirs / "study").mkdir()
    (theirs / "study" / "mine.yaml").write_text("common: [task=mine]\naxes: {seed: [0, 1]}\n")
    code, out, error = orca(*command.format("--config-dir theirs task=mine").split())
    lines = [line for line in error.splitlines() if line.startswith("orca: error: ")]
    passed = code == 12 and len(lines) == 1 and not hostile.exists()
    counted(FIGURE, passed, f"{code} {error}")
    assert not Path("runs").exists()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_call_from_python_refuses_code_in_a_loss(loss, theirs, hostile, counted):
    """H11: `orca_cli.run` composes as the command line does."""
    (theirs / "task").mkdir()
    (theirs / "task" / "mine.yaml").write_text(f"{MINE}  loss: {LOSSES[loss]}\n")
    with pytest.raises(UnsafeError, match=r"task\.loss\._target_"):
        orca_cli.run("task=mine", config_dir=theirs)
    counted(FIGURE, not hostile.exists())


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
        "schema": 1, "run_id": content, "state": "completed", "task": content, "body": content,
        "error": content,
    }  # fmt: skip
    for name in ("status.json", "result.json", "run.json"):
        (run / name).write_text(json.dumps(record | {"path": content}))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, err = main(["report"]), capfd.readouterr().err
    passed = code in (0, 3) and "Traceback" not in err and not Path("canary").exists()
    counted(FIGURE, passed, f"{code} {err}")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert os.listdir(environment) == ["digits"]
