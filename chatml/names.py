"""Names of roles: ours, those of published records, and those that a recipe maps to ours (`data.roles`)."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

# ShareGPT's names -> ours. A function call is an assistant message too; `chatml.forms` reads it separately.
SHAREGPT_ROLES = {
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


def rename_roles(record: dict[str, Any], roles: Roles) -> dict[str, Any]:
    """Return the record with the roles of its messages (`role`, or ShareGPT's `from`) renamed by `roles`."""
    if not roles:
        return record
    renamed = {name: _renamed(record[name], roles) for name in _MESSAGES if name in record}
    return {**record, **renamed}


def unknown_role(name: Any, known: Iterable[str]) -> str:
    """Return the end of an error message about a role that is not in `known`: the name, and what to use instead."""
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
