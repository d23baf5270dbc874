import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from orca_cli import storage
from orca_cli.exceptions import CheckpointError, NonFiniteError, UnavailableError
from orca_cli.interfaces import Batch
from orca_cli.schema import Train
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine, choose_device
from orca_cli.training.loop import predict, train_step
from orca_cli.training.schedule import make_optimizer, set_lr, step_decay, warmup_then_linear
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


def test_step_decay_is_the_papers():
    assert [step_decay(s, start=1.0, every=20, factor=0.2) for s in (0, 19, 20, 39, 40)] == pytest.approx(
        [1, 1, 0.2, 0.2, 0.04]
    )


class Pairs:
    """Samples of a regression, as interfaces.Samples."""

    def __init__(self, n=12):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(n, 3, generator=generator)
        self.y = torch.randn(n, 2, generator=generator)

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


SETTINGS = {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.9, "betas": (0.9, 0.98)}


@pytest.mark.parametrize("batch_size", [1, 4, 5, 12])
def test_accumulation_does_not_change_the_step(batch_size):
    def stepped(size):
        model = Model()
        engine = Engine(torch.device("cpu"), "fp32")
        optimizer = engine.prepare(make_optimizer(Train(optimizer="sgd", **SETTINGS), model.parameters()))
        order = np.arange(11)  # 11: the last batch is smaller than the others
        train_step(engine, model, optimizer, nn.MSELoss(), Pairs(), order, batch_size=size, clip=0.05, seed=0, step=0)
        return checkpoint.snapshot(model)

    whole, parts = stepped(11), stepped(batch_size)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6)


def test_non_finite_loss_leaves_the_weights_alone():
    model = Model()
    engine = Engine(torch.device("cpu"), "fp32")
    optimizer = make_optimizer(Train(optimizer="adamw", **SETTINGS), model.parameters())
    samples = Pairs()
    samples.x[3] = float("inf")
    before = checkpoint.weights_sha256(checkpoint.snapshot(model))
    with pytest.raises(NonFiniteError, match="step 7"):
        train_step(
            engine, model, optimizer, nn.MSELoss(), samples, np.arange(12), batch_size=4, clip=None, seed=0, step=7
        )
    assert checkpoint.weights_sha256(checkpoint.snapshot(model)) == before


def test_predict_keeps_the_order_of_the_split():
    engine, model, samples = Engine(torch.device("cpu"), "fp32"), Model(), Pairs()
    outputs, targets = predict(engine, model, samples, batch_size=5)
    torch.testing.assert_close(targets, samples.y)
    with torch.no_grad():
        torch.testing.assert_close(outputs, model(samples.x))


def trained(model, optimizer, steps):
    samples = Pairs()
    for step in steps:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(samples.x), samples.y * (step + 1)).backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_resumed_training_has_the_same_bits(tmp_path, name):
    straight = Model()
    trained(straight, make_optimizer(Train(optimizer=name, **SETTINGS), straight.parameters()), range(6))

    first = Model()
    optimizer = make_optimizer(Train(optimizer=name, **SETTINGS), first.parameters())
    trained(first, optimizer, range(3))
    state = checkpoint.optimizer_tensors(optimizer)
    checkpoint.save(tmp_path, checkpoint.Checkpoint(3, checkpoint.snapshot(first), state, records={"lines": [1]}))

    saved = checkpoint.load_latest(tmp_path)
    second = Model()
    second.load_state_dict(saved.weights)
    optimizer = make_optimizer(Train(optimizer=name, **SETTINGS), second.parameters())
    checkpoint.restore_optimizer(optimizer, saved.optimizer)
    trained(second, optimizer, range(3, 6))
    assert checkpoint.weights_sha256(second.state_dict()) == checkpoint.weights_sha256(straight.state_dict())
    assert saved.records == {"lines": [1]}


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, checkpoint.Checkpoint(step, {"w": torch.tensor([float(step)])}, {}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    newest = tmp_path / "step-00000003" / "model.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    assert checkpoint.load_latest(tmp_path).step == 2


def test_damaged_checkpoints_do_not_count_among_those_that_are_kept(tmp_path):
    def save(step):
        checkpoint.save(tmp_path, checkpoint.Checkpoint(step, {"w": torch.tensor([float(step)])}, {}))

    save(4)
    for step in (8, 9):
        save(step)
        (tmp_path / f"step-0000000{step}" / storage.MANIFEST).unlink()
        assert checkpoint.load_latest(tmp_path).step == 4
    save(5)
    assert checkpoint.load_latest(tmp_path).step == 5
    assert (tmp_path / "step-00000004").exists()


def test_no_whole_checkpoint_is_an_error(tmp_path):
    checkpoint.save(tmp_path, checkpoint.Checkpoint(1, {"w": torch.ones(1)}, {}))
    (tmp_path / "step-00000001" / storage.MANIFEST).unlink()
    for _ in range(2):  # asking again does not change the answer
        with pytest.raises(CheckpointError, match="no valid checkpoint found"):
            checkpoint.load_latest(tmp_path)


@examples(20)
@given(st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=5))
def test_weights_hash_tells_all_values_apart(values):
    base = {"w": torch.tensor(values), "v": torch.zeros(2, dtype=torch.bfloat16)}
    same = {name: value.clone() for name, value in reversed(base.items())}
    assert checkpoint.weights_sha256(base) == checkpoint.weights_sha256(same)
    assert checkpoint.weights_sha256(base) != checkpoint.weights_sha256(base | {"w": base["w"].view(-1, 1)})


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_absent_device_is_never_replaced_in_silence():
    with pytest.raises(UnavailableError, match="device=cpu"):
        choose_device("cuda")


