"""The protocols agree with their files, and the training settings with the published code."""

import ast
import functools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from orca_cli.config import compose
from orca_cli.config.configuration import config_dir
from orca_cli.config.schema import lookup
from orca_cli.data.samples import ArraySamples
from orca_cli.runs.settings import flat
from orca_cli.scoring.classification import MacroF1, ZeroOne
from orca_cli.scoring.multilabel import MeanAUROC, MeanAveragePrecision
from orca_cli.training.engine import Engine
from orca_cli.training.loop import predict, score

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "protocols.md").read_text()
BLOCKS = {
    path.stem: yaml.safe_load(path.read_text())["task"]
    for path in (config_dir() / "task").glob("*.yaml")
}
TASKS = sorted(task for task, node in BLOCKS.items() if "departures" in node)
NAMES = ["clean", "paper", "release"]
FAULTS = 63


def rows():
    """Return the cells of every row of the page's table of settings, by task."""
    lines = re.findall(r"^(\w+)  +(\S.*?)  +(\S.*)$", PAGE, flags=re.M)
    return {task: cells for task, *cells in lines if task in TASKS}


@pytest.fixture(scope="module")
def composed():
    """Return a function from a task, a body and a protocol to the composed job."""
    with compose.session() as session:
        yield functools.cache(
            lambda task, body, protocol: session.compose(
                [f"task={task}", f"body={body}", f"protocol={protocol}"]
            )
        )


@pytest.mark.parametrize("protocol", ["paper", "release"])
def test_a_run_is_given_what_the_files_say_of_its_protocol(composed, protocol):
    shared = yaml.safe_load((config_dir() / "protocol" / f"{protocol}.yaml").read_text())
    picked = {
        key.removeprefix("override /"): name
        for line in shared.pop("defaults")
        for key, name in line.items()
    }
    assert all(sorted(BLOCKS[task]["departures"]) == ["paper", "release"] for task in TASKS)
    for task in TASKS[:: len(TASKS) // 3] + ["ninapro"]:
        departures = BLOCKS[task]["departures"]
        changed = {
            key: value for key, value in departures[protocol].items() if key != "description"
        }
        job = composed(task, "bert", protocol)  # a body without its own settings
        settings = dict(flat({"task": changed}))
        if task == "ninapro":  # its own settings do not change the settings of all tasks
            settings |= dict(flat(shared))
            assert {
                key: name for key, name in picked.items() if key in job.choices
            }.items() <= job.choices.items()
        for key, value in settings.items():
            if isinstance(value, str) and value.startswith("${"):  # another setting's value
                value = lookup(job.config, value[2:-1])
            assert lookup(job.config, key) == value, (task, key)


def functions(path):
    return {
        node.name
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.FunctionDef)
    }


def test_every_fault_has_a_test_or_a_reason():
    faults = yaml.safe_load((ROOT / "docs" / "faults.yaml").read_text())
    assert list(faults) == [f"B{number}" for number in range(1, FAULTS + 1)]
    for number, fault in faults.items():
        assert fault["fault"], number
        assert bool(fault.get("tests")) != bool(fault.get("cannot_occur")), number
        for test in fault.get("tests", []):
            path, name = test.split("::")
            assert name in functions(path), (number, test)
    assert set(re.findall(r"\bB\d+\b", PAGE)) <= set(faults)


