"""Prompts that nothing is learnt from: what the policy's answers to them are worth, to the reward model and to gold.

Read-only: the numbers go into metrics.jsonl and into warnings, and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from transformers import PreTrainedTokenizerBase

from engine.data.prompt_rows import PromptRow
from engine.dist.collectives import all_gather_items, take_share
from engine.generation.engines import Engine
from engine.generation.sampling import Response
from engine.scoring.gold import Gold
from ppo.models import Models
from ppo.recipe import PPO

# A step that no update has, so that the same random numbers write the answers every time and those of no rollout.
STEP = 0


@dataclass(frozen=True)
class HeldOut:
    rows: Sequence[PromptRow]
    gold: Gold | None
    tokenizer: PreTrainedTokenizerBase

    def due(self, recipe: PPO, step: int) -> bool:
        """At the first step, at every `watch.every`-th, at the last."""
        return step in (1, recipe.ppo.steps) or step % recipe.watch.every == 0

    def measure(self, models: Models, engine: Engine, recipe: PPO) -> dict[str, float]:
        """Means over all held-out prompts, one answer each; of the score, over answers that have ended."""
        mine = take_share(range(len(self.rows)))
        rows = [self.rows[q] for q in mine]
        asked = [row.input_ids for row in rows]
        groups = engine.write(asked, responses=1, step=STEP, query_ids=mine, record=False)
        answers = [answer for (answer,) in groups]
        ended = [(row, answer) for row, answer in zip(rows, answers, strict=True) if answer.ended]
        sequences = [[*row.input_ids, *answer.tokens] for row, answer in ended]
        records = [row.record for row, _ in ended]
        with models.fetched():
            scores = models.scorer(sequences, records, recipe.ppo.micro_batch_tokens)
        told = iter(scores.tolist())
        known = all_gather_items([next(told) if answer.ended else None for answer in answers])
        found = [score for score in known if score is not None]
        seen = {"heldout_score": fmean(found) if found else float("nan")}
        if self.gold is not None:
            worth = all_gather_items([self.worth(row, answer) for row, answer in zip(rows, answers, strict=True)])
            seen |= {"heldout_gold": fmean(worth), "heldout_gold_error": pstdev(worth) / len(worth) ** 0.5}
        return seen

    def worth(self, row: PromptRow, answer: Response) -> float:
        """Gold of one answer."""
        text = self.tokenizer.decode(answer.tokens[:-1] if answer.ended else answer.tokens)
        return self.gold(row.record, text)["gold"]
