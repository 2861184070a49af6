"""Data sets saved by datasets' `save_to_disk`."""

import pytest
from datasets import Dataset, DatasetDict

from config import RecipeError
from config.data import Source
from engine.data.sources import find_place, read_source
from tests.support.rows_setting import TRAIN, conversation_rows, recipe
from tests.support.tokenizers import qwen

RECORDS = [{"prompt": "Hi", "response": "Yes."}, {"prompt": "Bye", "response": "No."}]


def records(path, **options):
    return [record for _, record in read_source(Source(str(path), **options))]


def refusal(folder, **options):
    with pytest.raises(RecipeError) as error:
        records(folder, **options)
    return str(error.value).replace(str(folder), "FOLDER")


def test_a_saved_data_set_is_read_with_places_and_skip(tmp_path):
    Dataset.from_list(RECORDS).save_to_disk(tmp_path)
    assert list(read_source(Source(str(tmp_path)))) == [
        (f"{tmp_path}:{n}", record) for n, record in enumerate(RECORDS, 1)
    ]
    assert records(tmp_path, skip=1) == RECORDS[1:]
    rows, report = conversation_rows(str(tmp_path), recipe(), qwen(), **TRAIN)
    assert (len(rows), report.kept) == (2, 2)


def test_shards_and_selections_are_read_in_their_order(tmp_path):
    rows = Dataset.from_list([{"prompt": str(n), "response": "x"} for n in range(10)]).select([7, 1, 3])
    rows.save_to_disk(tmp_path, num_shards=2)
    assert [record["prompt"] for record in records(tmp_path)] == ["7", "1", "3"]


def test_a_split_of_a_saved_dataset_dict_is_read(tmp_path):
    split = DatasetDict(train=Dataset.from_list(RECORDS[:1]), test=Dataset.from_list(RECORDS[1:]))
    split.save_to_disk(tmp_path)
    assert records(tmp_path) == RECORDS[:1]
    assert records(tmp_path, split="test") == records(tmp_path / "test") == RECORDS[1:]
    _, report = conversation_rows(str(tmp_path), recipe(), qwen(), **TRAIN)
    assert (report.read_from, report.left_out) == ([f"{tmp_path}/train"], [f"{tmp_path} (split test)"])


def test_a_missing_train_split_is_reported_and_the_advice_works(tmp_path):
    DatasetDict(dev=Dataset.from_list(RECORDS), test=Dataset.from_list(RECORDS[:1])).save_to_disk(tmp_path)
    assert refusal(tmp_path) == (
        "FOLDER: a saved data set with the splits dev, test, without train; use {path: FOLDER, split: dev}"
    )
    assert records(tmp_path, split="dev") == RECORDS


def test_a_split_of_a_data_set_without_splits_is_refused(tmp_path):
    Dataset.from_list(RECORDS).save_to_disk(tmp_path)
    assert refusal(tmp_path, split="test") == "FOLDER: a saved data set without splits; leave split: test out"


def test_a_damaged_saved_data_set_is_reported(tmp_path):
    Dataset.from_list(RECORDS).save_to_disk(tmp_path)
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(b"x")
    message = refusal(tmp_path)
    assert message.startswith("FOLDER: not a complete data set written by save_to_disk (")
    assert message.endswith("); save it again")
    assert "\n" not in message


def test_different_rows_have_different_fingerprints(tmp_path):
    fingerprints = set()
    for name, rows in (("a", RECORDS), ("b", RECORDS[:1])):
        Dataset.from_list(rows).save_to_disk(tmp_path / name)
        fingerprints |= {find_place(Source(str(tmp_path / name))).fingerprint() for _ in range(2)}
    assert len(fingerprints) == 2
