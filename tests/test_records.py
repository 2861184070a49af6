"""Every shape a record can have, and what is said of the ones that have none."""

from pathlib import Path

import pytest

from chatml import Message, RecordError, ToolCall, is_text, read_conversation, read_pair, read_prompt, read_text
from engine.data.sources import read
from recipes.data import Source

SHARED = Path(__file__).parents[2] / "shared/data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")

USER, ANSWER = Message("user", "Hi"), Message("assistant", "Hello")
SYSTEM = Message("system", "Be kind.")


def messages(record, fields=None):
    return read_conversation(record, fields).messages


# Conversations

TALKS = {
    "messages": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    "messages with parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
            {"role": "assistant", "content": "Hello", "tool_calls": None, "train": None},
        ]
    },
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "sharegpt in roles": {"conversations": [{"role": "user", "content": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "prompt and response": {"prompt": "Hi", "response": "Hello"},
    "prompt as messages": {"prompt": [{"role": "user", "content": "Hi"}], "response": "Hello"},
    "response as message": {"prompt": "Hi", "response": {"role": "assistant", "content": "Hello"}},
    "alpaca": {"instruction": "Hi", "input": "", "output": "Hello"},
    "alpaca, input as instruction": {"instruction": "", "input": "Hi", "output": "Hello", "history": None},
    "transcript": {"text": "\n\nHuman: Hi\n\nAssistant: Hello"},
    "comparison": {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"},
}


@pytest.mark.parametrize("shape", TALKS)
def test_a_conversation_is_read_from(shape):
    assert messages(TALKS[shape]) == (USER, ANSWER)


@pytest.mark.parametrize("shape", [shape for shape in TALKS if not shape.startswith("messages")])
def test_a_system_prompt_may_stand_beside(shape):
    assert messages({**TALKS[shape], "system": "Be kind."}) == (SYSTEM, USER, ANSWER)


def test_alpaca_has_input_and_history():
    record = {"instruction": "Add.", "input": "3 4", "output": "7", "history": [["Hi", "Hello"]], "system": "Be kind."}
    assert messages(record) == (SYSTEM, USER, ANSWER, Message("user", "Add.\n3 4"), Message("assistant", "7"))


def test_fields_rename_the_files_names_to_ours():
    record = {"question": "Hi", "answer": "Hello", "response": "not this one", "id": 7}
    assert messages(record, {"question": "prompt", "answer": "response"}) == (USER, ANSWER)


def test_fields_that_a_record_lacks_rename_nothing():
    assert messages(TALKS["alpaca"], {"question": "prompt"}) == (USER, ANSWER)


def test_single_messages_keep_train_false():
    record = {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "train": False}]
    }
    assert messages(record) == (USER, Message("assistant", "Hello", train=False))


def test_messages_count_before_the_prompt_they_repeat():
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


def test_openai_tools_calls_and_results():
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


def test_sharegpt_tools_calls_and_results():
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
def test_no_tools(tools):
    assert read_conversation({**TALKS["sharegpt"], "tools": tools}).tools is None


def test_messages_become_dicts_and_come_back():
    said = (SYSTEM, USER, Message("assistant", "", False, (CALL,)), Message("tool", "7", name="add"))
    dicts = [message.as_dict() for message in said]
    assert dicts[0] == {"role": "system", "content": "Be kind."}
    assert read_prompt({"messages": dicts}).messages == said


# Comparisons

HH = "\n\nHuman: Hi\n\nAssistant: "
PAIRS = {
    "transcripts": {"chosen": f"{HH}Hello", "rejected": f"{HH} Go away "},
    "prompt and texts": {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"},
    "transcript and texts": {"prompt": HH, "chosen": "Hello", "rejected": "Go away"},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Hi"}],
        "chosen": {"from": "gpt", "value": "Hello"},
        "rejected": {"from": "gpt", "value": "Go away"},
    },
    "alpaca": {"instruction": "Hi", "input": "", "chosen": "Hello", "rejected": "Go away"},
    "whole conversations": {
        "chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go away"}],
    },
    "prompt and whole conversations": {
        "prompt": "Hi",
        "messages": TALKS["messages"]["messages"],
        "chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go away"}],
    },
    "messages and answers": {
        "messages": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "Hello"}],
        "rejected": [{"role": "assistant", "content": "Go away"}],
    },
}


