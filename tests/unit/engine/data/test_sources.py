"""Sources of records: file types, compression, folders, globs, hub data sets, skip, take and shares."""

import gzip
import json
import sys
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset

from config import RecipeError
from config.data import Source
from engine.data.sources import find_place, read_source, select_records

RECORDS = [{"prompt": "Hi", "response": "今天"}, {"prompt": "a\nb", "response": 'c, "d"'}]


def write(path, data):
    data = data.encode() if isinstance(data, str) else data
    compression = {".gz": gzip.compress, ".zst": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True)}
    path.write_bytes(compression.get(path.suffix, bytes)(data))
    return path


def records(path, **options):
    return [record for _, record in read_source(Source(str(path), **options))]


def places(path, **options):
    return [where.removeprefix(f"{path}") for where, _ in read_source(Source(str(path), **options))]


def test_a_source_renames_its_own_fields(tmp_path):
    """After its share was chosen, which does not depend on names; null leaves a field out."""
    file = write(tmp_path / "a.jsonl", "".join(json.dumps({"q": str(n), "id": n}) + "\n" for n in range(50)))
    assert records(file, take=1, fields={"q": "prompt", "id": None}) == [{"prompt": "0"}]
    plain, renamed = (records(file, only_share=0.3, fields=fields) for fields in ({}, {"q": "prompt"}))
    assert [record["q"] for record in plain] == [record["prompt"] for record in renamed]
    text = write(tmp_path / "b.jsonl", json.dumps({"body": "One. END Two."}))
    split = read_source(Source(str(text), fields={"body": "text"}), document_end="END")
    assert [record for _, record in split] == [{"text": "One. "}, {"text": " Two."}]


# Kinds of file


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_jsonl_files_are_read_plain_and_compressed(tmp_path, compression):
    file = write(tmp_path / f"a.jsonl{compression}", "\n".join(map(json.dumps, RECORDS)) + "\n\n")
    assert records(file) == RECORDS
    assert places(file) == [":1", ":2"]


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_lists_are_read_plain_and_compressed(tmp_path, compression, indent):
    file = write(tmp_path / f"a.json{compression}", json.dumps(RECORDS, indent=indent, ensure_ascii=False))
    assert records(file) == RECORDS
    assert places(file) == ([":1", ":1"] if indent is None else [":2", ":6"])


def test_a_json_file_may_hold_a_record_per_line_or_a_single_record(tmp_path):
    assert records(write(tmp_path / "a.json", "\n".join(map(json.dumps, RECORDS)))) == RECORDS
    assert records(write(tmp_path / "b.json", json.dumps(RECORDS[0], indent=1))) == RECORDS[:1]


def test_empty_lists_and_files_have_no_records(tmp_path):
    for name, text in [("a.json", " [ ] "), ("b.json", ""), ("c.jsonl", ""), ("d.csv", ""), ("e.csv", "prompt\n")]:
        assert records(write(tmp_path / name, text)) == []


def test_a_json_list_in_a_jsonl_file_is_read_as_a_list(tmp_path):
    assert records(write(tmp_path / "a.jsonl", "\n" + json.dumps(RECORDS, indent=1))) == RECORDS


def test_concatenated_compressed_files_are_read_to_the_end(tmp_path):
    line = json.dumps(RECORDS[0]) + "\n"
    for name in ("a.jsonl.gz", "a.jsonl.zst"):
        part = write(tmp_path / name, line).read_bytes()
        (tmp_path / name).write_bytes(part + part)
        assert records(tmp_path / name) == [RECORDS[0]] * 2


def test_parquet_files_are_read_with_row_numbers(tmp_path):
    talk = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}] * 2
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(talk), tmp_path / "a.parquet")
    assert records(tmp_path / "a.parquet") == talk
    assert places(tmp_path / "a.parquet") == [":1", ":2"]


def test_csv_files_are_read_with_line_numbers(tmp_path):
    file = write(tmp_path / "a.csv", 'prompt,response\r\nHi,今天\r\n"a\nb","c, ""d"""\r\n')
    assert records(file) == RECORDS
    assert places(file) == [":2", ":4"]


def test_csv_cells_may_be_long(tmp_path):
    assert len(records(write(tmp_path / "a.csv", "text\n" + "x" * 200_000))[0]["text"]) == 200_000


