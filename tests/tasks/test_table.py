"""Tables without code: what is read, how columns become numbers, how rows are split, refusals."""

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
        "code": [f"{number:03d}" for number in i % 4],
        "patient": [f"p{number}" for number in i // 4],
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


def column(samples, position=0):
    """Return a feature of all samples of a split."""
    return every(samples).x[:, 0, position].numpy()


def in_order(task, position=-1):
    """Return the features of all rows [n, F], sorted by one of them."""
    x = torch.cat([every(samples).x[:, 0] for samples in splits(task)]).numpy()
    return x[np.argsort(x[:, position])]


def test_columns_become_features(read):
    task = read(frame(), normalize=False, ignore=["patient"])
    assert (task.input_shape, task.class_names) == ((1, 1 + 1 + 3 + 1), ("no", "yes"))
    x = in_order(task, 0)
    rows = np.arange(N)
    colours = np.eye(3)[np.array([2, 1, 0])[rows * 5 % 3]]  # blue, green, red
    expected = np.column_stack([rows, rows * 7 % 23 + 0.5, colours, rows % 4])
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize(("index", "size"), [(0, 42), (1, 9), (2, 9)])
def test_splits_are_stratified_and_keep_targets(read, index, size):
    samples = splits(read(frame(), normalize=False, ignore=["patient"]))[index]
    assert len(samples) == size
    assert samples.targets().tolist() == [1 - row % 2 for row in column(samples)]
    assert np.ptp(np.bincount(samples.targets())) <= 1


def test_numbers_are_scaled_and_text_is_not(read):
    task = read(frame(), features=["weight", "colour"])
    x = every(task.train).x[:, 0]
    assert x[:, 0].mean().abs() < 1e-5
    assert x[:, 0].std(correction=0) == pytest.approx(1, abs=1e-5)
    assert set(x[:, 1:].unique().tolist()) == {0, 1}


def test_the_seed_of_splits_changes_them(read):
    digests = {read(frame(), split_seed=seed).train.digest() for seed in (0, 1)}
    assert len(digests) == 2


FORMATS = {
    "t.parquet": (lambda table: table.astype({"code": "int", "colour": "category"}), {}),
    "semicolons.csv": (lambda table: table.to_csv(sep=";", decimal=",").encode("utf-8-sig"), {"decimal": ","}),
    "utf16.tsv": (lambda table: table.to_csv(index=False, sep="\t").encode("utf-16"), {"encoding": "utf-16"}),
    "latin.txt": (lambda table: table.to_csv(index=False, sep="|").encode("latin-1"), {"encoding": "latin-1"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_formats_hold_the_same_table(read, name):
    write, settings = FORMATS[name]
    table = frame().replace({"colour": "red"}, "r\u00f6t")
    plain = every(read(table).train).x
    assert every(read(write(table), name, **settings).train).x.equal(plain)


def test_missing_fields_become_the_mean_or_a_category(read):
    table = frame().astype(object)
    table.loc[::5, "weight"] = None
    table.loc[1::5, "colour"] = "?"
    table["nothing"] = ""
    task = read(
        table, features=["weight", "colour", "nothing", "row"], normalize=False, gap_indicator=True
    )
    x = in_order(task)
    rows = column(task.train, -1).astype(int)
    assert x[0, 0] == pytest.approx(np.mean([row * 7 % 23 + 0.5 for row in rows if row % 5]))
    # Nothing is missing in `row`, the last column.
    np.testing.assert_array_equal(x[:, 1], np.arange(N) % 5 == 0)
    assert x[1, 2:6].tolist() == [0, 0, 0, 1]  # blue, green, red, missing
    assert x.shape == (N, 7)
    assert f"weight ({(rows % 5 == 0).sum()})" in task.note


LABELS = {"target": None, "kind": "labels", "targets": ["a", "b"]}


def labelled():
    """Return a table with two columns of bits, which are spelt in two ways."""
    truths = np.array(["true", "False"])[np.arange(N) // 5 % 2]
    return frame().assign(a=np.arange(N) // 3 % 2, b=truths).astype(object)


def test_several_columns_are_labels(read):
    table = labelled()
    task = read(table, **LABELS, features=["row"], normalize=False)
    rows = column(task.train).astype(int)
    assert task.train.targets()[:, 0].tolist() == table.a[rows].tolist()
    assert task.train.targets()[:, 1].tolist() == [text == "true" for text in table.b[rows]]


def test_a_missing_label_is_refused(read):
    table = labelled()
    table.loc[3, "a"] = None
    with refused(r"t\.csv\[a\]: has rows without a target: 1 .*the first is row 4", DataError):
        read(table, **LABELS)


@pytest.mark.parametrize(
    ("target", "names"),
    [
        (np.array([3, 10, 7])[np.arange(N) % 3], ("3", "7", "10")),
        (np.array(["01", "1", "no"])[np.arange(N) % 3], ("01", "1", "no")),
    ],
    ids=["few whole numbers", "zeros in front"],
)
def test_some_columns_to_be_predicted_are_classes(read, target, names):
    task = read(frame().assign(kind=target), features=["row"], normalize=False)
    assert (task.kind, task.class_names) == ("classes", names)
    expected = target[column(task.train).astype(int)]
    assert [names[k] for k in task.train.targets()] == list(map(str, expected))


@pytest.mark.parametrize(
    "target", [np.arange(N) % 21, np.arange(N) % 3 / 2], ids=["many whole numbers", "fractions"]
)
def test_other_columns_to_be_predicted_are_values(read, target):
    task = read(frame().assign(kind=target), features=["row"], normalize=False)
    assert (task.kind, task.class_names) == ("values", ("kind",))
    expected = target[column(task.train).astype(int)]
    np.testing.assert_allclose(task.train.targets()[:, 0], expected, rtol=1e-6)
    assert task.target_scale.std.tolist() == pytest.approx([expected.std()], rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"kind": "maybe"},
            r"test\.csv\[kind\]: contains labels that do not occur in training: 20 in total, the first is maybe",
        ),
        ({"weight": "heavy"}, r"test\.csv\[weight\]: 'heavy' in row 1 is not a number"),
    ],
)
def test_the_test_file_is_read_at_the_end_only(read, tmp_path, change, message):
    frame(20, 100).assign(**change).to_csv(tmp_path / "test.csv", index=False)
    task = read(frame(), test="test.csv")
    with refused(message, DataError):
        task.open_test()


def test_the_header_of_the_test_file_is_read_at_once(read, tmp_path):
    frame(20, 100).drop(columns="weight").to_csv(tmp_path / "test.csv", index=False)
    with refused(r"task\.test: 'test\.csv' has no column 'weight'", DataError):
        read(frame(), test="test.csv")


HEAD = b"a,b,kind\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1,2,x\n1,2\n" * 20, r"t\.csv: line 3 must have 3 fields like the header, got 2"),
        (b'1,"2,x\n' * 20, r"t\.csv: is not a valid table: .* check the quotes"),
        (
            b"1,\xff,x\n" * 20,
            r"is not text in the encoding utf-8; store the file as UTF-8; .* task\.encoding=",
        ),
        (b"1,inf,x\n2,3,y\n" * 20, r"t\.csv\[b\]: contains NaN or infinite values: \d+ in total,"),
    ],
    ids=["lengths", "quotes", "encoding", "infinite"],
)
def test_bad_tables_are_refused_in_one_line(read, content, message):
    with refused(message, DataError):
        read(HEAD + content)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "knd"}, r"task\.target: 't\.csv' has no column 'knd'; did you mean 'kind'"),
        ({"kind": "values"}, r"t\.csv\[kind\]: 'yes' in row 1 is not a number; .*task\.kind=classes"),
        ({"features": ["kind"]}, r"task\.features: 'kind' is also in task.target, but a column has only one role"),
        ({"targets": ["row"]}, r"task\.targets: cannot be combined with task\.target; remove one"),
        ({"target": None, "targets": ["row", "row"]}, r"task\.targets: 'row' is also in task\.targets"),
        ({"group": "kind"}, r"task\.group: 'kind' is also in task\.target"),
        ({"sequence": "colour", "id": "patient"}, r"task\.id: cannot be combined with task\.sequence"),
        ({"time": "row"}, r"task\.time: needs task\.id; set task\.id=COLUMN"),
        ({"length": 4}, r"task\.length: needs task\.sequence or task\.id"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_in_one_line(read, settings, message):
    with refused(message, (ConfigError, DataError)):
        read(frame(), **settings)


# Numbers of a typed column, three of which repeat.
TYPED = {
    "days beyond nanoseconds": (
        np.array(["2024-01-02", "9999-12-31", "0001-01-01"], "datetime64[us]"),
        [19724, 2932896, -719162],
    ),
    "truths": (np.array([True, False, False]), [1, 0, 0]),
    "beyond int64": (np.array([1, 2**63, 2**64 - 1], np.uint64), [1, 2**63, 2**64]),
    "of pandas": (pd.array([4, 5, 2], dtype="Int64"), [4, 5, 2]),
}


@pytest.mark.parametrize("name", TYPED)
def test_typed_columns_of_a_parquet_are_numbers(read, name):
    entries, numbers = TYPED[name]
    typed = pd.Series(entries).take(np.arange(N) % 3).reset_index(drop=True)
    table = frame().assign(typed=typed)
    x = in_order(read(table, "t.parquet", features=["typed", "row"], normalize=False))
    np.testing.assert_array_equal(x[:, 0], np.tile(np.float32(numbers), N // 3))


@pytest.mark.parametrize("spelling", ["NA", "nan", "?", "None"])
def test_a_class_like_a_missing_entry_is_refused_by_name(read, spelling):
    table = frame().astype({"kind": object})
    table.loc[[4, 9], "kind"] = spelling
    target = rf"target \('{re.escape(spelling)}'\)"
    message = rf"t\.csv\[kind\]: has rows without a {target}: 2 in total, the first is row 5"
    with refused(rf"{message}; remove these rows; if '.*' is a class, rename the class"):
        read(table, features=["row"])


def days(n=N, typed=False):
    stamps = pd.Timestamp("2024-05-01") + pd.to_timedelta(np.arange(n) % 7, unit="D")
    return frame(n).assign(day=stamps if typed else stamps.strftime("%Y-%m-%d"))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            False,
            "contains numbers or timestamps, but the training split has text such as '2024-05-01'",
        ),
        (True, "'2024-05-01' in row 1 is not a number, but the training split has only numbers"),
    ],
)
def test_points_in_time_and_dates_as_text_are_not_mixed(read, tmp_path, typed, message):
    days(20, typed=not typed).to_parquet(tmp_path / "new.parquet")
    task = read(days(typed=typed), "t.parquet", features=["day"], test="new.parquet")
    with refused(rf"new\.parquet\[day\]: {message}", DataError):
        task.open_test()


