import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from orca_cli import storage
from orca_cli.exceptions import CheckpointError, NonFiniteError
from orca_cli.interfaces import Batch
from orca_cli.training import checkpoint
from orca_cli.training.checkpoint import weights_sha256 as sha256
from orca_cli.training.engine import Engine
from orca_cli.training.loop import predict, train_step
from orca_cli.training.schedule import BETAS, make_optimizer, step_decay, warmup_then_linear
from tests.properties import examples
from tests.scaled import Scaled


@given(steps=st.integers(1, 200), warmup=st.integers(0, 50), decay=st.integers(1, 150), peak=st.floats(1e-6, 10))
def test_rate_is_never_negative_nor_above_its_peak(steps, warmup, decay, peak):
    rates = [warmup_then_linear(s, peak=peak, warmup_steps=warmup, decay_steps=decay) for s in range(steps)]
    assert all(0 <= rate <= peak for rate in rates)
    assert rates[0] > 0
    assert all(rate == 0 for rate in rates[max(decay, warmup + 1) :])


def test_rate_rises_linearly_then_falls_linearly():
    rates = [warmup_then_linear(s, peak=1.0, warmup_steps=4, decay_steps=14) for s in range(15)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    decayed = [step_decay(s, start=1.0, every=20, factor=0.2) for s in (0, 19, 20, 39, 40)]
    assert decayed == pytest.approx([1, 1, 0.2, 0.2, 0.04])


class Pairs:
    """Samples of a regression, as interfaces.Samples."""

    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    y = torch.randn(12, 2, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def batch(self, indices, augment=None):
        chosen = torch.from_numpy(np.asarray(indices))
        return Batch(self.x[chosen], self.y[chosen])


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedder = nn.Linear(3, 5)
        self.body = nn.Sequential(nn.Linear(5, 5), nn.LayerNorm(5), nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 5)))
        self.predictor = nn.Linear(5, 2)

    def forward(self, x, valid=None):
        return self.predictor(self.body(self.embedder(x)))


def trainer(model, engine=None, name="adamw"):
    engine = engine or Engine(torch.device("cpu"), "fp32")
    optimizer = make_optimizer(name, model.parameters(), lr=0.1, weight_decay=0.0, momentum=0.9, betas=BETAS)
    return engine, engine.prepare(optimizer)


class Overflowing(nn.MSELoss):
    def forward(self, outputs, targets):
        outputs.register_hook(lambda gradient: gradient * torch.inf)
        return super().forward(outputs, targets)


def take(model, trained, steps, *, overflowing=(), count=12, batch_size=12, clip=1.0):
    """Take steps; the gradient of some of them overflows."""
    for step in steps:
        loss = Overflowing() if step in overflowing else nn.MSELoss()
        settings = {"batch_size": batch_size, "clip": clip, "seed": 0, "step": step}
        train_step(trained[0], model, trained[1], loss, Pairs(), np.arange(count), **settings)


def test_predict_keeps_the_order_of_the_split():
    engine, model, samples = Engine(torch.device("cpu"), "fp32"), Model(), Pairs()
    outputs, targets = predict(engine, model, samples, batch_size=5)
    torch.testing.assert_close(targets, samples.y)
    with torch.no_grad():
        torch.testing.assert_close(outputs, model(samples.x))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "scaled"])
def test_resumed_training_has_the_same_bits(tmp_path, name):
    """With fp16's scaler, scale and growth tracker are saved after growth, an overflow and half a growth interval."""
    engine, optimizer = (Scaled, "adamw") if name == "scaled" else (lambda: None, name)
    over = {"overflowing": [3] if name == "scaled" else []}
    straight = Model()
    take(straight, trainer(straight, engine(), optimizer), range(9), **over)

    first = Model()
    trained = trainer(first, engine(), optimizer)
    take(first, trained, range(5), **over)
    scaler = trained[0].scaler_state()
    if name == "scaled":
        assert scaler["scale"] == pytest.approx(1000 * 1.7 * 0.37)  # the premise: it has grown and fallen
        assert scaler["_growth_tracker"] == 1
    state = checkpoint.optimizer_tensors(trained[1])
    saved = checkpoint.Checkpoint(5, checkpoint.snapshot(first), state, records={"lines": [1]}, scaler=scaler)
    checkpoint.save(tmp_path, saved)

    saved = checkpoint.load_latest(tmp_path)
    assert (saved.records, saved.scaler) == ({"lines": [1]}, scaler)
    second = Model()
    second.load_state_dict(saved.weights)
    trained = trainer(second, engine(), optimizer)
    checkpoint.restore_optimizer(trained[1], saved.optimizer)
    trained[0].restore_scaler(saved.scaler)
    take(second, trained, range(5, 9), **over)
    assert sha256(second.state_dict()) == sha256(straight.state_dict())


def save(folder, *steps, without_manifest=False):
    for step in steps:
        checkpoint.save(folder, checkpoint.Checkpoint(step, {"w": torch.tensor([float(step)])}, {}))
        if without_manifest:
            (folder / f"step-{step:08}" / storage.MANIFEST).unlink()


def test_accumulation_does_not_change_the_step():
    whole, parts = Model(), Model()
    for model, size in ((whole, 11), (parts, 5)):  # 11: the last batch is smaller than the others
        take(model, trainer(model, name="sgd"), [0], count=11, batch_size=size, clip=0.05)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    save(tmp_path / "a", 1, 2, 3)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["step-00000002", "step-00000003"]
    newest = tmp_path / "a" / "step-00000003" / "model.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    assert checkpoint.load_latest(tmp_path / "a").step == 2
    # Damaged ones do not count among those that are kept.
    save(tmp_path / "b", 4)
    for step in (8, 9):
        save(tmp_path / "b", step, without_manifest=True)
        assert checkpoint.load_latest(tmp_path / "b").step == 4
    save(tmp_path / "b", 5)
    assert checkpoint.load_latest(tmp_path / "b").step == 5
    assert (tmp_path / "b" / "step-00000004").exists()
    save(tmp_path / "c", 1, without_manifest=True)
    for _ in range(2):  # a second call raises the same
        with pytest.raises(CheckpointError, match="no valid checkpoint found"):
            checkpoint.load_latest(tmp_path / "c")


@examples(20)
@given(st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=5))
def test_weights_hash_tells_all_values_apart(values):
    base = {"w": torch.tensor(values), "v": torch.zeros(2, dtype=torch.bfloat16)}
    same = {name: value.clone() for name, value in reversed(base.items())}
    assert sha256(base) == sha256(same)
    assert sha256(base) != sha256(base | {"w": base["w"].view(-1, 1)})


def test_an_overflow_is_left_out_but_not_for_ever_and_every_optimizer_begins_with_the_first_scale():
    """Members train one after the other; a run that resumes in a later one must meet the same scale."""
    model, engine = Model(), Scaled()
    begin = engine.scaler_state()
    take(model, trainer(model, engine), range(3), overflowing=[1])
    assert engine.scaler_state() != begin
    trained = trainer(model, engine)
    assert engine.scaler_state() == begin
    before = sha256(model.state_dict())
    with pytest.raises(NonFiniteError, match="gradient is"):
        take(model, trained, range(100), overflowing=range(100))
    assert sha256(model.state_dict()) == before
    with pytest.raises(CheckpointError, match="no gradient scale"):
        engine.restore_scaler({})