# Settings of the paper's code: task and body; optimizer, rate, weight decay, momentum; the same for stage 2, with its rate
# before the factor of ten; batch, accumulation, clip, epochs, end of the decay, samples per class.
CODE = """
cifar100  swin     sgd   1e-4 1e-3 .9 same        32 32 - 60  200 128
spherical swin     adamw 1e-4 5e-3 -  same        32 32 - 60  100 128
darcy     swin     adamw 1e-3 5e-3 -  same        4  1  - 100 100 128
psicov    swin     adam  5e-6 1e-5 -  same        4  32 - 10  100 64
cosmic    swin     adam  3e-4 1e-5 -  same        4  32 - 60  60  64
ninapro   swin     adam  1e-4 5e-5 -  same        32 1  - 100 100 128
fsd50k    swin     adam  1e-4 5e-5 -  same        32 1  - 100 100 128
ecg       roberta  adam  5e-4 1e-2 -  same        16 32 - 10  100 64
satellite roberta  adamw 3e-5 3e-6 -  same        32 4  - 60  60  64
deepsea   roberta  adamw 1e-4 1e-6 -  same        16 32 - 25  100 64
jsb       roberta  sgd   1e-2 0    .9 same        8  1  - 60  100 64
listops   roberta  adam  5e-6 0    -  same        8  1  - 60  60  64
homology  roberta  sgd   5e-3 1e-3 .9 sgd/1e-3/0  16 1  2 60  60  64
domainnet swin     adamw 1e-4 5e-3 -  same        32 32 - 60  100 128
"""
# Settings of the release: as above, but stage 2 has the settings of stage 3 and its own epochs; then the warm-up, and the
# tokens of a sequence. The release has no settings for jsb, listops and homology.
RELEASE = """
cifar100  swin    sgd   1e-4 1e-3 .9  32 32 - 60  60  200 5  128 -
spherical swin    adamw 1e-4 0.1  -   32 4  - 60  60  60  5  128 -
darcy     swin    adamw 1e-3 5e-3 -   4  1  - 100 60  100 5  128 -
psicov    swin    adam  5e-6 1e-5 -   1  32 - 10  60  100 5  64  -
cosmic    swin    adamw 1e-3 0    -   4  1  - 60  60  60  5  128 -
ninapro   swin    adam  1e-4 1e-5 -   32 1  1 60  100 60  5  128 -
fsd50k    swin    adam  1e-4 5e-5 -   32 1  - 100 60  100 5  128 -
ecg       roberta sgd   1e-6 0.1  .99 4  16 - 15  60  200 5  128 64
satellite roberta adamw 3e-5 3e-6 -   16 4  - 60  60  60  5  128 512
deepsea   roberta adam  1e-5 0    -   16 1  1 13  60  25  10 64  512
domainnet swin    adamw 1e-4 5e-3 -   32 32 - 60  60  100 5  128 -
"""


def table(text):
    return [line.split() for line in text.strip().splitlines()]


def number(text):
    return None if text == "-" else float(text)


def trained(config):
    """Return the settings of stage 3 in a table above, without epochs and rate."""
    train = config.train
    momentum = train.momentum if train.optimizer == "sgd" else None  # without effect elsewhere
    return (
        train.optimizer,
        train.weight_decay,
        momentum,
        train.batch_size,
        train.accumulation,
        train.clip or None,
    )


@pytest.mark.parametrize("row", table(CODE), ids=lambda row: row[0])
def test_what_the_paper_says_is_done_and_the_rest_is_as_in_its_code(composed, row):
    task, body, optimizer, lr, decay, momentum, second, *rest = row
    batch, accumulation, clip, epochs, end, most = map(number, rest)
    outcome = (
        optimizer,
        float(decay),
        number(momentum),
        batch,
        accumulation,
        clip,
    )  # of its search
    clean, paper, release = (composed(task, body, name).config for name in NAMES)
    assert trained(clean) == trained(paper) == outcome
    assert clean.train.lr == float(lr) * (
        accumulation if task == "cifar100" else 1
    )  # sgd: of a mean and not of a sum
    assert paper.train.lr == paper.align.lr == float(lr)
    assert paper.align.weight_decay == float(decay)
    assert (paper.train.epochs, paper.train.decay_epochs) == (100 if body == "swin" else 60, None)
    assert (paper.align.epochs, paper.align.decay_every, paper.align.decay_factor) == (60, 20, 0.2)
    assert (paper.train.warmup_epochs, paper.align.max_samples, paper.source["size"]) == (
        5,
        most,
        5000,
    )
    assert paper.embedder["max_tokens"] is None
    published = [clean] if task in {row[0] for row in table(RELEASE)} else [clean, release]
    for config in published:
        assert (config.train.epochs, config.train.decay_epochs or epochs) == (epochs, end)
    if release in published:  # has no own settings and uses the settings of the paper's code
        other = (optimizer, lr, decay) if second == "same" else second.split("/")
        assert (trained(release), release.train.lr) == (outcome, float(lr))
        assert (release.align.lr, release.align.weight_decay) == (
            pytest.approx(10 * float(other[1])),
            float(other[2]),
        )


