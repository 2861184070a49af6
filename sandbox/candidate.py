"""The candidate's side of calls between two confined processes: see sandbox/remote.py."""

import builtins
import operator
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sandbox.protocol import Message
from sandbox.values import decode, encode

Ask = Callable[[Message], Message]


class CandidateError(BaseException):
    """The candidate raised what is no Exception (SystemExit and its like), or has ended.

    Not an Exception either: tests that expect one must not pass by it.
    """

    __module__ = "builtins"  # tracebacks name it without a module


class Candidate:
    """Answers calls in the process of the candidate."""

    def __init__(self, names: dict[str, Any], ask: Ask) -> None:
        self.names = names
        self.ask = ask
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}
        """id of an object -> its place in `objects`"""

    def encode(self, value: Any) -> Any:
        return encode(value, self.number)

    def number(self, value: Any) -> Message:
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        return {"object": self.numbers[id(value)]}

    def decode(self, data: Any) -> Any:
        def other(kind: str, number: int) -> Any:
            return self.objects[number] if kind == "object" else self.callback(number)

        return decode(data, other)

    def callback(self, number: int) -> Callable[..., Any]:
        """Return a function that calls one of the tests'."""

        def function(*arguments: Any, **named: Any) -> Any:
            given = [self.encode(item) for item in arguments]
            by_name = {name: self.encode(item) for name, item in named.items()}
            answer = self.ask({"callback": number, "with": given, "named": by_name})
            if "raised" in answer:
                raise exception(*answer["raised"])
            return self.decode(answer["value"])

        return function

    def answer(self, call: Message) -> Message:
        if call["do"] == "names":
            return {"names": self.public_names()}
        target = self.decode(call["on"])
        arguments = [self.decode(item) for item in call["with"]]
        named = {name: self.decode(item) for name, item in call["named"].items()}
        result = OPERATIONS[call["do"]](target, *arguments, **named)
        sent = [*call["with"], *call["named"].values()]
        changed = [self.changed(*pair) for pair in zip([*arguments, *named.values()], sent, strict=True)]
        return {"value": self.encode(result), "changed": changed}

    def answer_safely(self, call: Message) -> Message:
        try:
            return self.answer(call)
        except BaseException as error:
            return describe_raised(error)

    def changed(self, argument: Any, sent: Any) -> Any:
        """Return an argument as it is after the call if it has a form as a value and the call has changed it."""
        if not isinstance(sent, dict) or not sent.keys() & MUTABLE:
            return None
        now = self.encode(argument)
        return None if now == sent else now

    def public_names(self) -> dict[str, Any]:
        """Return {name: encoded value, or {"module": name}} of what the candidate has defined or imported."""
        found = {}
        for name, value in list(self.names.items()):
            if not name.startswith("__"):
                is_module = isinstance(value, types.ModuleType)
                found[name] = {"module": value.__name__} if is_module else self.encode(value)
        return found


MUTABLE = {"list", "dict", "set", "bytearray", "array", "deque"}
OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda target, *arguments, **named: target(*arguments, **named),
    "isinstance": lambda target, item: isinstance(item, target),
    **{function.__name__: function for function in (getattr, setattr, delattr, len, iter, next, bool, repr, str)},
    **{name: getattr(operator, name) for name in ("getitem", "setitem", "delitem", "contains")},
    **{name: getattr(operator, name) for name in ("eq", "lt", "le", "gt", "ge")},
}


def describe_raised(error: BaseException) -> Message:
    """Return an exception as a message: its nearest class that is Python's own, and its text."""
    kind = next(base for base in type(error).__mro__ if vars(builtins).get(base.__name__) is base)
    try:
        text = str(error)
    except BaseException:
        text = ""
    return {"raised": [kind.__name__, text]}


def exception(name: str, text: str) -> BaseException:
    """Return the exception that `describe_raised` has described."""
    kind = vars(builtins).get(name)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with suppress(TypeError):  # raised by those that need more than a text
            return kind(text)
    return CandidateError(f"{name}: {text}")
