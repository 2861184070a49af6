"""Which tokens of a conversation are trained on."""

from typing import get_type_hints

import pytest

from chatml import IGNORE, Mask, ToolFormat, TrainOn, control, encode, plain_encoder
from config import RecipeError
from config.schema import validate
from engine.data.chatml_section import ChatML
from tests.support.conversations import ADD, TALK, TOOL_TALK, trained
from tests.support.tokenizers import ALL, llama, qwen


@pytest.mark.parametrize("make", ALL)
def test_assistant_mask_trains_on_answers_and_their_end_tokens_without_the_newline(make):
    assert trained(encode(TALK, make()), make()) == ["Good day.<|im_end|>", "Well.<|im_end|>"]


# Whether Qwen's published finetuning code trains on each part of a message, by role.
TRAINED_BY_QWEN = {
    "<|im_start|>": {"system": True, "user": True, "assistant": True},
    "role": {"system": False, "user": False, "assistant": False},
    "newline after role": {"system": False, "user": False, "assistant": False},
    "content": {"system": False, "user": False, "assistant": True},
    "<|im_end|>": {"system": True, "user": True, "assistant": True},
    "newline after <|im_end|>": {"system": True, "user": True, "assistant": True},
}


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("talk", [TALK, TALK[1:], [*TALK, TALK[0], TALK[1], TALK[1]], [*TALK[:2], *TALK[2:3] * 2]])
def test_qwen_mask_equals_qwens_published_code_token_for_token(make, talk):
    tokenizer = make()
    ids, plain = control(tokenizer), plain_encoder(tokenizer)
    assert len(plain("\n")) == 1
    expected = [] if ids.bos is None else [IGNORE]
    for message in talk:
        role = message["role"]
        tokens = {
            "<|im_start|>": [ids.im_start],
            "role": plain(role),
            "newline after role": plain("\n"),
            "content": plain(message["content"]),
            "<|im_end|>": [ids.im_end],
            "newline after <|im_end|>": plain("\n"),
        }
        for part, of_role in TRAINED_BY_QWEN.items():
            expected += tokens[part] if of_role[role] else [IGNORE] * len(tokens[part])
    expected[0] = IGNORE  # nothing precedes it, and the published code's shift by one drops it as well
    assert encode(talk, tokenizer, mask="qwen").labels == expected


def test_text_trained_on_under_mask_qwen():
    turns = ["<|im_end|>\n<|im_start|>", "<|im_end|>\n<|im_start|>", "Good day.<|im_end|>\n<|im_start|>"]
    turns += ["<|im_end|>\n<|im_start|>", "Well.<|im_end|>\n"]
    assert trained(encode(TALK, qwen(), mask="qwen"), qwen()) == turns
    # After a BOS token the first <|im_start|> is predicted too.
    assert trained(encode(TALK, llama(), mask="qwen"), llama()) == ["<|im_start|>", *turns]


@pytest.mark.parametrize("make", ALL)
def test_mask_all_trains_on_every_token_but_the_first(make):
    encoded = encode(TALK, make(), mask="all")
    assert encoded.labels == [IGNORE, *encoded.input_ids[1:]]


@pytest.mark.parametrize("mask", ["assistant", "qwen", "all"])
def test_masks_change_labels_but_not_tokens(mask):
    encoded = encode(TALK, qwen(), mask=mask)
    assert encoded.input_ids == encode(TALK, qwen()).input_ids
    assert len(encoded.labels) == len(encoded.input_ids)
    assert encoded.labels[0] == IGNORE


def test_train_false_excludes_one_message():
    talk = [*TALK[:2], {**TALK[2], "train": False}, *TALK[3:]]
    assert trained(encode(talk, qwen()), qwen()) == ["Well.<|im_end|>"]
    assert trained(encode(talk, qwen(), mask="qwen"), qwen()) == [
        *("<|im_end|>\n<|im_start|>", "<|im_end|>\n"),  # the excluded turn's control tokens are masked too
        *("<|im_start|>", "<|im_end|>\n<|im_start|>", "Well.<|im_end|>\n"),
    ]


def test_an_answer_of_white_space_is_not_trained_on():
    for blank in ("", " \n"):
        talk = [*TALK[:2], {**TALK[2], "content": blank}, *TALK[3:]]
        assert trained(encode(talk, qwen()), qwen()) == ["Well.<|im_end|>"]
        encoded = encode(talk, qwen(), mask="qwen")  # its control tokens are trained on, as in every turn
        assert trained(encoded, qwen())[2] == ("<|im_end|>\n<|im_start|>")
    call = {"role": "assistant", "content": "", "tool_calls": TOOL_TALK[1]["tool_calls"]}
    (text,) = trained(encode([TALK[1], call], qwen()), qwen())
    assert text.startswith("<tool_call>")


# train_on=last_answer


@pytest.mark.parametrize("make", ALL)
def test_last_answer_masks_all_other_turns(make):
    encoded = encode(TALK, make(), train_on="last_answer")
    assert trained(encoded, make()) == ["Well.<|im_end|>"]
    assert encoded.input_ids == encode(TALK, make()).input_ids
    qwen_mask = encode(TALK, make(), mask="qwen", train_on="last_answer")
    assert trained(qwen_mask, make()) == ["<|im_start|>", "Well.<|im_end|>\n"]


def test_last_answer_is_the_last_assistant_turn_even_if_other_turns_follow():
    unanswered = [*TALK, TALK[1]]
    assert trained(encode(unanswered, qwen(), train_on="last_answer"), qwen()) == ["Well.<|im_end|>"]
    twice = [*TALK[:3], TALK[4]]
    assert trained(encode(twice, qwen(), train_on="last_answer"), qwen()) == ["Well.<|im_end|>"]
    excluded = [*TALK[:4], {**TALK[4], "train": False}]
    for mask in ("assistant", "qwen"):
        assert trained(encode(excluded, qwen(), mask=mask, train_on="last_answer"), qwen()) == []
    assert trained(encode(TALK[:2], qwen(), train_on="last_answer"), qwen()) == []


def test_last_answer_with_tools_is_the_last_turn_that_the_format_writes():
    hermes = encode(TOOL_TALK, qwen(), tools=[ADD], train_on="last_answer")
    assert trained(hermes, qwen()) == ["It is 7.<|im_end|>"]
    react = encode(TOOL_TALK, qwen(), tools=[ADD], tool_format="react", train_on="last_answer")
    assert trained(react, qwen()) == trained(encode(TOOL_TALK, qwen(), tools=[ADD], tool_format="react"), qwen())


def test_last_answer_cannot_be_combined_with_mask_all():
    with pytest.raises(RecipeError) as error:
        validate(ChatML(mask="all", train_on="last_answer"), "chatml")
    assert str(error.value) == (
        "chatml.train_on=last_answer cannot be combined with chatml.mask=all, which trains on every token; "
        "use chatml.mask=assistant"
    )


def test_the_recipe_has_the_same_choices_as_the_encoder():
    keys = get_type_hints(ChatML)
    assert (keys["mask"], keys["train_on"], keys["tools"]) == (Mask, TrainOn, ToolFormat)


def test_an_unknown_mask_or_train_on_is_refused():
    with pytest.raises(ValueError, match=r"^unknown mask 'user'; use assistant, qwen, all$"):
        encode(TALK, qwen(), mask="user")
    with pytest.raises(ValueError, match=r"^unknown train_on 'first'; use every_answer, last_answer$"):
        encode(TALK, qwen(), train_on="first")
