"""The source as labelled points: which points, with which labels, what is kept of them; and how spread tokens are."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Examples, SourceData, Tokens
from orca_cli.stages.source_features import Wanted, collapse, source_features
from orca_cli.terminal import LogReporter

CPU = torch.device("cpu")


class Counting(SimpleNamespace):
    """A body whose embedding of example i is i in every token; example i has i % 3 + 1 tokens of 4."""

    modality, source_resolution, calls = "text", "body", 0
    checkpoint_digest = preparation_digest = "0"

    def embed_source(self, inputs):
        Counting.calls += 1
        numbers = torch.tensor([float(text) for text in inputs])
        mask = torch.arange(4) < (numbers % 3 + 1).unsqueeze(1)
        return Tokens(numbers.view(-1, 1, 1).expand(-1, 4, 2).clone(), mask, (4,))


EXAMPLES = Examples([str(i) for i in range(90)], np.arange(90) % 5, list("abcde"))
SOURCE = SourceData("text", "digest", lambda: EXAMPLES)


def embedded(folder, source=SOURCE, device=CPU, body=None, whole=True, **changes):
    request = Wanted(**{"features": "tokens", "length": 2, "points": 10_000, "seed": 0} | changes)
    return source_features(
        Counting(**(body or {})), source, request, device, folder, LogReporter(), whole
    )


def test_every_token_but_padding_is_a_point_with_its_label(tmp_path):
    source = embedded(tmp_path)
    assert len(source.cloud.x) == sum(i % 3 + 1 for i in range(90))
    assert torch.equal(source.cloud.x[:, 0].long() % 5, source.cloud.labels)
    values = np.repeat(np.arange(90.0), np.arange(90) % 3 + 1)
    assert source.spread["variance_within"] == pytest.approx(
        0, abs=1e-9
    )  # all tokens of an example are alike
    assert source.spread["variance_between"] == pytest.approx(2 * values.var())
    cloud = embedded(tmp_path, features="sequence").cloud
    assert cloud.x.shape == (60, 4)  # two thirds of the examples have two tokens or more
    with pytest.raises(ConfigError, match=r"align\.features"):
        embedded(tmp_path, features="sequence", length=4)


def test_a_draw_is_seeded_and_without_replacement(tmp_path):
    source = embedded(tmp_path, points=50)
    other, whole = (embedded(tmp_path, **one) for one in ({"points": 50, "seed": 1}, {}))
    assert len(source.cloud.x) == 50
    assert torch.equal(source.cloud.x, embedded(tmp_path / "anew", points=50).cloud.x)
    assert not torch.equal(source.cloud.x, other.cloud.x)
    assert source.key != other.key
    some, every = (
        cloud.x[:, 0].long().bincount(minlength=90) for cloud in (source.cloud, whole.cloud)
    )
    assert (some <= every).all()


def test_features_are_computed_once_for_a_body_and_a_device(tmp_path, monkeypatch):
    monkeypatch.setattr(Counting, "calls", 0)
    key = embedded(tmp_path).key
    unread = SourceData("text", "digest", lambda: pytest.fail("the examples were read"))
    embedded(tmp_path, unread)
    assert Counting.calls == 2
    (file,) = tmp_path.rglob("tensors.safetensors")
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(content)
    cloud = embedded(tmp_path).cloud
    assert torch.equal(cloud.x[:, 0].long() % 5, cloud.labels)
    assert list(tmp_path.rglob("*.bad-*"))
    embedded(tmp_path, device=torch.device("meta"))
    assert Counting.calls == 6
    others = {
        embedded(tmp_path, body={f"{name}_digest": "1"}).key
        for name in ("checkpoint", "preparation")
    }
    assert (len(others - {key}), Counting.calls) == (2, 10)


def test_a_dry_run_takes_its_points_from_few_examples(tmp_path, monkeypatch):
    monkeypatch.setattr(Counting, "calls", 0)
    monkeypatch.setattr("orca_cli.stages.source_features._BATCH", 3)
    some = embedded(tmp_path, whole=False, points=10)
    assert (len(some.cloud.x), Counting.calls <= 4) == (10, True)  # of 30 batches
    assert torch.equal(some.cloud.x[:, 0].long() % 5, some.cloud.labels)
    whole = embedded(tmp_path, points=10)
    assert (whole.key != some.key, Counting.calls >= 30) == (True, True)
    assert torch.equal(whole.cloud.x, embedded(tmp_path / "anew", points=10).cloud.x)


def test_controls_have_a_gaussian_in_the_place_of_the_points_or_clusters_or_shuffled_labels(
    tmp_path,
):
    source, gaussian = embedded(tmp_path), embedded(tmp_path, cloud="gaussian")
    assert gaussian.key != source.key
    points, noise = source.cloud.x, gaussian.cloud.x
    assert not torch.isin(noise, points).any()
    for moment in (torch.mean, torch.std):
        torch.testing.assert_close(moment(noise, 0), moment(points, 0), rtol=0.2, atol=0)
    cloud, clusters, shuffled = (
        embedded(tmp_path, labels=one).cloud for one in ("given", "clusters", "shuffled")
    )
    order = torch.argsort(clusters.x[:, 0], stable=True)
    assert (
        len(torch.unique_consecutive(clusters.labels[order])) == 5
    )  # intervals of the line on which the points lie
    assert torch.equal(shuffled.labels.bincount(), cloud.labels.bincount())
    assert not torch.equal(shuffled.labels, cloud.labels)


def test_collapse_has_the_share_of_variance_between_tokens():
    x = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0))
    alike, centred = x[:, :1].expand(6, 5, 4), x - x.mean(1, keepdim=True)
    mask = torch.arange(5).expand(6, 5) < 3
    padded = torch.where(mask.unsqueeze(-1), x, 1e6)
    none, every, known, first, before = (
        collapse(
            Tokens(
                value,
                torch.ones_like(value[..., 0], dtype=torch.bool) if seen is None else seen,
                (5,),
            )
        )
        for value, seen in (
            (alike, None),
            (centred, None),
            (padded, mask),
            (x[:, :3], None),
            (x, None),
        )
    )
    assert (none["token_variance"], every["token_variance"]) == (
        pytest.approx(0, abs=1e-12),
        pytest.approx(1),
    )
    assert known == pytest.approx(first)
    total = x.flatten(0, 1).var(0, correction=0).sum().item()
    assert before["variance_within"] + before["variance_between"] == pytest.approx(total, rel=1e-5)
