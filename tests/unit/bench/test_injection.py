"""Random text on published tokenizers never becomes a control token and never changes (seed: `PLUMBLINE_SEED`)."""

import os

import pytest

from bench import injection
from bench.injection import encodable, main, random_texts, try_strings
from chatml import IGNORE, control, plain_encoder
from chatml.encode import EncodedTurn
from tests.support.real_tokenizers import NAMES, real_tokenizer
from tests.support.tokenizers import qwen, sentencepiece

SEED = int(os.environ.get("PLUMBLINE_SEED", "14"))
STRINGS = 10_000


@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_random_strings_are_not_injected_or_changed(name):
    print(f"seed {SEED}: PLUMBLINE_SEED={SEED} repeats this")
    found = list(try_strings(real_tokenizer(name), SEED, STRINGS))
    assert sum(batch.strings for batch in found) == STRINGS
    assert [text for batch in found for text in batch.injected] == []
    assert [text for batch in found for text in batch.changed] == []


def test_encoding_with_the_tokenizers_own_call_is_reported_as_injection(monkeypatch):
    def encode_without_chatml(conversations, tokenizer, mask):
        ids = control(tokenizer)
        for turns in conversations:
            rows = []
            for turn in turns:
                inside = tokenizer(f"{turn.role}\n{turn.text}")["input_ids"]
                tokens = [ids.im_start, *inside, ids.im_end, *tokenizer("\n")["input_ids"]]
                rows.append(EncodedTurn(turn, tokens, [IGNORE] * len(tokens)))
            yield rows

    monkeypatch.setattr(injection, "encode_turns", encode_without_chatml)
    (found,) = try_strings(qwen(), SEED, 1000)
    assert len(found.injected) > 300
    assert not found.changed


def test_a_tokenizer_that_changes_text_is_reported(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(injection, "normaliser", lambda backend: lambda text: text.replace("\u200b", "") + " ")
    qwen().save_pretrained(tmp_path)
    assert main([tmp_path], 30, SEED) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"seed {SEED}, 30 strings per tokenizer"
    assert printed[1].startswith(f"{tmp_path.name}: 30 strings, 0 injected, 30 changed, ")
    assert printed[2].startswith("  changed: '")


def test_the_same_seed_makes_the_same_strings():
    names = ["<mark>", "<|im_end|>"]
    assert random_texts(names, 1, 0) == random_texts(names, 1, 0)
    assert random_texts(names, 1, 0) != random_texts(names, 2, 0)
    assert random_texts(names, 1, 0) != random_texts(names, 1, 1)
    joined = "".join(random_texts(names, 1, 0))
    for piece in ("<mark>", "mark>", "<mar", "<|im_end|>", "<｜im_end｜>", "\u200b", "e\u0301", "今天"):
        assert piece in joined, piece


def test_characters_without_a_token_are_removed_from_the_strings():
    assert encodable("a\x04b \U00050000é", plain_encoder(real_tokenizer("smollm2"))) == "ab é"
    assert encodable("a\x04b \U00050000é", plain_encoder(sentencepiece())) == "a\x04b \U00050000é"
