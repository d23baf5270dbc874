"""What published numbers are: errors as papers and released code take them, by hand."""

import numpy as np
import pytest

from orca_cli.scoring.chunks import ChunkMean
from orca_cli.scoring.classification import ZeroOne
from orca_cli.scoring.distances import LongRangeMAE

NAN = float("nan")


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


@pytest.mark.parametrize(
    ("n", "batch", "drop_tail", "chunks", "last"),
    [
        (100_000, 16, False, 100, 208),  # satellite images
        (100_000, 32, True, 97, 1024),  # 672 samples dropped
        (32_470, 4, False, 33, 470),  # electrocardiograms
        (1118, 8, True, 1, 1000),  # 118
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
