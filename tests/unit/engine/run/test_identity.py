"""The hash of a run's rows depends on their content and order, not on how they are stored."""

from datasets import Dataset, concatenate_datasets

from engine.data.prompt_rows import PromptRow, PromptRows
from engine.run.identity import rows_hash

ROWS = [{"ids": [at, at + 1], "margin": at / 2, "subset": None if at % 3 else "easy"} for at in range(7)]


def test_the_hash_does_not_depend_on_how_rows_are_stored():
    whole = Dataset.from_list(ROWS)
    parts = concatenate_datasets([Dataset.from_list(ROWS[:2], whole.features), Dataset.from_list(ROWS[2:])])
    chosen = Dataset.from_list([{"ids": [9], "margin": 0.0, "subset": ""}, *ROWS]).select(range(1, 8))
    assert rows_hash(whole) == rows_hash(parts) == rows_hash(chosen)


def test_the_hash_depends_on_content_and_order():
    variants = [
        ROWS,
        ROWS[:-1],
        ROWS[::-1],
        [{**ROWS[0], "ids": [0, 1, 1]}, {**ROWS[1], "ids": [2]}, *ROWS[2:]],  # the same numbers, split differently
        [{**ROWS[0], "margin": 0.25}, *ROWS[1:]],
        [{**ROWS[0], "subset": None}, *ROWS[1:]],
        [ROWS[0], {**ROWS[1], "subset": ""}, *ROWS[2:]],  # empty text is not null
        [{**row, "more": 1} for row in ROWS],
    ]
    assert len({rows_hash(Dataset.from_list(rows)) for rows in variants}) == len(variants)


def test_the_hash_of_prompts_is_that_of_their_stored_rows():
    row = PromptRow([1, 2], [{"role": "user", "content": "Hi"}], {"prompt": "Hi"})
    stored = Dataset.from_list([row.as_columns()])
    assert rows_hash(PromptRows(stored)) == rows_hash(stored)
