"""Conversations and plain text as rows for a causal model, and the report on their records."""

from itertools import chain

import pytest

from chatml import IGNORE, control, encode, plain_encoder
from config import RecipeError
from tests.support.rows_setting import (
    LONG,
    SHORT,
    SYSTEM,
    TRAIN,
    conversation_rows,
    pair_rows,
    recipe,
    refusal,
    talk,
    text_rows,
)
from tests.support.tokenizers import llama, qwen, words

# Conversations


@pytest.mark.parametrize("mask", ["assistant", "qwen", "all"])
@pytest.mark.parametrize("make", [qwen, llama])
def test_conversation_rows_equal_encode(file, make, mask):
    path = file({"messages": SHORT}, {"prompt": "Hi", "response": "No.", "system": "Be kind."})
    rows, report = conversation_rows(path, recipe(mask=mask), make(), **TRAIN)
    expected = [encode(talk, make(), mask=mask) for talk in (SHORT, [SYSTEM, *talk("Hi", "No.")])]
    assert list(rows) == [{"input_ids": one.input_ids, "labels": one.labels} for one in expected]
    assert (report.read, report.kept, report.rows, report.cut, dict(report.dropped)) == (2, 2, 2, 0, {})
    assert report.tokens == sum(len(one.input_ids) for one in expected)
    assert report.trained_tokens == sum(label != IGNORE for one in expected for label in one.labels)


def test_chatml_system_is_added_to_conversations_without_a_system_turn(file):
    other = {"role": "system", "content": "Be rude."}
    path = file({"messages": SHORT}, {"messages": [other, *SHORT]})
    rows, _ = conversation_rows(path, recipe(system="Be kind."), qwen(), **TRAIN)
    assert [row["input_ids"] for row in rows] == [encode([s, *SHORT], qwen()).input_ids for s in (SYSTEM, other)]


@pytest.mark.parametrize("tools", ["hermes", "react"])
def test_tool_calls_are_rendered_in_the_recipes_format(file, tools):
    call = {"from": "function_call", "value": '{"name": "add", "arguments": {}}'}
    chat = [{"from": "human", "value": "?"}, call, {"from": "observation", "value": "7"}, {"from": "gpt", "value": "7"}]
    path = file({"conversations": chat, "tools": '[{"name": "add"}]'})
    rows, _ = conversation_rows(path, recipe(tools=tools), qwen(), key="data.train", max_length=2048)
    text = qwen().decode(rows[0]["input_ids"])
    assert ("<tool_response>\n7\n</tool_response>" in text) == (tools == "hermes")
    assert ("Observation: 7\nThought: I now know" in text) == (tools == "react")


def test_data_fields_renames_fields(file):
    rows, _ = conversation_rows(
        file({"question": "Hi", "answer": "Yes."}), recipe(fields={"question": "prompt", "answer": "response"}),
        qwen(), **TRAIN,
    )  # fmt: skip
    assert rows[0]["input_ids"] == encode(SHORT, qwen()).input_ids


def test_a_long_conversation_loses_its_oldest_exchange_and_is_counted(file):
    rows, report = conversation_rows(file({"messages": [SYSTEM, *LONG]}), recipe(), qwen(), **TRAIN)
    whole, kept = encode([SYSTEM, *LONG], qwen()), encode([SYSTEM, *SHORT], qwen())
    assert list(rows) == [{"input_ids": kept.input_ids, "labels": kept.labels}]
    assert (report.kept, report.cut) == (1, 1)
    assert report.cut_tokens == len(whole.input_ids) - len(kept.input_ids)


@pytest.mark.parametrize("make", [qwen, llama])
@pytest.mark.parametrize("too_long", ["cut_oldest_turns", "cut_left"])
@pytest.mark.parametrize("limit", range(22, 90, 3))
def test_only_complete_answers_are_trained_on_after_cutting(file, make, too_long, limit):
    tokenizer = make()
    record = {"messages": talk("What?", "b" * 12, "And?", "cd" * 8, "So?", "e.")}
    short = [{"messages": SHORT}] * 2  # so that the long one may be dropped
    rows, report = conversation_rows(
        file(record, *short), recipe(too_long=too_long), tokenizer, key="data.train", max_length=limit
    )
    plain, ids = plain_encoder(tokenizer), control(tokenizer)
    answers = [[*plain(text), ids.im_end] for text in ("b" * 12, "cd" * 8, "e.")]
    end = answers[-1]
    for row in list(rows)[:-2]:
        assert len(row["input_ids"]) <= limit
        trained = [label for label in row["labels"] if label != IGNORE]
        assert trained in [list(chain.from_iterable(answers[first:])) for first in range(3)]
        assert row["input_ids"][-1 - len(end) : -1] == end
        assert row["input_ids"].count(ids.bos) == int(make is llama)
    assert report.kept + report.dropped.total() == report.read == 3


def test_too_long_drop_drops_and_error_names_the_record(file):
    path = file({"messages": SHORT}, {"messages": LONG})
    rows, report = conversation_rows(path, recipe(too_long="drop"), qwen(), **TRAIN)
    assert (len(rows), dict(report.dropped)) == (1, {"too long": 1})
    length = len(encode(LONG, qwen()).input_ids)
    assert refusal(conversation_rows, path, recipe(too_long="error"), **TRAIN) == (
        f"{path}:2: {length} tokens, and data.max_length is 64; raise it, shorten the record, or choose another "
        "data.too_long: cut_oldest_turns, cut_left or drop"
    )


