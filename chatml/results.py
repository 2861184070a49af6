"""Sort tool results into the order of their calls. A result names its call (`tool_call_id`); records have any order.

The rendered formats (`chatml.hermes`, `chatml.react`) have no ids, so only the order shows which call a result is for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from chatml.messages import Message, RecordError


def sort_results_by_call(messages: Sequence[Message], items: Sequence[Any]) -> list[Message]:
    """Return the messages with the results after each message sorted into the order of its calls.

    `items` are the raw messages, with their ids, in the same order. The order is kept if there are no ids, and if there
    is one call with one result and only one of the two has an id. Raise RecordError, naming the number of the message
    from 1, for an id that is missing, unknown or used twice.
    """
    ordered, at = list(messages), 0
    with_ids = False  # whether any call so far has an id
    while at < len(messages):
        calls = _call_ids(items[at]) if messages[at].tool_calls else []
        start = stop = at + 1
        while stop < len(messages) and messages[stop].role == "tool":
            stop += 1
        if messages[at].role == "tool" and with_ids and (found := _id(items[at], "tool_call_id")):
            raise RecordError(f"message {at + 1}: tool_call_id {found!r} is not a call of the message before")
        if calls and stop > start:
            places = _result_positions(calls, [_id(item, "tool_call_id") for item in items[start:stop]], at + 1)
            ordered[start:stop] = [messages[start + place] for place in places]
            at = stop - 1
        with_ids = with_ids or any(calls)
        at += 1
    return ordered


def _result_positions(calls: list[str | None], results: list[str | None], caller: int) -> list[int]:
    """Return the index of each call's result; message number `caller` has the calls, and the results follow it."""
    alone = len(calls) == len(results) == 1
    if not (any(calls) or any(results)) or (alone and not (any(calls) and any(results))):
        return list(range(len(results)))
    for number, call in enumerate(calls, start=1):
        if call is None:
            raise RecordError(f"message {caller}: call {number} has no id; give each call one")
        if calls.count(call) > 1:
            raise RecordError(f"message {caller}: two calls have the id {call!r}; give each call its own id")
    theirs = f"message {caller}'s calls: {', '.join(map(repr, calls))}"
    for place, result in enumerate(results):
        number = caller + 1 + place
        if result is None:
            raise RecordError(f"message {number}: no tool_call_id; name one of {theirs}")
        if result not in calls:
            raise RecordError(f"message {number}: tool_call_id {result!r} is not one of {theirs}")
        if result in results[:place]:
            raise RecordError(f"message {number}: a second result for the call {result!r}; keep one of them")
    for call in calls:
        if call not in results:
            raise RecordError(f"message {caller}: no result for the call {call!r}; add a tool message with its id")
    return [results.index(call) for call in calls]


def _call_ids(item: Any) -> list[str | None]:
    """Return the ids of a message's calls; None for a call without one."""
    calls = item.get("tool_calls") if isinstance(item, Mapping) else None
    return [_id(call, "id") for call in calls or ()]


def _id(item: Any, name: str) -> str | None:
    found = item.get(name) if isinstance(item, Mapping) else None
    return None if found in (None, "") else str(found)
