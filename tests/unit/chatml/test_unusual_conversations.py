"""What becomes of unusual conversations: trained on as they stand, dropped and counted, or an error."""

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


def said(role, text):
    return {"role": role, "content": text}


TALK = [said("user", "Hi"), said("assistant", "Hello")]


@pytest.fixture
def rows(tmp_path):
    """Rows and dropped records of a few records, made by `make`."""

    def made(make, *records, chatml=None):
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        recipe = SFT(stage="sft", chatml=chatml or ChatML(), data=Data(train=""), run=Run(dir=""))
        options = {"key": "data.prompts", "max_prompt_tokens": 512} if make is prompt_rows else OPTIONS
        made, report = make(str(path), recipe, qwen(), **options)
        return made, dict(report.dropped)

    return made


def learnt(row):
    """What is trained on, answer by answer."""
    text = qwen().decode([label for label in row["labels"] if label != IGNORE])
    return text.split("<|im_end|>")[:-1]


def sides(row):
    """Both sides from the first question on, as text."""
    return tuple(qwen().decode(row[name]).removeprefix("<|im_start|>user\n") for name in ("chosen_ids", "rejected_ids"))


# Conversations


@pytest.mark.parametrize(
    ("messages", "trained"),
    [
        ([*TALK, said("system", "Be brief."), *TALK], ["Hello", "Hello"]),
        ([*TALK, said("system", "Be brief.")], ["Hello"]),
        ([said("system", "a"), said("system", "b"), *TALK], ["Hello"]),
        ([TALK[0], *TALK], ["Hello"]),
        ([*TALK, said("assistant", "Hello again")], ["Hello", "Hello again"]),
        ([said("user", ""), said("assistant", "Yes?")], ["Yes?"]),
        ([said("system", ""), *TALK], ["Hello"]),
        ([said("user", "Hi"), said("assistant", ""), *TALK], ["Hello"]),
        ([said("assistant", "Hello"), said("user", "Hi")], ["Hello"]),
        ([said("assistant", "Hello")], ["Hello"]),
        ([*TALK, said("user", "Bye")], ["Hello"]),
        ([said("user", "今天天气很好"), said("assistant", "是的！")], ["是的！"]),
    ],
)
def test_trained_on_as_they_stand(rows, messages, trained):
    """Every turn is there, in its place, and what the assistant says is trained on."""
    (row,), dropped = rows(conversation_rows, {"messages": messages})
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    assert qwen().decode(row["input_ids"]) == turns
    assert (learnt(row), dropped) == (trained, {})


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "Say nothing.", "input": "", "output": ""},
        {"messages": [said("user", "Hi"), said("assistant", " \n")]},
        {"text": f"{HUMAN} Hi{ASSISTANT}"},
        {"messages": [TALK[0], {**TALK[1], "train": False}]},
        {"messages": [TALK[0], {**TALK[1], "weight": 0}]},
    ],
)
def test_nothing_to_train_on_is_dropped_and_counted(rows, record):
    made, dropped = rows(conversation_rows, record, {"messages": TALK})
    assert (len(made), dropped) == (1, {"nothing to train on": 1})


def test_the_last_answer_alone_is_trained_on_where_the_recipe_says_so(rows):
    talk = [*TALK, said("user", "Bye"), said("assistant", "Goodbye"), said("user", "Are you there?")]
    chatml = ChatML(train_on="last_answer")
    silent = [*talk[:3], said("assistant", "")]
    (row,), dropped = rows(conversation_rows, {"messages": talk}, {"messages": silent}, chatml=chatml)
    assert (learnt(row), dropped) == (["Goodbye"], {"nothing to train on": 1})


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
            {"messages": [TALK[0], said("assistant", "a\ud83d")]},
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


def test_a_transcript_whose_text_spells_its_markers(rows):
    asked = f"Go on:{HUMAN} I ask{HUMAN} twice"
    (row,), _ = rows(conversation_rows, {"text": f"{HUMAN} {asked}{ASSISTANT} One{ASSISTANT} two"})
    expected = [said("user", asked), said("assistant", f"One{ASSISTANT} two")]
    assert row["input_ids"] == encode(expected, qwen()).input_ids


def test_a_comparison_about_what_the_model_wrote_for_the_person(rows):
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


def test_equal_sides_are_dropped_and_counted_and_empty_ones_compared(rows):
    start = f"{HUMAN} Hi{ASSISTANT}"
    made, dropped = rows(
        pair_rows,
        {"chosen": f"{start} Hello", "rejected": f"{start} Hello"},
        {"chosen": f"{start} Hello", "rejected": start},
    )
    assert dropped == {"equal sides": 1}
    assert sides(made[0])[1] == "Hi<|im_end|>\n<|im_start|>assistant\n<|im_end|>"


def test_a_side_ends_with_its_last_answer(rows):
    rejected = [TALK[0], said("assistant", "No")]
    (row,), _ = rows(pair_rows, {"chosen": [*TALK, said("user", "Bye")], "rejected": rejected})
    assert [side.rpartition("\n")[2] for side in sides(row)] == ["Hello<|im_end|>", "No<|im_end|>"]


# Prompts


@pytest.mark.parametrize(
    ("record", "asked"),
    [
        ({"messages": [*TALK, said("system", "Be brief."), said("user", "Bye"), TALK[1], TALK[1]]}, "Bye"),
        ({"messages": [TALK[0], said("user", "Hi?"), said("assistant", "")]}, "Hi?"),
        ({"chosen": f"{HUMAN} Hi{ASSISTANT}", "rejected": f"{HUMAN} Hi{ASSISTANT} No"}, "Hi"),
        ({"prompt": f"{HUMAN} Hi{ASSISTANT}"}, "Hi"),
        ({"instruction": "今天", "input": "", "output": ""}, "今天"),
    ],
)
def test_a_prompt_ends_where_the_last_answer_would_begin(rows, record, asked):
    (row,), _ = rows(prompt_rows, record)
    assert qwen().decode(row["input_ids"]).endswith(f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n")


def test_no_question_is_an_error_in_a_prompt(rows, tmp_path):
    with pytest.raises(RecipeError) as error:
        rows(prompt_rows, {"messages": [said("assistant", "Hello")]})
    problem = f"{tmp_path}/data.jsonl:1: no user turn before the answer, so no prompt"
    assert str(error.value) == f"{problem}; correct it, or set data.on_bad_record=skip"
