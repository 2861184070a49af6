"""Rollouts: responses sampled from the policy before the updates of a step.

Shapes: batch is the number of responses over all ranks, queries · K; time is the length in tokens of the longest one.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.data.order import shuffled_positions
from engine.data.prompt_rows import PromptRow
from engine.dist.collectives import all_gather_items, take_share
from engine.generation.engines import Engine
from engine.generation.request import GenerationRequest, Response
from engine.generation.streams import RandomStream


@dataclass(frozen=True)
class Rollout:
    """A step's responses over all ranks, the same on every rank; the K responses to a query are adjacent."""

    rows: list[PromptRow]
    """(batch,) the prompt of each response"""
    responses: list[Response]
    """(batch,)"""

    @property
    def prompts(self) -> list[list[int]]:
        return [row.input_ids for row in self.rows]

    @property
    def tokens(self) -> list[list[int]]:
        return [response.tokens for response in self.responses]

    @property
    def ended(self) -> torch.Tensor:
        """(batch,) bool on the CPU, true if the response ends with the end token"""
        return torch.tensor([response.ended for response in self.responses])

    def contains_any(self, ids: frozenset[int]) -> torch.Tensor:
        """Return (batch,) bool on the CPU, true if a response has one of `ids` before its last token."""
        return torch.tensor([not ids.isdisjoint(response.tokens[:-1]) for response in self.responses])

    @property
    def supports(self) -> list[list[array]] | None:
        """For each token of each response, the ids it was sampled from; None if they were not recorded."""
        found = [response.supports for response in self.responses if response.supports is not None]
        return None if len(found) < len(self.responses) else found

    @property
    def mask(self) -> torch.Tensor:
        """(batch, time) bool on the CPU, true at response tokens"""
        lengths = torch.tensor([len(response.tokens) for response in self.responses])
        return torch.arange(int(lengths.max())) < lengths[:, None]


@dataclass(frozen=True)
class RolloutSampler:
    """Sample the rollout of a step; its prompts and random numbers depend on (seed, step) only."""

    engine: Engine
    prompts: Sequence[PromptRow]
    seed: int
    queries_per_step: int
    responses_per_query: int
    record_supports: bool

    def queries(self, step: int) -> list[int]:
        """Return the prompt indices of `step`, which counts from 1."""
        return shuffled_positions(
            self.seed, len(self.prompts), (step - 1) * self.queries_per_step, self.queries_per_step
        )

    def query_ids(self, queries: Sequence[int]) -> list[int]:
        """Return a unique id for each query of a step, which selects its random numbers.

        The id is the index of the prompt. A prompt can occur again in a step if an epoch ends in it or there are fewer
        prompts than queries; its n-th repetition has n times the number of prompts added.
        """
        seen: Counter[int] = Counter()
        ids = []
        for query in queries:
            ids.append(query + seen[query] * len(self.prompts))
            seen[query] += 1
        return ids

    def sample(self, step: int) -> Rollout:
        """Sample y_k ~ π_θ(· | x), K responses to each query (collective: every rank must call it).

        Each rank generates for its share of the queries; all ranks get the whole rollout.
        """
        queries = self.queries(step)
        request = GenerationRequest(
            prompts=[self.prompts[q].input_ids for q in take_share(queries)],
            query_ids=take_share(self.query_ids(queries)),
            responses=self.responses_per_query,
            stream=RandomStream.of_step(self.seed, step),
            record_supports=self.record_supports,
        )
        groups = all_gather_items(self.engine.generate(request))
        rows = [row for q in queries for row in [self.prompts[q]] * self.responses_per_query]
        return Rollout(rows, [response for group in groups for response in group])
