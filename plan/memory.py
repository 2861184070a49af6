"""Formulas for the memory of a device, in bytes.

    T  tokens in a forward pass          q  width of the queries of all heads
    d  hidden size                       k  width of the keys of all heads
    f  intermediate size of the MLP      V  vocabulary
    L  layers                            e  bytes of a number: 2 if matrix products run in bfloat16 (autocast), else 4

The formulas count what this project's code allocates: rows are packed, log-probabilities are computed in tiles, trained
weights are float32. On a GPU this is the memory that torch's allocator hands out. The driver and memory that the
allocator caches without using it are not counted.
"""

from dataclasses import dataclass

from engine.forward.logprobs import TILE_ON_CPU, TILE_ON_GPU
from plan.hardware import Hardware
from plan.shape import Shape

Parts = dict[str, float]
"""what takes the memory -> bytes"""

# DeepSpeed's defaults, in numbers: bucket of gradients, gathered weights that are kept, weights gathered in advance.
REDUCE_BUCKET, LIVE_PARAMETERS, PREFETCH_BUCKET = 5e8, 1e9, 5e7
# Bytes of a weight in 4 bits, with an 8-bit scale per 64 weights and a 32-bit scale per 256 of those.
BYTES_IN_4BIT = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Trained:
    """A model that is trained."""

    shape: Shape
    scalar: bool
    """whether it has a scalar head instead of the output head"""
    adapters: int
    """parameters of LoRA adapters; 0 if all weights are trained"""
    bf16: bool
    """whether matrix products run in bfloat16"""
    shared: bool = False
    """whether several models share its frozen weights, which are then counted separately"""
    in_4bit: bool = False
    """whether its frozen linear layers are stored in 4 bits"""

    @property
    def base(self) -> int:
        """Number of parameters without adapters."""
        return self.shape.scalar_parameters if self.scalar else self.shape.parameters

    @property
    def own_parameters(self) -> int:
        """Number of parameters that are not shared with other models."""
        return self.adapters if self.shared else self.base + self.adapters

    @property
    def trained(self) -> int:
        """Number of trained parameters."""
        return self.adapters or self.base

    @property
    def element_bytes(self) -> int:
        """e: bytes of a number in the dtype of matrix products."""
        return 2 if self.bf16 else 4

    @property
    def weight_bytes(self) -> float:
        """Bytes of its own weights, unsharded: 4 each; frozen linear layers take e each, or less in 4 bits."""
        if self.shared or not self.adapters:
            return 4 * self.own_parameters
        return 4 * self.own_parameters - (
            saved_in_4bit(self.shape, 4) if self.in_4bit else (4 - self.element_bytes) * self.shape.products
        )

    @property
    def dequantised_bytes(self) -> float:
        """Bytes of the largest 4-bit layer dequantised for a matrix product: in its original dtype, and cast to e."""
        kept = self.element_bytes if self.shared else 4
        each = kept + (self.element_bytes if self.element_bytes != kept else 0)
        return each * max(inputs * outputs for _, inputs, outputs in self.shape.linear) if self.in_4bit else 0.0


@dataclass(frozen=True)
class Pass:
    """A forward and backward pass (a micro-batch)."""

    tokens: int
    predicted: int
    """positions whose log-probability is computed"""
    sequence: int
    """tokens of the longest sequence"""
    repeated: bool
    """whether gradients of earlier passes are kept meanwhile (accumulation)"""
    checkpointing: bool
    """whether activations are recomputed in the backward pass"""
    dropout: bool = False
    """whether attention weights are dropped"""


def saved_in_4bit(shape: Shape, number: int) -> float:
    """Return the bytes that 4 bits save on linear layers without the head, compared with `number` bytes per weight."""
    return (number - BYTES_IN_4BIT) * shape.products


