"""PPO's recipe. Values stated in the report are marked with their section; all others are our choice."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from omegaconf import MISSING

from config.data import Data, named_sources
from config.schema import Recipe, RecipeError, Section, Stage, number, setting, show
from config.scoring import check_function
from config.sections import Model, PolicySampling, TrainingRun, model_inputs
from engine.data.chatml_section import ChatML
from ppo.choices import MAX_KL_ERROR, Advantage, BestBy, KlEstimator, Schedule
from ppo.reward_section import RewardSection


@dataclass(frozen=True)
class PPOData(Data):
    SHARES: ClassVar[Mapping[str, str]] = {"heldout": "prompts"}

    prompts: Any = named_sources(MISSING)
    """prompts: a source or a list of them, in any record shape; a prompt ends before the last assistant turn"""
    pretrain: Any = named_sources()
    """plain text for the pretrained gradient"""
    heldout: Any = named_sources()
    """prompts that are never trained on: sources, or a share of data.prompts (for example 0.02), chosen by a hash of
    each record; responses to them are scored, also by watch.gold if it is set"""
    max_prompt_tokens: int = number(1024, least=16)
    """maximum tokens in a prompt, including the header of the response"""
    pretrain_length: int = number(512, least=16)
    """maximum tokens in a piece of pretraining text"""


@dataclass(frozen=True)
class PPOSampling(PolicySampling):
    logprobs: Literal["full", "truncated"] = "full"
    """the distribution of all log-probabilities: the model's full one, or the one truncated to the set that each token
    was sampled from, which is recorded with the rollout"""
    engine: Literal["own", "compiled", "transformers", "vllm"] = setting("own", packages={"vllm": "vllm"})
    """what generates responses: our decode loop, the same compiled, transformers' continuous batching, or vLLM"""

    def check(self, key: str) -> None:
        if self.split > 1 and self.engine != "own":
            raise RecipeError(
                f"{key}.split={self.split} needs {key}.engine=own; {self.engine} does not support it",
                key=f"{key}.split",
            )
        if self.logprobs == "truncated" and self.top_p == 1:
            raise RecipeError(
                f"{key}.logprobs=truncated records the tokens within {key}.top_p, which is 1 and truncates nothing; "
                f"use {key}.logprobs=full",
                key=f"{key}.logprobs",
            )


@dataclass(frozen=True)
class Watch(Section):
    gold: str | None = setting(None, changeable=True)
    """gold scorer, "module:function": the true quality of a response; evaluated on data.heldout, never trained on"""
    every: int = number(10, least=1, changeable=True)
    """steps between evaluations on data.heldout"""
    keep_best: BestBy | None = None
    """save the checkpoint with the highest mean of this metric on data.heldout as the model, instead of the last one"""
    patience: int | None = number(None, least=1, grows=True)
    """early stopping: end the run after this many checkpoints in a row that are no better than the best, not counting
    those of the value warm-up; null: never"""
    show_samples_every: int = number(20, least=0, changeable=True)
    """steps between prints of two responses on the console; 0 prints none"""
    kl: float = number(30.0, above=0, changeable=True)
    """KL in nats per response above which a warning is printed"""

    def check(self, key: str) -> None:
        if self.gold is not None:
            check_function(self.gold, f"{key}.gold")
        if self.patience is not None and self.keep_best is None:
            raise RecipeError(
                f"{key}.patience={self.patience} counts checkpoints that are no better than the best; set "
                f"{key}.keep_best=heldout_score as well, or {key}.patience=null",
                key=f"{key}.patience",
            )