def test_a_text_file_is_one_record(tmp_path):
    assert records(write(tmp_path / "a.txt", "Once\n\nupon")) == [{"text": "Once\n\nupon"}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_byte_order_mark_is_ignored(tmp_path, name):
    text = {"a.jsonl": '{"text": "x"}', "a.json": '[{"text": "x"}]', "a.csv": "text\nx", "a.txt": "x"}[name]
    assert records(write(tmp_path / name, b"\xef\xbb\xbf" + text.encode())) == [{"text": "x"}]


# Places


def test_folders_and_globs_are_read_in_the_order_of_their_names(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "a.txt", "deep/c.txt", "note.md"):
        write(tmp_path / name, name)
    assert [record["text"] for record in records(tmp_path)] == ["a.txt", "b.txt", "deep/c.txt"]
    assert [record["text"] for record in records(tmp_path / "*.txt")] == ["a.txt", "b.txt"]
    assert [record["text"] for record in records(tmp_path / "**/c.txt")] == ["deep/c.txt"]


def test_skip_and_take_select_records_by_position(tmp_path):
    numbers = write(tmp_path / "a.jsonl", "".join(f'{{"n": {n}}}\n' for n in range(5)) + "not reached")
    assert [record["n"] for record in records(numbers, skip=1, take=3)] == [1, 2, 3]
    assert places(numbers, skip=1, take=2) == [":2", ":3"]
    assert records(numbers, take=1) == [{"n": 0}]


def test_the_bytes_reported_as_progress_add_up_to_the_size(tmp_path):
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.json"):
        write(tmp_path / name, json.dumps(RECORDS[0]) + "\n")
    source, advanced = Source(str(tmp_path)), []
    place = find_place(source)
    assert len(list(select_records(place, source, advanced.append))) == 4
    assert sum(advanced) == place.size == sum(file.stat().st_size for file in tmp_path.iterdir())


def test_hub_sets_are_loaded_by_datasets(monkeypatch):
    asked, rows = [], Dataset.from_list(RECORDS)

    def load_dataset(*args, **options):
        asked.append((args, options))
        return rows

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    source = Source("owner/name", name="en", split="test", revision="v1")
    assert list(read_source(source)) == [("owner/name:test:1", RECORDS[0]), ("owner/name:test:2", RECORDS[1])]
    assert asked == [(("owner/name", "en"), {"split": "test", "revision": "v1"})]


def test_a_hub_set_that_cannot_be_loaded_is_reported_in_one_line(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub (OfflineModeIsEnabled).\nmore")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(RecipeError) as error:
        list(read_source(Source("owner/name")))
    assert str(error.value) == (
        "owner/name: neither an existing file nor a data set that can be loaded from the hub "
        "(ConnectionError: Couldn't reach 'owner/name' on the Hub (OfflineModeIsEnabled))"
    )


# Shares by hash


def numbers(path, stop, **options):
    path.write_text("".join(f'{{"prompt": "{n}", "response": "x"}}\n' for n in range(stop)))
    return {record["prompt"] for record in records(path, **options)}


def test_only_share_and_without_share_split_the_records(tmp_path):
    held_out, rest = (numbers(tmp_path / "a.jsonl", 2000, **{key: 0.1}) for key in ("only_share", "without_share"))
    assert held_out | rest == set(map(str, range(2000)))
    assert not held_out & rest
    assert 150 < len(held_out) < 250  # 200 ± 13.4


def test_a_record_stays_in_its_share_when_records_are_added_or_the_format_changes(tmp_path):
    held_out = numbers(tmp_path / "a.jsonl", 1000, only_share=0.1)
    assert numbers(tmp_path / "a.jsonl", 3000, only_share=0.1) & set(map(str, range(1000))) == held_out
    backwards = [{"response": "x", "prompt": str(n)} for n in reversed(range(1000))]
    (tmp_path / "b.json").write_text(json.dumps(backwards, indent=3))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(backwards), tmp_path / "c.parquet")
    for name in ("b.json", "c.parquet"):
        assert {record["prompt"] for record in records(tmp_path / name, only_share=0.1)} == held_out
    assert held_out < numbers(tmp_path / "a.jsonl", 1000, only_share=0.2)  # a larger share contains a smaller one


def test_the_hash_of_shares_has_not_changed(tmp_path):
    """With another hash, records that were held out would be trained on."""
    file = write(tmp_path / "a.jsonl", "\n".join(json.dumps({"prompt": str(n)}) for n in range(40)))
    assert [record["prompt"] for record in records(file, only_share=0.1)] == ["12", "13", "18", "19", "24"]


def test_records_with_values_that_have_no_json_type_belong_to_a_share(tmp_path):
    table = pyarrow.table({"prompt": ["Hi"], "at": pyarrow.array([0], pyarrow.timestamp("s")), "raw": [b"x"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert sum(len(records(tmp_path / "a.parquet", **{key: 0.5})) for key in ("only_share", "without_share")) == 1
