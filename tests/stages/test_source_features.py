import numpy as np
import pytest
import torch

from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Examples, Features, SourceData, Tokens
from orca_cli.stages.source_features import UniformDraw, Wanted, settings_key, source_features
from orca_cli.terminal import LogReporter

CPU = torch.device("cpu")


class Counting:
    """A body whose embedding of example i is i in every token; example i has i % 3 + 1 tokens of 4."""

    modality = "text"
    checkpoint_digest = "0"
    preparation_digest = "0"
    source_resolution = "body"
    calls = 0

    def embed_source(self, inputs):
        Counting.calls += 1
        numbers = torch.tensor([float(text) for text in inputs])
        mask = torch.arange(4) < (numbers % 3 + 1).unsqueeze(1)
        return Tokens(numbers.view(-1, 1, 1).expand(-1, 4, 2).clone(), mask, (4,))


EXAMPLES = Examples([str(i) for i in range(90)], np.arange(90) % 5, list("abcde"))
SOURCE = SourceData("text", "digest", lambda: EXAMPLES)


def points_of(tmp_path, **changes):
    request = Wanted(**{"features": "tokens", "length": 2, "points": 10_000, "seed": 0} | changes)
    source = source_features(Counting(), SOURCE, request, CPU, tmp_path, LogReporter())
    return source.cloud, source.key


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


def test_the_draw_does_not_depend_on_how_much_is_held_at_once():
    points, drawn = torch.arange(90), []
    for size in (5, 90):
        draw = UniformDraw(7, torch.Generator().manual_seed(0))
        for start in range(0, 90, size):
            draw.add(points[start : start + size, None], points[start : start + size])
        drawn.append(draw.drawn()[1])
    assert torch.equal(*drawn)
    assert len(drawn[0]) == 7


@pytest.mark.parametrize("name", ["checkpoint_digest", "preparation_digest"])
def test_another_checkpoint_or_tokenizer_has_points_of_its_own(tmp_path, monkeypatch, name):
    _, key = points_of(tmp_path)
    before = Counting.calls
    monkeypatch.setattr(Counting, name, "1")
    assert points_of(tmp_path)[1] != key
    assert Counting.calls > before


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


def test_examples_are_read_only_where_their_points_are_not_in_the_cache(tmp_path):
    cloud, _ = points_of(tmp_path)
    unread = SourceData("text", "digest", lambda: pytest.fail("the examples were read"))
    again = source_features(Counting(), unread, Wanted("tokens", 2, 10_000, 0), CPU, tmp_path, LogReporter())
    assert torch.equal(again.cloud.x, cloud.x)


def test_what_another_device_computes_is_kept_apart(tmp_path):
    points_of(tmp_path)
    before = Counting.calls
    request = Wanted("tokens", 2, 10_000, 0)
    source_features(Counting(), SOURCE, request, torch.device("meta"), tmp_path, LogReporter())
    assert Counting.calls > before
    names = {
        settings_key("source", {}, Features(torch.zeros(1, 2, device=device), torch.zeros(1), 1))
        for device in ("cpu", "meta")
    }
    assert len(names) == 2


def test_fresh_points_are_further_points_of_the_same_draw(tmp_path):
    source = source_features(Counting(), SOURCE, Wanted("tokens", 2, 50, 0), CPU, tmp_path, LogReporter())
    assert (len(source.cloud.x), len(source.fresh.x)) == (50, 130)
    whole, _ = points_of(tmp_path / "x")
    both = torch.cat([source.cloud.x, source.fresh.x])
    assert torch.equal(both[:, 0].sort().values, whole.x[:, 0].sort().values)
    assert torch.equal(source.fresh.x[:, 0].long() % 5, source.fresh.labels)


def test_the_gaussian_control_has_the_points_mean_and_covariance_and_nothing_else(tmp_path):
    cloud, _ = points_of(tmp_path)
    noise, key = points_of(tmp_path, cloud="gaussian")
    assert key != points_of(tmp_path)[1]
    assert not torch.isin(noise.x, cloud.x).any()
    assert noise.x.mean(0) == pytest.approx(cloud.x.mean(0), rel=0.2)
    assert noise.x.std(0) == pytest.approx(cloud.x.std(0), rel=0.2)


def test_there_are_no_more_clusters_than_distinct_points(tmp_path):
    few = SourceData("text", "few", lambda: Examples(["3", "9"] * 5, np.arange(10) % 5, list("abcde")))
    wanted = Wanted("tokens", 1, 100, 0, labels="clusters")
    cloud = source_features(Counting(), few, wanted, CPU, tmp_path, LogReporter()).cloud
    assert {(float(x), int(label)) for x, label in zip(cloud.x[:, 0], cloud.labels, strict=True)} in (
        {(3, 0), (9, 1)},
        {(3, 1), (9, 0)},
    )


def test_labels_can_be_clusters_of_the_points_or_shuffled(tmp_path):
    cloud, _ = points_of(tmp_path)
    clusters, _ = points_of(tmp_path, labels="clusters")
    order = torch.argsort(clusters.x[:, 0], stable=True)
    assert len(torch.unique_consecutive(clusters.labels[order])) == 5  # intervals of the line on which the points lie
    shuffled, _ = points_of(tmp_path, labels="shuffled")
    assert torch.equal(shuffled.labels.bincount(), cloud.labels.bincount())
    assert not torch.equal(shuffled.labels, cloud.labels)


def test_the_spread_of_the_source_is_that_of_all_its_tokens(tmp_path):
    source = source_features(Counting(), SOURCE, Wanted("tokens", 2, 50, 0), CPU, tmp_path, LogReporter())
    values = np.repeat(np.arange(90.0), np.arange(90) % 3 + 1)
    assert source.spread["variance_within"] == pytest.approx(0, abs=1e-9)  # all tokens of an example are alike
    assert source.spread["variance_between"] == pytest.approx(2 * values.var())
