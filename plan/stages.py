"""Recipes as plans: the models that a stage loads, the memory of its phases, its work in a step."""

from dataclasses import dataclass
from typing import Any

from engine.errors import RunError
from engine.forward.responses import TOKENS_PER_FORWARD
from plan.hardware import Hardware
from plan.memory import Parts, Pass, Trained, saved_in_4bit, state
from plan.phases import PROCESS, Phase, forward_only, training
from plan.recipe import Plan, Planned
from plan.shape import Shape, adapter_rank, lora_parameters, shape_of
from plan.work import Work, ppo_work, trainer_work
from plan.writing import compiled_for_the_run, refuse_writing, writing

# What transformers takes where a recipe says nothing.
DEFAULT_BATCH = 8


@dataclass(frozen=True)
class Planning:
    """Everything that a plan says of a run."""

    shape: Shape
    hardware: Hardware
    models: dict[str, tuple[int, int]]
    """name -> (parameters, those that are trained)"""
    phases: list[Phase]
    work: Work
    host: float
    """bytes of weights that the processes of one machine load before they share them"""
    merging: float = 0.0
    """bytes of the model that one process merges adapters into at the end"""

    @property
    def peak(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def fits(self) -> bool:
        return self.peak.total <= self.hardware.usable


def planning(planned: Planned, shape: Shape | None = None, hardware: Hardware | None = None) -> Planning:
    """Return the plan of a recipe, by default of its own model and hardware.

    Raise RunError if the model is of a kind that cannot be planned, or the stage refuses the hardware.
    """
    recipe, plan = planned.recipe, planned.plan
    shape = shape or shape_of(recipe.model.path, recipe.model)
    hardware = hardware or planned.hardware
    stage_plan = ppo_plan if recipe.stage == "ppo" else trainer_plan
    return stage_plan(recipe, plan, shape, hardware)


def in_bf16(recipe: Any, hardware: Hardware) -> bool:
    """Whether models compute in bfloat16 on the planned device."""
    return recipe.model.dtype == "bfloat16" or (recipe.model.dtype == "auto" and not hardware.cpu)


def trainer_plan(recipe: Any, plan: Plan, shape: Shape, hardware: Hardware) -> Planning:
    """Finetuning, pretraining, and reward models: a trainer's step over rows or comparisons."""
    scalar, trainer = recipe.stage == "reward", recipe.trainer
    bf16, lora = in_bf16(recipe, hardware), recipe.lora
    if lora.load_in_4bit and hardware.sharing not in ("none", "ddp"):
        raise RunError(f"lora.load_in_4bit=true was not tried under {hardware.sharing}; use HARDWARE=ddp or one_gpu")
    adapters = lora_parameters(shape, lora.r, lora.target_modules, scalar=scalar) if lora.r else 0
    model = Trained(shape, scalar, adapters, bf16, in_4bit=lora.load_in_4bit)
    # The batch is the recipe's, whatever the number of processes: each takes its share, in parts.
    at_once = int(trainer.get("per_device_train_batch_size", DEFAULT_BATCH))
    batch = at_once * int(trainer.get("gradient_accumulation_steps", 1))
    again = -(-batch // (at_once * hardware.processes))
    rows = -(-batch // (again * hardware.processes))
    row = plan.row_tokens or recipe.data.max_length * (2 if scalar else 1)
    step = Pass(
        tokens=rows * row,
        predicted=0 if scalar else rows * row,
        sequence=plan.sequence_tokens or recipe.data.max_length,
        repeated=again > 1,
        checkpointing=trainer.get("gradient_checkpointing", True),
        dropout=recipe.model.attention_dropout > 0 and not scalar,
    )
    beside: Parts = {"process": PROCESS} if hardware.cpu else {}
    fused = "fused" in str(trainer.get("optim", "adamw_torch_fused"))
    phases = training(model, step, hardware, beside, fused)
    if scalar:
        phases.append(forward_only(model, TOKENS_PER_FORWARD, hardware, beside, "measuring scores"))
    elif recipe.data.eval is not None:
        tokens = row * int(trainer.get("per_device_eval_batch_size", DEFAULT_BATCH))
        phases.append(forward_only(model, tokens, hardware, beside, "evaluation"))
    work = trainer_work(model, step, batch, batch * row, trainer, plan.rows)
    name = "reward model" if scalar else "model"
    merging = 4 * model.base if adapters and lora.merge else 0.0
    models = {name: (model.base + adapters, model.trained)}
    return Planning(shape, hardware, models, phases, work, host(hardware, model, not scalar), merging)


def ppo_plan(recipe: Any, plan: Plan, shape: Shape, hardware: Hardware) -> Planning:
    """PPO: two models that are trained and two that are frozen, or all four on one base."""
    ppo, bf16, shared = recipe.ppo, in_bf16(recipe, hardware), recipe.models == "shared"
    if shared and hardware.sharing not in ("none", "ddp"):
        raise RunError("models=shared runs in one process or under ddp; use HARDWARE=ddp, or set models=full")
    refuse_writing(recipe, shape, hardware)
    rank = (adapter_rank(recipe.model.path) or plan.lora_r) if shared else 0
    adapters = [lora_parameters(shape, rank, "all-linear", scalar=scalar) if shared else 0 for scalar in (False, True)]
    policy, value = (
        Trained(shape, scalar, adapters[scalar], bf16, shared, ppo.load_in_4bit) for scalar in (False, True)
    )
    number, judges = 2 if bf16 else 4, len(recipe.reward.models)
    has_value = ppo.advantage == "gae"

    # At rest. Frozen models are shared out where the trained ones' weights are, but not while they are offloaded.
    beside: Parts = {"process": PROCESS} if hardware.cpu else {}
    if shared:
        frozen = number * (shape.parameters + adapters[0] + judges * adapters[1])
        frozen -= saved_in_4bit(shape, number) * ppo.load_in_4bit
    else:
        frozen = number * (shape.parameters + judges * shape.scalar_parameters)
        if hardware.sharing in ("none", "ddp"):  # of the reference only the layers are stored in the computation's type
            frozen += (4 - number) * (shape.parameters - shape.products)
        if hardware.sharing in ("fsdp2", "zero3") and not ppo.offload_frozen:
            frozen /= hardware.processes
    resting = 0 if ppo.offload_frozen else frozen
    states = {"policy": state(policy, hardware), "value": state(value, hardware) if has_value else {}}

    def without(name: str, frozen_here: float) -> Parts:
        """What is there besides one of the trained models."""
        other = states["value" if name == "policy" else "policy"]
        held = sum(size for part, size in other.items() if part != "gradients" or hardware.sharing == "ddp")
        return {**beside, "frozen models": frozen_here, "other trained model": held}

    lengths = (plan.prompt_tokens or recipe.data.max_prompt_tokens,
               plan.response_tokens or recipe.sampling.max_new_tokens)  # fmt: skip
    whole = sum(lengths)
    responses = ppo.queries_per_step // hardware.processes * ppo.responses_per_query
    beside |= compiled_for_the_run(recipe, policy, responses, whole)
    mini = max(1, responses // ppo.minibatches)
    phases: list[Phase] = []

    at_once = max(1, min(ppo.micro_batch_tokens // whole, responses))
    phases += writing(recipe, policy, hardware, responses, lengths, without("policy", resting))
    phases.append(forward_only(policy, at_once * whole, hardware, without("policy", frozen), "judging"))

    per_pass = min(at_once, mini)
    texts = ppo.micro_batch_tokens // recipe.data.pretrain_length if ppo.pretrain_coef > 0 else 0
    wanted = -(-int(ppo.pretrain_ratio * mini * lengths[1]) // max(recipe.data.pretrain_length - 1, 1))
    text_tokens = max(1, min(texts, wanted)) * recipe.data.pretrain_length if texts else 0
    common = {"checkpointing": ppo.gradient_checkpointing, "sequence": whole}
    # A minibatch in as few passes as there can be: full ones, and what is left over.
    sizes = {"": (per_pass, mini >= 2 * per_pass), " left over": (mini % per_pass, True)}
    answers = {kind: Pass(size * whole, size * lengths[1], repeated=again, **common)
               for kind, (size, again) in sizes.items() if size}  # fmt: skip
    texts_pass = {", text": Pass(text_tokens, text_tokens, repeated=True, **common)} if text_tokens else {}
    for kind, step in (answers | texts_pass).items():
        phases += training(policy, step, hardware, without("policy", resting), ppo.fused_adamw, f"policy{kind}: ")
    if has_value:
        for kind, step in answers.items():
            phases += training(value, step, hardware, without("value", resting), ppo.fused_adamw, f"value{kind}: ")
    names = {"policy": (policy, policy.trained), **({"value model": (value, value.trained)} if has_value else {})}
    models = {name: (one.base + one.adapters, trained) for name, (one, trained) in names.items()}
    models |= {"reference": (shape.parameters + adapters[0], 0)}
    models |= {f"reward model {at + 1}": (shape.scalar_parameters + adapters[1], 0) for at in range(judges)}
    work = ppo_work(recipe, policy, lengths, has_value, judges, hardware)
    return Planning(shape, hardware, models, phases, work, host(hardware, policy, True))


def host(hardware: Hardware, model: Trained, stored: bool) -> float:
    """Every process loads whole float32 weights before it keeps its share; what FSDP2 and ZeRO-3 take from files as it
    is stored (bfloat16, as published) is there once."""
    if stored and hardware.sharing in ("fsdp2", "zero3"):
        return 2 * model.base
    return -(-hardware.processes // hardware.machines) * 4 * model.base
