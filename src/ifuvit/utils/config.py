"""Frozen dataclasses to JSON values and back, strictly: an unknown field or a value of the wrong type is an InputError."""

import dataclasses
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
    hints = get_type_hints(cls)
    fitting = {name: _from_json(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    try:
        return cls(**fitting)
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
        value = getattr(config, field.name)
        section = dataclasses.is_dataclass(value)
        if field.name in values and (not section or dataclasses.is_dataclass(values[field.name])):
            changes[field.name] = values.pop(field.name)
        elif section and (inner := _set_fields(value, values)) is not value:
            changes[field.name] = inner
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
    if origin in (Union, types.UnionType):
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
            return tuple(_from_json(arguments[0], item, where) for item in value)
        if len(arguments) == len(value):
            return tuple(_from_json(argument, item, where) for argument, item in zip(arguments, value))
    elif dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(hint, value, where=where)  # type: ignore[arg-type]
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif hint is bool or hint is int:
        if type(value) is hint:
            return value
    elif hint is Any or hint is type(None) and value is None or isinstance(hint, type) and isinstance(value, hint):
        return value
    raise InputError(f"{where}: {value!r} does not fit {getattr(hint, '__name__', hint)}")
