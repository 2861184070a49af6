"""Bytes of what a device holds, each by a formula. T tokens go through a model at once; d hidden, f intermediate, q and
k the widths of all queries and of all keys, L layers, V vocabulary, e bytes of a number: 4, or 2 where matrix products
run in bfloat16 under autocast.

The formulas count what this project's code allocates: rows are packed, log-probabilities are made a tile at a time,
trained weights are float32. On a GPU they are what torch's allocator hands out. Not counted are the driver, and
what an allocator keeps without need of it.
"""

from dataclasses import dataclass

from engine.forward.logprobs import TILE_ON_CPU, TILE_ON_GPU
from plan.hardware import Hardware
from plan.shape import Shape

Parts = dict[str, float]
"""bytes by what they are of"""

# DeepSpeed's own defaults: numbers in its bucket of gradients, of gathered weights that stay, of those gathered ahead.
REDUCE_BUCKET, LIVE_PARAMETERS, PREFETCH_BUCKET = 5e8, 1e9, 5e7
# A weight in 4 bits: with it for every 64 a scale of 8 bits, for every 256 of those one of 32.
IN_4BIT = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Trained:
    """A model that is trained, and how."""

    shape: Shape
    scalar: bool
    """whether it has a scalar head in place of the output head"""
    adapters: int
    """parameters of LoRA adapters; 0 trains all weights"""
    bf16: bool
    shared: bool = False
    """whether its frozen weights are held once for several models, and counted there"""
    in_4bit: bool = False
    """whether its frozen linear layers are"""

    @property
    def base(self) -> int:
        return self.shape.scalar_parameters if self.scalar else self.shape.parameters

    @property
    def held(self) -> int:
        """Parameters that are its own."""
        return self.adapters if self.shared else self.base + self.adapters

    @property
    def trained(self) -> int:
        return self.adapters or self.base

    @property
    def number(self) -> int:
        """e"""
        return 2 if self.bf16 else 4

    @property
    def weights(self) -> float:
        """Bytes of those that are its own: 4 each, of frozen linear layers e, or what they take in 4 bits."""
        if self.shared or not self.adapters:
            return 4 * self.held
        return 4 * self.held - (
            saved_in_4bit(self.shape, 4) if self.in_4bit else (4 - self.number) * self.shape.products
        )

    @property
    def decoded(self) -> float:
        """Bytes of the largest layer out of 4 bits while it is multiplied with: in the type it had, and in e."""
        kept = self.number if self.shared else 4
        each = kept + (self.number if self.number != kept else 0)
        return each * max(inputs * outputs for _, inputs, outputs in self.shape.linear) if self.in_4bit else 0.0


@dataclass(frozen=True)
class Pass:
    """What goes through a model between two backward passes."""

    tokens: int
    predicted: int
    """tokens whose log-probability is asked for"""
    sequence: int
    """tokens of the longest sequence"""
    repeated: bool
    """whether gradients of an earlier pass are held meanwhile"""
    checkpointing: bool
    dropout: bool = False
    """of attention weights"""


def saved_in_4bit(shape: Shape, number: int) -> float:
    """What linear layers but the head are smaller in 4 bits than in `number` bytes a weight."""
    return (number - IN_4BIT) * shape.products


def state(model: Trained, hardware: Hardware) -> Parts:
    """Weights 4 bytes, gradients 4, AdamW's moments 8 a trained number, as the processes share them.

    What adapters stand on takes e where FSDP2 shares it. DDP's buckets are a second copy of the gradients. DeepSpeed
    keeps float32 masters (4) beside the weights, which are then in the type of the computation; ZeRO-3 also the room
    for its gradients and its bucket of them, from one step to the next.
    """
    held, trained, n = model.held, model.trained, hardware.processes
    match hardware.sharing:
        case "none":
            return {"weights": model.weights, "gradients": 4 * trained, "optimiser": 8 * trained}
        case "ddp":
            return {"weights": model.weights, "gradients": 8 * trained, "optimiser": 8 * trained}
        case "fsdp2":
            frozen = (4 - model.number) * model.base if model.adapters else 0
            return {"weights": (4 * held - frozen) / n, "gradients": 4 * trained / n, "optimiser": 8 * trained / n}
        case "zero1":
            return {"weights": model.number * held, "gradients": 4 * trained, "optimiser": 12 * trained / n}
        case "zero2":
            return {"weights": model.number * held, "gradients": 4 * trained / n, "optimiser": 12 * trained / n}
    return {
        "weights": model.number * held / n, "gradients": 0.0, "optimiser": 16 * trained / n,
        "bucket": model.number * (min(trained, REDUCE_BUCKET) if hardware.cpu else REDUCE_BUCKET),
    }  # fmt: skip


def at_rest(model: Trained, hardware: Hardware) -> Parts:
    """What of its state is there between two steps."""
    return {part: size for part, size in state(model, hardware).items() if part != "gradients"}


