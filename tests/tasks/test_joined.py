"""Several splits as one: every sample where it belongs, with its mask, its record and its augmentation."""

import numpy as np
import torch

from orca_cli.interfaces import Batch
from orca_cli.tasks.shared.fraction import Joined
from orca_cli.tasks.shared.samples import ArraySamples


def split(start, stop, masked=False, groups=None):
    """Return samples whose inputs and targets are their numbers."""
    x = np.arange(start, stop, dtype=np.float32)[:, None, None] * np.ones((1, 1, 4), np.float32)
    valid = np.tile(np.arange(4) < 3, (stop - start, 1)) if masked else None
    return ArraySamples(x, np.arange(start, stop), valid, groups=groups)


def test_samples_come_in_the_order_that_is_asked_for():
    joined = Joined([split(0, 5), split(5, 7), split(7, 11)])
    assert len(joined) == 11
    assert joined.targets().tolist() == list(range(11))
    for rows in ([10, 0, 6, 5, 4, 7, 0], [6], [3, 2]):
        batch = joined.batch(np.array(rows))
        assert batch.y.tolist() == batch.x[:, 0, 0].tolist() == rows
        assert batch.valid is None


def test_what_has_no_mask_beside_what_has_one_is_valid_throughout():
    joined = Joined([split(0, 3), split(3, 6, masked=True)])
    batch = joined.batch(np.array([4, 1, 5]))
    assert batch.valid.tolist() == [[True] * 3 + [False], [True] * 4, [True] * 3 + [False]]
    assert joined.batch(np.array([1])).valid is None


def test_records_are_those_of_the_parts_where_all_have_some():
    first, second = (np.array(groups) for groups in ([3, 3, 1], [2, 2, 2]))
    joined = Joined([split(0, 3, groups=first), split(3, 6, groups=second)])
    assert joined.groups().tolist() == [3, 3, 1, 2, 2, 2]
    assert Joined([split(0, 3, groups=first), split(3, 6)]).groups() is None
    assert joined.digest() != Joined([split(3, 6, groups=second), split(0, 3, groups=first)]).digest()


class Noisy:
    """Samples that add what the generator gives."""

    def __len__(self):
        return 2

    def batch(self, indices, augment=None):
        noise = 0.0 if augment is None else float(augment.random())
        return Batch(torch.full((len(indices), 1, 4), noise), torch.zeros(len(indices)))


def test_augmentation_reaches_every_part():
    joined = Joined([Noisy(), Noisy()])
    batch = joined.batch(np.array([3, 0]), np.random.default_rng(0))
    drawn = np.random.default_rng(0).random(2).tolist()
    assert batch.x[:, 0, 0].tolist() == torch.tensor(drawn[::-1]).tolist()
    assert joined.batch(np.array([3, 0])).x.abs().max() == 0
