"""Added tokens that are ordinary text (white space, HTML tags) are used in text; all other added tokens never are."""

import json
from functools import lru_cache

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from chatml import RecordError, control, encode, plain_encoder, read_back
from engine.models.tokenizer import load_tokenizer
from tests.support.real_tokenizers import NAMES, as_published, real_tokenizer
from tests.support.tokenizers import EVERY, qwen

TEXT_TOKENS = ("\n", "\n\n", "\t", "  ", "<h1>", "</h1>", "<td>")
OTHER_TOKENS = ("<mask>", "<unused7>", "[multimodal]", "<think>", "<table >")


@lru_cache
def with_text_tokens(*, special: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose added tokens include white space and HTML tags, as Gemma 3's do."""
    backend = Tokenizer.from_str(qwen().backend_tokenizer.to_str())
    backend.add_tokens([AddedToken(name, special=special, normalized=False) for name in TEXT_TOKENS])
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in OTHER_TOKENS])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


SAMPLE = "<h1>Hi</h1>\n\n\tyou  two <mask> <unused7>[multimodal]<think>\n<TD><td ><td>"


def test_white_space_and_html_tags_are_text_unless_special():
    assert with_text_tokens().convert_ids_to_tokens(sorted(control(with_text_tokens()).text)) == list(TEXT_TOKENS)
    assert not control(with_text_tokens(special=True)).text
    assert not any(control(make()).text for make in EVERY)


def test_text_is_encoded_with_added_text_tokens_and_no_other_added_tokens():
    tokenizer = with_text_tokens()
    ids = plain_encoder(tokenizer)(SAMPLE)
    added = [tokenizer.convert_ids_to_tokens(i) for i in ids if i in tokenizer.get_added_vocab().values()]
    assert added == ["<h1>", "</h1>", "\n\n", "\t", "  ", "\n", "<td>"]
    assert tokenizer.decode(ids) == SAMPLE


def test_line_breaks_of_a_conversation_are_the_added_token():
    tokenizer = with_text_tokens()
    talk = [{"role": "user", "content": "a\n\nb\tc <h1>d</h1>  e"}, {"role": "assistant", "content": "<td>\nf"}]
    encoded = encode(talk, tokenizer)
    (newline,) = plain_encoder(tokenizer)("\n")
    assert newline == tokenizer.convert_tokens_to_ids("\n")
    assert encoded.input_ids.count(newline) == 5
    assert read_back(encoded.input_ids, tokenizer) == talk


def test_bos_and_eos_are_not_text_even_if_they_look_like_html_tags():
    backend = Tokenizer.from_str(qwen().backend_tokenizer.to_str())
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in ("<s>", "</s>")])
    named = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    assert not control(named).text
    assert not {named.bos_token_id, named.eos_token_id} & set(plain_encoder(named)("a<s>b</s>"))
    unnamed = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert len(control(unnamed).text) == 2


def test_an_added_token_that_strips_spaces_is_not_text():
    backend = Tokenizer.from_str(qwen().backend_tokenizer.to_str())
    backend.add_tokens([AddedToken("<b>", special=False, normalized=False, lstrip=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert not control(tokenizer).text
    assert tokenizer.decode(plain_encoder(tokenizer)("a  <b>")) == "a  <b>"


def test_a_tokenizer_with_added_line_breaks_survives_saving_and_loading(tmp_path):
    with_text_tokens().save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert plain_encoder(loaded)(SAMPLE) == plain_encoder(with_text_tokens())(SAMPLE)


@pytest.mark.parametrize("name", NAMES)
def test_published_tokenizers_encode_plain_text_as_by_themselves(name):
    text = "Hello\n\n\nworld,\t\tit's 1234  <table><tr>a</tr></table>   end <B> 今天 \n\n"
    expected = as_published(name)(text, add_special_tokens=False)["input_ids"] if name != "qwen1" else None
    ids = plain_encoder(real_tokenizer(name))(text)
    assert expected is None or ids == expected
    assert real_tokenizer(name).decode(ids, clean_up_tokenization_spaces=False) == text


def test_which_added_tokens_of_gemma_are_text():
    gemma = real_tokenizer("gemma3")
    texts = {gemma.convert_ids_to_tokens(i) for i in control(gemma).text}
    assert {"\n", "\n\n", "\t", "▁▁", "<h1>", "</s>", "<td>"} <= texts
    assert not {"<mask>", "[multimodal]", "<unused0>", "<bos>", "<eos>", "<start_of_turn>", "<bbox>"} & texts


def tokenizer_without(*bytes_: str) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer without the tokens of some bytes."""
    spec = json.loads(qwen().backend_tokenizer.to_str())
    for byte in bytes_:
        del spec["model"]["vocab"][byte]
    spec["model"]["merges"] = [pair for pair in spec["model"]["merges"] if not set("".join(pair)) & set(bytes_)]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)))


def test_a_character_without_a_token_is_refused_instead_of_dropped():
    encoder = plain_encoder(tokenizer_without("Ą", "ñ"))  # how a byte-level vocabulary writes the bytes 0x04 and 0xF1
    assert encoder.lost("a\x04b \U00050000 é") == ["\x04", "\U00050000"]
    with pytest.raises(RecordError, match=r"^the tokenizer has no token for '\\x04', which would be lost; remove it$"):
        encoder.batch(["whole", "a\x04b"])
    assert plain_encoder(qwen()).lost("a\x04b \U00050000") == []


def test_smollm2_has_no_token_for_some_characters():
    assert plain_encoder(real_tokenizer("smollm2")).lost("a\x04 \U00050000 é今") == ["\x04", "\U00050000"]
