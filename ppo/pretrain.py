"""Pretraining text beside the rollouts: the "pretrained gradient" against the alignment tax (report, 3.2.2).

The report wants much more pretraining data than PPO data; the ratio is tokens to tokens, and the rows come from an
endless shuffled stream whose position is saved with the run.
"""

from collections.abc import Sequence
from typing import Any

import torch

from engine.data.order import stream
from engine.dist.collectives import take_share
from engine.forward.responses import micro_batches


class PretrainStream:
    """Rows of pretraining text in an order that is a function of seed and position."""

    def __init__(self, rows: Sequence[dict[str, Any]], seed: int, ratio: float):
        self.rows, self.seed, self.ratio, self.position = rows, seed, ratio, 0

    def take(self, tokens: int, budget: int) -> list[tuple[list[list[int]], int]]:
        """This process's next micro-batches, each with the global number of predicted tokens.

        All processes together take rows until they hold `ratio` times the `tokens` of a PPO minibatch.
        """
        rows: list[list[int]] = []
        predicted = 0
        while predicted < self.ratio * tokens:
            (index,) = stream(self.seed, len(self.rows), self.position, 1)
            rows.append(self.rows[index]["input_ids"])
            predicted += len(rows[-1]) - 1
            self.position += 1
        mine = take_share(rows)
        return [(mine[run], predicted) for run in micro_batches([len(row) for row in mine], budget)]

    def state_dict(self) -> dict[str, Any]:
        return {"position": torch.tensor(self.position)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = int(state["position"])
