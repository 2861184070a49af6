"""Comparisons from scored candidates, against numbers worked by hand."""

import json
import shutil

import pytest

from config import load
from engine.errors import RunError
from engine.files.jsonl import read
from reward.annotation.pairs import is_test, make_pairs
from reward.annotation.recipe import MakePairs
from tests.support.rows_setting import TRAIN, pair_rows
from tests.support.rows_setting import recipe as rows_recipe
from tests.support.stage_runs import write_jsonl
from tests.support.tokenizers import qwen

RULE = 'score: {rule: "tests.unit.reward.test_annotated_pairs:length"}, test_share: 0'


def length(messages, answer, record):
    """Score an answer by its length."""
    return len(answer) // 2


def pairs_recipe(out, lines, pairs, more=""):
    write_jsonl(out / "lines.jsonl", lines)
    sections = f"pairs: {{{pairs}}}\ndata: {{candidates: {out}/lines.jsonl}}\nrun: {{dir: {out}/pairs}}"
    (out / "pairs.yaml").write_text(f"stage: pairs\n{sections}\n{more}\n")
    return load(MakePairs, out / "pairs.yaml")


def line(question, answer, score, **more):
    return {"messages": [{"role": "user", "content": question}], "answer": answer, "score": score, **more}


def test_pairs_by_hand(tmp_path):
    """Scores 3, 2.5, 1, 1 of one prompt: 3 and 2.5 are too close, the last two tie, four comparisons remain."""
    lines = [
        line("Hi", "a", 3, record={"tools": None, "task": "greet"}), line("Hi", "b", 2.5), line("Hi", "c", 1),
        line("Hi", "d", 1), line("Hi", "a", 0), line("Hi", "e", 9, ended=False), line("Bye", "x", 1),
    ]  # fmt: skip
    make_pairs(pairs_recipe(tmp_path, lines, "score_field: score, min_margin: 1, per_prompt: 9, test_share: 0"))
    rows = read(tmp_path / "pairs" / "train.jsonl")
    assert {(row["chosen"], row["rejected"], row["margin"]) for row in rows} == {
        ("a", "c", 2), ("a", "d", 2), ("b", "c", 1.5), ("b", "d", 1.5),
    }  # fmt: skip
    assert all(row["prompt"] == [{"role": "user", "content": "Hi"}] for row in rows)
    assert {row.get("task") for row in rows if row["chosen"] == "a"} == {"greet"}
    assert json.loads((tmp_path / "pairs" / "pairs.json").read_text()) == {
        "prompts": 2, "candidates": 5, "repeated answers": 1, "unfinished answers": 1, "below the margin": 1, "ties": 1,
        "beyond per_prompt": 0, "prompts without a pair": 1, "train pairs": 4, "test pairs": 0,
    }  # fmt: skip


def test_per_prompt_limits_pairs_and_a_prompt_is_in_train_or_test_only(tmp_path):
    lines = [line(f"Question {n}", "a" * k, k) for n in range(200) for k in range(1, 5)]
    make_pairs(pairs_recipe(tmp_path, lines, "score_field: score, per_prompt: 2, test_share: 0.25"))
    parts = {
        part: [row["prompt"][0]["content"] for row in read(tmp_path / "pairs" / f"{part}.jsonl")]
        for part in ("train", "test")
    }
    assert not set(parts["train"]) & set(parts["test"])
    assert len(parts["train"]) + len(parts["test"]) == 400
    assert 25 < len(set(parts["test"])) < 75
    assert max(map(parts["train"].count, parts["train"])) == 2
    assert is_test("anything", 0.0) is False


def test_candidates_scored_by_a_rule_become_pairs_that_a_reward_model_reads(tmp_path):
    qwen().save_pretrained(tmp_path / "tokenizer")
    written = [line(f"Question {n}", "e" * k, None, model=f"m{k}") for n in range(4) for k in range(1, 6)]
    make_pairs(pairs_recipe(tmp_path, written, RULE, f"tokenizer: {tmp_path}/tokenizer"))
    rows = read(tmp_path / "pairs" / "train.jsonl")
    for row in rows:
        assert row["margin"] == len(row["chosen"]) // 2 - len(row["rejected"]) // 2 > 0
        assert [side["score"] for side in row["from"]] == [len(row[side]) // 2 for side in ("chosen", "rejected")]
        assert {side["model"] for side in row["from"]} <= {f"m{k}" for k in range(1, 6)}
    made, _ = pair_rows(str(tmp_path / "pairs" / "train.jsonl"), rows_recipe(), qwen(), **TRAIN)
    assert made["margin"][:] == [row["margin"] for row in rows]


def test_candidates_are_scored_with_reasoning_parsed_as_the_recipe_says(tmp_path):
    """ "<think>a</think>b" has 17 characters, and 21 as parsed and written for training."""
    qwen().save_pretrained(tmp_path / "tokenizer")
    lines = [line("Hi", "<think>a</think>b", None), line("Hi", "b", None)]
    for parse, score in (("false", 8), ("true", 10)):
        more = f"tokenizer: {tmp_path}/tokenizer\nchatml: {{parse_text: {parse}}}"
        recipe = pairs_recipe(tmp_path, lines, RULE, more)
        make_pairs(recipe)
        (row,) = read(tmp_path / "pairs" / "train.jsonl")
        assert row["margin"] == score
        shutil.rmtree(tmp_path / "pairs")
    lines.append(line("Hi", "<think>a", None))
    with pytest.raises(RunError) as error:
        make_pairs(pairs_recipe(tmp_path, lines, RULE, more))
    assert str(error.value) == (
        "message 2: <think> without </think>; close it, or set chatml.parse_text=false, in the response '<think>a'"
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"answer": "a"}], "lines.jsonl:1: a candidate needs 'messages', a list, and 'answer', a text"),
        ([line("Hi", "a", "good")], "lines.jsonl:1: 'score' is 'good'; a score is a number"),
        (
            [line("Hi", "a", 1, ended=False)],
            "data.candidates has no finished responses; check the file that make candidates wrote",
        ),
        (
            [line("Hi", "a", 1), line("Hi", "b", 1)],
            "no comparisons: each prompt's scores are within pairs.min_margin=0.0",
        ),
        (
            [line("Hi", "a", 1), line("Hi", "b", 2)],
            "all comparisons are in the test part; lower pairs.test_share=0.99, or add prompts",
        ),
    ],
)
def test_messages_for_candidates_that_make_no_pairs(tmp_path, lines, message):
    with pytest.raises(RunError) as error:
        make_pairs(pairs_recipe(tmp_path, lines, "score_field: score, test_share: 0.99"))
    assert str(error.value).endswith(message)
