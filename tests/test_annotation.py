"""From prompts to comparisons: chosen, answered by several models, scored, compared; on small random models."""

import json

import pytest
import torch

from chatml import IM_END
from engine.models.loading import save_model
from engine.run.folder import AlreadyFinishedError, RunError
from engine.run.metrics import read
from recipes import RecipeError, load
from reward.annotation import candidates, prompts
from reward.annotation.candidates import write_candidates
from reward.annotation.pairs import is_test, make_pairs
from reward.annotation.prompts import choose_prompts
from reward.annotation.recipe import MakePairs, SelectPrompts, WriteCandidates
from reward.annotation.tagging import of_tagger
from tests.small_models import small_model
from tests.stage_runs import write_jsonl
from tests.tokenizers_for_tests import qwen

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]


def length(messages, answer, record):
    """A scorer: people who like it long."""
    return len(answer) // 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models of different sizes that end their answers now and then, and prompts with tags."""
    folder = tmp_path_factory.mktemp("annotation")
    tokenizer = qwen()
    for name, width in (("large", 32), ("small", 16)):
        model = small_model(vocab_size=len(tokenizer), hidden_size=width)
        with torch.no_grad():
            rows = model.get_output_embeddings().weight
            rows[tokenizer.convert_tokens_to_ids(IM_END)] += 4 * rows.abs().mean()
        save_model(model, tokenizer, folder / name)
    records = [{"prompt": " ".join(WORDS[n : n + 2]), "topic": [WORDS[n], WORDS[n % 3]]} for n in range(8)]
    write_jsonl(folder / "asked.jsonl", [*records, records[0]])
    return folder


def recipe_of(schema, path, text):
    path.write_text(text)
    return load(schema, path)


def select_recipe(folder, out, select):
    return recipe_of(SelectPrompts, out / "prompts.yaml", f"""
select: {{count: 5, {select}}}
data: {{prompts: {folder}/asked.jsonl}}
sampling: {{max_new_tokens: 12, temperature: 1.0}}
run: {{dir: {out}/prompts}}
""")  # fmt: skip


def candidates_recipe(folder, out, name="candidates"):
    return recipe_of(WriteCandidates, out / "candidates.yaml", f"""
candidates:
  models: {{large: {folder}/large, small: {folder}/small}}
  settings: [{{temperature: 1.0}}, {{temperature: 0.5, top_p: 1.0}}]
  responses: 2
data: {{prompts: {folder}/asked.jsonl}}
sampling: {{max_new_tokens: 12, top_p: 0.8, batch_size: 6}}
run: {{dir: {out}/{name}}}
""")  # fmt: skip


def pairs_recipe(out, lines, pairs, more=""):
    write_jsonl(out / "lines.jsonl", lines)
    return recipe_of(MakePairs, out / "pairs.yaml", f"""
pairs: {{{pairs}}}
data: {{candidates: {out}/lines.jsonl}}
run: {{dir: {out}/pairs}}
{more}
""")  # fmt: skip


# Prompts


def test_prompts_are_chosen_and_come_out_as_they_were(folder, tmp_path):
    choose_prompts(select_recipe(folder, tmp_path, "tag_fields: [topic]"))
    rows, asked = read(tmp_path / "prompts" / "prompts.jsonl"), read(folder / "asked.jsonl")
    assert len(rows) == 5
    for row in rows:
        assert {name: row[name] for name in ("prompt", "topic")} in asked
        assert row["tags"] == sorted(set(row["topic"]))
    report = json.loads((tmp_path / "prompts" / "coverage.json").read_text())
    assert (report["prompts"], report["chosen"], report["repeated"], report["tags"]) == (8, 5, 1, 8)


def test_a_tagger_is_asked_where_no_field_holds_tags(folder, tmp_path, monkeypatch):
    """A real model answers; what it says of the prompts becomes their tags."""
    asked = []

    def tagger(recipe, conversations):
        found = of_tagger(recipe, conversations)
        asked.extend(conversations)
        return found

    monkeypatch.setattr(prompts, "of_tagger", tagger)
    recipe = select_recipe(folder, tmp_path, f"tagger: {folder}/large, tag_fields: [nowhere]")
    choose_prompts(recipe)
    rows = read(tmp_path / "prompts" / "prompts.jsonl")
    assert [each[0]["content"] for each in asked] == [row["prompt"] for row in read(folder / "asked.jsonl")[:8]]
    assert any(row["tags"] for row in rows)
    again = of_tagger(
        recipe, [[{"role": "user", "content": row["prompt"]}] for row in read(folder / "asked.jsonl")[:8]]
    )
    assert {tag for row in rows for tag in row["tags"]} <= {tag for tags in again for tag in tags}


def test_no_tags_anywhere(folder, tmp_path):
    with pytest.raises(RunError) as error:
        choose_prompts(select_recipe(folder, tmp_path, "tag_fields: [nowhere]"))
    assert str(error.value) == "no prompt has a tag in nowhere; name select.tagger or the field"
    with pytest.raises(RecipeError, match="select knows no tags; give"):
        select_recipe(folder, tmp_path, "")


