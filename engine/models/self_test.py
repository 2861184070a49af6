"""Test at load that a model's packed forward computes the same as the forward of its transformers class.

Some families let packed sequences attend to each other, carry a state from token to token, add noise in training, or
need arguments that packed attention does not pass on, and none of that raises an error. So two short random sequences
go through the model as it will be trained (alone, packed together, twice, and decoded with a cache) and through the
class's own forward (one sequence, eager attention, its own head), and the results must agree. A small float32 twin is
tested, so precision plays no part and the cost is small (docs/models.md). Random generators keep their states.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.utils import logging

from engine.compat import attention_of, set_configured_attention
from engine.dist.devices import move
from engine.errors import RunError
from engine.forward.attention import DECODING, FLASH
from engine.forward.packed import pack
from engine.forward.scalar_head import class_score
from engine.models.dropout import switch_off_noise
from engine.models.self_test_reasons import refusal, short_error
from engine.models.twin import float32_twin
from engine.models.vocabulary import embedding_table

# Largest difference that passes, in nats of a log-probability or units of a score; flash-attn computes in bfloat16.
TOLERANCE, FLASH_TOLERANCE = 1e-3, 0.1
# Size of the twin's vocabulary, and the lengths of the two sequences in tokens.
TWIN_TOKENS, SEQUENCE_LENGTHS = 64, (5, 7)
# Length in tokens of the prefix that the class's own forward reads again, with other tokens after it.
PREFIX_TOKENS = 4
# A new model's outputs hardly differ between tokens: its head is scaled up to this spread, so that mistakes show.
OUTPUT_SPREAD = 2.0
# Cases that have passed in this process: a run loads up to four models of one configuration.
_passed: set[tuple[str, ...]] = set()

Rows = list[torch.Tensor]
"""one (length, values) tensor per sequence: log-probabilities of the vocabulary, or a score; NaN is not compared"""


@dataclass(frozen=True)
class Failure:
    """The first comparison in which a model differs from its class's own forward."""

    what: str
    """a key of self_test_reasons.COMPARED"""
    difference: float
    """the largest absolute difference; infinite if there was an error"""
    error: str
    """the error that the forward pass raised, else empty"""


def self_test(model: PreTrainedModel, path: str) -> None:
    """Raise RunError if a model that was just loaded from `path` would compute packed rows wrongly.

    Only the first rank of each machine runs the test: a float32 twin of a large model takes several GB.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    attention = attention_of(model)
    case = (type(model).__name__, attention, str(model.training), model.config.to_json_string(use_diff=False))
    if case in _passed:
        return
    failure = failure_of(model, attention)
    if failure is not None:
        works = [other for other in ("sdpa", "eager") if failure_of(model, other) is None]
        raise RunError(refusal(model, path, failure.what, failure.difference, failure.error, works))
    _passed.add(case)


def failure_of(model: PreTrainedModel, attention: str) -> Failure | None:
    """Return the first comparison that fails under an attention implementation; None if all pass."""
    on_gpu = model.device.type == "cuda" or attention == FLASH
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if on_gpu else []), torch.no_grad():
            for what, found, expected in _comparisons(model, attention):
                try:
                    difference = _difference(found(), expected())
                except Exception as error:  # a family that raises any error cannot be trained like this
                    return Failure(what, float("inf"), short_error(error))
                if not difference <= (FLASH_TOLERANCE if attention == FLASH else TOLERANCE):
                    return Failure(what, difference, "")
    finally:
        logging.set_verbosity(level)
    return None


def _comparisons(
    model: PreTrainedModel, attention: str
) -> Iterator[tuple[str, Callable[[], Rows], Callable[[], Rows]]]:
    """Yield (key of COMPARED, function that computes our result, function that returns the expected one)."""
    sequences = random_sequences(model)
    second = sequences[1]
    twin = _working_twin(model, sequences)
    truth: Rows = []
    otherwise: Rows = []
    together: Rows = []

    def own() -> Rows:
        *truth[:], again = class_outputs(twin, [*sequences, second[:PREFIX_TOKENS]])
        otherwise[:] = [again]
        return truth

    def packed() -> Rows:
        together[:] = packed_outputs(twin, sequences)
        return together

    yield "own", own, lambda: truth
    yield "causal", lambda: otherwise, lambda: [truth[1][:PREFIX_TOKENS]]
    twin.train(model.training)
    if attention == FLASH and twin.device.type == "cpu":
        move(twin, "cuda")
    built_for = attention_of(model)

    def changed() -> Rows:
        set_attention(twin, attention, built_for)
        return []

    def decoding() -> Rows:
        twin.set_attn_implementation(DECODING)
        return []

    yield "attention", changed, list
    yield "alone", lambda: packed_outputs(twin, [second]), lambda: truth[1:]
    yield "packed", packed, lambda: truth
    yield "repeated", lambda: packed_outputs(twin, sequences), lambda: together
    if model.can_generate():
        twin.eval()
        yield "decoding", decoding, list
        yield "decoded", lambda: decoded_outputs(twin, sequences), lambda: truth


def _working_twin(model: PreTrainedModel, sequences: list[list[int]]) -> PreTrainedModel:
    """Return a twin in evaluation mode whose head spreads its outputs, with all layers only if it needs them to run."""
    for all_layers in (False, True):
        twin = float32_twin(model, TWIN_TOKENS, all_layers=all_layers).eval()
        switch_off_noise(twin, keep_attention=False)
        try:
            set_attention(twin, "eager")
            outputs = class_outputs(twin, sequences[:1])[0]
            break
        except Exception:  # some families need all their layers; a model that cannot run at all is reported later
            continue
    else:
        return twin
    head = twin.get_output_embeddings() if model.can_generate() else twin.score
    spread = float(outputs[-1].std()) if model.can_generate() else float(outputs[-1].abs().mean())
    if 0 < spread < OUTPUT_SPREAD:
        head.weight.data = head.weight.data * (OUTPUT_SPREAD / spread)
    return twin


def set_attention(twin: PreTrainedModel, attention: str, built_for: str | None = None) -> None:
    """Set a twin's attention; raise ValueError for one that its class does not have.

    Older classes cannot change it after they are built, but make the masks that their configuration asks for.
    """
    twin.set_attn_implementation(attention)
    if attention_of(twin) != attention:
        if attention not in ("eager", built_for):
            raise ValueError(f"{type(twin).__name__} has no {attention} attention")
        set_configured_attention(twin.config, attention)


def random_sequences(model: PreTrainedModel) -> list[list[int]]:
    """Return two random sequences of tokens in the twin's vocabulary, without its padding and score tokens."""
    generator = torch.Generator().manual_seed(1)
    rows = len(embedding_table(model))
    config = model.config.get_text_config()
    special = {getattr(config, name, None) for name in ("pad_token_id", "score_token_id")}
    known = torch.tensor([token for token in range(min(TWIN_TOKENS, rows)) if token not in special])
    return [known[torch.randint(len(known), (length,), generator=generator)].tolist() for length in SEQUENCE_LENGTHS]


