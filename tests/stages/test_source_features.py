"""The source as labelled points: which points, their labels and cache; and the spread of tokens."""

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
    """A body that embeds example i as i in every token; example i has i % 3 + 1 tokens of 4."""

    modality, source_resolution, calls = "text", "body", 0
    checkpoint_digest = preparation_digest = "0"

    def embed_source(self, inputs):
        Counting.calls += 1
        numbers = torch.tensor([float(text) for text in inputs])
        mask = torch.arange(4) < (numbers % 3 + 1).unsqueeze(1)
        x = numbers.view(-1, 1, 1).expand(-1, 4, 2).clone()
        return Tokens(x=x, mask=mask, grid=(4,))


EXAMPLES = Examples(
    inputs=[str(i) for i in range(90)], labels=np.arange(90) % 5, class_names=list("abcde")
)
SOURCE = SourceData(modality="text", digest="digest", read=lambda: EXAMPLES)


def embedded(folder, source=SOURCE, device=CPU, body=None, all_examples=True, **changes):
    wanted = {"features": "tokens", "length": 2, "points": 10_000, "seed": 0} | changes
    return source_features(
        Counting(**(body or {})),
        source,
        Wanted(**wanted),
        device=device,
        cache_folder=folder,
        reporter=LogReporter(),
        all_examples=all_examples,
    )


def test_every_token_but_padding_is_a_point_with_its_label(tmp_path):
    source = embedded(tmp_path)
    assert len(source.cloud.x) == sum(i % 3 + 1 for i in range(90))
    assert torch.equal(source.cloud.x[:, 0].long() % 5, source.cloud.labels)
    values = np.repeat(np.arange(90.0), np.arange(90) % 3 + 1)
    # All tokens of an example are equal.
    assert source.spread["variance_within"] == pytest.approx(0, abs=1e-9)
    assert source.spread["variance_between"] == pytest.approx(2 * values.var())


def test_a_sequence_is_a_point_where_it_is_long_enough(tmp_path):
    cloud = embedded(tmp_path, features="sequence").cloud
    assert cloud.x.shape == (60, 4)  # two thirds of the examples have two tokens or more


def test_sequences_that_are_all_too_short_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"align\.features"):
        embedded(tmp_path, features="sequence", length=4)


def test_a_draw_is_seeded_and_without_replacement(tmp_path):
    drawn = embedded(tmp_path, points=50)
    assert len(drawn.cloud.x) == 50
    assert torch.equal(drawn.cloud.x, embedded(tmp_path / "anew", points=50).cloud.x)
    other = embedded(tmp_path, points=50, seed=1)
    assert not torch.equal(drawn.cloud.x, other.cloud.x)
    assert drawn.key != other.key
    counts, all_counts = (
        cloud.x[:, 0].long().bincount(minlength=90)
        for cloud in (drawn.cloud, embedded(tmp_path).cloud)
    )
    assert (counts <= all_counts).all()


def test_features_are_computed_once_for_a_body_and_a_device(tmp_path, monkeypatch):
    monkeypatch.setattr(Counting, "calls", 0)
    key = embedded(tmp_path).key
    unread = SourceData(
        modality="text", digest="digest", read=lambda: pytest.fail("the examples were read")
    )
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
    dry = embedded(tmp_path, all_examples=False, points=10)
    assert len(dry.cloud.x) == 10
    assert Counting.calls <= 4  # of 30 batches
    assert torch.equal(dry.cloud.x[:, 0].long() % 5, dry.cloud.labels)
    # A run does not use the features of the dry run before it.
    run = embedded(tmp_path, points=10)
    assert run.key != dry.key
    assert Counting.calls >= 30
    assert torch.equal(run.cloud.x, embedded(tmp_path / "anew", points=10).cloud.x)


@pytest.mark.parametrize("moment", [torch.mean, torch.std])
def test_the_gaussian_control_has_the_moments_of_the_points(tmp_path, moment):
    source, gaussian = embedded(tmp_path), embedded(tmp_path, cloud="gaussian")
    assert gaussian.key != source.key
    points, noise = source.cloud.x, gaussian.cloud.x
    assert not torch.isin(noise, points).any()
    torch.testing.assert_close(moment(noise, 0), moment(points, 0), rtol=0.2, atol=0)


def test_the_control_of_clusters_labels_neighbours_alike(tmp_path):
    clusters = embedded(tmp_path, labels="clusters").cloud
    order = torch.argsort(clusters.x[:, 0], stable=True)
    # They are intervals of the line that the points are on.
    assert len(torch.unique_consecutive(clusters.labels[order])) == 5


def test_the_control_of_shuffled_labels_has_as_many_of_each(tmp_path):
    cloud, shuffled = embedded(tmp_path).cloud, embedded(tmp_path, labels="shuffled").cloud
    assert torch.equal(shuffled.labels.bincount(), cloud.labels.bincount())
    assert not torch.equal(shuffled.labels, cloud.labels)


TOKENS = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0))


def spread(x, mask=None):
    if mask is None:
        mask = torch.ones_like(x[..., 0], dtype=torch.bool)
    return collapse(Tokens(x=x, mask=mask, grid=(5,)))


def test_collapse_has_the_share_of_variance_between_tokens():
    alike = TOKENS[:, :1].expand(6, 5, 4)
    centred = TOKENS - TOKENS.mean(1, keepdim=True)
    assert spread(alike)["token_variance"] == pytest.approx(0, abs=1e-12)
    assert spread(centred)["token_variance"] == pytest.approx(1)


def test_variances_within_and_between_add_up_to_the_whole():
    measured = spread(TOKENS)
    total = TOKENS.flatten(0, 1).var(0, correction=0).sum().item()
    assert measured["variance_within"] + measured["variance_between"] == pytest.approx(
        total, rel=1e-5
    )


def test_padding_has_no_part_in_the_collapse():
    mask = torch.arange(5).expand(6, 5) < 3
    padded = torch.where(mask.unsqueeze(-1), TOKENS, 1e6)
    assert spread(padded, mask) == pytest.approx(spread(TOKENS[:, :3]))
