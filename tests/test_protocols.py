"""The page of protocols says what the configuration does; the settings of training are those of the published code."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from orca_cli import compose
from orca_cli.commands.list import UNSET, departures, protocols, typed
from orca_cli.configuration import config_dir
from orca_cli.interfaces import Batch
from orca_cli.schema import GROUPS, lookup
from orca_cli.scoring.classification import MacroF1, ZeroOne
from orca_cli.scoring.multilabel import MeanAUROC, MeanAveragePrecision
from orca_cli.training.engine import Engine
from orca_cli.training.loop import predict, score

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "protocols.md").read_text()
TASKS = sorted(path.stem for path in (config_dir() / "departures" / "paper").glob("*.yaml"))
NAMES = ["clean", "paper", "release"]
FAULTS = 63


def rows():
    """Return the cells of every row of a table of the page, without the marks of code."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines]


def told():
    """Return (task, key) -> values, as the page has them; the task is empty for all tasks."""
    found = {}
    for cells in rows():
        if len(cells) == 5 and re.fullmatch(r"[a-z_.]+", cells[0]) and cells[0] != "setting":
            found["", cells[0]] = cells[1:4]
        if len(cells) == 6 and cells[0] in TASKS:
            found[cells[0], cells[1]] = cells[2:5]
    return found


@pytest.fixture(scope="module")
def session():
    with compose.session() as started:
        yield started


@pytest.fixture(scope="module")
def composed(session):
    """Return what a run of a task is given by a protocol, on a body that has no settings of its own."""
    known = {}

    def call(task, protocol):
        if (task, protocol) not in known:
            words = [f"task={task}", f"protocol={protocol}", "body=bert" if task != "digits" else "body=minilm"]
            known[task, protocol] = session.compose(words)
        return known[task, protocol]

    return call


def test_the_page_names_every_setting_that_a_protocol_changes():
    assert protocols() == NAMES
    expected = {(entry.task, entry.key): [typed(entry.values[name]) for name in NAMES] for entry in departures()}
    assert told() == expected


def test_every_file_of_the_protocols_is_on_the_page():
    """Without the code that makes the list: keys as they stand in the files."""

    def keys(value, prefix=""):
        for key, entry in value.items():
            if isinstance(entry, dict):
                yield from keys(entry, f"{prefix}{key}.")
            elif key != "_target_":
                yield prefix + key

    for path in [*(config_dir() / "departures").rglob("*.yaml"), *(config_dir() / "protocol").glob("*.yaml")]:
        content = yaml.safe_load(path.read_text())
        content.pop("defaults", None)
        task = path.stem if path.parent.parent.name == "departures" else ""
        for key in keys(content):
            same = key in ("protocol", "align.decay_every", "align.decay_factor")  # as everywhere
            assert same or (task, key) in told(), path


@pytest.mark.parametrize("protocol", NAMES)
def test_the_page_says_what_a_run_is_given(composed, protocol):
    place = NAMES.index(protocol)
    for (task, key), values in told().items():
        job = composed(task or "ninapro", protocol)  # digits has settings of its own
        if key in GROUPS:
            assert job.choices[key] == values[place]
            continue
        if values[place] == UNSET:
            continue
        found = lookup(job.config, key)
        if isinstance(found, dict):
            found = found["_target_"].rpartition(".")[2]
        assert typed(found) == values[place], (task, key)


def test_every_task_of_the_paper_has_departures_of_both_kinds():
    for protocol in ("paper", "release"):
        assert sorted(path.stem for path in (config_dir() / "departures" / protocol).glob("*.yaml")) == TASKS
    assert len(TASKS) == 14


