"""Values that cross between the two processes of `check`, as JSON. Never code: a value is of one of these types.

None, bool, int, float, complex, str, bytes, bytearray, list, tuple, namedtuple, set, frozenset, dict, deque, range,
Fraction, Decimal, date, datetime, timedelta, numpy arrays of numbers, and Python's built-in types themselves. A numpy
scalar arrives as a number of Python's, an instance of a subclass of these types as one of the type itself.
"""

import base64
import builtins
import datetime
import sys
from collections import deque, namedtuple
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

INTEGER_BITS = 64
SEQUENCES: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
ARRAY_KINDS = "biufc"
BUILT: dict[str, tuple[type, Callable[[Any], tuple[Any, ...]]]] = {
    "bytearray": (bytearray, lambda value: (bytes(value),)),
    "complex": (complex, lambda value: (value.real, value.imag)),
    "deque": (deque, lambda value: (list(value), value.maxlen)),
    "range": (range, lambda value: (value.start, value.stop, value.step)),
    "Fraction": (Fraction, lambda value: (value.numerator, value.denominator)),
    "Decimal": (Decimal, lambda value: (str(value),)),
    "date": (datetime.date, lambda value: (value.year, value.month, value.day)),
    "datetime": (datetime.datetime, lambda value: (*value.timetuple()[:6], value.microsecond)),
    "timedelta": (datetime.timedelta, lambda value: (value.days, value.seconds, value.microseconds)),
}
"""name -> type, and the arguments that build an equal value"""


def encode(value: Any, other: Callable[[Any], Any]) -> Any:
    """Return a value as JSON. `other` encodes what is of another type.

    Raises RecursionError for a value that contains itself.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int.__int__(value)
        return number if number.bit_length() < INTEGER_BITS else {"int": hex(number)}
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, tuple) and type(fields := getattr(value, "_fields", None)) is tuple:
        return {"namedtuple": [type(value).__name__, list(fields), *(encode(item, other) for item in value)]}
    for name, kind in SEQUENCES.items():
        if isinstance(value, kind):
            return {name: [encode(item, other) for item in kind.__iter__(value)]}  # type: ignore[attr-defined]
    if isinstance(value, dict):
        return {"dict": [[encode(key, other), encode(item, other)] for key, item in dict.items(value)]}
    if isinstance(value, type) and vars(builtins).get(name := type.__getattribute__(value, "__name__")) is value:
        return {"type": name}
    for name, (kind, arguments) in BUILT.items():
        if type(value) is kind and getattr(value, "tzinfo", None) is None:
            return {name: [encode(item, other) for item in arguments(value)]}
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return encode(value.item(), other) if not isinstance(value.item(), numpy.generic) else other(value)
    if numpy is not None and type(value) is numpy.ndarray and value.dtype.kind in ARRAY_KINDS:
        content = base64.b64encode(numpy.ascontiguousarray(value).tobytes()).decode()
        return {"array": [value.dtype.str, list(value.shape), content]}
    return other(value)


def decode(data: Any, other: Callable[[str, int], Any]) -> Any:
    """Return the value that `encode` made into `data`. `other` finds what has a number: an "object" or a "callback".

    The other side may have sent anything: raises ValueError, TypeError and their like, and returns no other types.
    """
    if not isinstance(data, dict):
        if isinstance(data, list):
            raise ValueError("a bare list")
        return data
    ((kind, content),) = data.items()
    if kind in SEQUENCES:
        return SEQUENCES[kind](decode(item, other) for item in content)
    if kind in BUILT:
        return BUILT[kind][0](*(decode(item, other) for item in content))
    match kind:
        case "namedtuple":
            name, fields, *items = content
            return namedtuple(name, fields)(*(decode(item, other) for item in items))
        case "int":
            return int(content, 16)
        case "bytes":
            return base64.b64decode(content)
        case "dict":
            return {decode(key, other): decode(item, other) for key, item in content}
        case "type" if isinstance(found := vars(builtins).get(content), type) and found.__name__ == content:
            return found
        case "array":
            import numpy

            name, shape, text = content
            if numpy.dtype(name).kind not in ARRAY_KINDS:
                raise ValueError(f"array of {name}")
            return numpy.frombuffer(base64.b64decode(text), name).reshape(shape).copy()
        case "object" | "callback" if type(content) is int and content >= 0:
            return other(kind, content)
    raise ValueError(f"unknown kind {kind!r}")


def update(argument: Any, now: Any) -> None:
    """Make a list, dictionary, set, bytearray or array of the tests what the call has made of its copy."""
    if isinstance(argument, list | bytearray) and isinstance(now, type(argument)):
        argument[:] = now
    elif isinstance(argument, dict | set) and isinstance(now, dict | set):
        argument.clear()
        argument.update(now)
    elif type(argument) is type(now) and hasattr(now, "dtype") and argument.shape == now.shape:
        argument[...] = now
