"""Comparisons as rows for a reward model, and prompts as rows for a policy."""

import json

import pytest

from chatml import control, encode, plain_encoder
from tests.support.rows_setting import (
    LONG,
    PROMPTS,
    SHORT,
    SYSTEM,
    TRAIN,
    document_rows,
    pair_rows,
    prompt_rows,
    recipe,
    refusal,
    talk,
)
from tests.support.tokenizers import llama, qwen

# Comparisons


@pytest.mark.parametrize("make", [qwen, llama])
def test_pair_rows_end_at_the_end_token(file, make):
    rows, report = pair_rows(file({"prompt": "Hi", "chosen": "Yes.", "rejected": "No!"}), recipe(), make(), **TRAIN)
    newline = len(plain_encoder(make())("\n"))
    expected = [encode(talk("Hi", answer), make()).input_ids[:-newline] for answer in ("Yes.", "No!")]
    assert list(rows) == [{"chosen_ids": expected[0], "rejected_ids": expected[1], "margin": 0.0, "subset": None}]
    assert all(ids[-1] == control(make()).im_end for ids in expected)
    assert report.tokens == len(expected[0]) + len(expected[1])


def test_the_subset_of_a_benchmark_is_kept(file):
    records = [{"prompt": "Hi", "chosen": "Yes.", "rejected": "No!", "subset": name} for name in ("chat", None, 3)]
    rows, _ = pair_rows(file(*records), recipe(), qwen(), **TRAIN)
    assert rows["subset"][:] == ["chat", None, "3"]


def test_documents_are_not_cut_to_max_length(file):
    """Perplexity encodes their text with each subject's own tokenizer."""
    texts = [{"text": "one " * 500}, {"text": ""}, {"text": "two"}]
    rows, report = document_rows(file(*texts), recipe(), qwen(), key="data.texts", max_length=16)
    assert rows["text"][:] == ["one " * 500, "two"]
    assert (report.kept, dict(report.dropped)) == (2, {"nothing to train on": 1})


def test_equal_pairs_are_dropped_and_counted(file):
    pair = {"prompt": "Hi", "chosen": "Yes.", "rejected": "No!"}
    rows, report = pair_rows(file(pair, {**pair, "rejected": "Yes."}), recipe(), qwen(), **TRAIN)
    assert (len(rows), dict(report.dropped)) == (1, {"equal sides": 1})


@pytest.mark.parametrize("too_long", ["cut_oldest_turns", "cut_left"])
@pytest.mark.parametrize("make", [qwen, llama])
def test_both_sides_of_a_pair_are_cut_by_the_same_tokens(file, make, too_long):
    history, newline = LONG[:2], len(plain_encoder(make())("\n"))
    record = {"prompt": [*history, SHORT[0]], "chosen": "Yes.", "rejected": "No, " * 4}
    sides = [
        encode([*history, *talk("Hi", record[side])], make()).input_ids[:-newline] for side in ("chosen", "rejected")
    ]
    limit = max(map(len, sides)) - 7
    rows, report = pair_rows(file(record), recipe(too_long=too_long), make(), key="data.train", max_length=limit)
    lost = [len(side) - len(rows[0][f"{name}_ids"]) for side, name in zip(sides, ("chosen", "rejected"), strict=True)]
    exchange = len(encode(history, make()).input_ids) - int(make is llama)
    assert lost == ([7, 7] if too_long == "cut_left" else [exchange, exchange])
    bos = int(make is llama)
    assert rows[0]["chosen_ids"] == sides[0][:bos] + sides[0][bos + lost[0] :]
    assert rows[0]["rejected_ids"] == sides[1][:bos] + sides[1][bos + lost[1] :]
    assert (report.cut, report.cut_tokens) == (1, sum(lost))


def test_a_question_after_the_last_answer_of_a_side_is_removed(file):
    chosen = talk("Hi", "Yes.", "Why?")
    rows, _ = pair_rows(file({"chosen": chosen, "rejected": talk("Hi", "No!")}), recipe(), qwen(), **TRAIN)
    assert qwen().decode(rows[0]["chosen_ids"]).endswith("assistant\nYes.<|im_end|>")


# Prompts


@pytest.mark.parametrize("make", [qwen, llama])
def test_prompt_rows_end_with_the_generation_prompt(file, make):
    record = {"messages": [SYSTEM, *SHORT], "gold": {"task": "greet"}}
    rows, report = prompt_rows(file(record), recipe(), make(), **PROMPTS)
    prompt = [SYSTEM, SHORT[0]]
    ids = encode(prompt, make(), add_generation_prompt=True).input_ids
    assert list(rows) == [{"input_ids": ids, "messages": json.dumps(prompt), "record": json.dumps(record)}]
    assert (report.kept, report.tokens, report.trained_tokens) == (1, len(ids), 0)


def test_prompts_are_cut_to_their_newest_turns(file):
    record = {"messages": [SYSTEM, *LONG]}
    rows, report = prompt_rows(file(record), recipe(), qwen(), **PROMPTS)
    assert json.loads(rows[0]["messages"]) == [SYSTEM, SHORT[0]]
    assert rows[0]["input_ids"] == encode([SYSTEM, SHORT[0]], qwen(), add_generation_prompt=True).input_ids
    assert json.loads(rows[0]["record"]) == record
    assert report.cut == 1


def test_prompts_cut_left_keep_the_newest_tokens(file):
    whole = encode(LONG[:3], qwen(), add_generation_prompt=True).input_ids
    cut_left = recipe(too_long="cut_left")
    rows, _ = prompt_rows(file({"messages": LONG}), cut_left, qwen(), key="data.prompts", max_prompt_tokens=40)
    assert rows[0]["input_ids"] == whole[-40:]
    assert json.loads(rows[0]["messages"]) == LONG[1:3]  # a turn cut in the middle is still shown in full


def test_errors_about_long_prompts_name_max_prompt_tokens(file):
    path = file({"prompt": "a" * 80})
    assert refusal(prompt_rows, path, recipe(), **PROMPTS) == (
        "data.prompts: only 0 of 1 records are kept (1 too long); "
        "raise data.max_prompt_tokens, or choose another data.too_long"
    )
    length = len(encode(talk("a" * 80), qwen(), add_generation_prompt=True).input_ids)
    assert refusal(prompt_rows, path, recipe(too_long="error"), **PROMPTS).startswith(
        f"{path}:1: {length} tokens, and data.max_prompt_tokens is 64; "
    )