def class_outputs(twin: PreTrainedModel, sequences: list[list[int]]) -> Rows:
    """Return the outputs of the class's own forward for each sequence: unpacked, no mask, its own head.

    A causal LM reads all sequences in one batch; shorter ones are filled up with tokens of the others.
    """
    if twin.can_generate():
        width = max(map(len, sequences))
        after = [token for sequence in reversed(sequences) for token in reversed(sequence)]
        rows = torch.tensor([[*sequence, *after][:width] for sequence in sequences], device=twin.device)
        logprobs = twin(rows, use_cache=False).logits.float().log_softmax(-1)
        return [of_row[: len(sequence)] for of_row, sequence in zip(logprobs, sequences, strict=True)]
    found = []
    for sequence in sequences:
        row = torch.tensor([sequence], device=twin.device)
        scores = torch.full((len(sequence), 1), float("nan"), device=twin.device)
        for length in (PREFIX_TOKENS, len(sequence)):
            scores[length - 1] = class_score(twin, row[:, :length])
        found.append(scores)
    return found


def packed_outputs(twin: PreTrainedModel, sequences: list[list[int]]) -> Rows:
    """Return the outputs of our forward for sequences in one flat row."""
    inputs, lengths = pack(sequences, twin.device), [len(sequence) for sequence in sequences]
    positions = torch.arange(sum(lengths), device=twin.device)
    low = attention_of(twin) == FLASH
    with torch.autocast("cuda", torch.bfloat16) if low else nullcontext():
        if not twin.can_generate():
            return list(twin(**inputs, score_positions=positions).logits.split(lengths))
        targets = torch.arange(len(twin.get_output_embeddings().weight), device=twin.device)
        out = twin(
            **inputs,
            logprob_positions=positions.repeat_interleave(len(targets)),
            logprob_targets=targets.repeat(len(positions)),
            with_entropy=False,
        )
    return list(out.logprobs.view(len(positions), -1).split(lengths))


def decoded_outputs(twin: PreTrainedModel, sequences: list[list[int]]) -> Rows:
    """Return the outputs of decoding as the sampler does it: left-padded prompts, then single tokens with a cache."""
    prompts = [sequence[:-2] for sequence in sequences]
    width = max(map(len, prompts))
    tokens = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=twin.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=twin.device)
    positions, cache = (mask.cumsum(1) - 1).clamp_(min=0), DynamicCache(config=twin.config)
    rows = [torch.full((len(s), len(twin.get_output_embeddings().weight)), float("nan")) for s in sequences]
    for ahead in (2, 1):
        logits = twin(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
        for row, of_row in zip(rows, logits.float().log_softmax(-1).cpu(), strict=True):
            row[-1 - ahead] = of_row
        tokens = torch.tensor([[sequence[-ahead]] for sequence in sequences], device=twin.device)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        positions = positions[:, -1:] + 1
    return rows


def _difference(found: Rows, expected: Rows) -> float:
    """Return the largest absolute difference where both sides have a value; NaN if a sequence has none to compare."""
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        gap = (one.float().cpu() - other.float().cpu()).abs()
        compared = gap[~(one.isnan().cpu() | other.isnan().cpu())]
        if not len(compared):
            return float("nan")
        worst = max(worst, float(compared.max()))
    return worst
