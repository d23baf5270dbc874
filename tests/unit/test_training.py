import numpy as np
import pytest
import threadpoolctl
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from orca_cli import storage
from orca_cli.exceptions import CheckpointError, NonFiniteError
from orca_cli.training import checkpoint
from orca_cli.training.checkpoint import weights_sha256 as sha256
from orca_cli.training.engine import Engine, limit_threads, same_threads_after
from orca_cli.training.loop import predict, train_step
from orca_cli.training.schedule import BETAS, make_optimizer, step_decay, warmup_then_linear
from tests.properties import examples
from tests.training.toy import Dense, Pairs, engine


@given(
    steps=st.integers(1, 200),
    warmup=st.integers(0, 50),
    decay=st.integers(1, 150),
    peak=st.floats(1e-6, 10),
)
def test_rate_is_never_negative_nor_above_its_peak(steps, warmup, decay, peak):
    rates = [
        warmup_then_linear(s, peak=peak, warmup_steps=warmup, decay_steps=decay)
        for s in range(steps)
    ]
    assert all(0 <= rate <= peak for rate in rates)
    assert rates[0] > 0
    assert all(rate == 0 for rate in rates[max(decay, warmup + 1) :])


def test_rates_rise_and_fall_as_known():
    rates = [warmup_then_linear(s, peak=1.0, warmup_steps=4, decay_steps=14) for s in range(15)]
    assert rates == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    )
    decayed = [step_decay(s, start=1.0, every=20, factor=0.2) for s in (0, 19, 20, 39, 40)]
    assert decayed == pytest.approx([1, 1, 0.2, 0.2, 0.04])


class Scaled(Engine):
    """An engine on the CPU with the gradient scaler that fp16 has on a GPU, and where fp16 itself is refused.

    Its factors are no powers of two, so that a wrong scale shows in the bits of the weights.
    """

    def __init__(self):
        super().__init__(torch.device("cpu"), "fp32")
        factors = {"growth_factor": 1.7, "backoff_factor": 0.37, "growth_interval": 2}
        self._accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1000.0, **factors)
        self._first_scale = self.scaler_state()

    def clip(self, parameters, norm):
        """Unscale, as accelerate does where the precision is fp16."""
        for optimizer in self._accelerator._optimizers:
            self._accelerator.scaler.unscale_(optimizer.optimizer)
        return super().clip(parameters, norm)


SAMPLES = Pairs(torch.randn(12, 2, 6, generator=torch.Generator().manual_seed(1)))


def trainer(model, trained_by=None, name="adamw"):
    trained_by = trained_by or engine()
    optimizer = make_optimizer(
        name, model.parameters(), lr=0.1, weight_decay=0.0, momentum=0.9, betas=BETAS
    )
    return trained_by, trained_by.prepare(optimizer)


class Overflowing(nn.MSELoss):
    def forward(self, outputs, targets):
        outputs.register_hook(lambda gradient: gradient * torch.inf)
        return super().forward(outputs, targets)


def take(model, trained, steps, *, overflowing=(), count=12, batch_size=12, clip=1.0):
    """Take steps; the gradient of some of them overflows."""
    for step in steps:
        loss = Overflowing() if step in overflowing else nn.MSELoss()
        settings = {"batch_size": batch_size, "clip": clip, "seed": 0, "step": step}
        settings |= {"samples": SAMPLES, "indices": np.arange(count)}
        train_step(trained[0], model, trained[1], loss, **settings)


def test_predict_keeps_the_order_of_the_split():
    model = Dense(2)
    outputs, targets = predict(engine(), model, SAMPLES, batch_size=5)
    torch.testing.assert_close(targets, SAMPLES.y)
    with torch.no_grad():
        torch.testing.assert_close(outputs, model(SAMPLES.x))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "scaled"])
