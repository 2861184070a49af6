"""The first Qwen's vocabulary as a fast tokenizer: the report's tokens, and the ids that tiktoken gives."""

import base64
import json
import random
import unicodedata

import pytest
import tiktoken

from chatml import control, plain_encoder
from engine.errors import RunError
from engine.models.tiktoken_vocabulary import read_ranks
from engine.models.tokenizer import load_tokenizer
from tests.support.paths import DATA
from tests.support.real_tokenizers import fetched, real_tokenizer

# As in Qwen's published tokenization_qwen.py.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIECES = [
    "Hello", " world", "'S",
    "'ll", "2024", " 3.5", "今天天气", "很好，", "مرحبا", "naïve", "e\u0301", "👩\u200d🚀", "\u200b",
    "\n\n", " \n", "\r\n", "   ", "\t", "</", "_id", "==", "…", "ǅ", "\ufeff", "<|im_end|>", "İ", "한국어", "ﬁ",
]  # fmt: skip


def texts(count):
    """Return `count` texts: published ones in two languages if available, and random joins of PIECES."""
    found = []
    for name in ("alpaca_en.json", "alpaca_zh.json"):
        if (DATA / name).exists():
            rows = json.loads((DATA / name).read_text(encoding="utf-8"))
            found += [row["output"][:400] for row in rows[: count // 4]]
    rng = random.Random(14)
    return found + ["".join(rng.choices(PIECES, k=rng.randint(1, 24))) for _ in range(count - len(found))]


def test_the_tokenizer_has_the_reports_tokens():
    tokenizer = real_tokenizer("qwen1")
    ids = control(tokenizer)
    assert len(tokenizer) == 151_851
    assert (ids.endoftext, ids.im_start, ids.im_end, ids.bos) == (151643, 151644, 151645, None)
    assert tokenizer.convert_tokens_to_ids(["<|extra_0|>", "<|extra_204|>"]) == [151646, 151850]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (151643, 151643)


def test_text_that_spells_a_control_token_is_encoded_as_in_the_report():
    tokenizer = real_tokenizer("qwen1")
    safe = plain_encoder(tokenizer)('print("<|endoftext|>")')
    assert safe == [1350, 9639, 91, 8691, 723, 427, 91, 82598]
    assert tokenizer('print("<|endoftext|>")')["input_ids"] == [1350, 445, 151643, 899]


def test_ids_equal_tiktokens_on_2000_texts():
    ranks = read_ranks(fetched("qwen1") / "qwen.tiktoken")
    ids_of = tiktoken.Encoding("qwen", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}).encode_ordinary
    chosen = texts(2000)
    ours = plain_encoder(real_tokenizer("qwen1")).batch(chosen)
    for text, ids in zip(chosen, ours, strict=True):
        assert ids == ids_of(unicodedata.normalize("NFC", text)), text


def test_the_tokenizer_is_saved_as_a_fast_tokenizer(tmp_path):
    tokenizer = real_tokenizer("qwen1")
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    assert again.get_vocab() == tokenizer.get_vocab()
    text = " ".join(PIECES)
    assert plain_encoder(again)(text) == plain_encoder(tokenizer)(text)
    assert again.decode(plain_encoder(again)(text)) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("content", [b"", base64.b64encode(b"a") + b" 0\n", b"version https://git-lfs\n"])
def test_an_invalid_qwen_tiktoken_is_reported_in_one_line(content, tmp_path):
    (tmp_path / "qwen.tiktoken").write_bytes(content)
    with pytest.raises(RunError) as error:
        load_tokenizer(str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path}: {tmp_path / 'qwen.tiktoken'} does not list 151,643 tokens, as the first Qwen's qwen.tiktoken "
        "does; download it again"
    )
