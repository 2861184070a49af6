"""Added tokens that are ordinary text (white space, HTML tags) are used as the model knows them; all others never."""

import json
from functools import lru_cache

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from chatml import RecordError, control, encode, plain_encoder, read_back
from engine.models.tokenizer import load_tokenizer
from tests.support.real_tokenizers import NAMES, as_published, real_tokenizer
from tests.support.tokenizers import EVERY, qwen

TEXTS = ("\n", "\n\n", "\t", "  ", "<h1>", "</h1>", "<td>")
OTHERS = ("<mask>", "<unused7>", "[multimodal]", "<think>", "<table >")


@lru_cache
def declares(*, special: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer that declares white space and HTML tags added tokens, as Gemma 3's, or special ones."""
    backend = Tokenizer.from_str(qwen().backend_tokenizer.to_str())
    backend.add_tokens([AddedToken(name, special=special, normalized=False) for name in TEXTS])
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in OTHERS])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


SAID = "<h1>Hi</h1>\n\n\tyou  two <mask> <unused7>[multimodal]<think>\n<TD><td ><td>"


def test_which_tokens_are_text():
    assert declares().convert_ids_to_tokens(sorted(control(declares()).text)) == list(TEXTS)
    assert not control(declares(special=True)).text
    assert not any(control(make()).text for make in EVERY)


def test_text_becomes_the_tokens_that_the_model_has_for_it_and_no_others():
    tokenizer = declares()
    ids = plain_encoder(tokenizer)(SAID)
    added = [tokenizer.convert_ids_to_tokens(i) for i in ids if i in tokenizer.get_added_vocab().values()]
    assert added == ["<h1>", "</h1>", "\n\n", "\t", "  ", "\n", "<td>"]
    assert tokenizer.decode(ids) == SAID


def test_a_conversation_has_the_tokens_of_its_template():
    tokenizer = declares()
    talk = [{"role": "user", "content": "a\n\nb\tc <h1>d</h1>  e"}, {"role": "assistant", "content": "<td>\nf"}]
    encoded = encode(talk, tokenizer)
    (newline,) = plain_encoder(tokenizer)("\n")
    assert newline == tokenizer.convert_tokens_to_ids("\n")
    assert encoded.input_ids.count(newline) == 5
    assert read_back(encoded.input_ids, tokenizer) == talk


def test_an_end_token_is_not_text_even_if_it_looks_so():
    backend = Tokenizer.from_str(qwen().backend_tokenizer.to_str())
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in ("<s>", "</s>")])
    named = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    assert not control(named).text
    assert not {named.bos_token_id, named.eos_token_id} & set(plain_encoder(named)("a<s>b</s>"))
    unnamed = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert len(control(unnamed).text) == 2


def test_a_token_that_takes_the_spaces_beside_it_is_not_text():
    backend = Tokenizer.from_str(qwen().backend_tokenizer.to_str())
    backend.add_tokens([AddedToken("<b>", special=False, normalized=False, lstrip=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert not control(tokenizer).text
    assert tokenizer.decode(plain_encoder(tokenizer)("a  <b>")) == "a  <b>"


def test_a_tokenizer_that_declares_line_breaks_is_loaded(tmp_path):
    declares().save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert plain_encoder(loaded)(SAID) == plain_encoder(declares())(SAID)


@pytest.mark.parametrize("name", NAMES)
def test_published_tokenizers_write_plain_text_as_they_always_do(name):
    text = "Hello\n\n\nworld,\t\tit's 1234  <table><tr>a</tr></table>   end <B> 今天 \n\n"
    own = as_published(name)(text, add_special_tokens=False)["input_ids"] if name != "qwen1" else None
    ids = plain_encoder(real_tokenizer(name))(text)
    assert own is None or ids == own
    assert real_tokenizer(name).decode(ids, clean_up_tokenization_spaces=False) == text


def test_gemmas_text_tokens():
    gemma = real_tokenizer("gemma3")
    texts = {gemma.convert_ids_to_tokens(i) for i in control(gemma).text}
    assert {"\n", "\n\n", "\t", "▁▁", "<h1>", "</s>", "<td>"} <= texts
    assert not {"<mask>", "[multimodal]", "<unused0>", "<bos>", "<eos>", "<start_of_turn>", "<bbox>"} & texts


def lacking(*letters: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without the tokens of some bytes."""
    spec = json.loads(qwen().backend_tokenizer.to_str())
    for letter in letters:
        del spec["model"]["vocab"][letter]
    spec["model"]["merges"] = [pair for pair in spec["model"]["merges"] if not set("".join(pair)) & set(letters)]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)))


def test_a_character_that_the_tokenizer_has_no_token_for_is_refused_and_does_not_vanish():
    encoder = plain_encoder(lacking("Ą", "ñ"))  # how a byte-level vocabulary writes the bytes 0x04 and 0xF1
    assert encoder.lost("a\x04b \U00050000 é") == ["\x04", "\U00050000"]
    with pytest.raises(RecordError, match=r"^the tokenizer has no token for '\\x04', which would be lost; remove it$"):
        encoder.batch(["whole", "a\x04b"])
    assert plain_encoder(qwen()).lost("a\x04b \U00050000") == []


def test_smollm2_has_no_token_for_some_characters():
    assert plain_encoder(real_tokenizer("smollm2")).lost("a\x04 \U00050000 é今") == ["\x04", "\U00050000"]
