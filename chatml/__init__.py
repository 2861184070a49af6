"""Convert records to conversations, and conversations to ChatML tokens and back.

    encode(messages, tokenizer)        token ids and labels of one conversation
    read_back(ids, tokenizer)          the turns of ChatML token ids, as text
    read_conversation(record) ...      the conversation, prompt or comparison in a record of chat data
    chat_template(tokenizer)           the Jinja template to save with the tokenizer

Imports no torch; the caller passes the tokenizer.
"""

from chatml.decode import check_reads_back, read_back
from chatml.encode import (
    IGNORE,
    Encoded,
    EncodedTurn,
    Mask,
    TrainOn,
    encode,
    encode_turns,
    generation_prompt,
    header,
    join,
)
from chatml.messages import ROLES, Conversation, Message, Pair, RecordError, ToolCall
from chatml.records import (
    FIELDS,
    is_text,
    read_conversation,
    read_margin,
    read_pair,
    read_prompt,
    read_text,
    rename_fields,
    usual_names,
)
from chatml.template import TEMPLATE, chat_template
from chatml.tokens import (
    END_OF_TEXT,
    IM_END,
    IM_START,
    MARKERS,
    TOOL_MARKERS,
    Control,
    TokenizerError,
    control,
    plain_encoder,
)
from chatml.tools import ToolFormat, render
from chatml.turns import Turn

__all__ = [
    "END_OF_TEXT",
    "FIELDS",
    "IGNORE",
    "IM_END",
    "IM_START",
    "MARKERS",
    "ROLES",
    "TEMPLATE",
    "TOOL_MARKERS",
    "Control",
    "Conversation",
    "Encoded",
    "EncodedTurn",
    "Mask",
    "Message",
    "Pair",
    "RecordError",
    "TokenizerError",
    "ToolCall",
    "ToolFormat",
    "TrainOn",
    "Turn",
    "chat_template",
    "check_reads_back",
    "control",
    "encode",
    "encode_turns",
    "generation_prompt",
    "header",
    "is_text",
    "join",
    "plain_encoder",
    "read_back",
    "read_conversation",
    "read_margin",
    "read_pair",
    "read_prompt",
    "read_text",
    "rename_fields",
    "render",
    "usual_names",
]
