"""Nats per frame: against NumPy, by hand, and on the real chorales; and means over chunks as the published code took them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from orca_cli import parts
from orca_cli.exceptions import ConfigError, DataError, NonFiniteError
from orca_cli.losses.masked import NatsPerFrameLoss
from orca_cli.scoring.chunks import ChunkMean
from orca_cli.scoring.classification import MacroF1, ZeroOne
from orca_cli.scoring.multilabel import MeanAUROC
from orca_cli.scoring.sequences import NatsPerFrame

NAN = float("nan")
JSB = Path(os.environ.get("ORCA_TEST_DATA", Path(__file__).parents[3] / "shared")) / "data" / "jsb" / "JSB_Chorales.mat"


def pieces(lengths=(5, 9, 2), k=4, longest=9, seed=0):
    rng = np.random.default_rng(seed)
    targets = np.full((len(lengths), k, longest), np.nan)
    for target, length in zip(targets, lengths, strict=True):
        target[:, :length] = rng.integers(0, 2, (k, length))
    return rng.normal(size=targets.shape) * 3, targets


def nats(outputs, targets):
    p = 1 / (1 + np.exp(-outputs))
    return -(targets * np.log(p) + (1 - targets) * np.log(1 - p))


def test_nats_per_frame_agree_with_numpy_and_long_pieces_count_for_more():
    outputs, targets = pieces()
    expected = np.nansum(nats(outputs, targets)) / 16
    with_padding = nats(outputs, np.nan_to_num(targets)).mean()
    given = torch.from_numpy(outputs), torch.from_numpy(targets)
    score = NatsPerFrame()(*given)
    assert (score.value, score.n, score.skipped) == (pytest.approx(expected), 16, 11)
    assert score.others == {"mean cross-entropy with padding": pytest.approx(with_padding)}
    released = NatsPerFrame(count_padding=True)(*given)
    assert (released.value, released.n, released.skipped) == (pytest.approx(with_padding), 27, 0)
    assert released.others == {"nats per frame": pytest.approx(expected)}
    # One batch of the loss is one split of the error.
    assert NatsPerFrameLoss()(*given).item() == pytest.approx(expected)
    assert NatsPerFrameLoss(count_padding=True)(*given).item() == pytest.approx(with_padding)


def test_single_unknown_labels_are_left_out_of_their_frame():
    targets = torch.tensor([[[1.0, NAN], [NAN, NAN]]])
    assert NatsPerFrame()(torch.zeros(1, 2, 2), targets).value == pytest.approx(np.log(2))
    assert NatsPerFrame()(torch.zeros(1, 2, 2), targets).n == 1


def test_what_is_no_number_is_told_where_it_counts():
    outputs, targets = (torch.from_numpy(a) for a in pieces())
    outputs[0, :, 7:] = NAN  # padding
    assert NatsPerFrame()(outputs, targets).value > 0
    with pytest.raises(NonFiniteError, match="8 outputs"):
        NatsPerFrame(count_padding=True)(outputs, targets)
    outputs[0, 1, 0] = float("inf")
    with pytest.raises(NonFiniteError, match="1 outputs"):
        NatsPerFrame()(outputs, targets)
    with pytest.raises(DataError, match="do not fit"):
        NatsPerFrame()(outputs, targets.transpose(1, 2))
    nothing = NatsPerFrame()(torch.zeros(1, 2, 3), torch.full((1, 2, 3), NAN))
    assert (nothing.value, nothing.n, nothing.skipped) == (None, 0, 3)


def test_padding_trains_nothing():
    outputs, targets = (torch.from_numpy(a) for a in pieces())
    outputs.requires_grad_()
    NatsPerFrameLoss()(outputs, targets).backward()
    unknown = targets.isnan()
    assert not outputs.grad[unknown].any()
    assert outputs.grad[~unknown].all()


def test_constants_of_sequences():
    _, targets = (torch.from_numpy(a) for a in pieces(lengths=(40, 90, 20), longest=90))
    targets[:, 3] = targets[:, 3].where(targets[:, 3].isnan(), 0.0)
    for error in (NatsPerFrame(), NatsPerFrame(count_padding=True)):
        constant = error.constant(targets, 4)
        assert constant.shape == (4, 90)
        assert constant.isfinite().all()
        value = error(constant.expand(targets.shape), targets).value
        for shift in (0.3, -0.3):
            assert value < error((constant + shift).expand(targets.shape), targets).value
    plain, padded = (NatsPerFrame(count_padding=c).constant(targets, 4) for c in (False, True))
    released = NatsPerFrame(count_padding=True)
    assert released(padded.expand(3, 4, 90), targets).value < released(plain.expand(3, 4, 90), targets).value


@pytest.mark.skipif(not JSB.exists(), reason=f"no file {JSB}; set ORCA_TEST_DATA")
def test_frequencies_of_keys_cost_11_09_nats_per_frame_of_the_real_chorales():
    from scipy.io import loadmat

    content = loadmat(JSB)
    frames = {part: [np.asarray(piece) for piece in content[f"{part}data"][0]] for part in ("train", "valid", "test")}

    def targets(chorales):
        padded = np.full((len(chorales), 88, 160), np.nan, np.float32)
        for row, piece in zip(padded, chorales, strict=True):
            row[:, : len(piece) - 1] = piece[1:].T
        return torch.from_numpy(padded)

    constant = NatsPerFrame().constant(targets(frames["train"] + frames["valid"]), 88)
    test = targets(frames["test"])
    score = NatsPerFrame()(constant.expand(test.shape), test)
    assert score.n == 4648
    assert score.value == pytest.approx(11.09, abs=0.02)


def test_chunks_of_the_release_hold_whole_batches_and_count_alike():
    targets = torch.zeros(2120, dtype=torch.long)
    wrong = torch.zeros(2120)
    wrong[:504] = 1  # half of the first chunk of 1008
    wrong[2016:] = 1  # all of the last one, of 104
    outputs = torch.stack([1 - wrong, wrong], dim=1)
    score = ChunkMean(ZeroOne(), size=1000, batch=16)(outputs, targets)
    assert (score.value, score.n, score.skipped) == (pytest.approx((0.5 + 0 + 1) / 3), 3, 0)
    assert score.others == {"0-1 error, whole split": pytest.approx(608 / 2120)}
    dropped = ChunkMean(ZeroOne(), size=1000, batch=16, drop_tail=True)(outputs, targets)
    assert (dropped.value, dropped.n, dropped.skipped) == (pytest.approx(0.25), 2, 1)
    one = ChunkMean(ZeroOne(), size=10_000, drop_tail=True)(outputs, targets)
    assert (one.value, one.n, one.skipped) == (pytest.approx(608 / 2120), 1, 0)


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
    class Sizes:
        name, percent = "size", False

        def __call__(self, outputs, targets, groups=None):
            self.seen.append(len(outputs))
            return ZeroOne()(outputs, targets, groups)

    sizes = Sizes()
    sizes.seen = []
    ChunkMean(sizes, 1000, batch, drop_tail)(torch.zeros(n, 2), torch.zeros(n, dtype=torch.long))
    assert sizes.seen[0] == n  # the whole split
    assert (len(sizes.seen) - 1, sizes.seen[-1]) == (chunks, last)


def test_chunks_pass_records_on_and_skip_what_is_undefined():
    outputs = torch.tensor([[0.1], [0.9], [0.5], [0.7]])
    score = ChunkMean(MeanAUROC(), size=2)(outputs, torch.tensor([[0.0], [1.0], [1.0], [1.0]]))
    assert (score.value, score.n, score.skipped) == (0.0, 1, 1)
    error = ChunkMean(MacroF1(by="records"), size=2)
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    score = error(logits, torch.tensor([0, 0, 1, 1]), torch.tensor([4, 4, 7, 7]))
    assert score.value == 0
    assert set(score.others) == {"1 - macro F1 of records, whole split", "1 - macro F1 of samples, whole split"}
    assert error.constant(torch.tensor([1, 1, 0]), 2).tolist() == [0, 1]


def test_chunks_are_built_from_nested_nodes():
    node = {
        "_target_": "orca_cli.scoring.chunks.ChunkMean",
        "error": {"_target_": "orca_cli.scoring.classification.MacroF1", "num_classes": 4},
        "batch": 4,
    }
    parts.check(node, "task.error")
    assert parts.build(node, "task.error").name == "1 - macro F1, mean over chunks"
    with pytest.raises(ConfigError, match=r"task\.error\.batch: 0"):
        parts.build(node | {"batch": 0}, "task.error")
    with pytest.raises(ConfigError, match=r"task\.error\.error: 'F1' is not an error"):
        parts.build(node | {"error": "F1"}, "task.error")
