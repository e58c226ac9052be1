"""Dataclasses as plain JSON, and back, strictly.

What is unknown, missing or of another type is an error that says where it stands.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast

from echelon.types import EchelonError

T = TypeVar("T")


def read(cls: type[T], value: Any, where: str) -> T:
    """Plain JSON as the dataclass `cls`; unknown, missing and mistyped fields are errors.

    where: what to call the value in an error.
    """
    if not isinstance(value, Mapping):
        raise EchelonError(f"{where}: expected an object, not {_name(value)}")
    values = cast(Mapping[str, Any], value)
    hints, required = _fields(cls)
    if unknown := sorted(set(values) - set(hints)):
        raise EchelonError(f"{where}: unknown field {', '.join(unknown)}")
    if missing := [name for name in required if name not in values]:
        raise EchelonError(f"{where}: missing field {', '.join(missing)}")
    fields = {key: _read(hints[key], v, f"{where}: {key}") for key, v in values.items()}
    try:
        return cls(**fields)
    except EchelonError as error:
        raise EchelonError(f"{where}: {error}") from error


@functools.cache
def _fields(cls: type[Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    required = tuple(
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    )
    return typing.get_type_hints(cls), required


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        inner = next(a for a in arguments if a is not type(None))
        return None if value is None else _read(inner, value, where)
    if dataclasses.is_dataclass(hint):
        return read(cast(type[Any], hint), value, where)
    if origin is Literal:
        if value not in arguments:
            raise EchelonError(f"{where}: expected one of {arguments}, not {_name(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise EchelonError(f"{where}: expected a list, not {_name(value)}")
        items = cast(list[Any], value)
        hints = arguments[:1] * len(items) if arguments[-1] is Ellipsis else arguments
        if len(items) != len(hints):
            raise EchelonError(f"{where}: expected {len(hints)} values, not {len(items)}")
        pairs = enumerate(zip(hints, items, strict=True))
        return tuple(_read(hint, item, f"{where}.{i}") for i, (hint, item) in pairs)
    kind = origin or hint
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise EchelonError(f"{where}: expected {_KINDS.get(kind, kind)}, not {_name(value)}")
    if kind is float and not math.isfinite(value):
        raise EchelonError(f"{where}: {value} is not a finite number")
    return value


_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "an object",
}


def _name(value: Any) -> str:
    return f"{value!r:.40}"
