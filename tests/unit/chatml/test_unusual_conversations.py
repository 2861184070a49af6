"""Unusual conversations are trained on unchanged, dropped and counted, or an error."""

import json

import pytest

from chatml import IGNORE, encode
from config import RecipeError
from config.sections import Run
from engine.data.chatml_section import ChatML
from sft.recipe import SFT, Data
from tests.support.rows_setting import conversation_rows, pair_rows, prompt_rows
from tests.support.tokenizers import qwen

OPTIONS = {"key": "data.train", "max_length": 512}
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def turn(role, text):
    return {"role": role, "content": text}


TALK = [turn("user", "Hi"), turn("assistant", "Hello")]


@pytest.fixture
def rows(tmp_path):
    """Return a function that calls `make` on records and returns its rows and the counts of dropped records."""

    def rows_of(make, *records, chatml=None):
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        recipe = SFT(stage="sft", chatml=chatml or ChatML(), data=Data(train=""), run=Run(dir=""))
        options = {"key": "data.prompts", "max_prompt_tokens": 512} if make is prompt_rows else OPTIONS
        made, report = make(str(path), recipe, qwen(), **options)
        return made, dict(report.dropped)

    return rows_of


def trained_answers(row):
    """Return the texts that are trained on, one for each answer."""
    text = qwen().decode([label for label in row["labels"] if label != IGNORE])
    return text.split("<|im_end|>")[:-1]


def sides(row):
    """Return the text of both sides, without the header of the first question."""
    return tuple(qwen().decode(row[name]).removeprefix("<|im_start|>user\n") for name in ("chosen_ids", "rejected_ids"))


# Conversations


@pytest.mark.parametrize(
    ("messages", "trained"),
    [
        ([*TALK, turn("system", "Be brief."), *TALK], ["Hello", "Hello"]),
        ([*TALK, turn("system", "Be brief.")], ["Hello"]),
        ([turn("system", "a"), turn("system", "b"), *TALK], ["Hello"]),
        ([TALK[0], *TALK], ["Hello"]),
        ([*TALK, turn("assistant", "Hello again")], ["Hello", "Hello again"]),
        ([turn("user", ""), turn("assistant", "Yes?")], ["Yes?"]),
        ([turn("system", ""), *TALK], ["Hello"]),
        ([turn("user", "Hi"), turn("assistant", ""), *TALK], ["Hello"]),
        ([turn("assistant", "Hello"), turn("user", "Hi")], ["Hello"]),
        ([turn("assistant", "Hello")], ["Hello"]),
        ([*TALK, turn("user", "Bye")], ["Hello"]),
        ([turn("user", "今天天气很好"), turn("assistant", "是的！")], ["是的！"]),
    ],
)
def test_unusual_conversations_are_trained_on_unchanged(rows, messages, trained):
    """All turns are kept in order, and the assistant's are trained on."""
    (row,), dropped = rows(conversation_rows, {"messages": messages})
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    assert qwen().decode(row["input_ids"]) == turns
    assert (trained_answers(row), dropped) == (trained, {})


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "Say nothing.", "input": "", "output": ""},
        {"messages": [turn("user", "Hi"), turn("assistant", " \n")]},
        {"text": f"{HUMAN} Hi{ASSISTANT}"},
        {"messages": [TALK[0], {**TALK[1], "train": False}]},
        {"messages": [TALK[0], {**TALK[1], "weight": 0}]},
    ],
)
def test_a_record_with_nothing_to_train_on_is_dropped_and_counted(rows, record):
    made, dropped = rows(conversation_rows, record, {"messages": TALK})
    assert (len(made), dropped) == (1, {"nothing to train on": 1})


def test_only_the_last_answer_is_trained_on_under_train_on_last_answer(rows):
    talk = [*TALK, turn("user", "Bye"), turn("assistant", "Goodbye"), turn("user", "Are you there?")]
    chatml = ChatML(train_on="last_answer")
    silent = [*talk[:3], turn("assistant", "")]
    (row,), dropped = rows(conversation_rows, {"messages": talk}, {"messages": silent}, chatml=chatml)
    assert (trained_answers(row), dropped) == (["Goodbye"], {"nothing to train on": 1})


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": [TALK[0]]}, "no assistant turn, so nothing to train on: a conversation needs one"),
        ({"messages": []}, "no assistant turn, so nothing to train on: a conversation needs one"),
        (
            {"messages": [TALK[0], {**TALK[1], "reasoning_content": 3}]},
            "'messages', message 2: reasoning_content is a number; it must be a string",
        ),
        (
            {"messages": [TALK[0], turn("assistant", "a\ud83d")]},
            "'messages', message 2: content has half a surrogate pair ('\\ud83d' at character 1); "
            "it is not text: write the whole character",
        ),
    ],
)
def test_errors_name_file_and_line(rows, tmp_path, record, message):
    with pytest.raises(RecipeError) as error:
        rows(conversation_rows, {"messages": TALK}, record)
    assert str(error.value) == f"{tmp_path}/data.jsonl:2: {message}; correct it, or set data.on_bad_record=skip"


