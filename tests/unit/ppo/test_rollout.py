"""The prompts of a step, the request to the engine, the random stream of held-out prompts, and the log of rollouts."""

from types import SimpleNamespace

import torch

from config.scoring import Scoring
from engine.data.prompt_rows import PromptRow
from engine.files import jsonl
from engine.generation.request import Response
from engine.generation.rollout_records import RolloutRecord
from engine.generation.streams import RandomStream
from engine.run.metrics import StepLog
from engine.scoring.gold import GoldScore
from ppo.assess import Assessment
from ppo.heldout import HeldOut
from ppo.models import Models, Reward
from ppo.reward_mix import RewardMix
from ppo.reward_section import Part
from ppo.rollout import Rollout, RolloutSampler
from ppo.step_metrics import first_rollouts

PART = Part("", "reward", Scoring(path="a"), 1.0)
PROMPTS = [PromptRow([10 * q, 10 * q + 1], [], {"id": q}) for q in range(5)]


class EchoEngine:
    """Records requests; the k-th response to query q is [q, k], and only the first one of a query ends."""

    def __init__(self):
        self.requests = []

    def generate(self, request):
        self.requests.append(request)
        return [[Response([q, k], ended=k == 0) for k in range(request.responses)] for q in request.query_ids]


def test_a_rollout_pairs_every_response_with_its_prompt():
    engine = EchoEngine()
    sampler = RolloutSampler(engine, PROMPTS, seed=7, queries_per_step=2, responses_per_query=3, record_supports=True)
    rollout = sampler.sample(4)
    (request,) = engine.requests
    assert request.query_ids == sampler.queries(4)
    assert request.prompts == [PROMPTS[q].input_ids for q in request.query_ids]
    assert (request.responses, request.record_supports) == (3, True)
    assert request.stream == RandomStream.of_step(7, 4)
    expected = [[q, k] for q in request.query_ids for k in range(3)]
    assert rollout.tokens == expected
    assert [row.record["id"] for row in rollout.rows] == [q for q, _ in expected]
    assert rollout.ended.tolist() == [True, False, False] * 2
    assert rollout.supports is None


def test_each_epoch_visits_every_prompt_once():
    sampler = RolloutSampler(EchoEngine(), PROMPTS, seed=7, queries_per_step=1, responses_per_query=1,
                             record_supports=False)  # fmt: skip
    epochs = [[sampler.queries(step)[0] for step in range(first, first + 5)] for first in (1, 6)]
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3, 4]] * 2
    assert epochs[0] != epochs[1]


def random_numbers(sampler, step):
    """Return the first random number of every response of a step."""
    sampler.sample(step)
    (request,) = sampler.engine.requests[-1:]
    return [
        float(request.stream.uniform(query, response, 0, 0))
        for query in request.query_ids
        for response in range(request.responses)
    ]


def test_a_prompt_repeated_within_a_step_has_different_random_numbers():
    """4 prompts, 16 queries, 2 responses each: 32 different numbers; first occurrences keep their own."""
    sampler = RolloutSampler(EchoEngine(), PROMPTS[:4], seed=7, queries_per_step=16, responses_per_query=2,
                             record_supports=False)  # fmt: skip
    numbers = random_numbers(sampler, 3)
    assert len(set(numbers)) == 32
    queries, (request,) = sampler.queries(3), sampler.engine.requests
    assert sorted(queries) == sorted([0, 1, 2, 3] * 4)
    assert request.prompts == [PROMPTS[q].input_ids for q in queries]
    assert sorted(request.query_ids) == list(range(16))
    assert [q % 4 for q in request.query_ids] == queries
    assert request.query_ids[:4] == queries[:4]


def test_a_prompt_of_two_epochs_in_one_step_has_different_random_numbers():
    """5 prompts, 3 queries a step: step 2 has the last two of the first epoch and the first one of the second."""
    repeats = 0
    for seed in range(20):
        sampler = RolloutSampler(EchoEngine(), PROMPTS, seed=seed, queries_per_step=3, responses_per_query=1,
                                 record_supports=False)  # fmt: skip
        queries = sampler.queries(2)
        assert sampler.queries(1) == sampler.query_ids(sampler.queries(1))
        assert len(set(random_numbers(sampler, 2))) == 3
        if queries[2] in queries[:2]:
            repeats += 1
            assert sampler.query_ids(queries) == [*queries[:2], queries[2] + 5]
        else:
            assert sampler.query_ids(queries) == queries
    assert repeats


def test_control_tokens_are_found_before_the_last_token_of_a_response_only():
    answers = [[5, 1, 2], [5, 6, 2], [1], [1, 7]]  # 1 and 2 are control tokens, and 2 ends
    rollout = Rollout(PROMPTS[:4], [Response(tokens, tokens[-1] == 2) for tokens in answers])
    assert rollout.contains_any(frozenset((1, 2))).tolist() == [True, False, False, True]


def test_held_out_responses_have_their_own_random_stream_and_only_finished_ones_are_scored():
    engine, calls = EchoEngine(), []

    def scorer(sequences, starts, records, budget):
        calls.append((sequences, starts, records, budget))
        return torch.tensor([float(len(sequences))] * len(sequences))

    models = Models(
        policy=None, policy_optimizer=None, value=None, value_optimizer=None, reference=None,
        rewards=[Reward(PART, scorer)], device=torch.device("cpu"),
    )  # fmt: skip
    tokenizer = SimpleNamespace(decode=lambda tokens: "x" * len(tokens))
    # A response that has ended is decoded without its end token.
    heldout = HeldOut(
        PROMPTS[:2], lambda record, text: GoldScore(float(record["id"] + len(text)), {}), tokenizer, seed=7
    )
    metrics = heldout.measure(models, engine, RewardMix([PART], "mean"), budget=99)
    assert engine.requests[0].stream == RandomStream.named(7, "heldout")
    assert calls == [([[0, 1, 0, 0], [10, 11, 1, 0]], [2, 2], [{"id": 0}, {"id": 1}], 99)]
    assert metrics == {"heldout_score": 2.0, "heldout_gold": 1.5, "heldout_gold_error": 0.5 / 2**0.5}


def test_logged_rollouts_are_read_back_unchanged(tmp_path):
    rollout = Rollout(PROMPTS[:2], [Response([1, 2], True), Response([3], False)])
    numbers = torch.tensor([[-1.0, -2.0], [-0.5, 0.0]])
    assessment = Assessment(
        mask=rollout.mask, old_logprobs=numbers, ref_logprobs=numbers * 2, entropy=numbers, old_values=numbers,
        part_scores={"": numbers[0]}, raw_scores=numbers[0], scores=torch.tensor([0.25, -1.0]), advantages=numbers,
        returns=numbers, engine_difference=None, importance=numbers, with_control_tokens=torch.tensor([False, False]),
    )  # fmt: skip
    tokenizer = SimpleNamespace(decode=lambda tokens: " ".join(map(str, tokens)))
    records = first_rollouts(3, rollout, assessment, tokenizer, count=9)
    assert records == [
        RolloutRecord(step=3, record={"id": 0}, prompt="0 1", response="1 2", score=0.25, kl=3.0),
        RolloutRecord(step=3, record={"id": 1}, prompt="10 11", response="3", score=-1.0, kl=0.5),
    ]
    log = StepLog(tmp_path / "rollouts.jsonl", 0)
    for record in records:
        log.append(record.as_row())
    assert [RolloutRecord(**row) for row in jsonl.read(log.path)] == records
