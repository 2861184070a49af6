"""Every kind of file and place that records come from, and what is said of the ones that cannot be read."""

import gzip
import json
import sys
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from engine.data.mixture import mixed
from engine.data.sources import read
from recipes import RecipeError
from recipes.data import Source

RECORDS = [{"prompt": "Hi", "response": "今天"}, {"prompt": "a\nb", "response": 'c, "d"'}]


def write(path, data):
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def records(path, **options):
    return [record for _, record in read(Source(str(path), **options))]


def places(path, **options):
    return [where.removeprefix(f"{path}") for where, _ in read(Source(str(path), **options))]


def refusal(path, **options):
    with pytest.raises(RecipeError) as error:
        list(read(Source(str(path), **options)))
    return str(error.value).replace(str(path), "FILE")


# Kinds of file


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_jsonl(tmp_path, gz):
    file = write(tmp_path / f"a.jsonl{gz}", "\n".join(map(json.dumps, RECORDS)) + "\n\n")
    assert records(file) == RECORDS
    assert places(file) == [":1", ":2"]


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_list(tmp_path, gz, indent):
    file = write(tmp_path / f"a.json{gz}", json.dumps(RECORDS, indent=indent, ensure_ascii=False))
    assert records(file) == RECORDS
    assert places(file) == ([":1", ":1"] if indent is None else [":2", ":6"])


def test_json_with_a_record_a_line_or_one_record_alone(tmp_path):
    assert records(write(tmp_path / "a.json", "\n".join(map(json.dumps, RECORDS)))) == RECORDS
    assert records(write(tmp_path / "b.json", json.dumps(RECORDS[0], indent=1))) == RECORDS[:1]


def test_empty_lists_and_files_hold_no_records(tmp_path):
    for name, text in [("a.json", " [ ] "), ("b.json", ""), ("c.jsonl", ""), ("d.csv", ""), ("e.csv", "prompt\n")]:
        assert records(write(tmp_path / name, text)) == []


def test_parquet(tmp_path):
    talk = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}] * 2
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(talk), tmp_path / "a.parquet")
    assert records(tmp_path / "a.parquet") == talk
    assert places(tmp_path / "a.parquet") == [":1", ":2"]


def test_csv(tmp_path):
    file = write(tmp_path / "a.csv", 'prompt,response\r\nHi,今天\r\n"a\nb","c, ""d"""\r\n')
    assert records(file) == RECORDS
    assert places(file) == [":2", ":4"]


def test_csv_cells_may_be_long(tmp_path):
    assert len(records(write(tmp_path / "a.csv", "text\n" + "x" * 200_000))[0]["text"]) == 200_000


def test_text_is_one_record(tmp_path):
    assert records(write(tmp_path / "a.txt", "Once\n\nupon")) == [{"text": "Once\n\nupon"}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_byte_order_mark_is_no_text(tmp_path, name):
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


def test_take_stops_early(tmp_path):
    file = write(tmp_path / "a.jsonl", json.dumps(RECORDS[0]) + "\nnot reached")
    assert records(file, take=1) == RECORDS[:1]


def test_hub_sets_are_loaded_by_datasets(monkeypatch):
    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options))
        return RECORDS

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    source = Source("owner/name", name="en", split="test", revision="v1")
    assert list(read(source)) == [("owner/name:test:1", RECORDS[0]), ("owner/name:test:2", RECORDS[1])]
    assert asked == [(("owner/name", "en"), {"split": "test", "revision": "v1"})]