def training_state(model: Trained, hardware: Hardware) -> Parts:
    """Return the bytes of weights, gradients and optimiser on one device.

    Per trained number these are 4 for the weight, 4 for the gradient and 8 for AdamW's moments. Under FSDP2 the frozen
    base of adapters takes e per number. DDP's buckets are a second copy of the gradients. DeepSpeed stores weights with
    e bytes and float32 master weights (4); ZeRO-3 also keeps its gradients and its gradient bucket between steps.
    """
    own, trained, n = model.own_parameters, model.trained, hardware.processes
    match hardware.sharing:
        case "none":
            return {"weights": model.weight_bytes, "gradients": 4 * trained, "optimiser": 8 * trained}
        case "ddp":
            return {"weights": model.weight_bytes, "gradients": 8 * trained, "optimiser": 8 * trained}
        case "fsdp2":
            frozen = (4 - model.element_bytes) * model.base if model.adapters else 0
            return {"weights": (4 * own - frozen) / n, "gradients": 4 * trained / n, "optimiser": 8 * trained / n}
        case "zero1":
            return {"weights": model.element_bytes * own, "gradients": 4 * trained, "optimiser": 12 * trained / n}
        case "zero2":
            return {"weights": model.element_bytes * own, "gradients": 4 * trained / n, "optimiser": 12 * trained / n}
    return {
        "weights": model.element_bytes * own / n,
        "gradients": 0.0,
        "optimiser": 16 * trained / n,
        "bucket": model.element_bytes * (min(trained, REDUCE_BUCKET) if hardware.cpu else REDUCE_BUCKET),
    }


def state_between_steps(model: Trained, hardware: Hardware) -> Parts:
    """Return the bytes of the training state between two steps, when there are no gradients."""
    return {part: size for part, size in training_state(model, hardware).items() if part != "gradients"}


def gathered_weights(model: Trained, hardware: Hardware, forward: bool) -> float:
    """Return the bytes of unsharded weights, and in the backward pass of gradients, that exist for a while.

    FSDP2: the tables for the whole pass, two layers (one is prefetched), and in the backward pass the gradients of
    tables and of one layer. ZeRO: in the backward pass a bucket of gradients, which ZeRO-3 copies for reduce-scatter.
    ZeRO-3 also gathers all weights of small models. In the forward pass it has a prefetch buffer as well, which is
    copied at once but freed only after the last weight in it has been used.
    """
    shape, e = model.shape, model.element_bytes
    tables = shape.table * (1 if model.scalar or shape.tied else 2)
    match hardware.sharing:
        case "fsdp2":
            gradients = 0 if model.adapters or forward else tables + shape.layer_parameters
            return e * (tables + 2 * shape.layer_parameters + gradients)
        case "zero3":
            besides = min(model.base, PREFETCH_BUCKET) if forward else min(model.trained, REDUCE_BUCKET)
            return e * (min(model.base, LIVE_PARAMETERS) + besides)
        case "zero1" | "zero2" if not forward:
            return e * min(model.trained, REDUCE_BUCKET)
    return 0.0


def generation_weights(model: Trained, hardware: Hardware, split: int) -> float:
    """Return the bytes of weights gathered for generation: all, or 1/`split` of layers and head (sampling.split)."""
    shape = model.shape
    if split > 1:
        tables = shape.table * (1 if shape.tied else 2)
        cut = shape.products + shape.table
        return model.element_bytes * (model.base - shape.products - (tables - shape.table) + cut / split)
    return model.element_bytes * model.base if hardware.sharing in ("fsdp2", "zero3") else 0.0


