"""Error messages for files and records that cannot be read: one line with the file, the line and the way out."""

import gzip
import json

import pyarrow
import pytest

from chatml import FIELDS
from config import RecipeError
from engine.data import json_files
from tests.support.rows_setting import (
    PROMPTS,
    TRAIN,
    conversation_rows,
    pair_rows,
    prompt_rows,
    recipe,
    talk,
    text_rows,
)
from tests.support.tokenizers import qwen, words

GOOD = {"prompt": "Hi", "response": "Yes.", "chosen": "Yes.", "rejected": "No.", "text": "x"}
LINE = json.dumps(GOOD) + "\n"
KNOWN = "use .json, .jsonl, .parquet, .csv, .txt (and .gz or .zst of these), or a folder that save_to_disk wrote"
SKIP = "; correct it, or set data.on_bad_record=skip"
ONE_LINE = f"; write one record per line, or all records in one list{SKIP}"
AGAIN = "; correct the file there, or regenerate it"
DIGITS = "a number has too many digits to be read; write it as a string"
DAMAGED = "FILE: damaged or truncated ({}); regenerate or download it again"
QUOTED = "Expecting property name enclosed in double quotes"


def zst(data):
    return pyarrow.compress(data.encode(), codec="zstd", asbytes=True)


def error_of(path, make=conversation_rows, tokenizer=None, **options):
    limit = PROMPTS if make is prompt_rows else TRAIN
    with pytest.raises(RecipeError) as error:
        make(str(path), recipe(**options), tokenizer or qwen(), **limit)
    return str(error.value).replace(str(path), "FILE")