def identified(n=N, start=0):
    i = np.arange(start, start + n)
    return pd.DataFrame(
        {
            "patient_id": [f"p{number:04d}" for number in i],
            "note": [f"text {number}" if number % 10 else "text" for number in i],
            # 4 of 5 have their own.
            "town": [f"town {number}" if number % 5 else "town" for number in i],
            # Numbers with another decimal mark.
            "price": [f"{number},5" for number in i],
            "weight": [f"{number}.5" if number != start + 1 else "heavy" for number in i],
            "number": i,
            "kind": np.array(["yes", "no"])[i % 2],
        }
    )


@pytest.mark.parametrize("absent", [[], ["patient_id", "note"]], ids=["all", "without names"])
def test_text_that_names_rows_is_left_out_and_named(read, tmp_path, absent):
    table = identified()
    table["split"] = np.repeat(["train", "val", "test"], [40, 10, 10])
    task = read(table)
    assert re.search(
        r"dropped, because nearly every row has a different text .*: "
        r"patient_id \(40 different texts in 40 training rows\), note \(37 different texts",
        task.note,
    )
    preprocessing = reloaded(task, tmp_path / "record")
    assert preprocessing.left_out == ("patient_id", "note")
    assert preprocessing.feature_names == ("town", "price", "weight", "number")
    new = preprocessing.given(table[50:].drop(columns=absent))
    check_inputs(in_parts(preprocessing, new), task.open_test())


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
    assert "dropped" not in task.note


