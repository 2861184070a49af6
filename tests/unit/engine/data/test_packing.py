"""Packing: best-fit-decreasing, no sequence is split, little padding."""

import json
from collections import Counter
from itertools import accumulate

import pytest
from datasets import Dataset

from chatml import IGNORE, control
from engine.data.packing import pack_rows
from engine.data.rows import longest_sequence
from tests.support.paths import DATA
from tests.support.rows_setting import conversation_rows, recipe
from tiny.tokenizer import train_tokenizer

ALPACA = DATA / "alpaca_en.json"


def sequences(row):
    """Return the sequences of a packed row as (token ids, labels)."""
    ends = list(accumulate(row["seq_lengths"]))
    assert ends[-1] == len(row["input_ids"]) == len(row["labels"])
    return [
        (tuple(row["input_ids"][end - length : end]), tuple(row["labels"][end - length : end]))
        for length, end in zip(row["seq_lengths"], ends, strict=True)
    ]


def on_disk(rows, folder):
    Dataset.from_list(rows).save_to_disk(folder)
    return Dataset.load_from_disk(folder)


def test_each_sequence_is_packed_where_it_leaves_the_least_space(tmp_path):
    """First-fit would need a third row: 11 + 4, 6 + 6 + 3, 2."""
    rows = [{"input_ids": list(range(n)), "labels": list(range(n))} for n in (2, 6, 11, 4, 3, 6)]
    made = pack_rows(on_disk(rows, tmp_path), 16)
    assert sorted(sorted(row["seq_lengths"]) for row in made) == [[2, 3, 11], [4, 6, 6]]


def test_the_longest_sequence_of_packed_and_unpacked_rows(tmp_path):
    rows = on_disk([{"input_ids": list(range(n)), "labels": list(range(n))} for n in (2, 6, 11, 4)], tmp_path / "rows")
    assert longest_sequence(rows) == longest_sequence(pack_rows(rows, 32)) == 11
    pair = {"chosen_ids": [1] * 5, "rejected_ids": [1] * 9, "margin": 0.0}
    assert longest_sequence(on_disk([pair, {**pair, "rejected_ids": [1]}], tmp_path / "pairs")) == 9


def test_a_row_longer_than_the_packed_length_is_refused(tmp_path):
    rows = on_disk([{"input_ids": [1] * 17, "labels": [1] * 17}], tmp_path)
    with pytest.raises(ValueError, match="a row of 17 tokens cannot be packed into rows of 16"):
        pack_rows(rows, 16)


@pytest.mark.skipif(not ALPACA.exists(), reason="../shared/data is absent")
def test_real_conversations_are_packed_whole_with_under_2_percent_empty():
    texts = [text for record in json.loads(ALPACA.read_text(encoding="utf-8")) for text in record.values()]
    tokenizer, longest = train_tokenizer(texts), 2048
    rows, _ = conversation_rows(str(ALPACA), recipe(), tokenizer, key="data.train", max_length=longest)
    made = pack_rows(rows, longest)
    found = [sequence for row in made for sequence in sequences(row)]
    assert Counter(found) == Counter((tuple(row["input_ids"]), tuple(row["labels"])) for row in rows)
    end = control(tokenizer).im_end
    assert all([label for label in labels if label != IGNORE][-1] == end for _, labels in found)
    # The token before a sequence belongs to another one, so a sequence's first token is masked.
    assert all(labels[0] == IGNORE for _, labels in found)
    assert max(len(row["input_ids"]) for row in made) <= longest
    empty_share = 1 - sum(len(row["input_ids"]) for row in made) / (len(made) * longest)
    assert empty_share < 0.02
