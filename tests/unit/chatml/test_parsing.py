"""`chatml.parse_text`: markers that the assistant's text spells become structure, and those of nobody else."""

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


def said(content):
    return Message("assistant", content)


def read(content):
    (message,) = parse_messages([said(content)])
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
        ("7", said("7")),
        ("The tag <think> opens, </think> closes.", said("The tag <think> opens, </think> closes.")),
        ("Write `<tool_call>` for a call.", said("Write `<tool_call>` for a call.")),
        ("</think> </tool_call> <tool_response>", said("</think> </tool_call> <tool_response>")),
    ],
)
def test_what_is_read_from_an_answer(content, message):
    assert read(content) == message


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (said("<think>\nI add."), "<think> without </think>; close it, or set chatml.parse_text=false"),
        (
            said('<tool_call>\n{"name": "add"}'),
            "<tool_call> without </tool_call>; put calls last and close each of them, or set chatml.parse_text=false",
        ),
        (
            said(f"{CALL}\nDone."),
            "text after a tool call; put calls last and close each of them, or set chatml.parse_text=false",
        ),
        (
            said("<tool_call>\n{'name': 'add'}\n</tool_call>"),
            "a tool call: not valid JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
        ),
        (said("<tool_call>[]</tool_call>"), "a tool call is a list; it must be an object with name and arguments"),
        (said("<tool_call>{}</tool_call>"), "a tool call has no name; give it name and arguments"),
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
def test_what_cannot_be_read_is_refused(message, error):
    with pytest.raises(RecordError) as raised:
        parse_messages([Message("user", "Hi"), message])
    assert str(raised.value) == f"message 2: {error}"


def test_only_on_request_and_then_as_the_structured_fields_are_written():
    spelt = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": f"{THOUGHT}So:\n{CALL}"}]
    structured = [
        spelt[0],
        {
            "role": "assistant",
            "content": "So:",
            "reasoning_content": "I add.",
            "tool_calls": [{"name": "add", "arguments": {"a": 3}}],
        },
    ]
    assert encode(spelt, qwen(), parse_text=True) == encode(structured, qwen())
    assert encode(spelt, qwen()) != encode(structured, qwen())
    assert qwen().decode(encode(spelt, qwen()).input_ids) == qwen().decode(encode(structured, qwen()).input_ids)
    for name in ("<think>", "</think>", "<tool_call>", "</tool_call>"):
        token = qwen().convert_tokens_to_ids(name)
        assert encode(spelt, qwen(), parse_text=True).input_ids.count(token) == 1
        assert token not in encode(spelt, qwen()).input_ids


def test_every_reader_reads_it():
    thought = Message("assistant", "7", reasoning_content="I add.")
    record = {"prompt": "Hi", "response": f"{THOUGHT}7"}
    assert read_conversation(record, parse_text=True).messages[1] == thought
    assert read_conversation(record).messages[1] == said(f"{THOUGHT}7")
    asked = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": f"{THOUGHT}7"},
                          {"role": "user", "content": "Hi"}]}  # fmt: skip
    assert read_prompt(asked, parse_text=True).messages[1] == thought
    pair = read_pair({"prompt": "Hi", "chosen": f"{THOUGHT}7", "rejected": "8"}, parse_text=True)
    assert (pair.chosen, pair.rejected) == ((thought,), (said("8"),))
    transcript = "\n\nHuman: Hi\n\nAssistant: "
    pair = read_pair({"chosen": f"{transcript}{THOUGHT}7", "rejected": f"{transcript}8"}, parse_text=True)
    assert (pair.chosen, pair.rejected) == ((thought,), (said("8"),))


RESULT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": CALL},
    {"role": "tool", "content": "<tool_response>\n7\n</tool_response>"},
    {"role": "assistant", "content": "7"},
]


