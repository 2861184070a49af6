"""A whole evaluation on random models, against plain rewritings of what it measures."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

from chatml import IM_END, control, encode
from config import load
from config.sections import Model
from engine.forward.packed import attention
from engine.generation.sampling import sample
from engine.models.loading import load_causal, load_scalar
from engine.models.tokenizer import load_tokenizer
from engine.run.entry import run
from engine.run.metrics import read
from eval.evaluate import evaluate
from eval.recipe import Eval
from eval.summary import summarise
from eval.table import closing_table
from tests.support.eval_setting import WORDS, make_setting

TEMPERATURE = 0.8
# What others rely on being in summary.json of a tiny run.
PROMISED = (
    "gold_sft gold_ppo accuracy_sft accuracy_ppo manner_sft manner_ppo gold_ppo_minus_sft_ci95 win_rate_ppo_vs_sft "
    "gold_best_of_n rm_accuracy_pmp rm_accuracy_rm rm_accuracy_correctness kl_ppo_ref pretrain_ppl_base "
    "pretrain_ppl_sft pretrain_ppl_ppo response_tokens_sft response_tokens_ppo seconds"
).split()


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("eval"))


@pytest.fixture(scope="module")
def recipe(setting):
    return load(Eval, setting, [f"sampling.temperature={TEMPERATURE}"])


@pytest.fixture(scope="module")
def folder(setting, recipe):
    """The run folder of a finished evaluation."""
    evaluate(recipe)
    return setting.parent


@pytest.fixture(scope="module")
def samples(folder):
    return read(folder / "samples.jsonl")


@pytest.fixture(scope="module")
def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(str(folder / "sft" / "model"))


def policy(folder, name, tokenizer):
    path = str(folder / name / "model")
    return load_causal(path, Model(path=path), tokenizer, trained=False)


def prompt_ids(record, tokenizer):
    return encode([{"role": "user", "content": record["prompt"]}], tokenizer, add_generation_prompt=True).input_ids


def sampled(folder, name, samples, recipe, tokenizer, responses):
    """The responses to all prompts, in one batch."""
    prompts = [prompt_ids(s["record"], tokenizer) for s in samples]
    end, model = control(tokenizer).im_end, policy(folder, name, tokenizer)
    stops = model.generation_config.eos_token_id
    return prompts, sample(
        model, prompts, recipe.sampling, responses=responses, end=end, stops=stops, seed=0, step=0,
        query_ids=range(len(prompts)),
    )  # fmt: skip


def plain_logprob(model, prompt, response):
    with attention(model, "sdpa"), torch.no_grad():
        logits = model(torch.tensor([[*prompt, *response]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return -F.cross_entropy(logits / TEMPERATURE, torch.tensor(response), reduction="sum").item()


def test_every_figure_follows_from_the_files(folder, samples, summary):
    losses = {
        name: (math.log(summary[f"pretrain_ppl_{name}"]) * summary["pretrain_tokens"], summary["pretrain_tokens"])
        for name in ("base", "sft", "ppo")
    }
    again = summarise(samples, read(folder / "pairs.jsonl"), losses, seed=0)
    assert [*again, "seconds"] == list(summary)
    for name, value in again.items():
        assert summary[name] == (pytest.approx(value) if isinstance(value, float) else value), name
    assert summary["seconds"].keys() == {"world", "eval"}


def test_both_policies_answer_with_the_same_random_numbers(folder, samples, recipe, tokenizer):
    for name, responses in (("sft", 1), ("ppo", 1), ("sft", 4)):
        _, groups = sampled(folder, name, samples, recipe, tokenizer, responses)
        for one, group in zip(samples, groups, strict=True):
            for known, response in zip(one["answers"][name], group, strict=False):
                assert known["text"] == tokenizer.decode(response.tokens).removesuffix(IM_END)
                assert (known["tokens"], known["ended"]) == (len(response.tokens), response.ended)
    ended = [a["ended"] for s in samples for a in (*s["answers"]["sft"], *s["answers"]["ppo"])]
    assert True in ended
    assert False in ended


def test_kl_is_that_of_plain_forward_passes_at_the_sampling_temperature(folder, samples, summary, recipe, tokenizer):
    prompts, groups = sampled(folder, "ppo", samples, recipe, tokenizer, 1)
    ppo, sft = policy(folder, "ppo", tokenizer), policy(folder, "sft", tokenizer)
    total = 0.0
    for one, prompt, (response,) in zip(samples, prompts, groups, strict=True):
        expected = [plain_logprob(model, prompt, response.tokens) for model in (ppo, sft)]
        known = one["answers"]["ppo"][0]
        assert [known["logprob_ppo"], known["logprob_sft"]] == pytest.approx(expected, abs=1e-3)
        total += expected[0] - expected[1]
    assert summary["kl_ppo_ref"] == pytest.approx(total / len(samples), abs=1e-3)


def test_perplexity_is_that_of_plain_forward_passes(folder, summary, tokenizer):
    model, end = policy(folder, "base", tokenizer), control(tokenizer).endoftext
    total, tokens = 0.0, 0
    for i in range(8):
        ids = [*tokenizer(" ".join(WORDS[i : i + 6]))["input_ids"], end]
        with attention(model, "sdpa"), torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1]
        total += F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").item()
        tokens += len(ids) - 1
    assert summary["pretrain_tokens"] == tokens
    assert summary["pretrain_ppl_base"] == pytest.approx(math.exp(total / tokens), rel=1e-4)


def test_scores_are_those_of_the_reward_model_alone(folder, samples, recipe, tokenizer):
    path = str(folder / "rm" / "model")
    model = load_scalar(path, Model(path=path), tokenizer, trained=False)
    prompts, groups = sampled(folder, "sft", samples, recipe, tokenizer, 4)
    with attention(model, "sdpa"), torch.no_grad():
        for one, prompt, group in zip(samples, prompts, groups, strict=True):
            for known, response in zip(one["answers"]["sft"], group, strict=True):
                if response.ended:
                    logits = model(torch.tensor([[*prompt, *response.tokens]])).logits
                    assert known["score"] == pytest.approx(logits.item(), abs=1e-4)
                else:
                    assert known["score"] is None


def test_comparisons_are_scored_chosen_first(folder, tokenizer):
    path = str(folder / "pmp" / "model")
    model = load_scalar(path, Model(path=path), tokenizer, trained=False)
    record = json.loads((folder / "world" / "pairs.jsonl").read_text().splitlines()[2])
    expected = []
    for side in ("chosen", "rejected"):
        turns = [{"role": "user", "content": record["prompt"]}, {"role": "assistant", "content": record[side]}]
        with attention(model, "sdpa"), torch.no_grad():
            expected.append(model(torch.tensor([encode(turns, tokenizer).input_ids])).logits.item())
    rows = read(folder / "pairs.jsonl")
    assert rows[2]["scores"]["pmp"] == pytest.approx(expected, abs=1e-4)
    assert [row["data"] for row in rows] == ["pairs"] * 9 + ["correctness_pairs"] * 5


def test_best_of_n_is_chosen_by_the_reward_model(samples, summary):
    best = []
    for answers in (s["answers"]["sft"] for s in samples):
        finished = [a for a in answers if a["ended"]]
        best.append(max(finished, key=lambda a: a["score"], default=answers[0]))
    assert summary["gold_best_of_n"] == pytest.approx(sum(a["gold"]["gold"] for a in best) / len(best))
    assert len(samples[0]["answers"]["sft"]) == 4


def test_a_finished_evaluation_says_so(folder, recipe, capsys):
    before = (folder / "summary.json").stat().st_mtime_ns
    run(evaluate, recipe)
    assert capsys.readouterr().out == f"{folder}: finished already; nothing to do\n"
    assert (folder / "summary.json").stat().st_mtime_ns == before


def test_the_closing_table_shows_policies_side_by_side(summary, capsys):
    from rich.console import Console

    Console(width=100).print(closing_table(summary))
    shown = capsys.readouterr().out
    assert "10 held-out prompts" in shown
    (row,) = [line for line in shown.splitlines() if "gold score" in line]
    assert [cell.strip() for cell in row.split("│")[2:-1]] == [
        "", *(f"{summary[f'gold_{name}']:.2f}" for name in ("sft", "best_of_n", "ppo")),
    ]  # fmt: skip
    low, high = summary["gold_ppo_minus_sft_ci95"]
    assert f"gold, PPO - SFT: {summary['gold_ppo_minus_sft']:+.2f}, 95% between {low:+.2f} and {high:+.2f}" in shown
    (row,) = [line for line in shown.splitlines() if line.startswith("│ rm ")]
    figures = summary["reward_models"]["rm"]["pairs"]
    low, high = figures["accuracy_ci95"]
    assert f"{100 * summary['rm_accuracy_rm']:.1f}% ± {50 * (high - low):.1f}, {figures['ece']:.2f}" in row
    assert "pairs (9)" in shown


def test_prompts_alone_can_be_evaluated(folder, tmp_path):
    """What a first run on real data has: a policy and prompts."""
    path = tmp_path / "eval.yaml"
    path.write_text(
        f"eval: {{sft: {folder}/sft/model, prompts_limit: 3}}\ndata: {{prompts: {folder}/world/prompts.jsonl}}\n"
        f"sampling: {{max_new_tokens: 4}}\nrun: {{dir: {tmp_path}/run}}\n"
    )
    evaluate(load(Eval, path))
    figures = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert figures.keys() == {
        "prompts", "response_tokens_sft", "without_end_sft", "distinct_sft", "commonest_opening_sft", "seconds",
    }  # fmt: skip
    assert figures["prompts"] == len(read(tmp_path / "run" / "samples.jsonl")) == 3
    assert read(tmp_path / "run" / "pairs.jsonl") == []


def test_a_reward_model_of_another_base_is_refused(folder, tmp_path, capsys):
    other = tmp_path / "model"
    other.mkdir()
    for file in (folder / "rm" / "model").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "score_token_id": 7}))
    with pytest.raises(SystemExit) as stopped:
        run(evaluate, load(Eval, folder / "eval.yaml", [f"eval.reward={other}", f"run.dir={tmp_path}/run"]))
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {other} reads its score at another token than the <|im_end|> of {folder}/sft/model; "
        "both must come from the same base"
    )


def test_the_tiny_recipe_gives_every_promised_figure(mini, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY", str(mini))
    evaluate(load(Eval, "recipes/tiny-mini/eval.yaml", [f"run.dir={tmp_path}"]))
    figures = json.loads((tmp_path / "summary.json").read_text())
    assert set(PROMISED) <= figures.keys()
    assert figures["seconds"].keys() >= {"base", "sft", "pmp", "rm", "ppo", "eval"}
