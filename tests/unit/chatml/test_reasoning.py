"""Reasoning of an answer is written as in Qwen3's template, and trained on with the answer."""

import pytest

from chatml import Message, chat_template, control, encode, read_back
from engine.data import encoding
from engine.data.chatml_section import ChatML
from engine.data.reading import Settings
from engine.data.report import Report
from tests.support.conversations import trained
from tests.support.real_tokenizers import NAMES, as_published, real_tokenizer
from tests.support.records import messages
from tests.support.tokenizers import compatible, llama, qwen, tiny_world

ASK = {"role": "user", "content": "3 + 4?"}
ANSWER = {"role": "assistant", "content": "7", "reasoning_content": "I add.\n\nThat is 7."}
CALL = {"function": {"name": "add", "arguments": {"a": 3}}}
CASES = {
    "an answer": [ASK, ANSWER],
    "line breaks around": [ASK, {**ANSWER, "content": "\n\n7", "reasoning_content": "\nI add.\n\n"}],
    "a call": [ASK, {**ANSWER, "content": "", "tool_calls": [CALL]}],
    "a call after a text": [ASK, {**ANSWER, "content": "\nSo:", "tool_calls": [CALL, CALL]}],
    "reasoning alone": [ASK, {**ANSWER, "content": ""}],
    "an empty thought": [ASK, {**ANSWER, "reasoning_content": "\n"}],
    "both rounds": [ASK, {**ANSWER, "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "7"}, ANSWER],
}


@pytest.mark.parametrize("make", [qwen, tiny_world], ids=["native tokens", "none"])
def test_text_and_trained_tokens_by_hand(make):
    encoded = encode([ASK, ANSWER], make())
    thought = "<think>\nI add.\n\nThat is 7.\n</think>\n\n7<|im_end|>"
    assert make().decode(encoded.input_ids) == (
        f"<|im_start|>user\n3 + 4?<|im_end|>\n<|im_start|>assistant\n{thought}\n"
    )
    assert trained(encoded, make()) == [thought]
    assert read_back(encoded.input_ids, make())[1]["content"] == thought.removesuffix("<|im_end|>")


def test_the_markers_are_single_tokens_if_the_model_has_them():
    start, end = qwen().convert_tokens_to_ids(["<think>", "</think>"])
    ids = encode([ASK, ANSWER], qwen()).input_ids
    assert (ids.count(start), ids.count(end)) == (1, 1)
    as_text = encode([ASK, {"role": "assistant", "content": "<think>\nI add.\n</think>\n\n7"}], qwen()).input_ids
    assert (as_text.count(start), as_text.count(end)) == (0, 0)
    inside = encode([ASK, {**ANSWER, "reasoning_content": "a </think> b <think>"}], qwen()).input_ids
    assert (inside.count(start), inside.count(end)) == (1, 1)


@pytest.mark.parametrize("case", CASES)
def test_text_and_tokens_equal_qwen3s_template(case):
    published, tokenizer = as_published("qwen3"), real_tokenizer("qwen3")
    text = published.apply_chat_template(CASES[case], tokenize=False)
    assert tokenizer.decode(encode(CASES[case], tokenizer).input_ids) == text
    assert encode(CASES[case], tokenizer).input_ids == published.apply_chat_template(CASES[case])["input_ids"]


@pytest.mark.parametrize("make", [qwen, llama, tiny_world, compatible])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_saved_template_renders_the_same_tokens_and_assistant_mask(make, train, case):
    talk = [{**message, "train": train} if message["role"] == "assistant" else message for message in CASES[case]]
    rendered = make().apply_chat_template(
        talk, chat_template=chat_template(make()), return_dict=True, return_assistant_tokens_mask=True
    )
    encoded = encode(talk, make())
    assert rendered["input_ids"] == encoded.input_ids
    assert rendered["assistant_masks"] == [int(label != -100) for label in encoded.labels]
    assert any(rendered["assistant_masks"]) == train


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CASES)
def test_the_saved_template_renders_the_same_tokens_with_published_tokenizers(name, case):
    tokenizer = real_tokenizer(name)
    rendered = tokenizer.apply_chat_template(CASES[case], chat_template=chat_template(tokenizer))["input_ids"]
    assert rendered == encode(CASES[case], tokenizer).input_ids


def test_react_writes_reasoning_before_the_thought():
    encoded = encode(CASES["both rounds"], qwen(), tool_format="react")
    assert qwen().decode(encoded.input_ids).partition("assistant\n")[2] == (
        "<think>\nI add.\n\nThat is 7.\n</think>\n\nThought: I can use add.\nAction: add\n"
        'Action Input: {"a": 3}\nObservation: 7\n<think>\nI add.\n\nThat is 7.\n</think>\n\n'
        "Thought: I now know the final answer.\nFinal Answer: 7<|im_end|>\n"
    )
    ids = control(qwen())
    assert encoded.input_ids.count(ids.markers["<think>"]) == 2


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_field_names_of_reasoning_in_records(name):
    answer = {"role": "assistant", "content": "7", name: "I add."}
    assert messages({"messages": [ASK, answer]})[1] == Message("assistant", "7", reasoning_content="I add.")
    assert messages({"messages": [ASK, {**answer, "reasoning_content": "I add."}]})[1].reasoning == "I add."
    shared = {"conversations": [{"from": "human", "value": "3 + 4?"}, {"from": "gpt", "value": "7", name: "I add."}]}
    assert messages(shared)[1].reasoning_content == "I add."


@pytest.mark.parametrize("nothing", [None, ""])
def test_empty_reasoning_equals_no_reasoning(nothing):
    plain = encode([ASK, {"role": "assistant", "content": "7"}], qwen())
    assert encode([ASK, {**ANSWER, "reasoning_content": nothing}], qwen()) == plain


def test_empty_reasoning_before_an_empty_answer_is_not_trained_on():
    nothing = encode([ASK, {"role": "assistant", "content": "", "reasoning_content": "\n"}], qwen())
    assert trained(nothing, qwen()) == []


def test_reasoning_in_a_prompt_survives_the_stored_row():
    record = {"messages": [ASK, ANSWER, ASK]}
    settings = Settings(ChatML(), {}, "error", "error", "data.max_prompt_tokens", 500)
    (row,) = encoding.prompts([("here:1", record)], settings, qwen(), Report())
    expected = encode(record["messages"], qwen(), add_generation_prompt=True).input_ids
    stored = encoding.PromptRow.from_columns(row)
    assert stored.input_ids == expected
    assert encode(stored.messages, qwen(), add_generation_prompt=True).input_ids == expected
