"""A tensor that is left on the CPU is found: defects put into the program one by one, each of which ends a run.

That the program without them passes is in `test_runs.py`.
"""

import dataclasses

import pytest
import torch

from orca_cli.metrics import minibatch_ot
from orca_cli.metrics.transport import annealed, label_distances
from orca_cli.models.bodies.base import ImageBody
from orca_cli.models.embedders.convolution import ConvolutionEmbedder
from orca_cli.models.embedders.filter_bank import FilterBank
from orca_cli.models.transfer import TransferModel
from orca_cli.stages import compared, finetune
from orca_cli.stages.problem import Problem
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine
from tests.device.conftest import fail_at

REFUSED = ("expected all tensors to be on the same device", "can't convert lazy device type tensor to numpy")


def targets_of_a_batch(patch):
    move = Engine.move
    patch.setattr(Engine, "move", lambda self, batch: dataclasses.replace(move(self, batch), y=batch.y))


def inputs_of_a_batch(patch):
    move = Engine.move
    patch.setattr(Engine, "move", lambda self, batch: dataclasses.replace(move(self, batch), x=batch.x))


def constants_of_a_metric(patch):
    def problem(*words, **more):
        made = Problem(*words, **more)
        return dataclasses.replace(made, prepared={name: value.cpu() for name, value in made.prepared.items()})

    patch.setattr(compared, "Problem", problem)


def points_of_the_source(patch):
    def problem(*words, **more):
        made = Problem(*words, **more)
        return dataclasses.replace(made, source=dataclasses.replace(made.source, x=made.source.x.cpu()))

    patch.setattr(compared, "Problem", problem)


def labels_of_the_target(patch):
    points = Problem.points

    def labelled(*words, **more):
        return [dataclasses.replace(found, labels=found.labels.cpu()) for found in points(*words, **more)]

    patch.setattr(Problem, "points", labelled)


def positions_of_an_embedder(patch):
    init = ConvolutionEmbedder.__init__

    def plain(self, *words, **more):
        init(self, *words, **more)
        positions = self.positions.detach()
        del self.positions
        self.positions = positions  # neither a parameter nor a buffer, so it does not move

    patch.setattr(ConvolutionEmbedder, "__init__", plain)


def scale_of_the_features(patch):
    init = FilterBank.__init__

    def plain(self, *words, **more):
        init(self, *words, **more)
        for name in ("sample_mean", "sample_deviation"):
            value = getattr(self, name)
            delattr(self, name)
            setattr(self, name, value)

    patch.setattr(FilterBank, "__init__", plain)


def filters_of_a_bank(patch):
    features = FilterBank._features

    def left(self, *words):
        kept = self.weight
        self.weight = kept.cpu()
        try:
            return features(self, *words)
        finally:
            self.weight = kept

    patch.setattr(FilterBank, "_features", left)


def mask_of_an_embedder(patch):
    mask = ConvolutionEmbedder.mask
    patch.setattr(ConvolutionEmbedder, "mask", lambda *words: torch.ones(mask(*words).shape, dtype=torch.bool))


def scale_of_the_targets(patch):
    init = TransferModel.__init__

    def plain(self, *words, **more):
        init(self, *words, **more)
        for name in ("scale_mean", "scale_std"):
            value = getattr(self, name)
            delattr(self, name)
            setattr(self, name, value)

    patch.setattr(TransferModel, "__init__", plain)


def layer_that_embeds_the_source(patch):
    embed = ImageBody.embed_source

    def stays(self, inputs):
        patch.setattr(type(self.embeddings), "to", lambda module, *_: module)
        return embed(self, inputs)

    patch.setattr(ImageBody, "embed_source", stays)


def levels_of_annealing(patch):
    levels = annealed.Annealing.levels

    def left(self, squares, like):
        return levels(self, squares, torch.empty(0, dtype=like.dtype))

    patch.setattr(annealed.Annealing, "levels", left)


def weights_of_the_points_of_a_class(patch):
    index = label_distances.index_classes

    def left(*words):
        found = index(*words)
        return dataclasses.replace(found, weights=found.weights.cpu())

    patch.setattr(label_distances, "index_classes", left)


def matchings_of_small_samples(patch):
    match = minibatch_ot._match
    patch.setattr(minibatch_ot, "_match", lambda costs: match(costs).cpu())


def outputs_of_an_evaluation(patch):
    predict = finetune.predict

    def left(engine, *words):
        outputs, targets = predict(engine, *words)
        return outputs.to(engine.device), targets

    patch.setattr(finetune, "predict", left)


FOUND = [
    (targets_of_a_batch, "metric=none"),
    (inputs_of_a_batch, "metric=none"),
    (inputs_of_a_batch, "metric=moments"),
    (constants_of_a_metric, "metric=moments"),
    (constants_of_a_metric, "metric=otdd_reference"),
    (points_of_the_source, "metric=euclidean"),
    (labels_of_the_target, "metric=otdd"),
    (positions_of_an_embedder, "metric=none"),
    (scale_of_the_features, "metric=none"),
    (filters_of_a_bank, "metric=moments"),
    (mask_of_an_embedder, "metric=none"),
    (scale_of_the_targets, "metric=none"),
    (layer_that_embeds_the_source, "metric=moments"),
    (levels_of_annealing, "metric=otdd_reference"),
    (weights_of_the_points_of_a_class, "metric=otdd"),
    (matchings_of_small_samples, "metric=minibatch_ot"),
    (outputs_of_an_evaluation, "metric=none"),
]


@pytest.mark.parametrize(("defect", "metric"), FOUND)
def test_what_is_left_on_the_cpu_ends_a_run(orca, words, on_device, monkeypatch, defect, metric):
    body = "vit" if defect is positions_of_an_embedder else "swin"
    targets = "dense" if defect is scale_of_the_targets else "classes"
    defect(monkeypatch)
    code, _, err = orca(*words(body, (1, 8, 8), targets), metric)
    assert code != 0
    assert any(message in err for message in REFUSED), err


@pytest.mark.parametrize("metric", ["none", "moments"])
def test_the_state_of_an_optimizer_that_is_restored_to_the_cpu_ends_a_run(orca, words, on_device, monkeypatch, metric):
    """In stage 3 without alignment, in stage 2 with it."""
    command = [*words("swin", (1, 8, 8)), f"metric={metric}", "train.checkpoint_s=0"]
    with monkeypatch.context() as patch:
        fail_at(patch, 2)
        code, _, _ = orca(*command)
    assert code != 0
    restore = checkpoint.restore_optimizer

    def left(optimizer, tensors):
        restore(optimizer, tensors)
        for state in optimizer.state.values():
            state["exp_avg"] = state["exp_avg"].cpu()

    monkeypatch.setattr(checkpoint, "restore_optimizer", left)
    code, out, err = orca(*command)
    assert "resumed at step" in out + err
    assert code != 0
    assert any(message in err for message in REFUSED), err
