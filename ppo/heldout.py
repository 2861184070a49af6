"""Held-out evaluation during PPO: scores of the policy's responses to prompts that are never trained on.

The metrics go into metrics.jsonl, feed the warnings, and can select the best checkpoint (`watch.keep_best`). Held-out
sampling has a random stream of its own: every measurement uses the same random numbers, and rollouts are not affected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

import torch
from transformers import PreTrainedTokenizerBase

from engine.data.prompt_rows import PromptRow
from engine.dist.collectives import all_gather_items, take_share
from engine.generation.engines import Engine
from engine.generation.request import GenerationRequest, Response
from engine.generation.streams import RandomStream
from engine.models.tokenizer import decode
from engine.scoring.gold import Gold
from ppo.models import Models
from ppo.reward_mix import RewardMix


@dataclass(frozen=True)
class HeldOut:
    rows: Sequence[PromptRow]
    gold: Gold | None
    tokenizer: PreTrainedTokenizerBase
    seed: int

    def measure(self, models: Models, engine: Engine, mix: RewardMix, budget: int) -> dict[str, float]:
        """Generate one response per prompt and return the metrics (collective: every rank must call it).

        `heldout_score`, and `heldout_score_NAME` of each part of a mix, are means over responses with an end token, NaN
        if there is none. `heldout_gold` is a mean over all responses, `heldout_gold_error` its standard error; both are
        absent without a gold scorer. A forward pass has at most `budget` tokens.
        """
        share = take_share(range(len(self.rows)))
        rows = [self.rows[q] for q in share]
        request = GenerationRequest(
            prompts=[row.input_ids for row in rows],
            query_ids=share,
            responses=1,
            stream=RandomStream.named(self.seed, "heldout"),
        )
        responses = [response for (response,) in engine.generate(request)]
        finished = [(row, response) for row, response in zip(rows, responses, strict=True) if response.ended]
        sequences = [[*row.input_ids, *response.tokens] for row, response in finished]
        with models.frozen_on_device():
            starts = [len(row.input_ids) for row, _ in finished]
            scores = models.score(sequences, starts, [row.record for row, _ in finished], budget)
        of_finished = iter(zip(*(of_part.tolist() for of_part in scores.values()), strict=True))
        gathered = all_gather_items([next(of_finished) if response.ended else None for response in responses])
        known = torch.tensor([of_parts for of_parts in gathered if of_parts is not None], dtype=torch.float64)
        by_part = dict(zip(scores, known.view(-1, len(scores)).unbind(1), strict=True))
        metrics = {"heldout_score": mean_or_nan(mix.comparable(by_part))}
        metrics |= {f"heldout_score_{name}": mean_or_nan(of_part) for name, of_part in by_part.items() if name}
        if self.gold is not None:
            totals = all_gather_items([self.gold_total(*pair) for pair in zip(rows, responses, strict=True)])
            metrics["heldout_gold"] = fmean(totals)
            metrics["heldout_gold_error"] = pstdev(totals) / len(totals) ** 0.5
        return metrics

    def gold_total(self, row: PromptRow, response: Response) -> float:
        """Return the gold score of one response, the sum of its parts."""
        assert self.gold is not None
        text = decode(self.tokenizer, response.tokens[:-1] if response.ended else response.tokens)
        return self.gold(row.record, text).total


def mean_or_nan(scores: torch.Tensor) -> float:
    """Return the mean of (n,) scores; NaN if n is 0."""
    return fmean(scores.tolist()) if len(scores) else float("nan")
