"""The plan of stage 3: which samples an optimizer step sees, and at what rate; a function of the seed and the step."""

from __future__ import annotations

import numpy as np

from orca_cli import seeding
from orca_cli.schema import Config, Train
from orca_cli.stages.build import Built, steps_per_epoch
from orca_cli.training.engine import Engine
from orca_cli.training.loop import train_step
from orca_cli.training.memory import governed_by
from orca_cli.training.schedule import make_optimizer, set_lr, warmup_length, warmup_then_linear


class TrainingPlan:
    """The optimizer steps of one run's stage 3.

    Args:
        config: batches, optimizer, rates, seed.
        built: model, loss and training split; which parameters train is chosen before.
        engine: the device.
    """

    def __init__(self, config: Config, built: Built, engine: Engine) -> None:
        self._settings, self._seed, self._built, self._engine = config.train, config.seed, built, engine
        self._samples = built.task.train
        self.per_epoch = steps_per_epoch(config, len(self._samples))
        self.optimizer = engine.prepare(make_optimizer(config.train, built.model.parameters()))
        self._unit = built.model.deviation if config.train.loss_units == "deviation" else 1.0
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def chosen(self, step: int) -> np.ndarray:
        """Return the samples of a step, in their order. An epoch's order is drawn once, by whichever step asks first."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._order = seeding.numpy_generator(self._seed, "finetune", "order", epoch).permutation(
                len(self._samples)
            )
            self._epoch = epoch
        size = self._settings.batch_size * self._settings.accumulation
        return self._order[place * size : (place + 1) * size]

    def take(self, step: int) -> tuple[float, int]:
        """Take step 0, 1, ...; returns the mean loss over its samples, and their number.

        Raises:
            NonFiniteError: the loss or the gradient is NaN or infinite; the weights are as before.
            MemoryExhaustedError: a batch does not fit.
        """
        settings = self._settings
        chosen = self.chosen(step)
        set_lr(self.optimizer, self.rate(step))
        with governed_by("train.batch_size", _smaller(settings)):
            loss, _ = train_step(
                self._engine,
                self._built.model,
                self.optimizer,
                self._built.loss,
                self._samples,
                chosen,
                batch_size=settings.batch_size,
                clip=settings.clip,
                seed=self._seed,
                step=step,
                reduce=settings.accumulation_reduce,
                unit=self._unit,
            )
        return loss, len(chosen)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        settings = self._settings
        return warmup_then_linear(
            step,
            peak=settings.lr,
            warmup_steps=warmup_length(settings) * self.per_epoch,
            decay_steps=(settings.decay_epochs or settings.epochs) * self.per_epoch,
        )


def _smaller(settings: Train) -> str:
    """Return settings that take the same steps with half the memory for activations."""
    if settings.batch_size == 1:
        return "use a smaller body or embedder.max_tokens"
    half = -(-settings.batch_size // 2)
    return f"try train.batch_size={half} train.accumulation={settings.accumulation * 2}, or embedder.max_tokens"