# Files: name, content, error message.
FILES = [
    ("a.jsonl", LINE + '{"prompt": Hi}\n' + LINE, f"FILE:2: not JSON (Expecting value, column 12){ONE_LINE}"),
    ("a.jsonl", '{"prompt": "Hi", "resp\n', f"FILE:1: not JSON (Invalid control character at, column 23){ONE_LINE}"),
    ("a.jsonl", LINE + '{\n "prompt": "Hi"\n}\n', f"FILE:2: not JSON ({QUOTED}, column 1){ONE_LINE}"),
    ("a.jsonl", "{}{}\n", f"FILE:1: not JSON (Extra data, column 3){ONE_LINE}"),
    ("a.jsonl", "{'prompt': 'Hi'}\n", f"FILE:1: not JSON ({QUOTED}, column 2){ONE_LINE}"),
    ("a.jsonl", LINE + "\0\0\n", f"FILE:2: not JSON (Expecting value, column 1){ONE_LINE}"),
    ("a.jsonl", "<html>404</html>\n", f"FILE:1: not JSON (Expecting value, column 1){ONE_LINE}"),
    ("a.jsonl", LINE + "[1]\n", f"FILE:2: a list; a record is an object with named fields{SKIP}"),
    ("a.jsonl", LINE + '"Hi"\n', f"FILE:2: a string; a record is an object with named fields{SKIP}"),
    ("a.jsonl", LINE + "null\n", f"FILE:2: null; a record is an object with named fields{SKIP}"),
    ("a.jsonl", b'\n{"text": "caf\xe9"}\n', f"FILE:2: not UTF-8 (byte 0xe9); save the file as UTF-8{SKIP}"),
    ("a.jsonl", LINE.encode("utf-16"), f"FILE:1: not UTF-8 (byte 0xff); save the file as UTF-8{SKIP}"),
    ("a.jsonl", f'{{"n": {"9" * 5000}}}', f"FILE:1: {DIGITS}{SKIP}"),
    ("a.jsonl", LINE + '{"a":' * 99999, f"FILE:2: lists or objects are nested too deeply; flatten them{SKIP}"),
    ("a.jsonl", "", "FILE: no records in it"),
    ("a.jsonl", "\n\n", "FILE: no records in it"),
    ("a.json", " [ ] ", "FILE: no records in it"),
    ("a.json", f"[{LINE},\n{{]", f"FILE:3: not JSON ({QUOTED}, column 2){AGAIN}"),
    ("a.json", f"[{LINE}", f"FILE:2: not JSON (no comma and no end of the list after a record){AGAIN}"),
    ("a.json", f"[{LINE}{LINE}]", f"FILE:2: not JSON (no comma and no end of the list after a record){AGAIN}"),
    ("a.json", f'[{LINE}, {{"text": "cut o', f"FILE:2: not JSON (Unterminated string starting at, column 12){AGAIN}"),
    ("a.json", f"[{LINE}]\n[]", "FILE:3: more text after the end of the list; put all records into one list"),
    ("a.json", f"[{LINE},\n3]", f"FILE:3: a number; a record is an object with named fields{SKIP}"),
    ("a.json", b'[{"text": "x"},\n\n{"text": "caf\xe9"}]', "FILE:3: not UTF-8 (byte 0xe9); save the file as UTF-8"),
    ("a.json", '[{"n": ' + "9" * 5000 + "}]", f"FILE:1: {DIGITS}"),
    ("a.json", "{\n", f"FILE:2: not JSON ({QUOTED}, column 1){AGAIN}"),
    ("a.json", json.dumps(GOOD, indent=1) + "\n{}", f"FILE:{len(GOOD) + 3}: more text after the end of a record; "
                                                    "write one record per line, or all records in one list"),
    ("a.json", '"text"', f"FILE:1: a string; a record is an object with named fields{SKIP}"),
    ("a.csv", "prompt,response\nHi,Yes.\nHi\n", "FILE:3: cells: 1 here, 2 in the first line; put quotes around cells "
                                                f"that contain commas{SKIP}"),
    ("a.csv", "prompt,response\nHi,Oh, yes\n", "FILE:2: cells: 3 here, 2 in the first line; put quotes around cells "
                                               f"that contain commas{SKIP}"),
    ("a.csv", 'prompt,response\n"Hi" x,Yes.\n', "FILE:2: not CSV (',' expected after '\"'); correct the quotes there"),
    ("a.csv", 'prompt,response\nHi,"Yes.\n', "FILE:2: not CSV (unexpected end of data); correct the quotes there"),
    ("a.csv", "prompt,prompt\nHi,Yes.\n", "FILE:1: two columns are named 'prompt'; rename one of them"),
    ("a.csv", b"prompt,response\nHi,caf\xe9\n", "FILE:2: not UTF-8 (byte 0xe9); save the file as UTF-8"),
    ("a.csv", "prompt,response\n", "FILE: no records in it"),
    ("a.txt", b"one\ntwo \xff\n", "FILE:2: not UTF-8 (byte 0xff); save the file as UTF-8"),
    ("a.parquet", "PAR2", "FILE: not a complete parquet file (Parquet file size is 4 bytes, smaller than the minimum "
                          "file footer (8 bytes)); regenerate or download it again"),
    ("a.parquet.gz", gzip.compress(b"PAR1", mtime=0),
     "FILE: parquet files are compressed internally; decompress the file"),
    ("a.docx", "x", f"FILE: not a supported file type; {KNOWN}"),
    ("a.jsonl.gz", gzip.compress(LINE.encode() * 99, mtime=0)[:-20],
     DAMAGED.format("Compressed file ended before the end-of-stream marker was reached")),
    ("a.jsonl.gz", LINE, DAMAGED.format("Not a gzipped file (b'{\"')")),
    ("a.jsonl.zst", zst(LINE * 99)[:-10], DAMAGED.format("Truncated compressed stream")),
    ("a.jsonl.zst", LINE, DAMAGED.format("ZSTD decompress failed: Unknown frame descriptor")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), FILES)
def test_a_file_that_cannot_be_read_is_reported_with_its_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert error_of(path) == message


