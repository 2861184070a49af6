"""Plan a stage from its recipe: the models that it loads, the memory of its phases, and the work of a step."""

from dataclasses import dataclass
from typing import Any

from engine.errors import RunError
from engine.forward.responses import TOKENS_PER_FORWARD
from plan.generation import check_generation, compiled_decoding_parts, generation_phases
from plan.hardware import Hardware
from plan.memory import Parts, Pass, Trained, saved_in_4bit, training_state
from plan.phases import CPU_PROCESS_BYTES, Phase, forward_only, training
from plan.recipe import Plan, Planned
from plan.shape import Shape, adapter_rank, lora_parameters, shape_of
from plan.work import Work, ppo_work, trainer_work

# Default of transformers.
DEFAULT_BATCH = 8


@dataclass(frozen=True)
class Planning:
    """The plan of a run."""

    shape: Shape
    hardware: Hardware
    models: dict[str, tuple[int, int]]
    """name -> (parameters, trained parameters)"""
    phases: list[Phase]
    work: Work
    host_bytes: float
    """bytes of host memory per machine for weights while they are loaded"""
    merging_bytes: float = 0.0
    """bytes of host memory on the first machine for the model with merged adapters, at the end"""

    @property
    def peak(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def fits(self) -> bool:
        return self.peak.total <= self.hardware.usable


def planning(planned: Planned, shape: Shape | None = None, hardware: Hardware | None = None) -> Planning:
    """Return the plan of a recipe, by default for its own model and hardware.

    Raise RunError if this kind of model cannot be planned, or if the stage does not support the hardware.
    """
    recipe, plan = planned.recipe, planned.plan
    shape = shape or shape_of(recipe.model.path, recipe.model)
    hardware = hardware or planned.hardware
    stage_plan = ppo_plan if recipe.stage == "ppo" else trainer_plan
    return stage_plan(recipe, plan, shape, hardware)


def in_bf16(recipe: Any, hardware: Hardware) -> bool:
    """Return whether models compute in bfloat16 on the planned device."""
    return recipe.model.dtype == "bfloat16" or (recipe.model.dtype == "auto" and not hardware.cpu)


def trainer_plan(recipe: Any, plan: Plan, shape: Shape, hardware: Hardware) -> Planning:
    """Return the plan of stage sft or reward: a trainer's steps over rows or comparisons."""
    scalar, trainer = recipe.stage == "reward", recipe.trainer
    bf16, lora = in_bf16(recipe, hardware), recipe.lora
    if lora.load_in_4bit and hardware.sharing not in ("none", "ddp"):
        raise RunError(f"lora.load_in_4bit=true was not tried under {hardware.sharing}; use HARDWARE=ddp or one_gpu")
    adapters = lora_parameters(shape, lora.r, lora.target_modules, scalar=scalar) if lora.r else 0
    model = Trained(shape, scalar, adapters, bf16, in_4bit=lora.load_in_4bit)
    # The batch size does not depend on the number of processes: each takes its share, in micro-batches.
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
    beside: Parts = {"process": CPU_PROCESS_BYTES} if hardware.cpu else {}
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
    return Planning(shape, hardware, models, phases, work, host_bytes(hardware, model, not scalar), merging)


def ppo_plan(recipe: Any, plan: Plan, shape: Shape, hardware: Hardware) -> Planning:
    """Return the plan of stage ppo: two trained models and at least two frozen ones, or all on one shared base."""
    ppo, bf16, shared = recipe.ppo, in_bf16(recipe, hardware), recipe.models == "shared"
    if shared and hardware.sharing not in ("none", "ddp"):
        raise RunError("models=shared runs in one process or under ddp; use HARDWARE=ddp, or set models=full")
    check_generation(recipe, shape, hardware)
    rank = (adapter_rank(recipe.model.path) or plan.lora_r) if shared else 0
    adapters = [lora_parameters(shape, rank, "all-linear", scalar=scalar) if shared else 0 for scalar in (False, True)]
    policy, value = (
        Trained(shape, scalar, adapters[scalar], bf16, shared, ppo.load_in_4bit) for scalar in (False, True)
    )
    number, judges = 2 if bf16 else 4, len(recipe.reward.models)
    has_value = ppo.advantage == "gae"

    # Between passes. Frozen models are sharded like the weights of trained ones, unless they are offloaded.
    beside: Parts = {"process": CPU_PROCESS_BYTES} if hardware.cpu else {}
    frozen: float
    if shared:
        frozen = number * (shape.parameters + adapters[0] + judges * adapters[1])
        frozen -= saved_in_4bit(shape, number) * ppo.load_in_4bit
    else:
        frozen = number * (shape.parameters + judges * shape.scalar_parameters)
        if hardware.sharing in ("none", "ddp"):  # The reference's tables and norms stay in float32.
            frozen += (4 - number) * (shape.parameters - shape.products)
        if hardware.sharing in ("fsdp2", "zero3") and not ppo.offload_frozen:
            frozen /= hardware.processes
    resting = 0 if ppo.offload_frozen else frozen
    states = {"policy": training_state(policy, hardware), "value": training_state(value, hardware) if has_value else {}}

    def without(name: str, frozen_here: float) -> Parts:
        """Return the bytes of everything except one of the trained models."""
        other = states["value" if name == "policy" else "policy"]
        total = sum(size for part, size in other.items() if part != "gradients" or hardware.sharing == "ddp")
        return {**beside, "frozen models": frozen_here, "other trained model": total}

    lengths = (
        plan.prompt_tokens or recipe.data.max_prompt_tokens,
        plan.response_tokens or recipe.sampling.max_new_tokens,
    )
    whole = sum(lengths)
    responses = ppo.queries_per_step // hardware.processes * ppo.responses_per_query
    beside |= compiled_decoding_parts(recipe, policy, responses, whole)
    mini = max(1, responses // ppo.minibatches)
    phases: list[Phase] = []

    at_once = max(1, min(ppo.micro_batch_tokens // whole, responses))
    phases += generation_phases(recipe, policy, hardware, responses, lengths, without("policy", resting))
    phases.append(forward_only(policy, at_once * whole, hardware, without("policy", frozen), "scoring rollouts"))

    per_pass = min(at_once, mini)
    texts = ppo.micro_batch_tokens // recipe.data.pretrain_length if ppo.pretrain_coef > 0 else 0
    wanted = -(-int(ppo.pretrain_ratio * mini * lengths[1]) // max(recipe.data.pretrain_length - 1, 1))
    text_tokens = max(1, min(texts, wanted)) * recipe.data.pretrain_length if texts else 0
    common = {"checkpointing": ppo.gradient_checkpointing, "sequence": whole}
    # A minibatch takes as few passes as possible: full ones, and one for the rest.
    sizes = {"": (per_pass, mini >= 2 * per_pass), " left over": (mini % per_pass, True)}
    answers = {
        kind: Pass(size * whole, size * lengths[1], repeated=again, **common)
        for kind, (size, again) in sizes.items()
        if size
    }
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
    return Planning(shape, hardware, models, phases, work, host_bytes(hardware, policy, True))


def host_bytes(hardware: Hardware, model: Trained, stored: bool) -> float:
    """Return the bytes of host memory per machine for weights while they are loaded.

    Every process loads full float32 weights before it keeps its shard. With `stored`, FSDP2 and ZeRO-3 read the
    published bfloat16 files, which a machine holds once.
    """
    if stored and hardware.sharing in ("fsdp2", "zero3"):
        return 2 * model.base
    return -(-hardware.processes // hardware.machines) * 4 * model.base
