"""Every record shape of a conversation."""

import pytest

from chatml import Message, RecordError, ToolCall, is_text, read_conversation, read_pair, read_prompt, read_text
from tests.support.records import ANSWER, SYSTEM, TALKS, USER, messages


@pytest.mark.parametrize("shape", TALKS)
def test_every_shape_is_read_as_the_same_conversation(shape):
    assert messages(TALKS[shape]) == (USER, ANSWER)


@pytest.mark.parametrize("shape", TALKS)
def test_every_shape_may_have_a_system_field(shape):
    assert messages({**TALKS[shape], "system": "Be kind."}) == (SYSTEM, USER, ANSWER)


def test_alpaca_has_input_and_history():
    record = {"instruction": "Add.", "input": "3 4", "output": "7", "history": [["Hi", "Hello"]], "system": "Be kind."}
    assert messages(record) == (SYSTEM, USER, ANSWER, Message("user", "Add.\n3 4"), Message("assistant", "7"))


def test_fields_rename_the_fields_of_a_record():
    record = {"question": "Hi", "answer": "Hello", "response": "not this one", "id": 7}
    assert messages(record, {"question": "prompt", "answer": "response"}) == (USER, ANSWER)


def test_usual_names_are_read_only_in_a_record_without_another_format():
    record = {"question": "Not this", "answer": "Nor this", "completion": "Nor this"}
    for shape in ("messages", "prompt and response", "alpaca", "transcript"):
        assert messages({**record, **TALKS[shape]}) == (USER, ANSWER)
    assert is_text({"text": "Once", **record})
    with pytest.raises(RecordError, match="matches no known format"):
        messages({"question": "Which?", "choices": ["One", "Two"], "answer": "A"})
    pair = read_pair({"question": "Hi", "system": "Be kind.", "chosen": "Hello", "rejected": "Go away"})
    assert pair.prompt == (SYSTEM, USER)
    assert messages({"question": "Hi", "answer": "Hello"}, {"answer": "response", "question": "prompt"}) == (
        USER, ANSWER,
    )  # fmt: skip


def test_a_field_mapped_to_null_is_ignored():
    record = {"prompt": "Not this", "question": "Hi", "response": "Hello", "system": "Be kind."}
    assert messages(record, {"prompt": None, "question": "prompt", "system": None}) == (USER, ANSWER)
    assert messages({**TALKS["messages"], "tools": "broken"}, {"tools": None, "nothing": None}) == (USER, ANSWER)
    assert not is_text({"text": "Once."}, {"text": None})
    assert record["prompt"] == "Not this"


def test_renaming_a_field_that_a_record_lacks_does_nothing():
    assert messages(TALKS["alpaca"], {"question": "prompt"}) == (USER, ANSWER)


def test_weight_zero_is_train_false():
    record = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "weight": 0}]}
    assert messages(record) == (USER, Message("assistant", "Hello", train=False))
    record["messages"][1]["weight"] = 1
    assert messages(record) == (USER, ANSWER)
    shared = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello", "weight": 0.0}]}
    assert messages(shared) == (USER, Message("assistant", "Hello", train=False))


def test_single_messages_keep_train_false():
    record = {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "train": False}]
    }
    assert messages(record) == (USER, Message("assistant", "Hello", train=False))


def test_messages_take_precedence_over_prompt():
    assert messages({"prompt": "something else", **TALKS["messages"]}) == (USER, ANSWER)


def test_a_conversation_is_not_plain_text():
    assert is_text({"text": "Once", "id": 3})
    assert is_text({"body": "Once"}, {"body": "text"})
    assert not any(is_text(record) for record in TALKS.values())
    assert not is_text({"text": "Once", **TALKS["messages"]})
    assert read_text({"text": "Once\n"}) == "Once\n"


# Tools

FUNCTION = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}
CALL = ToolCall("add", {"a": 3})


def test_openai_tools_calls_and_results_are_read():
    record = {
        "messages": [
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 3}'}}],
            },
            {"role": "tool", "tool_call_id": "1", "name": "add", "content": "7"},
            {"role": "assistant", "content": "Hello"},
        ],
        "tools": [{"type": "function", "function": FUNCTION}],
    }
    conversation = read_conversation(record)
    assert conversation.messages[1:3] == (
        Message("assistant", "", tool_calls=(CALL,)),
        Message("tool", "7", name="add"),
    )
    assert conversation.tools == ({"type": "function", "function": FUNCTION},)


def test_openais_older_function_call_form_is_read():
    record = {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 3}'}},
            {"role": "function", "name": "add", "content": "7"},
        ]
    }
    call = Message("assistant", "", tool_calls=(CALL,))
    assert messages(record) == (USER, call, Message("tool", "7", name="add"))


def test_sharegpt_tools_calls_and_results_are_read():
    record = {
        "conversations": [
            {"from": "human", "value": "Hi"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 3}}'},
            {"from": "observation", "value": "7"},
            {"from": "gpt", "value": "Hello"},
        ],
        "tools": '[{"name": "add", "description": "Adds.", "parameters": {"type": "object"}}]',
    }
    assert read_conversation(record) == (
        (USER, Message("assistant", "", tool_calls=(CALL,)), Message("tool", "7"), ANSWER),
        ({"type": "function", "function": FUNCTION},),
    )


@pytest.mark.parametrize("tools", [None, "", "[]", []])
def test_empty_tools_are_none(tools):
    assert read_conversation({**TALKS["sharegpt"], "tools": tools}).tools is None


def test_messages_survive_conversion_to_dicts_and_back():
    written = (SYSTEM, USER, Message("assistant", "", False, (CALL,)), Message("tool", "7", name="add"))
    dicts = [message.as_dict() for message in written]
    assert dicts[0] == {"role": "system", "content": "Be kind."}
    assert read_prompt({"messages": dicts}).messages == written
