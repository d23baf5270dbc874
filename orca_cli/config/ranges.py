"""Settings declared by annotations: type, bounds, choices and meaning.

`train_size: Count = 200` declares type and range. A text in the annotation, as in
`Annotated[Count, "Passes over the data."]`, is the setting's meaning. Choices are declared by
`typing.Literal`, or by `OneOf` in the schema, because OmegaConf does not support Literal.
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

_LARGEST = 2**63 - 1  # the largest integer that arrays and files can hold
# Field of a limit in annotated_types -> its words in a message, and its test.
_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "gt": ("above", operator.gt),
    "ge": ("of at least", operator.ge),
    "lt": ("below", operator.lt),
    "le": ("of at most", operator.le),
}
# Python represents `Optional[int]` and `int | None` by different types.
_UNIONS = (typing.Union, types.UnionType)


@dataclass(frozen=True)
class OneOf:
    """The texts that a setting may have, as messages list them.

    A regular expression `pattern` decides in their place if it is given: it may allow more texts.
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


# The name of a file or folder that cannot lead out of the folder in which it is looked up.
# "." and ".." name other folders, and a NUL would end the name for the operating system.
PlainName = Annotated[str, OneOf(("a name without slashes",), pattern=r"(?!\.{1,2}$)[^/\\\0]+")]


def check_value(value: Any, hint: Any, where: str) -> None:
    """Raise ConfigError for a value that its annotation does not allow; name the allowed values."""
    if fits(value, hint):
        return
    allowed = in_words(hint)
    advice = ""
    if isinstance(value, str):
        # The words between the commas are the choices; `suggest` finds the closest.
        words = re.split(r"one of |, | or ", allowed)
        closest = suggest(value, filter(None, words))
        if closest.startswith("did you"):
            advice = closest
    # After a list, a comma would seem to continue it.
    separator = ";" if ", " in allowed else ","
    message = f"must be {allowed}{separator} got {shown(value)}"
    raise ConfigError(message, where=where, hint=advice)


def fits(value: Any, hint: Any) -> bool:
    """Return whether an annotation allows a value that was read from YAML.

    A bool does not count as a number, NaN and infinity are never allowed, and an integer is allowed
    wherever a float is. A type that YAML does not have allows every value.
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
    # YAML does not have this type, such as a callable; the part checks the value itself.
    return True


def in_words(hint: Any) -> str:
    """Return what an annotation allows, such as "an integer of at least 1 or null"."""
    hint, choices, bounds = _read(hint)
    # Choices say more than the type, which is always text.
    if choices:
        return _choices_in_words(choices[0].texts)
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
        return _choices_in_words(members)
    if origin in (list, Sequence):
        return f"a list, each entry {in_words(members[0])}"
    if origin is tuple and members:
        return f"[{', '.join(map(in_words, members))}]"
    if hint is type(None):
        return "null"
    words = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
    return words.get(hint) or str(getattr(hint, "__name__", hint))


def _choices_in_words(choices: Sequence[Any]) -> str:
    listed = ", ".join(map(str, choices))
    return f"one of {listed}" if len(choices) > 1 else listed


def meaning(hint: Any) -> str:
    """Return the text in an annotation, or "" if it has no text."""
    metadata = getattr(hint, "__metadata__", ())
    return next((text for text in metadata if isinstance(text, str)), "")


def shown(value: Any) -> str:
    """Return a value as a message shows it, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]} ..."


def _read(hint: Any) -> tuple[Any, list[OneOf], list[tuple[str, Any]]]:
    """Return type, choices and bounds of an annotation; ignore its other metadata."""
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
