"""Plain models: the same numbers as scikit-learn, the same bits from their files, and forged files, which are refused."""

import hashlib
import importlib.util
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV, RidgeCV

from orca_cli import storage
from orca_cli.baselines import plain
from orca_cli.baselines.models import fitted
from orca_cli.baselines.prepared import Prepared
from orca_cli.baselines.rocket import Rocket
from orca_cli.baselines.trees import Trees, of_boosting, of_forest
from orca_cli.exceptions import ChecksumError, DataError, OrcaError, UnsafeError
from tests.properties import examples


def features(rng, n, num_features, missing=0.0):
    x = rng.normal(size=(n, num_features)).astype(np.float32)
    # Whole numbers are thresholds that samples meet exactly.
    x[:, 0] = rng.integers(0, 4, n)
    x[rng.random(x.shape) < missing] = np.nan
    return x


@examples(10)
@given(
    seed=st.integers(0, 1000),
    k=st.sampled_from([2, 5]),
    weight=st.sampled_from([None, "balanced"]),
    missing=st.sampled_from([0.0, 0.3]),
)
def test_trees_of_classes_have_the_bits_of_scikit_learn(seed, k, weight, missing):
    rng = np.random.default_rng(seed)
    x, new = features(rng, 60, 4, missing), features(rng, 40, 4, missing)
    y = rng.integers(0, k, 60) * 2
    forest = RandomForestClassifier(7, class_weight=weight, random_state=seed).fit(x, y)
    ours = Trees.read(of_forest(forest), "", 4, is_mean=True).scores(new)
    assert np.array_equal(ours, forest.predict_proba(new))
    boosting = HistGradientBoostingClassifier(
        max_iter=7, min_samples_leaf=3, class_weight=weight, random_state=seed
    ).fit(x, y)
    ours = Trees.read(of_boosting(boosting), "", 4, is_mean=False).scores(new)
    theirs = boosting.decision_function(new)
    assert np.array_equal(ours, theirs.reshape(ours.shape))
    # Two classes and more, from the logits.
    arrays = of_boosting(boosting) | {"columns": np.isin(np.arange(10), boosting.classes_)}
    part = plain.Part.read({"kind": "boosting", "link": "logits"}, arrays, "", width=4, k=10)
    probabilities = np.full((40, 10), plain.LEAST)
    probabilities[:, boosting.classes_] = boosting.predict_proba(new)
    assert np.array_equal(part.outputs(new), np.log(np.maximum(probabilities, plain.LEAST)))


@examples(10)
@given(
    seed=st.integers(0, 1000),
    outputs=st.sampled_from([1, 3]),
    missing=st.sampled_from([0.0, 0.3]),
    far=st.sampled_from([0.0, 1.7e9]),
)
def test_trees_of_numbers_have_the_bits_of_scikit_learn(seed, outputs, missing, far):
    rng = np.random.default_rng(seed)
    x, new = features(rng, 60, 4, missing), features(rng, 40, 4, missing)
    y = rng.normal(size=(60, outputs)) + far
    forest = RandomForestRegressor(7, random_state=seed).fit(x, y.squeeze())
    ours = Trees.read(of_forest(forest), "", 4, is_mean=True).scores(new)
    assert np.array_equal(ours, forest.predict(new).reshape(40, -1))
    boosting = HistGradientBoostingRegressor(max_iter=7, random_state=seed).fit(x, y[:, 0])
    ours = Trees.read(of_boosting(boosting), "", 4, is_mean=False).scores(new)
    assert np.array_equal(ours[:, 0], boosting.predict(new))


@pytest.mark.parametrize(("n", "num_features"), [(80, 6), (30, 90)])
@pytest.mark.parametrize("k", [2, 5])
def test_linear_models_have_the_numbers_of_scikit_learn(n, num_features, k):
    rng = np.random.default_rng(0)
    x = rng.normal(100, size=(n, num_features)).astype(np.float32)
    # The constant feature carries no information.
    x[:, 1] = 3
    y = np.arange(n) % k
    prepared = Prepared.by("linear", x)
    for estimator, theirs in (
        (LogisticRegression(), "predict_log_proba"),
        (RidgeClassifierCV(), "decision_function"),
        (RidgeCV(), "predict"),
    ):
        estimator.fit(prepared.table, y.astype(float) if theirs == "predict" else y)
        expected = getattr(estimator, theirs)(prepared.table).reshape(n, -1)
        columns = np.ones(expected.shape[1] if theirs != "decision_function" else k, np.bool_)
        record, arrays = prepared.plain_part(estimator, columns)
        part = plain.Part.read(record, arrays, "", width=num_features, k=len(columns))
        ours = part.outputs(x)
        # Sums are added in another order, so that the last bits differ.
        assert ours[:, -expected.shape[1] :] == pytest.approx(expected, rel=1e-10, abs=1e-10)


RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5)).astype(np.float32)
MAPS = RNG.normal(size=(20, 2, 6, 5)).astype(np.float32)
CLASSES = np.arange(60) % 3
CLASSES[CLASSES == 1] = 4
NUMBERS = X[:, :3] ** 2
NUMBERS[:20, 0] = np.nan
NUMBERS[:, 1] = np.nan
MASKS = np.where(MAPS[:, :1] > 0, 1, 0).astype(np.float32)
MASKS[0, :, 2] = np.nan
CLASS_MAPS = np.where(MAPS[:, 0] > 0, 2, 1)
CLASS_MAPS[0, :, 2] = -100
# form, inputs, targets, k
TARGETS = {
    "classes": ("classes", X, CLASSES, 6),
    "one class": ("classes", X, np.full(60, 2), 3),
    "two classes": ("classes", X, np.arange(60) % 2, 2),
    "wide": ("classes", RNG.normal(size=(60, 100)).astype(np.float32), CLASSES, 6),
    "labels": ("labels", X, (X[:, :2] > 0).astype(np.float32), 2),
    "values": ("values", X, NUMBERS, 3),
    "far": ("values", X, X[:, :2].astype(np.float64) + 1.7e9, 2),
    "maps": ("maps", MAPS, MAPS[:, :1] * 2, 1),
    "masks": ("masks", MAPS, MASKS, 1),
    "class_maps": ("class_maps", MAPS, CLASS_MAPS, 4),
}
MODELS = {
    name: ["linear"] if form in plain.DENSE else ["linear", "forest", "boosting", "features"]
    for name, (form, *_) in TARGETS.items()
}
FITS = [(model, name) for name, models in MODELS.items() for model in models]


def fit(model, name):
    form, x, y, k = TARGETS[name]
    with np.errstate(invalid="ignore"):
        return fitted(model, form, x, y, x[:7], k=k, limit=9)


@pytest.mark.parametrize(("model", "name"), FITS)
def test_a_file_predicts_the_bits_that_were_measured(model, name, tmp_path):
    form, x, y, _ = TARGETS[name]
    fit_record = fit(model, name)
    plain.write(tmp_path, plain.checked(*fit_record["model"]))
    again = plain.read(tmp_path)
    outputs = again.outputs(x[:7])
    assert np.array_equal(outputs, fit_record["outputs"])
    assert outputs.dtype == fit_record["outputs"].dtype
    assert again.record["limit"] == 9
    assert again.num_outputs == outputs.shape[1]
    with pytest.raises(DataError, match="a sample has shape"):
        again.outputs(x[:7, 1:])


@pytest.mark.skipif(
    importlib.util.find_spec("aeon") is None, reason="the extra peers is not installed"
)
@pytest.mark.parametrize("shape", [(1, 7), (3, 40)])
def test_minirocket_comes_back_from_its_file(shape, tmp_path):
    from aeon.transformations.collection.convolution_based import MiniRocket

    x = np.random.default_rng(0).normal(size=(60, *shape)).astype(np.float32)
    fit_record = fitted("minirocket", "classes", x, CLASSES, x[:7], k=6)
    plain.write(tmp_path, plain.checked(*fit_record["model"]))
    again = plain.read(tmp_path)
    assert np.array_equal(again.outputs(x[:7]), fit_record["outputs"])
    padded = np.pad(x, ((0, 0), (0, 0), (0, max(0, 9 - shape[1]))))
    direct = MiniRocket(random_state=0).fit(padded).transform(padded[:7])
    assert np.array_equal(again.source.features(x[:7]), direct)


