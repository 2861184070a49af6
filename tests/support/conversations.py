"""Conversations that tests encode as ChatML, and the text that is trained on."""

from chatml import IGNORE

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Good day."},
    {"role": "user", "content": "And you?"},
    {"role": "assistant", "content": "Well."},
]
ADD = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}}
TOOL_TALK = [
    {"role": "user", "content": "3 + 4?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": '{"a": 3, "b": 4}'}}],
    },
    {"role": "tool", "name": "add", "content": "7"},
    {"role": "assistant", "content": "It is 7."},
]


def trained(encoded, tokenizer):
    """Return the spans of consecutive tokens that are trained on, decoded."""
    stretches, last = [], None
    for at, label in enumerate(encoded.labels):
        if label != IGNORE:
            assert label == encoded.input_ids[at]
            if last != at - 1:
                stretches.append([])
            stretches[-1].append(label)
            last = at
    return [tokenizer.decode(stretch) for stretch in stretches]
