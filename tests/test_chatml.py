"""Which tokens a conversation becomes, and which of them the loss falls on."""

import json

import pytest
from tokenizers import Tokenizer

from chatml import IGNORE, Message, RecordError, TokenizerError, ToolCall, control, encode, plain_encoder, render
from tests.tokenizers_for_tests import ALL, llama, merged, qwen

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
    """What is trained on: stretches of neighbouring tokens, decoded."""
    stretches, last = [], None
    for at, label in enumerate(encoded.labels):
        if label != IGNORE:
            assert label == encoded.input_ids[at]
            if last != at - 1:
                stretches.append([])
            stretches[-1].append(label)
            last = at
    return [tokenizer.decode(stretch) for stretch in stretches]


@pytest.mark.parametrize("make", ALL)
def test_tokens_are_control_ids_around_plainly_encoded_pieces(make):
    tokenizer = make()
    ids, plain = control(tokenizer), plain_encoder(tokenizer)
    expected = [] if ids.bos is None else [ids.bos]
    for message in TALK:
        expected += [ids.im_start, *plain(message["role"]), *plain("\n"), *plain(message["content"])]
        expected += [ids.im_end, *plain("\n")]
    assert encode(TALK, tokenizer).input_ids == expected


@pytest.mark.parametrize("make", ALL)
def test_the_text_is_chatml(make):
    expected = (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello!<|im_end|>\n"
        "<|im_start|>assistant\nGood day.<|im_end|>\n<|im_start|>user\nAnd you?<|im_end|>\n"
        "<|im_start|>assistant\nWell.<|im_end|>\n"
    )
    bos = "<|begin_of_text|>" if make is llama else ""
    assert make().decode(encode(TALK, make()).input_ids) == bos + expected


# Masks


@pytest.mark.parametrize("make", ALL)
def test_assistant_mask_is_answers_with_their_ends_without_the_newline(make):
    assert trained(encode(TALK, make()), make()) == ["Good day.<|im_end|>", "Well.<|im_end|>"]


def test_qwen_mask_is_the_table_of_the_published_code():
    """Every <|im_start|>, <|im_end|> and the newline after it, whoever speaks; answers; no role word."""
    turns = ["<|im_end|>\n<|im_start|>", "<|im_end|>\n<|im_start|>", "Good day.<|im_end|>\n<|im_start|>"]
    turns += ["<|im_end|>\n<|im_start|>", "Well.<|im_end|>\n"]
    assert trained(encode(TALK, qwen(), mask="qwen"), qwen()) == turns
    # After a BOS even the first <|im_start|> has something before it to predict it from.
    assert trained(encode(TALK, llama(), mask="qwen"), llama()) == ["<|im_start|>", *turns]


def test_qwen_mask_token_for_token():
    tokenizer = qwen()
    ids, plain = control(tokenizer), plain_encoder(tokenizer)
    got = encode([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}], tokenizer, mask="qwen")
    newline = plain("\n")
    assert len(newline) == 1
    question, answer = [IGNORE] * len(plain("Hi")), plain("Yes.")
    assert got.labels == [
        *(IGNORE, *[IGNORE] * len(plain("user")), IGNORE, *question, ids.im_end, *newline),
        *(ids.im_start, *[IGNORE] * len(plain("assistant")), IGNORE, *answer, ids.im_end, *newline),
    ]


@pytest.mark.parametrize("make", ALL)
def test_mask_all_is_everything_but_the_first_token(make):
    encoded = encode(TALK, make(), mask="all")
    assert encoded.labels == [IGNORE, *encoded.input_ids[1:]]


@pytest.mark.parametrize("mask", ["assistant", "qwen", "all"])
def test_masks_change_labels_and_never_tokens(mask):
    encoded = encode(TALK, qwen(), mask=mask)
    assert encoded.input_ids == encode(TALK, qwen()).input_ids
    assert len(encoded.labels) == len(encoded.input_ids)
    assert encoded.labels[0] == IGNORE