def scaled_steps(engine, model, optimizer, steps, overflowing=()):
    for step in steps:
        loss = nn.MSELoss() if step not in overflowing else Overflowing()
        train_step(engine, model, optimizer, loss, Pairs(), np.arange(12), batch_size=12, clip=1.0, seed=0, step=step)


class Overflowing(nn.MSELoss):
    def forward(self, outputs, targets):
        outputs.register_hook(lambda gradient: gradient * torch.inf)
        return super().forward(outputs, targets)


def test_the_scale_of_gradients_survives_save_and_resume(tmp_path):
    """Scale and growth tracker after growth, an overflow and half a growth interval; the weights end with the same bits."""
    straight, engine = Model(), Scaled()
    optimizer = engine.prepare(make_optimizer(Train(optimizer="adamw", **SETTINGS), straight.parameters()))
    scaled_steps(engine, straight, optimizer, range(9), overflowing=[3])

    first, engine = Model(), Scaled()
    optimizer = engine.prepare(make_optimizer(Train(optimizer="adamw", **SETTINGS), first.parameters()))
    scaled_steps(engine, first, optimizer, range(5), overflowing=[3])
    scaler = engine.scaler_state()
    assert scaler["scale"] == pytest.approx(1000 * 1.7 * 0.37)  # the premise: it has grown and fallen
    assert scaler["_growth_tracker"] == 1
    state = checkpoint.optimizer_tensors(optimizer)
    checkpoint.save(tmp_path, checkpoint.Checkpoint(5, checkpoint.snapshot(first), state, scaler=scaler))

    saved = checkpoint.load_latest(tmp_path)
    assert saved.scaler == scaler
    second, engine = Model(), Scaled()
    second.load_state_dict(saved.weights)
    optimizer = engine.prepare(make_optimizer(Train(optimizer="adamw", **SETTINGS), second.parameters()))
    checkpoint.restore_optimizer(optimizer, saved.optimizer)
    engine.restore_scaler(saved.scaler)
    scaled_steps(engine, second, optimizer, range(5, 9))
    assert checkpoint.weights_sha256(second.state_dict()) == checkpoint.weights_sha256(straight.state_dict())


def test_every_optimizer_begins_with_the_first_scale():
    """Probes of stage 2 train before stage 3 does; a run that resumes without them must meet the same scale."""
    model, engine = Model(), Scaled()
    begin = engine.scaler_state()
    optimizer = engine.prepare(make_optimizer(Train(optimizer="adamw", **SETTINGS), model.parameters()))
    scaled_steps(engine, model, optimizer, range(3), overflowing=[1])
    assert engine.scaler_state() != begin
    engine.prepare(make_optimizer(Train(optimizer="adamw", **SETTINGS), model.parameters()))
    assert engine.scaler_state() == begin


def test_a_checkpoint_without_a_scale_is_not_gone_on_from():
    with pytest.raises(CheckpointError, match="no gradient scale"):
        Scaled().restore_scaler({})
    Engine(torch.device("cpu"), "fp32").restore_scaler({})


def test_a_gradient_that_is_none_at_every_scale_ends_the_run():
    """Steps that overflow are left out, but not for ever."""
    model, engine = Model(), Scaled()
    optimizer = engine.prepare(make_optimizer(Train(optimizer="adamw", **SETTINGS), model.parameters()))
    before = checkpoint.weights_sha256(model.state_dict())
    with pytest.raises(NonFiniteError, match="gradient is"):
        scaled_steps(engine, model, optimizer, range(100), overflowing=range(100))
    assert checkpoint.weights_sha256(model.state_dict()) == before


def test_embedder_and_predictor_learn_at_a_rate_of_their_own():
    """One step of plain SGD moves a parameter by its rate times its gradient."""
    inner, outer = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
    settings = Train(optimizer="sgd", **(SETTINGS | {"weight_decay": 0.0, "momentum": 0.0}))
    optimizer = make_optimizer(settings, [inner], outer=[outer], outer_rate=10.0)
    set_lr(optimizer, 0.01)
    (inner.sum() + outer.sum()).backward()
    optimizer.step()
    assert inner.tolist() == pytest.approx([-0.01] * 3)
    assert outer.tolist() == pytest.approx([-0.1] * 3)
