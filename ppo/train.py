"""Stage 3: PPO with four models (report, 3.2.2). A step, for queries x with K responses each:

    y_k ~ π_θ(· | x)                           temperature 1, top-p 0.9, until <|im_end|> or max_new_tokens
    s = RM(x, y_k) - running mean              -missing_end_penalty if there is no end token; weighted sum for a mix
    R_t = -β (log π_old - log π_ref) + 1[t = T] s
    A = GAE(R, V_old),  G = A + V_old,  A whitened
    update π_θ on L_π + c_ptx L_ptx and V on L_V; in the first value_warmup_steps steps V only

Equations and sources: R_t, A and G in ppo/advantages.py, the KL estimate in ppo/kl.py, L_π and L_V in ppo/losses.py;
L_ptx is the negative log-likelihood of pretraining text (Ouyang et al. 2022, eq. 2).

The report states β, K, top-p, both learning rates, the value clip, the number of value-only steps, that rewards are
normalised by their running mean, and that pretrained gradients are added. Everything else is our choice and is marked
as such in the recipes.
"""

import math

from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from chatml import control
from engine.data import plain_text
from engine.data.prompt_rows import PromptRows
from engine.data.rows import Limit, RowLoader, longest_sequence
from engine.dist.ranks import start_accelerator
from engine.dist.sharding import sharding_of
from engine.errors import RunError
from engine.generation.engines import ENGINES, refuse_without_supports
from engine.models.adapters import base_of
from engine.models.context_length import check_length
from engine.models.loading import load_config
from engine.models.system_prompt import stage_tokenizer
from engine.run.best import Best
from engine.run.folder import RunFolder
from engine.run.loop import Loop
from engine.run.training_state import Stateful
from engine.scoring.gold import load_gold
from engine.scoring.scorer import refuse_other_vocabulary
from ppo.assess import assess
from ppo.heldout import HeldOut
from ppo.kl import KLCoefficient
from ppo.models import load_models
from ppo.pretrain import PretrainStream
from ppo.recipe import PPO
from ppo.reward_mix import RewardMix
from ppo.rollout import RolloutSampler
from ppo.shared_base import load_shared
from ppo.step_metrics import as_text, first_rollouts, measure
from ppo.summary import ppo_summary
from ppo.update import Updater
from ppo.warning_rules import warnings_of

# Metrics shown on the console, one column each, after the scores.
CONSOLE_METRICS = (
    "kl",
    "response_tokens",
    "entropy",
    "sample_seconds",
    "score_seconds",
    "learn_seconds",
)


def train(recipe: PPO) -> None:
    """Run the stage to the end; resume from the last checkpoint if there is one."""
    refuse_without_supports(recipe.sampling.engine, recipe.sampling.logprobs)
    ppo, temperature, seed = recipe.ppo, recipe.sampling.temperature, recipe.run.seed
    folder = RunFolder(recipe)
    accelerator = start_accelerator(seed, recipe.model, recipe.run.report_to, recipe.run.dir)
    refuse_dropped_gradients(ppo.target_approx_kl, accelerator)
    tokenizer = stage_tokenizer(recipe.model, recipe.chatml)
    for key, path in recipe.reward.models:
        refuse_other_vocabulary(path, key, recipe.model, tokenizer)
    prompts, pretrain, heldout = load_data(recipe, tokenizer, folder)
    load = load_shared if recipe.models == "shared" else load_models
    models = load(recipe, tokenizer, accelerator)
    engine = ENGINES[recipe.sampling.engine](
        models.policy,
        recipe.sampling,
        control(tokenizer).im_end,
        accelerator=accelerator,
        tokenizer=tokenizer,
        seed=seed,
    )
    sampler = RolloutSampler(
        engine,
        prompts,
        seed=seed,
        queries_per_step=ppo.queries_per_step,
        responses_per_query=ppo.responses_per_query,
        record_supports=recipe.sampling.logprobs == "truncated",
    )
    mix = RewardMix(recipe.reward.parts, ppo.reward_normalisation)
    scores = ("score", *(f"score_{part.name}" for part in recipe.reward.parts if part.name))
    kl_coef = KLCoefficient(ppo.kl_coef, ppo.kl_target, ppo.kl_horizon)
    updater = Updater(models, ppo, temperature, seed, pretrain, accelerator)

    state: dict[str, Stateful] = {**mix.state, "kl_coef": kl_coef, **({"pretrain": pretrain} if pretrain else {})}
    # During the value warm-up the policy cannot become better.
    keep_best, patience = recipe.watch.keep_best, recipe.watch.patience
    best = Best(keep_best, patience, ppo.value_warmup_steps) if keep_best else None
    if accelerator.is_main_process:
        print(ppo_summary(recipe, models, prompts, heldout), flush=True)
    run = Loop("ppo", folder, recipe.run, accelerator, models.trained, state, best)
    for step in run.steps(ppo.steps):
        with run.timed("sample_seconds"):
            rollout = sampler.sample(step)
        with run.timed("score_seconds"):
            assessment = assess(models, rollout, ppo, temperature, mix, kl_coef.value)
        with run.timed("learn_seconds"):
            update_metrics = updater.update(rollout, assessment, step)

        metrics = measure(assessment, mix) | {"kl_coef": kl_coef.value}
        if step > ppo.value_warmup_steps:  # before that the policy is not updated, and its KL is 0
            kl_coef.update(metrics["kl"], metrics["responses"])
        if heldout is not None and (step in (1, ppo.steps) or step % recipe.watch.every == 0):
            with run.timed("heldout_seconds"):
                metrics |= heldout.measure(models, engine, mix, ppo.micro_batch_tokens)
            run.compare(metrics)
        in_words = dict.fromkeys(scores, "none ended") if metrics["without_end"] == 1 else {}
        run.log(metrics | update_metrics, (*scores, *CONSOLE_METRICS), in_words)
        run.warn(lambda rows: warnings_of(rows, recipe))
        if step % ppo.log_samples_every == 0:
            records = first_rollouts(step, rollout, assessment, tokenizer, ppo.log_samples)
            run.log_rollouts([record.as_row() for record in records])
        if recipe.watch.show_samples_every and step % recipe.watch.show_samples_every == 0:
            records = first_rollouts(step, rollout, assessment, tokenizer, 2)
            run.show(f"two responses of step {step}:\n{as_text(records)}")

    run.load_best()
    run.write_model("model", models.writer(models.policy, tokenizer, accelerator))
    if models.value is not None:
        run.write_model("value", models.writer(models.value, tokenizer, accelerator))
    run.finish()


