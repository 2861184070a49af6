"""Prompts selected by tags, and candidate responses of several models, with small random models."""

import json

import pytest
import torch

from chatml import IM_END
from config import RecipeError, load
from engine.errors import AlreadyFinishedError, RunError
from engine.files.jsonl import read
from engine.models.saving import save_model
from reward.annotation import candidates, prompts
from reward.annotation.candidates import generate_candidates
from reward.annotation.prompts import select_prompts
from reward.annotation.recipe import GenerateCandidates, SelectPrompts
from reward.annotation.tagging import tags_from_tagger
from tests.support.small_models import small_model
from tests.support.stage_runs import write_base, write_jsonl
from tests.support.tokenizers import qwen

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write two models of different sizes, some of whose responses end, and prompts with tags."""
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
stage: prompts
select: {{count: 5, {select}}}
data: {{prompts: {folder}/asked.jsonl}}
sampling: {{max_new_tokens: 12, temperature: 1.0}}
run: {{dir: {out}/prompts}}
""")  # fmt: skip


def candidates_recipe(folder, out, name="candidates"):
    return recipe_of(GenerateCandidates, out / "candidates.yaml", f"""
stage: candidates
candidates:
  models: {{large: {folder}/large, small: {folder}/small}}
  settings: [{{temperature: 1.0}}, {{temperature: 0.5, top_p: 1.0}}]
  responses: 2
data: {{prompts: {folder}/asked.jsonl}}
sampling: {{max_new_tokens: 12, top_p: 0.8, batch_size: 6}}
run: {{dir: {out}/{name}}}
""")  # fmt: skip


# Prompts


def test_selected_prompts_keep_their_fields_and_get_tags(folder, tmp_path):
    select_prompts(select_recipe(folder, tmp_path, "tag_fields: [topic]"))
    rows, asked = read(tmp_path / "prompts" / "prompts.jsonl"), read(folder / "asked.jsonl")
    assert len(rows) == 5
    for row in rows:
        assert {name: row[name] for name in ("prompt", "topic")} in asked
        assert row["tags"] == sorted(set(row["topic"]))
    report = json.loads((tmp_path / "prompts" / "coverage.json").read_text())
    assert (report["prompts"], report["chosen"], report["repeated"], report["tags"]) == (8, 5, 1, 8)


def test_prompts_without_a_tag_field_get_their_tags_from_the_tagger(folder, tmp_path, monkeypatch):
    """The tagger is a real model, and every distinct prompt is given to it."""
    asked = []

    def tagger(recipe, conversations):
        found = tags_from_tagger(recipe, conversations)
        asked.extend(conversations)
        return found

    monkeypatch.setattr(prompts, "tags_from_tagger", tagger)
    recipe = select_recipe(folder, tmp_path, f"tagger: {folder}/large, tag_fields: [nowhere]")
    select_prompts(recipe)
    rows = read(tmp_path / "prompts" / "prompts.jsonl")
    assert [each[0]["content"] for each in asked] == [row["prompt"] for row in read(folder / "asked.jsonl")[:8]]
    assert any(row["tags"] for row in rows)
    again = tags_from_tagger(
        recipe, [[{"role": "user", "content": row["prompt"]}] for row in read(folder / "asked.jsonl")[:8]]
    )
    assert {tag for row in rows for tag in row["tags"]} <= {tag for tags in again for tag in tags}


def test_a_selection_without_any_tag_is_refused(folder, tmp_path, monkeypatch):
    with pytest.raises(RunError) as error:
        select_prompts(select_recipe(folder, tmp_path, "tag_fields: [nowhere]"))
    assert str(error.value) == "no prompt has a tag in nowhere; change it, or set select.tagger"
    monkeypatch.setattr(prompts, "tags_from_tagger", lambda recipe, conversations: [set() for _ in conversations])
    with pytest.raises(RunError, match=r"^select.tagger gave no prompt a tag; name another tagger, or "):
        select_prompts(select_recipe(folder, tmp_path, f"tagger: {folder}/large"))
    with pytest.raises(RecipeError, match="select names no tags; give"):
        select_recipe(folder, tmp_path, "")


# Candidates


@pytest.fixture(scope="module")
def lines(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("candidates")
    generate_candidates(candidates_recipe(folder, out))
    return read(out / "candidates" / "candidates.jsonl")


def test_every_model_answers_every_prompt_with_every_setting(folder, lines):
    """9 prompts × 2 models × 2 settings × 2 responses, each with its model, settings, seed and record."""
    assert len(lines) == 72
    keys = {(line["prompt"], line["model"], line["setting"], line["number"]) for line in lines}
    assert keys == {(p, m, s, k) for p in range(9) for m in ("large", "small") for s in (0, 1) for k in (0, 1)}
    one = next(line for line in lines if (line["prompt"], line["model"], line["setting"]) == (2, "small", 1))
    assert {name: one[name] for name in ("temperature", "top_p", "path", "seed")} == {
        "temperature": 0.5, "top_p": 1.0, "path": f"{folder}/small", "seed": 0,
    }  # fmt: skip
    assert one["record"] == read(folder / "asked.jsonl")[2]
    assert one["messages"] == [{"role": "user", "content": one["record"]["prompt"]}]
    assert {line["top_p"] for line in lines if line["setting"] == 0} == {0.8}
    assert len({line["answer"] for line in lines}) > 20
    assert not any(IM_END in line["answer"] for line in lines)


def test_a_killed_generation_resumes_with_the_missing_candidates(folder, lines, tmp_path, monkeypatch):
    """It is killed after some batches, in the middle of a line."""
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
        generate_candidates(recipe)
    monkeypatch.setattr(candidates, "sample", real)
    path = tmp_path / "candidates" / "candidates.jsonl"
    path.write_text(path.read_text()[:-9])
    generate_candidates(recipe)

    def order(line):
        return line["model"], line["setting"], line["prompt"], line["number"]

    assert sorted(read(path), key=order) == sorted(lines, key=order)
    with pytest.raises(AlreadyFinishedError):
        generate_candidates(recipe)


def test_a_model_with_a_different_vocabulary_is_refused(folder, tmp_path):
    write_base(tmp_path / "llama", "llama")
    candidates_recipe(folder, tmp_path)
    recipe = load(GenerateCandidates, tmp_path / "candidates.yaml", [f"candidates.models.small={tmp_path}/llama"])
    with pytest.raises(RunError) as error:
        generate_candidates(recipe)
    assert str(error.value) == (
        f"candidates.models.small={tmp_path}/llama has a different vocabulary than candidates.models.large; "
        "generate its candidates in a separate run, and list both files in data.candidates"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("[]", "candidates.settings is []; it must be a list of mappings: [{temperature: 1.0, top_p: 0.9}]"),
        ("[{top_p: 2}]", "candidates.settings[0].top_p is 2.0; it must be above 0 and at most 1"),
        ("[{top: 2}]", "unknown key candidates.settings[0].top; did you mean candidates.settings[0].top_p?"),
    ],
)
def test_invalid_settings_are_refused(folder, tmp_path, settings, message):
    candidates_recipe(folder, tmp_path)
    with pytest.raises(RecipeError) as error:
        load(GenerateCandidates, tmp_path / "candidates.yaml", [f"candidates.settings={settings}"])
    assert str(error.value).endswith(message)
