"""Settings declared by annotations: type, bounds, choices and meaning.

`train_size: Count = 200` declares type and range; a text in the annotation, as in
`Annotated[Count, "Passes over the data."]`, is the setting's meaning. Choices are `typing.Literal`,
or `OneOf` in the schema, because OmegaConf does not support Literal.
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
# Field of a limit in annotated_types -> its words in a message, and its test.
_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "gt": ("above", operator.gt),
    "ge": ("at least", operator.ge),
    "lt": ("below", operator.lt),
    "le": ("at most", operator.le),
}
# `Optional[int]` and `int | None` have different types.
_UNIONS = (typing.Union, types.UnionType)


@dataclass(frozen=True)
class OneOf:
    """The texts that a setting may have, as messages list them.

    If `pattern`, a regular expression, is given, it decides: it may allow more than these texts.
    """

    texts: tuple[str, ...]
    pattern: str = ""

    def holds(self, value: str) -> bool:
        """Return whether a text is allowed."""
        if self.pattern:
            return re.fullmatch(self.pattern, value) is not None
        return value in self.texts


@dataclass(frozen=True)
class Takes:
    """The type of a setting that the schema declares as Any.

    OmegaConf does not support unions with lists.
    """

    hint: Any


# The name of a file or folder that cannot lead out of the folder where it is looked for.
# "." and ".." are folders; a NUL ends a name for the system.
PlainName = Annotated[str, OneOf(("a name without slashes",), pattern=r"(?!\.{1,2}$)[^/\\\0]+")]


def check_value(value: Any, hint: Any, where: str) -> None:
    """Raise ConfigError, with what is allowed, for a value that does not fit its annotation."""
    if fits(value, hint):
        return
    allowed = in_words(hint)
    advice = f"allowed: {allowed}"
    if isinstance(value, str):
        # The words of the message are the choices; `suggest` finds the closest.
        closest = suggest(value, re.split(r", | or ", allowed))
        if closest.startswith("did you"):
            advice = f"{closest} {advice}"
    # bool is a subclass of int in Python.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fault = "out of range" if is_number else "not allowed"
    raise ConfigError(f"{shown(value)} is {fault}", where=where, hint=advice)


def fits(value: Any, hint: Any) -> bool:
    """Return whether an annotation allows a value that was read from YAML.

    A bool is not a number here, NaN and infinity do not fit, and whole numbers fit where fractions
    do. A type that YAML does not have allows everything.
    """
    hint, choices, bounds = _read(hint)
    if choices or bounds:
        # The type first, since a text cannot be compared with a number.
        if not fits(value, hint):
            return False
        for name, bound in bounds:
            _, is_met = _BOUNDS[name]
            if not is_met(value, bound):
                return False
        return all(choice.holds(value) for choice in choices)
    origin = typing.get_origin(hint)
    members = typing.get_args(hint)
    if origin in _UNIONS:
        return any(fits(value, member) for member in members)
    if origin is typing.Literal:
        # The types too, since True equals 1.
        return any(value == member and type(value) is type(member) for member in members)
    # A tuple may come from a default in Python; YAML has lists only.
    if origin in (list, Sequence):
        return isinstance(value, (list, tuple)) and all(fits(entry, members[0]) for entry in value)
    if origin is tuple and members:
        has_length = isinstance(value, (list, tuple)) and len(value) == len(members)
        return has_length and all(map(fits, value, members))
    if hint in (int, float):
        is_whole = isinstance(value, int) and abs(value) <= _LARGEST
        is_fraction = hint is float and isinstance(value, float) and math.isfinite(value)
        return not isinstance(value, bool) and (is_whole or is_fraction)
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    # A type that YAML does not have, such as a callable; the part checks it.
    return True


def in_words(hint: Any) -> str:
    """Return what an annotation allows, such as "int at least 1 or null"."""
    hint, choices, bounds = _read(hint)
    # Choices say more than the type, which is always text.
    if choices:
        return ", ".join(choices[0].texts)
    if bounds:
        limits = []
        for name, bound in bounds:
            limit_words, _ = _BOUNDS[name]
            limits.append(f"{limit_words} {bound}")
        return f"{in_words(hint)} {' and '.join(limits)}"
    origin = typing.get_origin(hint)
    members = typing.get_args(hint)
    if origin in _UNIONS:
        return " or ".join(map(in_words, members))
    if origin is typing.Literal:
        return ", ".join(map(str, members))
    if origin in (list, Sequence):
        return f"list of {in_words(members[0])}"
    if origin is tuple and members:
        return f"[{', '.join(map(in_words, members))}]"
    if hint is type(None):
        return "null"
    if hint is bool:
        return "true or false"
    return getattr(hint, "__name__", str(hint))


def meaning(hint: Any) -> str:
    """Return the text in an annotation; empty where there is none."""
    metadata = getattr(hint, "__metadata__", ())
    return next((text for text in metadata if isinstance(text, str)), "")


def shown(value: Any) -> str:
    """Return a value for a message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]} ..."


def _read(hint: Any) -> tuple[Any, list[OneOf], list[tuple[str, Any]]]:
    """Return type, choices and bounds of an annotation; other metadata are ignored."""
    metadata = getattr(hint, "__metadata__", ())
    kind = hint.__origin__ if metadata else hint
    choices: list[OneOf] = []
    bounds: list[tuple[str, Any]] = []
    for limit in metadata:
        # OmegaConf sees Any; the declared type is in the metadata.
        if isinstance(limit, Takes):
            kind = limit.hint
        if isinstance(limit, OneOf):
            choices.append(limit)
        # An Interval has several of these fields, a Ge only its own.
        for name in _BOUNDS:
            bound = getattr(limit, name, None)
            if bound is not None:
                bounds.append((name, bound))
    return kind, choices, bounds
