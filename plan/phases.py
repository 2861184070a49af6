"""Memory of one device in each phase of a step."""

from dataclasses import dataclass

from plan.hardware import Hardware
from plan.memory import (
    Parts,
    Pass,
    Trained,
    autocast_copies,
    backward_activations,
    forward_activations,
    gathered_weights,
    layer_activations,
    logit_buffers,
    state_between_steps,
    training_state,
)

# On a CPU: bytes of libraries and data beyond their import, as measured.
CPU_PROCESS_BYTES = 60 * 2**20


@dataclass(frozen=True)
class Phase:
    name: str
    parts: Parts

    @property
    def total(self) -> float:
        """Bytes"""
        return sum(self.parts.values())


def training(model: Trained, step: Pass, hardware: Hardware, beside: Parts, fused: bool, name: str = "") -> list[Phase]:
    """Return the phases of a training step of one model; `beside` has the bytes of everything else.

    The gradient of a table (embeddings or head) is as large as the table. The head's exists before any layer's. Under
    LoRA, which trains some rows of the head, a copy of the head exists too, in the dtype of the computation under FSDP2
    and ZeRO; under FSDP2 only one of the two was measured in addition to gathered weights. If head and embeddings are
    tied, both gradients and their sum exist at the end. The first micro-batch makes gradients in place; later ones make
    their own and add them.
    """
    shape, full, again = model.shape, model.adapters == 0, int(step.repeated)
    table = (4 if full or hardware.sharing in ("none", "ddp") else model.element_bytes) * shape.table
    state = training_state(model, hardware)
    between = state_between_steps(model, hardware) | beside
    forward = between | transient_weights(model, hardware, forward=True)
    back = between | transient_weights(model, hardware, forward=False)
    layer, inside = (
        step.tokens * layer_activations(model, step, hardware.cpu),
        step.tokens * backward_activations(model),
    )
    stream = 4 * step.tokens * shape.hidden
    kept = shape.layers * (stream if step.checkpointing else layer)
    # The last norm's activations, and the hidden states at predicted positions.
    kept += (2 if full else 1) * stream + (0 if model.scalar else 4 * step.predicted * shape.hidden)
    # Gathered weights include the tables and their gradients, but not the copies of which LoRA trains rows.
    sharded = full and hardware.sharing in ("fsdp2", "zero3")
    head = 0 if model.scalar or sharded else table if full or hardware.sharing == "fsdp2" else 2 * table
    cast = autocast_copies(model, hardware)
    cast_back = cast / shape.layers if step.checkpointing else cast
    before, within = again * state["gradients"], forward_activations(shape, model.element_bytes, not full)
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
            "autocast copies": cast, "logits": logit_buffers(model, hardware.cpu),
        }),
        Phase(f"{name}backward, last layer", back | {
            "gradients": before + head, "activations": kept + recomputed + inside, "autocast copies": cast_back,
        }),
        Phase(f"{name}backward, first layer", back | {
            "gradients": state["gradients"] + tables, "activations": stream * 2 + layer + inside,
            "autocast copies": cast / shape.layers,
        }),
        Phase(f"{name}optimiser's step", between | {
            "gradients": state["gradients"], "copies of AdamW": adamw_copies(model, hardware, fused),
        }),
    ]  # fmt: skip


def transient_weights(model: Trained, hardware: Hardware, forward: bool) -> Parts:
    """Return the bytes of weights that exist unsharded or dequantised only in the forward, or in the backward pass."""
    parts = {"gathered": gathered_weights(model, hardware, forward), "decoded layer": model.dequantised_bytes}
    return {name: size for name, size in parts.items() if size}


def adamw_copies(model: Trained, hardware: Hardware, fused: bool) -> float:
    """Return the bytes of temporaries of an unfused AdamW: on a GPU for all weights at once, else for the largest."""
    if fused:
        return 0.0
    if hardware.cpu:
        return 2 * 4 * model.shape.table if not model.adapters else 0.0
    return training_state(model, hardware)["optimiser"] / 2


def forward_only(model: Trained, tokens: int, hardware: Hardware, beside: Parts, name: str) -> Phase:
    """Return the phase of a forward pass without backward, of `tokens` tokens, through a model that is trained."""
    parts = state_between_steps(model, hardware) | beside | transient_weights(model, hardware, forward=True)
    passes = tokens * forward_activations(model.shape, model.element_bytes, model.adapters > 0)
    tiles = logit_buffers(model, hardware.cpu)
    return Phase(
        name, parts | {"activations": passes, "autocast copies": autocast_copies(model, hardware), "logits": tiles}
    )
