"""A PPO setting small enough to run in a second: random policy and reward model, some prompts, some text."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import get_peft_model

from config import load
from config.sections import Lora, Model
from engine.data.prompt_rows import PromptRow
from engine.generation.engines import Engine
from engine.models.adapters import lora_config
from engine.models.loading import load_causal, new_scalar
from engine.models.saving import save_model
from engine.models.tokenizer import load_tokenizer
from ppo.assess import Assessment, assess
from ppo.models import Models
from ppo.pretrain import PretrainStream
from ppo.recipe import PPO
from ppo.reward_mix import RewardMix
from ppo.rollout import Rollout, RolloutSampler
from ppo.update import Updater
from tests.support.small_models import small_model
from tests.support.tokenizers import qwen

# With random weights an end token is drawn about once in several hundred tokens. Its output row is raised so that
# responses end at different lengths.
END_BOOST = 4.0
RECIPE = """
stage: ppo
model: {{path: {folder}/policy}}
reward: {{path: {folder}/reward}}
data: {{prompts: {folder}/prompts.jsonl, pretrain: {folder}/text.jsonl, max_prompt_tokens: 64, pretrain_length: 32}}
sampling: {{max_new_tokens: 12}}
ppo: {{steps: 3, value_warmup_steps: 1, queries_per_step: 4, epochs: 2, minibatches: 2, policy_learning_rate: 1.0e-2,
      value_learning_rate: 1.0e-2, pretrain_ratio: 2.0}}
run: {{dir: {folder}/run, save_steps: 3}}
"""


def make_setting(folder: Path, **shape: int) -> Path:
    """Write models, data and `ppo.yaml` into `folder`; return the recipe's path."""
    tokenizer = qwen()
    model = small_model(vocab_size=len(tokenizer), **shape)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    with torch.no_grad():
        mean = model.get_output_embeddings().weight.abs().mean()
        model.get_output_embeddings().weight[end] += END_BOOST * mean
    model.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    policy = str(folder / "policy")
    reward = new_scalar(policy, Model(path=""), load_tokenizer(policy), seed=5)
    reward.config.score_offset = 0.1
    save_model(reward, tokenizer, folder / "reward")
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "how", "are", "you", "today"]
    prompts = [{"prompt": " ".join(words[i : i + 3]), "response": "Hello!"} for i in range(10)]
    texts = [{"text": " ".join(words[i : i + 6])} for i in range(8)]
    for name, rows in (("prompts", prompts), ("text", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = folder / "ppo.yaml"
    recipe.write_text(RECIPE.format(folder=folder))
    return recipe


def make_adapters(folder: Path) -> list[str]:
    """Write adapters of the policy, `sft` and `rm`, with nonzero weights into `folder`; return the overrides."""
    base = str(folder / "policy")
    tokenizer = load_tokenizer(base)
    section = Model(path=base)
    causal = load_causal(base, section, tokenizer, trained=True)
    scalar = new_scalar(base, section, tokenizer, seed=5)
    scalar.config.score_offset = 0.1
    for name, plain in (("sft", causal), ("rm", scalar)):
        model = get_peft_model(plain, lora_config(Lora(r=4), plain, tokenizer))
        torch.manual_seed(len(name))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn_like(parameter)
        save_model(model, tokenizer, folder / name)
    return [f"model.path={folder}/sft", f"reward.path={folder}/rm"]


def recipe_of(path: Path, *overrides: str) -> PPO:
    return load(PPO, path, overrides)


def sampler_of(recipe: PPO, engine: Engine, prompts: Sequence[PromptRow]) -> RolloutSampler:
    """Return a sampler configured as in the PPO stage."""
    return RolloutSampler(
        engine,
        prompts,
        seed=recipe.run.seed,
        queries_per_step=recipe.ppo.queries_per_step,
        responses_per_query=recipe.ppo.responses_per_query,
        record_supports=recipe.sampling.logprobs == "truncated",
    )


def assess_by(recipe: PPO, models: Models, rollout: Rollout, mix: RewardMix | None = None) -> Assessment:
    """Assess a rollout as the stage does at its first step."""
    mix = mix or RewardMix(recipe.reward.parts, recipe.ppo.reward_normalisation)
    return assess(models, rollout, recipe.ppo, recipe.sampling.temperature, mix, recipe.ppo.kl_coef)


def updater_of(recipe: PPO, models: Models, pretrain: PretrainStream | None, accelerator: Accelerator) -> Updater:
    """Return an updater configured as in the PPO stage."""
    return Updater(models, recipe.ppo, recipe.sampling.temperature, recipe.run.seed, pretrain, accelerator)
