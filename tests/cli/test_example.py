"""The example that the program is for, `orca run task=deepsea body=roberta`, on a small RoBERTa and small files."""

import pytest
import torch
import yaml
from safetensors.torch import load_file

from orca_cli.config import compose
from orca_cli.stages.build import build
from orca_cli.terminal import LogReporter
from tests import benchmark_files
from tests.checkpoints import save_tiny_roberta
from tests.cli.conftest import run_folders

NEWS = "A NN I-NP O\nB NN I-NP I-{}\nc NN I-NP O\n\n"


@pytest.fixture
def words(tmp_path):
    """The command, with nothing but sizes typed beside it; alignment has its own settings."""
    data = tmp_path / "data"
    benchmark_files.make("deepsea", data)
    (data / "conll2003").mkdir()
    text = "-DOCSTART- -X- -X- O\n\n" + "".join(NEWS.format(name) for name in ("PER", "LOC", "ORG", "MISC")) * 8
    (data / "conll2003" / "eng.train").write_text(text)
    sizes = ["train.epochs=3", "train.accumulation=2", "train.warmup_epochs=1", "train.checkpoint_s=0"]
    checkpoint = save_tiny_roberta(tmp_path / "roberta")
    return ["task=deepsea", "body=roberta", f"body.checkpoint={checkpoint}", f"paths.data={data}", *sizes]


def test_the_example_is_aligned_with_its_bodys_own_source_and_trained_in_full(words, run, orca, environment):
    with compose.session() as session:
        job = session.compose(words)
    done = run(*words)
    (folder,) = run_folders(environment)
    assert (done.result["source"], done.result["metric"]) == ("conll2003", job.choices["metric"])
    assert (done.result["finetune"], done.result["body"], done.result["protocol"]) == ("full", "roberta", "clean")
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["align"]["features"] == "tokens"
    assert (settings["source"]["size"], settings["train"]["lr"]) == (5000, 1e-4)
    assert all(done.result["seconds"][stage] > 0 for stage in ("build", "align", "finetune"))
    first = build(job.config, LogReporter()).model.embedder.state_dict()
    aligned = load_file(folder / "2_align" / "embedder.safetensors")
    moved = {name for name in first if not torch.equal(first[name], aligned[name])}
    assert {"convolution.weight", "positions"} <= moved
    assert done.result["metric_value"]["after"] < done.result["metric_value"]["before"]
    code, out, err = orca("report")
    assert code == 0, err
    assert "deepsea" in out
    assert "roberta" in out


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (
            ["task=deepsea", "body=roberta"],
            ["conll2003: no file eng.train or train.txt", "source=wnut17", "stdlib_docs"],
        ),
        (["task=spherical", "body=swin"], ["CIFAR-10 is not there", "orca data get cifar10", "source=digits"]),
    ],
)
def test_a_source_without_its_files_is_refused_before_anything_is_read(refused, tmp_path, words, texts, more):
    """Neither the task's files nor the body's are there, and what is missing first is said first."""
    refused(11, ["run", *more, *words, f"paths.data={tmp_path}"], "source.path=", *texts)
