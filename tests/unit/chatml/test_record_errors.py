"""The messages for records that are no valid conversation, comparison, prompt or text."""

from datetime import date

import pytest

from chatml import RecordError, read_conversation, read_pair, read_prompt, read_text
from tests.support.records import ANSWER, SYSTEM, TALKS

RENAME = (
    "use data.fields to rename to messages, conversations, prompt, response, chosen, rejected, instruction, input, "
    "output, history, system, tools, text, margin, or to leave out (null)"
)
OK = {"role": "user", "content": "Hi"}
BAD_TALKS = [
    ({"question": "Hi"}, f"matches no known format; it has question; {RENAME}"),
    ({}, f"matches no known format; it has no fields; {RENAME}"),
    ({"text": "Once"}, r"'text' is plain text, not a conversation; a transcript begins with '\n\nHuman:'"),
    (
        {"prompt": "Hi", "answer": "Hello"},
        f"no assistant turn, so nothing to train on: no 'response'; it has prompt, answer; {RENAME}",
    ),
    ({"messages": [OK]}, "no assistant turn, so nothing to train on: a conversation needs one"),
    ({"messages": "Hi"}, "'messages' is a string; it must be a list of messages"),
    ({"messages": [OK, "Hi"]}, "'messages', message 2: it is a string; it must be an object with role and content"),
    ({"messages": [{"content": "Hi"}]}, "'messages', message 1: it has the keys content; give it role and content"),
    ({"messages": [{"role": "user"}]}, "'messages', message 1: it has no content"),
    ({"messages": [{"role": "user", "content": 3}]}, "'messages', message 1: content is a number; it must be a string"),
    (
        {"messages": [OK, {"role": "robot", "content": "Hi"}]},
        "'messages', message 2: unknown role 'robot'; use system, user, assistant, tool, "
        "or map it to system, user, assistant or tool: data.roles.robot=ROLE",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "'messages', message 1: content has a part that is not text; plumbline reads text only",
    ),
    ({"messages": [{**OK, "train": "no"}]}, "'messages', message 1: train is 'no'; use true or false"),
    (
        {"messages": [{**OK, "tool_calls": [{"name": "add"}]}]},
        "'messages', message 1: a user message calls tools; only an assistant message can",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": "{3"}}]}]},
        "'messages', message 1: the arguments of 'add': not valid JSON (Expecting property name enclosed in double "
        "quotes: "
        "line 1 column 2 (char 1))",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": "[3]"}}]}]},
        "'messages', message 1: the arguments of 'add' are a list; they must be an object",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"arguments": {}}]}]},
        "'messages', message 1: a tool call has no name; give it name and arguments",
    ),
    (
        {"conversations": [{"from": "bing", "value": "Hi"}]},
        "'conversations', message 1: unknown speaker 'bing'; "
        "use human, user, gpt, assistant, function_call, observation, tool, system, "
        "or map it to system, user, assistant or tool: data.roles.bing=ROLE",
    ),
    ({"conversations": [{"from": "gpt"}]}, "'conversations', message 1: it has no value"),
    (
        {"conversations": [{"from": "function_call", "value": "add(3)"}]},
        "'conversations', message 1: the function call: not valid JSON (Expecting value: line 1 column 1 (char 0))",
    ),
    (
        {**TALKS["sharegpt"], "tools": '{"name": "add"}'},
        "'tools' is an object; it must be a list",
    ),
    (
        {**TALKS["sharegpt"], "tools": [{"description": "Adds."}]},
        "'tools' has a tool without a name; give it name, description and parameters",
    ),
    ({"instruction": "Hi", "output": 7}, "'output' is a number; it must be text or messages"),
    ({"instruction": ["Hi"], "output": "Hello"}, "'instruction' is a list; it must be a string"),
    (
        {"instruction": "Hi", "output": "Hello", "history": [["Hi"]]},
        "'history', item 1: it must be [question, answer]",
    ),
    (
        {"messages": [SYSTEM.as_dict(), OK, ANSWER.as_dict()], "system": "Be rude."},
        "two system prompts: 'system' and the first message; keep one",
    ),
    (["Hi"], "it is a list; a record is an object"),
    ({"text": 3}, "'text' is a number; it must be a string"),
    ({"prompt": "Hi", "response": []}, "no assistant turn, so nothing to train on: a conversation needs one"),
    ({"instruction": "Hi", "history": "Hi"}, "'history' is a string; it must be a list of [question, answer]"),
    ({"messages": [{**OK, "weight": 0.5}]}, "'messages', message 1: weight is 0.5; use 0 or 1"),
    (
        {"messages": [OK, {"role": "assistant", "content": "", "thinking": "Hm.", "reasoning_content": "Ha."}]},
        "'messages', message 2: reasoning_content and thinking differ; keep one of them",
    ),
    (
        {"messages": [{**OK, "reasoning": "Hm."}]},
        "'messages', message 1: a user message has reasoning_content; only an assistant message can",
    ),
    (
        {"messages": [OK, {"role": "assistant", "content": "", "reasoning": {"effort": "low"}}]},
        "'messages', message 2: reasoning is an object; it must be a string",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": ["add"]}]},
        "'messages', message 1: a tool call is a string; it must be an object with name and arguments",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": {"name": "add"}}]},
        "'messages', message 1: tool_calls is an object; it must be a list",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"name": "add", "arguments": {"on": date(2024, 1, 1)}}]}]},
        "'messages', message 1: the arguments of 'add' cannot be written as JSON (Object of type date is not JSON "
        "serializable); use text, numbers, lists and objects",
    ),
    (
        {"conversations": [{"from": "function_call", "value": "[]"}]},
        "'conversations', message 1: the function call is an empty list",
    ),
    (
        {**TALKS["sharegpt"], "tools": "[" * 100_000},
        "'tools': not valid JSON (maximum recursion depth exceeded while decoding a JSON array from a unicode string)",
    ),
]
BAD_PAIRS = [
    ({"chosen": "Hello"}, f"no 'rejected', so no comparison; it has chosen; {RENAME}"),
    ({"text": "Hello"}, f"no 'chosen' and no 'rejected', so no comparison; it has text; {RENAME}"),
    ({"chosen": "Hello", "rejected": "Bye"}, r"'chosen' does not begin with '\n\nHuman:', as a transcript must"),
    ({"prompt": "Hi", "chosen": "Hello", "rejected": 3}, "'rejected' is a number; it must be text or messages"),
    ({"prompt": "Hi", "chosen": "Hello", "rejected": []}, "'rejected' has no assistant turn, so no answer to compare"),
    (
        {"chosen": [ANSWER.as_dict()], "rejected": [ANSWER.as_dict()]},
        "'chosen' has no user turn, so no prompt",
    ),
    (
        {"prompt": "Hi", "chosen": [{"role": "user", "content": "Ho"}], "rejected": "Bye"},
        "'chosen' neither begins with an assistant turn nor repeats 'prompt'",
    ),
    (
        {"prompt": "Hi", "chosen": {"role": "robot", "content": ""}, "rejected": "Bye"},
        "'chosen': unknown role 'robot'; use system, user, assistant, tool, "
        "or map it to system, user, assistant or tool: data.roles.robot=ROLE",
    ),
]


@pytest.mark.parametrize(("record", "message"), BAD_TALKS)
def test_messages_for_invalid_conversations(record, message):
    with pytest.raises(RecordError) as error:
        read_conversation(record)
    assert str(error.value) == message


@pytest.mark.parametrize(("record", "message"), BAD_PAIRS)
def test_messages_for_invalid_comparisons(record, message):
    with pytest.raises(RecordError) as error:
        read_pair(record)
    assert str(error.value) == message


def test_messages_for_invalid_prompts_and_texts():
    with pytest.raises(RecordError, match=r"^no user turn before the answer, so no prompt$"):
        read_prompt({"messages": [SYSTEM.as_dict(), ANSWER.as_dict()]})
    with pytest.raises(RecordError, match=r"^'text' is a number; it must be a string$"):
        read_text({"text": 3})
    with pytest.raises(RecordError) as error:
        read_text({"body": "Once"})
    assert str(error.value) == f"no 'text'; it has body; {RENAME}"