@pytest.mark.parametrize("shape", PAIRS)
def test_a_comparison_is_read_from(shape):
    assert read_pair(PAIRS[shape]) == ((USER,), (ANSWER,), (Message("assistant", "Go away"),), None)


@pytest.mark.parametrize("shape", [*PAIRS, *TALKS])
def test_a_prompt_is_read_from_any_shape(shape):
    assert read_prompt((PAIRS | TALKS)[shape]).messages == (USER,)


def test_a_prompt_that_ends_in_a_question_is_whole():
    record = {"messages": [message.as_dict() for message in (USER, ANSWER, USER)]}
    assert read_prompt(record).messages == (USER, ANSWER, USER)
    assert read_prompt({"prompt": "Hi", "answer": 7}).messages == (USER,)


def test_all_of_the_answer_goes_from_a_prompt():
    record = {"messages": [message.as_dict() for message in (USER, ANSWER, USER, ANSWER, ANSWER)]}
    assert read_prompt(record).messages == (USER, ANSWER, USER)


def test_a_prompt_may_end_in_a_tools_result():
    said = (USER, Message("assistant", "", tool_calls=(CALL,)), Message("tool", "7"))
    record = {"messages": [message.as_dict() for message in (*said, ANSWER)]}
    assert read_prompt(record).messages == said


def test_sides_may_differ_before_their_last_turn():
    record = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant: Goodbye",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Who?",
    }
    rest = (ANSWER, Message("user", "Bye"), Message("assistant", "Goodbye"))
    assert read_pair(record) == ((USER,), rest, (Message("assistant", "Who?"),), None)


def test_equal_sides_keep_an_answer_each():
    assert read_pair({"prompt": "Hi", "chosen": "Hello", "rejected": "Hello"}) == ((USER,), (ANSWER,), (ANSWER,), None)


# Transcripts


def test_a_marker_of_who_already_speaks_is_text():
    record = {"text": "\n\nHuman: Go on:\n\nHuman: Hi\n\nAssistant: Hello\n\nAssistant: Hello again"}
    assert messages(record) == (
        Message("user", "Go on:\n\nHuman: Hi"),
        Message("assistant", "Hello\n\nAssistant: Hello again"),
    )


def test_what_a_model_wrote_for_the_person_belongs_to_its_answer():
    record = {"chosen": f"{HH}Hello", "rejected": f"{HH}Hello\n\nHuman: Thanks"}
    assert read_pair(record).rejected == (Message("assistant", "Hello\n\nHuman: Thanks"),)


def test_an_empty_answer_is_an_answer():
    assert read_pair({"chosen": f"{HH}Hello", "rejected": HH}).rejected == (Message("assistant", ""),)


# Errors

