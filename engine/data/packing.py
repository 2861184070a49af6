"""Rows made fuller: best-fit-decreasing packing of whole sequences, by TRL; no sequence is ever split."""

from pathlib import Path

import pyarrow.compute
from datasets import Dataset
from trl import pack_dataset

from engine.data.prepare import alone


def packed(rows: Dataset, max_length: int) -> Dataset:
    """Rows of at most `max_length` tokens, each of several sequences whose lengths stand in `seq_lengths`.

    No input row may be longer than `max_length` (TRL would cut it; the length policy has seen to that before). Like the
    rows they are made by one process and found again by the others and later (`datasets` keeps them beside the rows).
    """
    longest = pyarrow.compute.max(pyarrow.compute.list_value_length(rows.data.column("input_ids"))).as_py()
    if longest > max_length:
        raise ValueError(f"a row of {longest} tokens cannot be packed into rows of {max_length}")
    with alone(Path(rows.cache_files[0]["filename"])):
        return pack_dataset(rows, max_length, "bfd")
