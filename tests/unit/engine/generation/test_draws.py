"""Drawing tokens: within the top-p nucleus, with the right frequencies and log-probabilities."""

import pytest
import torch
from torch.testing import assert_close

from engine.errors import RunError
from engine.generation.draws import MAX_REJECTIONS, draw_token, nucleus
from engine.generation.streams import uniform


def test_top_p_draws_from_the_nucleus_with_renormalised_frequencies():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = 40000
    logits = probabilities.log().expand(rows, -1)
    tokens = draw_token(logits, 0.9, 1.0, lambda rows, attempt: uniform(0, rows, attempt)).tokens
    share = torch.bincount(tokens, minlength=4) / rows
    # The mass before the third token is 0.8 < 0.9, before the fourth 0.95 ≥ 0.9: the nucleus is the first three.
    assert_close(share, torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95, atol=0.01, rtol=0)
    assert share[3] == 0


def test_temperature_scales_the_logits_at_top_p_1():
    logits = torch.tensor([2.0, 0.0]).expand(40000, -1)
    tokens = draw_token(logits, 1.0, 2.0, lambda rows, attempt: uniform(1, rows, attempt)).tokens
    assert abs(tokens.float().mean() - 1 / (1 + torch.e)) < 0.01


def test_impossible_tokens_are_never_drawn():
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf]).expand(3, -1)
    edges = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert draw_token(logits, 1.0, 1.0, lambda rows, attempt: edges[rows]).tokens.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("top_p", "inside"),
    [(0.9, [True, True, True, False]), (0.8, [True, True, False, False]), (0.3, [True, False, False, False]),
     (1.0, [True] * 4)],
)  # fmt: skip
def test_the_recorded_nucleus_by_hand(top_p, inside):
    """The mass of strictly likelier tokens is 0, 0.5, 0.8, 0.95; at 0.8 in float32 the third is just outside."""
    probabilities = torch.tensor([[0.5, 0.30001, 0.14999, 0.05]])
    assert nucleus(probabilities, top_p).tolist() == [inside]


def test_tokens_of_equal_probability_at_the_edge_are_all_inside():
    assert nucleus(torch.tensor([[0.4, 0.2, 0.2, 0.2]]), 0.5).tolist() == [[True] * 4]
    assert nucleus(torch.tensor([[0.5, 0.5, 0.0]]), 1.0).tolist() == [[True, True, False]]


def test_recording_the_nucleus_keeps_the_draws_and_renormalises_logprobs():
    torch.manual_seed(0)
    logits = 3 * torch.randn(500, 50)
    plain = draw_token(logits, 0.7, 1.3, lambda rows, attempt: uniform(0, rows, attempt))
    drawn = draw_token(logits, 0.7, 1.3, lambda rows, attempt: uniform(0, rows, attempt), record=True)
    assert torch.equal(plain.tokens, drawn.tokens)
    assert plain.nucleus is None
    assert drawn.nucleus.gather(1, drawn.tokens[:, None]).all()
    full = (logits / 1.3).log_softmax(-1)
    assert_close(plain.logprobs, full.gather(1, plain.tokens[:, None])[:, 0], atol=1e-5, rtol=1e-5)
    within = (logits / 1.3).masked_fill(~drawn.nucleus, -torch.inf).log_softmax(-1)
    assert_close(drawn.logprobs, within.gather(1, drawn.tokens[:, None])[:, 0], atol=1e-5, rtol=1e-5)


def counting_numbers(seed):
    """Return a source of random numbers, and a list that collects the number of rows and the attempt of each call."""
    calls = []

    def numbers(rows, attempt):
        calls.append((len(rows), attempt))
        return uniform(seed, rows, attempt)

    return numbers, calls


@pytest.mark.parametrize("record", [False, True])
def test_a_tiny_nucleus_is_drawn_from_directly_after_max_rejections(record):
    """512 tokens of almost equal probability at top-p 0.004: the nucleus is the three likeliest, equally frequent."""
    rows, numbers, calls = 3000, *counting_numbers(3)
    logits = torch.linspace(0, -1e-3, 512).expand(rows, -1)
    drawn = draw_token(logits, 0.004, 1.0, numbers, record=record)
    assert [attempt for _, attempt in calls] == list(range(MAX_REJECTIONS + 1))
    assert drawn.tokens.max() == 2
    assert_close(torch.bincount(drawn.tokens) / rows, torch.full((3,), 1 / 3), atol=0.04, rtol=0)
    expected = torch.tensor(1 / 3 if record else 1 / 512).log().expand(rows)
    assert_close(drawn.logprobs, expected, atol=2e-3, rtol=0)


def draw_by_rejection(logits, top_p, numbers):
    """Draw until a token is inside the nucleus, without a limit; return (token, attempts) by row."""
    tokens = []
    for row, probabilities in enumerate(logits.softmax(-1)):
        for attempt in range(10**6):
            number = numbers(torch.tensor([row]), attempt)
            drawn = int((probabilities.cumsum(-1) <= number.float() * probabilities.cumsum(-1)[-1]).sum())
            if float(probabilities[probabilities > probabilities[drawn]].sum()) < top_p:
                tokens.append((drawn, attempt))
                break
    return tokens


def test_draws_within_max_rejections_equal_pure_rejection_sampling():
    torch.manual_seed(1)
    logits, numbers = 2 * torch.randn(200, 40), lambda rows, attempt: uniform(5, rows, attempt)
    expected = draw_by_rejection(logits, 0.15, numbers)
    tokens = draw_token(logits, 0.15, 1.0, numbers).tokens.tolist()
    early = [at for at, (_, attempt) in enumerate(expected) if attempt < MAX_REJECTIONS]
    assert 0 < len(early) < 200
    assert [tokens[at] for at in early] == [expected[at][0] for at in early]


@pytest.mark.parametrize("top_p", [0.9, 1.0])
@pytest.mark.parametrize("record", [False, True])
def test_nan_logits_are_refused(top_p, record):
    logits = torch.zeros(2, 5)
    logits[1, 3] = torch.nan
    with pytest.raises(RunError) as error:
        draw_token(logits, top_p, 1.0, lambda rows, attempt: uniform(0, rows, attempt), record=record)
    assert str(error.value) == (
        "the model that generates responses returned logits that are not finite (NaN); check the checkpoint that it "
        "was loaded from"
    )
