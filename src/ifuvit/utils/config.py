"""Frozen dataclasses to JSON values and back, strictly: an unknown field or a value of the wrong type is an InputError."""

import contextlib
import dataclasses
import functools
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ifuvit.utils.errors import InputError

T = TypeVar("T")


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
        return cls(**fitting)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


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
