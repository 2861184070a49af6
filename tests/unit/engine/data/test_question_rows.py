"""Rows of the system-prompt measure: the system turn and the user's turns, without the answers."""

import json

import pytest

from chatml import encode
from config import RecipeError
from config.data import sources
from engine.data import encoding
from engine.data.rows import Limit, RowLoader
from tests.support.rows_setting import LONG, SYSTEM, recipe, talk
from tests.support.tokenizers import qwen

QUESTIONS = [SYSTEM, {"role": "user", "content": "Hi"}, {"role": "user", "content": "Why?"}]
WITH_ANSWERS = [SYSTEM, *talk("Hi", "Yes.", "Why?", "So.")]


def question_rows(path, recipe):
    named, limit = sources(path, "data.system_prompts"), Limit("data.max_prompt_tokens", 64)
    return RowLoader(recipe.data, recipe.chatml, 0, qwen()).load(encoding.questions, "system_prompts", limit, named)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": WITH_ANSWERS},
        {"messages": WITH_ANSWERS[:-1]},
        {"messages": QUESTIONS},
        {"messages": [SYSTEM, {"role": "assistant", "content": "Hello!"}, *WITH_ANSWERS[1:]]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes."},
                           {"from": "human", "value": "Why?"}], "system": "Be kind."},
        {"instruction": "Why?", "output": "So.", "history": [["Hi", "Yes."]], "system": "Be kind."},
        {"messages": WITH_ANSWERS, "tools": []},
    ],
)  # fmt: skip
def test_assistant_turns_of_a_record_are_left_out(file, record):
    rows, report = question_rows(file(record), recipe())
    assert [json.loads(row["messages"]) for row in rows] == [QUESTIONS]
    assert [json.loads(row["record"]) for row in rows] == [record]
    tokens = len(encode(QUESTIONS, qwen(), add_generation_prompt=True).input_ids)
    assert (report.kept, report.cut, report.tokens) == (1, 0, tokens)


def test_long_conversations_are_not_cut(file):
    """The length of a conversation is only known once its answers are generated."""
    rows, report = question_rows(file({"messages": [SYSTEM, *LONG, *LONG, *LONG]}), recipe(too_long="error"))
    assert len(json.loads(rows[0]["messages"])) == 7
    assert report.tokens > 64


def test_chatml_system_is_used_for_records_without_a_system_turn(file):
    rows, _ = question_rows(file({"prompt": "Hi"}, {"messages": QUESTIONS}), recipe(system="Be brief."))
    assert [json.loads(row["messages"])[0]["content"] for row in rows] == ["Be brief.", "Be kind."]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"prompt": "Hi"}, "no system turn at the start, so nothing to obey; add one, or set chatml.system"),
        (
            {"messages": [*talk("Hi", "Yes."), SYSTEM, *talk("Why?")]},
            "no system turn at the start, so nothing to obey; add one, or set chatml.system",
        ),
        ({"messages": [SYSTEM]}, "no user turn before the answer, so no prompt"),
        (
            {"messages": [*QUESTIONS, SYSTEM]},
            "a system turn among the user's; after the system turn only the user asks",
        ),
        (
            {"messages": [*QUESTIONS[:2], {"role": "tool", "content": "7"}, QUESTIONS[2]]},
            "a tool turn among the user's; after the system turn only the user asks",
        ),
        (
            {"messages": QUESTIONS, "tools": [{"name": "add"}]},
            "it has tools, which are not offered here; take them out, or set data.fields.tools=null",
        ),
    ],
)
def test_records_that_cannot_be_used_are_reported_or_skipped(file, record, problem):
    path = file({"messages": WITH_ANSWERS}, record)
    with pytest.raises(RecipeError) as error:
        question_rows(path, recipe())
    assert str(error.value) == f"{path}:2: {problem}; correct it, or set data.on_bad_record=skip"
    rows, report = question_rows(path, recipe(on_bad_record="skip"))
    assert (len(rows), report.bad) == (1, [f"{path}:2: {problem}"])


def test_a_record_whose_tools_are_left_out_is_used(file):
    rows, _ = question_rows(file({"messages": QUESTIONS, "tools": [{"name": "add"}]}), recipe(fields={"tools": None}))
    assert json.loads(rows[0]["messages"]) == QUESTIONS
