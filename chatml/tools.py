"""Render messages as turns, with tools, calls and results in the `hermes` or `react` format.

Text of a record stays text: content that spells `<tool_call>`, or a tool with that name, is encoded as text even if the
tokenizer has a token with that name.
"""

from collections.abc import Sequence
from typing import Any, Literal

from chatml.hermes import hermes
from chatml.messages import Message
from chatml.react import react
from chatml.turns import Turn, number_exchanges

ToolFormat = Literal["hermes", "react"]
_FORMATS = {"hermes": hermes, "react": react}


def render(
    messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None, tool_format: ToolFormat = "hermes"
) -> list[Turn]:
    """Return the turns of `messages`. Raise RecordError if the format cannot express them."""
    return list(_FORMATS[tool_format](messages, number_exchanges(messages), tools or ()))
