"""Rows made fuller: best-fit-decreasing packing of whole sequences, by TRL; no sequence is ever split."""

from typing import Any

from datasets import Dataset
from trl import pack_dataset


def packed(rows: list[dict[str, Any]], max_length: int) -> Dataset:
    """Rows of at most `max_length` tokens, each of several sequences whose lengths stand in `seq_lengths`.

    No input row may be longer than `max_length` (TRL would cut it; the length policy has seen to that before).
    """
    longest = max(len(row["input_ids"]) for row in rows)
    if longest > max_length:
        raise ValueError(f"a row of {longest} tokens cannot be packed into rows of {max_length}")
    return pack_dataset(Dataset.from_list(rows), max_length, "bfd")


def unpacked(rows: list[dict[str, Any]]) -> Dataset:
    """The same columns with one sequence a row."""
    return Dataset.from_list([{**row, "seq_lengths": [len(row["input_ids"])]} for row in rows])
