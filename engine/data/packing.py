"""Best-fit-decreasing packing of whole sequences into rows, by TRL; no sequence is ever split."""

from pathlib import Path

from datasets import Dataset
from trl import pack_dataset

from engine.data.prepare import exclusive
from engine.data.rows import longest_sequence


def packed(rows: Dataset, max_length: int) -> Dataset:
    """Return rows of at most `max_length` tokens, each of several sequences with their lengths in `seq_lengths`.

    Raises ValueError for an input row longer than `max_length` (TRL would cut it; the length policy comes before). One
    process packs; the others, and later runs, find the result beside the rows, where `datasets` keeps it.
    """
    if (longest := longest_sequence(rows)) > max_length:
        raise ValueError(f"a row of {longest} tokens cannot be packed into rows of {max_length}")
    with exclusive(Path(rows.cache_files[0]["filename"])):
        return pack_dataset(rows, max_length, "bfd")
