"""Calls between two confined processes: tests in one call functions of a candidate in the other (sandbox/check.py).

Values cross (sandbox/values.py), never code. Of any other object of the candidate's the tests get a `Remote`; of a
function that the tests pass, the candidate gets a function that calls back.

A call is {"do": operation, "on": object, "with": [arguments], "named": {name: argument}}, all of them encoded, or
{"do": "names"}. The answer is {"value": encoded, "changed": [encoded argument or null]} or {"raised": [class, text]}.
A callback is {"callback": number, "with", "named"}, its answer the same without "changed".
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any, Self

from sandbox.candidate import Ask, describe_raised, exception
from sandbox.protocol import Message
from sandbox.values import decode, encode, update

MODULE_NAMES = {"np": "numpy", "pd": "pandas", "plt": "matplotlib.pyplot"}
"""usual names of modules; others are bound under their own"""
IMPORTABLE = {*sys.stdlib_module_names, *MODULE_NAMES.values()} - {"sandbox"}


class Caller:
    """Makes calls in the process of the tests, and serves callbacks."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.functions: list[Callable[..., Any]] = []

    def proxies(self, names: dict[str, Any]) -> dict[str, Any]:
        """Return what the tests see of the candidate's names. Modules are imported here, under usual names only."""
        found: dict[str, Any] = {}
        for name, data in names.items():
            if not isinstance(data, dict) or "module" not in data:
                found[name] = self.decode(data)
            elif MODULE_NAMES.get(name, name) == data["module"] and data["module"] in IMPORTABLE:
                found[name] = importlib.import_module(data["module"])
        return found

    def call(self, do: str, number: int, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        given = [self.encode(item) for item in arguments]
        by_name = {name: self.encode(item) for name, item in named.items()}
        answer = self.ask({"call": {"do": do, "on": {"object": number}, "with": given, "named": by_name}})
        if "raised" in answer:
            error = exception(*answer["raised"])
            if isinstance(error, StopIteration) and do != "next":  # would end `map` of the tests early, as PEP 479 says
                error = RuntimeError("the candidate raised StopIteration")
            raise error
        for argument, now in zip((*arguments, *named.values()), answer["changed"], strict=True):
            if now is not None:
                update(argument, self.decode(now))
        return self.decode(answer["value"])

    def call_back(self, message: Message) -> Message:
        """Call a function that the tests have passed, for the candidate; it can call no other."""
        try:
            function = self.functions[message["callback"]]
            arguments = [self.decode(item) for item in message["with"]]
            named = {name: self.decode(item) for name, item in message["named"].items()}
            return {"value": self.encode(function(*arguments, **named))}
        except BaseException as error:
            return describe_raised(error)

    def decode(self, data: Any) -> Any:
        def other(kind: str, number: int) -> Any:
            if kind != "object":
                raise ValueError(f"a {kind} of the candidate's")
            return Remote(number, self)

        return decode(data, other)

    def encode(self, value: Any) -> Any:
        return encode(value, self.number)

    def number(self, value: Any) -> Message:
        if isinstance(value, Remote):
            return {"object": hash(value)}
        if not callable(value):
            kind = type(value).__name__
            raise TypeError(
                f"tests can pass no {kind} to the candidate, only plain values, functions and its own objects"
            )
        for number, function in enumerate(self.functions):
            if function is value:
                return {"callback": number}
        self.functions.append(value)
        return {"callback": len(self.functions) - 1}


class Remote:
    """An object of the candidate's. All that is done to it happens there.

    Two of them are equal, or in order, if the candidate says so. One and a value never are, and `in` compares here, so
    that an object that claims to be equal to everything passes no test.
    """

    _number: int
    _caller: Caller

    def __init__(self, number: int, caller: Caller) -> None:
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_caller", caller)

    def _do(self, operation: str, *arguments: Any, **named: Any) -> Any:
        return self._caller.call(operation, self._number, arguments, named)

    def _compare(self, operation: str, other: object) -> Any:
        return self._do(operation, other) if isinstance(other, Remote) else NotImplemented

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._do("call", *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        # numpy, copy and others ask for special methods, and would trust the answers.
        if name.startswith("__") and name != "__name__":
            raise AttributeError(f"{name} of an object of the candidate's")
        return self._do("getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._do("setattr", name, value)

    def __delattr__(self, name: str) -> None:
        self._do("delattr", name)

    def __getitem__(self, key: Any) -> Any:
        return self._do("getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._do("setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        self._do("delitem", key)

    def __contains__(self, item: Any) -> bool:
        return self._do("contains", item) is True if isinstance(item, Remote) else any(one == item for one in self)

    def __len__(self) -> int:
        return int(self._do("len"))

    def __iter__(self) -> Self:
        return self._do("iter")

    def __next__(self) -> Any:
        return self._do("next")

    def __bool__(self) -> bool:
        return self._do("bool") is True

    def __repr__(self) -> str:
        return str(self._do("repr"))

    def __str__(self) -> str:
        return str(self._do("str"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and (hash(other) == self._number or self._do("eq", other) is True)

    def __hash__(self) -> int:
        """Return the number by which the candidate's process knows the object."""
        return self._number

    def __lt__(self, other: object) -> Any:
        return self._compare("lt", other)

    def __le__(self, other: object) -> Any:
        return self._compare("le", other)

    def __gt__(self, other: object) -> Any:
        return self._compare("gt", other)

    def __ge__(self, other: object) -> Any:
        return self._compare("ge", other)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, Remote) and self._do("isinstance", instance) is True