def test_train_false_takes_one_message_out():
    talk = [*TALK[:2], {**TALK[2], "train": False}, *TALK[3:]]
    assert trained(encode(talk, qwen()), qwen()) == ["Well.<|im_end|>"]
    assert trained(encode(talk, qwen(), mask="qwen"), qwen()) == [
        *("<|im_end|>\n<|im_start|>", "<|im_end|>\n"),  # the excluded turn's own control tokens go with it
        *("<|im_start|>", "<|im_end|>\n<|im_start|>", "Well.<|im_end|>\n"),
    ]


def test_an_unknown_mask_is_refused():
    with pytest.raises(ValueError, match=r"^unknown mask 'user'; use assistant, qwen, all$"):
        encode(TALK, qwen(), mask="user")


# Prompts


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("tool_format", ["hermes", "react"])
@pytest.mark.parametrize(("talk", "tools"), [(TALK, None), (TOOL_TALK, [ADD]), (TOOL_TALK, None)])
def test_a_prompt_is_how_the_whole_conversation_begins(make, tool_format, talk, tools):
    whole = encode(talk, make(), tools=tools, tool_format=tool_format).input_ids
    for stop, message in enumerate(talk):
        if message["role"] == "assistant":
            prompt = encode(talk[:stop], make(), tools=tools, tool_format=tool_format, add_generation_prompt=True)
            assert whole[: len(prompt.input_ids)] == prompt.input_ids
            assert set(prompt.labels[-3:]) == {IGNORE}


def test_generation_prompt_ends_where_the_assistant_begins():
    prompt = encode(TALK[1:2], qwen(), add_generation_prompt=True)
    assert qwen().decode(prompt.input_ids) == "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"


def test_bos_stands_once_at_the_start_where_plain_text_begins_with_it():
    assert control(llama()).bos == llama().convert_tokens_to_ids("<|begin_of_text|>")
    assert encode(TALK, llama()).input_ids.count(control(llama()).bos) == 1
    assert control(qwen()).bos is None


# Tools


def test_hermes_writes_signatures_calls_and_results():
    text = qwen().decode(encode([{"role": "system", "content": "Be kind."}, *TOOL_TALK], qwen(), tools=[ADD]).input_ids)
    assert text == (
        "<|im_start|>system\nBe kind.\n\n# Tools\n\nYou may call one or more functions to assist with the user query."
        "\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        '{"type": "function", "function": {"name": "add", "description": "Adds.", '
        '"parameters": {"type": "object", "properties": {"a": {"type": "number"}}}}}\n</tools>\n\n'
        "For each function call, return a json object with function name and arguments within <tool_call></tool_call> "
        'XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n3 + 4?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 4}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n7\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nIt is 7.<|im_end|>\n"
    )


def test_hermes_trains_on_calls_and_never_on_results():
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 4}}\n</tool_call><|im_end|>'
    assert trained(encode(TOOL_TALK, qwen(), tools=[ADD]), qwen()) == [call, "It is 7.<|im_end|>"]
    assert not any("7\n" in stretch for stretch in trained(encode(TOOL_TALK, qwen(), mask="qwen"), qwen()))


def test_hermes_puts_several_calls_in_one_turn_and_their_results_in_another():
    calls = (ToolCall("add", {"a": 1}), ToolCall("add", {"a": "早"}))
    messages = [Message("assistant", "Both.", tool_calls=calls), Message("tool", "1"), Message("tool", "2")]
    assert [turn.text for turn in render(messages)] == [
        'Both.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": {"a": "早"}}\n</tool_call>',
        "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>",
    ]


REACT_QUESTION = """<|im_start|>user
Answer the following questions as best you can. You have access to the following tools:

add: Call this tool to interact with the add API. What is the add API useful for? Adds. Parameters: {"type": "object", \
"properties": {"a": {"type": "number"}}} Format the arguments as a JSON object.

Use the following format:

Question: the input question you must answer
Thought: you should always think about what to do
Action: the action to take, should be one of [add]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question

Begin!

Question: 3 + 4?<|im_end|>
<|im_start|>assistant
"""


