import numpy as np
import pytest
import torch

from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import SourceData, Tokens
from orca_cli.stages import source_features as module
from orca_cli.stages.source_features import select_points, source_features
from orca_cli.terminal import LogReporter


class Counting:
    """A body whose embedding of example i is i in every token; example i has i % 3 + 1 tokens of 4."""

    modality = "text"
    checkpoint_digest = "0"
    calls = 0

    def embed_source(self, inputs):
        Counting.calls += 1
        numbers = torch.tensor([float(text) for text in inputs])
        mask = torch.arange(4) < (numbers % 3 + 1).unsqueeze(1)
        return Tokens(numbers.view(-1, 1, 1).expand(-1, 4, 2).clone(), mask, (4,))


SOURCE = SourceData("text", [str(i) for i in range(90)], np.arange(90) % 5, list("abcde"), "digest")


def points_of(tmp_path, **changes):
    settings = {"features": "tokens", "length": 2, "points": 10_000, "seed": 0} | changes
    return source_features(Counting(), SOURCE, cache_folder=tmp_path, reporter=LogReporter(), **settings)


def test_every_token_that_is_not_padding_is_a_point_with_its_label(tmp_path):
    cloud, _ = points_of(tmp_path)
    assert len(cloud.x) == sum(i % 3 + 1 for i in range(90))
    assert torch.equal(cloud.x[:, 0].long() % 5, cloud.labels)


def test_a_draw_is_uniform_seeded_and_of_the_size_asked_for(tmp_path):
    cloud, key = points_of(tmp_path, points=50)
    again, other = points_of(tmp_path / "x", points=50), points_of(tmp_path, points=50, seed=1)
    assert len(cloud.x) == 50
    assert torch.equal(cloud.x, again[0].x)
    assert not torch.equal(cloud.x, other[0].x)
    assert key != other[1]


def test_the_draw_does_not_depend_on_how_much_is_held_at_once(tmp_path, monkeypatch):
    wanted = points_of(tmp_path / "a", points=7)[0].x
    monkeypatch.setattr(module, "_BATCH", 90)
    assert torch.equal(points_of(tmp_path / "b", points=7)[0].x, wanted)


def test_computed_once_and_rebuilt_when_damaged(tmp_path):
    points_of(tmp_path)
    before = Counting.calls
    points_of(tmp_path)
    assert Counting.calls == before
    (file,) = tmp_path.rglob("tensors.safetensors")
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(content)
    cloud, _ = points_of(tmp_path)
    assert Counting.calls > before
    assert torch.equal(cloud.x[:, 0].long() % 5, cloud.labels)
    assert list(tmp_path.rglob("*.bad-*"))


def test_sequences_have_the_targets_length(tmp_path):
    cloud, _ = points_of(tmp_path, features="sequence")
    assert cloud.x.shape == (60, 4)  # two thirds of the examples have two tokens or more
    with pytest.raises(ConfigError, match=r"align\.features"):
        points_of(tmp_path, features="sequence", length=4)


def test_pooling_leaves_padding_out():
    x = torch.tensor([[[1.0], [3.0], [100.0]]])
    mask = torch.tensor([[True, True, False]])
    points, rows = select_points(Tokens(x, mask, (3,)), "pooled", 3)
    assert points.tolist() == [[2.0]]
    assert rows.tolist() == [0]


def test_another_modality_is_refused(tmp_path):
    images = SourceData("image", np.zeros((4, 3, 8, 8), np.float32), np.arange(4) % 2, ["a", "b"], "d")
    with pytest.raises(ConfigError, match="made of images"):
        source_features(
            Counting(),
            images,
            features="tokens",
            length=1,
            points=5,
            seed=0,
            cache_folder=tmp_path,
            reporter=LogReporter(),
        )
