"""The recipe of PPO. Values that the report states are marked with their section; the rest are our choice."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from omegaconf import MISSING

from config.data import Data, named_sources
from config.schema import Recipe, RecipeError, Section, number, setting, show
from config.scoring import check_function
from config.sections import Model, Sampling, TrainingRun, model_inputs
from engine.data.chatml_section import ChatML
from ppo.choices import MAX_KL_ERROR, Advantage, BestBy, KlEstimator, Schedule
from ppo.reward_section import RewardSection


@dataclass(frozen=True)
class PPOData(Data):
    prompts: Any = named_sources(MISSING)
    """prompts: a source or a list of them, in any record shape; a prompt ends before the last assistant turn"""
    pretrain: Any = named_sources()
    """plain text for the pretrained gradient"""
    heldout: Any = named_sources()
    """prompts that are never trained on: the score of responses to them is measured, and gold if watch.gold is given"""
    max_prompt_tokens: int = number(1024, least=16)
    """tokens in a prompt, the header of the response included"""
    pretrain_length: int = number(512, least=16)
    """tokens in a piece of pretraining text"""


@dataclass(frozen=True)
class PPOSampling(Sampling):
    logprobs: Literal["full", "truncated"] = "full"
    """the distribution that log-probabilities refer to: the model's full one, or the one truncated to the set that the
    token was drawn from, which is recorded with the rollout"""
    engine: Literal["own", "compiled", "transformers", "vllm"] = setting("own", packages={"vllm": "vllm"})
    """what generates responses: our decode loop, the same compiled, transformers' continuous batching, or vLLM"""
    split: int = number(1, least=1)
    """tensor parallelism in generation: this many neighbouring ranks share the policy's weights; 1: each has all"""

    def check(self, key: str) -> None:
        if self.split > 1 and self.engine != "own":
            raise RecipeError(
                f"{key}.split={self.split} needs {key}.engine=own; {self.engine} holds the policy its own way",
                key=f"{key}.split",
            )
        if self.logprobs == "truncated" and self.top_p == 1:
            raise RecipeError(
                f"{key}.logprobs=truncated records the set that {key}.top_p leaves, but that is 1 and leaves all; "
                f"use {key}.logprobs=full",
                key=f"{key}.logprobs",
            )


@dataclass(frozen=True)
class Watch(Section):
    gold: str | None = setting(None, changeable=True)
    """function that knows how good a response is, "module:function"; measured on data.heldout, never trained on"""
    every: int = number(10, least=1, changeable=True)
    """steps from one measurement on data.heldout to the next"""
    keep_best: BestBy | None = None
    """the finished model is the checkpoint with the highest mean of this metric on data.heldout, not the last one"""
    show_samples_every: int = number(20, least=0, changeable=True)
    """steps from one print of two responses on the console to the next; 0 prints none"""
    kl: float = number(30.0, above=0, changeable=True)
    """nats a response beyond which a warning is given"""

    def check(self, key: str) -> None:
        if self.gold is not None:
            check_function(self.gold, f"{key}.gold")


