"""Tables without code: what is read, how columns become numbers, how rows are split, and what is refused."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from orca_cli.exceptions import ConfigError, DataError
from tests.tasks.builders import check_inputs, every, in_parts, refused, reloaded, splits

N = 60


def frame(n=N, start=0):
    i = np.arange(start, start + n)
    columns = {
        "row": i,
        "weight": (i * 7 % 23) + 0.5,
        "colour": np.array(["red", "green", "blue"])[i * 5 % 3],
        "code": [f"{value:03d}" for value in i % 4],
        "patient": [f"p{value}" for value in i // 4],
        "kind": np.array(["yes", "no"])[i % 2],
    }
    return pd.DataFrame(columns)


@pytest.fixture
def read(tmp_path, build):
    """Write a table and load it."""

    def call(table, name="t.csv", target="kind", **settings):
        path = tmp_path / name
        if isinstance(table, bytes):
            path.write_bytes(table)
        else:
            write = table.to_parquet if name.endswith(".parquet") else table.to_csv
            write(path, index=False)
        return build("table", train=name, target=target, **settings)

    return call


def column(samples, place=0):
    """Return a feature of all samples of a split."""
    return every(samples).x[:, 0, place].numpy()


def in_order(task, place=-1):
    """Return the features of all rows [n, F], sorted by one of them."""
    x = torch.cat([every(samples).x[:, 0] for samples in splits(task)]).numpy()
    return x[np.argsort(x[:, place])]


def test_a_table_becomes_sequences_of_features_in_three_disjoint_stratified_splits(read):
    task = read(frame(), normalize=False, ignore=["patient"])
    assert (task.input_shape, task.class_names) == ((1, 1 + 1 + 3 + 1), ("no", "yes"))
    assert list(map(len, splits(task))) == [42, 9, 9]
    x = in_order(task, 0)
    rows = np.arange(N)
    colours = np.eye(3)[np.array([2, 1, 0])[rows * 5 % 3]]  # blue, green, red
    np.testing.assert_array_equal(
        x, np.column_stack([rows, rows * 7 % 23 + 0.5, colours, rows % 4])
    )
    for samples in splits(task):
        assert samples.targets().tolist() == [1 - row % 2 for row in column(samples)]
        assert np.ptp(np.bincount(samples.targets())) <= 1
    normalised = read(frame(), features=["weight", "colour"])
    x = every(normalised.train).x[:, 0]
    assert x[:, 0].mean().abs() < 1e-5
    assert x[:, 0].std(correction=0) == pytest.approx(1, abs=1e-5)
    assert set(x[:, 1:].unique().tolist()) == {0, 1}
    assert (
        read(frame(), features=["weight", "colour"], split_seed=1).train.digest()
        != normalised.train.digest()
    )


FORMATS = {
    "t.parquet": (lambda table: table.astype({"code": "int", "colour": "category"}), {}),
    "semicolons.csv": (
        lambda table: table.to_csv(sep=";", decimal=",").encode("utf-8-sig"),
        {"decimal": ","},
    ),
    "utf16.tsv": (
        lambda table: table.to_csv(index=False, sep="\t").encode("utf-16"),
        {"encoding": "utf-16"},
    ),
    "latin.txt": (
        lambda table: table.to_csv(index=False, sep="|").encode("latin-1"),
        {"encoding": "latin-1"},
    ),
}


def test_formats_hold_the_same_table(read):
    table = frame().replace({"colour": "red"}, "r\u00f6t")
    plain = every(read(table).train).x
    for name, (write, settings) in FORMATS.items():
        assert every(read(write(table), name, **settings).train).x.equal(plain)


def test_missing_fields_become_the_training_mean_or_a_text_of_their_own(read):
    table = frame().astype(object)
    table.loc[::5, "weight"] = None
    table.loc[1::5, "colour"] = "?"
    table["nothing"] = ""
    task = read(
        table, features=["weight", "colour", "nothing", "row"], normalize=False, gap_indicator=True
    )
    x, rows = in_order(task), column(task.train, -1).astype(int)
    assert x[0, 0] == pytest.approx(np.mean([row * 7 % 23 + 0.5 for row in rows if row % 5]))
    np.testing.assert_array_equal(
        x[:, 1], np.arange(N) % 5 == 0
    )  # nothing is missing in `row`, the last column
    assert x[1, 2:6].tolist() == [0, 0, 0, 1]  # blue, green, red, missing
    assert x.shape == (N, 7)
    assert f"weight ({(rows % 5 == 0).sum()})" in task.note


def test_several_columns_are_labels(read):
    table = (
        frame()
        .assign(a=np.arange(N) // 3 % 2, b=np.array(["true", "False"])[np.arange(N) // 5 % 2])
        .astype(object)
    )
    task = read(
        table, target=None, kind="labels", targets=["a", "b"], features=["row"], normalize=False
    )
    rows = column(task.train).astype(int)
    assert task.train.targets()[:, 0].tolist() == table.a[rows].tolist()
    assert task.train.targets()[:, 1].tolist() == [word == "true" for word in table.b[rows]]
    table.loc[3, "a"] = None
    with refused(r"t\.csv\[a\]: 1 rows have no target, the first is row 4", DataError):
        read(table, target=None, kind="labels", targets=["a", "b"])


def test_the_kind_is_that_of_the_column_to_be_predicted(read):
    for target, kind, names in (
        (np.array([3, 10, 7])[np.arange(N) % 3], "classes", ("3", "7", "10")),  # whole numbers
        (
            np.array(["01", "1", "no"])[np.arange(N) % 3],
            "classes",
            ("01", "1", "no"),
        ),  # zeros in front
        (np.arange(N) % 21, "values", ("kind",)),  # many whole numbers
        (np.arange(N) % 3 / 2, "values", ("kind",)),
    ):
        task = read(frame().assign(kind=target), features=["row"], normalize=False)
        assert (task.kind, task.class_names) == (kind, names)
        held, expected = task.train.targets(), target[column(task.train).astype(int)]
        if kind == "values":
            np.testing.assert_allclose(held[:, 0], expected, rtol=1e-6)
            assert task.target_scale.std.tolist() == pytest.approx([expected.std()], rel=1e-5)
        else:
            assert [names[k] for k in held] == list(map(str, expected))


def test_the_test_file_is_read_at_the_end_only_but_its_header_at_once(read, tmp_path):
    other = tmp_path / "test.csv"
    for change, message in (
        (
            {"kind": "maybe"},
            r"test\.csv\[kind\]: 20 labels have no training sample, the first is maybe",
        ),
        ({"weight": "heavy"}, r"test\.csv\[weight\]: 'heavy' in row 1 is not a number"),
    ):
        frame(20, 100).assign(**change).to_csv(other, index=False)
        task = read(frame(), test="test.csv")
        with refused(message, DataError):
            task.open_test()
    frame(20, 100).drop(columns="weight").to_csv(other, index=False)
    with refused(r"task\.test: test\.csv has no column 'weight'", DataError):
        read(frame(), test="test.csv")


HEAD = b"a,b,kind\n"
BAD = [
    (HEAD + b"1,2,x\n1,2\n" * 20, {}, r"t\.csv: line 3 has 2 fields, the header has 3"),
    (HEAD + b'1,"2,x\n' * 20, {}, r"t\.csv: is not a table: .* check its quotes"),
    (
        HEAD + b"1,\xff,x\n" * 20,
        {},
        r"is not text in utf-8; store it as UTF-8, or .* task\.encoding=",
    ),
    (HEAD + b"1,inf,x\n2,3,y\n" * 20, {}, r"t\.csv\[b\]: \d+ values are NaN or infinite"),
    (frame(), {"target": "knd"}, r"task\.target: t\.csv has no column 'knd'; did you mean 'kind'"),
    (
        frame(),
        {"kind": "values"},
        r"t\.csv\[kind\]: 'yes' in row 1 is not a number; .*task\.kind=classes",
    ),
    (
        frame(),
        {"features": ["kind"]},
        r"task\.features: 'kind' is in task.target too; a column has one role",
    ),
    (frame(), {"targets": ["row"]}, r"task\.targets: does not go with task\.target; remove one"),
    (
        frame(),
        {"target": None, "targets": ["row", "row"]},
        r"task\.targets: 'row' is in task\.targets too",
    ),
    (frame(), {"group": "kind"}, r"task\.group: 'kind' is in task\.target too"),
    (
        frame(),
        {"sequence": "colour", "id": "patient"},
        r"task\.id: does not go with task\.sequence",
    ),
    (frame(), {"time": "row"}, r"task\.time: needs task\.id; name the column that says"),
    (frame(), {"length": 4}, r"task\.length: needs task\.sequence or task\.id"),
]


def test_tables_and_settings_that_do_not_fit_are_refused_in_one_line(read):
    for content, settings, message in BAD:
        with refused(message, (ConfigError, DataError)):
            read(content, **settings)


def test_typed_columns_of_a_parquet_are_numbers(read):
    days = np.array(
        ["2024-01-02", "9999-12-31", "0001-01-01"], "datetime64[us]"
    )  # beyond nanoseconds
    types = [
        (days, [19724, 2932896, -719162]),
        (np.array([True, False, False]), [1, 0, 0]),
        (np.array([1, 2**63, 2**64 - 1], np.uint64), [1, 2**63, 2**64]),
        (pd.array([4, 5, 2], dtype="Int64"), [4, 5, 2]),
    ]
    names = [f"c{place}" for place in range(len(types))]
    columns = [
        pd.Series(values).take(np.arange(N) % 3).reset_index(drop=True) for values, _ in types
    ]
    table = frame().assign(**dict(zip(names, columns, strict=True)))
    x = in_order(read(table, "t.parquet", features=[*names, "row"], normalize=False))
    np.testing.assert_array_equal(
        x[:, :-1], np.tile(np.float32([numbers for _, numbers in types]), N // 3).T
    )


@pytest.mark.parametrize("word", ["NA", "nan", "?", "None"])
def test_a_class_that_stands_for_a_missing_entry_is_refused_by_name(read, word):
    table = frame().astype({"kind": object})
    table.loc[[4, 9], "kind"] = word
    message = rf"t\.csv\[kind\]: 2 rows have no target \('{re.escape(word)}'\), the first is row 5"
    with refused(rf"{message}; remove these rows; if '.*' is a class, give it another name"):
        read(table, features=["row"])


def days(n=N, typed=False):
    stamps = pd.Timestamp("2024-05-01") + pd.to_timedelta(np.arange(n) % 7, unit="D")
    return frame(n).assign(day=stamps if typed else stamps.strftime("%Y-%m-%d"))


@pytest.mark.parametrize("typed", [False, True])
def test_points_in_time_and_dates_as_text_are_not_mixed(read, tmp_path, typed):
    days(20, typed=not typed).to_parquet(tmp_path / "new.parquet")
    task = read(days(typed=typed), "t.parquet", features=["day"], test="new.parquet")
    message = "holds points in time or numbers, and training has text such as '2024-05-01'"
    if typed:
        message = "'2024-05-01' in row 1 is not a number, but all training rows are"
    with refused(rf"new\.parquet\[day\]: {message}", DataError):
        task.open_test()


def identified(n=N, start=0):
    i = np.arange(start, start + n)
    return pd.DataFrame(
        {
            "patient_id": [f"p{value:04d}" for value in i],
            "note": [f"text {value}" if value % 10 else "text" for value in i],
            "town": [
                f"town {value}" if value % 5 else "town" for value in i
            ],  # 4 of 5 have their own
            "price": [f"{value},5" for value in i],  # numbers with another decimal mark
            "weight": [f"{value}.5" if value != start + 1 else "heavy" for value in i],
            "number": i,
            "kind": np.array(["yes", "no"])[i % 2],
        }
    )


def test_text_of_which_nearly_every_row_has_its_own_is_left_out_and_named(read, tmp_path):
    table = identified()
    table["split"] = np.repeat(["train", "val", "test"], [40, 10, 10])
    task = read(table)
    assert re.search(
        r"left out because nearly every row has a text of its own .*: "
        r"patient_id \(40 texts in 40 training rows\), note \(37 texts",
        task.note,
    )
    preprocessing = reloaded(task, tmp_path / "record")
    assert preprocessing.left_out == ("patient_id", "note")
    assert preprocessing.feature_names == ("town", "price", "weight", "number")
    for new in (table[50:], table[50:].drop(columns=["patient_id", "note"])):
        inputs = in_parts(preprocessing, preprocessing.given(new))
        check_inputs(inputs, task.open_test())


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"features": ["patient_id", "number"]}, "patient_id"),
        ({"sequence": "patient_id"}, "patient_id"),
    ],
)
def test_text_that_a_setting_names_is_kept(read, settings, name):
    task = read(identified(), **settings)
    assert name in task.preprocessing.feature_names
    assert "left out" not in task.note


@pytest.mark.parametrize("rows", [28, 29])
def test_few_rows_may_each_have_their_own_text(read, rows):
    """20 of 28, and 21 of 29, are for training."""
    task = read(identified(rows)[["patient_id", "number", "kind"]])
    assert len(task.train) == rows - 8
    assert ("left out" in task.note) == (rows > 28)


def test_a_table_of_nothing_but_identifiers_is_refused(read):
    with refused("t.csv: no column is left to learn from: .*patient_id .*task.sequence reads"):
        read(identified()[["patient_id", "kind"]])


def test_points_beside_a_decimal_comma_are_text_of_which_is_warned(read):
    for odd in ("1.5", "1.234,5"):
        task = read(frame().assign(weight=odd), decimal=",", features=["weight"])
        assert (
            f"warning: read as text, since not all of it are numbers: weight ('{odd}'" in task.note
        )


def test_a_column_of_splits_is_honoured_and_is_no_feature_or_refused(read):
    marks = np.array(["train"] * 40 + ["val"] * 8 + ["Test"] * 12)
    task = read(frame().assign(split=marks), normalize=False)
    assert [column(samples).tolist() for samples in splits(task)] == [
        list(range(*rows)) for rows in ((0, 40), (40, 48), (48, 60))
    ]
    assert "split" not in task.preprocessing.feature_names
    assert (
        "split"
        in read(frame().assign(split=marks), features=["row", "split"]).preprocessing.feature_names
    )
    for marks, settings, message in (
        (
            ["train"] * 59 + ["trian"],
            {},
            r"t.csv\[split\]: 'trian' in row 60 is not a split \(1 rows\)",
        ),
        (
            ["train"] * 9 + ["test"] * 51,
            {},
            "t.csv: too few rows: 9; provide 10 or more for training",
        ),
        (
            np.where(np.arange(N) % 2, "train", "test"),
            {"group": "patient"},
            "group 'p0' is also in",
        ),
    ):
        with refused(message, DataError):
            read(frame().assign(split=marks), **settings)


def test_several_numbers_are_values_and_may_be_missing_with_a_decimal_comma(read):
    task = read(
        frame().assign(b=np.arange(N) * 37 % 59 * 1e3),
        target=None,
        targets=["weight", "b"],
        features=["row"],
    )
    assert (task.kind, task.num_outputs, task.class_names) == ("values", 2, ("weight", "b"))
    numbers = frame().assign(kind=[f"{i},5" if i % 7 else "NA" for i in range(N)])
    with refused(
        r"t\.csv\[kind\]: 9 rows have no target, the first is row 1; .*missing_targets", DataError
    ):
        read(numbers, decimal=",", features=["row"])
    task = read(numbers, decimal=",", features=["row"], missing_targets=True)
    targets = np.concatenate([samples.targets()[:, 0] for samples in splits(task)])
    assert np.isnan(targets).sum() == 9
    assert sorted(targets[~np.isnan(targets)]) == [i + 0.5 for i in range(N) if i % 7]
