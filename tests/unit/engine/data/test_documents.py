"""Plain text of several documents: splitting at `data.document_end`, and a warning if it seems to be missing."""

import json
import re
from pathlib import Path

import pytest

from chatml import IGNORE, control, plain_encoder
from config import RecipeError, load
from config.data import Source
from engine.data.sources import read_source
from sft.recipe import SFT
from tests.support.rows_setting import SHORT, TRAIN, conversation_rows, document_rows, recipe, text_rows, write_records
from tests.support.tokenizers import llama, qwen

END = "<|endoftext|>"
LIMIT = {"key": "data.pretrain", "max_length": 1000}


def write_text(folder, text):
    (folder / "a.txt").write_text(text)
    return str(folder / "a.txt")


def row(text, tokenizer):
    ids = control(tokenizer)
    tokens = [*([] if ids.bos is None else [ids.bos]), *plain_encoder(tokenizer)(text), ids.endoftext]
    return {"input_ids": tokens, "labels": [IGNORE, *tokens[1:]]}


@pytest.mark.parametrize("tokenizer", [qwen, llama])
@pytest.mark.parametrize("make", [text_rows, conversation_rows])
def test_a_text_file_is_split_at_document_end_which_is_not_trained_on(tmp_path, make, tokenizer):
    path = write_text(tmp_path, f"Once.\n{END}\nUpon <|end| a time.{END}{END}\n \n{END}The fox{END}")
    rows, report = make(path, recipe(document_end=END), tokenizer(), **LIMIT)
    documents = ["Once.\n", "\nUpon <|end| a time.", "The fox"]
    assert rows.to_list() == [row(text, tokenizer()) for text in documents]
    assert (report.read, report.kept, report.spelled_ends) == (3, 3, {})


def test_perplexity_uses_the_same_documents(tmp_path):
    path = write_text(tmp_path, f"Once.{END}Upon")
    rows, report = document_rows(path, recipe(document_end=END), qwen(), **LIMIT)
    assert rows["text"] == ["Once.", "Upon"]
    rows, report = document_rows(path, recipe(), qwen(), **LIMIT)
    assert rows["text"] == [f"Once.{END}Upon"]
    assert report.spelled_ends == {END: 1}


def test_document_end_is_matched_exactly(tmp_path):
    path = write_text(tmp_path, "a\n---\nb --- c\n----\nd")
    assert [found["text"] for _, found in read_source(Source(path), "\n---\n")] == ["a", "b --- c\n----\nd"]
    assert [found["text"] for _, found in read_source(Source(path), ".*")] == [Path(path).read_text()]


def test_text_records_are_split_and_conversations_are_not(tmp_path):
    talk = {"messages": [{**SHORT[0], "content": f"a{END}b"}, SHORT[1]]}
    path = write_records(tmp_path / "a.jsonl", {"content": f"x{END}y", "id": 7}, talk, {"content": "z"}, {"id": 8})
    found = list(read_source(Source(path), END, {"content": "text"}))
    assert found == [
        (f"{path}:1, document 1", {"content": "x"}),
        (f"{path}:1, document 2", {"content": "y"}),
        (f"{path}:2", talk),
        (f"{path}:3", {"content": "z"}),
        (f"{path}:4", {"id": 8}),
    ]


def test_skip_take_and_shares_count_documents(tmp_path):
    path = write_text(tmp_path, END.join(map(str, range(400))))
    assert [found["text"] for _, found in read_source(Source(path, skip=2, take=3), END)] == ["2", "3", "4"]
    only, rest = ({found["text"] for _, found in read_source(Source(path, **{key: 0.25}), END)}
                  for key in ("only_share", "without_share"))  # fmt: skip
    assert only | rest == set(map(str, range(400)))
    assert not only & rest
    assert 60 < len(only) < 140  # 100 ± 8.7


@pytest.mark.parametrize(("tokenizer", "end"), [(qwen, END), (llama, "<|end_of_text|>")])
def test_an_end_token_in_the_text_is_warned_of_and_the_advice_works(tmp_path, tokenizer, end):
    path = write_text(tmp_path, f"Once.{end}Upon{end}a time.")
    _, report = text_rows(path, recipe(), tokenizer(), **LIMIT)
    warning = report.text("pretrain").splitlines()[3]
    assert warning == (
        f"  warning: 1 document contains {end} as plain text; if it separates documents, set data.document_end='{end}'"
    )
    assert report.as_dict()["spelled_ends"] == {end: 1}
    file = tmp_path / "sft.yaml"
    file.write_text("stage: sft\nmodel: {path: m}\nrun: {dir: a}\ndata: {train: b}\n")
    advice = re.search(r"set (\S+)$", warning)[1]
    followed = load(SFT, file, [advice]).data.document_end
    rows, report = text_rows(path, recipe(document_end=followed), tokenizer(), **LIMIT)
    assert (len(rows), report.spelled_ends) == (3, {})


def test_an_end_token_in_a_conversation_is_not_warned_of(tmp_path):
    path = write_records(tmp_path / "a.jsonl", {"messages": [{**SHORT[0], "content": END}, SHORT[1]]})
    assert conversation_rows(path, recipe(), qwen(), **TRAIN)[1].spelled_ends == {}


def test_document_end_in_a_recipe_must_not_be_empty(tmp_path):
    file = tmp_path / "sft.yaml"
    file.write_text("stage: sft\nmodel: {path: m}\nrun: {dir: a}\ndata: {train: b, document_end: '---'}\n")
    assert load(SFT, file, []).data.document_end == "---"
    assert load(SFT, file, [f"data.document_end={json.dumps(END + chr(10))}"]).data.document_end == f"{END}\n"
    for share in ("null", "0.1"):
        with pytest.raises(RecipeError, match="document_end is empty; give the separator between documents"):
            load(SFT, file, ["data.document_end=''", f"data.eval={share}"])