def test_a_conversation_without_trained_tokens_is_dropped_and_counted(file):
    untrained = [SHORT[0], {**SHORT[1], "train": False}]
    rows, report = conversation_rows(file({"messages": untrained}, {"messages": SHORT}), recipe(), qwen(), **TRAIN)
    assert (len(rows), dict(report.dropped)) == (1, {"nothing to train on": 1})


def test_keeping_fewer_than_half_is_an_error(file):
    path = file({"messages": talk("a" * 80, "b" * 80)}, {"messages": talk("a" * 90, "b")}, {"messages": SHORT})
    assert refusal(conversation_rows, path, recipe(), **TRAIN) == (
        "data.train: only 1 of 3 records are kept (2 too long); raise data.max_length, or choose another data.too_long"
    )


def test_keeping_half_is_no_error(file):
    path = file({"messages": talk("a" * 80, "b" * 80)}, {"messages": SHORT})
    _, report = conversation_rows(path, recipe(), qwen(), **TRAIN)
    assert report.kept == 1


def test_text_that_a_tokenizer_cannot_encode_is_reported_with_file_and_line(file):
    path = file({"prompt": "Hi", "response": "Hi"}, {"prompt": "Hi", "response": "Yes."})
    with pytest.raises(RecipeError) as error:
        conversation_rows(path, recipe(), words(), **TRAIN)
    assert str(error.value).startswith(f"{path}:2: the text would be encoded as the tokenizer's added token '[UNK]'")


def test_invalid_data_fields_are_refused(file):
    path = file({"messages": SHORT})
    known = "messages, conversations, prompt, response, chosen, rejected, instruction, input, output, history, system"
    assert refusal(conversation_rows, path, recipe(fields={"question": "query"}), **TRAIN) == (
        f"data.fields.question is query; it must be one of {known}, tools, text, margin, or null to leave question out"
    )
    assert refusal(conversation_rows, path, recipe(fields={"a": "prompt", "b": "prompt"}), **TRAIN) == (
        "data.fields renames two fields to prompt; leave one of them out"
    )


def test_a_field_set_to_null_is_ignored_in_every_source(file):
    """`chosen` and `rejected` hold whole conversations, so that `prompt` contradicts them."""
    record = {"prompt": "Read this:", "chosen": talk("Hi", "Yes."), "rejected": talk("Hi", "No.")}
    plain = {name: record[name] for name in ("chosen", "rejected")}
    sources = [file(record, name="a.jsonl"), file(record, name="b.jsonl")]
    rows, _ = pair_rows(sources, recipe(fields={"prompt": None}), qwen(), **TRAIN)
    expected, _ = pair_rows([file(plain, name="c.jsonl")] * 2, recipe(), qwen(), **TRAIN)
    assert rows.to_list() == expected.to_list()
    assert refusal(pair_rows, sources, recipe(), **TRAIN).startswith(f"{sources[0]}:1: 'chosen' neither begins")


def test_several_fields_may_be_set_to_null(file):
    record = {"messages": SHORT, "system": "Be kind.", "tools": "broken"}
    rows, _ = conversation_rows(file(record), recipe(fields={"tools": None, "system": None}), qwen(), **TRAIN)
    expected, _ = conversation_rows(file({"messages": SHORT}), recipe(), qwen(), **TRAIN)
    assert rows.to_list() == expected.to_list()


def test_weighted_sources_are_interleaved(file):
    sources = [
        {"path": file({"messages": talk("a", "1")}, name="a.jsonl"), "weight": 2},
        file(*[{"messages": talk("b", "2")}] * 4, name="b.jsonl"),
    ]
    rows, report = conversation_rows(sources, recipe(), qwen(), **TRAIN)
    assert [qwen().decode(row["input_ids"])[17:18] for row in rows] == ["b", "a", "b", "b", "a", "b"]
    assert report.read == 5  # a record counts once, however often its row is repeated


# Text


@pytest.mark.parametrize("make", [qwen, llama])
@pytest.mark.parametrize("limit", [16, 20, 1000])
def test_long_text_is_split_into_rows_without_losing_a_token(file, make, limit):
    text = "The lazy dog. <|endoftext|> 今天 " * 5
    rows, report = text_rows(file({"text": text}), recipe(), make(), key="data.pretrain", max_length=limit)
    ids = control(make())
    document = [*([] if ids.bos is None else [ids.bos]), *plain_encoder(make())(text), ids.endoftext]
    assert list(chain.from_iterable(row["input_ids"] for row in rows)) == document
    assert document.count(ids.endoftext) == 1
    assert all(1 < len(row["input_ids"]) <= limit for row in rows)
    assert all(row["labels"] == [IGNORE, *row["input_ids"][1:]] for row in rows)
    assert (report.kept, report.rows, report.cut_tokens) == (1, len(rows), 0)
    assert report.trained_tokens == len(document) - len(rows)


def test_every_token_of_a_text_among_conversations_is_trained_on(file):
    rows, _ = conversation_rows(file({"text": "Once."}, {"messages": SHORT}), recipe(), qwen(), **TRAIN)
    text = [*plain_encoder(qwen())("Once."), control(qwen()).endoftext]
    assert {"input_ids": text, "labels": [IGNORE, *text[1:]]} in rows
    assert len(rows) == 2


def test_empty_text_is_dropped_and_counted(file):
    rows, report = text_rows(file({"text": ""}, {"text": "x"}), recipe(), qwen(), key="data.pretrain", max_length=16)
    assert (len(rows), dict(report.dropped)) == (1, {"nothing to train on": 1})