@dataclass(frozen=True)
class Algorithm(Section):
    steps: int = number(least=1, grows=True)
    """rollout batches, each with its epochs of updates; the value-only steps count"""
    value_warmup_steps: int = number(50, least=0)
    """first steps that update the value model alone (report, 3.2.2: 50)"""
    queries_per_step: int = number(64, least=1)
    """prompts in a rollout batch, over all ranks"""
    responses_per_query: int = number(2, least=1)
    """K: responses to each prompt (report, 3.2.2: 2)"""
    epochs: int = number(4, least=1)
    """passes over a rollout batch"""
    minibatches: int = number(4, least=1)
    """updates in a pass"""
    micro_batch_tokens: int = number(16384, least=16, changeable=True)
    """tokens that go through a model at once; changes memory and speed, not the result"""
    kl_coef: float = number(0.04, least=0)
    """beta: weight of the KL penalty against the reference policy, per token (report, 3.2.2: 0.04)"""
    kl_estimator: KlEstimator = "k1"
    """estimator of the penalty, with d = log π_old - log π_ref: k1 is d, k2 d²/2, k3 exp(-d) - 1 + d"""
    kl_target: float | None = number(None, above=0)
    """nats a response that an adaptive kl_coef aims for; empty keeps kl_coef constant"""
    kl_horizon: int = number(10000, least=1)
    """responses over which an adaptive kl_coef changes by at most 20 %"""
    target_approx_kl: float | None = number(None, above=0)
    """early stopping: a minibatch with a higher approx_kl, and those after it in the step, do not update the policy"""
    clip: float = number(0.2, above=0)
    """epsilon: how far the probability ratio may move from 1 before its gain is cut"""
    value_clip: float = number(0.15, above=0)
    """how far a value may move from its old one before its loss is cut (report, 3.2.2: 0.15)"""
    gamma: float = number(1.0, least=0, most=1)
    """discount of later rewards"""
    lam: float = number(0.95, least=0, most=1)
    """lambda of generalised advantage estimation"""
    advantage: Advantage = "gae"
    """gae needs the value model; rloo and grpo measure a response against the others to its query instead"""
    whiten_advantages: bool = True
    """advantages of a rollout batch get mean 0 and variance 1"""
    advantage_clip: float | None = number(None, above=0)
    """advantages, whitened or not, are kept within plus and minus this"""
    loss_mean: Literal["token", "sequence"] = "token"
    """whether every token of a minibatch counts the same in its losses, or every response"""
    entropy_coef: float = number(0.0, least=0)
    """weight of the policy's entropy, which is raised"""
    importance_cap: float | None = number(None, above=0)
    """weight each token's policy loss by π_old / π_engine, capped at this; for engines whose π differs from ours"""
    reward_normalisation: Literal["mean", "mean_std", "none"] = "mean"
    """running statistics by which scores are normalised (report, 3.2.2: the running mean)"""
    pretrain_coef: float = number(0.1, least=0)
    """weight of the loss on pretraining text; 0 leaves it out (report, 3.2.2: in use, weight not stated)"""
    pretrain_ratio: float = number(4.0, above=0)
    """pretraining tokens for each PPO token (report, 3.2.2: "much more")"""
    missing_end_penalty: float = number(1.0, least=0)
    """a response that was cut off scores minus this, whatever the reward model would say"""
    control_token_penalty: float = number(0.0, least=0)
    """subtracted from the score of a response with a control token before its end: a turn of its own making"""
    reward_clip: float | None = number(None, above=0)
    """normalised scores are kept within plus and minus this"""
    length_penalty: float = number(0.0, least=0)
    """subtracted from a response's score for each token beyond `length_free`"""
    length_free: int = number(0, least=0)
    """tokens of a response that are not penalised"""
    policy_learning_rate: float = number(1e-6, above=0)
    """report, 3.2.2: 1e-6"""
    value_learning_rate: float = number(5e-6, above=0)
    """report, 3.2.2: 5e-6"""
    lr_scheduler_type: Schedule = "constant"
    """both learning rates after the warm-up: constant, or falling to 0 after the last step"""
    warmup_steps: int = number(0, least=0)
    """steps over which a learning rate rises; the policy's begin after value_warmup_steps"""
    adam_betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """of AdamW, as in the report's other stages"""
    adam_epsilon: float = number(1e-8, above=0)
    """of AdamW, as in the report's other stages"""
    weight_decay: float = number(0.0, least=0)
    """of AdamW"""
    fused_adamw: bool = False
    """AdamW in one pass over the weights: faster for large models, the same up to rounding"""
    max_grad_norm: float = number(1.0, above=0)
    """gradients with a larger norm are scaled down to it"""
    offload_frozen: bool = setting(False, changeable=True)
    """keep the reference and reward models in the CPU's memory between their uses: less GPU memory, slower"""
    gradient_checkpointing: bool = setting(False, changeable=True)
    """recompute activations in the backward pass: less memory, a third more time"""
    load_in_4bit: bool = setting(False, packages={True: "bitsandbytes"})
    """the base of models=shared is stored in 4 bits by bitsandbytes, as lora.load_in_4bit does in other stages"""
    log_samples: int = number(4, least=0, changeable=True)
    """responses of a step that are written to rollouts.jsonl"""
    log_samples_every: int = number(1, least=1, changeable=True)
    """steps from one entry in rollouts.jsonl to the next"""

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
                f"{key}.advantage={self.advantage} compares the responses to a query, of which there is one; "
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
    STAGE: ClassVar[str] = "ppo"

    model: Model = field(default_factory=Model)
    reward: RewardSection = field(default_factory=RewardSection)
    models: Literal["full", "shared"] = "full"
    """four whole models, or one base in memory whose LoRA adapters are policy, value, reference and reward"""
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
                f"sampling.engine={self.sampling.engine} writes with a whole model, and under models=shared the "
                "policy is an adapter; use sampling.engine=own or compiled",
                key="sampling.engine",
            )
        if self.models == "shared" and self.sampling.split > 1:
            raise RecipeError(
                f"sampling.split={self.sampling.split}: under models=shared every process holds the base whole; set 1",
                key="sampling.split",
            )
        if self.models == "shared" and self.ppo.offload_frozen:
            raise RecipeError(
                "ppo.offload_frozen moves whole models away, but under models=shared there are none; set it to false",
                key="ppo.offload_frozen",
            )
        tells_all = self.sampling.engine in ("own", "compiled") or self.sampling.top_p == 1
        if self.ppo.importance_cap is not None and not tells_all:
            raise RecipeError(
                f"ppo.importance_cap needs the engine's log-probabilities, and sampling.engine={self.sampling.engine} "
                "tells those of the whole distribution at top_p 1 only; set sampling.top_p=1",
                key="ppo.importance_cap",
            )
        if self.watch.gold is not None and self.data.heldout is None:
            raise RecipeError(
                f"watch.gold is {self.watch.gold}, but there is nothing to measure on; give data.heldout",
                key="watch.gold",
            )
        self.check_best()
        if self.models == "full" and self.ppo.load_in_4bit:
            raise RecipeError(
                "ppo.load_in_4bit=true holds weights that cannot be trained, and models=full trains them all; set "
                "models=shared, or ppo.load_in_4bit=false",
                key="ppo.load_in_4bit",
            )

    def check_best(self) -> None:
        """Raise RecipeError where a best checkpoint is asked for, but not all are measured."""
        by, every, saved = self.watch.keep_best, self.watch.every, self.run.save_steps
        if by is None:
            return
        if self.data.heldout is None:
            raise RecipeError(
                f"watch.keep_best is {by}, but there is nothing to choose by; give data.heldout, or set "
                "watch.keep_best=null",
                key="watch.keep_best",
            )
        if by == "heldout_gold" and self.watch.gold is None:
            raise RecipeError(
                f"watch.keep_best is {by}, but nothing measures it; give watch.gold, or set "
                "watch.keep_best=heldout_score",
                key="watch.keep_best",
            )
        if saved % every:
            raise RecipeError(
                f"watch.keep_best chooses among the checkpoints, of which there is one every run.save_steps={saved} "
                f"steps, but data.heldout is measured every watch.every={every}; set watch.every={saved}, or "
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
            f"while answers are written, lower sampling.batch_size (it is {self.sampling.batch_size}), else "
            f"ppo.micro_batch_tokens (it is {self.ppo.micro_batch_tokens}); neither changes the result. "
            "Beyond that: a lower sampling.max_new_tokens or data.pretrain_length"
        )
