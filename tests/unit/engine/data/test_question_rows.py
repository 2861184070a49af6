"""Conversations whose answers are still to be given: the system turn and what the user asks, and nothing else."""

import json

import pytest

from chatml import encode
from config import RecipeError
from config.data import sources
from engine.data import encoding
from engine.data.rows import Limit, load_rows
from tests.support.rows_setting import LONG, SYSTEM, recipe, talk
from tests.support.tokenizers import qwen

ASKED = [SYSTEM, {"role": "user", "content": "Hi"}, {"role": "user", "content": "Why?"}]
KNOWN = [SYSTEM, *talk("Hi", "Yes.", "Why?", "So.")]


def question_rows(path, recipe):
    return load_rows(
        encoding.questions,
        sources(path, "data.system_prompts"),
        data=recipe.data,
        chatml=recipe.chatml,
        seed=0,
        tokenizer=qwen(),
        key="data.system_prompts",
        limit=Limit("data.max_prompt_tokens", 64),
    )


@pytest.mark.parametrize(
    "record",
    [
        {"messages": KNOWN},
        {"messages": KNOWN[:-1]},
        {"messages": ASKED},
        {"messages": [SYSTEM, {"role": "assistant", "content": "Hello!"}, *KNOWN[1:]]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes."},
                           {"from": "human", "value": "Why?"}], "system": "Be kind."},
        {"instruction": "Why?", "output": "So.", "history": [["Hi", "Yes."]], "system": "Be kind."},
        {"messages": KNOWN, "tools": []},
    ],
)  # fmt: skip
def test_answers_in_the_record_are_left_out(file, record):
    rows, report = question_rows(file(record), recipe())
    assert [json.loads(row["messages"]) for row in rows] == [ASKED]
    assert [json.loads(row["record"]) for row in rows] == [record]
    tokens = len(encode(ASKED, qwen(), add_generation_prompt=True).input_ids)
    assert (report.kept, report.cut, report.tokens) == (1, 0, tokens)


def test_nothing_is_cut(file):
    """How long a conversation gets is only known when it is held."""
    rows, report = question_rows(file({"messages": [SYSTEM, *LONG, *LONG, *LONG]}), recipe(too_long="error"))
    assert len(json.loads(rows[0]["messages"])) == 7
    assert report.tokens > 64


def test_the_recipes_system_prompt_is_an_instruction(file):
    rows, _ = question_rows(file({"prompt": "Hi"}, {"messages": ASKED}), recipe(system="Be brief."))
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
            {"messages": [*ASKED, SYSTEM]},
            "a system turn among the user's; after the system turn only the user asks",
        ),
        (
            {"messages": [*ASKED[:2], {"role": "tool", "content": "7"}, ASKED[2]]},
            "a tool turn among the user's; after the system turn only the user asks",
        ),
        (
            {"messages": ASKED, "tools": [{"name": "add"}]},
            "it has tools, which are not offered here; take them out, or set data.fields.tools=null",
        ),
    ],
)
def test_what_cannot_be_asked_is_named_or_skipped(file, record, problem):
    path = file({"messages": KNOWN}, record)
    with pytest.raises(RecipeError) as error:
        question_rows(path, recipe())
    assert str(error.value) == f"{path}:2: {problem}; correct it, or set data.on_bad_record=skip"
    rows, report = question_rows(path, recipe(on_bad_record="skip"))
    assert (len(rows), report.bad) == (1, [f"{path}:2: {problem}"])


def test_tools_that_are_not_read_are_no_obstacle(file):
    rows, _ = question_rows(file({"messages": ASKED, "tools": [{"name": "add"}]}), recipe(fields={"tools": None}))
    assert json.loads(rows[0]["messages"]) == ASKED
