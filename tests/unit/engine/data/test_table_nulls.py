"""Nulls that a table format adds to structs are removed; nulls of JSON are kept."""

import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, Features, Json, List, Value

from config.data import Source
from engine.data.sources import read_source
from engine.data.table_nulls import table_cleaner
from tests.support.rows_setting import TRAIN, conversation_rows, recipe
from tests.support.tokenizers import qwen

ADD = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}}
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


def call_turns(name, arguments):
    return [
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]},
        {"role": "tool", "name": name, "content": "7"},
        {"role": "assistant", "content": "Seven."},
    ]


RECORDS = [
    {"messages": call_turns("add", {"a": 3, "b": {"unit": "m"}}), "tools": [ADD]},
    {"messages": call_turns("weather", {"city": "Bonn"}), "tools": [WEATHER, ADD]},
]


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def as_jsonl(folder, monkeypatch):
    return write_jsonl(folder / "a.jsonl", RECORDS)


def as_parquet(folder, monkeypatch):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), folder / "a.parquet")
    return str(folder / "a.parquet")


def as_saved(folder, monkeypatch):
    Dataset.from_list(RECORDS).save_to_disk(folder / "saved")
    return str(folder / "saved")


def as_hub_rows(folder, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: Dataset.from_list(RECORDS))
    return "owner/name"


def as_json_columns(folder, monkeypatch):
    """Write a JSON column, which `datasets` makes of records with different keys; each value keeps its own keys."""
    rows = Dataset.from_list(RECORDS, on_mixed_types="use_json")
    rows.to_parquet(folder / "a.parquet")
    assert pyarrow.parquet.read_schema(folder / "a.parquet").field("messages").type.value_type.extension_name
    return str(folder / "a.parquet")


@pytest.mark.parametrize("write", [as_parquet, as_saved, as_hub_rows, as_json_columns])
def test_rows_of_a_table_equal_those_of_the_same_records_in_json(tmp_path, monkeypatch, write):
    tokenizer, limit = qwen(), {"key": "data.train", "max_length": 2048}
    expected, _ = conversation_rows(as_jsonl(tmp_path, monkeypatch), recipe(), tokenizer, **limit)
    rows, _ = conversation_rows(write(tmp_path, monkeypatch), recipe(), tokenizer, **limit)
    assert rows.to_list() == expected.to_list()
    text = tokenizer.decode(rows[1]["input_ids"])
    assert '{"name": "weather", "arguments": {"city": "Bonn"}}' in text
    assert "null" not in text


def test_a_null_in_json_is_kept(tmp_path):
    given = call_turns("weather", {"city": None})
    for name in ("a.jsonl", "a.json"):
        rows, _ = conversation_rows(write_jsonl(tmp_path / name, [{"messages": given}]), recipe(), qwen(),
                                    key="data.train", max_length=2048)  # fmt: skip
        assert '{"name": "weather", "arguments": {"city": null}}' in qwen().decode(rows[0]["input_ids"])


def test_a_null_in_a_json_column_is_kept(tmp_path):
    given = [{"messages": call_turns("weather", {"city": None})}, {"messages": call_turns("add", {"a": [1, None]})}]
    rows = Dataset.from_list(given, on_mixed_types="use_json")
    rows.save_to_disk(tmp_path / "saved")
    rows.to_parquet(tmp_path / "a.parquet")
    for path in (tmp_path / "saved", tmp_path / "a.parquet"):
        assert [record for _, record in read_source(Source(str(path)))] == given


def test_a_string_that_looks_like_json_stays_a_string_in_a_json_column(tmp_path):
    """`datasets` has already decoded the column, so it must not be decoded again."""
    rows = Dataset.from_list([{"a": '"3"'}], features=Features({"a": Value("string")}))
    rows.cast(Features({"a": Value("string")})).save_to_disk(tmp_path / "saved")
    assert next(read_source(Source(str(tmp_path / "saved"))))[1] == {"a": '"3"'}
    rows = Dataset.from_list([{"a": ["3"]}], features=Features({"a": List(Json())}))
    rows.save_to_disk(tmp_path / "json")
    assert next(read_source(Source(str(tmp_path / "json"))))[1] == {"a": rows[0]["a"]}


def test_nulls_that_are_removed_and_kept_by_hand():
    inner = pyarrow.struct({"x": pyarrow.int64(), "y": pyarrow.list_(pyarrow.struct({"z": pyarrow.string()}))})
    schema = pyarrow.schema(
        {
            "column": pyarrow.string(),
            "items": pyarrow.list_(pyarrow.int64()),
            "one": inner,
            "many": pyarrow.list_(inner),
        }
    )
    clean = table_cleaner(schema, json_is_text=True)
    record = {
        "column": None,
        "items": [1, None],
        "one": {"x": None, "y": [{"z": None}, None, {"z": "a"}]},
        "many": [{"x": 0, "y": None}, None],
    }
    assert clean(record) == {
        "column": None,
        "items": [1, None],
        "one": {"y": [{}, None, {"z": "a"}]},
        "many": [{"x": 0}, None],
    }
    assert clean({"column": "a", "items": None, "one": None, "many": []}) == {
        "column": "a", "items": None, "one": None, "many": []
    }  # fmt: skip
    assert record["one"]["x"] is None  # the caller's record is unchanged


def test_json_in_csv_cells_is_read_from_text(tmp_path):
    """CSV has no null: an empty cell is empty text, and a null within JSON is kept."""
    path = tmp_path / "a.csv"
    path.write_text('prompt,response,tools\nHi,Yes.,"[{""name"": ""f"", ""parameters"": null}]"\nHi,Yes.,\n')
    records = [record for _, record in read_source(Source(str(path)))]
    assert json.loads(records[0]["tools"]) == [{"name": "f", "parameters": None}]
    assert records[1]["tools"] == ""
    assert conversation_rows(str(path), recipe(), qwen(), **{**TRAIN, "max_length": 2048})[1].kept == 2