def refuse_dropped_gradients(target_approx_kl: float | None, accelerator: Accelerator) -> None:
    """Raise RunError for target_approx_kl under DeepSpeed, which reduces gradients while they are computed."""
    if target_approx_kl is not None and sharding_of(accelerator).is_deepspeed:
        raise RunError(
            "ppo.target_approx_kl discards gradients, which DeepSpeed cannot do; use HARDWARE=fsdp2, or set "
            "ppo.target_approx_kl=null"
        )


def check_context(recipe: PPO, longest: int, what: str, way_out: str) -> None:
    """Check a sequence of `longest` tokens against the shortest context of the policy and the reward models.

    `what` and `way_out` are the parts of the error that `check_length` raises.
    """
    paths = [recipe.model.path, *(path for _, path in recipe.reward.models)]
    configs = [load_config(base_of(path), recipe.model).get_text_config() for path in paths]
    shortest = min(configs, key=lambda config: getattr(config, "max_position_embeddings", None) or math.inf)
    check_length(shortest, longest, what, way_out)


def load_data(
    recipe: PPO, tokenizer: PreTrainedTokenizerBase, folder: RunFolder
) -> tuple[PromptRows, PretrainStream | None, HeldOut | None]:
    """Load the prompts and, if the recipe names them, the pretraining text and the held-out prompts.

    Raises RunError if the longest one does not fit into the context of the policy and the reward models.
    """
    data, seed = recipe.data, recipe.run.seed
    gold = load_gold(recipe.watch.gold, "watch.gold") if recipe.watch.gold else None
    loader = RowLoader(data, recipe.chatml, seed, tokenizer)

    def load_key(name: str) -> PromptRows:
        limit = Limit("data.max_prompt_tokens", data.max_prompt_tokens)
        rows, report = loader.load_prompts(name, limit)
        new = recipe.sampling.max_new_tokens
        check_context(
            recipe,
            longest_sequence(rows.stored) + new,
            f"the longest prompt of data.{name} with sampling.max_new_tokens={new}",
            "lower data.max_prompt_tokens or sampling.max_new_tokens, together to {limit}",
        )
        return folder.keep_report(name, rows, report)

    prompts, heldout, pretrain = load_key("prompts"), None, None
    if data.heldout is not None:
        heldout = HeldOut(list(load_key("heldout")), gold, tokenizer, seed)
    if data.pretrain is not None:
        limit = Limit("data.pretrain_length", data.pretrain_length)
        texts, report = loader.load(plain_text.texts, "pretrain", limit)
        what, way_out = "the longest piece of data.pretrain", "set data.pretrain_length={limit}"
        check_context(recipe, longest_sequence(texts), what, way_out)
        texts = folder.keep_report("pretrain", texts, report)
        pretrain = PretrainStream(texts, seed, recipe.ppo.pretrain_ratio)
    return prompts, pretrain, heldout