@dataclass(frozen=True)
class Algorithm(Section):
    steps: int = number(least=1, grows=True)
    """PPO steps, including the value warm-up; each is a rollout batch and its epochs of updates"""
    value_warmup_steps: int = number(50, least=0)
    """first steps that update the value model only (report, 3.2.2: 50)"""
    queries_per_step: int = number(64, least=1)
    """prompts in a rollout batch, over all ranks"""
    responses_per_query: int = number(2, least=1)
    """K: responses to each prompt (report, 3.2.2: 2)"""
    epochs: int = number(4, least=1)
    """passes over a rollout batch"""
    minibatches: int = number(4, least=1)
    """updates per epoch"""
    micro_batch_tokens: int = number(16384, least=16, changeable=True)
    """maximum tokens in a forward pass; changes memory and speed, not the result"""
    kl_coef: float = number(0.04, least=0)
    """beta: weight of the per-token KL penalty against the reference policy (report, 3.2.2: 0.04)"""
    kl_estimator: KlEstimator = "k1"
    """estimator of the penalty, with d = log π_old - log π_ref: k1 is d, k2 d²/2, k3 exp(-d) - 1 + d"""
    kl_target: float | None = number(None, above=0)
    """target of an adaptive kl_coef, in nats per response; null keeps kl_coef constant"""
    kl_horizon: int = number(10000, least=1)
    """responses over which an adaptive kl_coef changes by at most 20 %"""
    target_approx_kl: float | None = number(None, above=0)
    """early stopping: skip the policy's updates from the first minibatch of a step with a higher approx_kl, in nats"""
    clip: float = number(0.2, above=0)
    """epsilon: the probability ratio is clipped to 1 ± this in the policy loss"""
    value_clip: float = number(0.15, above=0)
    """values are clipped to the old value ± this in the value loss (report, 3.2.2: 0.15)"""
    gamma: float = number(1.0, least=0, most=1)
    """discount factor"""
    lam: float = number(0.95, least=0, most=1)
    """lambda of generalised advantage estimation"""
    advantage: Advantage = "gae"
    """gae uses a value model; rloo and grpo use the other responses to the same query as the baseline instead"""
    whiten_advantages: bool = True
    """scale the advantages of a rollout batch to mean 0 and variance 1"""
    advantage_clip: float | None = number(None, above=0)
    """clip advantages, after whitening if any, to ± this"""
    loss_mean: Literal["token", "sequence"] = "token"
    """losses are means over the tokens of a minibatch, or means over its responses of means over their tokens"""
    entropy_coef: float = number(0.0, least=0)
    """weight of the entropy bonus"""
    importance_cap: float | None = number(None, above=0)
    """weight each token's policy loss by π_old / π_engine, capped at this; for engines whose π differs from ours"""
    reward_normalisation: Literal["mean", "mean_std", "none"] = "mean"
    """running statistics by which scores are normalised (report, 3.2.2: the running mean)"""
    pretrain_coef: float = number(0.1, least=0)
    """weight of the loss on pretraining text; 0 turns it off (report, 3.2.2: in use, weight not stated)"""
    pretrain_ratio: float = number(4.0, above=0)
    """pretraining tokens per PPO token (report, 3.2.2: "much more")"""
    missing_end_penalty: float = number(1.0, least=0)
    """the score of a response without an end token is minus this, in place of the reward's score"""
    control_token_penalty: float = number(0.0, least=0)
    """subtracted from the score of a response with a control token before its end, as when it adds another turn"""
    reward_clip: float | None = number(None, above=0)
    """clip normalised scores to ± this"""
    length_penalty: float = number(0.0, least=0)
    """subtracted from a response's score for each token beyond `length_free`"""
    length_free: int = number(0, least=0)
    """tokens of a response that are not penalised"""
    policy_learning_rate: float = number(1e-6, above=0)
    """peak learning rate of the policy (report, 3.2.2: 1e-6)"""
    value_learning_rate: float = number(5e-6, above=0)
    """peak learning rate of the value model (report, 3.2.2: 5e-6)"""
    lr_scheduler_type: Schedule = "constant"
    """both learning rates after the warm-up: constant, or decaying to 0 after the last step"""
    warmup_steps: int = number(0, least=0)
    """steps of linear learning-rate warm-up; the policy's start after value_warmup_steps"""
    adam_betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """AdamW's betas, as in the report's other stages"""
    adam_epsilon: float = number(1e-8, above=0)
    """AdamW's epsilon, as in the report's other stages"""
    weight_decay: float = number(0.0, least=0)
    """AdamW's weight decay"""
    fused_adamw: bool = False
    """use torch's fused AdamW: faster for large models, the same result up to rounding"""
    max_grad_norm: float = number(1.0, above=0)
    """gradients are clipped to this norm"""
    offload_frozen: bool = setting(False, changeable=True)
    """keep the reference and reward models in CPU memory while they are not in use: less GPU memory, slower"""
    gradient_checkpointing: bool = setting(False, changeable=True)
    """recompute activations in the backward pass: less memory, a third more time"""
    load_in_4bit: bool = setting(False, packages={True: "bitsandbytes"})
    """store the base of models=shared in 4 bits with bitsandbytes, as lora.load_in_4bit does in other stages"""
    log_samples: int = number(4, least=0, changeable=True)
    """responses per logged step in rollouts.jsonl"""
    log_samples_every: int = number(1, least=1, changeable=True)
    """steps between entries in rollouts.jsonl"""

    def check(self, key: str) -> None:
        if self.value_warmup_steps > self.steps:
            raise RecipeError(
                f"{key}.value_warmup_steps is {self.value_warmup_steps}, but the run has {self.steps} steps; "
                f"lower it, or raise {key}.steps",
                key=f"{key}.value_warmup_steps",
            )
        responses = self.queries_per_step * self.responses_per_query
        if responses % self.minibatches:
            raise RecipeError(
                f"{key}.minibatches is {self.minibatches}, which does not divide the {responses} responses of a step; "
                f"change it, {key}.queries_per_step or {key}.responses_per_query",
                key=f"{key}.minibatches",
            )
        if self.kl_target is not None and self.kl_horizon <= MAX_KL_ERROR * responses:
            raise RecipeError(
                f"{key}.kl_horizon is {self.kl_horizon} and a step has {responses} responses, after which an adaptive "
                f"{key}.kl_coef could be 0 or less; raise {key}.kl_horizon to {responses} or more",
                key=f"{key}.kl_horizon",
            )
        if self.advantage != "gae" and self.responses_per_query < 2:
            raise RecipeError(
                f"{key}.advantage={self.advantage} compares the responses to a query, but there is only one; "
                f"raise {key}.responses_per_query",
                key=f"{key}.advantage",
            )
        if self.advantage != "gae" and self.value_warmup_steps:
            raise RecipeError(
                f"{key}.advantage={self.advantage} has no value model to warm up; set {key}.value_warmup_steps=0",
                key=f"{key}.value_warmup_steps",
            )
        if len(self.adam_betas) != 2 or not all(0 <= beta < 1 for beta in self.adam_betas):
            raise RecipeError(
                f"{key}.adam_betas is {show(self.adam_betas)}; it must be two numbers, each at least 0 and below 1",
                key=f"{key}.adam_betas",
            )


