"""A space: the settings that a search varies, and their values.

A space is a file in conf/space, or a file of the user's own:

    params:                               # setting -> its values, or a range
      train.optimizer: [sgd, adamw]
      train.lr: {low: 1.0e-5, high: 1.0e-2, log: true}
      train.batch_size: {low: 8, high: 64, step: 8}     # integers, since both ends are integers
    fixed: {train.epochs: 60}     # for all trials except trial 0, and for the run that follows

With `grid: true` every parameter has a list of values. The search tries all combinations, without
Optuna; the first parameter changes fastest. A parameter may also be a group, such as embedder.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli.config import configuration
from orca_cli.config.ranges import check_value, fits
from orca_cli.exceptions import ConfigError, need, suggest

# Groups whose settings a search may vary. Other groups change the data or the meaning of the error,
# so that trials could not be compared.
SEARCHED = ("train", "align", "embedder", "finetune", "predictor", "body")
# Groups whose choice a search may vary.
_CHOSEN = ("embedder", "finetune")
_DIGITS = 3  # significant digits of a number that is drawn from a continuous range
_FORMS = (
    "use a list such as [sgd, adamw], or a range such as {low: 1.0e-5, high: 1.0e-2, log: true}, "
    "where log: true needs ends above 0 and allows no step; "
    "write 1.0e-5, since YAML reads 1e-5 as text"
)

Plain = str | int | float | bool | None


@dataclass(frozen=True)
class Listed:
    """The values of a parameter of a grid, named as in Optuna's distributions."""

    choices: tuple[Plain, ...]


@dataclass(frozen=True)
class Space:
    """A space (see the module); `params` are Optuna's distributions, or `Listed` in a grid."""

    name: str
    params: dict[str, Any]
    fixed: dict[str, Plain]
    is_grid: bool = False

    def plain(self, drawn: Mapping[str, Any]) -> dict[str, Plain]:
        """Return drawn values as settings, rounding those of continuous ranges to three digits."""
        settings: dict[str, Plain] = {}
        for setting, distribution in self.params.items():
            settings[setting] = drawn[setting]
            # Only distributions of continuous ranges have a step of None.
            if getattr(distribution, "step", 0) is None:
                settings[setting] = float(f"{drawn[setting]:.{_DIGITS}g}")
        return settings

    def points(self) -> list[dict[str, Plain]]:
        """Return the settings of a grid in the order of their trials; [] for any other space."""
        if not self.is_grid:
            return []
        # The last factor of a product changes fastest.
        listed = [param.choices for param in reversed(self.params.values())]
        product = itertools.product(*listed)
        return [dict(zip(self.params, values[::-1], strict=True)) for values in product]

    def corners(self) -> Iterator[dict[str, Plain]]:
        """Yield settings that together contain every choice and both ends of every range."""
        values = {}
        for setting, distribution in self.params.items():
            if hasattr(distribution, "choices"):
                values[setting] = list(distribution.choices)
            else:
                values[setting] = [distribution.low, distribution.high]
        n_corners = max(map(len, values.values()), default=1)
        for corner in range(n_corners):
            yield {setting: listed[corner % len(listed)] for setting, listed in values.items()}


def find_space(text: str, extra: Path | None) -> Space:
    """Return the space with a name in conf/space or in the user's folder `extra`, or in a file.

    Raises:
        ConfigError: the space does not exist, or the file does not contain a space.
        UnavailableError: the space is not a grid, and Optuna is missing.
    """
    spaces = configuration.choices("space", extra)
    path = spaces.get(text, Path(text).expanduser())
    if text not in spaces and path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"unknown space '{text}'",
            where="space",
            hint=f"{suggest(text, spaces)} or name a YAML file of your own",
        )
    keys = ("grid", "params", "fixed")
    content = configuration.mapping(configuration.content(path), str(path), keys)
    is_grid = content.get("grid", False)
    check_value(is_grid, bool, f"{path}: grid")
    if not is_grid:
        need("optuna", "tune", "tune")
    params = configuration.mapping(content.get("params"), f"{path}: params")
    fixed_settings = configuration.mapping(content.get("fixed"), f"{path}: fixed")
    for setting in [*params, *fixed_settings]:
        group, separator, _ = setting.partition(".")
        is_setting = group in SEARCHED and separator and setting != "train.validate_on"
        if setting not in _CHOSEN and not is_setting:
            raise ConfigError(
                f"a search cannot vary or fix '{setting}'",
                where=str(path),
                hint=f"allowed: {', '.join(_CHOSEN)}, and settings of {', '.join(SEARCHED)}, "
                "such as train.lr",
            )
    distributions = {}
    for setting, declaration in params.items():
        where = f"{path}: {setting}"
        if not is_grid:
            distributions[setting] = _distribution(declaration, where)
            continue
        check_value(declaration, list[Plain], where)
        distributions[setting] = Listed(tuple(declaration))
    return Space(name=path.stem, params=distributions, fixed=fixed_settings, is_grid=is_grid)


def _distribution(declaration: Any, where: str) -> Any:
    """Return the distribution that a parameter is drawn from."""
    from optuna import distributions

    try:
        if fits(declaration, list[Plain]):
            return distributions.CategoricalDistribution(declaration)
        numbers = [value for name, value in declaration.items() if name != "log"]
        if not fits(numbers, list[float]):
            raise ValueError("the ends of a range must be numbers")
        distribution_class: Any = distributions.FloatDistribution
        if fits(numbers, list[int]):
            distribution_class = distributions.IntDistribution
        with warnings.catch_warnings(action="ignore"):
            # Optuna warns if the step does not divide the range, and lowers the upper end.
            return distribution_class(**declaration)
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{declaration} is not a valid list or range: {error}", where=where, hint=_FORMS
        ) from error
