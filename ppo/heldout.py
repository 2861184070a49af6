"""Prompts that nothing is learnt from: what the policy's answers to them are worth, to the reward model and to gold.

Read-only: the numbers go into metrics.jsonl and into warnings, and nowhere else.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from engine.models.sampling import Response
from engine.run.gold import Gold
from ppo.models import Models
from ppo.recipe import PPO
from ppo.rollout import answers_to

# A step that no update has, so that the same random numbers write the answers every time and those of no rollout.
STEP = 0


@dataclass(frozen=True)
class HeldOut:
    rows: Sequence[dict[str, Any]]
    gold: Gold | None
    tokenizer: PreTrainedTokenizerBase
    end: int

    def due(self, recipe: PPO, step: int) -> bool:
        """At the first step, at every `watch.every`-th, at the last."""
        return step in (1, recipe.ppo.steps) or step % recipe.watch.every == 0

    def measure(self, models: Models, recipe: PPO, accelerator: Accelerator) -> dict[str, float]:
        """Means over all held-out prompts, one answer each; of the score, over answers that have ended."""
        mine = list(range(len(self.rows)))[accelerator.process_index :: accelerator.num_processes]
        rows = [self.rows[q] for q in mine]
        groups = answers_to(models, recipe, self.rows, mine, STEP, self.end, accelerator, responses=1)
        answers = [answer for (answer,) in groups]
        ended = [[*row["input_ids"], *a.tokens] for row, a in zip(rows, answers, strict=True) if a.ended]
        scores = models.scores(ended, recipe.ppo.micro_batch_tokens).double()
        worth = [self.worth(row, answer) for row, answer in zip(rows, answers, strict=True)] if self.gold else []
        gold = torch.tensor(worth, dtype=torch.float64, device=scores.device)
        count = torch.tensor(float(len(ended)), dtype=torch.float64, device=scores.device)
        ended_count, score, total, squares = accelerator.reduce(
            torch.stack([count, scores.sum(), gold.sum(), (gold**2).sum()]), "sum"
        ).tolist()
        seen = {"heldout_score": score / ended_count if ended_count else float("nan")}
        if self.gold is not None:
            mean = total / len(self.rows)
            variance = max(squares / len(self.rows) - mean**2, 0.0)
            seen |= {"heldout_gold": mean, "heldout_gold_error": (variance / len(self.rows)) ** 0.5}
        return seen

    def worth(self, row: dict[str, Any], answer: Response) -> float:
        """Gold of one answer."""
        text = self.tokenizer.decode(answer.tokens[:-1] if answer.ended else answer.tokens)
        return self.gold(json.loads(row["record"]), text)["gold"]
