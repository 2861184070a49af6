"""Best-fit-decreasing packing of sequences into rows, with TRL. Sequences are never split."""

from pathlib import Path

from datasets import Dataset
from trl import pack_dataset

from engine.data.prepare import exclusive_lock
from engine.data.rows import longest_sequence


def pack_rows(rows: Dataset, max_length: int) -> Dataset:
    """Pack sequences into rows of at most `max_length` tokens, with the sequences' lengths in `seq_lengths`.

    One process packs; other ranks and later runs load the result, which `datasets` caches beside the rows.

    Raises ValueError for an input row longer than `max_length`: TRL would cut it. The length policy applies earlier.
    """
    if (longest := longest_sequence(rows)) > max_length:
        raise ValueError(f"a row of {longest} tokens cannot be packed into rows of {max_length}")
    with exclusive_lock(Path(rows.cache_files[0]["filename"])):
        return pack_dataset(rows, max_length, "bfd")