RENAME = (
    "use data.fields to rename to messages, conversations, prompt, response, chosen, rejected, instruction, input, "
    "output, history, system, tools, text"
)
OK = {"role": "user", "content": "Hi"}
BAD_TALKS = [
    ({"question": "Hi"}, f"fits no shape of record; it has question; {RENAME}"),
    ({}, f"fits no shape of record; it has no fields; {RENAME}"),
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
        "'messages', message 2: unknown role 'robot'; use system, user, assistant, tool",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "'messages', message 1: content holds a part that is no text; plumbline reads text only",
    ),
    ({"messages": [{**OK, "train": "no"}]}, "'messages', message 1: train is 'no'; use true or false"),
    (
        {"messages": [{**OK, "tool_calls": [{"name": "add"}]}]},
        "'messages', message 1: a user message calls tools; only an assistant message can",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": "{3"}}]}]},
        "'messages', message 1: the arguments of 'add': no JSON (Expecting property name enclosed in double quotes: "
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
        "use human, user, gpt, assistant, function_call, observation, tool, system",
    ),
    ({"conversations": [{"from": "gpt"}]}, "'conversations', message 1: it has no value"),
    (
        {"conversations": [{"from": "function_call", "value": "add(3)"}]},
        "'conversations', message 1: the function call: no JSON (Expecting value: line 1 column 1 (char 0))",
    ),
    (
        {**TALKS["sharegpt"], "tools": '{"name": "add"}'},
        "'tools' is an object; it must be a list",
    ),
    (
        {**TALKS["sharegpt"], "tools": [{"description": "Adds."}]},
        "'tools' holds a tool without a name; give it name, description and parameters",
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
]
BAD_PAIRS = [
    ({"chosen": "Hello"}, f"no 'rejected', so no comparison; it has chosen; {RENAME}"),
    ({"text": "Hello"}, f"no 'chosen' and no 'rejected', so no comparison; it has text; {RENAME}"),
    ({"chosen": "Hello", "rejected": "Bye"}, r"'chosen' does not begin with '\n\nHuman:'; a transcript does"),
    ({"prompt": "Hi", "chosen": "Hello", "rejected": 3}, "'rejected' is a number; it must be text or messages"),
    ({"prompt": "Hi", "chosen": "Hello", "rejected": []}, "'rejected' has no assistant turn, so no answer to compare"),
    (
        {"chosen": [ANSWER.as_dict()], "rejected": [ANSWER.as_dict()]},
        "'chosen' has no user turn, so nothing that it answers",
    ),
    (
        {"prompt": "Hi", "chosen": [{"role": "user", "content": "Ho"}], "rejected": "Bye"},
        "'chosen' neither begins with an assistant turn nor repeats 'prompt'",
    ),
    (
        {"prompt": "Hi", "chosen": {"role": "robot", "content": ""}, "rejected": "Bye"},
        "'chosen': unknown role 'robot'; use system, user, assistant, tool",
    ),
]


@pytest.mark.parametrize(("record", "message"), BAD_TALKS)
def test_what_is_wrong_with_a_conversation(record, message):
    with pytest.raises(RecordError) as error:
        read_conversation(record)
    assert str(error.value) == message


@pytest.mark.parametrize(("record", "message"), BAD_PAIRS)
def test_what_is_wrong_with_a_comparison(record, message):
    with pytest.raises(RecordError) as error:
        read_pair(record)
    assert str(error.value) == message


def test_what_is_wrong_with_a_prompt_and_a_text():
    with pytest.raises(RecordError, match=r"^no user turn before the answer, so nothing to ask$"):
        read_prompt({"messages": [SYSTEM.as_dict(), ANSWER.as_dict()]})
    with pytest.raises(RecordError, match=r"^'text' is a number; it must be a string$"):
        read_text({"text": 3})
    with pytest.raises(RecordError) as error:
        read_text({"body": "Once"})
    assert str(error.value) == f"no 'text'; it has body; {RENAME}"


# Published data


@needs_data
@pytest.mark.parametrize(
    ("file", "readers", "count"),
    [
        ("alpaca_en.json", (read_conversation, read_prompt), 999),
        ("alpaca_zh.json", (read_conversation, read_prompt), 1000),
        ("glaive_toolcall_en.json", (read_conversation, read_prompt), 300),
        ("preference_en_sharegpt.json", (read_conversation, read_prompt, read_pair), 300),
        ("hh_helpful_online.jsonl.gz", (read_conversation, read_prompt, read_pair), 1137),
        ("hh_helpful_rejection_sampled.jsonl.gz", (read_conversation, read_prompt, read_pair), 2749),
        ("hh_harmless_base.jsonl.gz", (read_conversation, read_prompt, read_pair), 2312),
        ("gsm8k_train.jsonl", (read_conversation, read_prompt), 7473),
        ("mmlu_dev.jsonl", (read_conversation, read_prompt), 285),
        ("humaneval.jsonl.gz", (read_prompt,), 164),
        ("wikitext2_valid.txt", (read_text,), 1),
    ],
)
def test_all_of_a_published_set_can_be_read(file, readers, count):
    records = [record for _, record in read(Source(str(SHARED / file)))]
    assert len(records) == count
    fields = {"question": "prompt", "answer": "response"} if file.startswith(("gsm8k", "mmlu")) else None
    for record in records:
        for reader in readers:
            assert reader(record, fields)


@needs_data
def test_what_is_read_from_glaive():
    conversations = [read_conversation(record) for _, record in read(Source(str(SHARED / "glaive_toolcall_en.json")))]
    said = [message for conversation in conversations for message in conversation.messages]
    assert sum(message.tool_calls is not None for message in said) == 211
    assert sum(message.role == "tool" for message in said) == 211
    assert conversations[0].messages[3].tool_calls == (
        ToolCall("search_recipes", {"ingredients": ["chicken", "bell peppers", "rice"]}),
    )
    assert conversations[0].tools[0]["function"]["name"] == "search_recipes"
