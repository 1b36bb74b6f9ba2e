"""Frozen dataclasses to JSON values and back, strictly: an unknown field or a value of the wrong type is an InputError.

Numbers whose range matters are annotated with it, and `check`, called from `__post_init__`, refuses the others:

    steps: Positive[int] = 700
    minutes: Positive[float] | None = None
    ema: Fraction = 0.995

    def __post_init__(self) -> None:
        check(self)
"""

import contextlib
import dataclasses
import functools
import math
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ifuvit.utils.errors import InputError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Range:
    """Annotates a number: finite, and within bounds."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return math.isfinite(value) and self.least <= value <= self.most and self.above < value < self.below

    def words(self, *, whole: bool) -> str:
        """What a value must be: "at least 1", "above 0", "from 0 to 1"."""
        if whole and self.above == 0:
            return "at least 1"
        if math.isfinite(self.least) and math.isfinite(self.most):
            return f"from {self.least:g} to {self.most:g}"
        bounds = {"at least": self.least, "at most": self.most, "above": self.above, "below": self.below}
        told = [f"{words} {bound:g}" for words, bound in bounds.items() if math.isfinite(bound)]
        return " and ".join(told) or "a finite number"


# Of int and of float: Positive[int] is at least 1.
Positive = Annotated[T, Range(above=0)]
NonNegative = Annotated[T, Range(least=0)]
Fraction = Annotated[float, Range(least=0, most=1)]
"""From 0 to 1."""
Finite = Annotated[float, Range()]
"""Neither NaN nor infinite."""


def check(config: Any) -> None:
    """Refuse numbers outside the ranges of a dataclass's annotations; for `__post_init__`.

    Raises:
        InputError: the field as a flag, the value, and the range.
    """
    for name, hint in _hints(type(config)).items():
        for value, bounds in _bounded(hint, getattr(config, name)):
            if value not in bounds:
                words = bounds.words(whole=isinstance(value, int))
                raise InputError(f"--{name.replace('_', '-')} {value}: must be {words}")


def _bounded(hint: Any, value: Any) -> Iterator[tuple[float, Range]]:
    """The numbers in `value` with the ranges that `hint` annotates them with."""
    if get_origin(hint) is Annotated:
        if isinstance(value, (int, float)):
            yield from ((value, one) for one in hint.__metadata__ if isinstance(one, Range))
        yield from _bounded(hint.__origin__, value)
    elif get_origin(hint) is tuple and isinstance(value, (tuple, list)):
        inner = get_args(hint)
        for index, item in enumerate(value):
            yield from _bounded(inner[0] if inner[-1] is Ellipsis else inner[index], item)
    elif get_origin(hint) in (Union, types.UnionType):
        for argument in get_args(hint):
            yield from _bounded(argument, value)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Types of a dataclass's fields, with their annotations."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def idle(*rules: tuple[bool, Iterable[str], str]) -> dict[str, str]:
    """What a configuration's `without_effect` returns: the reasons of options that have no effect with the others.

    Args:
        rules: whether one holds; the fields whose options have no effect then; and with or without which other option, as
            "without --adapter". The first that holds for an option says why.
    """
    found: dict[str, str] = {}
    for holds, names, why in rules:
        for name in names if holds else ():
            found.setdefault(f"--{name.replace('_', '-')}", why)
    return found


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass instance as JSON values (tuples become lists, paths become strings)."""
    return {field.name: _to_json(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_dict(cls: type[T], values: Mapping[str, Any], *, where: str = "configuration") -> T:
    """The inverse of `to_dict`. `where` names the source (a file, say) in the error.

    Raises:
        InputError: an unknown or missing field, a value that does not fit the field's type, or one that the dataclass
            itself refuses.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: holds {type(values).__name__}, not an object with fields")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(fields)):
        raise InputError(f"{where}: unknown field {unknown[0]!r}; the fields are {', '.join(sorted(fields))}")
    required = {
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - set(values)):
        raise InputError(f"{where}: field {missing[0]!r} is missing")
    hints = _hints(cls)
    fitting = {name: _from_json(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    try:
        config = cls(**fitting)
        check(config)
        return config
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def set_fields(config: T, **values: Any) -> T:
    """A copy of a dataclass in which fields of it or of any of its sections have other values. A field is found by its name,
    which has to be unique among those that are no sections, as on a command line; a section only takes a section."""
    remaining = dict(values)
    changed = _set_fields(config, remaining)
    assert not remaining, f"{type(config).__name__} has no field {', '.join(remaining)}"
    return changed


def _set_fields(config: Any, values: dict[str, Any]) -> Any:
    changes = {}
    for field in dataclasses.fields(config):
        value = new = getattr(config, field.name)
        if field.name in values and (
            not dataclasses.is_dataclass(value) or dataclasses.is_dataclass(values[field.name])
        ):
            new = values.pop(field.name)
        if dataclasses.is_dataclass(new):
            new = _set_fields(new, values)
        if new is not value:
            changes[field.name] = new
    return dataclasses.replace(config, **changes) if changes else config


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [_to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _to_json(item) for key, item in value.items()}
    return value


def _from_json(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _from_json(arguments[0], value, where)
    if origin in (Union, types.UnionType):
        several = [argument for argument in arguments if argument is not type(None)]
        if value is not None and len(several) == 1:  # so that the error is about what is inside
            return _from_json(several[0], value, where)
        for argument in arguments:
            try:
                return _from_json(argument, value, where)
            except InputError:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin is tuple and isinstance(value, (list, tuple)):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_from_json(arguments[0], item, f"{where}: {place}") for place, item in enumerate(value))
        if len(arguments) == len(value):
            return tuple(_from_json(argument, item, where) for argument, item in zip(arguments, value))
    elif origin in (Mapping, dict) and isinstance(value, Mapping):
        return {name: _from_json(arguments[1], item, f"{where}: {name}") for name, item in value.items()}
    elif dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(hint, value, where=where)  # type: ignore[arg-type]
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # of a whole number of hundreds of digits
            return float(value)
    elif hint is bool or hint is int:
        if type(value) is hint:
            return value
    elif hint is Any or hint is type(None) and value is None or isinstance(hint, type) and isinstance(value, hint):
        return value
    raise InputError(f"{where}: {value!r} does not fit {getattr(hint, '__name__', hint)}")