def functions(path):
    return {node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_fault_has_a_test_that_there_is_or_a_reason():
    faults = {int(cells[0][1:]): cells[1:] for cells in rows() if re.fullmatch(r"B\d+", cells[0])}
    assert list(faults) == list(range(1, FAULTS + 1))
    for number, (_, here) in faults.items():
        named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", here)
        assert named or here.startswith("Cannot occur: "), number
        for path, name in named:
            assert name in functions(path), (number, path, name)
    mentioned = {int(number) for number in re.findall(r"\(?B(\d+)[,)]", PAGE)}
    assert mentioned <= set(faults)


# Settings of the paper's code: task and body; optimizer, rate, weight decay, momentum; the same of stage 2, whose rate is
# before its factor of ten; batch, accumulation, clip, epochs, end of the decay, samples a class.
PAPER = """
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
# Settings of the release: as above, but stage 2 has those of stage 3 and epochs of its own; then the warm-up, and the
# tokens of a sequence. It has none for jsb, listops and homology.
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


def held(session, protocol, task, body):
    config = session.compose([f"task={task}", f"body={body}", f"protocol={protocol}"]).config
    assert (config.align.decay_every, config.align.decay_factor) == (20, 0.2)
    return config


def stage(settings):
    momentum = settings.momentum if settings.optimizer == "sgd" else None  # without effect elsewhere
    return settings.optimizer, settings.lr, settings.weight_decay, momentum


@pytest.mark.parametrize("row", table(PAPER), ids=lambda row: row[0])
def test_settings_of_training_are_those_of_the_papers_code(session, row):
    task, body, optimizer, lr, decay, momentum, second, *rest = row
    config = held(session, "paper", task, body)
    batch, accumulation, clip, epochs, end, most = map(number, rest)
    assert stage(config.train) == (optimizer, float(lr), float(decay), number(momentum))
    other = (optimizer, lr, decay) if second == "same" else second.split("/")
    assert other[0] == optimizer  # stage 2 has that of stage 3 in this protocol (`practices.Practice`)
    assert (config.align.lr, config.align.weight_decay) == (pytest.approx(10 * float(other[1])), float(other[2]))
    train = config.train
    assert (train.batch_size, train.accumulation, train.clip or None, train.epochs) == (
        batch,
        accumulation,
        clip,
        epochs,
    )
    assert (train.decay_epochs or train.epochs, train.warmup_epochs) == (end, 5)
    assert (config.align.max_samples, config.align.epochs) == (most, 60)
    assert config.embedder["max_tokens"] is None


@pytest.mark.parametrize("row", table(RELEASE), ids=lambda row: row[0])
def test_settings_of_training_are_those_of_the_release(session, row):
    task, body, optimizer, lr, decay, momentum, *rest = row
    config = held(session, "release", task, body)
    batch, accumulation, clip, epochs, align_epochs, end, warmup, most, tokens = map(number, rest)
    assert stage(config.train) == (optimizer, float(lr), float(decay), number(momentum))
    rate = 10 * float(lr) if float(lr) <= 1e-3 else float(lr)
    assert (config.align.lr, config.align.weight_decay) == (pytest.approx(rate), float(decay))
    train = config.train
    assert (train.batch_size, train.accumulation, train.clip or None, train.epochs) == (
        batch,
        accumulation,
        clip,
        epochs,
    )
    assert (train.decay_epochs or train.epochs, train.warmup_epochs) == (end, warmup)
    assert (config.align.max_samples, config.align.epochs) == (most, align_epochs)
    assert config.embedder["max_tokens"] == (None if tokens in (None, 512) else tokens)  # 512 is RoBERTa's own


def test_what_the_release_lacks_is_the_papers_code(session):
    paper, release = ({row[0] for row in table(text)} for text in (PAPER, RELEASE))
    assert paper == set(TASKS)
    for task in paper - release:
        configs = [session.compose([f"task={task}", "body=roberta", f"protocol={name}"]).config for name in NAMES[1:]]
        for key in ("optimizer", "lr", "weight_decay", "momentum", "epochs"):
            assert getattr(configs[0].train, key) == getattr(configs[1].train, key)
        for key in ("lr", "weight_decay", "epochs"):
            assert getattr(configs[0].align, key) == getattr(configs[1].align, key)
        assert configs[0].align.max_samples == configs[1].align.max_samples


def test_the_search_spaces_are_the_papers():
    for body, batches in (("swin", [32, 128, 512, 1024]), ("roberta", [16, 64, 256, 512])):
        space = yaml.safe_load((config_dir() / "space" / f"paper_{body}.yaml").read_text())
        size = space["fixed"]["train.batch_size"]
        assert [size * n for n in space["params"]["train.accumulation"]] == batches
        assert space["params"]["train.optimizer"] == ["sgd", "adam", "adamw"]
        powers = [pytest.approx(10.0**-k) for k in range(2, 7)]
        assert space["params"]["train.lr"] == space["params"]["train.weight_decay"] == powers
        assert (space["algorithm"], space["baseline"]) == ("asha", {"metric": "none"})
        assert space["fixed"]["train.epochs"] == {"swin": 100, "roberta": 60}[body]


class Split:
    """Samples with outputs for inputs."""

    def __init__(self, y):
        self.y = y
        self.x = torch.randn(len(y), 4, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.y)

    def batch(self, indices, augment=None):
        return Batch(self.x[indices], self.y[indices])

    def groups(self):
        return np.arange(len(self)) // 7


class Same(torch.nn.Module):
    def forward(self, x, valid=None):
        return x


@pytest.mark.parametrize("error", [ZeroOne(), MacroF1(), MacroF1(by="records"), MeanAUROC(), MeanAveragePrecision()])
def test_errors_do_not_depend_on_how_they_are_evaluated(error):
    rng = np.random.default_rng(0)
    classes = isinstance(error, (ZeroOne, MacroF1))
    y = torch.from_numpy(np.repeat(rng.integers(0, 4, 15), 7)[:101]) if classes else (torch.rand(101, 4) < 0.3).float()
    samples, engine = Split(y), Engine(torch.device("cpu"), "fp32")
    values = []
    for size in (1, 10, 101):
        outputs, targets = predict(engine, Same(), samples, size)
        values.append(score(error, outputs, samples, targets))
    assert values[0] == values[1] == values[2]
    assert values[0].value is not None


@pytest.mark.parametrize(
    ("words", "source"),
    [
        ("task=deepsea", "stdlib_docs"),
        ("task=deepsea protocol=paper", "conll2003"),
        ("task=deepsea protocol=paper source=stdlib_docs", "stdlib_docs"),
        ("task=deepsea protocol=paper source.size=100", "conll2003"),
        ("task=deepsea protocol=release", "stdlib_docs"),
        ("task=deepsea protocol=paper body=swin", "cifar10"),
        ("task=cosmic protocol=paper", "cifar10"),
    ],
)
def test_the_source_is_the_papers_unless_one_is_typed(session, words, source):
    job = session.compose(words.split())
    assert job.choices["source"] == source
    if "source.size" in words:
        assert job.config.source["size"] == 100