def test_the_page_has_every_tasks_settings_of_training(composed):
    def step(train):
        rates = f"{train.lr:g}, {train.weight_decay:g}"
        return f"{train.optimizer} {rates}; {train.batch_size}x{train.accumulation}"

    def epochs(train):
        return f"{train.epochs}/{train.decay_epochs or train.epochs:g}"

    page = rows()
    assert sorted(page) == TASKS
    for task, body, *_ in table(CODE):
        clean, paper, release = (composed(task, body, name).config for name in NAMES)
        code = f"{step(paper.train)}; {epochs(clean.train)}"
        released = f"{step(release.train)}; {epochs(release.train)}"
        cells = [code, "the same" if released == code else released]
        assert page[task] == [cell.replace("e-0", "e-") for cell in cells]
        # The text above the table has the other settings.
        assert epochs(paper.train) == {"swin": "100/100", "roberta": "60/60"}[body]
        assert paper.align.lr == paper.train.lr
        rate = 0.01 if task == "homology" else 10 * release.train.lr
        assert release.align.lr == pytest.approx(rate)


@pytest.mark.parametrize("row", table(RELEASE), ids=lambda row: row[0])
def test_settings_of_training_are_those_of_the_release(composed, row):
    task, body, optimizer, lr, decay, momentum, *rest = row
    config = composed(task, body, "release").config
    batch, accumulation, clip, epochs, align_epochs, end, warmup, most, tokens = map(number, rest)
    assert trained(config) == (optimizer, float(decay), number(momentum), batch, accumulation, clip)
    rate = 10 * float(lr) if float(lr) <= 1e-3 else float(lr)
    assert (config.train.lr, config.align.lr) == (float(lr), pytest.approx(rate))
    train, align = config.train, config.align
    assert align.weight_decay == float(decay)
    assert (train.epochs, train.decay_epochs or train.epochs, train.warmup_epochs) == (
        epochs,
        end,
        warmup,
    )
    assert (align.max_samples, align.epochs, align.decay_every, align.decay_factor) == (
        most,
        align_epochs,
        20,
        0.2,
    )
    assert config.embedder["max_tokens"] == (
        None if tokens in (None, 512) else tokens
    )  # 512 is RoBERTa's own


def test_the_search_spaces_are_the_papers():
    for body, batches in (("swin", [32, 128, 512, 1024]), ("roberta", [16, 64, 256, 512])):
        space = yaml.safe_load((config_dir() / "space" / f"paper_{body}.yaml").read_text())
        size = space["fixed"]["train.batch_size"]
        assert [size * n for n in space["params"]["train.accumulation"]] == batches
        assert space["params"]["train.optimizer"] == ["sgd", "adam", "adamw"]
        powers = [pytest.approx(10.0**-k) for k in range(2, 7)]
        assert space["params"]["train.lr"] == space["params"]["train.weight_decay"] == powers
        assert space["fixed"]["train.epochs"] == {"swin": 100, "roberta": 60}[body]


class Same(torch.nn.Identity):
    def forward(self, x, valid=None):
        return x


@pytest.mark.parametrize(
    "error", [ZeroOne(), MacroF1(), MacroF1(by="records"), MeanAUROC(), MeanAveragePrecision()]
)
def test_errors_do_not_depend_on_how_they_are_evaluated(error):
    rng = np.random.default_rng(0)
    classes = isinstance(error, (ZeroOne, MacroF1))
    y = (
        np.repeat(rng.integers(0, 4, 15), 7)[:101]
        if classes
        else (rng.random((101, 4)) < 0.3).astype(np.float32)
    )
    samples = ArraySamples(
        rng.normal(size=(101, 4)).astype(np.float32), y, groups=np.arange(101) // 7
    )
    engine, values = Engine(torch.device("cpu"), "fp32"), []
    for size in (1, 10, 101):
        outputs, targets = predict(engine, Same(), samples, size)
        values.append(score(error, outputs, samples, targets))
    assert values[0] == values[1] == values[2]
    assert values[0].value is not None