@pytest.mark.parametrize("rows", [28, 29])
def test_few_rows_may_each_have_their_own_text(read, rows):
    """20 of 28, and 21 of 29, are for training."""
    task = read(identified(rows)[["patient_id", "number", "kind"]])
    assert len(task.train) == rows - 8
    assert ("dropped" in task.note) == (rows > 28)


def test_a_table_of_nothing_but_identifiers_is_refused(read):
    with refused("t.csv: has no usable column of inputs: .*patient_id.* set task.sequence=COLUMN"):
        read(identified()[["patient_id", "kind"]])


@pytest.mark.parametrize("odd", ["1.5", "1.234,5"])
def test_points_and_decimal_commas_are_text_with_a_warning(read, odd):
    task = read(frame().assign(weight=odd), decimal=",", features=["weight"])
    warning = "warning: columns read as text because some entries are not numbers: weight"
    assert f"{warning} ('{odd}'" in task.note


MARKS = ["train"] * 40 + ["val"] * 8 + ["Test"] * 12


def test_a_column_of_splits_is_honoured(read):
    task = read(frame().assign(split=MARKS), normalize=False)
    rows = [column(samples).tolist() for samples in splits(task)]
    assert rows == [list(range(40)), list(range(40, 48)), list(range(48, 60))]