def test_react_writes_all_rounds_into_one_turn():
    text = qwen().decode(encode(TOOL_TALK, qwen(), tools=[ADD], tool_format="react").input_ids)
    assert text == REACT_QUESTION + (
        'Thought: I can use add.\nAction: add\nAction Input: {"a": 3, "b": 4}\nObservation: 7\n'
        "Thought: I now know the final answer.\nFinal Answer: It is 7.<|im_end|>\n"
    )


@pytest.mark.parametrize("make", ALL)
def test_react_trains_on_all_but_the_observation(make):
    assert trained(encode(TOOL_TALK, make(), tools=[ADD], tool_format="react"), make()) == [
        'Thought: I can use add.\nAction: add\nAction Input: {"a": 3, "b": 4}\nObservation:',
        "Thought: I now know the final answer.\nFinal Answer: It is 7.<|im_end|>",
    ]


def test_react_goes_on_inside_the_turn_after_a_result():
    prompt = encode(TOOL_TALK[:3], qwen(), tools=[ADD], tool_format="react", add_generation_prompt=True)
    assert qwen().decode(prompt.input_ids) == REACT_QUESTION + (
        'Thought: I can use add.\nAction: add\nAction Input: {"a": 3, "b": 4}\nObservation: 7\nThought:'
    )


def test_react_writes_calls_made_at_once_one_after_the_other():
    calls = (ToolCall("add", {"a": 1}), ToolCall("sub", {}))
    results = [Message("tool", "1"), Message("tool", "2"), Message("assistant", "Done.")]
    (turn,) = render([Message("assistant", "Two.", tool_calls=calls), *results], tool_format="react")
    assert turn.text == (
        'Thought: Two.\nAction: add\nAction Input: {"a": 1}\nObservation: 1\n'
        "Thought: I can use sub.\nAction: sub\nAction Input: {}\nObservation: 2\n"
        "Thought: I now know the final answer.\nFinal Answer: Done."
    )


def test_react_cannot_write_calls_without_results():
    calls = (ToolCall("add", {"a": 1}), ToolCall("sub", {}))
    with pytest.raises(RecordError) as error:
        render([Message("user", "?"), Message("assistant", "", tool_calls=calls)], tool_format="react")
    assert str(error.value) == (
        "message 2: 2 tools are called at once and not all have answered; "
        "ReAct writes one call at a time: add the results, or use chatml.tools=hermes"
    )


def test_react_without_tools_leaves_plain_conversations_alone():
    assert encode(TALK, qwen(), tool_format="react") == encode(TALK, qwen())


# Tokenizers


def test_missing_control_tokens_are_named():
    tokenizer = qwen().__class__(tokenizer_object=_without("<|im_start|>"))
    with pytest.raises(
        TokenizerError, match=r"^the tokenizer has no <\|im_start\|>; add the ChatML tokens to it first$"
    ):
        control(tokenizer)


def test_an_added_token_that_text_cannot_do_without_is_refused():
    backend = _without()
    backend.add_special_tokens(["!"])
    with pytest.raises(TokenizerError) as error:
        plain_encoder(qwen().__class__(tokenizer_object=backend))
    assert str(error.value) == (
        "the tokenizer declares '!' an added token, but text cannot be written without it; "
        "use another token in its place (for padding: <|endoftext|>)"
    )


def test_tokens_added_later_are_seen():
    tokenizer = merged().__class__(tokenizer_object=_without())
    assert plain_encoder(tokenizer)("assistant user") == plain_encoder(tokenizer)("assistant user")
    whole = tokenizer.convert_tokens_to_ids("user")
    assert whole in plain_encoder(tokenizer)("user")
    tokenizer.add_tokens(["user"])
    assert whole not in plain_encoder(tokenizer)("user")
    assert tokenizer.decode(plain_encoder(tokenizer)("user")) == "user"


def _without(*names):
    """The Qwen-like tokenizer's backend, some of its added tokens never added."""
    spec = json.loads(qwen().backend_tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in names]
    return Tokenizer.from_str(json.dumps(spec))
