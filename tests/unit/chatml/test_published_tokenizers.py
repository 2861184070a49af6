"""Published tokenizers: the ids of their own template where that is ChatML, and the loss where it belongs."""

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
    """Conversations of two rounds: ours, and real ones where the data is here."""
    pairs = list(BUILT_IN)
    for name in ("alpaca_en.json", "alpaca_zh.json"):
        if (DATA / name).exists():
            rows = json.loads((DATA / name).read_text(encoding="utf-8"))[:60]
            pairs += [(row["instruction"], row["output"].strip()) for row in rows if row["instruction"].strip()]
    for (asked, said), (asked_next, said_next) in zip(pairs, pairs[1:] + pairs[:1], strict=True):
        yield [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": asked},
            {"role": "assistant", "content": said},
            {"role": "user", "content": asked_next},
            {"role": "assistant", "content": said_next},
        ]


@pytest.mark.parametrize(("name", "rounds"), [("smollm2", slice(None)), ("qwen3", slice(-1))])
def test_ids_are_those_of_the_tokenizers_own_template(name, rounds):
    """Qwen3's template puts an empty <think> block into the last answer, so there the prompts are compared."""
    theirs, ours = as_published(name), real_tokenizer(name)
    for messages in dialogues():
        said = messages[rounds]
        prompt = said[-1]["role"] == "user"
        expected = theirs.apply_chat_template(said, add_generation_prompt=prompt)["input_ids"]
        assert encode(said, ours, add_generation_prompt=prompt).input_ids == expected


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_on_the_answers_and_their_ends(name):
    """Against where the answers stand in the text, by the tokenizer's own offsets."""
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
