"""What a search varies: a file of conf/space or the user's own.

algorithm: asha                       # the only one
baseline: {metric: none}              # what makes a run the naive arm
params:                               # setting -> its values, or a range
  train.optimizer: [sgd, adamw]
  train.lr: {low: 1.0e-5, high: 1.0e-2, log: true}
  train.batch_size: {low: 8, high: 64, step: 8}     # whole numbers where both ends are
fixed: {train.epochs: 60}             # settings of all trials, and of the run that follows
"""

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli.config import configuration
from orca_cli.exceptions import ConfigError, suggest

GROUP = "space"
_PARTS = ("algorithm", "baseline", "params", "fixed")
# Groups that may be searched; others change the data or the meaning of the error, so that trials could not be compared, or
# act on alignment, which trials leave out.
SEARCHED = ("train", "embedder", "finetune", "predictor", "body")
_DIGITS = 3  # of a number drawn from a continuous range

Plain = str | int | float | bool | None


@dataclass(frozen=True)
class Space:
    """A space; see the module. `params` are Optuna's distributions."""

    name: str
    params: dict[str, Any]
    baseline: dict[str, Plain]
    fixed: dict[str, Plain]

    def record(self) -> dict[str, Any]:
        """Return what makes it another space: all but its name."""
        params = {key: repr(param) for key, param in self.params.items()}
        return {"params": params, "baseline": self.baseline, "fixed": self.fixed}

    def plain(self, drawn: Mapping[str, Any]) -> dict[str, Plain]:
        """Return drawn values as settings: a number from a continuous range has three digits."""
        return {
            key: float(f"{drawn[key]:.{_DIGITS}g}") if getattr(param, "step", 0) is None else drawn[key]
            for key, param in self.params.items()
        }

    def ends(self, key: str) -> list[Plain]:
        """Return values of a setting that suffice to check them all: its choices, or the ends of its range."""
        param = self.params[key]
        return list(param.choices) if hasattr(param, "choices") else [param.low, param.high]


def find(text: str, extra: Path | None) -> Space:
    """Return the space of a name in conf/space, or in the user's own folder, or of a file; ConfigError where none is right."""
    spaces = configuration.choices(GROUP, extra)
    path = spaces.get(text)
    if path is None and not text.endswith((".yaml", ".yml")):
        raise ConfigError(f"no such space: '{text}'", where=GROUP, hint=f"{suggest(text, spaces)} or give a YAML file")
    return read(path or Path(text).expanduser())


def read(path: Path) -> Space:
    """Return the space of a file; errors as those of `find`."""
    where = str(path)
    content = configuration.mapping(configuration.content(path), where, _PARTS)
    if (algorithm := content.get("algorithm", "asha")) != "asha":
        raise ConfigError(f"{algorithm} is not allowed", where=f"{where}: algorithm", hint="allowed: asha")
    params, fixed, baseline = (
        configuration.mapping(content.get(part) or {}, f"{where}: {part}") for part in ("params", "fixed", "baseline")
    )
    if not params:
        raise ConfigError("a space needs params", where=where, hint="such as params: {train.lr: [1.0e-3, 1.0e-4]}")
    for key in [*params, *fixed]:
        if key.partition(".")[0] not in SEARCHED or "." not in key or key == "train.validate_on":
            hint = f"allowed: settings of {', '.join(SEARCHED)}, such as train.lr"
            raise ConfigError(f"'{key}' is not for a search", where=where, hint=hint)
        if key in params and key in fixed:
            raise ConfigError(f"{key} is fixed as well", where=f"{where}: params", hint="keep one of them")
    for key, value in [*fixed.items(), *baseline.items()]:
        if not _is_plain(value):
            raise ConfigError("is not a single value", where=f"{where}: {key}", hint="such as 5 or adamw")
    drawn = {key: _param(declaration, f"{where}: {key}") for key, declaration in params.items()}
    return Space(path.stem, drawn, baseline or {"metric": "none"}, fixed)


def _param(declaration: Any, where: str) -> Any:
    """Return what a parameter is drawn from."""
    from optuna import distributions

    hint = "such as [sgd, adamw], or {low: 1.0e-5, high: 1.0e-2, log: true}, above 0 and without step; YAML reads 1e-5 as text"
    try:
        if isinstance(declaration, list):
            if not all(map(_is_plain, declaration)) or len(set(map(json.dumps, declaration))) < len(declaration):
                raise ValueError("its values are not single ones, or not distinct")
            return distributions.CategoricalDistribution(declaration)
        numbers = [declaration[key] for key in ("low", "high", "step") if key != "step" or key in declaration]
        if not all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
            raise ValueError("its ends are not numbers")
        is_whole = all(type(one) is int for one in numbers)
        kind = distributions.IntDistribution if is_whole else distributions.FloatDistribution
        with warnings.catch_warnings(action="ignore"):  # the last step is the highest inside the range
            return kind(**declaration)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{declaration} cannot be drawn from: {error}", where=where, hint=hint) from error


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | bool | None) or (isinstance(value, float) and math.isfinite(value))