# Transcripts and comparisons


def test_markers_inside_a_turn_of_a_transcript_stay_text(rows):
    question = f"Go on:{HUMAN} I ask{HUMAN} twice"
    (row,), _ = rows(conversation_rows, {"text": f"{HUMAN} {question}{ASSISTANT} One{ASSISTANT} two"})
    expected = [turn("user", question), turn("assistant", f"One{ASSISTANT} two")]
    assert row["input_ids"] == encode(expected, qwen()).input_ids


def test_a_side_whose_answer_continues_with_a_human_turn_keeps_it_as_text(rows):
    chosen = f"{HUMAN} Hi{ASSISTANT} Hello"
    (row,), _ = rows(pair_rows, {"chosen": chosen, "rejected": f"{chosen}{HUMAN} Thanks"})
    start = "Hi<|im_end|>\n<|im_start|>assistant\nHello"
    assert sides(row) == (f"{start}<|im_end|>", f"{start}{HUMAN} Thanks<|im_end|>")


def test_sides_may_differ_before_their_last_turn(rows):
    record = {
        "chosen": f"{HUMAN} Hi{ASSISTANT} Hello{HUMAN} Bye{ASSISTANT} Goodbye",
        "rejected": f"{HUMAN} Hi{ASSISTANT} Who?{HUMAN} Me{ASSISTANT} Oh",
    }
    (row,), dropped = rows(pair_rows, record)
    turns = "Hi<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    answer = "<|im_start|>assistant\n{}<|im_end|>"
    assert sides(row) == (
        turns.format("Hello", "Bye") + answer.format("Goodbye"),
        turns.format("Who?", "Me") + answer.format("Oh"),
    )
    assert dropped == {}


def test_equal_sides_are_dropped_and_an_empty_side_is_kept(rows):
    start = f"{HUMAN} Hi{ASSISTANT}"
    made, dropped = rows(
        pair_rows,
        {"chosen": f"{start} Hello", "rejected": f"{start} Hello"},
        {"chosen": f"{start} Hello", "rejected": start},
    )
    assert dropped == {"equal sides": 1}
    assert sides(made[0])[1] == "Hi<|im_end|>\n<|im_start|>assistant\n<|im_end|>"


def test_a_side_ends_with_its_last_answer(rows):
    rejected = [TALK[0], turn("assistant", "No")]
    (row,), _ = rows(pair_rows, {"chosen": [*TALK, turn("user", "Bye")], "rejected": rejected})
    assert [side.rpartition("\n")[2] for side in sides(row)] == ["Hello<|im_end|>", "No<|im_end|>"]


# Prompts


@pytest.mark.parametrize(
    ("record", "question"),
    [
        ({"messages": [*TALK, turn("system", "Be brief."), turn("user", "Bye"), TALK[1], TALK[1]]}, "Bye"),
        ({"messages": [TALK[0], turn("user", "Hi?"), turn("assistant", "")]}, "Hi?"),
        ({"chosen": f"{HUMAN} Hi{ASSISTANT}", "rejected": f"{HUMAN} Hi{ASSISTANT} No"}, "Hi"),
        ({"prompt": f"{HUMAN} Hi{ASSISTANT}"}, "Hi"),
        ({"instruction": "今天", "input": "", "output": ""}, "今天"),
    ],
)
def test_a_prompt_ends_where_the_last_answer_would_begin(rows, record, question):
    (row,), _ = rows(prompt_rows, record)
    assert qwen().decode(row["input_ids"]).endswith(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")


def test_a_prompt_without_a_question_is_an_error(rows, tmp_path):
    with pytest.raises(RecipeError) as error:
        rows(prompt_rows, {"messages": [turn("assistant", "Hello")]})
    problem = f"{tmp_path}/data.jsonl:1: no user turn before the answer, so no prompt"
    assert str(error.value) == f"{problem}; correct it, or set data.on_bad_record=skip"
