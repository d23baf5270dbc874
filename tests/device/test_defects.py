"""A tensor that is left on the CPU is found: defects put into the program one by one, each of which ends a run.

That the program without them passes is in `test_runs.py`.
"""

import dataclasses

import pytest

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


def fields(**changes):
    """Return a function that applies changes (field -> function) to the fields of a result."""
    return lambda result, *_: dataclasses.replace(
        result, **{n: change(getattr(result, n)) for n, change in changes.items()}
    )


def to_cpu(result, *_):
    """Take all tensors of a result to the CPU."""
    if isinstance(result, dict):
        return {name: value.cpu() for name, value in result.items()}
    return result.cpu()


def outputs_to_device(predictions, engine, *_):
    outputs, targets = predictions
    return outputs.to(engine.device), targets


X = fields(x=to_cpu)
# name -> (owner, function, what becomes of its result, metrics whose runs end)
RESULTS = {
    "targets of a batch": (Engine, "move", fields(y=to_cpu), ["none"]),
    "inputs of a batch": (Engine, "move", X, ["none", "moments"]),
    "constants of a metric": (compared, "Problem", fields(prepared=to_cpu), ["moments", "otdd_reference"]),
    "points of the source": (compared, "Problem", fields(source=X), ["euclidean"]),
    "labels of the target": (
        Problem,
        "points",
        lambda points, *_: [fields(labels=to_cpu)(one) for one in points],
        ["otdd"],
    ),
    "mask of an embedder": (ConvolutionEmbedder, "mask", to_cpu, ["none"]),
    "levels of annealing": (annealed.Annealing, "levels", fields(reg=to_cpu, step=to_cpu), ["otdd_reference"]),
    "weights of a class": (label_distances, "index_classes", fields(weights=to_cpu), ["otdd_by_class"]),
    "outputs of an evaluation": (finetune, "predict", outputs_to_device, ["none"]),
}
# name -> (module, what it registers, metric): neither a parameter nor a buffer, it does not move
STATE = {
    "positions of an embedder": (ConvolutionEmbedder, ["positions"], "none"),
    "scale of the features": (FilterBank, ["sample_mean", "sample_deviation"], "none"),
    "filters of a bank": (FilterBank, ["weight"], "moments"),
    "scale of the targets": (TransferModel, ["scale_mean", "scale_std"], "none"),
}
FOUND = [(name, metric) for name, (*_, metrics) in RESULTS.items() for metric in metrics]
FOUND += [(name, metric) for name, (*_, metric) in STATE.items()]
FOUND.append(("layer that embeds the source", "moments"))


def put(patch, name):
    """Put a defect into the program."""
    if name in RESULTS:
        owner, function, change, _ = RESULTS[name]
        whole = getattr(owner, function)
        patch.setattr(owner, function, lambda *words, **more: change(whole(*words, **more), *words))
    elif name in STATE:
        owner, names, _ = STATE[name]
        init = owner.__init__

        def plain(self, *words, **more):
            init(self, *words, **more)
            for name in names:
                value = getattr(self, name).detach()
                delattr(self, name)
                setattr(self, name, value)

        patch.setattr(owner, "__init__", plain)
    else:
        embed = ImageBody.embed_source

        def stays(self, inputs):
            patch.setattr(type(self.embeddings), "to", lambda module, *_: module)
            return embed(self, inputs)

        patch.setattr(ImageBody, "embed_source", stays)


@pytest.mark.parametrize(("defect", "metric"), FOUND)
def test_what_is_left_on_the_cpu_ends_a_run(orca, words, on_device, monkeypatch, defect, metric):
    body = "vit" if defect == "positions of an embedder" else "swin"
    targets = "dense" if defect == "scale of the targets" else "classes"
    put(monkeypatch, defect)
    code, _, err = orca("run", *words(body, (1, 8, 8), targets), f"metric={metric}")
    assert code != 0
    assert any(message in err for message in REFUSED), err


@pytest.mark.parametrize("metric", ["none", "moments"])
def test_the_state_of_an_optimizer_that_is_restored_to_the_cpu_ends_a_run(orca, words, on_device, monkeypatch, metric):
    """In stage 3 without alignment, in stage 2 with it."""
    command = ["run", *words("swin", (1, 8, 8)), f"metric={metric}", "train.checkpoint_s=0"]
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