def test_far_targets_keep_their_digits():
    _, x, y, _ = TARGETS["far"]
    forest = RandomForestRegressor(300, max_features=1 / 3, random_state=0).fit(x, y - y[0])
    assert np.array_equal(fit("forest", "far")["outputs"], forest.predict(x[:7]) + y[0])


WITHOUT = """
import sys
from pathlib import Path
sys.modules.update(dict.fromkeys(["torch", "sklearn", "hydra", "pandas"]))
import numpy as np
from orca_cli.baselines import features, plain
folder = Path(sys.argv[1])
x = features.table(np.load(folder / "x.npy"), None, 99)
np.save(folder / "outputs.npy", plain.read(folder).outputs(x))
"""


@pytest.mark.parametrize("model", ["forest", "boosting", "linear"])
def test_a_prediction_needs_neither_torch_nor_scikit_learn(model, tmp_path):
    fit_record = fit(model, "two classes")
    plain.write(tmp_path, plain.checked(*fit_record["model"]))
    np.save(tmp_path / "x.npy", X[:7])
    subprocess.run([sys.executable, "-c", WITHOUT, tmp_path], check=True)
    assert np.array_equal(np.load(tmp_path / "outputs.npy"), fit_record["outputs"])


def put(name, index, number):
    """Return a forgery of the entry of an array."""

    def forge(record, arrays):
        arrays[name] = arrays[name].copy()
        arrays[name][index] = number

    return forge


def replaced(name, change):
    """Return a forgery of a whole array."""

    def forge(record, arrays):
        arrays[name] = change(arrays[name])

    return forge


def entry(name, value):
    """Return a forgery of an entry of the record."""

    def forge(record, arrays):
        record[name] = value

    return forge


def part_entry(name, value):
    def forge(record, arrays):
        record["parts"] = [record["parts"][0] | {name: value}]

    return forge


def chain(record, arrays):
    """One tree, whose nodes are a path of 10,000 levels."""
    inner = np.arange(10_000)
    num_nodes = 20_001
    nodes = np.zeros(num_nodes, np.int32)
    left = np.full(num_nodes, -1, np.int32)
    left[inner] = inner + 1
    right = left.copy()
    right[inner] = inner + 10_001
    names = dict.fromkeys(("feature", "row"), nodes) | {"left": left, "right": right}
    names |= {"threshold": nodes.astype(float), "missing": nodes > 0, "roots": np.zeros(1, int)}
    arrays |= {f"parts.0.{name}": array for name, array in names.items()}


def loop(record, arrays):
    """A tree of one leaf, and nodes that no sample reaches: a node is its own child."""
    nodes = np.zeros(3, np.int32)
    names = dict.fromkeys(("feature", "row"), nodes)
    names |= {"left": np.array([-1, 1, -1], np.int32), "right": np.array([-1, 2, -1], np.int32)}
    names |= {"threshold": nodes.astype(float), "missing": nodes > 0, "roots": np.zeros(1, int)}
    arrays |= {f"parts.0.{name}": array for name, array in names.items()}


def halving(record, arrays):
    """Every node has the next node as both children: a few nodes form endlessly many paths."""
    nodes = np.zeros(60, np.int32)
    below = np.arange(1, 61, dtype=np.int32)
    below[-1] = -1
    names = dict.fromkeys(("feature", "row"), nodes) | {"left": below, "right": below}
    names |= {"threshold": nodes.astype(float), "missing": nodes > 0, "roots": np.zeros(1, int)}
    arrays |= {f"parts.0.{name}": array for name, array in names.items()}


TREE = "parts.0."


def shared(record, arrays):
    """Both children of the first node are the same node, and the nodes below the other child are lost."""
    arrays[TREE + "right"] = np.concatenate([arrays[TREE + "left"][:1], arrays[TREE + "right"][1:]])


