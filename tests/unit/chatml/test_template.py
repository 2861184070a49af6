"""The Jinja template renders the tokens of `chatml.encode`, and its assistant mask is ours."""

import json

import pytest
from datasets import Dataset
from trl import SFTConfig, SFTTrainer
from trl.chat_template_utils import (
    get_training_chat_template,
    is_chat_template_stop_token_trained,
    supports_tool_calling,
)

from chatml import IGNORE, TEMPLATE, chat_template, encode
from tests.support.small_models import small_model
from tests.support.tokenizers import compatible, llama, qwen, tiny_world

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
REACT = [
    TOOLS[0],
    {"role": "assistant", "content": "Thought: I add.\nAction: add\nAction Input: {}\nObservation: 7\nThought: 7\n7"},
    {"role": "assistant", "content": "Action: add\nObservation: 7\nObservation: 8"},
    {
        "role": "assistant",
        "content": "Observation: red\nThought: a\nAction: b\nObservation: c\nThought: d",
    },
    {"role": "assistant", "content": "Action: a\nObservation: b", "tool_calls": [call("add", a=3)]},
    {"role": "assistant", "content": "Action: a\nObservation:"},
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
    "one answer of white space": ([*TALK[:1], {"role": "assistant", "content": "  "}, *TALK[2:]], None),
    "two answers in a row": ([*TALK, TALK[3]], None),
    "observations": (REACT, None),
    "observations and tools": (REACT, [ADD]),
}


MAKERS = [qwen, llama, tiny_world, compatible]


def with_template(make):
    tokenizer = make()
    tokenizer.chat_template = chat_template(tokenizer)
    return tokenizer


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_template_renders_the_tokens_of_encode(make, case, prompt):
    tokenizer = with_template(make)
    messages, tools = CASES[case]
    got = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=prompt)["input_ids"]
    assert got == encode(messages, tokenizer, tools=tools, add_generation_prompt=prompt).input_ids
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=prompt)
    assert tokenizer.decode(got) == text


def test_markers_are_single_tokens_if_the_tokenizer_has_them():
    opening, closing = qwen().convert_tokens_to_ids(["<tool_call>", "</tool_call>"])
    without_tools = encode(TOOLS, qwen()).input_ids
    assert (without_tools.count(opening), without_tools.count(closing)) == (3, 3)
    tokens = encode(TOOLS, qwen(), tools=[ADD]).input_ids
    assert (tokens.count(opening), tokens.count(closing)) == (5, 5)  # the instruction names them twice
    as_text = [{"role": "assistant", "content": "<tool_call>\n{}\n</tool_call>"}]
    assert not {opening, closing} & set(encode(as_text, qwen()).input_ids)


def test_content_that_spells_a_control_token_becomes_one_only_through_the_template():
    tokenizer = with_template(qwen)
    messages = [{"role": "user", "content": "Hi<|im_end|>"}]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.apply_chat_template(messages)["input_ids"].count(end) == 2
    assert encode(messages, tokenizer).input_ids.count(end) == 1


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("case", CASES)
def test_the_templates_assistant_mask_equals_our_labels(make, case):
    tokenizer = with_template(make)
    messages, tools = CASES[case]
    theirs = tokenizer.apply_chat_template(messages, tools=tools, return_dict=True, return_assistant_tokens_mask=True)
    ours = encode(messages, tokenizer, tools=tools)
    assert theirs["assistant_masks"] == [int(label != IGNORE) for label in ours.labels]


@pytest.mark.parametrize("make", [qwen, llama])
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_labels_of_trls_trainer_with_assistant_only_loss_equal_ours(make, tmp_path):
    tokenizer = with_template(make)
    tokenizer.pad_token = "<|endoftext|>"
    ours = {case: encode(messages, tokenizer, tools=tools) for case, (messages, tools) in CASES.items()}
    ours = {case: encoded for case, encoded in ours.items() if set(encoded.labels) != {IGNORE}}  # TRL refuses those
    assert ours.keys() == CASES.keys() - {"empty answer"}
    trainer = SFTTrainer(
        small_model(vocab_size=len(tokenizer)),
        SFTConfig(str(tmp_path), assistant_only_loss=True, max_length=None, bf16=False, use_cpu=True, report_to=[]),
        train_dataset=Dataset.from_list([published(*CASES[case]) for case in ours]),
        processing_class=tokenizer,
    )
    for (case, encoded), row in zip(ours.items(), trainer.train_dataset, strict=True):
        assert (row["input_ids"], row["labels"]) == (encoded.input_ids, encoded.labels), case


def published(messages, tools):
    """Return a row as in data files, with arguments and tools as JSON: a column of a data set has one type."""

    def as_json(call):
        function = call["function"]
        return {"function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}

    messages = [
        message | ({"tool_calls": [as_json(call) for call in message["tool_calls"]]} if "tool_calls" in message else {})
        for message in messages
    ]
    return {"messages": messages, "tools": json.dumps(tools) if tools else None}


def test_only_tokenizers_with_a_bos_get_it_in_the_template():
    assert "bos_token" not in TEMPLATE
    assert chat_template(qwen()) == TEMPLATE
    assert chat_template(llama()).startswith("{{- bos_token -}}")


@pytest.mark.parametrize("make", [qwen, llama])
def test_trl_accepts_the_template_unchanged(make):
    """TRL replaces a template without generation marks or with changing prefixes, and warns of untrained end tokens."""
    tokenizer = with_template(make)
    assert supports_tool_calling(tokenizer)
    assert get_training_chat_template(tokenizer) is None
    assert is_chat_template_stop_token_trained(tokenizer)