def test_a_hub_set_that_cannot_be_loaded(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub (OfflineModeIsEnabled).\nmore")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(RecipeError) as error:
        list(read(Source("owner/name")))
    assert str(error.value) == (
        "owner/name: neither a file here nor a data set that could be loaded from the hub "
        "(ConnectionError: Couldn't reach 'owner/name' on the Hub (OfflineModeIsEnabled))"
    )


# Mistakes

BAD = [
    (
        "a.jsonl",
        '{"text": "x"}\n{"text": x}\n',
        "FILE:2: not JSON (Expecting value, column 10); a record stands in one line, or all of them in one list",
    ),
    ("a.jsonl", '{"text": "x"}\n[1]', "FILE:2: a list; a record is an object with named fields"),
    ("a.jsonl", b'{"text": "x"}\n{"text": "caf\xe9"}', "FILE:2: not UTF-8 (byte 0xe9); save the file as UTF-8"),
    ("a.json", '[{"text": "x"},\n {"text": }]', "FILE:2: not JSON (Expecting value, column 11)"),
    ("a.json", '[{"text": "x"},\n {"text": "y"}', "FILE:2: not JSON (no comma and no end of the list after a record)"),
    ("a.json", '[{"text": "x"}\n\n{"text": "y"}]', "FILE:3: not JSON (no comma and no end of the list after a record)"),
    ("a.json", '[{"text": "x"},\n3]', "FILE:2: a number; a record is an object with named fields"),
    ("a.json", '"text"', "FILE:1: a string; a record is an object with named fields"),
    ("a.json", b'[{"text": "x"},\n\n{"text": "caf\xe9"}]', "FILE:3: not UTF-8 (byte 0xe9); save the file as UTF-8"),
    (
        "a.json",
        "{\n",
        "FILE:1: not JSON (Expecting property name enclosed in double quotes, column 2); "
        "a record stands in one line, or all of them in one list",
    ),
    ("a.csv", "prompt,response\nHi\n", "FILE:2: not as many columns as the 2 of the first line"),
    ("a.csv", "prompt,response\nHi,Ho\nHi,Ho,He\n", "FILE:3: not as many columns as the 2 of the first line"),
    ("a.csv", 'prompt\n"Hi" there\n', "FILE:2: not CSV (',' expected after '\"')"),
    (
        "a.parquet",
        "PAR2",
        "FILE: not a parquet file (Parquet file size is 4 bytes, smaller than the minimum file footer (8 bytes))",
    ),
    (
        "a.docx",
        "x",
        "FILE: not a kind of file that can be read; use .json, .jsonl, .parquet, .csv, .txt (and .gz of these)",
    ),
    ("a.txt", b"\xff\xfe", "FILE:1: not UTF-8 (byte 0xff); save the file as UTF-8"),
]


@pytest.mark.parametrize(("name", "data", "message"), BAD)
def test_what_is_wrong_with_a_file(tmp_path, name, data, message):
    assert refusal(write(tmp_path / name, data)) == message


def test_truncated_and_false_gzip(tmp_path):
    whole = gzip.compress(b'{"text": "x"}\n' * 1000)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-20])
    assert refusal(tmp_path / "cut.jsonl.gz") == (
        "FILE: damaged or cut off in the middle (Compressed file ended before the end-of-stream marker was reached); "
        "make or download it again"
    )
    (tmp_path / "false.jsonl.gz").write_bytes(b'{"text": "x"}')
    assert refusal(tmp_path / "false.jsonl.gz") == (
        "FILE: damaged or cut off in the middle (Not a gzipped file (b'{\"')); make or download it again"
    )


def test_nothing_there(tmp_path):
    missing = "FILE does not exist; name a file, a folder, a glob, or a data set on the hub (owner/name)"
    assert refusal(tmp_path / "none.jsonl") == missing
    assert refusal(tmp_path / "*.jsonl") == missing
    write(tmp_path / "note.md", "x")
    known = "use .json, .jsonl, .parquet, .csv, .txt (and .gz of these)"
    assert refusal(tmp_path) == f"FILE: the folder holds no data; {known}"


# Mixtures


def taken(sources, seed=0):
    return [record["n"] for _, record in mixed(sources, seed)]


@pytest.fixture
def numbers(tmp_path):
    """A function that writes a source of the numbers in a range."""

    def make(start, stop, **options):
        file = tmp_path / f"{start}.jsonl"
        file.write_text("".join(f'{{"n": {n}}}\n' for n in range(start, stop)))
        return Source(str(file), **options)

    return make


def test_sources_alternate_evenly(numbers):
    assert taken([numbers(0, 4), numbers(10, 12)]) == [0, 10, 1, 2, 11, 3]


def test_one_source_keeps_its_order(numbers):
    assert taken([numbers(0, 5)]) == [0, 1, 2, 3, 4]


def test_whole_weights_repeat_and_parts_are_drawn(numbers):
    assert taken([numbers(0, 3, weight=2)]) == [0, 1, 2, 0, 1, 2]
    some = taken([numbers(0, 100, weight=1.25)])
    assert some[:100] == list(range(100))
    assert len(set(some[100:])) == 25


def test_what_is_drawn_depends_on_the_seed_alone(numbers):
    def part(seed):
        return taken([numbers(0, 1000, weight=0.1)], seed)

    assert part(0) == part(0) == sorted(part(0))
    assert len(set(part(0))) == 100
    assert part(0) != part(1)


def test_even_a_small_weight_takes_one(numbers):
    assert len(taken([numbers(0, 3, weight=0.01)])) == 1


def test_a_source_without_records_is_named(numbers):
    empty = numbers(0, 0)
    with pytest.raises(RecipeError) as error:
        taken([numbers(1, 2), empty])
    assert str(error.value) == f"{empty.path}: no records in it"
