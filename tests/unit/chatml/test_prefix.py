"""Tokenizers that add a space before text: it stands where the rendered chat template would have it."""

import random

import pytest

from chatml import chat_template, encode, plain_encoder, read_back
from chatml.prefix import prefix_of, without_prefix
from engine.errors import RunError
from engine.models.tokenizer import load_tokenizer
from tests.support.prefix_tokenizers import byte_level, collapsing, legacy, metaspace, unigram
from tests.support.tokenizers import qwen, words

MAKERS = {
    "legacy": legacy,
    "always": lambda: metaspace("always"),
    "first": lambda: metaspace("first"),
    "never": lambda: metaspace("never"),
    "unigram always": unigram,
    "unigram first": lambda: unigram("first"),
    "byte level": byte_level,
}
WORDS = "system user assistant tool How can I assist you today The quick brown fox jumps over the lazy dog".split()


def random_text(random_numbers):
    lines = (" ".join(random_numbers.choices(WORDS, k=random_numbers.randint(1, 5))) for _ in range(3))
    return "\n".join(lines)


def conversations(count):
    """Yield conversations with reasoning and tool calls; no text begins or ends with white space."""
    rng = random.Random(0)
    call = {"function": {"name": "add", "arguments": {}}}
    for number in range(count):
        yield [
            {"role": "system", "content": random_text(rng)},
            {"role": "user", "content": random_text(rng)},
            {"role": "assistant", "content": random_text(rng)}
            | ({"reasoning_content": random_text(rng)} if number % 2 else {}),
            {"role": "user", "content": random_text(rng)},
            {"role": "assistant", "content": random_text(rng)} | ({"tool_calls": [call]} if number % 3 == 0 else {}),
        ]


@pytest.mark.parametrize("name", MAKERS)
def test_a_hundred_conversations_have_the_tokens_of_the_chat_template(name):
    tokenizer = MAKERS[name]()
    template = chat_template(tokenizer)
    for talk in conversations(100):
        for prompt in (False, True):
            rendered = tokenizer.apply_chat_template(
                talk, chat_template=template, add_generation_prompt=prompt, return_dict=True
            )
            assert encode(talk, tokenizer, add_generation_prompt=prompt).input_ids == rendered["input_ids"]


@pytest.mark.parametrize("name", MAKERS)
def test_reading_back_preserves_white_space(name):
    tokenizer = MAKERS[name]()
    messages = [
        {"role": "system", "content": "  Be   kind."},
        {"role": "user", "content": " Hello!\n\n you "},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": " How  can I\n"},
    ]
    if name.startswith("unigram"):
        messages[0]["content"], messages[1]["content"] = "  today", " you\n\n can "
    assert read_back(encode(messages, tokenizer).input_ids, tokenizer) == messages


def test_position_of_the_added_space_by_hand():
    talk = [{"role": "user", "content": "you"}, {"role": "assistant", "content": "today"}]
    pieces = {name: MAKERS[name]().convert_ids_to_tokens(encode(talk, MAKERS[name]()).input_ids)
              for name in ("legacy", "first")}  # fmt: skip

    def text_between_control_tokens(tokens):
        return (
            "".join(" | " if token.startswith("<|") else token for token in tokens).replace("<0x0A>", "\n").split(" | ")
        )

    assert text_between_control_tokens(pieces["legacy"]) == ["", "▁user\nyou", "▁\n", "▁assistant\ntoday", "▁\n"]
    assert text_between_control_tokens(pieces["first"]) == ["", "user\nyou", "\n", "assistant\ntoday", "\n"]


@pytest.mark.parametrize("name", MAKERS)
def test_plain_text_has_the_tokens_that_its_tokenizer_gives_it(name):
    tokenizer = MAKERS[name]()
    assert (
        plain_encoder(tokenizer)("The quick\nfox") == tokenizer("The quick\nfox", add_special_tokens=False)["input_ids"]
    )


def test_without_an_added_space_the_position_does_not_matter():
    plain = plain_encoder(qwen())
    assert plain("you") == plain("you", "after_token") == plain("you", "inside")


def test_the_prefix_is_found_and_removed_inside_sequences_of_steps():
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    inner = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, space]}
    normalizer = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "ByteLevel"}]}
    spec = {"normalizer": normalizer, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [inner]}, "model": {}}
    assert prefix_of(spec) == "first"
    without = without_prefix(spec)
    assert without["normalizer"] == normalizer
    assert without["pre_tokenizer"]["pretokenizers"][1] == {**space, "prepend_scheme": "never"}
    assert prefix_of(without) == "none"
    prepend = {"type": "Prepend", "prepend": "▁"}
    assert prefix_of({**spec, "normalizer": prepend}) == "every"
    assert without_prefix({**spec, "normalizer": prepend})["normalizer"] is None
    assert prefix_of({"normalizer": None, "pre_tokenizer": None}) == "none"


def test_a_tokenizer_that_loses_line_breaks_is_refused_at_load(tmp_path):
    collapsing().save_pretrained(tmp_path)
    with pytest.raises(RunError) as error:
        load_tokenizer(str(tmp_path))
    assert str(error.value).startswith(f"{tmp_path}: the tokenizer does not preserve the text of ")
    assert str(error.value).endswith(
        "; ChatML needs spaces and line breaks unchanged: use a model with a byte-level tokenizer"
    )
    assert "\n" not in str(error.value)


def test_a_tokenizer_that_cannot_write_a_role_is_refused_at_load(tmp_path):
    words().save_pretrained(tmp_path)
    with pytest.raises(RunError) as error:
        load_tokenizer(str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path}: this tokenizer cannot encode ChatML: the text would be encoded as the tokenizer's added token "
        "'[UNK]'; change the text, or use a byte-level tokenizer"
    )


@pytest.mark.parametrize("name", MAKERS)
def test_tokenizers_with_an_added_space_can_be_loaded(name, tmp_path):
    MAKERS[name]().save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    talk = next(iter(conversations(1)))
    assert encode(talk, loaded).input_ids == encode(talk, MAKERS[name]()).input_ids
