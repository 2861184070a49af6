"""The tokens of a conversation."""

import json

import pytest
from tokenizers import Tokenizer

from chatml import IGNORE, TokenizerError, control, encode, plain_encoder
from tests.support.conversations import ADD, TALK, TOOL_TALK
from tests.support.tokenizers import ALL, llama, merged, qwen


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
def test_decoded_tokens_are_chatml_text(make):
    expected = (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello!<|im_end|>\n"
        "<|im_start|>assistant\nGood day.<|im_end|>\n<|im_start|>user\nAnd you?<|im_end|>\n"
        "<|im_start|>assistant\nWell.<|im_end|>\n"
    )
    bos = "<|begin_of_text|>" if make is llama else ""
    assert make().decode(encode(TALK, make()).input_ids) == bos + expected


@pytest.mark.parametrize("make", ALL)
def test_up_to_end_stops_at_the_last_end_token(make):
    tokenizer = make()
    whole, cut = encode(TALK, tokenizer), encode(TALK, tokenizer, up_to_end=True)
    newline = plain_encoder(tokenizer)("\n", "after_token")
    assert cut.input_ids + newline == whole.input_ids
    assert cut.input_ids[-1] == cut.labels[-1] == control(tokenizer).im_end
    with pytest.raises(ValueError, match="exclude each other"):
        encode(TALK, tokenizer, up_to_end=True, add_generation_prompt=True)


def test_an_unfinished_turn_has_no_end_to_stop_at():
    talk = TOOL_TALK[: max(i for i, message in enumerate(TOOL_TALK) if message["role"] == "tool") + 1]
    given = {"tools": [ADD], "tool_format": "react"}
    assert encode(talk, qwen(), **given, up_to_end=True) == encode(talk, qwen(), **given)


# Prompts


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("tool_format", ["hermes", "react"])
@pytest.mark.parametrize(("talk", "tools"), [(TALK, None), (TOOL_TALK, [ADD]), (TOOL_TALK, None)])
def test_a_prompt_is_a_prefix_of_the_whole_conversation(make, tool_format, talk, tools):
    whole = encode(talk, make(), tools=tools, tool_format=tool_format).input_ids
    for stop, message in enumerate(talk):
        if message["role"] == "assistant":
            prompt = encode(talk[:stop], make(), tools=tools, tool_format=tool_format, add_generation_prompt=True)
            assert whole[: len(prompt.input_ids)] == prompt.input_ids
            assert set(prompt.labels[-3:]) == {IGNORE}


def test_generation_prompt_ends_where_the_assistant_begins():
    prompt = encode(TALK[1:2], qwen(), add_generation_prompt=True)
    assert qwen().decode(prompt.input_ids) == "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"


def test_bos_occurs_once_if_the_tokenizer_adds_it_to_plain_text():
    assert control(llama()).bos == llama().convert_tokens_to_ids("<|begin_of_text|>")
    assert encode(TALK, llama()).input_ids.count(control(llama()).bos) == 1
    assert control(qwen()).bos is None


# Tokenizers


def test_missing_control_tokens_are_named():
    tokenizer = qwen().__class__(tokenizer_object=_without("<|im_start|>"))
    with pytest.raises(
        TokenizerError, match=r"^the tokenizer has no <\|im_start\|>; add the ChatML tokens to it first$"
    ):
        control(tokenizer)


def test_an_added_token_that_plain_text_needs_is_refused():
    backend = _without()
    backend.add_special_tokens(["!"])
    with pytest.raises(TokenizerError) as error:
        plain_encoder(qwen().__class__(tokenizer_object=backend))
    assert str(error.value) == (
        "the tokenizer has '!' as an added token, but text cannot be encoded without it; "
        "use another token in its place (for padding: <|endoftext|>)"
    )


def test_tokens_added_after_the_first_use_are_respected():
    tokenizer = merged().__class__(tokenizer_object=_without())
    assert plain_encoder(tokenizer)("assistant user") == plain_encoder(tokenizer)("assistant user")
    whole = tokenizer.convert_tokens_to_ids("user")
    assert whole in plain_encoder(tokenizer)("user")
    tokenizer.add_tokens(["user"])
    assert whole not in plain_encoder(tokenizer)("user")
    assert tokenizer.decode(plain_encoder(tokenizer)("user")) == "user"


def _without(*names):
    """Return the backend of the Qwen-like tokenizer without some of its added tokens."""
    spec = json.loads(qwen().backend_tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in names]
    return Tokenizer.from_str(json.dumps(spec))
