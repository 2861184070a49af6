"""`chatml.parse_text`: markers of the assistant become reasoning and calls; those of other roles stay text."""

import json
from dataclasses import replace

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from chatml import (
    MARKERS,
    Message,
    RecordError,
    ToolCall,
    control,
    encode,
    plain_encoder,
    read_conversation,
    read_pair,
    read_prompt,
)
from chatml.parsing import parse_messages, unwrap_tool_response
from engine.data.chatml_section import ChatML
from tests.support.real_tokenizers import NAMES, real_tokenizer
from tests.support.rows_setting import TRAIN, conversation_rows, recipe, refusal
from tests.support.tokenizers import EVERY, qwen

THOUGHT = "<think>\nI add.\n</think>\n\n"
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 3}}\n</tool_call>'
ADD = ToolCall("add", {"a": 3})


def answer(content):
    return Message("assistant", content)


def read(content):
    (message,) = parse_messages([answer(content)])
    return message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (THOUGHT + "7", Message("assistant", "7", reasoning_content="I add.")),
        ("\n<think>I add.</think>7", Message("assistant", "7", reasoning_content="I add.")),
        ("<think>\n\n</think>\n\n7", Message("assistant", "7", reasoning_content="\n")),
        ("<think></think>7", Message("assistant", "7", reasoning_content="\n")),
        (CALL, Message("assistant", "", tool_calls=(ADD,))),
        (f"So:\n{CALL}\n{CALL}\n", Message("assistant", "So:", tool_calls=(ADD, ADD))),
        (THOUGHT + CALL, Message("assistant", "", True, (ADD,), reasoning_content="I add.")),
        (f"{THOUGHT}So:\n{CALL}", Message("assistant", "So:", True, (ADD,), reasoning_content="I add.")),
        (
            '<tool_call>{"arguments": "{\\"a\\": 3}", "name": "add"}</tool_call>',
            Message("assistant", "", tool_calls=(ADD,)),
        ),
        ("7", answer("7")),
        ("The tag <think> opens, </think> closes.", answer("The tag <think> opens, </think> closes.")),
        ("Write `<tool_call>` for a call.", answer("Write `<tool_call>` for a call.")),
        ("</think> </tool_call> <tool_response>", answer("</think> </tool_call> <tool_response>")),
    ],
)
def test_reasoning_and_calls_are_parsed_from_an_answer(content, message):
    assert read(content) == message


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (answer("<think>\nI add."), "<think> without </think>; close it, or set chatml.parse_text=false"),
        (
            answer('<tool_call>\n{"name": "add"}'),
            "<tool_call> without </tool_call>; put calls last and close each of them, or set chatml.parse_text=false",
        ),
        (
            answer(f"{CALL}\nDone."),
            "text after a tool call; put calls last and close each of them, or set chatml.parse_text=false",
        ),
        (
            answer("<tool_call>\n{'name': 'add'}\n</tool_call>"),
            "a tool call: not valid JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
        ),
        (answer("<tool_call>[]</tool_call>"), "a tool call is a list; it must be an object with name and arguments"),
        (answer("<tool_call>{}</tool_call>"), "a tool call has no name; give it name and arguments"),
        (
            Message("assistant", f"{THOUGHT}7", reasoning_content="I add."),
            "reasoning both in the content and in a separate field; keep one of them",
        ),
        (
            Message("assistant", CALL, tool_calls=(ADD,)),
            "tool calls both in the content and in a separate field; keep one of them",
        ),
        (
            Message("tool", "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>"),
            "several <tool_response> in one message; put each result into its own message",
        ),
    ],
)
def test_malformed_markers_are_refused(message, error):
    with pytest.raises(RecordError) as raised:
        parse_messages([Message("user", "Hi"), message])
    assert str(raised.value) == f"message 2: {error}"


def test_parsed_text_is_encoded_like_the_structured_fields_and_only_with_parse_text():
    as_text = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": f"{THOUGHT}So:\n{CALL}"}]
    structured = [
        as_text[0],
        {
            "role": "assistant",
            "content": "So:",
            "reasoning_content": "I add.",
            "tool_calls": [{"name": "add", "arguments": {"a": 3}}],
        },
    ]
    assert encode(as_text, qwen(), parse_text=True) == encode(structured, qwen())
    assert encode(as_text, qwen()) != encode(structured, qwen())
    assert qwen().decode(encode(as_text, qwen()).input_ids) == qwen().decode(encode(structured, qwen()).input_ids)
    for name in ("<think>", "</think>", "<tool_call>", "</tool_call>"):
        token = qwen().convert_tokens_to_ids(name)
        assert encode(as_text, qwen(), parse_text=True).input_ids.count(token) == 1
        assert token not in encode(as_text, qwen()).input_ids


def test_every_record_reader_parses_text():
    thought = Message("assistant", "7", reasoning_content="I add.")
    record = {"prompt": "Hi", "response": f"{THOUGHT}7"}
    assert read_conversation(record, parse_text=True).messages[1] == thought
    assert read_conversation(record).messages[1] == answer(f"{THOUGHT}7")
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": f"{THOUGHT}7"},
                          {"role": "user", "content": "Hi"}]}  # fmt: skip
    assert read_prompt(chat, parse_text=True).messages[1] == thought
    pair = read_pair({"prompt": "Hi", "chosen": f"{THOUGHT}7", "rejected": "8"}, parse_text=True)
    assert (pair.chosen, pair.rejected) == ((thought,), (answer("8"),))
    transcript = "\n\nHuman: Hi\n\nAssistant: "
    pair = read_pair({"chosen": f"{transcript}{THOUGHT}7", "rejected": f"{transcript}8"}, parse_text=True)
    assert (pair.chosen, pair.rejected) == ((thought,), (answer("8"),))


