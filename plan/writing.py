"""What a device holds while answers are written."""

from typing import Any

from engine.errors import RunError
from engine.generation.compiled import fixed_columns, fixed_rows
from plan.hardware import PER_MACHINE, Hardware
from plan.memory import (
    Parts,
    Trained,
    at_rest,
    casts,
    compiled_decoding,
    decode_logits,
    kv_cache,
    passing,
    prefill,
    written_with,
)
from plan.phases import Phase
from plan.shape import Shape


def writing(
    recipe: Any, policy: Trained, hardware: Hardware, responses: int, lengths: tuple[int, int], beside: Parts
) -> list[Phase]:
    """The prompts of a batch in one pass, then the last token written, when the cache is longest.

    A team (sampling.split) writes the answers of all its processes at once; each has the cache of its heads.
    """
    sampling, shape, split = recipe.sampling, policy.shape, recipe.sampling.split
    rows, compiled = rows_at_once(recipe, responses), sampling.engine == "compiled"
    rest = at_rest(policy, hardware) | {"decoded layer": policy.decoded, **beside}
    rest["autocast copies"] = 0.0 if compiled or split > 1 else casts(policy, hardware)
    if whole := written_with(policy, hardware, split):
        rest["gathered"] = whole
    prompts = rows // recipe.ppo.responses_per_query
    return [
        Phase("reading prompts", rest | {
            "activations": prefill(policy, prompts, lengths[0]),
            "KV cache": kv_cache(shape, prompts, lengths[0], policy.bf16) / split,
        }),
        Phase("writing answers", rest | {
            "activations": rows * passing(shape, policy.number, policy.adapters > 0),
            "KV cache": 0.0 if compiled else kv_cache(shape, rows, sum(lengths), policy.bf16) / split,
            "logits": decode_logits(shape, rows, sampling.logprobs == "truncated"),
        }),
    ]  # fmt: skip


def rows_at_once(recipe: Any, responses: int) -> int:
    """How many answers are written at a time, where each process has so many to write."""
    sampling, each = recipe.sampling, recipe.ppo.responses_per_query
    return min(max(1, sampling.batch_size // each) * each, responses * sampling.split)


def compiled_for_the_run(recipe: Any, policy: Trained, responses: int, longest: int) -> Parts:
    """What compiled decoding holds all the time."""
    if recipe.sampling.engine != "compiled":
        return {}
    rows = fixed_rows(rows_at_once(recipe, responses))
    return {"compiled decoding": compiled_decoding(policy, rows, fixed_columns(longest))}


def can_split(recipe: Any, shape: Shape, hardware: Hardware, split: int) -> bool:
    """Whether teams of so many processes of one machine can write (engine/generation/tensor_parallel.py)."""
    key_heads = shape.keys * shape.heads // shape.queries
    widths = (hardware.processes, shape.heads, key_heads, shape.intermediate)
    whole = recipe.models == "full" and recipe.sampling.engine == "own"
    return whole and split <= PER_MACHINE and not any(width % split for width in widths)


def refuse_writing(recipe: Any, shape: Shape, hardware: Hardware) -> None:
    """RunError where the run would refuse its engine or its teams."""
    if recipe.sampling.engine == "compiled" and hardware.sharing not in ("none", "ddp"):
        raise RunError(
            "sampling.engine=compiled runs in one process or under ddp; use HARDWARE=ddp, or sampling.engine=own"
        )
    split = recipe.sampling.split
    if split > 1 and not can_split(recipe, shape, hardware, split):
        raise RunError(
            f"sampling.split={split} does not divide the {hardware.processes} processes of this plan, or its model's "
            "heads; choose another"
        )