def gathered(model: Trained, hardware: Hardware, forward: bool) -> float:
    """Whole weights, and on the way back gradients, that sharded processes hold for a while.

    FSDP2: tables for the whole pass; of the layers two, of which one is fetched ahead, and one layer's gradients.
    DeepSpeed: a bucket of gradients, under ZeRO-3 laid out anew to be shared out. There all weights of small models,
    and on the way forward what they were gathered into ahead: copied at once, it stays until the last of them is used.
    """
    shape, e = model.shape, model.number
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


def written_with(model: Trained, hardware: Hardware, split: int) -> float:
    """Weights that are gathered for writing: all, or of layers and head one piece of `split` (sampling.split)."""
    shape = model.shape
    if split > 1:
        tables = shape.table * (1 if shape.tied else 2)
        cut = shape.products + shape.table
        return model.number * (model.base - shape.products - (tables - shape.table) + cut / split)
    return model.number * model.base if hardware.sharing in ("fsdp2", "zero3") else 0.0


def layer_activations(model: Trained, step: Pass, cpu: bool) -> float:
    """What one layer keeps of a token for its backward pass.

    Both norms keep their input, and its normalised form where their weight is trained: 4 · 2d each, float32. Their
    results are read by the projections: e · 2d, under autocast a copy for each projection, 2 · 5d. Attention keeps
    queries, keys, values and its result, which is laid out anew for the projection after it: e (3q + 2k). The gated
    MLP keeps gate, its activation, up and their product: 4 e f. Where heads are normalised: input and normalised form.
    Dropout of attention on a CPU: three float32 matrices of sequence by sequence a head.
    """
    s, e, full = model.shape, model.number, model.adapters == 0
    norms = 4 * 2 * s.hidden * (2 if full else 1)
    read = 2 * 5 * s.hidden if model.bf16 else 4 * 2 * s.hidden
    attention = e * (3 * s.queries + 2 * s.keys)
    heads = (4 + (e if full else 0)) * (s.queries + s.keys) if s.normalised_heads else 0
    matrices = 12 * s.heads * step.sequence if step.dropout and cpu else 0
    return norms + read + attention + heads + 4 * e * s.intermediate + matrices


def passing(shape: Shape, number: int, adapters: bool = False) -> float:
    """What a token takes inside a layer without a backward pass: the stream and its normalised form, and of the MLP
    activation, up and product, or what rotating queries and keys takes: e (2d + max(3f, 4q + 3k)). An adapter's part of
    up stands beside the layer's own while they are added: e f more."""
    mlp = (4 if adapters else 3) * shape.intermediate
    return number * (2 * shape.hidden + max(mlp, 4 * shape.queries + 3 * shape.keys))


def in_backward(model: Trained) -> float:
    """What a token takes inside a layer's backward pass besides what was kept: gradients of the MLP's parts, and of the
    stream: e 2f + 4 · 2d."""
    return model.number * 2 * model.shape.intermediate + 4 * 2 * model.shape.hidden


def logits(model: Trained, cpu: bool, buffers: int = 2) -> float:
    """Of a tile, float32: for log-probabilities one buffer, with their entropy a second."""
    if model.scalar:
        return 0.0
    positions, columns = TILE_ON_CPU if cpu else TILE_ON_GPU
    return buffers * 4 * positions * min(columns, model.shape.vocabulary)


def casts(model: Trained, hardware: Hardware) -> float:
    """bfloat16 copies of the layers' weights, which autocast makes once a pass; sharded processes gather them so, and
    what adapters stand on is in bfloat16 already, or in 4 bits."""
    needed = model.bf16 and not model.adapters and hardware.sharing in ("none", "ddp")
    return 2 * model.shape.products if needed else 0.0


def kv_cache(shape: Shape, rows: int, length: int, bf16: bool) -> float:
    """Keys and values of `rows` answers with their prompts, and one layer's keys twice while they grow: e each."""
    number = 2 if bf16 else 4
    return number * rows * length * shape.keys * (2 * shape.layers + 1)


def compiled_decoding(model: Trained, rows: int, columns: int) -> float:
    """What stays for the whole run where decoding is compiled: keys and values of full size, in the type of matrix
    products, and under autocast the weights of layers and head in it."""
    numbers = 2 * rows * columns * model.shape.keys * model.shape.layers
    low = model.shape.products + model.shape.table if model.bf16 and not model.shared else 0
    return model.number * (numbers + low)


def decode_logits(shape: Shape, rows: int, record: bool) -> float:
    """Of one decoding step: logits, probabilities, their running sum, and the comparison of top-p with its product: 17
    bytes a token of the vocabulary; where the drawn-from set is recorded a sort as well, 16 more."""
    return rows * shape.vocabulary * (17 + (16 if record else 0))


def prefill(model: Trained, queries: int, length: int) -> float:
    """Prompts of a batch in one pass, and their mask as truth values and as numbers."""
    inside = passing(model.shape, model.number, model.adapters > 0)
    return queries * length * inside + queries * length**2 * 5
