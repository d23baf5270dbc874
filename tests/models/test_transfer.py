import shutil

import numpy as np
import pytest
import torch

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Scale
from orca_cli.models.assembly import describe
from orca_cli.models.bodies import text
from orca_cli.models.checkpoints import located
from orca_cli.models.embedders.patches import Patch, spread_filter
from orca_cli.models.transfer import averaged
from tests.models.conftest import build


def test_spread_filter_answers_like_the_pretrained_one():
    patch = torch.randn(6, 3, 4, 4)
    torch.testing.assert_close(spread_filter(patch, 3, 4), patch)
    gray = torch.rand(1, 1, 4, 4)  # the same image in every channel
    expected = torch.nn.functional.conv2d(gray.expand(1, 3, 4, 4), patch)
    for channels in (6, 57):
        spread = spread_filter(patch, channels, 4)
        torch.testing.assert_close(
            torch.nn.functional.conv2d(gray.expand(1, channels, 4, 4), spread), expected
        )
    for patch_channels, channels in ((1, 5), (3, 2)):
        spread = spread_filter(patch[:, :1].repeat(1, patch_channels, 1, 1), channels, 4)
        torch.testing.assert_close(spread.sum((1, 2, 3)), patch_channels * patch[:, 0].sum((1, 2)))
    constant = torch.ones(1, 3, 8, 8)
    answer = torch.nn.functional.conv2d(constant, spread_filter(patch, 3, 8), stride=8)
    torch.testing.assert_close(answer, patch.sum((1, 2, 3)).view(1, 6, 1, 1), rtol=1e-3, atol=1e-3)


def test_scale_gives_the_tasks_units(load_body):
    scale = Scale(torch.tensor([[5.0]]), torch.tensor([[0.0]]) + 1e-12)
    model = build(load_body("bert"), kind="dense", num_outputs=1, target_scale=scale)
    torch.testing.assert_close(model(torch.randn(1, 2, 20)), torch.full((1, 1, 20), 5.0))


def test_the_word_embeddings_are_not_trained_or_stored(load_body):
    model = build(load_body("bert"))
    assert not [name for name in model.state_dict() if "word_embeddings" in name]
    parameters = describe(model)["parameters"]
    assert sum(parameters.values()) == sum(p.numel() for p in model.parameters())


def test_broken_checkpoints_are_reported(family, tmp_path):
    """Damaged weights, and no tokenizer, in whose place transformers puts one that knows no word."""
    torn = shutil.copytree(family("bert"), tmp_path / "torn")
    for name in ("vocab.txt", "tokenizer.json"):
        (torn / name).unlink()
    with pytest.raises(
        DataError, match="no usable tokenizer.*save the tokenizer into the same folder"
    ):
        text.load(str(torn)).embed_source(["the list"])
    content = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        text.load(str(torn))
    for name in ("~nobody-has-this-name/x", "a" * 5000):
        assert located.find(name).state == "missing"
        with pytest.raises(ConfigError, match=r"body\.checkpoint: no such folder"):
            text.load(name)


def test_the_first_weights_are_those_of_the_seed(load_body):
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(models))  # the state of torch's own generator does not matter
        models.append(
            build(load_body("bert"), seed=seed, embedder=Patch(init="random")).state_dict()
        )
    first, again, other = models
    assert all(map(torch.equal, first.values(), again.values()))
    for name in ("embedder.convolution.weight", "predictor.linear.weight"):
        assert not torch.equal(first[name], other[name])


def test_random_embedders_have_the_papers_form(load_body):
    """Xavier weights, a norm of 1 and 0, positions N(0, 0.02); nothing of the body's."""
    for name in ("bert", "vit"):
        body = load_body(name)
        for value in body.embeddings.parameters():
            value.fill_(2.0)
        embedder = build(body, input_shape=(3, 32, 32), embedder=Patch("random")).embedder
        # Of 3 and 32 times as many weights, with a gain of 2**0.5.
        deviation = (4 / (3 + 32) / embedder.kernel**2) ** 0.5
        assert not embedder.is_body_layer
        assert float(embedder.convolution.weight.detach().std()) == pytest.approx(
            deviation, rel=0.1
        )
        assert float(embedder.positions.detach().std()) == pytest.approx(0.02, rel=0.1)
        assert not embedder.convolution.bias.any()
        assert all(
            torch.equal(v, torch.full_like(v, n == "weight"))
            for n, v in embedder.norm.named_parameters()
        )


@pytest.mark.parametrize("kind", ["classes", "class_maps", "labels"])
def test_classes_and_labels_have_the_mean_of_the_probabilities(kind):
    def probability(logits):
        return logits.double().sigmoid() if kind == "labels" else logits.double().softmax(1)

    shape = (3, 5, 4, 7) if kind == "class_maps" else (3, 5, 4)
    outputs = list(3 * torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    expected = torch.stack([probability(output) for output in outputs]).mean(0)
    np.testing.assert_allclose(probability(averaged(outputs, kind)), expected, rtol=1e-5)


def test_models_as_sure_as_can_be_stay_so_and_numbers_are_averaged():
    assert averaged([torch.tensor([[200.0, -200.0]])] * 2, "labels").tolist() == [[200.0, -200.0]]
    assert averaged(
        [torch.tensor([[1.0, 4.0]]), torch.tensor([[3.0, 0.0]])], "values"
    ).tolist() == [[2.0, 2.0]]