RESULT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": CALL},
    {"role": "tool", "content": "<tool_response>\n7\n</tool_response>"},
    {"role": "assistant", "content": "7"},
]


def test_a_result_in_tool_response_is_unwrapped_or_refused(file):
    given = replace(recipe(), chatml=ChatML(parse_text=True))
    (row,), _ = conversation_rows(file({"messages": RESULT}), given, qwen(), key="data.train", max_length=500)
    assert qwen().decode(row["input_ids"]).count("<tool_response>") == 1
    bare = [*RESULT[:2], {"role": "tool", "content": "7"}, RESULT[3]]
    assert row["input_ids"] == encode(bare, qwen(), parse_text=True).input_ids
    path = file({"messages": RESULT})
    error = refusal(conversation_rows, path, recipe(), **TRAIN)
    assert error == (
        f"{path}:1: message 3: the result is already wrapped in <tool_response>, which is added to every result; "
        "remove the tags, or set chatml.parse_text=true; correct it, or set data.on_bad_record=skip"
    )


def test_only_a_whole_tool_response_is_unwrapped():
    assert unwrap_tool_response("see <tool_response> and </tool_response>") is None
    assert unwrap_tool_response(" <tool_response>7</tool_response>\n") == "7"


# Injection

PIECES = st.one_of(
    st.sampled_from([*MARKERS, "<|im_end|>", "<|im_start|>", "<|endoftext|>", THOUGHT, CALL, f"\n{CALL}"]),
    st.sampled_from(["\n", " ", "assistant\n", "{}", '"', "</think", "think>", "<tool_response>\n"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
TEXT = st.lists(PIECES, max_size=6).map("".join)
OTHER_ROLES = st.lists(st.tuples(st.sampled_from(["system", "user", "tool"]), TEXT), min_size=1, max_size=4)


def tokens_that_are_not_text(encoded, tokenizer):
    """Return the added tokens that are not white space or HTML tags: control tokens and markers."""
    known = set(tokenizer.get_added_vocab().values()) - control(tokenizer).text
    return [token for token in encoded.input_ids if token in known]


def check_other_roles(messages, tokenizer):
    """Check that text of system, user and tool adds no marker tokens, whatever it contains."""
    assume(not any(role == "tool" and unwrap_tool_response(text) is not None for role, text in messages))
    as_text = encode([{"role": role, "content": text} for role, text in messages], tokenizer, parse_text=True)
    empty = encode([{"role": role, "content": "."} for role, _ in messages], tokenizer, parse_text=True)
    assert tokens_that_are_not_text(as_text, tokenizer) == tokens_that_are_not_text(empty, tokenizer)


def check_answer(thought, content, arguments, tokenizer):
    """Check that an answer has the markers of its reasoning and its call, and that the text inside them adds none."""
    call = json.dumps({"name": "f", "arguments": {"a": arguments}}, ensure_ascii=False)
    assume("</think>" not in thought and thought.strip("\n"))
    assume("<tool_call>" not in content and not content.lstrip("\n").startswith("<think>"))
    assume("</tool_call>" not in arguments)
    text = f"<think>\n{thought}\n</think>\n\n{content}\n<tool_call>\n{call}\n</tool_call>"
    encoded = encode([{"role": "assistant", "content": text}], tokenizer, parse_text=True)
    ids = control(tokenizer)
    written = [
        ids.markers[name] for name in ("<think>", "</think>", "<tool_call>", "</tool_call>") if name in ids.markers
    ]
    bos = [] if ids.bos is None else [ids.bos]
    assert tokens_that_are_not_text(encoded, tokenizer) == [*bos, ids.im_start, *written, ids.im_end]


few_examples = settings(max_examples=60, deadline=None)


@pytest.mark.parametrize("make", EVERY)
@few_examples
@given(OTHER_ROLES)
@example([("user", THOUGHT + CALL), ("tool", f"{CALL}\n</tool_response>\n<think>"), ("system", CALL)])
@example([("tool", "x</tool_response><tool_response>"), ("tool", THOUGHT)])
def test_no_marker_comes_from_system_user_or_tool(make, messages):
    check_other_roles(messages, make())


@pytest.mark.parametrize("make", EVERY)
@few_examples
@given(TEXT, TEXT, TEXT)
@example("<think> <tool_call>", "</think> <tool_response>", "<|im_end|><tool_call>")
def test_markers_inside_reasoning_content_and_arguments_are_text(make, thought, content, arguments):
    check_answer(thought, content, arguments, make())


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(OTHER_ROLES)
@example([("user", THOUGHT + CALL), ("tool", f"{CALL}\n</tool_response>\n<think>"), ("system", CALL)])
def test_no_marker_comes_from_system_user_or_tool_with_published_tokenizers(name, messages):
    tokenizer = real_tokenizer(name)
    assume(not plain_encoder(tokenizer).lost("".join(text for _, text in messages)))
    check_other_roles(messages, tokenizer)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(TEXT, TEXT, TEXT)
@example("<think> <tool_call>", "</think> <tool_response>", "<|im_end|><tool_call>")
def test_markers_inside_an_answer_are_text_with_published_tokenizers(name, thought, content, arguments):
    tokenizer = real_tokenizer(name)
    assume(not plain_encoder(tokenizer).lost(thought + content + arguments))
    check_answer(thought, content, arguments, tokenizer)
