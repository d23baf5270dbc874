"""Every task of the paper from files in its original format.

Whole runs on other bodies and on a GPU.
"""

from contextlib import closing

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from orca_cli.config import compose
from orca_cli.stages.build import build, read_task
from orca_cli.stages.optimizer_steps import OptimizerSteps
from orca_cli.terminal import LogReporter
from orca_cli.training.engine import Engine, choose_device
from tests import benchmark_files
from tests.checkpoints import save_tiny_roberta
from tests.cli.conftest import results

# Settings that make a run small, in addition to the small files. They do not change the data that are read.
SMALL = {
    "psicov": ["task.window=64", "task.num_validation=2", "train.batch_size=4"],
    "jsb": ["train.batch_size=4"],
    "spherical": ["task.validation_size=100", "align.classes_per_problem=0"],
    "cifar100": ["task.validation_size=100", "align.classes_per_problem=0"],
    "domainnet": ["task.validation_size=40"],
    "listops": ["task.origin=files"],
    "darcy": ["task.origin=files", "task.num_train=16", "task.num_validation=8", "task.num_test=6"],
}
# Windows of an electrocardiogram overlap so much that even a small file makes hundreds of them.
TASKS = [
    pytest.param(task, marks=pytest.mark.slow) if task == "ecg" else task
    for task in benchmark_files.TASKS
]
IMAGES = ("cifar100", "spherical", "darcy", "psicov", "cosmic", "ninapro", "fsd50k", "domainnet")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Return a function that writes a task's files once and returns the data folder."""
    folder = tmp_path_factory.mktemp("data")

    def make(task):
        if not (folder / task).exists():
            benchmark_files.make(task, folder)
        return folder

    return make


@pytest.fixture
def command(data, tiny):
    def words(task, *more):
        body = ["body=swin_tiny", f"body.checkpoint={tiny['swin']}", "source=digits"]
        if task not in IMAGES:
            body = ["body=minilm", f"body.checkpoint={tiny['long']}", "source=stdlib_docs"]
        return [
            f"task={task}", *body, f"paths.data={data(task)}", "source.size=160", "align.epochs=2",
            "align.source_points=150", "align.max_samples=8", "align.check_every=2",
            "align.pseudo_labels=3", "train.epochs=1", "train.warmup_epochs=0", "train.batch_size=8",
            "train.accumulation=1", "train.lr=1e-3", "train.decay_epochs=1", *SMALL.get(task, []), *more,
        ]  # fmt: skip

    return words


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_read_in_three_splits_and_trained(command, environment, task):
    with compose.session() as session:
        config, part = (
            session.compose(command(task, *more)).config
            for more in ((), ("task.train_fraction=0.5",))
        )
    built, half = build(config, LogReporter()), read_task(part, LogReporter())
    whole = built.task
    assert (
        len({split.digest() for split in (whole.train, whole.validation, whole.open_test())}) == 3
    )
    assert len(half.train) == max(1, round(0.5 * len(whole.train)))
    assert half.validation.digest() == whole.validation.digest()
    assert half.open_test().digest() == whole.open_test().digest()
    first = half.train.batch(np.arange(1))
    assert first.x.shape[1:] == whole.input_shape
    if task != "fsd50k":  # pieces of clips are drawn
        assert torch.equal(first.x, whole.train.batch(half.train.rows[:1]).x)
    before = [parameter.detach().clone() for parameter in built.model.parameters()]
    with closing(
        OptimizerSteps(built, Engine(choose_device("cpu"), "fp32"), built.learned, 0)
    ) as plan:
        plan.take(0)
    after = list(built.model.parameters())
    assert all(parameter.isfinite().all() for parameter in after)
    assert not all(torch.equal(*pair) for pair in zip(before, after, strict=True))


# In addition to metric=none: the sources of protocols other than clean need further files.
BESIDE_CLEAN = {"darcy": ["task.size=small"]}


# Each form of outputs once; the settings of protocols other than clean are compared in
# test_protocols.py.
RUNS = [
    ("psicov", "clean"),
    ("fsd50k", "clean"),
    ("homology", "clean"),
    ("jsb", "release"),
    ("darcy", "release"),
]
RUNS += [("ninapro", "paper")]