def test_a_record_above_the_size_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "MAX_RECORD_BYTES", 1 << 20)
    path = tmp_path / "a.jsonl"
    path.write_text(LINE + '{"text": "' + "x" * (1 << 20) + '"}')
    assert error_of(path) == "FILE:2: a line of more than 1 MiB; write one record per line, or all records in one list"
    path.write_text(f'[{LINE}, {{"text": "' + "x" * (1 << 22) + '"}]')
    assert error_of(path) == "FILE:2: a record of more than 1 MiB; split it, or correct the file"


def test_a_missing_file_and_a_folder_without_data_are_reported(tmp_path):
    missing = "FILE does not exist; name a file, a folder, a glob, or a data set on the hub (owner/name)"
    assert error_of(tmp_path / "none.jsonl") == missing
    assert error_of(tmp_path / "*.jsonl") == missing
    (tmp_path / "note.md").write_text("x")
    assert error_of(tmp_path) == f"FILE: the folder contains no data (note.md); {KNOWN}"


USER, ANSWER = talk("Hi", "Yes.")
RENAME = f"use data.fields to rename to {', '.join(FIELDS)}, or to leave out (null)"
NO_ANSWER = "no assistant turn, so nothing to train on"


def answers(**answer):
    return {"messages": [USER, {"role": "assistant", "content": "Yes.", **answer}]}


# Records: row function, record, error message.
RECORDS = [
    (conversation_rows, {"question": "Hi"}, f"matches no known format; it has question; {RENAME}"),
    (conversation_rows, {}, f"matches no known format; it has no fields; {RENAME}"),
    (conversation_rows, {"messages": "Hi"}, "'messages' is a string; it must be a list of messages"),
    (conversation_rows, {"messages": []}, f"{NO_ANSWER}: a conversation needs one"),
    (conversation_rows, {"messages": [USER]}, f"{NO_ANSWER}: a conversation needs one"),
    (conversation_rows, {"messages": [USER, "Yes."]},
     "'messages', message 2: it is a string; it must be an object with role and content"),
    (conversation_rows, {"messages": [{"content": "Hi"}, ANSWER]},
     "'messages', message 1: it has the keys content; give it role and content"),
    (conversation_rows, answers(role="robot"),
     "'messages', message 2: unknown role 'robot'; use system, user, assistant, tool, "
     "or map it to system, user, assistant or tool: data.roles.robot=ROLE"),
    (conversation_rows, answers(content=None), "'messages', message 2: it has no content"),
    (conversation_rows, answers(content=5), "'messages', message 2: content is a number; it must be a string"),
    (conversation_rows, answers(content="\ud83d"), "'messages', message 2: content has half a surrogate pair "
     "('\\ud83d' at character 0); it is not text: write the whole character"),
    (conversation_rows, answers(content=[{"type": "image_url"}]),
     "'messages', message 2: content has a part that is not text; plumbline reads text only"),
    (conversation_rows, answers(train="no"), "'messages', message 2: train is 'no'; use true or false"),
    (conversation_rows, answers(tool_calls="add"), "'messages', message 2: tool_calls is a string; it must be a list"),
    (conversation_rows, answers(tool_calls=[{}]),
     "'messages', message 2: a tool call has no name; give it name and arguments"),
    (conversation_rows, {"messages": [{**USER, "tool_calls": [{"name": "add"}]}, ANSWER]},
     "'messages', message 1: a user message calls tools; only an assistant message can"),
    (conversation_rows, {"conversations": [{"from": "human", "value": "Hi"}, {"from": "bot", "value": "x"}]},
     "'conversations', message 2: unknown speaker 'bot'; use human, user, gpt, assistant, function_call, observation, "
     "tool, system, or map it to system, user, assistant or tool: data.roles.bot=ROLE"),
    (conversation_rows, {"conversations": [{"from": "gpt"}]}, "'conversations', message 1: it has no value"),
    (conversation_rows, {"prompt": "Hi"}, f"{NO_ANSWER}: no 'response'; it has prompt; {RENAME}"),
    (conversation_rows, {"prompt": "Hi", "response": 5}, "'response' is a number; it must be text or messages"),
    (conversation_rows, {"instruction": "Hi"}, f"{NO_ANSWER}: no 'output'; it has instruction; {RENAME}"),
    (conversation_rows, {"instruction": "Hi", "output": "x", "history": [["a"]]},
     "'history', item 1: it must be [question, answer]"),
    (conversation_rows, {"messages": [{"role": "system", "content": "a"}, USER, ANSWER], "system": "b"},
     "two system prompts: 'system' and the first message; keep one"),
    (conversation_rows, {**answers(), "tools": [{}]},
     "'tools' has a tool without a name; give it name, description and parameters"),
    (text_rows, {"texts": "x"}, f"no 'text'; it has texts; {RENAME}"),
    (text_rows, {"text": ["x"]}, "'text' is a list; it must be a string"),
    (pair_rows, {"prompt": "Hi", "chosen": "x"},
     f"no 'rejected', so no comparison; it has prompt, chosen; {RENAME}"),
    (pair_rows, answers(), f"no 'chosen' and no 'rejected', so no comparison; it has messages; {RENAME}"),
    (pair_rows, {"chosen": "x", "rejected": "y"}, r"'chosen' does not begin with '\n\nHuman:', as a transcript must"),
    (pair_rows, {"chosen": [USER], "rejected": [USER]}, "'chosen' has no assistant turn, so no answer to compare"),
    (prompt_rows, {"messages": [ANSWER]}, "no user turn before the answer, so no prompt"),
    (prompt_rows, {"text": "x"}, r"'text' is plain text, not a conversation; a transcript begins with '\n\nHuman:'"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "record", "message"), RECORDS)
