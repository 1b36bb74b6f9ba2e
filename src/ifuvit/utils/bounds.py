"""Bounds of the numbers in a configuration, written as their types: `steps: AtLeastOne`."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Metadata of a type: every number of the field has to lie within."""

    says: str
    """The rule in words, after "must"."""
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    """Whether `low` itself is outside."""
    open_high: bool = False
    """Whether `high` itself is outside."""

    def holds(self, number: float) -> bool:
        """Whether a number lies within."""
        above = number > self.low if self.open_low else number >= self.low
        return above and (number < self.high if self.open_high else number <= self.high)


AtLeastOne = Annotated[int, Bounds(says="be at least 1", low=1)]
Count = Annotated[int, Bounds(says="not be negative", low=0)]
NotNegative = Annotated[float, Bounds(says="not be negative", low=0)]
Positive = Annotated[float, Bounds(says="be positive", low=0, open_low=True)]
Fraction = Annotated[float, Bounds(says="lie in [0, 1]", low=0, high=1)]
FractionBelowOne = Annotated[float, Bounds(says="lie in [0, 1)", low=0, high=1, open_high=True)]


class Bounded:
    """Base of configuration dataclasses whose numbers are checked when they are made.

    Raises:
        InputError: a float that is not finite, or a number outside the bounds of its type; with name and value.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name, None)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, float) and not math.isfinite(number):
                    raise InputError(f"{name}={value}: must be a finite number")
                for bounds in _bounds(hint):
                    if isinstance(number, (int, float)) and not bounds.holds(number):
                        raise InputError(f"{name}={value}: must {bounds.says}")


def _bounds(hint: Any) -> Iterator[Bounds]:
    if get_origin(hint) is Annotated:
        yield from (item for item in hint.__metadata__ if isinstance(item, Bounds))
    for argument in get_args(hint):
        if argument is not hint and not isinstance(argument, Bounds):
            yield from _bounds(argument)
