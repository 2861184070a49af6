"""Which files of a folder are read: one file type and one split; other files are left out and reported."""

import json
import random
import re
from contextlib import suppress

import pytest
import yaml
from datasets.data_files import get_data_patterns, resolve_pattern

from config import RecipeError
from config.data import Source
from engine.data.folders import select_files
from engine.data.sources import read_source
from tests.support.rows_setting import SHORT, TRAIN, conversation_rows, recipe
from tests.support.tokenizers import qwen

LINE = json.dumps({"messages": SHORT}) + "\n"


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(LINE)
    return str(folder)


def selected(folder, split="train"):
    """Return the files that are read and those left out, relative to the folder."""
    files = select_files(str(folder), split)
    return [[path.replace(f"{folder}/", "") for path in part] for part in files]


def refusal(folder, split="train"):
    with pytest.raises(RecipeError) as error:
        select_files(str(folder), split)
    return str(error.value).replace(str(folder), "FOLDER")


def test_licences_readmes_and_requirements_are_left_out(tmp_path):
    others = ["LICENSE.txt", "README.md", "README.txt", "requirements-dev.txt", "requirements.txt", "dataset_info.json"]
    fill(tmp_path, "b.jsonl", "deep/a.json", "c.jsonl.gz", ".cache/x.jsonl", "__pycache__/y.json", *others)
    assert selected(tmp_path) == [["b.jsonl", "c.jsonl.gz", "deep/a.json"], sorted(others)]


def test_licences_and_notices_are_left_out_of_a_folder_of_text(tmp_path):
    fill(tmp_path, "one.txt", "two.txt", "NOTICE.txt", "License-MIT.txt", "notices of death.txt")
    assert selected(tmp_path) == [["notices of death.txt", "one.txt", "two.txt"], ["License-MIT.txt", "NOTICE.txt"]]


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["a.jsonl", "b.jsonl"], {"train": ["a.jsonl", "b.jsonl"]}),
        (["train.jsonl", "test.jsonl"], {"train": ["train.jsonl"], "test": ["test.jsonl"]}),
        (["my_train.csv", "dev-2.csv", "x.csv"], {"train": ["my_train.csv"], "validation": ["dev-2.csv"]}),
        (["test/a.jsonl", "training/b.jsonl"], {"train": ["training/b.jsonl"], "test": ["test/a.jsonl"]}),
        (["train/test-1.csv", "valid/x.csv"], {"train": ["train/test-1.csv"], "validation": ["valid/x.csv"]}),
        (["trainer.csv", "contest.csv"], {"train": ["contest.csv", "trainer.csv"]}),
        (
            ["data/train_sft-00000-of-00001.parquet", "data/test_sft-00000-of-00001.parquet", "train.parquet"],
            {split: [f"data/{split}-00000-of-00001.parquet"] for split in ("train_sft", "test_sft")},
        ),
        (["alpaca-00000-of-00002.csv", "alpaca-00001-of-00002.csv"],
         {"train": ["alpaca-00000-of-00002.csv", "alpaca-00001-of-00002.csv"]}),
    ],
)  # fmt: skip
def test_splits_equal_those_of_datasets_by_hand(tmp_path, names, splits):
    fill(tmp_path, *names)
    assert {split: selected(tmp_path, split)[0] for split in splits} == splits
    assert splits_of_datasets(tmp_path) == {split: set(paths) for split, paths in splits.items()}


def splits_of_datasets(folder):
    """Return split -> paths as `datasets` finds them."""
    splits = {}
    for split, patterns in get_data_patterns(str(folder)).items():
        for pattern in patterns:
            with suppress(FileNotFoundError):
                paths = resolve_pattern(pattern, str(folder))
                splits.setdefault(str(split), set()).update(path.removeprefix(f"{folder}/") for path in paths)
    return splits


def test_splits_equal_those_of_datasets_in_random_folders(tmp_path):
    """If `datasets` puts a file into two splits (`train-test.jsonl`), one of them is used here."""
    words = ["train", "test", "dev", "valid", "a", "evaluation", "my", "data", "contest"]
    draw = random.Random(0)
    for number in range(40):
        folder = tmp_path / str(number)
        name = lambda: draw.choice("-_. ").join(draw.choices(words, k=draw.randint(1, 2)))  # noqa: E731
        fill(folder, *{"/".join(name() for _ in range(draw.randint(1, 3))) + ".jsonl" for _ in range(4)})
        expected, ours = splits_of_datasets(folder), {}
        for split in expected:
            with suppress(RecipeError):
                ours[split] = set(selected(folder, split)[0])
        assert all(paths <= expected[split] for split, paths in ours.items()), number
        assert set().union(*ours.values()) == set().union(*expected.values()), number


