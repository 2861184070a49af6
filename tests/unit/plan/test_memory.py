"""A plan's arithmetic: by hand, and compared with what real models save for their backward pass."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from config.sections import Model
from engine.forward.attention import PACKED
from engine.forward.logprobs import with_logprobs
from engine.forward.packed import pack
from engine.generation.sampling import Cache
from engine.models.loading import load_causal
from engine.models.tokenizer import load_tokenizer
from plan.hardware import Hardware
from plan.memory import (
    Pass,
    Trained,
    autocast_copies,
    backward_activations,
    compiled_decoding,
    decode_logits,
    forward_activations,
    gathered_weights,
    generation_weights,
    kv_cache,
    layer_activations,
    logit_buffers,
    saved_in_4bit,
    training_state,
)
from plan.phases import training
from plan.shape import Shape, lora_parameters, shape
from plan.work import forward_flops, recomputed_flops, training_flops
from tests.integration.test_four_bits import needs_bitsandbytes
from tests.support.small_models import FAMILIES, small_config
from tests.support.stage_runs import write_base

# Two layers, hidden size 8, two query heads of 4, one key head, MLP of 16, vocabulary of 32, tied, biases on q, k, v.
LAYER = (8 * 8 + 8) + 2 * (4 * 8 + 4) + 8 * 8 + 3 * 8 * 16 + 2 * 8
SMALL = Shape("small", 32 * 8 + 2 * LAYER + 8, 32, 8, 2, LAYER, 2, 8, 4, 16, True, False, (("layers.0.q", 8, 8),))
ALL = Trained(SMALL, scalar=False, adapters=0, bf16=False)
STEP = Pass(tokens=10, predicted=9, sequence=10, repeated=False, checkpointing=False)


def on(sharing="none", processes=1, device="cpu"):
    return Hardware("by hand", sharing, processes, 1, device, 1e9, 1e12, None)


def test_memory_of_a_small_step_by_hand():
    assert SMALL.parameters == 256 + 2 * 608 + 8 == 1480
    # norms 4·2·2·8, their outputs 4·2·8, attention 4 (3·8 + 2·4), MLP 4·4·16
    assert layer_activations(ALL, STEP, cpu=True) == 128 + 64 + 128 + 256
    assert backward_activations(ALL) == 4 * 2 * 16 + 4 * 2 * 8
    assert forward_activations(SMALL, 4) == 4 * (2 * 8 + max(3 * 16, 4 * 8 + 3 * 4))
    assert forward_activations(SMALL, 4, adapters=True) == 4 * (2 * 8 + 4 * 16)
    phases = {phase.name: phase.parts for phase in training(ALL, STEP, on(), {}, fused=True)}
    rest = {"weights": 5920, "optimiser": 11840}
    # two layers, 2·4·8 of the last norm, hidden states of 9 positions; two buffers of a tile of 512 × 32 logits
    assert phases["loss"] == rest | {"gradients": 0, "activations": 10 * (2 * 576 + 64) + 9 * 32, "autocast copies": 0,
                                     "logits": 2 * 4 * 512 * 32}  # fmt: skip
    # the head's gradient: 4·256
    assert phases["backward, last layer"]["gradients"] == 1024
    # all gradients, and two tables more: the head's and the embedding's besides their sum
    assert phases["backward, first layer"]["gradients"] == 5920 + 2 * 1024
    assert phases["optimiser's step"] == rest | {"gradients": 5920, "copies of AdamW": 0}


def test_checkpointing_keeps_the_layers_inputs_and_one_layers_activations():
    step = Pass(tokens=10, predicted=9, sequence=10, repeated=True, checkpointing=True)
    phases = {phase.name: phase.parts for phase in training(ALL, step, on(), {}, fused=True)}
    stream = 10 * 4 * 8
    assert phases["backward, last layer"]["activations"] == 2 * stream + 2 * stream + 9 * 32 + 10 * (576 + 192)
    assert phases["backward, last layer"]["gradients"] == 5920 + 1024


@pytest.mark.parametrize(
    ("sharing", "bf16", "expected"),
    [
        ("none", False, (4, 4, 8)),
        ("ddp", False, (4, 8, 8)),
        ("fsdp2", True, (1, 1, 2)),
        ("zero1", True, (2, 4, 3)),
        ("zero2", True, (2, 1, 3)),
        ("zero3", True, (0.5, 0, 4)),
    ],
)
def test_bytes_per_parameter_on_one_of_four_devices(sharing, bf16, expected):
    model = Trained(SMALL, scalar=False, adapters=0, bf16=bf16)
    result = training_state(model, on(sharing, 1 if sharing == "none" else 4, "h100"))
    bucket = result.pop("bucket", None)
    assert tuple(size / 1480 for size in result.values()) == expected
    assert bucket == (2 * 5e8 if sharing == "zero3" else None)  # a GPU allocates the whole bucket


def test_zero3_keeps_its_bucket_between_steps():
    """On a CPU, where memory counts once it is written, the bucket is as large as the gradients."""
    phases = {phase.name: phase.parts for phase in training(ALL, STEP, on("zero3", 2), {}, fused=True)}
    assert [parts["bucket"] for parts in phases.values()] == [4 * 1480] * 4
    assert phases["loss"]["gathered"] == 4 * 1480 + 4 * 1480  # weights, and the weights prefetched
    assert phases["backward, last layer"]["gathered"] == 4 * 1480 + 4 * 1480  # weights, and gradients to reduce
    assert "gathered" not in phases["optimiser's step"]


def test_weights_and_gradients_gathered_by_sharded_processes():
    # forward: the table and two layers; backward: also the gradients of the table and of one layer
    assert gathered_weights(ALL, on("fsdp2", 4), forward=True) == 4 * (256 + 2 * 608)
    assert gathered_weights(ALL, on("fsdp2", 4), forward=False) == 4 * (256 + 2 * 608 + 256 + 608)
    assert gathered_weights(ALL, on("zero2", 4), forward=True) == gathered_weights(ALL, on(), forward=False) == 0
    assert gathered_weights(ALL, on("zero2", 4), forward=False) == 4 * 1480
    # ZeRO-3 gathers at most 1e9 weights, 5e7 prefetched numbers and 5e8 gradients
    large = Trained(replace(SMALL, parameters=3 * 10**9), scalar=False, adapters=0, bf16=True)
    result = [gathered_weights(large, on("zero3", 4), forward) for forward in (True, False)]
    assert result == [2 * (1e9 + 5e7), 2 * (1e9 + 5e8)]


def test_weights_gathered_for_generation():
    # split: the 64 numbers of the linear layer, and the tied table of 256 as the head
    assert generation_weights(ALL, on("fsdp2", 4), split=1) == 4 * 1480
    assert generation_weights(ALL, on("fsdp2", 4), split=2) == 4 * (1480 - 64 + (64 + 256) / 2)
    assert generation_weights(ALL, on("ddp", 2), split=1) == 0


def test_only_adapters_have_gradients_and_optimiser_state():
    model = Trained(SMALL, scalar=False, adapters=100, bf16=False)
    assert training_state(model, on()) == {"weights": 4 * 1580, "gradients": 400, "optimiser": 800}
    # sharded by FSDP2, the frozen base is stored in bfloat16 if it computes in bfloat16
    assert training_state(model, on("fsdp2", 2)) == {"weights": 2 * 1580, "gradients": 200, "optimiser": 400}
    in_bf16 = replace(model, bf16=True)
    assert training_state(in_bf16, on("fsdp2", 2)) == {"weights": 1480 + 2 * 100, "gradients": 200, "optimiser": 400}
    tables = {sharing: training(in_bf16, STEP, on(sharing, 2), {}, fused=True)[1].parts["gradients"]
              for sharing in ("ddp", "fsdp2", "zero3")}  # fmt: skip
    assert tables == {"ddp": 2 * 1024, "fsdp2": 512, "zero3": 2 * 512}


def test_memory_of_a_4_bit_base_by_hand():
    """64 of its weights are in a linear layer: half a byte each, and the scale of a block."""
    whole, quantised = (Trained(SMALL, scalar=False, adapters=100, bf16=True, in_4bit=x) for x in (False, True))
    assert quantised.weight_bytes == 4 * (1580 - 64) + 64 / 2 + 1 + 4 / 256
    assert whole.weight_bytes == 4 * (1580 - 64) + 2 * 64  # linear weights in bfloat16
    assert whole.weight_bytes - quantised.weight_bytes == saved_in_4bit(SMALL, 2)
    trained = Trained(SMALL, scalar=False, adapters=0, bf16=True)
    assert [autocast_copies(model, on()) for model in (trained, whole, quantised)] == [128, 0, 0]
    # dequantised to float32, in which it was loaded, and cast to bfloat16; PPO's shared base is loaded in bfloat16
    assert quantised.dequantised_bytes == 64 * (4 + 2)
    shared = Trained(SMALL, scalar=False, adapters=100, bf16=True, shared=True, in_4bit=True)
    assert (shared.weight_bytes, shared.dequantised_bytes) == (400, 64 * 2)
    phases = {phase.name: phase.parts for phase in training(quantised, STEP, on(), {}, fused=True)}
    assert [parts.get("decoded layer") for parts in phases.values()] == [384, 384, 384, None]


@needs_bitsandbytes
def test_a_real_4_bit_base_has_the_planned_size(tmp_path):
    write_base(tmp_path, hidden_size=256, intermediate_size=512)
    result = load_causal(str(tmp_path), Model(path=""), load_tokenizer(str(tmp_path)), trained=True, in_4bit=True)
    size = sum(weights.nbytes for weights in result.parameters())
    for weights in result.parameters():
        if (scales := getattr(weights, "quant_state", None)) is not None:
            size += scales.absmax.nbytes + scales.state2.absmax.nbytes
    model_shape = shape(result.config, "small")
    assert size == 4 * model_shape.parameters - saved_in_4bit(model_shape, 4)


def test_memory_of_decoding_by_hand():
    # 3 rows × 5 tokens × 4 numbers: keys and values of two layers in 4 bytes, and the keys of one layer once more
    assert kv_cache(SMALL, 3, 5, bf16=False) == 3 * 5 * 4 * (2 * 8 + 4)
    assert decode_logits(SMALL, 3, record=False) == 3 * 32 * 17
    assert logit_buffers(ALL, cpu=True) == 2 * 4 * 512 * 32


def test_memory_of_compiled_decoding_by_hand():
    # keys and values of two layers, 4 wide; bfloat16 copies of linear weights and table, unless the base is shared
    assert compiled_decoding(ALL, 16, 64) == 4 * 2 * 16 * 64 * 4 * 2
    in_bf16 = Trained(SMALL, scalar=False, adapters=0, bf16=True)
    assert compiled_decoding(in_bf16, 16, 64) == 2 * (2 * 16 * 64 * 4 * 2 + SMALL.products + 256)
    assert compiled_decoding(replace(in_bf16, shared=True), 16, 64) == 2 * 2 * 16 * 64 * 4 * 2


def test_flops_by_hand():
    shape_ = Shape("x", 0, 32, 8, 2, 0, 2, 8, 4, 16, True, False, (("q", 8, 8), ("down", 16, 8)))
    # 2 · (64 + 128) per token, attention 2 layers · 2 · 8 · 10, 2 · 256 per predicted token
    assert forward_flops(shape_, 10, 10, 9) == 10 * (384 + 320) + 9 * 512
    model = Trained(shape_, scalar=False, adapters=0, bf16=False)
    assert training_flops(model, 10, 10, 9, checkpointing=True) == 4 * 7040 + 4 * 9 * 512
    assert recomputed_flops(model, 10, 10, 9, checkpointing=True) == 7040 + 9 * 512
    lora = replace(model, adapters=5)
    assert training_flops(lora, 10, 10, 9, checkpointing=False) == 2 * 7040 + 4 * 9 * 512
    assert recomputed_flops(lora, 10, 10, 9, checkpointing=False) == 9 * 512


def saved_for_backward(family, layers, *, bf16=False, lora=False, tokens=64):
    """Return the bytes of tensors other than parameters that a real forward pass saves for the backward pass."""
    torch.manual_seed(0)
    config = small_config(family, num_hidden_layers=layers, hidden_size=64, intermediate_size=160, vocab_size=100)
    model = with_logprobs(FAMILIES[family][1])(config).train()
    model.set_attn_implementation(PACKED)
    if lora:
        rows = {"embed_tokens": [1, 2], "lm_head": [1, 2]}
        adapters = LoraConfig(r=1, target_modules="all-linear", trainable_token_indices=rows, task_type="CAUSAL_LM")
        model = get_peft_model(model, adapters).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    result = {}

    def keep(tensor):
        memory = tensor.untyped_storage()
        result[memory.data_ptr()] = (memory.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", torch.bfloat16, bf16):
        model(**pack([[5] * (tokens // 2 - 3), [6] * (tokens // 2 + 3)]), logprob_positions=torch.arange(tokens - 1),
              logprob_targets=torch.full((tokens - 1,), 7))  # fmt: skip
    return sum(size for where, (size, _) in result.items() if where not in own)


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "LoRA"])
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_planned_activations_of_a_layer_equal_what_a_real_layer_saves(family, bf16, lora):
    """Compare with the difference between 3 and 2 layers; a few numbers per head and position are not planned."""
    tokens = 64
    more = saved_for_backward(family, 3, bf16=bf16, lora=lora) - saved_for_backward(family, 2, bf16=bf16, lora=lora)
    config = small_config(family, num_hidden_layers=2, hidden_size=64, intermediate_size=160, vocab_size=100)
    model_shape = shape(config, family)
    model = Trained(model_shape, scalar=False, adapters=int(lora), bf16=bf16)
    weights = 2 * model_shape.products / model_shape.layers if bf16 else 0  # the bfloat16 copies of autocast
    expected = tokens * layer_activations(model, Pass(tokens, tokens, tokens, False, False), cpu=True) + weights
    assert more == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_real_kv_cache_has_the_planned_size(bf16):
    config = small_config("qwen2")
    model = FAMILIES["qwen2"][1](config).eval()
    cache = Cache(config=config)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model(input_ids=torch.ones(3, 5, dtype=torch.long), past_key_values=cache, use_cache=True)
    size = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    model_shape = shape(config, "small")
    assert size == kv_cache(model_shape, 3, 5, bf16) - 3 * 5 * model_shape.keys * (2 if bf16 else 4)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"], r".*\.(gate|up)_proj"])
@pytest.mark.parametrize("tied", [True, False])
def test_lora_parameters_equal_those_of_peft(targets, tied):
    config = small_config("qwen2", tie_word_embeddings=tied)
    rows = {"embed_tokens": [1, 2]} | ({} if tied else {"lm_head": [1, 2]})
    adapters = LoraConfig(r=4, target_modules=targets, trainable_token_indices=rows, task_type="CAUSAL_LM")
    model = get_peft_model(FAMILIES["qwen2"][1](config), adapters)
    expected = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert lora_parameters(shape(config, "small"), 4, targets, scalar=False) == expected