def test_a_record_that_cannot_be_read_is_reported_with_its_line(file, make, record, message):
    path = file(GOOD, record)
    assert error_of(path, make) == f"FILE:2: {message}{SKIP}"


def test_records_of_different_shapes_in_one_file_are_read(file):
    shapes = [GOOD, answers(), {"instruction": "Hi", "output": "Yes."}, {"text": "plain"}]
    rows, report = conversation_rows(file(*shapes), recipe(), qwen(), **TRAIN)
    assert (len(rows), report.kept) == (4, 4)


# Skipping


def test_bad_records_are_skipped_counted_and_listed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(LINE + "{\n" + LINE + '{"messages": []}\n[]\n' + LINE * 2, encoding="utf-8")
    rows, report = conversation_rows(str(path), recipe(on_bad_record="skip"), qwen(), **TRAIN)
    assert (len(rows), report.read, report.kept, dict(report.dropped)) == (4, 7, 4, {"unreadable": 3})
    assert [line.partition(": ")[0] for line in report.bad] == [f"{path}:{line}" for line in (2, 4, 5)]
    assert report.text("train").splitlines()[3:] == [f"  skipped: {line}" for line in report.bad]


def test_only_the_record_whose_text_cannot_be_encoded_is_skipped(file):
    good, bad = {"prompt": "Hi", "response": "Hi"}, {"prompt": "Hi", "response": "Yes."}
    for make, records in ((conversation_rows, (good, bad, good)), (text_rows, ({"text": "Hi"}, {"text": "Yes."}))):
        rows, report = make(file(*records), recipe(on_bad_record="skip"), words(), **TRAIN)
        assert (len(rows), dict(report.dropped)) == (len(records) - 1, {"unreadable": 1})
        assert report.bad[0].startswith(
            f"{file(*records)}:2: the text would be encoded as the tokenizer's added token '[UNK]'"
        )


def test_a_file_damaged_in_the_middle_stops_the_run_even_with_skip(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(f"[{LINE},{LINE},{{]")
    assert error_of(path, on_bad_record="skip") == f"FILE:3: not JSON ({QUOTED}, column 3){AGAIN}"


def test_mostly_bad_records_stop_the_run_even_with_skip(file):
    path = file(GOOD, {"a": 1}, {"b": 1})
    assert error_of(path, on_bad_record="skip") == (
        "data.train: only 1 of 3 records are kept (2 unreadable); correct them, or how they are read (data.fields); "
        f"the first is FILE:2: matches no known format; it has a; {RENAME}"
    )
