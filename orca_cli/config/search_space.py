"""What a search varies: a file of conf/space or the user's own.

params:                               # setting -> its values, or a range
  train.optimizer: [sgd, adamw]
  train.lr: {low: 1.0e-5, high: 1.0e-2, log: true}
  train.batch_size: {low: 8, high: 64, step: 8}     # whole numbers where both ends are
fixed: {train.epochs: 60}             # settings of all trials but the first, and of the run that follows
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli.config import configuration
from orca_cli.config.ranges import fits
from orca_cli.exceptions import ConfigError, suggest

GROUP = "space"
# Groups that may be searched; others change the data or the meaning of the error, so that trials could not be compared, or
# act on alignment, which trials leave out.
SEARCHED = ("train", "embedder", "finetune", "augment", "predictor", "body")
_DIGITS = 3  # of a number drawn from a continuous range
_FORMS = (
    "such as [sgd, adamw], or {low: 1.0e-5, high: 1.0e-2, log: true}, above 0 and without step; YAML reads 1e-5 as text"
)

Plain = str | int | float | bool | None


@dataclass(frozen=True)
class Space:
    """A space; see the module. `params` are Optuna's distributions."""

    name: str
    params: dict[str, Any]
    fixed: dict[str, Plain]

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
    path = spaces.get(text, Path(text).expanduser())
    if text not in spaces and path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"no such space: '{text}'", where=GROUP, hint=f"{suggest(text, spaces)} or give a YAML file")
    content = configuration.mapping(configuration.content(path), str(path), ("params", "fixed"))
    params, fixed = (configuration.mapping(content.get(part), f"{path}: {part}") for part in ("params", "fixed"))
    for key in [*params, *fixed]:
        group, dot, _ = key.partition(".")
        if group not in SEARCHED or not dot or key == "train.validate_on":
            hint = f"allowed: settings of {', '.join(SEARCHED)}, such as train.lr"
            raise ConfigError(f"'{key}' is not for a search", where=str(path), hint=hint)
    return Space(path.stem, {key: _param(one, f"{path}: {key}") for key, one in params.items()}, fixed)


def _param(declaration: Any, where: str) -> Any:
    """Return what a parameter is drawn from."""
    from optuna import distributions

    try:
        if fits(declaration, list[Plain]):
            return distributions.CategoricalDistribution(declaration)
        numbers = [value for key, value in declaration.items() if key != "log"]
        if not fits(numbers, list[float]):
            raise ValueError("its ends are not numbers")
        is_whole = fits(numbers, list[int])
        with warnings.catch_warnings(action="ignore"):  # the last step is the highest inside the range
            return (distributions.IntDistribution if is_whole else distributions.FloatDistribution)(**declaration)
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{declaration} cannot be drawn from: {error}", where=where, hint=_FORMS) from error
