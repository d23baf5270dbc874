"""What published numbers are: errors as papers and released code take them, by hand and on the real chorales."""

import os
from pathlib import Path

import numpy as np
import pytest

from orca_cli.scoring.chunks import ChunkMean
from orca_cli.scoring.classification import ZeroOne
from orca_cli.scoring.distances import LongRangeMAE
from orca_cli.scoring.masks import MaskError
from orca_cli.scoring.sequences import NatsPerFrame

NAN = float("nan")
JSB = Path(os.environ.get("ORCA_TEST_DATA", Path(__file__).parents[3] / "shared")) / "data" / "jsb" / "JSB_Chorales.mat"


def test_averaging_a_map_with_its_transpose_in_place_twice_is_three_quarters():
    output = np.random.default_rng(0).uniform(1, 9, (6, 6))
    twice = output.copy()
    for _ in range(2):
        for i in range(6):
            for j in range(i + 1, 6):
                twice[i, j] = (twice[i, j] + twice[j, i]) / 2
    target = np.full((1, 1, 6, 6), NAN)
    target[0, 0, 1, 4] = 5.0
    score = LongRangeMAE(separation=1, symmetrize_twice=True)(output[None, None], target)
    assert score.value == pytest.approx(abs(twice[1, 4] - 5.0))


def test_the_released_error_of_masks_is_half_of_both_rates():
    # 2 positives, one missed; 4 negatives, one false alarm; 2 ignored pixels become true negatives.
    outputs = np.array([1.0, -1.0, 3.0, -1.0, -2.0, -3.0, 9.0, 9.0]).reshape(1, 1, 2, 4)
    targets = np.array([1, 1, 0, 0, 0, 0, NAN, NAN]).reshape(1, 1, 2, 4)
    assert MaskError("balanced")(outputs, targets).value == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert MaskError("balanced", count_ignored=True)(outputs, targets).value == pytest.approx((1 / 2 + 1 / 6) / 2)


@pytest.mark.skipif(not JSB.exists(), reason=f"no file {JSB}; set ORCA_TEST_DATA")
def test_frequencies_of_keys_cost_11_09_nats_per_frame_of_the_real_chorales():
    from scipy.io import loadmat

    content = loadmat(JSB)
    frames = {part: [np.asarray(piece) for piece in content[f"{part}data"][0]] for part in ("train", "valid", "test")}

    def targets(chorales):
        padded = np.full((len(chorales), 88, 160), np.nan, np.float32)
        for row, piece in zip(padded, chorales, strict=True):
            row[:, : len(piece) - 1] = piece[1:].T
        return padded

    constant = NatsPerFrame().constant(targets(frames["train"] + frames["valid"]), 88)
    test = targets(frames["test"])
    score = NatsPerFrame()(np.broadcast_to(constant, test.shape), test)
    assert score.n == 4648
    assert score.value == pytest.approx(11.09, abs=0.02)


@pytest.mark.parametrize(
    ("n", "batch", "drop_tail", "chunks", "last"),
    [
        (100_000, 16, False, 100, 208),  # satellite images
        (100_000, 32, True, 97, 1024),  # 672 samples dropped
        (10_000, 32, True, 9, 1024),  # 784
        (149_400, 16, True, 148, 1008),  # 216
        (32_470, 4, False, 33, 470),  # electrocardiograms
        (1118, 8, True, 1, 1000),  # 118
        (1008, 32, False, 1, 1008),
        (2032, 32, True, 1, 1024),  # 31 full batches and one of 16: 32 x 16 is no full chunk
    ],
)
def test_chunks_are_those_of_the_published_code(n, batch, drop_tail, chunks, last):
    class Sizes(ZeroOne):
        seen = []

        def __call__(self, outputs, targets, groups=None):
            self.seen.append(len(outputs))
            return super().__call__(outputs, targets)

    score = ChunkMean(Sizes(), 1000, batch, drop_tail)(np.zeros((n, 2)), np.zeros(n, int))
    assert Sizes.seen[0] == n  # the whole split
    assert (score.n, len(Sizes.seen) - 1, Sizes.seen[-1]) == (chunks, chunks, last)
