"""The cache of prepared rows: its key, the same rows from any number of workers, progress and errors."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from config import RecipeError
from config.data import Source
from engine.data import chunks, encoding, prepare, progress
from engine.data.chatml_section import ChatML
from engine.data.packing import pack_rows
from engine.data.prepare import cache_folder, prepare_rows
from engine.data.reading import Settings
from tests.support.paths import ROOT
from tests.support.rows_setting import (
    PROMPTS,
    SHORT,
    TRAIN,
    conversation_rows,
    prompt_rows,
    recipe,
    talk,
    write_records,
)
from tests.support.tokenizers import llama, qwen

MANY = [{"messages": talk(f"How many is {n}?", "so " * (n % 7) + ".")} for n in range(90)]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "plumbline"


def cached(cache):
    return {path.name for path in cache.iterdir() if path.is_dir()}


def test_prepared_rows_and_their_report_are_read_from_the_cache(file, cache, monkeypatch):
    path = file(*MANY, {"messages": talk("?", "x" * 99)}, {"a": 1})
    first = conversation_rows(path, recipe(on_bad_record="skip"), qwen(), **TRAIN)
    monkeypatch.setattr(prepare, "_write", None)
    again = conversation_rows(path, recipe(on_bad_record="skip"), qwen(), **TRAIN)
    assert list(again[0]) == list(first[0])
    assert again[1] == first[1]
    assert again[1].bad
    assert again[1].lengths.total() == 91
    assert dict(again[1].dropped) == {"too long": 1, "unreadable": 1}


def test_rows_are_prepared_again_only_if_a_setting_that_affects_them_changed(file, cache):
    settings = Settings(ChatML(), {}, "cut_left", "error", "data.max_length", 64)
    source, tokenizer = Source(file(*MANY)), qwen()

    def folders(make=encoding.conversations, source=source, settings=settings, tokenizer=tokenizer):
        before = cached(cache) if cache.exists() else set()
        prepare_rows(make, source, settings, tokenizer, "data.train")
        return len(cached(cache) - before)

    assert folders() == 1
    assert folders(source=replace(source, weight=3.0)) == 0
    for change in (
        {"chatml": ChatML(mask="all")}, {"fields": {"a": "prompt"}}, {"fields": {"prompt": None}}, {"too_long": "drop"},
        {"limit": 65}, {"on_bad_record": "skip"}, {"document_end": "<|endoftext|>"},
    ):  # fmt: skip
        assert folders(settings=replace(settings, **change)) == 1, change
    for change in ({"skip": 1}, {"take": 80}, {"only_share": 0.5}, {"without_share": 0.5}):
        assert folders(source=replace(source, **change)) == 1, change
    assert folders(make=encoding.prompts) == 1
    assert folders(tokenizer=llama()) == 1
    write_records(Path(source.path), *MANY[1:], MANY[0])
    assert folders() == 1
    assert folders() == 0


def test_the_cache_key_depends_on_the_code(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    seen = []
    for text in ("a = 1", "a = 2"):
        (tmp_path / "chatml").mkdir(exist_ok=True)
        (tmp_path / "chatml" / "encode.py").write_text(text)
        seen.append(prepare._code.__wrapped__())
    assert seen[0] != seen[1]


def test_the_cache_key_covers_all_code_that_makes_rows():
    """Every module of chatml and engine that workers import is part of the key."""
    command = "import sys, engine.data.chunks; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True).stdout.split()
    known = {path for pattern in prepare.CODE for path in ROOT.glob(pattern)}
    unknown = {name for name in loaded if (ROOT / f"{name.replace('.', '/')}.py") not in known}
    assert {name for name in unknown if name.startswith(("chatml.", "engine."))} == {"engine.data"}
    assert not {"torch", "datasets"} & set(loaded)  # workers start without importing them


@pytest.mark.parametrize(("make", "limit"), [(conversation_rows, TRAIN), (prompt_rows, PROMPTS)])
def test_several_workers_write_the_same_file_as_one_process(file, cache, monkeypatch, make, limit):
    monkeypatch.setattr(chunks, "CHUNK_RECORDS", 8)
    monkeypatch.setattr(prepare, "WORKERS_WORTH_SECONDS", float("inf"))
    path = file(*MANY)
    rows, report = make(path, recipe(), qwen(), **limit)
    rows_file = Path(rows.cache_files[0]["filename"])
    content = rows_file.read_bytes()
    rows_file.parent.rename(cache / "elsewhere")
    started = []
    monkeypatch.setattr(prepare, "WORKERS_WORTH_SECONDS", -1.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))
    in_processes = prepare.map_in_order.__globals__["_in_processes"]
    monkeypatch.setitem(
        prepare.map_in_order.__globals__, "_in_processes", lambda *a: started.append(1) or in_processes(*a)
    )
    again, counted = make(path, recipe(), qwen(), **limit)
    assert started
    assert Path(again.cache_files[0]["filename"]) == rows_file
    assert rows_file.read_bytes() == content
    assert counted == report


def test_the_first_error_in_the_file_is_reported_with_and_without_workers(tmp_path, cache, monkeypatch):
    """With workers, the damaged end of the file is read before the bad record of the second chunk is encoded."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps([*MANY[:12], {"a": 1}, *MANY[12:30]], indent=0)[:-1] + ",{]")
    monkeypatch.setattr(chunks, "CHUNK_RECORDS", 8)
    messages = set()
    for worth_seconds in (float("inf"), -1.0):
        monkeypatch.setattr(prepare, "WORKERS_WORTH_SECONDS", worth_seconds)
        with pytest.raises(RecipeError) as error:
            conversation_rows(str(path), recipe(), qwen(), **TRAIN)
        messages.add(str(error.value).partition(";")[0])
        assert not cached(cache)
    line = path.read_text().partition('{\n"a": 1')[0].count("\n") + 1
    assert messages == {f"{path}:{line}: matches no known format"}