@dataclass(frozen=True)
class PPO(Recipe):
    STAGE: ClassVar[Stage] = "ppo"

    model: Model = field(default_factory=Model)
    reward: RewardSection = field(default_factory=RewardSection)
    models: Literal["full", "shared"] = "full"
    """four full models, or one base with LoRA adapters for policy, value, reference and reward"""
    chatml: ChatML = field(default_factory=ChatML)
    data: PPOData = field(default_factory=PPOData)
    sampling: PPOSampling = field(default_factory=PPOSampling)
    ppo: Algorithm = field(default_factory=Algorithm)
    watch: Watch = field(default_factory=Watch)
    run: TrainingRun = field(default_factory=TrainingRun)

    def check(self, key: str) -> None:
        if self.ppo.pretrain_coef > 0 and self.data.pretrain is None:
            raise RecipeError(
                f"ppo.pretrain_coef is {self.ppo.pretrain_coef}, but there is no pretraining text; "
                "give data.pretrain, or set ppo.pretrain_coef=0",
                key="ppo.pretrain_coef",
            )

        if self.models == "shared" and self.sampling.engine in ("transformers", "vllm"):
            raise RecipeError(
                f"sampling.engine={self.sampling.engine} needs a full model, but under models=shared the policy is an "
                "adapter; use sampling.engine=own or compiled",
                key="sampling.engine",
            )
        if self.models == "shared" and self.sampling.split > 1:
            raise RecipeError(
                f"sampling.split={self.sampling.split}: models=shared stores the full base on every rank; set it to 1",
                key="sampling.split",
            )
        if self.models == "shared" and self.ppo.offload_frozen:
            raise RecipeError(
                "ppo.offload_frozen offloads full models, but models=shared has none; set it to false",
                key="ppo.offload_frozen",
            )
        full_logprobs = self.sampling.engine in ("own", "compiled") or self.sampling.top_p == 1
        if self.ppo.importance_cap is not None and not full_logprobs:
            raise RecipeError(
                f"ppo.importance_cap needs the engine's log-probabilities, and sampling.engine={self.sampling.engine} "
                "returns those of the full distribution at top_p 1 only; set sampling.top_p=1",
                key="ppo.importance_cap",
            )
        if self.watch.gold is not None and self.data.heldout is None:
            raise RecipeError(
                f"watch.gold is {self.watch.gold}, but there are no held-out prompts; give data.heldout",
                key="watch.gold",
            )
        self.check_best()
        if self.models == "full" and self.ppo.load_in_4bit:
            raise RecipeError(
                "ppo.load_in_4bit=true stores weights that cannot be trained, but models=full trains all weights; set "
                "models=shared, or ppo.load_in_4bit=false",
                key="ppo.load_in_4bit",
            )

    def check_best(self) -> None:
        """Raise RecipeError if watch.keep_best is set but a checkpoint would not be evaluated."""
        by, every, saved = self.watch.keep_best, self.watch.every, self.run.save_steps
        if by is None:
            return
        if self.data.heldout is None:
            raise RecipeError(
                f"watch.keep_best is {by}, but there are no held-out prompts; give data.heldout, or set "
                "watch.keep_best=null",
                key="watch.keep_best",
            )
        if by == "heldout_gold" and self.watch.gold is None:
            raise RecipeError(
                f"watch.keep_best is {by}, but there is no gold scorer; give watch.gold, or set "
                "watch.keep_best=heldout_score",
                key="watch.keep_best",
            )
        if saved % every:
            raise RecipeError(
                f"watch.keep_best chooses among the checkpoints, saved every run.save_steps={saved} steps, but "
                f"data.heldout is evaluated every watch.every={every} steps; set watch.every={saved}, or "
                f"run.save_steps={math.ceil(saved / every) * every}",
                key="watch.every",
            )

    def inputs(self) -> Iterator[tuple[str, str]]:
        yield from model_inputs(self.model.path, "model.path")
        for part in self.reward.parts:
            yield from part.scoring.inputs(f"{part.key}.path")
        yield from self.data.inputs()

    def fixed_keys(self, before: Mapping[str, Any]) -> dict[str, str]:
        fixed = {}
        if self.ppo.lr_scheduler_type != "constant":
            fixed["ppo.steps"] = f"ppo.lr_scheduler_type={self.ppo.lr_scheduler_type} falls to 0 at the last step"
        if self.watch.keep_best is not None:
            fixed |= dict.fromkeys(("run.save_steps", "watch.every"), "watch.keep_best chooses among the checkpoints")
        if self.watch.keep_best == "heldout_gold":
            fixed["watch.gold"] = "watch.keep_best chooses by it"
        return fixed

    def memory_advice(self) -> str:
        return (
            f"during generation lower sampling.batch_size (it is {self.sampling.batch_size}), otherwise "
            f"ppo.micro_batch_tokens (it is {self.ppo.micro_batch_tokens}); neither changes the result. "
            "If that is not enough, lower sampling.max_new_tokens or data.pretrain_length"
        )