# Candidates


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("candidates")
    write_candidates(candidates_recipe(folder, out))
    return read(out / "candidates" / "candidates.jsonl")


def test_every_model_answers_every_prompt_under_every_setting(folder, written):
    """9 prompts × 2 models × 2 settings × 2 answers, each with where it comes from."""
    assert len(written) == 72
    keys = {(line["prompt"], line["model"], line["setting"], line["number"]) for line in written}
    assert keys == {(p, m, s, k) for p in range(9) for m in ("large", "small") for s in (0, 1) for k in (0, 1)}
    one = next(line for line in written if (line["prompt"], line["model"], line["setting"]) == (2, "small", 1))
    assert {name: one[name] for name in ("temperature", "top_p", "path", "seed")} == {
        "temperature": 0.5, "top_p": 1.0, "path": f"{folder}/small", "seed": 0,
    }  # fmt: skip
    assert one["record"] == read(folder / "asked.jsonl")[2]
    assert one["messages"] == [{"role": "user", "content": one["record"]["prompt"]}]
    assert {line["top_p"] for line in written if line["setting"] == 0} == {0.8}
    assert len({line["answer"] for line in written}) > 20
    assert not any(IM_END in line["answer"] for line in written)


def test_killed_it_goes_on_where_the_file_ends(folder, written, tmp_path, monkeypatch):
    """Killed after some batches, in the middle of a line."""
    calls = []

    def failing(*arguments, **settings):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments, **settings)

    real = candidates.sample
    monkeypatch.setattr(candidates, "sample", failing)
    recipe = candidates_recipe(folder, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        write_candidates(recipe)
    monkeypatch.setattr(candidates, "sample", real)
    path = tmp_path / "candidates" / "candidates.jsonl"
    path.write_text(path.read_text()[:-9])
    write_candidates(recipe)

    def order(line):
        return line["model"], line["setting"], line["prompt"], line["number"]

    assert sorted(read(path), key=order) == sorted(written, key=order)
    with pytest.raises(AlreadyFinishedError):
        write_candidates(recipe)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("[]", "candidates.settings is []; it must be a list of mappings: [{temperature: 1.0, top_p: 0.9}]"),
        ("[{top_p: 2}]", "candidates.settings[0].top_p is 2.0; it must be above 0 and at most 1"),
        ("[{top: 2}]", "unknown key candidates.settings[0].top; did you mean candidates.settings[0].top_p?"),
    ],
)
def test_settings_are_checked(folder, tmp_path, settings, message):
    candidates_recipe(folder, tmp_path)
    with pytest.raises(RecipeError) as error:
        load(WriteCandidates, tmp_path / "candidates.yaml", [f"candidates.settings={settings}"])
    assert str(error.value).endswith(message)


# Pairs


def line(question, answer, score, **more):
    return {"messages": [{"role": "user", "content": question}], "answer": answer, "score": score, **more}


def test_pairs_by_hand(tmp_path):
    """Scores 3, 2.5, 1, 1 of one prompt: 3 > 2.5 is below the margin, the last two tie, four comparisons are left."""
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


def test_at_most_so_many_of_a_prompt_and_no_prompt_on_both_sides(tmp_path):
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


def test_candidates_scored_by_a_rule_become_pairs_that_a_reward_model_reads(folder, written, tmp_path):
    from engine.data.rows import pair_rows
    from tests.rows_setting import TRAIN
    from tests.rows_setting import recipe as rows_recipe

    make_pairs(
        pairs_recipe(tmp_path, written, 'score: {rule: "tests.test_annotation:length"}, test_share: 0',
                     f"tokenizer: {folder}/large")
    )  # fmt: skip
    rows = read(tmp_path / "pairs" / "train.jsonl")
    for row in rows:
        assert row["margin"] == len(row["chosen"]) // 2 - len(row["rejected"]) // 2 > 0
        assert [side["score"] for side in row["from"]] == [len(row[side]) // 2 for side in ("chosen", "rejected")]
        assert {side["model"] for side in row["from"]} <= {"large", "small"}
    made, _ = pair_rows(str(tmp_path / "pairs" / "train.jsonl"), rows_recipe(), qwen(), **TRAIN)
    assert made["margin"][:] == [row["margin"] for row in rows]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"answer": "a"}], "lines.jsonl:1: a candidate needs 'messages', a list, and 'answer', a text"),
        ([line("Hi", "a", "good")], "lines.jsonl:1: 'score' is 'good'; a score is a number"),
        (
            [line("Hi", "a", 1, ended=False)],
            "data.candidates: no finished answers in it; see what make candidates wrote",
        ),
        (
            [line("Hi", "a", 1), line("Hi", "b", 1)],
            "no comparisons: all candidates score alike within pairs.min_margin=0.0",
        ),
    ],
)
def test_candidates_that_make_no_pairs(tmp_path, lines, message):
    with pytest.raises(RunError) as error:
        make_pairs(pairs_recipe(tmp_path, lines, "score_field: score"))
    assert str(error.value).endswith(message)