def test_the_report_lists_files_read_and_left_out(tmp_path):
    folder = fill(tmp_path / "set", "train.jsonl", "test.jsonl", "LICENSE.txt")
    rows, report = conversation_rows(folder, recipe(), qwen(), **TRAIN)
    assert len(rows) == 1
    assert report.text("train").splitlines()[3:] == [
        f"  read from: {folder}/train.jsonl",
        f"  left out: {folder}/LICENSE.txt, {folder}/test.jsonl (split test)",
    ]
    kept = report.as_dict()
    assert kept["read_from"] == [f"{folder}/train.jsonl"]
    assert kept["left_out"] == [f"{folder}/LICENSE.txt", f"{folder}/test.jsonl (split test)"]
    again = conversation_rows(folder, recipe(), qwen(), **TRAIN)[1]
    assert again == report  # from the cache
    _, held_out = conversation_rows({"path": folder, "split": "test"}, recipe(), qwen(), **TRAIN)
    assert held_out.read_from == [f"{folder}/test.jsonl"]


def test_long_lists_of_files_are_shortened_on_the_console_only(tmp_path):
    folder = fill(tmp_path, *[f"{n:02}.jsonl" for n in range(11)])
    _, report = conversation_rows(folder, recipe(), qwen(), **TRAIN)
    assert report.text("train").splitlines()[3].endswith("/07.jsonl and 3 more")
    assert len(report.as_dict()["read_from"]) == 11


def test_a_single_file_is_not_listed_on_the_console(tmp_path):
    _, report = conversation_rows(f"{fill(tmp_path, 'a.jsonl')}/a.jsonl", recipe(), qwen(), **TRAIN)
    assert len(report.text("train").splitlines()) == 3


def test_a_missing_split_is_reported_and_the_advice_works(tmp_path):
    fill(tmp_path, "test.jsonl", "other.jsonl")
    message = refusal(tmp_path)
    assert message == (
        "FOLDER: no file belongs to the split train, only to test; use {path: FOLDER, split: test}, "
        "or select files with a glob"
    )
    assert selected(tmp_path, "test")[0] == ["test.jsonl"]
    assert len(list(read_source(Source(f"{tmp_path}/*.jsonl")))) == 2


def test_a_split_of_a_folder_without_splits_is_refused(tmp_path):
    fill(tmp_path, "a.jsonl")
    assert refusal(tmp_path, "test") == (
        "FOLDER: all files belong to the split train; leave split: test out, or select files with a glob"
    )
    assert selected(tmp_path)[0] == ["a.jsonl"]


def test_the_advice_works_for_a_folder_with_an_unusual_name(tmp_path):
    folder = tmp_path / "my [x]: data, 1"
    fill(folder, "test.jsonl")
    with pytest.raises(RecipeError) as error:
        select_files(str(folder), "train")
    advice = re.search(r"use (\{.*\}), or select", str(error.value))[1]
    rows, _ = conversation_rows(yaml.safe_load(advice), recipe(), qwen(), **TRAIN)
    assert len(rows) == 1
    fill(folder, "notes.txt")
    with pytest.raises(RecipeError) as error:
        select_files(str(folder), "train")
    rows, _ = conversation_rows(str(error.value).partition("matches: ")[2], recipe(), qwen(), **TRAIN)
    assert len(rows) == 1


def test_several_file_types_are_reported_and_the_advice_works(tmp_path):
    fill(tmp_path, "a.jsonl", "deep/b.jsonl", "c.json.gz", "notes.txt")
    message = refusal(tmp_path)
    assert message == (
        "FOLDER: the folder contains several file types (2 .jsonl, 1 .json, 1 .txt); select one with a glob, which "
        "reads every file that it matches: FOLDER/**/*.jsonl*"
    )
    pattern = re.search(r"\S+$", message)[0].replace("FOLDER", str(tmp_path))
    assert len(list(read_source(Source(pattern)))) == 2


def test_a_folder_without_data_is_reported(tmp_path):
    fill(tmp_path, "LICENSE.txt", "README.md")
    assert refusal(tmp_path) == (
        "FOLDER: the folder contains no data (LICENSE.txt, README.md); use .json, .jsonl, .parquet, .csv, .txt "
        "(and .gz or .zst of these), or a folder that save_to_disk wrote"
    )