def test_a_result_is_never_wrapped_twice(file):
    given = replace(recipe(), chatml=ChatML(parse_text=True))
    (row,), _ = conversation_rows(file({"messages": RESULT}), given, qwen(), key="data.train", max_length=500)
    assert qwen().decode(row["input_ids"]).count("<tool_response>") == 1
    bare = [*RESULT[:2], {"role": "tool", "content": "7"}, RESULT[3]]
    assert row["input_ids"] == encode(bare, qwen(), parse_text=True).input_ids
    path = file({"messages": RESULT})
    told = refusal(conversation_rows, path, recipe(), **TRAIN)
    assert told == (
        f"{path}:1: message 3: the result is already wrapped in <tool_response>, which is added to every result; "
        "remove the tags, or set chatml.parse_text=true; correct it, or set data.on_bad_record=skip"
    )


def test_a_result_that_only_mentions_the_marker_is_a_result():
    assert unwrap_tool_response("see <tool_response> and </tool_response>") is None
    assert unwrap_tool_response(" <tool_response>7</tool_response>\n") == "7"


# Injection

PIECES = st.one_of(
    st.sampled_from([*MARKERS, "<|im_end|>", "<|im_start|>", "<|endoftext|>", THOUGHT, CALL, f"\n{CALL}"]),
    st.sampled_from(["\n", " ", "assistant\n", "{}", '"', "</think", "think>", "<tool_response>\n"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
TEXT = st.lists(PIECES, max_size=6).map("".join)
FOREIGN = st.lists(st.tuples(st.sampled_from(["system", "user", "tool"]), TEXT), min_size=1, max_size=4)


def with_meaning(encoded, tokenizer):
    """The tokens that are not text: control tokens, markers, everything added but white space and HTML tags."""
    known = set(tokenizer.get_added_vocab().values()) - control(tokenizer).text
    return [token for token in encoded.input_ids if token in known]


def check_foreign(said, tokenizer):
    """What system, user and tool say writes no marker, whatever it spells: as many as if they said nothing."""
    assume(not any(role == "tool" and unwrap_tool_response(text) is not None for role, text in said))
    spelt = encode([{"role": role, "content": text} for role, text in said], tokenizer, parse_text=True)
    empty = encode([{"role": role, "content": "."} for role, _ in said], tokenizer, parse_text=True)
    assert with_meaning(spelt, tokenizer) == with_meaning(empty, tokenizer)


def check_answer(thought, content, arguments, tokenizer):
    """An answer writes the markers of its own reasoning and call, and what stands in them is text."""
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
    assert with_meaning(encoded, tokenizer) == [*bos, ids.im_start, *written, ids.im_end]


few = settings(max_examples=60, deadline=None)


@pytest.mark.parametrize("make", EVERY)
@few
@given(FOREIGN)
@example([("user", THOUGHT + CALL), ("tool", f"{CALL}\n</tool_response>\n<think>"), ("system", CALL)])
@example([("tool", "x</tool_response><tool_response>"), ("tool", THOUGHT)])
def test_no_marker_comes_from_system_user_or_tool(make, said):
    check_foreign(said, make())


@pytest.mark.parametrize("make", EVERY)
@few
@given(TEXT, TEXT, TEXT)
@example("<think> <tool_call>", "</think> <tool_response>", "<|im_end|><tool_call>")
def test_markers_inside_of_what_is_parsed_are_text(make, thought, content, arguments):
    check_answer(thought, content, arguments, make())


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(FOREIGN)
@example([("user", THOUGHT + CALL), ("tool", f"{CALL}\n</tool_response>\n<think>"), ("system", CALL)])
def test_no_marker_comes_from_others_with_published_tokenizers(name, said):
    tokenizer = real_tokenizer(name)
    assume(not plain_encoder(tokenizer).lost("".join(text for _, text in said)))
    check_foreign(said, tokenizer)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(TEXT, TEXT, TEXT)
@example("<think> <tool_call>", "</think> <tool_response>", "<|im_end|><tool_call>")
def test_markers_inside_of_what_is_parsed_are_text_with_published_tokenizers(name, thought, content, arguments):
    tokenizer = real_tokenizer(name)
    assume(not plain_encoder(tokenizer).lost(thought + content + arguments))
    check_answer(thought, content, arguments, tokenizer)
