"""Rows made of files: what stages train on, and the account of what became of every record."""

import json
from itertools import chain
from pathlib import Path

import pytest

from chatml import IGNORE, control, encode, plain_encoder
from engine.data.report import Report
from engine.data.rows import conversation_rows, pair_rows, prompt_rows, text_rows
from recipes import RecipeError
from recipes.sections import ChatML, Run
from sft.recipe import SFT, Data
from tests.tokenizers_for_tests import llama, qwen, words

SHARED = Path(__file__).parents[2] / "shared/data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")


def recipe(*, mask="assistant", tools="hermes", system=None, too_long="cut_oldest_turns", fields=None, seed=0):
    data = Data(train="", fields=fields or {}, too_long=too_long)
    return SFT(chatml=ChatML(mask=mask, tools=tools, system=system), data=data, run=Run(dir="", seed=seed))


def talk(*said):
    roles = ["user", "assistant"] * len(said)
    return [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]


SHORT, LONG = talk("Hi", "Yes."), talk("a" * 40, "b" * 40, "Hi", "Yes.")
SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.fixture
def file(tmp_path):
    def write(*records, name="data.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(path)

    return write


def refusal(make, *args, **options):
    with pytest.raises(RecipeError) as error:
        make(*args, qwen(), **options)
    return str(error.value)


TRAIN = {"key": "data.train", "max_length": 64}
PROMPTS = {"key": "data.prompts", "max_prompt_tokens": 64}


# Conversations


@pytest.mark.parametrize("mask", ["assistant", "qwen", "all"])
@pytest.mark.parametrize("make", [qwen, llama])
def test_conversation_rows_are_what_encode_returns(file, make, mask):
    path = file({"messages": SHORT}, {"prompt": "Hi", "response": "No.", "system": "Be kind."})
    rows, report = conversation_rows(path, recipe(mask=mask), make(), **TRAIN)
    expected = [encode(talk, make(), mask=mask) for talk in (SHORT, [SYSTEM, *talk("Hi", "No.")])]
    assert rows == [{"input_ids": one.input_ids, "labels": one.labels} for one in expected]
    assert (report.read, report.kept, report.rows, report.cut, dict(report.dropped)) == (2, 2, 2, 0, {})
    assert report.tokens == sum(len(one.input_ids) for one in expected)
    assert report.trained_tokens == sum(label != IGNORE for one in expected for label in one.labels)


def test_the_recipes_system_prompt_goes_before_conversations_without_one(file):
    other = {"role": "system", "content": "Be rude."}
    path = file({"messages": SHORT}, {"messages": [other, *SHORT]})
    rows, _ = conversation_rows(path, recipe(system="Be kind."), qwen(), **TRAIN)
    assert [row["input_ids"] for row in rows] == [encode([s, *SHORT], qwen()).input_ids for s in (SYSTEM, other)]


@pytest.mark.parametrize("tools", ["hermes", "react"])
def test_tools_are_written_as_the_recipe_says(file, tools):
    call = {"from": "function_call", "value": '{"name": "add", "arguments": {}}'}
    said = [{"from": "human", "value": "?"}, call, {"from": "observation", "value": "7"}, {"from": "gpt", "value": "7"}]
    path = file({"conversations": said, "tools": '[{"name": "add"}]'})
    rows, _ = conversation_rows(path, recipe(tools=tools), qwen(), key="data.train", max_length=2048)
    text = qwen().decode(rows[0]["input_ids"])
    assert ("<tool_response>\n7\n</tool_response>" in text) == (tools == "hermes")
    assert ("Observation: 7\nThought: I now know" in text) == (tools == "react")


def test_fields_rename(file):
    rows, _ = conversation_rows(
        file({"question": "Hi", "answer": "Yes."}), recipe(fields={"question": "prompt", "answer": "response"}),
        qwen(), **TRAIN,
    )  # fmt: skip
    assert rows[0]["input_ids"] == encode(SHORT, qwen()).input_ids


def test_a_long_conversation_loses_its_oldest_exchange_and_is_counted(file):
    rows, report = conversation_rows(file({"messages": [SYSTEM, *LONG]}), recipe(), qwen(), **TRAIN)
    whole, left = encode([SYSTEM, *LONG], qwen()), encode([SYSTEM, *SHORT], qwen())
    assert rows == [{"input_ids": left.input_ids, "labels": left.labels}]
    assert (report.kept, report.cut) == (1, 1)
    assert report.lost_tokens == len(whole.input_ids) - len(left.input_ids)


@pytest.mark.parametrize("make", [qwen, llama])
@pytest.mark.parametrize("too_long", ["cut_oldest_turns", "cut_left"])
@pytest.mark.parametrize("room", range(22, 90, 3))
def test_no_answer_is_trained_on_without_its_end_or_its_beginning(file, make, too_long, room):
    tokenizer = make()
    record = {"messages": talk("What?", "b" * 12, "And?", "cd" * 8, "So?", "e.")}
    short = [{"messages": SHORT}] * 2  # so that the long one may be dropped
    rows, report = conversation_rows(
        file(record, *short), recipe(too_long=too_long), tokenizer, key="data.train", max_length=room
    )
    plain, ids = plain_encoder(tokenizer), control(tokenizer)
    answers = [[*plain(text), ids.im_end] for text in ("b" * 12, "cd" * 8, "e.")]
    end = answers[-1]
    for row in rows[: len(rows) - 2]:
        assert len(row["input_ids"]) <= room
        trained = [label for label in row["labels"] if label != IGNORE]
        assert trained in [list(chain.from_iterable(answers[first:])) for first in range(3)]
        assert row["input_ids"][-1 - len(end) : -1] == end
        assert row["input_ids"].count(ids.bos) == int(make is llama)
    assert report.kept + report.dropped.total() == report.read == 3


def test_drop_drops_and_error_names_the_record(file):
    path = file({"messages": SHORT}, {"messages": LONG})
    rows, report = conversation_rows(path, recipe(too_long="drop"), qwen(), **TRAIN)
    assert (len(rows), dict(report.dropped)) == (1, {"too long": 1})
    length = len(encode(LONG, qwen()).input_ids)
    assert refusal(conversation_rows, path, recipe(too_long="error"), **TRAIN) == (
        f"{path}:2: {length} tokens, and data.max_length is 64; raise it, shorten the record, or choose another "
        "data.too_long: cut_oldest_turns, cut_left or drop"
    )


def test_a_conversation_with_nothing_to_train_on_is_counted(file):
    silent = [SHORT[0], {**SHORT[1], "train": False}]
    rows, report = conversation_rows(file({"messages": silent}, {"messages": SHORT}), recipe(), qwen(), **TRAIN)
    assert (len(rows), dict(report.dropped)) == (1, {"nothing to train on": 1})


def test_less_than_half_kept_is_an_error(file):
    path = file({"messages": talk("a" * 80, "b" * 80)}, {"messages": talk("a" * 90, "b")}, {"messages": SHORT})
    assert refusal(conversation_rows, path, recipe(), **TRAIN) == (
        "data.train: only 1 of 3 records are kept (2 too long); raise data.max_length, or choose another data.too_long"
    )


def test_half_kept_is_none(file):
    path = file({"messages": talk("a" * 80, "b" * 80)}, {"messages": SHORT})
    _, report = conversation_rows(path, recipe(), qwen(), **TRAIN)
    assert report.kept == 1


def test_a_bad_record_is_named_with_file_and_line(file):
    path = file({"messages": SHORT}, {"messages": [{"role": "robot", "content": ""}]})
    assert refusal(conversation_rows, path, recipe(), **TRAIN) == (
        f"{path}:2: 'messages', message 1: unknown role 'robot'; use system, user, assistant, tool"
    )


def test_text_that_a_tokenizer_cannot_write_is_named_with_file_and_line(file):
    path = file({"prompt": "Hi", "response": "Hi"}, {"prompt": "Hi", "response": "Yes."})
    with pytest.raises(RecipeError) as error:
        conversation_rows(path, recipe(), words(), **TRAIN)
    assert str(error.value).startswith(f"{path}:2: the text would become the tokenizer's own token '[UNK]'")


def test_fields_are_checked(file):
    path = file({"messages": SHORT})
    known = "messages, conversations, prompt, response, chosen, rejected, instruction, input, output, history, system"
    assert refusal(conversation_rows, path, recipe(fields={"question": "query"}), **TRAIN) == (
        f"data.fields.question is query; it must be one of {known}, tools, text"
    )
    assert refusal(conversation_rows, path, recipe(fields={"a": "prompt", "b": "prompt"}), **TRAIN) == (
        "data.fields makes two fields prompt; leave one of them out"
    )


def test_several_weighted_sources(file):
    sources = [
        {"path": file({"messages": talk("a", "1")}, name="a.jsonl"), "weight": 2},
        file(*[{"messages": talk("b", "2")}] * 4, name="b.jsonl"),
    ]
    rows, report = conversation_rows(sources, recipe(), qwen(), **TRAIN)
    assert [qwen().decode(row["input_ids"])[17:18] for row in rows] == ["b", "a", "b", "b", "a", "b"]
    assert report.read == 6


# Text


@pytest.mark.parametrize("make", [qwen, llama])
@pytest.mark.parametrize("room", [16, 20, 1000])
def test_long_text_is_split_and_nothing_of_it_lost(file, make, room):
    text = "The lazy dog. <|endoftext|> 今天 " * 5
    rows, report = text_rows(file({"text": text}), recipe(), make(), key="data.pretrain", max_length=room)
    ids = control(make())
    document = [*([] if ids.bos is None else [ids.bos]), *plain_encoder(make())(text), ids.endoftext]
    assert list(chain.from_iterable(row["input_ids"] for row in rows)) == document
    assert document.count(ids.endoftext) == 1
    assert all(1 < len(row["input_ids"]) <= room for row in rows)
    assert all(row["labels"] == [IGNORE, *row["input_ids"][1:]] for row in rows)
    assert (report.kept, report.rows, report.lost_tokens) == (1, len(rows), 0)
    assert report.trained_tokens == len(document) - len(rows)


def test_text_among_conversations_is_trained_on_whole(file):
    rows, _ = conversation_rows(file({"text": "Once."}, {"messages": SHORT}), recipe(), qwen(), **TRAIN)
    text = [*plain_encoder(qwen())("Once."), control(qwen()).endoftext]
    assert {"input_ids": text, "labels": [IGNORE, *text[1:]]} in rows
    assert len(rows) == 2


def test_empty_text_is_counted(file):
    rows, report = text_rows(file({"text": ""}, {"text": "x"}), recipe(), qwen(), key="data.pretrain", max_length=16)
    assert (len(rows), dict(report.dropped)) == (1, {"nothing to train on": 1})


# Comparisons


@pytest.mark.parametrize("make", [qwen, llama])
def test_pair_rows_end_at_the_end_token(file, make):
    rows, report = pair_rows(file({"prompt": "Hi", "chosen": "Yes.", "rejected": "No!"}), recipe(), make(), **TRAIN)
    newline = len(plain_encoder(make())("\n"))
    expected = [encode(talk("Hi", answer), make()).input_ids[:-newline] for answer in ("Yes.", "No!")]
    assert rows == [{"chosen_ids": expected[0], "rejected_ids": expected[1]}]
    assert all(ids[-1] == control(make()).im_end for ids in expected)
    assert report.tokens == len(expected[0]) + len(expected[1])


def test_equal_pairs_are_dropped_and_counted(file):
    pair = {"prompt": "Hi", "chosen": "Yes.", "rejected": "No!"}
    rows, report = pair_rows(file(pair, {**pair, "rejected": "Yes."}), recipe(), qwen(), **TRAIN)
    assert (len(rows), dict(report.dropped)) == (1, {"equal sides": 1})


@pytest.mark.parametrize("too_long", ["cut_oldest_turns", "cut_left"])
@pytest.mark.parametrize("make", [qwen, llama])
def test_pairs_are_cut_alike(file, make, too_long):
    history, newline = LONG[:2], len(plain_encoder(make())("\n"))
    record = {"prompt": [*history, SHORT[0]], "chosen": "Yes.", "rejected": "No, " * 4}
    sides = [
        encode([*history, *talk("Hi", record[side])], make()).input_ids[:-newline] for side in ("chosen", "rejected")
    ]
    room = max(map(len, sides)) - 7
    rows, report = pair_rows(file(record), recipe(too_long=too_long), make(), key="data.train", max_length=room)
    lost = [len(side) - len(rows[0][f"{name}_ids"]) for side, name in zip(sides, ("chosen", "rejected"), strict=True)]
    exchange = len(encode(history, make()).input_ids) - int(make is llama)
    assert lost == ([7, 7] if too_long == "cut_left" else [exchange, exchange])
    bos = int(make is llama)
    assert rows[0]["chosen_ids"] == sides[0][:bos] + sides[0][bos + lost[0] :]
    assert rows[0]["rejected_ids"] == sides[1][:bos] + sides[1][bos + lost[1] :]
    assert (report.cut, report.lost_tokens) == (1, sum(lost))


def test_sides_that_end_in_a_question_end_with_their_last_answer(file):
    chosen = talk("Hi", "Yes.", "Why?")
    rows, _ = pair_rows(file({"chosen": chosen, "rejected": talk("Hi", "No!")}), recipe(), qwen(), **TRAIN)
    assert qwen().decode(rows[0]["chosen_ids"]).endswith("assistant\nYes.<|im_end|>")


# Prompts


@pytest.mark.parametrize("make", [qwen, llama])
def test_prompt_rows_end_where_the_answer_begins(file, make):
    record = {"messages": [SYSTEM, *SHORT], "gold": {"task": "greet"}}
    rows, report = prompt_rows(file(record), recipe(), make(), **PROMPTS)
    prompt = [SYSTEM, SHORT[0]]
    ids = encode(prompt, make(), add_generation_prompt=True).input_ids
    assert rows == [{"input_ids": ids, "messages": prompt, "record": record}]
    assert report.line("prompts") == f"prompts: 1 of 1 records kept, 0 dropped; {len(ids)} tokens"


def test_prompts_are_cut_to_their_newest_turns(file):
    record = {"messages": [SYSTEM, *LONG]}
    rows, report = prompt_rows(file(record), recipe(), qwen(), **PROMPTS)
    assert rows[0]["messages"] == [SYSTEM, SHORT[0]]
    assert rows[0]["input_ids"] == encode([SYSTEM, SHORT[0]], qwen(), add_generation_prompt=True).input_ids
    assert rows[0]["record"] == record
    assert report.cut == 1


def test_prompts_cut_left_keep_the_newest_tokens(file):
    whole = encode(LONG[:3], qwen(), add_generation_prompt=True).input_ids
    cut_left = recipe(too_long="cut_left")
    rows, _ = prompt_rows(file({"messages": LONG}), cut_left, qwen(), key="data.prompts", max_prompt_tokens=40)
    assert rows[0]["input_ids"] == whole[-40:]
    assert rows[0]["messages"] == LONG[1:3]  # what was cut through is still shown whole


def test_long_prompts_are_named_by_their_own_key(file):
    path = file({"prompt": "a" * 80})
    assert refusal(prompt_rows, path, recipe(), **PROMPTS) == (
        "data.prompts: only 0 of 1 records are kept (1 too long); "
        "raise data.max_prompt_tokens, or choose another data.too_long"
    )
    length = len(encode(talk("a" * 80), qwen(), add_generation_prompt=True).input_ids)
    assert refusal(prompt_rows, path, recipe(too_long="error"), **PROMPTS).startswith(
        f"{path}:1: {length} tokens, and data.max_prompt_tokens is 64; "
    )


# The account


def test_the_account_in_one_line_and_in_the_run_folder():
    report = Report(read=1000)
    report.keep(tokens=90, whole=120, trained=40)
    report.keep(tokens=5000, whole=5000, trained=4999, rows=3)
    report.drop("too long", 700)
    report.drop("too long", 300)
    report.drop("equal sides", 1)
    assert report.line("train") == (
        "train: 2 of 1,000 records kept (1 cut) in 4 rows, 3 dropped (2 too long, 1 equal sides); "
        "5,090 tokens, 5,039 trained on, 1,031 lost"
    )
    assert json.loads(json.dumps(report.as_dict())) == {
        "read": 1000,
        "kept": 2,
        "cut": 1,
        "dropped": {"too long": 2, "equal sides": 1},
        "rows": 4,
        "tokens": 5090,
        "trained_tokens": 5039,
        "lost_tokens": 1031,
    }


# Published data


@needs_data
@pytest.mark.parametrize("tools", ["hermes", "react"])
def test_glaive_trains_on_what_the_assistant_says(tools):
    path = str(SHARED / "glaive_toolcall_en.json")
    rows, report = conversation_rows(path, recipe(tools=tools), qwen(), key="data.train", max_length=16384)
    assert report.kept == 300
    trained = "".join(qwen().decode([label for label in row["labels"] if label != IGNORE]) for row in rows)
    assert trained.count("<tool_call>") == (211 if tools == "hermes" else 0)
    assert trained.count("\nObservation:") == (211 if tools == "react" else 0)
    assert "tool_response" not in trained


@needs_data
@pytest.mark.parametrize(
    ("file", "make"),
    [
        ("alpaca_en.json", conversation_rows),
        ("alpaca_zh.json", conversation_rows),
        ("hh_helpful_online.jsonl.gz", pair_rows),
        ("hh_helpful_rejection_sampled.jsonl.gz", pair_rows),
        ("hh_harmless_base.jsonl.gz", pair_rows),
        ("preference_en_sharegpt.json", pair_rows),
        ("hh_harmless_base.jsonl.gz", prompt_rows),
    ],
)
def test_published_sets_are_kept(file, make):
    """The test tokenizer writes about a token a character and a half; a real one needs a third of this length."""
    limit = {"max_prompt_tokens": 2048} if make is prompt_rows else {"max_length": 4096}
    _, report = make({"path": str(SHARED / file), "take": 500}, recipe(), qwen(), key="data.train", **limit)
    assert report.kept >= 0.95 * report.read > 0
