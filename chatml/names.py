"""Names of roles: ours, those that published records use, and those that a recipe maps to ours (`data.roles`)."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

# ShareGPT's words for the speakers. A function call is the assistant speaking; `chatml.forms` tells it apart.
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "system": "system",
}
# Fields of a record that may hold messages.
_MESSAGES = ("messages", "conversations", "prompt", "response", "output", "chosen", "rejected")

Roles = Mapping[str, str] | None
"""role names in records -> ours: {"developer": "system", "model": "assistant"}"""


def with_our_roles(record: dict[str, Any], roles: Roles) -> dict[str, Any]:
    """Return a record in which the roles of messages (`role`, or ShareGPT's `from`) are renamed by `roles`."""
    if not roles:
        return record
    renamed = {name: _renamed(record[name], roles) for name in _MESSAGES if name in record}
    return {**record, **renamed}


def unknown(name: Any, known: Iterable[str]) -> str:
    """Return the words for a role that is none of `known`, with the way out."""
    plain = isinstance(name, str) and re.fullmatch(r"[\w-]+", name)
    mapped = f", or map it to system, user, assistant or tool: data.roles.{name}=ROLE" if plain else ""
    return f"{name!r}; use {', '.join(known)}{mapped}"


def _renamed(value: Any, roles: Mapping[str, str]) -> Any:
    if isinstance(value, list | tuple):
        return [_renamed(item, roles) for item in value]
    if not isinstance(value, Mapping):
        return value
    given = {key: value[key] for key in ("role", "from") if isinstance(value.get(key), str)}
    return {**value, **{key: roles.get(name, name) for key, name in given.items()}}
