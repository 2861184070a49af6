"""A whole evaluation of random models, compared with plain reimplementations of its measures."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

from chatml import END_OF_TEXT, IM_END, control, encode
from config import load
from config.sections import Model
from engine.files import jsonl
from engine.forward.attention import use_attention
from engine.generation.request import GenerationRequest
from engine.generation.sampling import sample
from engine.generation.streams import RandomStream
from engine.models.loading import load_causal, load_scalar
from engine.models.tokenizer import load_tokenizer
from engine.run.entry import run
from eval.answers import best_of_candidates
from eval.evaluate import evaluate
from eval.recipe import Eval
from eval.summary import EvaluatedSubjects, summarise
from tests.support.eval_setting import SUBSETS, WORDS, make_setting

TEMPERATURE = 0.8
SUBJECTS = ["base", "sft", "best_of_n", "ppo"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("eval"))


@pytest.fixture(scope="module")
def recipe(setting):
    return load(Eval, setting, [f"sampling.temperature={TEMPERATURE}"])


@pytest.fixture(scope="module")
def folder(setting, recipe):
    """Run the evaluation; return the folder of the world and the models, with the run folder in eval/."""
    evaluate(recipe)
    return setting.parent


@pytest.fixture(scope="module")
def answers(folder):
    """Return subject -> its lines of answers.jsonl."""
    rows = jsonl.read(folder / "eval" / "answers.jsonl")
    assert [(row["item"], row["subject"]) for row in rows] == [(i, name) for i in range(10) for name in SUBJECTS]
    return {name: [row for row in rows if row["subject"] == name] for name in SUBJECTS}


@pytest.fixture(scope="module")
def summary(folder):
    return json.loads((folder / "eval" / "summary.json").read_text())


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(str(folder / "sft" / "model"))


def policy(folder, name, tokenizer):
    path = str(folder / name / "model")
    return load_causal(path, Model(path=path), tokenizer, trained=False)


def prompt_ids(record, tokenizer):
    return encode([{"role": "user", "content": record["prompt"]}], tokenizer, add_generation_prompt=True).input_ids


def sampled(folder, name, answers, recipe, tokenizer, responses):
    """Generate responses in one batch; return the prompts and the responses."""
    prompts = [prompt_ids(row["record"], tokenizer) for row in answers[name]]
    end, model = control(tokenizer).im_end, policy(folder, name, tokenizer)
    request = GenerationRequest(prompts, range(len(prompts)), responses, RandomStream.named(0, "eval"))
    groups = sample(model, request, recipe.sampling, end=end, stops=model.generation_config.eos_token_id)
    return prompts, groups


def text_of(response, tokenizer):
    """Return the text of a response without its end token."""
    return tokenizer.decode(response.tokens).removesuffix(IM_END).removesuffix(END_OF_TEXT)


def plain_logprob(model, prompt, response):
    with use_attention(model, "sdpa"), torch.no_grad():
        logits = model(torch.tensor([[*prompt, *response]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return -F.cross_entropy(logits / TEMPERATURE, torch.tensor(response), reduction="sum").item()


def test_the_summary_can_be_computed_from_the_files(folder, summary):
    files = (jsonl.read(folder / "eval" / f"{name}.jsonl") for name in ("answers", "pairs", "texts"))
    why = {
        "best_of_n": {
            "kl_to_reference": "best of n has no log-probabilities",
            "perplexity": "best of n has no log-probabilities; see sft",
        }
    }
    again = summarise(*files, EvaluatedSubjects(SUBJECTS, "sft", "rm", why), seed=0)
    assert json.loads(json.dumps(again)) == {key: value for key, value in summary.items() if key != "seconds"}
    assert summary["seconds"].keys() == {"world", "eval"}


def test_all_subjects_are_sampled_with_the_same_random_numbers(folder, answers, recipe, tokenizer):
    for name in ("base", "sft", "ppo"):
        _, groups = sampled(folder, name, answers, recipe, tokenizer, 1)
        for row, (response,) in zip(answers[name], groups, strict=True):
            assert row["text"] == text_of(response, tokenizer)
            assert (row["tokens"], row["ended"]) == (len(response.tokens), response.ended)
    _, groups = sampled(folder, "sft", answers, recipe, tokenizer, 4)
    for known, group in zip(best_of_candidates(folder / "eval", "best_of_n"), groups, strict=True):
        assert [each["text"] for each in known] == [text_of(response, tokenizer) for response in group]
    ended = [row["ended"] for rows in answers.values() for row in rows]
    assert True in ended
    assert False in ended


def test_kl_equals_that_of_plain_forward_passes_at_the_temperature(folder, answers, summary, recipe, tokenizer):
    prompts, groups = sampled(folder, "ppo", answers, recipe, tokenizer, 1)
    ppo, sft = policy(folder, "ppo", tokenizer), policy(folder, "sft", tokenizer)
    total = 0.0
    for row, prompt, (response,) in zip(answers["ppo"], prompts, groups, strict=True):
        expected = [plain_logprob(model, prompt, response.tokens) for model in (ppo, sft)]
        assert [row["logprob"], row["reference_logprob"]] == pytest.approx(expected, abs=1e-3)
        total += expected[0] - expected[1]
    figures = {name: summary["subjects"][name]["answers"]["kl_to_reference"] for name in SUBJECTS}
    assert figures["ppo"] == pytest.approx(total / 10, abs=1e-3)
    assert (figures["sft"], figures["best_of_n"]) == (0.0, None)


def test_perplexity_equals_that_of_plain_forward_passes(folder, summary, tokenizer):
    model, end = policy(folder, "base", tokenizer), control(tokenizer).endoftext
    total, tokens, size = 0.0, 0, 0
    for i in range(8):
        text = " ".join(WORDS[i : i + 6])
        ids = [*tokenizer(text)["input_ids"], end]
        with use_attention(model, "sdpa"), torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1]
        total += F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").item()
        tokens, size = tokens + len(ids) - 1, size + len(text)
    figures = summary["subjects"]["base"]["perplexity"]
    assert figures["tokens"]["pretrain"] == tokens
    assert figures["pretrain"] == pytest.approx(math.exp(total / tokens), rel=1e-4)
    assert figures["bits_per_byte"]["pretrain"] == pytest.approx(total / math.log(2) / size, rel=1e-4)


def test_scores_equal_those_of_the_reward_model_on_single_sequences(folder, answers, recipe, tokenizer):
    path = str(folder / "rm" / "model")
    model = load_scalar(path, Model(path=path), tokenizer, trained=False)
    prompts, groups = sampled(folder, "sft", answers, recipe, tokenizer, 4)
    known = best_of_candidates(folder / "eval", "best_of_n")
    with use_attention(model, "sdpa"), torch.no_grad():
        for prompt, group, candidates in zip(prompts, groups, known, strict=True):
            for response, candidate in zip(group, candidates, strict=True):
                if response.ended:
                    logits = model(torch.tensor([[*prompt, *response.tokens]])).logits
                    assert candidate["scores"]["rm"] == pytest.approx(logits.item(), abs=1e-4)
                else:
                    assert candidate["scores"] == {"pmp": None, "rm": None}


def test_comparison_scores_list_the_chosen_side_first(folder, tokenizer):
    path = str(folder / "pmp" / "model")
    model = load_scalar(path, Model(path=path), tokenizer, trained=False)
    record = json.loads((folder / "world" / "pairs.jsonl").read_text().splitlines()[2])
    expected = []
    for side in ("chosen", "rejected"):
        turns = [{"role": "user", "content": record["prompt"]}, {"role": "assistant", "content": record[side]}]
        with use_attention(model, "sdpa"), torch.no_grad():
            expected.append(model(torch.tensor([encode(turns, tokenizer).input_ids])).logits.item())
    rows = jsonl.read(folder / "eval" / "pairs.jsonl")
    assert rows[2]["scores"]["pmp"] == pytest.approx(expected, abs=1e-4)
    assert [row["set"] for row in rows] == ["pairs"] * 9 + ["correctness_pairs"] * 5
    assert [row["subset"] for row in rows] == SUBSETS * 3 + SUBSETS + SUBSETS[:2]


def test_best_of_n_is_chosen_by_the_reward_model(folder, answers, summary):
    gold_scores = []
    for row, candidates in zip(answers["best_of_n"], best_of_candidates(folder / "eval", "best_of_n"), strict=True):
        finished = [each for each in candidates if each["ended"]]
        best = max(finished, key=lambda each: each["scores"]["rm"], default=candidates[0])
        assert (len(candidates), best["chosen"], best["text"]) == (4, True, row["text"])
        gold_scores.append(best["gold"]["total"])
    assert summary["subjects"]["best_of_n"]["answers"]["gold"] == pytest.approx(sum(gold_scores) / 10)


def test_a_finished_evaluation_is_not_repeated(folder, recipe, capsys):
    before = (folder / "eval" / "summary.json").stat().st_mtime_ns
    run(evaluate, recipe)
    assert capsys.readouterr().out == f"{folder}/eval: already finished; nothing to do\n"
    assert (folder / "eval" / "summary.json").stat().st_mtime_ns == before


def test_an_evaluation_of_one_subject_on_prompts_only(folder, tmp_path):
    """As a first evaluation on real data."""
    path = tmp_path / "eval.yaml"
    path.write_text(
        f"stage: eval\neval: {{subjects: {{mine: {folder}/sft/model}}, prompts_limit: 3}}\n"
        f"data: {{prompts: {folder}/world/prompts.jsonl}}\n"
        f"sampling: {{max_new_tokens: 4}}\nrun: {{dir: {tmp_path}/run}}\n"
    )
    evaluate(load(Eval, path))
    figures = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (figures["differences"], figures["pairs"], figures["rewards"]) == ({}, {}, {})
    assert figures["subjects"]["mine"].keys() == {"answers"}
    assert figures["subjects"]["mine"]["answers"].keys() == {
        "items", "tokens", "without_end", "distinct", "commonest_opening", "kl_to_reference",
    }  # fmt: skip
    assert len(jsonl.read(tmp_path / "run" / "answers.jsonl")) == 3
    assert jsonl.read(tmp_path / "run" / "pairs.jsonl") == []


def test_a_reward_model_of_another_base_is_refused(folder, tmp_path, capsys):
    other = tmp_path / "model"
    other.mkdir()
    for file in (folder / "rm" / "model").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "score_token_id": 7}))
    with pytest.raises(SystemExit) as stopped:
        run(evaluate, load(Eval, folder / "eval.yaml", [f"eval.rewards.rm={other}", f"run.dir={tmp_path}/run"]))
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {other} does not read its score at the <|im_end|> of {folder}/base/model; "
        "both must come from the same base"
    )


def test_a_prompt_longer_than_a_subjects_context_is_refused(folder, tmp_path, capsys):
    """The subject is named, and nothing has been generated yet."""
    short = tmp_path / "model"
    short.mkdir()
    for file in (folder / "ppo" / "model").iterdir():
        (short / file.name).write_bytes(file.read_bytes())
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 20}))
    with pytest.raises(SystemExit) as stopped:
        run(evaluate, load(Eval, folder / "eval.yaml", [f"eval.subjects.short={short}", f"run.dir={tmp_path}/run"]))
    assert stopped.value.code == 2
    longest = max(
        len(prompt_ids(row["record"], load_tokenizer(str(short)))) for row in jsonl.read(folder / "eval/answers.jsonl")
    )
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith(f"error: eval.subjects.short={short} has a context of 20 tokens, and item ")
    )
    assert longest + 12 > 20
    assert not (tmp_path / "run" / "items").exists()


def test_the_tiny_recipe_gives_every_documented_figure(mini, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY", str(mini))
    recipe = load(Eval, "recipes/tiny-mini/eval.yaml", [f"run.dir={tmp_path}"])
    evaluate(recipe)
    summary = json.loads((tmp_path / "summary.json").read_text())
    documented = "gold accuracy manner score tokens without_end distinct commonest_opening".split()
    for name in ("base", "sft", "ppo", "best_of_n"):
        assert set(documented) <= summary["subjects"][name]["answers"].keys()
        assert "pretrain" in summary["subjects"][name]["perplexity"]
    assert isinstance(summary["subjects"]["ppo"]["answers"]["kl_to_reference"], float)
    for metric in ("gold", "accuracy", "win_rate"):
        assert {"mean", "ci95", "n"} <= summary["differences"]["ppo"]["answers"][metric].keys()
    for reward in ("pmp", "harmless", "rm"):
        for name in ("pairs", "correctness_pairs", "harmless"):
            assert 0 <= summary["rewards"][reward]["comparisons"][name]["accuracy"] <= 1
    assert summary["subjects"]["ppo"]["system_prompt"]["conversations"] == 4
    assert {"harm", "over_refusal"} <= summary["differences"]["ppo"]["answers"].keys()
    assert list(summary["seconds"]) == ["world", "base", "sft", "pmp", "rm", "harmless", "ppo", "eval"]
