"""What a search varies: a file of conf/space or the user's own.

algorithm: asha                       # the only one
baseline: {metric: none}              # what makes a run the naive arm
params:                               # setting -> its values, or a range
  train.optimizer: [sgd, adamw]
  train.lr: {low: 1.0e-5, high: 1.0e-2, log: true}
  train.batch_size: {low: 8, high: 64, step: 8}     # whole numbers where both ends are
fixed: {train.epochs: 60}             # settings of all trials, and of the run that follows
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli import configuration
from orca_cli.exceptions import ConfigError, suggest

GROUP = "space"
_PARTS = ("algorithm", "baseline", "params", "fixed")
_ALGORITHMS = ("asha",)
# The others decide what is learned from which data, or what an error means: trials could not be compared.
SEARCHED = ("train", "align", "embedder", "finetune", "augment", "predictor", "body", "metric")
_DIGITS = 3  # of a number drawn from a continuous range

Plain = str | int | float | bool | None


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Plain, ...]

    @property
    def ends(self) -> tuple[Plain, ...]:
        """Return values of which all are allowed if every value is."""
        return self.values


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def is_whole(self) -> bool:
        """Return whether only whole numbers are drawn."""
        return all(isinstance(end, int) for end in (self.low, self.high))

    @property
    def ends(self) -> tuple[Plain, ...]:
        """Return values of which all are allowed if every value is."""
        return self.low, self.high


@dataclass(frozen=True)
class Space:
    """A space; see the module."""

    name: str
    params: dict[str, Choice | Range]
    baseline: dict[str, Plain]
    fixed: dict[str, Plain]

    def record(self) -> dict[str, Any]:
        """Return what makes it another space: all but its name."""
        params = {key: {type(param).__name__: vars(param)} for key, param in self.params.items()}
        record = {"params": params, "baseline": self.baseline, "fixed": self.fixed}
        return json.loads(json.dumps(record, sort_keys=True))

    def plain(self, drawn: Mapping[str, Any]) -> dict[str, Plain]:
        """Return drawn values as settings: a number from a continuous range has three digits."""
        found: dict[str, Plain] = {}
        for key, param in self.params.items():
            value = drawn[key]
            is_continuous = isinstance(param, Range) and param.step is None and not param.is_whole
            found[key] = float(f"{value:.{_DIGITS}g}") if is_continuous else value
        return found


def find(text: str, extra: Path | None) -> Space:
    """Return the space of a name in conf/space, or in the user's own folder, or of a file.

    Raises:
        ConfigError: there is none, or it is malformed.
        UnsafeError: its YAML is not plain.
    """
    known = configuration.choices(GROUP, extra)
    path = known.get(text)
    if path is None and not text.endswith((".yaml", ".yml")):
        raise ConfigError(f"no such space: '{text}'", where=GROUP, hint=f"{suggest(text, known)} or give a YAML file")
    return read(path or Path(text).expanduser())


def read(path: Path) -> Space:
    """Return the space of a file; errors as those of `find`."""
    content, where = configuration.content(path), str(path)
    for key in content:
        if key not in _PARTS:
            raise ConfigError(f"a space has no '{key}'", where=where, hint=suggest(key, _PARTS))
    algorithm = content.get("algorithm", _ALGORITHMS[0])
    if algorithm not in _ALGORITHMS:
        hint = f"allowed: {', '.join(_ALGORITHMS)}"
        raise ConfigError(f"{algorithm} is not allowed", where=f"{where}: algorithm", hint=hint)
    params = _mapping(content, "params", where)
    if not params:
        raise ConfigError("a space needs params", where=where, hint="such as params: {train.lr: [1.0e-3, 1.0e-4]}")
    fixed = _settings(content, "fixed", where)
    for key in params:
        _check_key(key, f"{where}: params")
        if key in fixed:
            raise ConfigError(f"{key} is fixed as well", where=f"{where}: params", hint="keep one of them")
    for key in fixed:
        _check_key(key, f"{where}: fixed")
    drawn = {key: _param(given, f"{where}: {key}") for key, given in params.items()}
    return Space(path.stem, drawn, _settings(content, "baseline", where) or {"metric": "none"}, fixed)


def _mapping(content: Mapping[str, Any], part: str, where: str) -> dict[str, Any]:
    value = content.get(part) or {}
    if not isinstance(value, dict):
        raise ConfigError("is not a mapping", where=f"{where}: {part}", hint="write setting: value")
    return {str(key): entry for key, entry in value.items()}


def _settings(content: Mapping[str, Any], part: str, where: str) -> dict[str, Plain]:
    found = _mapping(content, part, where)
    for key, value in found.items():
        if not _is_plain(value):
            raise ConfigError("is not a single value", where=f"{where}: {part}.{key}", hint="such as 5 or adamw")
    return found


def _check_key(key: str, where: str) -> None:
    group, dot, _ = key.partition(".")
    if not dot or group not in SEARCHED or key == "train.validate_on":
        hint = f"allowed: settings of {', '.join(SEARCHED)}, such as train.lr"
        raise ConfigError(f"'{key}' is not for a search", where=where, hint=hint)


def _param(given: Any, where: str) -> Choice | Range:
    if isinstance(given, list):
        if not given or not all(map(_is_plain, given)):
            raise ConfigError("is not a list of single values", where=where, hint="such as [sgd, adamw]")
        if len({(type(value), value) for value in given}) < len(given):
            raise ConfigError("has a value twice", where=where, hint="keep one of them")
        return Choice(tuple(given))
    if isinstance(given, dict):
        return _range(given, where)
    hint = "such as [1.0e-3, 1.0e-4], or {low: 1.0e-5, high: 1.0e-2, log: true}"
    raise ConfigError("is neither a list of values nor a range", where=where, hint=hint)


def _range(given: dict[Any, Any], where: str) -> Range:
    for key in given:
        if key not in ("low", "high", "log", "step"):
            raise ConfigError(f"a range has no '{key}'", where=where, hint="allowed: low, high, log, step")
    low: Any = given.get("low")
    high: Any = given.get("high")
    step: Any = given.get("step")
    is_log = given.get("log", False)
    for value in (low, high, *([] if step is None else [step])):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            hint = "such as {low: 1.0e-5, high: 1.0e-2, log: true}; YAML reads 1e-5 as a text"
            raise ConfigError(f"{value!r} is not a number", where=where, hint=hint)
    if not isinstance(is_log, bool):
        raise ConfigError(f"log: {is_log!r} is not allowed", where=where, hint="allowed: true, false")
    if low >= high or (is_log and low <= 0) or (is_log and step is not None) or (step is not None and step <= 0):
        hint = "low has to be less than high, above 0 with log: true, which goes without step; a step is above 0"
        raise ConfigError(f"{low}..{high} is not a range that can be drawn from", where=where, hint=hint)
    if isinstance(low, int) and isinstance(high, int) and step is not None and not isinstance(step, int):
        raise ConfigError(f"step {step} is not whole", where=where, hint="or write an end as 1.0")
    return Range(low, high, is_log, step)


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int | bool | None)
