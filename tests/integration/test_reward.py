"""Reward model runs: the loss compared with a plain implementation, score offset, evaluation, resume, RM from PMP."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transformers import AutoTokenizer

from chatml import encode
from config import RecipeError, load
from config.sections import Model
from engine.errors import RunError
from engine.forward.responses import sequence_scores
from engine.models.loading import load_scalar
from engine.models.tokenizer import load_tokenizer
from reward.recipe import Reward
from reward.train import PairTrainer, collate, load_model, pair_metrics, train
from tests.support.stage_runs import run_and_kill, same, untimed, weights, write_base, write_jsonl

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "how", "are", "you", "today"]
RECIPE = """
stage: reward
model: {{path: {folder}/base}}
data: {{train: {folder}/pairs.jsonl, max_length: 64}}
run: {{dir: {folder}/run, save_steps: 2}}
trainer: {{per_device_train_batch_size: 8, max_steps: 4, learning_rate: 1.0e-3, logging_steps: 1,
          gradient_checkpointing: false, lr_scheduler_type: constant}}
"""


def pair(n):
    """Return a comparison whose chosen response starts with `fox`, which a model learns quickly."""
    asked = " ".join(WORDS[n % 5 : n % 5 + 3])
    good, bad = ["fox", *WORDS[n % 6 : n % 6 + n % 3]], [*WORDS[n % 4 + 4 : n % 4 + 6 + n % 2]]
    return {"prompt": asked, "chosen": " ".join(good), "rejected": " ".join(bad)}


def sides(record, tokenizer):
    """Yield the token ids of both sides, up to <|im_end|>."""
    for side in ("chosen", "rejected"):
        turns = [{"role": "user", "content": record["prompt"]}, {"role": "assistant", "content": record[side]}]
        yield encode(turns, tokenizer).input_ids[:-1]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward")
    write_base(folder / "base")
    write_jsonl(folder / "pairs.jsonl", map(pair, range(24)))
    (folder / "rm.yaml").write_text(RECIPE.format(folder=folder))
    return folder


def recipe_of(setting, run_dir, *overrides):
    return load(Reward, setting / "rm.yaml", [f"run.dir={run_dir}", *overrides])


def scores(folder, rows):
    tokenizer = load_tokenizer(str(folder))
    return sequence_scores(load_scalar(str(folder), Model(path=""), tokenizer, trained=False), rows, 10**6)


def test_first_loss_is_the_plain_bradley_terry_loss(setting, tmp_path):
    recipe = recipe_of(setting, tmp_path, "trainer.max_steps=1", "trainer.per_device_train_batch_size=24")
    tokenizer = load_tokenizer(recipe.model.path)
    model = load_model(recipe, tokenizer).eval()
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        margins = [
            float(model(torch.tensor([chosen])).logits - model(torch.tensor([rejected])).logits)
            for chosen, rejected in (sides(pair(n), tokenizer) for n in range(24))
        ]
    train(recipe)
    expected = -F.logsigmoid(torch.tensor(margins)).mean().item()
    assert untimed(tmp_path)[0]["loss"] == pytest.approx(expected, abs=1e-4)


def test_margin_and_centering_terms_of_the_loss(setting, tmp_path):
    """-log σ(difference - 0.5 margin) + 0.1 (sum)², margins 0, 1, 2, 0, 1 ...; computed from the scores."""
    records = [{**pair(n), "sure": n % 3} for n in range(24)]
    write_jsonl(tmp_path / "sure.jsonl", records)
    recipe = recipe_of(
        setting, tmp_path / "run", "trainer.max_steps=1", "trainer.per_device_train_batch_size=24",
        "reward.margin_coef=0.5", "trainer.center_rewards_coefficient=0.1", f"data.train={tmp_path}/sure.jsonl",
        "data.fields={sure: margin}",
    )  # fmt: skip
    tokenizer = load_tokenizer(recipe.model.path)
    model = load_model(recipe, tokenizer).eval()
    rows = [ids for record in records for ids in sides(record, tokenizer)]
    chosen, rejected = sequence_scores(model, rows, 10**6).view(-1, 2).T
    margins = torch.tensor([0.5 * record["sure"] for record in records])
    expected = -F.logsigmoid(chosen - rejected - margins).mean() + 0.1 * ((chosen + rejected) ** 2).mean()
    train(recipe)
    assert untimed(tmp_path / "run")[0]["loss"] == pytest.approx(expected.item(), abs=1e-4)


def test_a_margin_coefficient_without_margins_is_refused(setting, tmp_path):
    with pytest.raises(RunError) as error:
        train(recipe_of(setting, tmp_path, "reward.margin_coef=0.5"))
    assert str(error.value) == (
        "reward.margin_coef is 0.5, but no comparison of data.train has a margin; "
        "name the field with data.fields={theirs: margin}, or set reward.margin_coef=0"
    )


def test_shared_prompts_need_packed_attention(setting, tmp_path):
    with pytest.raises(RecipeError) as error:
        recipe_of(setting, tmp_path, "model.attention=eager")
    assert str(error.value) == (
        "reward.share_prompts=true needs model.attention=packed (or auto), not eager; change either"
    )


@pytest.mark.parametrize(
    "change",
    [
        ["trainer.per_device_train_batch_size=1", "trainer.gradient_accumulation_steps=24"],
        ["trainer.per_device_train_batch_size=24", "reward.share_prompts=false"],
        ["trainer.per_device_train_batch_size=24", "reward.share_prompts=false", "model.attention=sdpa"],
        ["trainer.per_device_train_batch_size=24", "trainer.gradient_checkpointing=true"],
    ],
    ids=["one pair at a time", "prompts twice", "sdpa", "checkpointing"],
)
def test_loss_and_gradient_do_not_depend_on_batching(setting, tmp_path, change):
    train(recipe_of(setting, tmp_path / "one", "trainer.max_steps=1", "trainer.per_device_train_batch_size=24"))
    train(recipe_of(setting, tmp_path / "other", "trainer.max_steps=1", *change))
    one, other = untimed(tmp_path / "one")[0], untimed(tmp_path / "other")[0]
    assert other["loss"] == pytest.approx(one["loss"], abs=1e-4)
    assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)


def test_a_run_learns_centers_its_scores_and_reports_its_data(setting, tmp_path):
    train(recipe_of(setting, tmp_path, "trainer.max_steps=30", f"data.eval={setting / 'pairs.jsonl'}",
                    "trainer.eval_strategy=steps", "trainer.eval_steps=10"))  # fmt: skip
    evaluated = [row for row in untimed(tmp_path) if "eval_accuracy" in row]
    assert [row["step"] for row in evaluated] == [10, 20, 30]
    assert evaluated[-1]["eval_accuracy"] == 1.0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    rows = [ids for n in range(24) for ids in sides(pair(n), tokenizer)]
    final = scores(tmp_path / "model", rows)
    assert final.mean().item() == pytest.approx(0, abs=1e-4)
    margins = final[::2] - final[1::2]
    assert pair_metrics(margins)["loss"] == pytest.approx(evaluated[-1]["eval_loss"], abs=1e-4)
    assert json.loads((tmp_path / "data.json").read_text())["train"]["kept"] == 24


@pytest.mark.parametrize(("steps", "batch", "pairs"), [(2, 8, 16), (4, 8, 24), (1, 3, 3)])
def test_the_score_offset_uses_only_pairs_that_were_trained_on(setting, tmp_path, monkeypatch, steps, batch, pairs):
    """Of 24 pairs, a run of 2 steps of 8 has trained on 16."""
    scored = []
    plain = PairTrainer.scores
    monkeypatch.setattr(PairTrainer, "scores", lambda *args: scored.append((len(args[1]), args[2])) or plain(*args))
    train(recipe_of(setting, tmp_path, f"trainer.max_steps={steps}", f"trainer.per_device_train_batch_size={batch}"))
    assert scored == [(pairs, "score offset")]


def test_evaluation_and_score_offset_print_their_progress(setting, tmp_path, monkeypatch, capsys):
    """On a console that is not a terminal; here a line after every forward pass."""
    monkeypatch.setattr("engine.run.console.LINE_INTERVAL_SECONDS", -1.0)
    monkeypatch.setattr("reward.train.TOKENS_PER_FORWARD", 150)
    train(recipe_of(setting, tmp_path, f"data.eval={setting / 'pairs.jsonl'}", "trainer.eval_steps=4",
                    "trainer.eval_strategy=steps"))  # fmt: skip
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" s left")]
    assert lines[-1] == "rm score offset 24/24  0 s left"
    for name in ("evaluation", "score offset"):
        done = [int(line.split()[-4].split("/")[0]) for line in lines if line.startswith(f"rm {name} ")]
        assert len(done) > 2
        assert done == sorted(done)
        assert done[-1] == 24


def test_evaluation_is_a_mean_over_pairs_for_any_batch_size(setting, tmp_path):
    for name, size in (("five", 5), ("all", 24)):
        train(recipe_of(setting, tmp_path / name, f"data.eval={setting / 'pairs.jsonl'}", "trainer.eval_strategy=steps",
                        "trainer.eval_steps=4", f"trainer.per_device_eval_batch_size={size}"))  # fmt: skip
    five, everything = (
        next(row for row in untimed(tmp_path / name) if "eval_loss" in row) for name in ("five", "all")
    )  # fmt: skip
    assert five == everything


def test_a_tie_counts_half_in_the_accuracy():
    assert pair_metrics(torch.tensor([1.0, 0.0, -1.0, 2.0]))["accuracy"] == pytest.approx(0.625)


def test_rm_starts_from_pmp_and_keep_best_keeps_the_best_checkpoint(setting, tmp_path):
    train(recipe_of(setting, tmp_path / "pmp"))
    recipe = recipe_of(
        setting, tmp_path / "rm", f"model.path={tmp_path / 'pmp' / 'model'}", "reward.keep_best=true",
        f"data.eval={setting / 'pairs.jsonl'}", "run.save_steps=1",
    )  # fmt: skip
    tokenizer = load_tokenizer(recipe.model.path)
    assert same(load_model(recipe, tokenizer).state_dict(), weights(tmp_path / "pmp"))
    train(recipe)
    accuracy = {row["step"]: row["eval_accuracy"] for row in untimed(tmp_path / "rm") if "eval_accuracy" in row}
    assert accuracy.keys() == {1, 2, 3, 4}
    best = max(accuracy, key=lambda step: (accuracy[step], -step))
    assert same(weights(tmp_path / "rm"), weights(tmp_path / "rm", f"checkpoint-{best}"))
    finished = json.loads((tmp_path / "rm" / "finished.json").read_text())["best"]
    assert finished == {"step": best, "metric": "eval_accuracy", "value": accuracy[best], "measured": 4}


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("lora", [0, 4])
def test_reward_models_of_other_families_learn(tmp_path, family, lora):
    write_base(tmp_path / "base", family)
    write_jsonl(tmp_path / "pairs.jsonl", map(pair, range(16)))
    (tmp_path / "rm.yaml").write_text(RECIPE.format(folder=tmp_path))
    train(recipe_of(tmp_path, tmp_path / "run", f"lora.r={lora}", "trainer.max_steps=40", "trainer.learning_rate=5e-3"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    final = scores(tmp_path / "run" / "model", [ids for n in range(16) for ids in sides(pair(n), tokenizer)])
    assert (final[::2] > final[1::2]).float().mean() > 0.9


def test_a_killed_run_resumes_and_ends_bit_for_bit(setting, tmp_path):
    long = ["trainer.max_steps=8", "run.save_steps=3"]
    train(recipe_of(setting, tmp_path / "whole", *long))
    killed = tmp_path / "killed"
    run_and_kill(4, "reward", setting / "rm.yaml", f"run.dir={killed}", *long)
    train(recipe_of(setting, killed, *long))
    assert untimed(killed)[:8] == untimed(tmp_path / "whole")[:8]
    assert same(weights(killed), weights(tmp_path / "whole"))


def test_collated_pairs_by_hand():
    rows = [{"chosen_ids": [5, 1], "rejected_ids": [6, 7, 1]}, {"chosen_ids": [8, 1], "rejected_ids": [8, 9, 1]}]
    plain, shared = (collate(rows, share, 0.0) for share in (False, True))
    assert plain["input_ids"].tolist() == [[5, 1, 8, 1, 6, 7, 1, 8, 9, 1]]
    assert plain["score_positions"].tolist() == [1, 3, 6, 9]
    assert shared["input_ids"].tolist() == [[5, 1, 6, 7, 1, 8, 1, 9, 1]]
    assert shared["score_positions"].tolist() == [1, 6, 4, 8]


def test_scores_do_not_depend_on_other_sequences_of_the_row(setting, tmp_path):
    train(recipe_of(setting, tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    rows = [ids for n in range(6) for ids in sides(pair(n), tokenizer)]
    single = torch.cat([scores(tmp_path / "model", [row]) for row in rows])
    assert_close(scores(tmp_path / "model", rows), single, atol=1e-5, rtol=1e-5)