FORGED_TREES = [
    *(put(TREE + "left", 0, child) for child in (0, -2, 2**31 - 1)),
    *(put(TREE + "right", 0, child) for child in (0, -1, 2**31 - 1)),
    shared,
    # The second tree's root is a node of the first tree.
    put(TREE + "roots", 1, 1),
    *(put(TREE + "roots", -1, root) for root in (-1, 2**62)),
    replaced(TREE + "roots", lambda roots: roots[:0]),
    replaced(TREE + "roots", lambda roots: np.repeat(roots, 1000)),
    chain,
    loop,
    halving,
    *(put(TREE + "feature", 0, feature) for feature in (-1, 5, 2**31 - 1)),
    *(put(TREE + "threshold", 0, number) for number in (np.nan, np.inf)),
    put(TREE + "value", 0, -np.inf),
    put(TREE + "row", slice(None), -1),
    put(TREE + "row", slice(None), 2**31 - 1),
    replaced(TREE + "value", lambda value: value[:0]),
    replaced(TREE + "value", lambda value: value[:, :0]),
    replaced(TREE + "value", lambda value: np.repeat(value, 2, axis=1)),
    replaced(TREE + "intercept", lambda intercept: intercept[:0]),
    replaced(TREE + "threshold", lambda threshold: threshold[:-1]),
    replaced(TREE + "left", lambda left: left.astype(np.int64)),
    replaced(TREE + "missing", lambda missing: missing.astype(np.int8)),
    replaced(TREE + "feature", lambda feature: feature[None]),
    replaced(TREE + "columns", lambda columns: columns & False),
    replaced(TREE + "columns", lambda columns: np.repeat(columns, 2)),
    replaced("centre", lambda centre: np.zeros(10**6)),
    lambda record, arrays: arrays.pop(TREE + "row"),
]
FORGED_LINEAR = [
    *(put(TREE + "std", 0, number) for number in (0.0, -1.0, np.nan)),
    put(TREE + "coef", 0, np.inf),
    put(TREE + "varies", 0, False),
    replaced(TREE + "varies", lambda varies: np.repeat(varies, 2)),
    replaced(TREE + "mean", lambda mean: mean[1:]),
    replaced(TREE + "coef", lambda coef: coef.T),
    replaced(TREE + "coef", lambda coef: coef.astype(complex)),
    replaced(TREE + "intercept", lambda intercept: intercept[:1]),
    entry("parts", [{"kind": "linear", "link": "logits"}] * 2),
    entry("shape", [6]),
    part_entry("kind", "forest"),
]


def wide(record, arrays):
    """Small arrays, whose windows would take thousands of times their memory."""
    record["sides"] = [300, 0]
    width = 2 * 301**2
    arrays |= {f"{TREE}{name}": np.zeros(0) for name in ("mean", "std")}
    arrays |= {f"{TREE}varies": np.zeros(width, np.bool_), f"{TREE}coef": np.zeros((1, 0))}


FORGED_MAPS = [
    wide,
    *(entry("shape", shape) for shape in ([2, 6, 6], [2, 6, 2**40], [2**62, 6, 5])),
    *(entry("sides", sides) for sides in ([2**62, 2**62], [300, 0], [3, 2])),
    replaced("mean_map", lambda mean_map: mean_map[:, :3]),
    replaced("input_centre", lambda centre: centre[None]),
]
FORGED_CLASS_MAPS = [
    entry("shape", [2, 2**40, 2**40]),
    replaced("centre", lambda centre: np.zeros(1)),
]
UNSAFE = {
    ("forest", "classes"): FORGED_TREES,
    ("boosting", "values"): [*FORGED_TREES[:10], *FORGED_TREES[15:29]],
    ("linear", "classes"): FORGED_LINEAR,
    ("linear", "maps"): FORGED_MAPS,
    ("linear", "masks"): FORGED_CLASS_MAPS,
}
OTHER_FORMS = [
    *(entry("schema", schema) for schema in (2, "1", None)),
    *(entry("form", form) for form in ("other", [], None, "maps")),
    *(entry("inputs", inputs) for inputs in ("pickle", 3, "raw")),
    *(entry("limit", limit) for limit in (-1, 2**70, "9", True)),
    *(entry("shape", shape) for shape in ([], [0], [-5], [5, 1], 5, ["5"], [5.5], None)),
    *(entry("sides", sides) for sides in ([], [0], [-1, 0], None)),
    *(entry("dtype", dtype) for dtype in ("object", "S8", None)),
    *(entry("parts", parts) for parts in (None, 3, [3], [[]], {}, [{}])),
    *(part_entry("kind", kind) for kind in ("other", None, ["linear"])),
    *(part_entry("link", link) for link in ("other", None, {})),
]


