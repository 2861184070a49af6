"""Find changes that make a run fit into memory, by planning changed copies of its recipe."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from engine.errors import RunError
from plan.generation import can_split
from plan.hardware import GIB, GPUS_PER_MACHINE, Hardware
from plan.recipe import Planned
from plan.stages import Planning, planning
from ppo.recipe import PPO

MAX_PROCESSES = 512
Change = dict[str, Any]
"""dotted key -> new value"""


@dataclass(frozen=True)
class Way:
    """A set of changes and the plan with them."""

    text: str
    """the hardware in words, if it changes too"""
    changes: Change
    plan: Planning


def advice(planned: Planned, plan: Planning) -> Iterator[str]:
    """Yield a line for every set of changes with which the run fits; if there is none, for the smallest run."""
    ways = list(all_ways(planned, plan))
    fitting = [way for way in ways if way.plan.fits]
    yield "to make it fit, use one of:" if fitting else "no change that was tried makes it fit; the smallest is:"
    for way in fitting or [min(ways, key=lambda way: way.plan.peak.total)]:
        keys = " ".join(f"{key}={as_override(value)}" for key, value in way.changes.items())
        what = " ".join(part for part in (way.text, f'ARGS="{keys}"' if keys else "") if part)
        yield f"  {what}: {way.plan.peak.total / GIB:,.2f} GiB ({way.plan.peak.name})"


def all_ways(planned: Planned, plan: Planning) -> Iterator[Way]:
    """Yield sets of changes: those that do not affect the result; LoRA instead of training all weights; LoRA on a base
    in 4 bits, if nothing else fits; and more devices.
    """
    recipe, hardware, shape = planned.recipe, plan.hardware, plan.shape

    def tried(change: Change, on: Hardware) -> Planning | None:
        try:
            return planning(with_changes(planned, change), shape, on)
        except RunError:  # The stage refuses this combination.
            return None

    def reduced(start: Change, on: Hardware, text: str) -> Iterator[Way]:
        if (begun := tried(start, on)) is not None:
            yield Way(text, *reduce_until_it_fits(planned, start, begun, lambda change: tried(change, on)))

    yield from (ways := list(reduced({}, hardware, "")))
    lora: Change
    in_4bit: Change
    if isinstance(recipe, PPO):
        trains_all, is_in_4bit = recipe.models == "full", recipe.ppo.load_in_4bit
        lora, in_4bit = {"models": "shared"}, {"ppo.load_in_4bit": True}
    else:
        trains_all, is_in_4bit = recipe.lora.r == 0, recipe.lora.load_in_4bit
        lora, in_4bit = {"lora.r": 64}, {"lora.merge": False, "lora.load_in_4bit": True}
    if trains_all:
        yield from (ways := list(reduced(lora, hardware, "")))
    if not is_in_4bit and not any(way.plan.fits for way in ways):
        yield from reduced((lora if trains_all else {}) | in_4bit, hardware, "")
    if not hardware.cpu:
        yield from first_fitting(lambda on, text: reduced({}, on, text), hardware, recipe)


def first_fitting(ways: Callable[[Hardware, str], Iterator[Way]], hardware: Hardware, recipe: Any) -> Iterator[Way]:
    """Yield the first way that fits on sharded devices, doubling their number; if none fits, the last that was tried.

    `ways` yields the ways for given hardware and its description.
    """
    sharing = hardware.sharing if hardware.sharing in ("fsdp2", "zero3") else "fsdp2"
    most = recipe.ppo.queries_per_step if recipe.stage == "ppo" else MAX_PROCESSES
    count, last = 2, None
    while count <= most:
        machines = -(-count // GPUS_PER_MACHINE)
        if count > hardware.processes or sharing != hardware.sharing:
            on = replace(hardware, sharing=sharing, processes=count, machines=machines)
            where = f" on {machines} machines" if machines > 1 else ""
            for way in ways(on, f"HARDWARE={sharing} with {count} processes{where}"):
                last = way
                if way.plan.fits:
                    yield way
                    return
        count *= 2
    if last is not None:
        yield last


def reduce_until_it_fits(
    planned: Planned, change: Change, plan: Planning, tried: Callable[[Change], Planning | None]
) -> tuple[Change, Planning]:
    """Add changes to `change`, each time the one that saves most, until the run fits; return all changes and the plan.

    `tried` returns the plan for a set of changes, None if the stage refuses them. If nothing saves more, the plan that
    is returned may not fit.
    """
    while not plan.fits:
        found = [(more, tried(more)) for more in memory_savings(with_changes(planned, change).recipe, change, plan)]
        better = [(more, made) for more, made in found if made is not None and made.peak.total < plan.peak.total]
        if not better:
            return change, plan
        change, plan = min(better, key=lambda item: item[1].peak.total)
    return change, plan


def memory_savings(recipe: Any, change: Change, plan: Planning) -> Iterator[Change]:
    """Yield `change` with one more change that saves memory, costs time, and affects the result only by rounding."""
    if recipe.stage == "ppo":
        ppo, sampling = recipe.ppo, recipe.sampling
        longest = recipe.data.max_prompt_tokens + sampling.max_new_tokens
        if can_split(recipe, plan.shape, plan.hardware, 2 * sampling.split):
            yield change | {"sampling.split": 2 * sampling.split}
        if sampling.batch_size > ppo.responses_per_query:
            yield change | {"sampling.batch_size": sampling.batch_size // 2}
        if ppo.micro_batch_tokens // 2 >= longest:
            yield change | {"ppo.micro_batch_tokens": ppo.micro_batch_tokens // 2}
        for key in ("gradient_checkpointing", "fused_adamw"):
            if not getattr(ppo, key):
                yield change | {f"ppo.{key}": True}
        if not ppo.offload_frozen and recipe.models == "full":
            yield change | {"ppo.offload_frozen": True}
        return
    rows = int(recipe.trainer.get("per_device_train_batch_size", 8))
    again = int(recipe.trainer.get("gradient_accumulation_steps", 1))
    if not recipe.trainer.get("gradient_checkpointing", True):
        yield change | {"trainer.gradient_checkpointing": True}
    if rows % 2 == 0:
        yield change | {
            "trainer.per_device_train_batch_size": rows // 2,
            "trainer.gradient_accumulation_steps": again * 2,
        }


def with_changes(planned: Planned, change: Change) -> Planned:
    """Return a copy whose recipe has these values at some dotted keys."""
    recipe: Any = planned.recipe
    for key, value in change.items():
        name, _, field = key.partition(".")
        if not field:
            recipe = replace(recipe, **{name: value})
        elif name == "trainer":
            recipe = replace(recipe, trainer={**recipe.trainer, field: value})
        else:
            recipe = replace(recipe, **{name: replace(getattr(recipe, name), **{field: value})})
    return replace(planned, recipe=recipe)


def as_override(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