def layer_activations(model: Trained, step: Pass, cpu: bool) -> float:
    """Return the bytes per token that one layer keeps for its backward pass.

    Norms: both keep their input, and the normalised input if their weight is trained: 4 · 2d each, in float32.
    Inputs of the projections: e · 2d; under autocast one copy per projection, 2 · 5d.
    Attention: queries, keys, values and the output, which is copied for the projection after it: e (3q + 2k).
    Gated MLP: gate, its activation, up and their product: 4 e f.
    Normalised heads (Qwen3): input and normalised input of queries and keys.
    Attention dropout on a CPU: three float32 matrices of sequence × sequence per head.
    """
    s, e, full = model.shape, model.element_bytes, model.adapters == 0
    norms = 4 * 2 * s.hidden * (2 if full else 1)
    read = 2 * 5 * s.hidden if model.bf16 else 4 * 2 * s.hidden
    attention = e * (3 * s.queries + 2 * s.keys)
    heads = (4 + (e if full else 0)) * (s.queries + s.keys) if s.normalised_heads else 0
    matrices = 12 * s.heads * step.sequence if step.dropout and cpu else 0
    return norms + read + attention + heads + 4 * e * s.intermediate + matrices


def forward_activations(shape: Shape, number: int, adapters: bool = False) -> float:
    """Return the bytes per token inside a layer in a forward pass without backward: e (2d + max(3f, 4q + 3k)).

    These are the residual stream and its normalised form (2d), and the larger of the MLP's activation, up and product
    (3f) and the rotation of queries and keys (4q + 3k). With adapters, the adapter's part of up exists until it is
    added to the layer's: e f more. `number` is e.
    """
    mlp = (4 if adapters else 3) * shape.intermediate
    return number * (2 * shape.hidden + max(mlp, 4 * shape.queries + 3 * shape.keys))


def backward_activations(model: Trained) -> float:
    """Return the bytes per token inside a layer's backward pass, besides what the forward pass kept: 2 e f + 8 d.

    These are the gradients of the MLP's intermediate values and, in float32, of the residual stream.
    """
    return model.element_bytes * 2 * model.shape.intermediate + 4 * 2 * model.shape.hidden


def logit_buffers(model: Trained, cpu: bool, buffers: int = 2) -> float:
    """Return the bytes of a tile of logits in float32: one buffer for log-probabilities, a second one for entropy."""
    if model.scalar:
        return 0.0
    positions, columns = TILE_ON_CPU if cpu else TILE_ON_GPU
    return buffers * 4 * positions * min(columns, model.shape.vocabulary)


def autocast_copies(model: Trained, hardware: Hardware) -> float:
    """Return the bytes of bfloat16 copies of the layers' weights, which autocast makes once per pass.

    There are none if weights are sharded (they are gathered in bfloat16) or frozen (stored in bfloat16 or 4 bits).
    """
    needed = model.bf16 and not model.adapters and hardware.sharing in ("none", "ddp")
    return 2 * model.shape.products if needed else 0.0


def kv_cache(shape: Shape, rows: int, length: int, bf16: bool) -> float:
    """Return the bytes of the KV cache of `rows` sequences of `length` tokens.

    The keys of one layer count twice, since a growing cache is copied.
    """
    number = 2 if bf16 else 4
    return number * rows * length * shape.keys * (2 * shape.layers + 1)


def compiled_decoding(model: Trained, rows: int, columns: int) -> float:
    """Return the bytes that compiled decoding keeps for the whole run.

    These are a KV cache of full size (`rows` × `columns` tokens) with e bytes per number, and under autocast bfloat16
    copies of the weights of layers and head.
    """
    numbers = 2 * rows * columns * model.shape.keys * model.shape.layers
    low = model.shape.products + model.shape.table if model.bf16 and not model.shared else 0
    return model.element_bytes * (numbers + low)


def decode_logits(shape: Shape, rows: int, record: bool) -> float:
    """Return the bytes of sampling in one decoding step, for `rows` responses.

    Logits, probabilities, their cumulative sum, the comparison with top_p and its product take 17 bytes per vocabulary
    entry. A sort takes 16 more if the truncated set is recorded (`record`).
    """
    return rows * shape.vocabulary * (17 + (16 if record else 0))


def prefill(model: Trained, queries: int, length: int) -> float:
    """Return the bytes of a batch of prompts in one pass, with the attention mask as booleans and as float32."""
    inside = forward_activations(model.shape, model.element_bytes, model.adapters > 0)
    return queries * length * inside + queries * length**2 * 5
