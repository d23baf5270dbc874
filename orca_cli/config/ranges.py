"""Settings declared by annotations: type, bounds, choices and meaning in one place, for signatures of parts and the schema.

`train_size: Count = 200` declares type and range; a text in the annotation, as in `Annotated[Count, "Passes over the data."]`,
is the setting's meaning. Choices are `typing.Literal`, or `OneOf` in the schema, because OmegaConf does not support Literal.
"""

import math
import operator
import re
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval

from orca_cli.exceptions import ConfigError, suggest

Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]
LARGEST_SEED = 2**31 - 1
Seed = Annotated[int, Interval(ge=0, le=LARGEST_SEED)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Fraction = Annotated[float, Interval(gt=0, lt=1)]

_LARGEST = 2**63 - 1  # of whole numbers: what arrays and files can hold
_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "gt": ("above", operator.gt),
    "ge": ("at least", operator.ge),
    "lt": ("below", operator.lt),
    "le": ("at most", operator.le),
}
_UNIONS = (typing.Union, types.UnionType)


@dataclass(frozen=True)
class OneOf:
    """The texts that a setting may have: as messages list them, and as a regular expression where that allows more."""

    words: tuple[str, ...]
    pattern: str = ""

    def holds(self, value: str) -> bool:
        """Return whether a text is one of them."""
        return (
            re.fullmatch(self.pattern, value) is not None if self.pattern else value in self.words
        )


@dataclass(frozen=True)
class Takes:
    """The type of a setting that the schema declares as Any, because OmegaConf supports no unions with lists."""

    hint: Any


# The name of a file or folder, with no way out of where it is looked for.
PlainName = Annotated[str, OneOf(("a name without slashes",), pattern=r"(?!\.{1,2}$)[^/\\\0]+")]


def check_value(value: Any, hint: Any, where: str) -> None:
    """Raise ConfigError, with what is allowed, for a value read from YAML that does not fit its annotation."""
    if fits(value, hint):
        return
    allowed = in_words(hint)
    closest = suggest(value, re.split(r", | or ", allowed)) if isinstance(value, str) else ""
    allowed = (
        f"{closest} allowed: {allowed}" if closest.startswith("did you") else f"allowed: {allowed}"
    )
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    raise ConfigError(
        f"{shown(value)} is {'out of range' if is_number else 'not allowed'}",
        where=where,
        hint=allowed,
    )


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value read from YAML is what an annotation allows; annotations of other types allow everything.

    A bool is not a number here, NaN and infinity are not settings, and whole numbers fit where fractions do.
    """
    hint, words, bounds = _read(hint)
    if words or bounds:
        fits_all = fits(value, hint) and all(
            _BOUNDS[name][1](value, bound) for name, bound in bounds
        )
        return fits_all and all(one.holds(value) for one in words)
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin in _UNIONS:
        return any(fits(value, member) for member in members)
    if origin is typing.Literal:
        return any(value == member and type(value) is type(member) for member in members)
    if origin in (list, Sequence):
        return isinstance(value, (list, tuple)) and all(fits(item, members[0]) for item in value)
    if origin is tuple and members:
        return (
            isinstance(value, (list, tuple))
            and len(value) == len(members)
            and all(map(fits, value, members))
        )
    if hint in (int, float):
        whole = isinstance(value, int) and abs(value) <= _LARGEST
        fraction = hint is float and isinstance(value, float) and math.isfinite(value)
        return not isinstance(value, bool) and (whole or fraction)
    return isinstance(value, hint) if hint in (bool, str, type(None)) else True


def in_words(hint: Any) -> str:
    """Return what an annotation allows, such as "int at least 1 or null"."""
    hint, words, bounds = _read(hint)
    if words:
        return ", ".join(words[0].words)
    if bounds:
        return f"{in_words(hint)} {' and '.join(f'{_BOUNDS[name][0]} {bound}' for name, bound in bounds)}"
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin in _UNIONS:
        return " or ".join(map(in_words, members))
    if origin is typing.Literal:
        return ", ".join(map(str, members))
    if origin in (list, Sequence):
        return f"list of {in_words(members[0])}"
    if origin is tuple and members:
        return f"[{', '.join(map(in_words, members))}]"
    return {type(None): "null", bool: "true or false"}.get(
        hint, getattr(hint, "__name__", str(hint))
    )


def meaning(hint: Any) -> str:
    """Return the text in an annotation; empty where there is none."""
    return next((item for item in getattr(hint, "__metadata__", ()) if isinstance(item, str)), "")


def shown(value: Any) -> str:
    """Return a value for a message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]} ..."


def _read(hint: Any) -> tuple[Any, list[OneOf], list[tuple[str, Any]]]:
    """Return the type, the choices and the bounds of an annotation; other metadata do not limit a value."""
    metadata = getattr(hint, "__metadata__", ())
    kind = next(
        (item.hint for item in metadata if isinstance(item, Takes)),
        hint.__origin__ if metadata else hint,
    )
    bounds = [(name, getattr(item, name, None)) for item in metadata for name in _BOUNDS]
    words = [item for item in metadata if isinstance(item, OneOf)]
    return kind, words, [(name, bound) for name, bound in bounds if bound is not None]
