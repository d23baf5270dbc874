"""A column of symbols: one-hot over the training alphabet, masked, and what new texts that do not fit become."""

import numpy as np
import pandas as pd
import torch
from hypothesis import given
from hypothesis import strategies as st

from orca_cli.data.table.series import fit_symbols
from tests.properties import examples
from tests.tasks.builders import check_inputs, reloaded

N = 40
DRAW = np.random.default_rng(0)
TEXTS = ["".join(DRAW.choice(list("ACGT"), 1 + i % 9)) for i in range(N)]


def texts_of(x, valid, alphabet):
    """Return the texts that one-hot columns stand for, `.` where a step has no symbol."""
    texts = []
    for one, known in zip(x.numpy(), valid.numpy(), strict=True):
        assert (one[:, ~known] == 0).all()
        columns = one[:, known]
        assert set(np.unique(columns)) <= {0.0, 1.0}
        assert (columns.sum(0) <= 1).all()
        texts.append("".join(alphabet[column.argmax()] if column.any() else "." for column in columns.T))
    return texts


def test_new_texts_that_do_not_fit_are_reported_and_read(build, reporter, tmp_path):
    new = ["ACGT", "ANNA", "ACGTACGTACGTA", "xX", "T"]
    for name, texts in (("train", TEXTS), ("test", new)):
        kinds = [["yes", "no"][i % 2] for i in range(len(texts))]
        pd.DataFrame({"dna": texts, "kind": kinds}).to_csv(tmp_path / f"{name}.csv", index=False)
    settings = {"train": "train.csv", "test": "test.csv", "sequence": "dna", "target": "kind"}
    task = build("table", **settings)
    preprocessing = reloaded(task, tmp_path / "run")
    raw = {"dna": np.array(new, dtype=object)}
    x, valid = preprocessing.inputs(raw)
    assert texts_of(x, valid, "ACGT") == ["ACGT", "A..A", "ACGTACGTA", "..", "T"]
    lines = {
        "longer than 9 symbols and cut at the end": 1,
        "with a symbol that training lacks (NXx): read as none of its symbols": 2,
    }
    assert preprocessing.remarks(raw) == lines
    check_inputs((x, valid), task.open_test())
    assert reporter.lines[-2:] == [
        f"test split: {count} sample{'s'[: count - 1]} {line}" for line, count in lines.items()
    ]
    assert build("table", **settings, length=12).input_shape == (4, 12)


@examples(50)
@given(
    train=st.lists(st.text("abcAé𝔊", min_size=1, max_size=8), min_size=1, max_size=8),
    new=st.lists(st.text("abcAé𝔊xyz", min_size=1, max_size=12), min_size=1, max_size=8),
)
def test_any_text_comes_back(train, new):
    symbols, _ = fit_symbols("s", np.array(train, dtype=object), np.arange(len(train)), None, "t")
    assert symbols.alphabet == "".join(sorted(set("".join(train))))
    for texts in (train, new):
        x = symbols.encode(np.array(texts, dtype=object), "t")
        rows = np.arange(len(texts))
        expected = ["".join(c if c in symbols.alphabet else "." for c in text)[: symbols.length] for text in texts]
        assert texts_of(torch.from_numpy(x[rows]), torch.from_numpy(x.valid(rows)), symbols.alphabet) == expected