def test_resumed_training_has_the_same_bits(tmp_path, name):
    """With fp16's scaler, scale and growth tracker are saved after growth, an overflow and half a growth interval."""
    make, optimizer = (Scaled, "adamw") if name == "scaled" else (engine, name)
    over = {"overflowing": [3] if name == "scaled" else []}
    straight, first, second = Dense(2), Dense(2), Dense(2)
    take(straight, trainer(straight, make(), optimizer), range(9), **over)
    trained = trainer(first, make(), optimizer)
    take(first, trained, range(5), **over)
    scaler = trained[0].scaler_state()
    if name == "scaled":
        assert scaler["scale"] == pytest.approx(
            1000 * 1.7 * 0.37
        )  # the premise: it has grown and fallen
        assert scaler["_growth_tracker"] == 1
    state = checkpoint.optimizer_tensors(trained[1])
    saved = checkpoint.Checkpoint(
        5, checkpoint.snapshot(first), state, records={"lines": [1]}, scaler=scaler
    )
    checkpoint.save(tmp_path, saved)

    saved = checkpoint.load_latest(tmp_path)
    assert (saved.records, saved.scaler) == ({"lines": [1]}, scaler)
    second.load_state_dict(saved.weights)
    trained = trainer(second, make(), optimizer)
    checkpoint.restore_optimizer(trained[1], saved.optimizer)
    trained[0].restore_scaler(saved.scaler)
    take(second, trained, range(5, 9), **over)
    assert sha256(second.state_dict()) == sha256(straight.state_dict())


def test_accumulation_does_not_change_the_step():
    whole, parts = Dense(2), Dense(2)
    for model, size in ((whole, 11), (parts, 5)):  # 11: the last batch is smaller than the others
        take(model, trainer(model, name="sgd"), [0], count=11, batch_size=size, clip=0.05)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def save(folder, *steps, without_manifest=False):
    for step in steps:
        checkpoint.save(folder, checkpoint.Checkpoint(step, {"w": torch.tensor([float(step)])}, {}))
        if without_manifest:
            (folder / f"step-{step:08}" / storage.MANIFEST).unlink()


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    """Damaged ones do not count among those that are kept; tests/reliability/test_damage.py damages in every way."""
    save(tmp_path / "a", 1, 2, 4)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "step-00000002",
        "step-00000004",
    ]
    for step in (8, 9):
        save(tmp_path / "a", step, without_manifest=True)
        assert checkpoint.load_latest(tmp_path / "a").step == 4
    save(tmp_path / "a", 5)
    assert checkpoint.load_latest(tmp_path / "a").step == 5
    assert (tmp_path / "a" / "step-00000004").exists()
    save(tmp_path / "b", 1, without_manifest=True)
    with pytest.raises(CheckpointError, match="no valid checkpoint found"):
        checkpoint.load_latest(tmp_path / "b")


@examples(20)
@given(st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=5))
def test_weights_hash_tells_all_values_apart(values):
    base = {"w": torch.tensor(values), "v": torch.zeros(2, dtype=torch.bfloat16)}
    same = {name: value.clone() for name, value in reversed(base.items())}
    assert sha256(base) == sha256(same)
    assert sha256(base) != sha256(base | {"w": base["w"].view(-1, 1)})


def test_overflows_are_left_out_and_optimizers_begin_alike():
    """Members train one after the other; a run that resumes in a later one must meet the same scale."""
    model, scaled = Dense(2), Scaled()
    begin = scaled.scaler_state()
    take(model, trainer(model, scaled), range(3), overflowing=[1])
    assert scaled.scaler_state() != begin
    trained = trainer(model, scaled)
    assert scaled.scaler_state() == begin
    before = sha256(model.state_dict())
    with pytest.raises(NonFiniteError, match="gradient is"):
        take(model, trained, range(100), overflowing=range(100))
    assert sha256(model.state_dict()) == before
    with pytest.raises(CheckpointError, match="no gradient scale"):
        scaled.restore_scaler({})


def test_every_process_of_the_tests_has_one_thread():
    assert torch.get_num_threads() == 1
    assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info()} == {1}


def test_a_small_model_takes_one_thread_unless_told_otherwise(monkeypatch):
    def threads(parameters, tokens):
        with same_threads_after():
            limit_threads(parameters, tokens)
            return torch.get_num_threads()

    with same_threads_after():
        torch.set_num_threads(2)
        assert threads(22_000_000, 8) == 2  # as OMP_NUM_THREADS says; see conftest.py
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert [
            threads(*case) for case in ((50_000_000, 128), (50_000_001, 8), (22_000_000, 129))
        ] == [1, 2, 2]
        assert torch.get_num_threads() == 2
