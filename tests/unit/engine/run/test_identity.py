"""What a run is bound to: the hash of its rows is of their content and order, not of how they are stored."""

from datasets import Dataset, concatenate_datasets

from engine.data.prompt_rows import PromptRow, PromptRows
from engine.run.identity import rows_hash

ROWS = [{"ids": [at, at + 1], "margin": at / 2, "subset": None if at % 3 else "easy"} for at in range(7)]


def test_rows_in_any_number_of_batches_have_one_hash():
    whole = Dataset.from_list(ROWS)
    parts = concatenate_datasets([Dataset.from_list(ROWS[:2], whole.features), Dataset.from_list(ROWS[2:])])
    chosen = Dataset.from_list([{"ids": [9], "margin": 0.0, "subset": ""}, *ROWS]).select(range(1, 8))
    assert rows_hash(whole) == rows_hash(parts) == rows_hash(chosen)


def test_any_other_content_or_order_has_another():
    variants = [
        ROWS,
        ROWS[:-1],
        ROWS[::-1],
        [{**ROWS[0], "ids": [0, 1, 1]}, {**ROWS[1], "ids": [2]}, *ROWS[2:]],  # the same numbers, divided otherwise
        [{**ROWS[0], "margin": 0.25}, *ROWS[1:]],
        [{**ROWS[0], "subset": None}, *ROWS[1:]],
        [ROWS[0], {**ROWS[1], "subset": ""}, *ROWS[2:]],  # empty text is not null
        [{**row, "more": 1} for row in ROWS],
    ]
    assert len({rows_hash(Dataset.from_list(rows)) for rows in variants}) == len(variants)


def test_prompts_are_hashed_as_they_are_stored():
    row = PromptRow([1, 2], [{"role": "user", "content": "Hi"}], {"prompt": "Hi"})
    stored = Dataset.from_list([row.as_columns()])
    assert rows_hash(PromptRows(stored)) == rows_hash(stored)
