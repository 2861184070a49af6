"""A record that is corrected as its error message advises can be read."""

import copy

import pytest

from chatml import RecordError, encode, read_conversation
from tests.support.tokenizers import qwen

HI, YES = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}
CALL = '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>'
TWO = [{"id": "a", "function": {"name": "f"}}, {"id": "b", "function": {"name": "g"}}]
ONLY_F = {"role": "tool", "content": "1", "tool_call_id": "a"}
OF_G = {"role": "tool", "content": "2", "tool_call_id": "b"}
ASKED = {"role": "assistant", "content": "", "tool_calls": TWO}
TRANSCRIPT = "\n\nHuman: Hi\n\nAssistant: "


def talk(*messages):
    return {"messages": [HI, *messages]}


def answered(text):
    return talk({"role": "assistant", "content": text})


def without(message, key):
    return {name: value for name, value in message.items() if name != key}


@pytest.mark.parametrize(
    ("advice", "record", "corrected"),
    [
        ("name one of message 2's calls: 'a', 'b'", talk(ASKED, ONLY_F, without(OF_G, "tool_call_id"), YES),
         talk(ASKED, ONLY_F, OF_G, YES)),
        ("is not one of message 2's calls: 'a', 'b'", talk(ASKED, ONLY_F, {**OF_G, "tool_call_id": "c"}, YES),
         talk(ASKED, ONLY_F, OF_G, YES)),
        ("keep one of them", talk(ASKED, ONLY_F, OF_G, ONLY_F, YES), talk(ASKED, ONLY_F, OF_G, YES)),
        ("add a tool message with its id", talk(ASKED, OF_G, YES), talk(ASKED, OF_G, ONLY_F, YES)),
        ("give each call one", talk({**ASKED, "tool_calls": [TWO[0], without(TWO[1], "id")]}, ONLY_F, OF_G),
         talk(ASKED, ONLY_F, OF_G)),
        ("give each call its own id", talk({**ASKED, "tool_calls": [TWO[0], TWO[0]]}, ONLY_F, OF_G),
         talk({**ASKED, "tool_calls": [TWO[0], {**TWO[0], "id": "b"}]}, ONLY_F, OF_G)),
        ("keep one of them", talk({**YES, "reasoning": "Hm.", "thinking": "Ha."}), talk({**YES, "reasoning": "Hm."})),
        ("only an assistant message can", {"messages": [{**HI, "reasoning": "Hm."}, YES]}, talk(YES)),
        ("a transcript begins with '\\n\\nHuman:'", {"text": "Hi"}, {"text": f"{TRANSCRIPT}Yes."}),
        ("write it as text", talk({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": 1e999}}]}),
         talk({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": "1e999"}}]})),
        ("give it name and arguments", talk({"role": "assistant", "tool_calls": [{"arguments": {}}]}),
         talk({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}]})),
    ],
)  # fmt: skip
def test_a_conversation_corrected_as_advised_can_be_read(advice, record, corrected):
    with pytest.raises(RecordError) as error:
        read_conversation(copy.deepcopy(record))
    assert advice in str(error.value)
    assert read_conversation(copy.deepcopy(corrected)).messages


@pytest.mark.parametrize(
    ("advice", "record", "corrected"),
    [
        ("close it", answered("<think>\nI add."), answered("<think>\nI add.\n</think>\n\n7")),
        ("put calls last and close each of them", answered('<tool_call>\n{"name": "add"}'), answered(CALL)),
        ("put calls last and close each of them", answered(f"{CALL}\nDone."), answered(f"Done.\n{CALL}")),
        ("keep one of them", talk({**YES, "content": "<think>\na\n</think>\n\n7", "reasoning": "b"}),
         talk({**YES, "content": "7", "reasoning": "b"})),
        ("put each result into its own message",
         talk(YES, {"role": "tool", "content": "<tool_response>1</tool_response><tool_response>2</tool_response>"}),
         talk(YES, *({"role": "tool", "content": f"<tool_response>{n}</tool_response>"} for n in "12"))),
    ],
)  # fmt: skip
def test_parsed_text_corrected_as_advised_can_be_encoded(advice, record, corrected):
    with pytest.raises(RecordError) as error:
        encode(record["messages"], qwen(), parse_text=True)
    assert advice in str(error.value)
    assert encode(corrected["messages"], qwen(), parse_text=True)
    if "or set chatml.parse_text=false" in str(error.value):
        assert encode(record["messages"], qwen(), parse_text=False)


def test_both_ways_out_for_a_wrapped_result_work():
    called = [HI, {"role": "assistant", "content": CALL}]
    wrapped = [*called, {"role": "tool", "content": "<tool_response>7</tool_response>"}]
    with pytest.raises(RecordError) as error:
        encode(wrapped, qwen())
    assert str(error.value).endswith("; remove the tags, or set chatml.parse_text=true")
    encode(wrapped, qwen(), parse_text=True)
    encode([*called, {"role": "tool", "content": "7"}], qwen())
