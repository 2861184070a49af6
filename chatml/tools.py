"""Messages to turns: tools, their calls and their results written out in `hermes` or `react` form.

All that came out of a record is text, to be encoded like any other: content that spells `<tool_call>`, or a tool of
that name, stays text, even where a tokenizer has a token of that name.
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
    """The turns that `messages` are written as. Pure; raises RecordError where a format cannot hold them."""
    return list(_FORMATS[tool_format](messages, number_exchanges(messages), tools or ()))
