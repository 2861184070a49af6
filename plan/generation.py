"""Memory of a device while responses are generated."""

from typing import Any

from engine.errors import RunError
from engine.generation.compiled import fixed_columns, fixed_rows
from plan.hardware import GPUS_PER_MACHINE, Hardware
from plan.memory import (
    Parts,
    Trained,
    autocast_copies,
    compiled_decoding,
    decode_logits,
    forward_activations,
    generation_weights,
    kv_cache,
    prefill,
    state_between_steps,
)
from plan.phases import Phase
from plan.shape import Shape


def generation_phases(
    recipe: Any, policy: Trained, hardware: Hardware, responses: int, lengths: tuple[int, int], beside: Parts
) -> list[Phase]:
    """Return the phases of generation: prefill of a batch's prompts, and the last decoding step (largest cache).

    `lengths` are the tokens of a prompt and of a response, `responses` the responses of one process, `beside` the bytes
    of everything else. A tensor-parallel group (sampling.split) generates the responses of all its processes together;
    each process has the cache of its own heads.
    """
    sampling, shape, split = recipe.sampling, policy.shape, recipe.sampling.split
    rows, compiled = responses_at_once(recipe, responses), sampling.engine == "compiled"
    rest = state_between_steps(policy, hardware) | {"decoded layer": policy.dequantised_bytes, **beside}
    rest["autocast copies"] = 0.0 if compiled or split > 1 else autocast_copies(policy, hardware)
    if whole := generation_weights(policy, hardware, split):
        rest["gathered"] = whole
    prompts = rows // recipe.ppo.responses_per_query
    return [
        Phase("prefill", rest | {
            "activations": prefill(policy, prompts, lengths[0]),
            "KV cache": kv_cache(shape, prompts, lengths[0], policy.bf16) / split,
        }),
        Phase("generating responses", rest | {
            "activations": rows * forward_activations(shape, policy.element_bytes, policy.adapters > 0),
            "KV cache": 0.0 if compiled else kv_cache(shape, rows, sum(lengths), policy.bf16) / split,
            "logits": decode_logits(shape, rows, sampling.logprobs == "truncated"),
        }),
    ]  # fmt: skip


def responses_at_once(recipe: Any, responses: int) -> int:
    """Return how many responses are generated at a time, if each process has `responses` to generate."""
    sampling, each = recipe.sampling, recipe.ppo.responses_per_query
    return min(max(1, sampling.batch_size // each) * each, responses * sampling.split)


def compiled_decoding_parts(recipe: Any, policy: Trained, responses: int, longest: int) -> Parts:
    """Return the bytes that compiled decoding keeps for the whole run; `longest` is in tokens."""
    if recipe.sampling.engine != "compiled":
        return {}
    rows = fixed_rows(responses_at_once(recipe, responses))
    return {"compiled decoding": compiled_decoding(policy, rows, fixed_columns(longest))}


def can_split(recipe: Any, shape: Shape, hardware: Hardware, split: int) -> bool:
    """Return whether groups of `split` processes of a machine can generate (engine/generation/tensor_parallel.py)."""
    key_heads = shape.keys * shape.heads // shape.queries
    widths = (hardware.processes, shape.heads, key_heads, shape.intermediate)
    whole = recipe.models == "full" and recipe.sampling.engine == "own"
    return whole and split <= GPUS_PER_MACHINE and not any(width % split for width in widths)


def check_generation(recipe: Any, shape: Shape, hardware: Hardware) -> None:
    """Raise RunError if the run would refuse its engine or its tensor-parallel groups."""
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
