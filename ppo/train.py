"""Stage 3: PPO with four models (report, 3.2.2). For queries x, K responses each:

    y_k ~ π_θ(· | x)                           temperature 1, top-p 0.9, until <|im_end|> or max_new_tokens
    s = RM(x, y_k) - running mean              -missing_end_penalty where there is no end token
    R_t = -β (log π_old - log π_ref) + 1[t = T] s
    A = GAE(R, V_old),  G = A + V_old,  A whitened
    π_θ follows L_π + c_ptx L_ptx, V follows L_V; in the first steps V alone

The report states β, K, top-p, both learning rates, the value clip, the value-only steps, that rewards are normalised by
their running mean, and that pretrained gradients are added. All else is our choice, and marked so in the recipes.
"""

from transformers import PreTrainedTokenizerBase

from chatml import control
from engine.data import encoding
from engine.data.prompt_rows import PromptRows
from engine.data.rows import Limit, load_prompts, load_rows
from engine.dist import sharding
from engine.dist.ranks import start_accelerator
from engine.errors import RunError
from engine.generation.engines import ENGINES, refuse_without_record
from engine.models.loading import save_model
from engine.models.tokenizer import load_tokenizer
from engine.run.folder import RunFolder
from engine.run.loop import Loop
from engine.scoring.gold import load_gold
from ppo.advantages import ScoreNormaliser
from ppo.heldout import HeldOut
from ppo.kl import KLCoefficient
from ppo.models import load_models
from ppo.pretrain import PretrainStream
from ppo.recipe import PPO
from ppo.rollout import judge, queries_at, roll
from ppo.shared_base import load_shared, save_role
from ppo.step_metrics import as_text, measure, some_samples
from ppo.update import update
from ppo.warning_rules import warnings_of

# What a person watches, a column each.
SHOWN = ("score", "kl", "response_tokens", "entropy", "sample_seconds", "score_seconds", "learn_seconds")


def train(recipe: PPO) -> None:
    """Run the stage to its end, from its last checkpoint if there is one."""
    refuse_without_record(recipe.sampling.engine, recipe.sampling.logprobs)
    folder = RunFolder(recipe)
    accelerator = start_accelerator(recipe.run.seed, recipe.model, recipe.run.report_to, recipe.run.dir)
    if recipe.ppo.target_approx_kl is not None and sharding.sharding_of(accelerator).is_deepspeed:
        raise RunError(
            "ppo.target_approx_kl gives up gradients that DeepSpeed has already taken; use HARDWARE=fsdp2, or leave it"
        )
    tokenizer = load_tokenizer(recipe.model.path, recipe.model.revision)
    prompts, pretrain, heldout = load_data(recipe, tokenizer, folder)
    shared = recipe.models == "shared"
    models = (load_shared if shared else load_models)(recipe, tokenizer, accelerator)
    normaliser = ScoreNormaliser(recipe.ppo.reward_normalisation)
    kl_coef = KLCoefficient(recipe.ppo.kl_coef, recipe.ppo.kl_target, recipe.ppo.kl_horizon)
    engine = ENGINES[recipe.sampling.engine](
        models.policy, recipe.sampling, control(tokenizer).im_end, recipe.run.seed,
        accelerator=accelerator, tokenizer=tokenizer,
    )  # fmt: skip

    state = [normaliser, kl_coef, *([pretrain] if pretrain else [])]
    run = Loop("ppo", folder, recipe.run, accelerator, models.trained, state)
    for step in run.steps(recipe.ppo.steps):
        queries = queries_at(recipe, step, len(prompts))
        with run.timed("sample_seconds"):
            rollout = roll(engine, recipe, prompts, queries, step)
        with run.timed("score_seconds"):
            judged = judge(models, recipe, rollout, normaliser, kl_coef.value)
        with run.timed("learn_seconds"):
            learnt = update(models, recipe, rollout, judged, pretrain, step, accelerator)
        seen = measure(judged, normaliser) | {"kl_coef": kl_coef.value}
        if step > recipe.ppo.value_warmup_steps:  # before that the policy rests, and its divergence is no news
            kl_coef.update(seen["kl"], seen["responses"])
        if heldout is not None and heldout.due(recipe, step):
            with run.timed("heldout_seconds"):
                seen |= heldout.measure(models, engine, recipe)
        run.log(seen | learnt, SHOWN)
        run.warn(lambda rows: warnings_of(rows, recipe))
        if step % recipe.ppo.log_samples_every == 0:
            run.keep_samples(some_samples(rollout, judged, tokenizer, recipe.ppo.log_samples))
        if recipe.watch.show_samples_every and step % recipe.watch.show_samples_every == 0:
            run.show(f"two answers of step {step}:\n{as_text(some_samples(rollout, judged, tokenizer, 2))}")
    save = save_role if shared else save_model
    for name, model in (("model", models.policy), ("value", models.value)):
        if model is not None:
            plain = accelerator.unwrap_model(model)
            whole = {} if shared else {"weights": sharding.full_weights(model, accelerator)}
            run.keep_model(name, lambda path, plain=plain, whole=whole: save(plain, tokenizer, path, **whole))
    run.finish()


def load_data(
    recipe: PPO, tokenizer: PreTrainedTokenizerBase, folder: RunFolder
) -> tuple[PromptRows, PretrainStream | None, HeldOut | None]:
    """Prompt rows and, where the recipe names them, the stream of pretraining text and the held-out prompts."""
    data = recipe.data
    common = {"data": data, "chatml": recipe.chatml, "seed": recipe.run.seed, "tokenizer": tokenizer}

    def asked(name: str) -> PromptRows:
        limit = Limit("data.max_prompt_tokens", data.max_prompt_tokens)
        rows, report = load_prompts(data.sources(name), key=f"data.{name}", limit=limit, **common)
        return folder.keep_report(name, rows, report)

    prompts, heldout, pretrain = asked("prompts"), None, None
    if data.heldout is not None:
        gold = load_gold(recipe.watch.gold, "watch.gold") if recipe.watch.gold else None
        heldout = HeldOut(list(asked("heldout")), gold, tokenizer)
    if data.pretrain is not None:
        limit = Limit("data.pretrain_length", data.pretrain_length)
        texts, report = load_rows(encoding.texts, data.sources("pretrain"), key="data.pretrain", limit=limit, **common)
        texts = folder.keep_report("pretrain", texts, report)
        pretrain = PretrainStream(texts, recipe.run.seed, recipe.ppo.pretrain_ratio)
    return prompts, pretrain, heldout
