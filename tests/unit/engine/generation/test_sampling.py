"""The decode loop: greedy decoding equals transformers', the distribution is right, batching changes nothing."""

import pytest
import torch
from transformers import DynamicCache

import engine.generation.sampling as sampling_module
from config.sections import Sampling
from engine.errors import RunError
from engine.forward.attention import use_attention
from engine.generation.request import GenerationRequest
from engine.generation.sampling import sample
from engine.generation.streams import RandomStream
from tests.support.small_models import small_model

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16], [17]]
END, OTHER_STOP = 1, 2


def draw(model, prompts, *, responses=2, query_ids=None, **settings):
    sampling = Sampling(**{"max_new_tokens": 24, "batch_size": 64, **settings})
    query_ids = list(range(len(prompts))) if query_ids is None else query_ids
    request = GenerationRequest(prompts, query_ids, responses, RandomStream.of_step(3, 1))
    return sample(model, request, sampling, end=END, stops=[END, OTHER_STOP])


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_sampling_at_temperature_0_equals_transformers_greedy_decoding(family):
    model = small_model(family)
    for prompt, (response,) in zip(PROMPTS, draw(model, PROMPTS, responses=1, temperature=1e-4), strict=True):
        with use_attention(model, "sdpa"):
            greedy = model.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False, max_new_tokens=24, eos_token_id=[END, OTHER_STOP], pad_token_id=0,
            )  # fmt: skip
        assert response.tokens == greedy[0, len(prompt) :].tolist()


def test_responses_stop_at_the_first_stop_token_and_report_whether_they_ended():
    responses = [r for group in draw(small_model(), PROMPTS * 10, top_p=1.0) for r in group]
    assert {len(r.tokens) for r in responses} != {24}
    for response in responses:
        assert not {END, OTHER_STOP} & set(response.tokens[:-1])
        assert response.ended == (response.tokens[-1] == END)
        assert response.tokens[-1] in (END, OTHER_STOP) or len(response.tokens) == 24
    assert any(r.tokens[-1] == OTHER_STOP for r in responses)


@pytest.mark.parametrize("record", [False, True])
def test_a_model_with_nan_weights_is_refused(record):
    model = small_model()
    model.model.layers[0].mlp.down_proj.weight.data[0, 0] = torch.nan
    request = GenerationRequest(PROMPTS, range(4), 2, RandomStream.of_step(3, 1), record_supports=record)
    with pytest.raises(RunError, match=r"^the model that generates responses returned logits that are not finite"):
        sample(model, request, Sampling(max_new_tokens=2), end=END, stops=[END])


@pytest.mark.parametrize("change", ["batch", "order", "alone", "responses"])
def test_a_response_does_not_depend_on_the_batch(change):
    model = small_model()
    expected = draw(model, PROMPTS, responses=3)
    if change == "batch":
        assert draw(model, PROMPTS, responses=3, batch_size=3) == expected
    elif change == "order":
        assert draw(model, PROMPTS[::-1], responses=3, query_ids=[3, 2, 1, 0]) == expected[::-1]
    elif change == "alone":
        assert draw(model, PROMPTS[2:3], responses=3, query_ids=[2]) == expected[2:3]
    else:
        assert [group[:1] for group in expected] == draw(model, PROMPTS, responses=1)


def test_the_responses_of_a_query_differ():
    first, second = draw(small_model(), PROMPTS[:1])[0]
    assert first.tokens != second.tokens


def test_first_tokens_follow_the_models_distribution():
    model, rows = small_model(), 4000
    responses = draw(model, [PROMPTS[0]] * rows, responses=1, top_p=1.0, max_new_tokens=1, batch_size=4000)
    counts = torch.bincount(torch.tensor([r.tokens[0] for (r,) in responses]), minlength=320)
    with use_attention(model, "sdpa"), torch.no_grad():
        expected = model(torch.tensor([PROMPTS[0]])).logits[0, -1].softmax(-1) * rows
    likely = expected > 5
    chi_squared = ((counts[likely] - expected[likely]) ** 2 / expected[likely]).sum()
    assert chi_squared < likely.sum() + 5 * (2 * likely.sum()) ** 0.5


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_a_bfloat16_cache_under_autocast_changes_no_bit(monkeypatch, family):
    """Attention casts keys and values to bfloat16 anyway; a float32 cache would be cast in full at every token."""
    model = small_model(family)

    def generated():
        with torch.autocast("cpu", torch.bfloat16):
            return [[(r.tokens, r.logprobs) for r in group] for group in draw(model, PROMPTS)]

    with_bfloat16_cache = generated()
    monkeypatch.setattr(sampling_module, "Cache", DynamicCache)
    assert with_bfloat16_cache == generated()
