"""Ranges of settings as annotations, for signatures of parts and for the schema.

`train_size: Count = 200` declares type and range in one place; `parts.check` enforces them before anything is read, and
messages name them. Choices are `typing.Literal`.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Interval

Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]
Seed = Annotated[int, Interval(ge=0, le=2**31 - 1)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Fraction = Annotated[float, Interval(gt=0, lt=1)]