def test_progress_is_printed_line_by_line_without_a_terminal(file, cache, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LOG_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(chunks, "CHUNK_RECORDS", 45)
    conversation_rows(file(*MANY), recipe(), qwen(), **TRAIN)
    assert capsys.readouterr().out == "data.train: 45 records, 50 %\ndata.train: 90 records, 100 %\n"


def test_a_cache_that_cannot_be_written_is_reported(file, tmp_path, monkeypatch):
    (tmp_path / "occupied").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "occupied")
    with pytest.raises(RecipeError) as error:
        conversation_rows(file({"messages": SHORT}), recipe(), qwen(), **TRAIN)
    assert str(error.value) == (
        f"{cache_folder()}: prepared data cannot be stored there (Not a directory); "
        "make room, or set HF_DATASETS_CACHE to another folder"
    )


def test_a_set_on_the_hub_is_prepared_like_a_file(cache, monkeypatch):
    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options))
        return datasets.Dataset.from_list(MANY)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows, report = conversation_rows("owner/name:test", recipe(), qwen(), **TRAIN)
    assert asked == [(("owner/name", None), {"split": "test", "revision": None})]
    assert (len(rows), report.kept) == (90, 90)


def test_packed_rows_are_cached(file, cache, monkeypatch):
    rows, _ = conversation_rows([file(*MANY), {"path": file(*MANY, name="b.jsonl"), "weight": 0.5}], recipe(), qwen(),
                                **TRAIN)  # fmt: skip
    first = pack_rows(rows, 128)
    assert sum(map(sum, first["seq_lengths"])) == sum(len(row["input_ids"]) for row in rows)
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")}
    assert list(pack_rows(rows, 128)) == list(first)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")} == files


def test_prompt_records_keep_values_without_a_json_type_as_text(tmp_path, cache):
    table = pyarrow.table({"prompt": ["Hi"], "at": pyarrow.array([0], pyarrow.timestamp("s"))})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    rows, _ = prompt_rows(str(tmp_path / "a.parquet"), recipe(), qwen(), **PROMPTS)
    assert json.loads(rows[0]["record"]) == {"prompt": "Hi", "at": "1970-01-01 00:00:00"}
