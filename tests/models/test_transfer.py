"""The transfer model: first weights, units of the outputs, and several models as one."""

import shutil

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Scale
from orca_cli.models.assembly import describe
from orca_cli.models.bodies import text
from orca_cli.models.checkpoints import located
from orca_cli.models.embedders.patches import Patch, spread_filter
from orca_cli.models.transfer import averaged
from tests.models.conftest import build


@pytest.fixture
def patch():
    """A filter [D, c, p, p] as of a pretrained patch embedding."""
    return torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_a_filter_of_the_same_size_is_the_pretrained_one(patch):
    torch.testing.assert_close(spread_filter(patch, channels=3, kernel=4), patch)


@pytest.mark.parametrize("channels", [6, 57])
def test_more_channels_of_one_image_answer_as_three(patch, channels):
    gray = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    spread = spread_filter(patch, channels=channels, kernel=4)
    answer = conv2d(gray.expand(1, channels, 4, 4), spread)
    torch.testing.assert_close(answer, conv2d(gray.expand(1, 3, 4, 4), patch))


@pytest.mark.parametrize(("pretrained", "channels"), [(1, 5), (3, 2)])
def test_a_spread_filter_keeps_its_weight(patch, pretrained, channels):
    repeated = patch[:, :1].repeat(1, pretrained, 1, 1)
    spread = spread_filter(repeated, channels=channels, kernel=4)
    torch.testing.assert_close(spread.sum((1, 2, 3)), pretrained * patch[:, 0].sum((1, 2)))


def test_a_larger_filter_keeps_its_answer_to_a_constant(patch):
    answer = conv2d(torch.ones(1, 3, 8, 8), spread_filter(patch, channels=3, kernel=8))
    expected = patch.sum((1, 2, 3)).view(1, 6, 1, 1)
    torch.testing.assert_close(answer, expected, rtol=1e-3, atol=1e-3)


def test_scale_gives_the_tasks_units(load_body):
    scale = Scale(mean=np.array([[5.0]], np.float32), std=np.array([[1e-12]], np.float32))
    model = build(load_body("bert"), kind="dense", num_outputs=1, target_scale=scale)
    torch.testing.assert_close(model(torch.randn(1, 2, 20)), torch.full((1, 1, 20), 5.0))


def test_the_word_embeddings_are_not_trained_or_stored(load_body):
    model = build(load_body("bert"))
    assert not [name for name in model.state_dict() if "word_embeddings" in name]
    parameters = describe(model)["parameters"]
    assert sum(parameters.values()) == sum(weight.numel() for weight in model.parameters())


@pytest.fixture
def torn(family, tmp_path):
    """A copy of a checkpoint, to be damaged."""
    return shutil.copytree(family("bert"), tmp_path / "torn")


def test_a_checkpoint_without_tokenizer_is_reported(torn):
    """In whose place transformers puts one that knows no word."""
    for name in ("vocab.txt", "tokenizer.json"):
        (torn / name).unlink()
    body = text.load(str(torn))
    message = "no usable tokenizer.*save the checkpoint's tokenizer into this folder"
    with pytest.raises(DataError, match=message):
        body.embed_source(["the list"])


def test_damaged_weights_are_reported(torn):
    content = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        text.load(str(torn))


@pytest.mark.parametrize("name", ["~nobody-has-this-name/x", "a" * 5000], ids=["home", "long"])
def test_a_name_that_no_folder_can_have_is_refused(name):
    assert located.find(name).state == "missing"
    with pytest.raises(ConfigError, match=r"body\.checkpoint: .* is neither an existing folder"):
        text.load(name)


@pytest.fixture
def first_weights(load_body):
    """A function: the first weights of a model by its seed."""

    def weights(seed):
        return build(load_body("bert"), seed=seed, embedder=Patch(init="random")).state_dict()

    return weights


def test_a_seed_gives_the_same_weights_again(first_weights):
    weights = first_weights(seed=0)
    torch.manual_seed(7)  # the state of torch's own generator does not matter
    again = first_weights(seed=0)
    assert all(map(torch.equal, weights.values(), again.values()))


@pytest.mark.parametrize("name", ["embedder.convolution.weight", "predictor.linear.weight"])
def test_another_seed_gives_other_weights(first_weights, name):
    assert not torch.equal(first_weights(seed=0)[name], first_weights(seed=1)[name])


@pytest.fixture(params=["bert", "vit"])
def drawn_embedder(load_body, request):
    """An embedder of random weights, of a body whose own embedding layer is known."""
    body = load_body(request.param)
    for weight in body.embeddings.parameters():
        weight.fill_(2.0)
    return build(body, input_shape=(3, 32, 32), embedder=Patch(init="random")).embedder


def test_a_random_filter_is_xaviers(drawn_embedder):
    # Of 3 and 32 times as many weights, with a gain of 2**0.5.
    deviation = (4 / (3 + 32) / drawn_embedder.kernel**2) ** 0.5
    assert not drawn_embedder.is_body_layer
    weight = drawn_embedder.convolution.weight.detach()
    assert float(weight.std()) == pytest.approx(deviation, rel=0.1)
    assert not drawn_embedder.convolution.bias.any()


def test_random_positions_have_berts_deviation(drawn_embedder):
    assert float(drawn_embedder.positions.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_a_random_embedders_norm_does_nothing(drawn_embedder):
    expected = {"weight": 1.0, "bias": 0.0}
    for name, parameter in drawn_embedder.norm.named_parameters():
        assert torch.equal(parameter, torch.full_like(parameter, expected[name]))


@pytest.mark.parametrize("kind", ["classes", "class_maps", "labels"])
def test_classes_and_labels_have_the_mean_probability(kind):
    def probability(logits):
        return logits.double().sigmoid() if kind == "labels" else logits.double().softmax(1)

    shape = (3, 5, 4, 7) if kind == "class_maps" else (3, 5, 4)
    outputs = list(3 * torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    expected = torch.stack([probability(output) for output in outputs]).mean(0)
    np.testing.assert_allclose(probability(averaged(outputs, kind)), expected, rtol=1e-5)


def test_models_as_sure_as_can_be_stay_so():
    sure = torch.tensor([[200.0, -200.0]])
    assert torch.equal(averaged([sure, sure], "labels"), sure)


def test_numbers_are_averaged():
    outputs = [torch.tensor([[1.0, 4.0]]), torch.tensor([[3.0, 0.0]])]
    assert averaged(outputs, "values").tolist() == [[2.0, 2.0]]
