"""The Jinja template beside `chatml.encode`: the same tokens, and TRL's assistant mask where ours is."""

import pytest
from trl.chat_template_utils import (
    get_training_chat_template,
    is_chat_template_stop_token_trained,
    supports_tool_calling,
)

from chatml import IGNORE, TEMPLATE, chat_template, encode
from tests.tokenizers_for_tests import llama, qwen

ADD = {"type": "function", "function": {"name": "add", "description": "加 <b>'both'</b>", "parameters": {"a": 1}}}


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


TALK = [
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Good day.\n\nHow can I assist you?"},
    {"role": "user", "content": "今天天气很好 3 + 4?  \n"},
    {"role": "assistant", "content": "7"},
]
TOOLS = [
    {"role": "user", "content": "3 + 4, then + 5?"},
    {"role": "assistant", "content": "", "tool_calls": [call("add", a=3, b="四 \"quoted\" 'n'")]},
    {"role": "tool", "content": "7"},
    {"role": "assistant", "content": "And now", "tool_calls": [call("add", a=7), call("sub")]},
    {"role": "tool", "content": "12"},
    {"role": "tool", "content": "0"},
    {"role": "assistant", "content": "12"},
]
SYSTEM = {"role": "system", "content": "Be kind."}
CASES = {
    "plain": (TALK, None),
    "system": ([SYSTEM, *TALK], None),
    "system in the middle": ([*TALK, SYSTEM, *TALK], None),
    "two users in a row": ([TALK[0], *TALK], None),
    "empty answer": ([TALK[0], {"role": "assistant", "content": ""}], None),
    "ends in a question": (TALK[:3], None),
    "tools": (TOOLS, [ADD]),
    "tools and system": ([SYSTEM, *TOOLS], [ADD, ADD]),
    "tools and empty system": ([{"role": "system", "content": ""}, *TOOLS], [ADD]),
    "tools never given": (TOOLS, None),
    "begins with a result": (TOOLS[2:], None),
    "ends with a result": (TOOLS[:3], [ADD]),
    "a call without content": ([TOOLS[0], {**TOOLS[1], "content": None}], [ADD]),
    "one answer left out": ([*TALK[:1], {**TALK[1], "train": False}, *TALK[2:]], None),
}


# The Qwen-like tokenizer has added tokens named <tool_call> and </tool_call>.
CALLS = {case for case, (messages, tools) in CASES.items() if tools or any("tool_calls" in m for m in messages)}


def with_template(make):
    tokenizer = make()
    tokenizer.chat_template = chat_template(tokenizer)
    return tokenizer


@pytest.mark.parametrize("make", [qwen, llama])
@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_template_renders_to_the_text_of_our_tokens(make, case, prompt):
    tokenizer = with_template(make)
    messages, tools = CASES[case]
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=prompt)
    encoded = encode(messages, tokenizer, tools=tools, add_generation_prompt=prompt)
    assert tokenizer.decode(encoded.input_ids) == text


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize(
    ("make", "case"), [(llama, case) for case in CASES] + [(qwen, case) for case in CASES if case not in CALLS]
)
def test_template_renders_to_our_tokens(make, case, prompt):
    tokenizer = with_template(make)
    messages, tools = CASES[case]
    got = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=prompt)["input_ids"]
    assert got == encode(messages, tokenizer, tools=tools, add_generation_prompt=prompt).input_ids


def test_markers_that_a_tokenizer_has_tokens_for_are_text_in_ours_and_tokens_in_the_templates():
    tokenizer = with_template(qwen)
    marker = tokenizer.convert_tokens_to_ids("<tool_call>")
    assert tokenizer.apply_chat_template(TOOLS)["input_ids"].count(marker) == 3
    assert marker not in encode(TOOLS, tokenizer).input_ids


def test_content_that_spells_a_control_token_becomes_it_in_the_templates_tokens_alone():
    tokenizer = with_template(qwen)
    messages = [{"role": "user", "content": "Hi<|im_end|>"}]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.apply_chat_template(messages)["input_ids"].count(end) == 2
    assert encode(messages, tokenizer).input_ids.count(end) == 1


@pytest.mark.parametrize("case", CASES)
def test_assistant_only_loss_of_trl_falls_where_ours_does(case):
    """TRL asks `apply_chat_template` for this mask."""
    tokenizer = with_template(llama)
    messages, tools = CASES[case]
    theirs = tokenizer.apply_chat_template(messages, tools=tools, return_dict=True, return_assistant_tokens_mask=True)
    ours = encode(messages, tokenizer, tools=tools)
    assert theirs["input_ids"] == ours.input_ids
    assert theirs["assistant_masks"] == [int(label != IGNORE) for label in ours.labels]


def test_the_template_itself_names_no_bos():
    assert "bos_token" not in TEMPLATE
    assert chat_template(qwen()) == TEMPLATE
    assert chat_template(llama()).startswith("{{- bos_token -}}")


@pytest.mark.parametrize("make", [qwen, llama])
def test_trl_finds_nothing_to_repair(make):
    """TRL swaps a template without marks, or one whose prefixes change, for its own; and warns of untrained ends."""
    tokenizer = with_template(make)
    assert supports_tool_calling(tokenizer)
    assert get_training_chat_template(tokenizer) is None
    assert is_chat_template_stop_token_trained(tokenizer)
