"""The model card of an export: what it was trained on, how well it did, and what it is not for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli import seeding
from orca_cli.data.untrusted.arrays import read_arrays
from orca_cli.exceptions import OrcaError
from orca_cli.prediction.loading import Loaded
from orca_cli.prediction.record import ModelRecord
from orca_cli.report.credits import CHECKPOINT_LICENCES, CITATION
from orca_cli.terminal import visible

_SHOWN = 50  # classes named in a card
_RESAMPLES = 1000
_MOST_VALUES = 2**22  # of outputs that are resampled
_USE = """\
```
pip install orca-transfer
orca predict FOLDER new_data --out predictions.csv
```

```python
import orca_cli
model = orca_cli.load("FOLDER")   # a scikit-learn-like estimator
model.predict(x)
```
"""


def model_card(record: ModelRecord, loaded: Loaded, predictions: Path | None) -> str:
    """Return a model card as Markdown.

    Args:
        record: of the model.
        loaded: the model.
        predictions: file with the outputs and targets of the test split, for the error's interval; None where there is none.
    """
    result = record.result
    title = f"{result.get('task')}: {record.kind} from {' x '.join(map(str, record.input_shape))}"
    sections = {
        "Use": _use(record, loaded),
        "Data": _data(record),
        "Result": _result(record, loaded, predictions),
        "Model and training": _training(record, loaded),
        "Limits": _limits(record),
    }
    lines = [f"---\nlibrary_name: orca-transfer\ntags: [cross-modal-transfer, orca]\n---\n\n# {_md(title)}\n"]
    for heading, content in sections.items():
        lines += [f"## {heading}", "", *content, ""]
    lines += ["## Citation", "", "The method:", "", "```bibtex", CITATION, "```", ""]
    return "\n".join(lines)


def _use(record: ModelRecord, loaded: Loaded) -> Iterator[str]:
    yield _USE
    names = getattr(loaded.preprocessing, "feature_names", None)
    shape = " x ".join(map(str, record.input_shape))
    columns = f"; columns: {_listed(names)}" if names else ""
    yield f"New data have the form of the training files; the model sees {shape} a sample (channels first){columns}."
    yield ""
    targets = loaded.preprocessing.targets
    k = record.num_outputs
    yield f"Outputs: {record.kind}, {k}{f': {_listed(targets.names)}' if targets.names else ''}."


def _data(record: ModelRecord) -> Iterator[str]:
    result = record.result
    splits = result.get("splits") or {}
    yield "| split | samples | SHA-256 |"
    yield "|---|--:|---|"
    for name, text in (("train", "training"), ("val", "validation"), ("test", "test")):
        split = splits.get(name) or {}
        yield f"| {text} | {split.get('n')} | `{split.get('sha256')}` |"
    yield ""
    yield f"{_chosen(result.get('selected') or {})}; the test split was read {result.get('test_reads')} time(s)."
    shared = (splits.get("test") or {}).get("also_in_train") or {}
    if shared.get("shared"):
        yield f"{shared['shared']} of {shared['of']} test inputs are in the training set as well: the error is optimistic."
    if result.get("synthetic"):
        yield "The data are synthetic."


def _chosen(selected: Mapping[str, Any]) -> str:
    """Return what the weights were chosen on."""
    on, members = selected.get("on"), selected.get("members", 1)
    if on == "nothing":
        text = "Weights are those of the last step, trained on training and validation samples"
    elif on == "folds":
        text = f"Validated by {members} folds: each model on the samples that it was not trained on"
    elif selected.get("by") == "last":
        text = f"Weights are those of the last step, validated on the {_md(str(on))} split"
    else:
        text = f"Weights were chosen on the {_md(str(on))} split"
    several = isinstance(members, int) and members > 1
    return f"{text}; the outputs of {members} models are averaged" if several else text


def _result(record: ModelRecord, loaded: Loaded, predictions: Path | None) -> Iterator[str]:
    result = record.result
    error = result.get("error") or {}
    percent = error.get("percent") is True
    yield "| | on the test split |"
    yield "|---|---|"
    value = error.get("value")
    yield f"| {_md(str(error.get('name')))} | {_number(value, percent)} |"
    bounds = None if value is None else interval(record, loaded, predictions)
    text = "not computed" if bounds is None else f"{_number(bounds[0], percent)} to {_number(bounds[1], percent)}"
    yield f"| 95 % interval over test samples | {text} |"
    yield f"| best constant predictor | {_number(result.get('trivial_error'), percent)} |"
    baselines = result.get("baselines")
    for name, other in baselines.items() if isinstance(baselines, Mapping) else ():
        simple = other.get("error") if isinstance(other, Mapping) else None
        if name != "constant" and simple is not None:
            yield f"| baseline: {_md(str(name))} | {_number(simple, percent)} |"
    yield f"| validation error | {_number(result.get('validation_error'), percent)} |"
    yield ""
    comparison = result.get("comparison")
    if isinstance(comparison, Mapping) and comparison.get("text"):
        yield f"Beside simple models on the same split: {_md(str(comparison['text']))}."
        yield ""
    yield f"Lower is better; on {error.get('n')} (skipped: {error.get('skipped')}). One run of one seed."


def interval(record: ModelRecord, loaded: Loaded, predictions: Path | None) -> tuple[float, float] | None:
    """Return the 95 % interval of the test error over test samples; None where it cannot be computed.

    Of a 0-1 error Wilson's; of others the percentile bootstrap's, from 1000 resamples of the test split.
    """
    from scipy.stats import binomtest

    from orca_cli.prediction.predictor import Predictor

    error = record.result["error"]
    if error["name"] == "0-1 error" and record.kind == "classes":
        wrong = binomtest(round(error["value"] * error["n"]), error["n"])
        low, high = wrong.proportion_ci(0.95, method="wilson")
        return float(low), float(high)
    if predictions is None:
        return None
    try:
        arrays = read_arrays(predictions, ("outputs", "targets"))
    except OrcaError:
        return None
    outputs, targets = arrays["outputs"], arrays["targets"]
    if not 2 <= len(outputs) <= _MOST_VALUES // max(1, outputs[0].size):
        return None
    predictor = Predictor(loaded, "cpu")
    value = predictor.measure(outputs, targets).value
    # Resamples of an error of 0 are all 0, which says nothing about its interval.
    if not value or not math.isclose(value, error["value"], rel_tol=1e-6):
        return None  # an error over records, whose members are not stored
    generator = seeding.numpy_generator(0, "card")
    resamples = max(100, min(_RESAMPLES, 2**26 // max(1, outputs.size)))
    drawn = [generator.integers(len(outputs), size=len(outputs)) for _ in range(resamples)]
    values = [predictor.measure(outputs[rows], targets[rows]).value for rows in drawn]
    defined = [value for value in values if value is not None]
    if len(defined) < resamples / 2:
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def _training(record: ModelRecord, loaded: Loaded) -> Iterator[str]:
    result = record.result
    checkpoint = str(record.body.get("checkpoint"))
    licence = CHECKPOINT_LICENCES.get(checkpoint.partition("@")[0])
    parameters = sum(value.numel() for value in loaded.model.parameters())
    yield f"* run: `{_code(record.name)}`, protocol {_md(str(result.get('protocol')))}, seed {record.seed}"
    names = (f"{key}={_md(str(result.get(key)))}" for key in ("task", "body", "source", "metric", "finetune"))
    yield f"* {', '.join(names)}; {parameters:,} parameters"
    variant = result.get("variant")
    if isinstance(variant, Mapping) and variant:
        settings = ", ".join(f"`{_code(str(key) + '=' + str(value))}`" for key, value in variant.items())
        yield f"* settings: {settings}"
    yield "* all settings: config.yaml"
    yield f"* body's checkpoint: `{_code(checkpoint)}`, SHA-256 `{record.checkpoint_sha256}`"
    if licence:
        yield f"* licence of the body's checkpoint: {licence} (as its page states it)"
    else:
        yield "* licence of the body's checkpoint: see where it comes from; these weights were made from it"
    yield f"* weights: SHA-256 `{record.weights_sha256}`"
    versions = ", ".join(f"{_md(str(key))} {_md(str(value))}" for key, value in record.environment.items() if value)
    if versions:
        yield f"* made with {versions}"


def _limits(record: ModelRecord) -> Iterator[str]:
    yield "* It was measured on data like its training data; on others (devices, sites, times) nothing is known."
    yield "* The interval is over test samples. It does not cover the seed, the split, or samples that belong together."
    if record.kind in ("classes", "labels"):
        yield "* Probabilities are the model's own and were not calibrated."
    yield "* The test error was not used to choose this run, if it was chosen by validation (`--best` does)."


def _number(value: Any, percent: bool) -> str:
    if not isinstance(value, (int, float)):
        return "undefined"
    return f"{100 * value:.2f} %" if percent else f"{value:.4g}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{_code(str(name))}`" for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _code(text: str) -> str:
    return visible(text).replace("`", "'").replace("|", "/")


def _md(text: str) -> str:
    """Return text of unknown origin in which Markdown and HTML find nothing."""
    return "".join(f"\\{char}" if char in r"\`*_[]<>|#&~$" else char for char in visible(text))
