"""Published tokenizers: ids equal those of their own ChatML template, and only answers are trained on."""

import json

import pytest

from chatml import IGNORE, control, encode
from tests.support.paths import DATA
from tests.support.real_tokenizers import NAMES, as_published, real_tokenizer

SYSTEM = "You are a careful assistant."
BUILT_IN = [
    ("How are you?", "Fine, thanks.\n\n- one\n- two"),
    ("今天天气怎么样？", "很好，你好！👩‍🚀"),
    ("x = 12345\n\tprint(x)", "It prints `12345`.\n"),
]
HEADS = {"system": "<|im_start|>system\n", "user": "<|im_start|>user\n", "assistant": "<|im_start|>assistant\n"}


def dialogues():
    """Yield conversations of two part: built-in ones, and real ones if the data is present."""
    pairs = list(BUILT_IN)
    for name in ("alpaca_en.json", "alpaca_zh.json"):
        if (DATA / name).exists():
            rows = json.loads((DATA / name).read_text(encoding="utf-8"))[:60]
            pairs += [(row["instruction"], row["output"].strip()) for row in rows if row["instruction"].strip()]
    for (question, answer), (next_question, next_answer) in zip(pairs, pairs[1:] + pairs[:1], strict=True):
        yield [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": next_question},
            {"role": "assistant", "content": next_answer},
        ]


@pytest.mark.parametrize(("name", "part"), [("smollm2", slice(None)), ("qwen3", slice(-1))])
def test_ids_are_those_of_the_tokenizers_own_template(name, part):
    """Qwen3's template adds an empty <think> block to the last answer, so its prompts are compared instead."""
    published, tokenizer = as_published(name), real_tokenizer(name)
    for messages in dialogues():
        talk = messages[part]
        prompt = talk[-1]["role"] == "user"
        expected = published.apply_chat_template(talk, add_generation_prompt=prompt)["input_ids"]
        assert encode(talk, tokenizer, add_generation_prompt=prompt).input_ids == expected


@pytest.mark.parametrize("name", NAMES)
def test_answers_and_their_end_tokens_are_trained_on(name):
    """Compare with the positions of the answers in the text, by the tokenizer's own offsets."""
    tokenizer = real_tokenizer(name)
    bos = [] if control(tokenizer).bos is None else [tokenizer.bos_token]
    for messages in dialogues():
        text, answers = "".join(bos), []
        for message in messages:
            text += HEADS[message["role"]]
            start = len(text)
            text += f"{message['content']}<|im_end|>"
            if message["role"] == "assistant":
                answers.append((start, len(text)))
            text += "\n"
        read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        inside = [
            any(first <= start and end <= last for first, last in answers) for start, end in read["offset_mapping"]
        ]
        encoded = encode(messages, tokenizer)
        assert encoded.input_ids == read["input_ids"]
        assert [label != IGNORE for label in encoded.labels] == inside