@pytest.fixture(scope="module")
def forged():
    """Return a call that returns record and arrays of a forged model of a name."""
    fits = {}

    def call(model, name, forge):
        if (model, name) not in fits:
            fits[model, name] = fit(model, name)["model"]
        record, arrays = fits[model, name]
        record, arrays = dict(record), dict(arrays)
        forge(record, arrays)
        return record, arrays

    return call


@pytest.mark.parametrize(
    ("model", "name", "forge"),
    [(*case, forge) for case, forgeries in UNSAFE.items() for forge in forgeries],
)
def test_forged_arrays_are_refused(forged, model, name, forge):
    with pytest.raises(UnsafeError) as caught:
        plain.checked(*forged(model, name, forge))
    assert "'" in str(caught.value)


@pytest.mark.parametrize("forge", OTHER_FORMS)
def test_records_of_other_forms_are_refused(forged, forge):
    with pytest.raises(DataError):
        plain.checked(*forged("linear", "classes", forge))


@examples(30)
@given(draw=st.data())
def test_forged_numbers_are_refused_or_harmless(forged, draw):
    case = draw.draw(st.sampled_from(list(UNSAFE)))

    def forge(record, arrays):
        name = draw.draw(st.sampled_from(sorted(arrays)))
        array = arrays[name] = arrays[name].copy().reshape(-1)
        rows = draw.draw(st.lists(st.integers(0, max(0, len(array) - 1)), max_size=3))
        for row in rows if len(array) else []:
            array[row] = draw.draw(st.integers(-3, 30))
        arrays[name] = array.reshape(forged(*case, lambda *_: None)[1][name].shape)

    x = TARGETS[case[1]][1][:3]
    try:
        model = plain.checked(*forged(*case, forge))
    except OrcaError:
        return
    assert len(model.outputs(x)) == 3


def resealed(folder, record, content):
    (folder / plain.ARRAYS_FILE).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    storage.write_checked_json(folder / plain.RECORD_FILE, record | {"arrays_sha256": digest})


def test_files_that_hold_no_arrays_are_refused(forged, tmp_path):
    record, arrays = forged("linear", "classes", lambda *_: None)
    as_bf16 = save(arrays).replace(b'"F64"', b'"F63"')
    for content in (b"", b"\xff" * 100, save(arrays)[:-1], as_bf16):
        resealed(tmp_path, record, content)
        with pytest.raises(UnsafeError, match="is not a valid .safetensors file"):
            plain.read(tmp_path)
    resealed(tmp_path, record | {"schema": 2}, save(arrays))
    with pytest.raises(DataError, match=f"{tmp_path}: the model's 'schema' is 2"):
        plain.read(tmp_path)


@pytest.mark.parametrize("name", [plain.RECORD_FILE, plain.ARRAYS_FILE])
def test_changed_files_are_noticed(forged, tmp_path, name):
    plain.write(tmp_path, plain.checked(*forged("linear", "classes", lambda *_: None)))
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumError):
        plain.read(tmp_path)
    path.unlink()
    with pytest.raises(ChecksumError, match="is missing"):
        plain.read(tmp_path)


ROCKET = {
    "channel_counts": np.ones(168, np.int32),
    "channels": np.zeros(168, np.int32),
    "dilations": np.array([1, 2], np.int32),
    "feature_counts": np.array([1, 2], np.int32),
    "biases": np.zeros(252, np.float32),
}
FORGED_ROCKETS = [
    *(put("channel_counts", 3, number) for number in (0, 3, -1, 2**31 - 1)),
    *(put("channels", 3, channel) for channel in (-1, 2, 2**31 - 1)),
    *(put("dilations", 1, dilation) for dilation in (0, -1, 3, 2**31 - 1)),
    *(put("feature_counts", 1, number) for number in (0, 1, -1, 2**31 - 1)),
    put("biases", 0, np.nan),
    replaced("biases", lambda biases: biases[:-1]),
    replaced("channels", lambda channels: channels[:-1]),
    replaced("dilations", lambda dilations: dilations[:1]),
    replaced("channel_counts", lambda counts: counts.astype(np.int64)),
]


@pytest.mark.parametrize("forge", FORGED_ROCKETS)
def test_forged_parameters_of_minirocket_are_refused(forge):
    arrays = dict(ROCKET)
    read = partial(Rocket.read, arrays, "", [2, 20])
    read()
    forge({}, arrays)
    with pytest.raises(UnsafeError):
        read()