@pytest.mark.parametrize(("task", "protocol"), RUNS)
def test_has_the_settings_of_every_protocol(run, command, task, protocol):
    """From files in the original format."""
    more = [] if protocol == "clean" else ["metric=none", *BESIDE_CLEAN.get(task, [])]
    result = run(*command(task, f"protocol={protocol}", *more)).result
    assert result["error"]["value"] is not None
    assert result["test_reads"] == (2 if protocol == "release" else 1)
    if protocol == "clean":
        assert len({split["sha256"] for split in result["splits"].values()}) == 3
    else:
        assert result["selected"]["on"] == ("test" if protocol == "release" else "validation")


@pytest.mark.parametrize("causal", [True, False])
def test_no_frame_of_a_chorale_sees_the_future(data, tiny, tmp_path, monkeypatch, causal):
    """The model is causal: if later frames change, the output of a frame keeps its bits."""
    monkeypatch.setenv("ORCA_HOME", str(tmp_path))
    words = [
        "task=jsb",
        "body=minilm",
        f"body.checkpoint={tiny['long']}",
        f"paths.data={data('jsb')}",
        "metric=none",
    ]
    with compose.session() as session:
        job = session.compose([*words, f"task.causal={causal}", "train.batch_size=2"])
    built = build(job.config, LogReporter())
    model = built.model.eval()
    batch = built.task.validation.batch(np.arange(2))
    for frame in (0, 7, 28):
        changed = batch.x.clone()
        changed[:, :, frame + 1 :] = 1 - changed[:, :, frame + 1 :]
        with torch.no_grad():
            before = model(batch.x, batch.valid)[:, :, : frame + 1]
            after = model(changed, batch.valid)[:, :, : frame + 1]
        assert torch.equal(before, after) == causal, frame


NEWS = "A NN I-NP O\nB NN I-NP I-{}\nc NN I-NP O\n\n"


def test_the_first_example_is_aligned_and_trained_in_full(run, tmp_path):
    """The README's task=deepsea body=roberta, with the body's own source and small sizes."""
    data = tmp_path / "data"
    benchmark_files.make("deepsea", data)
    (data / "conll2003").mkdir()
    text = (
        "-DOCSTART- -X- -X- O\n\n"
        + "".join(NEWS.format(name) for name in ("PER", "LOC", "ORG", "MISC")) * 8
    )
    (data / "conll2003" / "eng.train").write_text(text)
    sizes = [
        "train.epochs=3",
        "train.accumulation=2",
        "train.warmup_epochs=1",
        "train.checkpoint_s=0",
    ]
    checkpoint = save_tiny_roberta(tmp_path / "roberta")
    example = [
        "task=deepsea",
        "body=roberta",
        f"body.checkpoint={checkpoint}",
        f"paths.data={data}",
        *sizes,
    ]
    with compose.session() as session:
        job = session.compose(example)
    done = run(*example)
    assert (done.result["source"], done.result["metric"]) == ("conll2003", job.choices["metric"])
    assert (done.result["finetune"], done.result["body"], done.result["protocol"]) == (
        "full",
        "roberta",
        "clean",
    )
    first = build(job.config, LogReporter()).model.embedder.state_dict()
    aligned = load_file(done.folder / "2_align" / "embedder.safetensors")
    moved = {name for name in first if not torch.equal(first[name], aligned[name])}
    assert {"convolution.weight", "positions"} <= moved
    assert done.result["metric_value"]["after"] < done.result["metric_value"]["before"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_on_a_gpu_agrees_with_the_one_on_the_cpu(orca, environment, small, precision):
    assert orca("run", *small, "device=cpu")[0] == 0
    code, _, err = orca("run", *small, "device=cuda", f"precision={precision}", "--force")
    assert code == 0, err
    cpu, gpu = results(environment)
    assert gpu["metric_value"]["before"] == pytest.approx(cpu["metric_value"]["before"], rel=1e-2)
    assert abs(gpu["error"]["value"] - cpu["error"]["value"]) < 0.2
