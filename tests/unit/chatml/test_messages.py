"""Numbers that JSON cannot represent are refused in tool calls and tools."""

import pytest

from chatml import RecordError, ToolCall, encode
from tests.support.rows_setting import TRAIN, conversation_rows, recipe, refusal
from tests.support.tokenizers import qwen

WAY_OUT = "a number that JSON cannot represent (NaN, Infinity, or beyond 1.8e308); write it as text"
CALL = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [%s]}]}\n'


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
@pytest.mark.parametrize(
    ("line", "what"),
    [
        (CALL % '{"function": {"name": "f", "arguments": {"a": [%s]}}}', "'messages', message 2: the arguments of 'f'"),
        (CALL % '{"name": "f", "arguments": "{\\"a\\": %s}"}', "'messages', message 2: the arguments of 'f'"),
        (
            '{"conversations": [{"from": "function_call", "value": "{\\"name\\": \\"f\\", '
            '\\"arguments\\": {\\"a\\": %s}}"}]}\n',
            "'conversations', message 1: the arguments of 'f'",
        ),
        (
            '{"prompt": "Hi", "response": "Yes.", "tools": [{"name": "f", "parameters": {"maximum": %s}}]}\n',
            "the tool 'f'",
        ),
    ],
)
def test_a_number_that_json_cannot_represent_is_a_record_error(tmp_path, number, line, what):
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "Hi", "response": "Yes."}\n' + line % number)
    assert refusal(conversation_rows, str(path), recipe(), **TRAIN) == (
        f"{path}:2: {what}: {WAY_OUT}; correct it, or set data.on_bad_record=skip"
    )


def test_such_a_number_in_a_tool_call_object_or_in_parsed_text_is_refused():
    with pytest.raises(RecordError, match=r"^the arguments of 'f': a number that JSON cannot represent"):
        ToolCall("f", {"a": float("nan")})
    call = '<tool_call>\n{"name": "f", "arguments": {"a": 1e400}}\n</tool_call>'
    with pytest.raises(RecordError, match=r"^message 1: the arguments of 'f': a number that JSON cannot represent"):
        encode([{"role": "assistant", "content": call}], qwen(), parse_text=True)


def test_the_largest_float_and_large_integers_are_accepted():
    ToolCall("f", {"a": 1.7976931348623157e308, "b": 10**400})
