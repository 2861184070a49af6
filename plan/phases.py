"""What a stage holds at each of its fullest moments, on one device."""

from dataclasses import dataclass

from plan.hardware import Hardware
from plan.memory import (
    Parts,
    Pass,
    Trained,
    at_rest,
    casts,
    gathered,
    in_backward,
    layer_activations,
    logits,
    passing,
    state,
)

# On a CPU: what libraries and data take beyond their import, as it was seen.
PROCESS = 60 * 2**20


@dataclass(frozen=True)
class Phase:
    name: str
    parts: Parts

    @property
    def total(self) -> float:
        """Bytes"""
        return sum(self.parts.values())


def training(model: Trained, step: Pass, hardware: Hardware, beside: Parts, fused: bool, name: str = "") -> list[Phase]:
    """A step of one model, `beside` what else is there.

    The gradient of a table is as large as the table. A head's is there before any layer's; under LoRA, which trains
    some of its rows, so is a copy of the head, under FSDP2 and ZeRO in the type of the computation; under FSDP2 one of
    the two was seen beside what is gathered. Where the head is the embedding table, both gradients and their sum are
    there at the end. The first micro-batch makes gradients in place; others add theirs.
    """
    shape, full, again = model.shape, model.adapters == 0, int(step.repeated)
    table = (4 if full or hardware.sharing in ("none", "ddp") else model.number) * shape.table
    held = state(model, hardware)
    between = at_rest(model, hardware) | beside
    forward = between | for_a_while(model, hardware, forward=True)
    back = between | for_a_while(model, hardware, forward=False)
    layer, inside = step.tokens * layer_activations(model, step, hardware.cpu), step.tokens * in_backward(model)
    stream = 4 * step.tokens * shape.hidden
    kept = shape.layers * (stream if step.checkpointing else layer)
    # The last norm's, and the positions that are predicted.
    kept += (2 if full else 1) * stream + (0 if model.scalar else 4 * step.predicted * shape.hidden)
    # Tables and their gradients are among what is gathered; not so the copies whose rows adapters train.
    sharded = full and hardware.sharing in ("fsdp2", "zero3")
    head = 0 if model.scalar or sharded else table if full or hardware.sharing == "fsdp2" else 2 * table
    cast = casts(model, hardware)
    cast_back = cast / shape.layers if step.checkpointing else cast
    before, within = again * held["gradients"], passing(shape, model.number, not full)
    recomputed = layer if step.checkpointing else 0
    if sharded:
        tables = 0.0
    elif full:
        tables = table * (2 + again if shape.tied and not model.scalar else again)
    else:
        tables = table
    return [
        Phase(f"{name}loss", forward | {
            "gradients": before, "activations": kept + step.tokens * within * step.checkpointing,
            "autocast copies": cast, "logits": logits(model, hardware.cpu),
        }),
        Phase(f"{name}backward, last layer", back | {
            "gradients": before + head, "activations": kept + recomputed + inside, "autocast copies": cast_back,
        }),
        Phase(f"{name}backward, first layer", back | {
            "gradients": held["gradients"] + tables, "activations": stream * 2 + layer + inside,
            "autocast copies": cast / shape.layers,
        }),
        Phase(f"{name}optimiser's step", between | {
            "gradients": held["gradients"], "copies of AdamW": adamw_copies(model, hardware, fused),
        }),
    ]  # fmt: skip


def for_a_while(model: Trained, hardware: Hardware, forward: bool) -> Parts:
    """Weights that are whole only while the model computes, in its `forward` pass or in the one back."""
    parts = {"gathered": gathered(model, hardware, forward), "decoded layer": model.decoded}
    return {name: size for name, size in parts.items() if size}


def adamw_copies(model: Trained, hardware: Hardware, fused: bool) -> float:
    """What an unfused AdamW makes on its way: on a GPU of all weights at once, else two of the largest."""
    if fused:
        return 0.0
    if hardware.cpu:
        return 2 * 4 * model.shape.table if not model.adapters else 0.0
    return state(model, hardware)["optimiser"] / 2


def forward_only(model: Trained, tokens: int, hardware: Hardware, beside: Parts, name: str) -> Phase:
    """Tokens through a model that will be trained further, without a backward pass."""
    parts = at_rest(model, hardware) | beside | for_a_while(model, hardware, forward=True)
    passes = tokens * passing(model.shape, model.number, model.adapters > 0)
    tiles = logits(model, hardware.cpu)
    return Phase(name, parts | {"activations": passes, "autocast copies": casts(model, hardware), "logits": tiles})