@pytest.mark.parametrize(
    ("settings", "is_feature"), [({}, False), ({"features": ["row", "split"]}, True)]
)
def test_a_column_of_splits_is_a_feature_if_named(read, settings, is_feature):
    task = read(frame().assign(split=MARKS), **settings)
    assert ("split" in task.preprocessing.feature_names) == is_feature


@pytest.mark.parametrize(
    ("marks", "settings", "message"),
    [
        (
            ["train"] * 59 + ["trian"], {},
            r"t.csv\[split\]: 'trian' in row 60 is not the name of a split \(number of such rows: 1\)",
        ),
        (["train"] * 9 + ["test"] * 51, {}, "t.csv: needs at least 10 rows for training, has 9; add"),
        (["test", "train"] * 30, {"group": "patient"}, "group 'p0' is also in"),
    ],
    ids=["spelling", "few", "shared group"],
)  # fmt: skip
def test_bad_columns_of_splits_are_refused(read, marks, settings, message):
    with refused(message, DataError):
        read(frame().assign(split=marks), **settings)


def test_a_split_has_marks_or_a_file(read, tmp_path):
    frame(20, 100).to_csv(tmp_path / "test.csv", index=False)
    message = r"task\.test: cannot be combined with rows that the column 'split' marks .*; remove"
    with refused(message, ConfigError):
        read(frame().assign(split=MARKS), test="test.csv")


def test_text_may_spell_the_0_and_1_of_training(read):
    table = frame().assign(bit=np.arange(N) // 2 % 2)
    preprocessing = read(table, features=["bit"], normalize=False).preprocessing
    new = preprocessing.given({"bit": ["yes", "False", "1", "TRUE", "no"]})
    x, _ = in_parts(preprocessing, new)
    assert x[:, 0, 0].tolist() == [1, 0, 1, 1, 0]


def test_several_numbers_are_values(read):
    table = frame().assign(b=np.arange(N) * 37 % 59 * 1e3)
    task = read(table, target=None, targets=["weight", "b"], features=["row"])
    assert (task.kind, task.num_outputs, task.class_names) == ("values", 2, ("weight", "b"))


def with_missing_targets():
    """Return a table whose target has a decimal comma; every seventh is missing."""
    return frame().assign(kind=[f"{i},5" if i % 7 else "NA" for i in range(N)])


def test_missing_numbers_to_be_predicted_are_refused(read):
    message = r"t\.csv\[kind\]: has rows without a target: 9 in total, the first is row 1; .*missing_targets"
    with refused(message, DataError):
        read(with_missing_targets(), decimal=",", features=["row"])


def test_numbers_to_be_predicted_may_be_missing(read):
    task = read(with_missing_targets(), decimal=",", features=["row"], missing_targets=True)
    targets = np.concatenate([samples.targets()[:, 0] for samples in splits(task)])
    assert np.isnan(targets).sum() == 9
    assert sorted(targets[~np.isnan(targets)]) == [i + 0.5 for i in range(N) if i % 7]
